"""The worker's own append-only file: what it opened and what it closed, written before anything else happens.

A write is one system call and survives the death of the process; the operating system flushes it to disk
once a second. Each line carries a CRC, so that a torn last line is seen and left out. A file is kept
until the ledger has passed everything in it; the file of a dead worker is replayed by a living one.

    s <request id> <crc32> <open record>
    e <request id> <crc32> <closed record>
"""

import fcntl
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SEGMENT_BYTES = 32 * 1024 * 1024
SEGMENT_S = 60.0


@dataclass(frozen=True, slots=True)
class Entry:
    kind: Literal["s", "e"]
    request_id: str
    record: bytes


class Journal:
    """Append-only segments of one living worker; its lock on each file says that it is alive."""

    def __init__(self, folder: Path, worker: str) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._worker = worker
        self._number = 0
        self._closed: list[tuple[float, Path, int]] = []  # (closed at, path, locked fd)
        self._fd, self._path = self._new_segment()
        self._size = 0
        self._opened_at = time.time()

    def opened(self, request_id: str, record: bytes) -> None:
        self._append(b"s", request_id, record)

    def closed(self, request_id: str, record: bytes) -> None:
        self._append(b"e", request_id, record)

    def _append(self, kind: bytes, request_id: str, record: bytes) -> None:
        line = b"%b %b %08x %b\n" % (kind, request_id.encode(), zlib.crc32(record), record)
        os.write(self._fd, line)
        self._size += len(line)

    def flush(self) -> None:
        """To the disk itself. Takes milliseconds: not for the event loop's thread."""
        os.fdatasync(self._fd)

    def housekeep(self, *, now: float, ledger_passed: float | None) -> None:
        """Rotate a full or old segment; drop closed ones that the ledger has passed.

        `ledger_passed`: every record put on the stream before this instant is in PostgreSQL.
        """
        if self._size and (self._size > SEGMENT_BYTES or now - self._opened_at > SEGMENT_S):
            self._closed.append((now, self._path, self._fd))
            self._fd, self._path = self._new_segment()
            self._size, self._opened_at = 0, now
        while self._closed and ledger_passed is not None and self._closed[0][0] < ledger_passed:
            _, path, fd = self._closed.pop(0)
            path.unlink()
            os.close(fd)

    def retained(self) -> Iterator[Entry]:
        """Every entry the ledger may not have seen yet, oldest first."""
        for path in [path for _, path, _ in self._closed] + [self._path]:
            yield from read(path)

    def finish(self, *, everything_settled: bool) -> None:
        """At an orderly stop: without anything pending the files have done their work."""
        for path, fd in [(path, fd) for _, path, fd in self._closed] + [(self._path, self._fd)]:
            if everything_settled:
                path.unlink()
            os.close(fd)

    def _new_segment(self) -> tuple[int, Path]:
        self._number += 1
        path = self._folder / f"{self._worker}-{self._number:06}.log"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        return fd, path


def read(path: Path) -> Iterator[Entry]:
    """The whole entries of one file; a torn or damaged line is skipped."""
    with path.open("rb") as file:
        for line in file:
            parts = line.removesuffix(b"\n").split(b" ", 3)
            if len(parts) != 4 or parts[0] not in (b"s", b"e") or not line.endswith(b"\n"):
                continue
            if f"{zlib.crc32(parts[3]):08x}".encode() != parts[2]:
                continue
            yield Entry("s" if parts[0] == b"s" else "e", parts[1].decode(), parts[3])


def abandoned(folder: Path) -> Iterator[tuple[Path, int]]:
    """Files whose worker is dead, each with a locked descriptor that keeps others from replaying it too."""
    for path in sorted(folder.glob("*.log")):
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue  # its owner was quicker
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        if path.exists():
            yield path, fd
        else:
            os.close(fd)
