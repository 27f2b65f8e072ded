"""Child processes that end when their parent does: start one, follow its output, stop it in bounded time.

Used by the embedded services and the supervisor. Must never leave a child behind, and never know what
the child is for. No Django in here: it runs before the settings can load.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_TAIL_LINES = 20

# Loaded here, before any fork: the child of a threaded parent must not load libraries.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

type LineSink = Callable[[str, str], None]
"""Takes the child's name and one line of its output, without the line end."""


def ignore_line(_name: str, _line: str) -> None:
    """Drop the line; the child keeps its last lines for error messages anyway."""


def die_with_parent(*, parent_pid: int, death_signal: signal.Signals) -> None:
    """Ask the kernel for `death_signal` when the parent dies. Runs in the child, after any change of user
    (which clears the request, see prctl(2)). Linux only; elsewhere the next start meets the leftovers.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent_pid:  # the parent died between fork and prctl
            os._exit(1)


class Child:
    """One program, restartable, in its own session so that a terminal's Ctrl-C reaches only the parent.

    Start it from the main thread: the kernel counts the death of the *thread* that forked as the parent's.
    """

    def __init__(
        self,
        *,
        name: str,
        argv: Sequence[str | Path],
        stop_timeout_s: float,
        stop_signal: signal.Signals = signal.SIGTERM,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        become: Callable[[], None] | None = None,
        on_line: LineSink = ignore_line,
    ) -> None:
        self.name = name
        self.argv = [str(word) for word in argv]
        self.stop_signal = stop_signal
        self.stop_timeout_s = stop_timeout_s
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._env = env
        self._cwd = cwd
        self._become = become
        self._on_line = on_line
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the program. Raises OSError or subprocess.SubprocessError when it cannot be executed."""
        parent_pid = os.getpid()

        def before_exec() -> None:
            if self._become is not None:
                self._become()
            die_with_parent(parent_pid=parent_pid, death_signal=self.stop_signal)

        self.tail.clear()
        self._process = subprocess.Popen(  # noqa: S603 - the programs are our own and the operator's
            self.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=None if self._env is None else dict(self._env),
            cwd=self._cwd,
            start_new_session=True,
            preexec_fn=before_exec,  # noqa: PLW1509 - only system calls happen in it
        )
        self._reader = threading.Thread(
            target=self._follow, args=(self._process,), name=f"output of {self.name}", daemon=True
        )
        self._reader.start()

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs. RuntimeError if never started."""
        if self._process is None:
            msg = f"{self.name} was not started"
            raise RuntimeError(msg)
        return self._process.poll()

    def stop(self, *, at_once: Callable[[], bool] = lambda: False) -> int | None:
        """Send the stop signal, wait `stop_timeout_s`, then kill the whole session. Returns the exit status,
        None if it was never started. `at_once` is asked while waiting: True ends the patience.
        """
        process = self._process
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(self.stop_signal)
            self._wait(process, at_once=at_once)
        self.kill_session()
        return process.wait()

    def kill_session(self) -> None:
        """SIGKILL whatever still runs in the child's session: a dead leader leaves its workers behind."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):  # gone, or only zombies (macOS)
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if self._reader is not None:
            self._reader.join(timeout=2)

    def _wait(self, process: subprocess.Popen[bytes], *, at_once: Callable[[], bool]) -> None:
        step_s = 0.1
        for _ in range(max(1, round(self.stop_timeout_s / step_s))):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=step_s)
                return
            if at_once():
                return

    def _follow(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is None:
            return
        with process.stdout as output:
            for raw in output:
                line = raw.decode("utf-8", "replace").rstrip("\r\n")
                self.tail.append(line)
                self._on_line(self.name, line)
