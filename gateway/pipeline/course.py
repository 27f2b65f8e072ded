"""Which target a call goes to next, and after what wait: the state machine between two attempts. Pure.

It counts and orders, nothing else: whoever drives it sends, waits, and passes the clock and the draw.

    ahead ──next──▶ under way ──answered──▶ done
      ▲                 │
      │◀── again, now ──┤  500, reset (once) · a short Retry-After
      │◀── again, last ─┤  every other fault that may pass
      │                 ├─▶ silent   not tried again, unless several are left and all were silent
      └─────────────────┴─▶ out      its key, its model or its context is at fault
"""

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from routing.types import Disposition, ErrorKind, ProviderError, Target, UnsupportedParameter

RETRY_AFTER_S = 2.5
"""A Retry-After up to here is waited out before failing over: the provider says when it will be ready, and a
person at the other end still waits that long. Once per target."""
LAST_RETRY_AFTER_S = 5.0
"""A Retry-After up to here is waited out where no other target is left."""
TRIES_PER_TARGET = 4
MAX_POSTPONED = 8
BACKOFF_S = 0.1
MAX_BACKOFF_S = 2.0
CREDENTIAL_FAULTS = frozenset((ErrorKind.RATE_LIMITED, ErrorKind.CREDENTIAL))
"""Faults of the key and not of the endpoint: another key for the same endpoint may do at once."""
FINAL = frozenset((ErrorKind.CREDENTIAL, ErrorKind.MODEL_NOT_FOUND, ErrorKind.CONTEXT_LENGTH))
"""Faults that another try at the same target can only repeat."""

LASTING_CONNECTIONS = frozenset(("dns", "tls", "tls_verify", "not_allowed"))
"""Connections that would fail the same way a moment later (ProviderError.code of a failed connection)."""

type Route = tuple[str, str]
"""Endpoint and credential: what is tried, and may be tried again."""


def route_of(target: Target) -> Route:
    return target.endpoint_id, target.credential_id


class Step(NamedTuple):
    """One attempt to make, after `wait_s`. `is_retry`: this very target has failed this call before."""

    target: Target
    wait_s: float = 0.0
    is_retry: bool = False


def _may_pass_at_once(error: ProviderError) -> bool:
    """Whether the same target is worth another try before any other."""
    return error.disposition is Disposition.RETRY_SAME and error.code not in LASTING_CONNECTIONS


