"""What workers tell each other about the providers through Redis: the words of beat.lua, and nothing else. Pure.

One beat is one script call. It carries only what changed since the last one, and is safe to send again.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal

import orjson

from routing.health.breaker import Breaker
from routing.health.histogram import Tally

SCRIPT: Final = (Path(__file__).parent / "beat.lua").read_text()

PREFIX: Final = "th:health:"
EVENTS, NAMES, USED, CHECKED, TOTALS = (
    f"{PREFIX}{name}" for name in ("events", "names", "used", "checked", "totals")
)

SECOND_TTL_S: Final = 60
SLOT_TTL_S: Final = 2 * 3600
MINUTE_TTL_S: Final = 2 * 3600

SLOT_S: Final = 10
MINUTE_S: Final = 60

type Ask = tuple[Literal["want", "use", "free"], int]
"""What a worker asks about an endpoint's probe permit, and for how many milliseconds."""


def second_key(second: int) -> str:
    return f"1:{second}"


def slot_key(slot: int) -> str:
    return f"10:{slot}"


def minute_key(minute: int) -> str:
    return f"60:{minute}"


@dataclass(frozen=True, slots=True)
class Mark:
    """A credential that its provider refuses: since when, how often it was tried, and until when it rests."""

    provider: str
    credential_id: str
    status: int  # HTTP
    count: int
    since: float
    until: float


@dataclass(slots=True)
class News:
    """What one worker has seen and decided and not yet been heard about."""

    seconds: dict[int, dict[str, Counter[str]]] = field(default_factory=lambda: defaultdict(dict))
    slots: dict[int, dict[str, Counter[str]]] = field(default_factory=lambda: defaultdict(dict))
    minutes: dict[int, dict[str, Counter[str]]] = field(default_factory=lambda: defaultdict(dict))
    totals: Counter[str] = field(default_factory=Counter)
    runs: dict[str, tuple[bool, int]] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    circuits: dict[str, Breaker] = field(default_factory=dict)
    pauses: dict[str, float] = field(default_factory=dict)  # 0: lifted
    marks: dict[str, Mark | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(
            self.seconds or self.slots or self.minutes or self.circuits or self.pauses or self.marks
        ) or bool(self.runs or self.used)

    def add(self, level: dict[int, dict[str, Counter[str]]], number: int, owner: str, tally: Tally) -> None:
        held = level[number].get(owner)
        if held is None:
            level[number][owner] = Counter(tally)
        else:
            held.update(tally)

    def add_run(self, endpoint_id: str, had_success: bool, failures: int) -> None:
        """`failures` in a row at the end; before them a success, or only failures."""
        was_success, before = self.runs.get(endpoint_id, (False, 0))
        self.runs[endpoint_id] = (True, failures) if had_success else (was_success, before + failures)

    def forget(self, *, seconds: int, slots: int, minutes: int) -> None:
        """Drop what is older than these: what nobody asks for any more need not be sent."""
        for level, oldest in ((self.seconds, seconds), (self.slots, slots), (self.minutes, minutes)):
            for number in [number for number in level if number < oldest]:
                del level[number]

    def encoded(self) -> bytes:
        counts: list[tuple[str, int, Mapping[str, int]]] = [
            (second_key(number), SECOND_TTL_S, _flat(owners)) for number, owners in self.seconds.items()
        ]
        counts += [(slot_key(number), SLOT_TTL_S, _flat(owners)) for number, owners in self.slots.items()]
        counts += [
            (minute_key(number), MINUTE_TTL_S, _flat(owners)) for number, owners in self.minutes.items()
        ]
        if self.totals:
            counts.append(("totals", 0, self.totals))
        return orjson.dumps(
            {
                "counts": counts,
                "runs": {name: (int(success), run) for name, (success, run) in self.runs.items()},
                "used": self.used,
                "names": self.names,
                "circuits": {name: encode_breaker(breaker) for name, breaker in self.circuits.items()},
                "pauses": {name: f"{until:.3f}" if until else "0" for name, until in self.pauses.items()},
                "marks": {
                    name: orjson.dumps(asdict(mark)).decode() if mark else ""
                    for name, mark in self.marks.items()
                },
            }
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """The shared picture, as far as it was asked for. `circuits` is None where nothing has changed."""

    now: float
    version: str
    circuits: Mapping[str, Breaker] | None
    runs: Mapping[str, int]
    pauses: Mapping[str, float]
    marks: Mapping[str, Mark]
    granted: frozenset[str]
    counts: Sequence[Mapping[str, Counter[str]]]


def decode_reply(raw: Sequence[Any]) -> Reply:
    """beat.lua's answer, in bytes."""
    seconds, micros, version, circuits, runs, pauses, marks, granted, counts = raw
    return Reply(
        now=seconds + micros / 1e6,
        version=version.decode(),
        circuits=None
        if circuits is None
        else {name.decode(): decode_breaker(text) for name, text in _pairs(circuits)},
        runs={name.decode(): int(run) for name, run in _pairs(runs)},
        pauses={name.decode(): float(until) for name, until in _pairs(pauses)},
        marks={name.decode(): _made(Mark, text) for name, text in _pairs(marks)},
        granted=frozenset(name.decode() for name in granted),
        counts=[tallies_of(_pairs(flat)) for flat in counts],
    )


def tallies_of(counted: Iterable[tuple[bytes, bytes]]) -> dict[str, Counter[str]]:
    """A hash of `code owner` fields, as owner -> tally."""
    owners: dict[str, Counter[str]] = {}
    for name, count in counted:
        code, _, owner = name.decode().partition(" ")
        held = owners.get(owner)
        if held is None:
            held = owners[owner] = Counter()
        held[code] = int(count)
    return owners


def encode_breaker(breaker: Breaker) -> str:
    return orjson.dumps(asdict(breaker)).decode()


def decode_breaker(text: bytes) -> Breaker:
    return _made(Breaker, text)


def _made[T: (Breaker, Mark)](kind: type[T], text: bytes) -> T:
    """What a worker of another version added is left out: during an upgrade both share one Redis."""
    names = {each.name for each in fields(kind)}
    return kind(**{name: value for name, value in orjson.loads(text).items() if name in names})


def _flat(owners: Mapping[str, Counter[str]]) -> dict[str, int]:
    return {f"{code} {owner}": count for owner, tally in owners.items() for code, count in tally.items()}


def _pairs(flat: Sequence[bytes]) -> "zip[tuple[bytes, bytes]]":
    return zip(flat[::2], flat[1::2], strict=True)
