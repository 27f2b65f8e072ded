"""One call and what became of it: the object that every step of the pipeline reads and fills in."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

from billing.snapshot import BudgetEntry, Terms
from billing.usage.records import Kind
from gateway.pipeline.course import Course
from gateway.privacy.snapshot import CallRules
from gateway.state.limits import Admission
from gateway.state.pace import Slot
from routing.policies.preferences import Preferences
from routing.types import Json, Operation, RoutePlan, Target, Usage
from tenants.snapshot import KeyEntry, TenantEntry


class Status(StrEnum):
    """How an attempt ended."""

    OK = "ok"
    ERROR = "error"
    CUT = "cut"  # the stream broke after content was shown
    CANCELLED = "cancelled"  # the client left
    UNKNOWN = "unknown"  # the worker died


@dataclass(slots=True)
class Attempt:
    """One try at one target."""

    number: int
    target: Target
    started_s: float  # monotonic
    status: Status = Status.UNKNOWN
    http_status: int = 0
    error_type: str = ""
    usage: Usage | None = None
    cost_pico: int | None = 0
    cost_components: dict[str, int] | None = None
    latency_ms: int = 0
    first_byte_ms: int | None = None
    retry_after_s: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # the reply's, names in lower case
    is_hedge: bool = False  # sent while another attempt was still silent
    slot: Slot | None = field(default=None, repr=False)  # its place in the provider's rate limit


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, under which terms, on the configuration that was in force when the call began."""

    key: KeyEntry
    tenant: TenantEntry
    terms: Terms


@dataclass(frozen=True, slots=True)
class Throttle:
    """A budget that is used up, and what became of the call: another way, or (no more than) a rate."""

    entry: BudgetEntry
    rpm: int | None  # requests per minute of all calls it slows; None where the call goes another way


@dataclass(slots=True)
class Kept:
    """The answer as the provider gave it, to be stored: up to `room_bytes`, and the size of all of it."""

    room_bytes: int
    pieces: list[bytes] = field(default_factory=list, repr=False)
    size_bytes: int = 0

    def add(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            if self.size_bytes <= self.room_bytes:
                self.pieces.append(piece)
            self.size_bytes += len(piece)


@dataclass(frozen=True, slots=True)
class Given:
    """What the caller sent, in clear: where redaction begins. Never recorded, never sent."""

    body: Json = field(repr=False)
    feature: str = field(repr=False)
    end_user: str = field(repr=False)
    tags: Mapping[str, str] = field(repr=False)


@dataclass(slots=True)
class Protection:
    """The privacy rules a call is under, and what they did. Of this, counts and flags alone are recorded."""

    rules: CallRules
    given: Given
    policies: frozenset[str]  # that it went by, for rules are bound to policies too
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)  # what each stands for
    counts: Mapping[str, int] = field(default_factory=dict)  # findings by kind
    unscanned: int = 0  # pictures, sounds, files: nobody looked into them
    flags: list[dict[str, str]] = field(default_factory=list)  # guardrails that had something to say

    def flag(self, guardrail: str, stage: str, wrong: str) -> None:
        self.flags.append({"guardrail": guardrail, "stage": stage, "wrong": wrong})


@dataclass(slots=True)
class Call:
    """A checked request. The edge makes it; the pipeline fills in the lower half."""

    id: UUID
    id_text: str
    occurred_at: float  # unix seconds, exactly the time in the id
    started_s: float  # monotonic
    operation: Operation
    request_model: str
    body: Json = field(repr=False)
    is_stream: bool
    include_usage: bool
    output_limit: int | None  # the caller's ceiling for the output tokens of one choice
    input_bytes: int  # size of the text that the provider will count, an upper bound for input tokens
    capabilities: frozenset[str]
    service_tier: str
    feature: str
    tags: Mapping[str, str]
    end_user: str
    timeout_s: float
    traceparent: str = ""  # the caller's own trace (W3C), or ""
    preferences: Preferences | None = None  # the body's `provider` object
    kind: Kind = (
        "usage"  # "shadow" and "eval" are calls of our own: cost without a price, in no tenant's view
    )

    caller: Caller | None = None
    plan: RoutePlan | None = None
    privacy: Protection | None = None  # None: no rules apply
    course: Course | None = None  # what may still be tried
    admission: Admission | None = None
    worst_costs: dict[tuple[str, int, int | None], int | None] = field(default_factory=dict)  # see admit
    throttled: list[Throttle] = field(default_factory=list)
    output_cap: int | None = None  # output tokens a hard budget has reserved, where the caller set no limit
    attempts: list[Attempt] = field(default_factory=list)
    price_pico: int | None = 0
    status: int = 0  # HTTP, 499 when the client left
    error_code: str = ""
    error_message: str = ""
    finish_reason: str = ""
    response_model: str = ""
    ended_s: float = 0.0  # monotonic
    is_recorded: bool = False
    skipped: list[dict[str, Any]] = field(default_factory=list)  # targets that could not express the request
    heard: list[bytes] | None = field(default=None, repr=False)
    """The answer as the client gets it, one body or the chunks; collected only while the call is mirrored."""
    kept: Kept | None = None  # collects the answer where the tenant has its content stored
    after: Callable[[], None] | None = field(default=None, repr=False)  # called once the call is recorded
    sample: dict[str, Any] | None = None  # of a shadow: what is measured, beside what it mirrors