class Course:
    """One call's way through its targets. Times are monotonic seconds."""

    __slots__ = (
        "_ahead",
        "_not_before_s",
        "_postponed",
        "_silent",
        "_tries",
        "attempts_left",
        "deadline_s",
        "ready_in_s",
        "unsupported",
    )

    def __init__(self, targets: Iterable[Target], *, max_attempts: int, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self.attempts_left = max_attempts
        self.ready_in_s: float | None = None
        """The shortest wait asked for by a target that was at its limit; for whoever must be told to wait."""
        self.unsupported: UnsupportedParameter | None = None
        """What the last target that was refused for it cannot express."""
        self._ahead = deque(targets)
        self._tries: dict[Route, int] = {}
        self._not_before_s: dict[Route, float] = {}
        self._postponed: dict[Route, int] = {}
        self._silent: list[Target] = []

    def next(self, now_s: float) -> Step | None:
        """The next attempt to make; None when attempts, time or targets have run out."""
        if not self._ahead:
            self._go_round_the_silent()
        while self.attempts_left and self._ahead:
            target = self._ahead.popleft()
            route = route_of(target)
            tries = self._tries.get(route, 0)
            wait_s = max(0.0, self._not_before_s.get(route, 0.0) - now_s)
            if now_s + wait_s >= self.deadline_s:
                continue
            self.attempts_left -= 1
            self._tries[route] = tries + 1
            return Step(target, wait_s, is_retry=tries > 0)
        return None

    def rival(self, step: Step) -> Target | None:
        """Whom to ask while `step` is silent: a target not tried yet, at another endpoint."""
        if not self.attempts_left:
            return None
        return next((each for each in self._ahead if self._is_other(each, step.target)), None)

    def take(self, target: Target) -> Step:
        """Use up a target out of turn."""
        self._ahead.remove(target)
        self._tries[route_of(target)] = 1
        self.attempts_left -= 1
        return Step(target)

    def has_other(self, target: Target) -> bool:
        """Whether another target could be asked, so that this one need not be waited for to the end."""
        if not (self._ahead and self.attempts_left > 0):
            return False
        return any(self._is_other(each, target) for each in self._ahead)

    def failed(self, target: Target, error: ProviderError, *, now_s: float, draw: float) -> None:
        """An attempt at `target` failed: put it where it belongs. `draw` is uniform in [0, 1)."""
        kind = error.kind
        tries = self._tries.get(route_of(target), 1)
        has_sibling = self._move_siblings(target, to_front=kind in CREDENTIAL_FAULTS)
        if kind in (ErrorKind.RATE_LIMITED, ErrorKind.OVERLOADED):
            self.told_to_wait(error.retry_after_s)
        if kind in FINAL or tries >= TRIES_PER_TARGET:
            return
        if kind is ErrorKind.TIMEOUT:
            self._silent.append(target)
            return
        wait_s = error.retry_after_s
        if wait_s is None:
            wait_s = BACKOFF_S / 2 + draw * min(MAX_BACKOFF_S, BACKOFF_S * 2 ** (tries - 1))
            is_next = tries == 1 and _may_pass_at_once(error)
        else:
            is_next = tries == 1 and wait_s <= RETRY_AFTER_S and not has_sibling
            if wait_s > LAST_RETRY_AFTER_S:
                return
            wait_s += draw * BACKOFF_S
        self._not_before_s[route_of(target)] = now_s + wait_s
        if is_next:
            self._ahead.appendleft(target)
        else:
            self._ahead.append(target)

    def refused(self, unsupported: UnsupportedParameter) -> None:
        """Nothing was sent: the target cannot express the request. It is out."""
        self.attempts_left += 1
        self.unsupported = unsupported

    def postponed(self, target: Target, wait_s: float, *, now_s: float) -> None:
        """Nothing was sent: there is no room for it now, but there may be after `wait_s`. The target comes last."""
        route = route_of(target)
        self.attempts_left += 1
        self._tries[route] -= 1
        times = self._postponed[route] = self._postponed.get(route, 0) + 1
        if wait_s <= LAST_RETRY_AFTER_S and times <= MAX_POSTPONED:
            self._not_before_s[route] = now_s + wait_s
            self._ahead.append(target)

    def otherwise(self, target: Target) -> None:
        """The same target may take another form of the request: next, without a wait."""
        self._ahead.appendleft(target)

    def told_to_wait(self, wait_s: float | None) -> None:
        """A target is at its limit and has said, or not, how long that will last."""
        if wait_s is not None:
            self.ready_in_s = wait_s if self.ready_in_s is None else min(self.ready_in_s, wait_s)

    def _is_other(self, each: Target, target: Target) -> bool:
        return each.endpoint_id != target.endpoint_id and not self._tries.get(route_of(each))

    def _move_siblings(self, target: Target, *, to_front: bool) -> bool:
        """Other credentials of the same endpoint go to the front or to the back. True if there are any."""
        siblings = [each for each in self._ahead if each.endpoint_id == target.endpoint_id]
        if siblings:
            others = [each for each in self._ahead if each.endpoint_id != target.endpoint_id]
            self._ahead = deque(siblings + others if to_front else others + siblings)
        return bool(siblings)

    def _go_round_the_silent(self) -> None:
        """A silent target is not tried twice, unless all that is left are several that were silent."""
        if len(self._silent) > 1:
            self._ahead.extend(self._silent)
            self._silent.clear()
