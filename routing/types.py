"""The words in which routing decides: targets, usage, provider requests, replies and errors.

Plain data only. Nothing here may import Django, touch a network, a clock or a random source.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from routing.catalog.cost import RateCard

type Json = dict[str, Any]
type Headers = Mapping[str, str]
"""Reply headers; names in lower case."""


class Operation(StrEnum):
    """What a call asks for; the value is also the model capability that serves it."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    MODERATIONS = "moderations"
    RERANK = "rerank"


TEXTLESS = frozenset((Operation.EMBEDDINGS, Operation.MODERATIONS, Operation.RERANK))
"""Operations that write no text: no output tokens, no streams, nothing to compare, judge or parametrise."""

PRICED_BY: Mapping[Operation, str] = {Operation.MODERATIONS: "requests", Operation.RERANK: "searches"}
"""Operations that are not metered in tokens, and the one price component that is. See `providers.media`."""


class ProviderKind(StrEnum):
    """The wire dialects we speak upstream."""

    OPENAI = "openai"
    OPENAI_COMPATIBLE = "openai_compatible"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"
    AZURE_OPENAI = "azure_openai"
    MISTRAL = "mistral"
    COHERE = "cohere"
    SANDBOX = "sandbox"


# ------------------------------------------------------------------ usage

INPUT_COMPONENTS = ("input", "cache_read", "cache_write", "cache_write_1h", "input_audio", "input_image")
OUTPUT_COMPONENTS = ("output", "reasoning", "output_audio", "output_image")

_INPUT, _OUTPUT = frozenset(INPUT_COMPONENTS), frozenset(OUTPUT_COMPONENTS)
_TOKENS = _INPUT | _OUTPUT

type UsageSource = Literal["provider", "estimated", "unknown"]


@dataclass(frozen=True, slots=True)
class Usage:
    """The physical units of one attempt, disjoint: each token stands in exactly one component.

    `units` maps a price component to a count >= 0; zero counts are absent. `output` excludes
    `reasoning`, `input` excludes every cache, audio and image part (rule R3 in its exclusive form).
    `source` tells who counted: the provider, our own estimate from the bytes delivered, or nobody.
    """

    units: Mapping[str, int]
    source: UsageSource = "provider"

    @property
    def input_tokens(self) -> int:
        """All input tokens: plain, cached, audio and image parts together."""
        return sum([count for name, count in self.units.items() if name in _INPUT])

    @property
    def output_tokens(self) -> int:
        """All output tokens: visible, reasoning, audio and image parts together."""
        return sum([count for name, count in self.units.items() if name in _OUTPUT])

    @property
    def tokens(self) -> int:
        """All tokens, input and output."""
        return sum([count for name, count in self.units.items() if name in _TOKENS])


class UsageInvalid(ValueError):
    """The provider's counts contradict themselves (negative, or parts larger than the whole)."""


# ------------------------------------------------------------------ errors


class ErrorKind(StrEnum):
    """Why an attempt failed, in the provider-neutral taxonomy the router acts on."""

    RATE_LIMITED = "rate_limited"  # 429: pause this credential until retry_after_s
    OVERLOADED = "overloaded"  # 503, 529
    SERVER_ERROR = "server_error"  # other 5xx
    TIMEOUT = "timeout"  # no first byte, or a stall, within our limits
    CONNECTION = "connection"  # refused, reset, TLS, DNS
    INVALID_RESPONSE = "invalid_response"  # 200 that is not the promised shape, or a cut body
    CREDENTIAL = "credential"  # 401, 403, exhausted account: our key is at fault
    MODEL_NOT_FOUND = "model_not_found"  # the provider does not serve this model
    CONTEXT_LENGTH = "context_length"  # too long for this model
    CONTENT_POLICY = "content_policy"  # refused for what it says; never sent elsewhere
    INVALID_REQUEST = "invalid_request"  # the caller's fault everywhere


class Disposition(StrEnum):
    """What the router may do after an error."""

    RETRY_SAME = "retry_same"  # the same target may be tried again, then the next
    NEXT_TARGET = "next_target"  # only another target can help
    GIVE_UP = "give_up"  # the caller's own fault: answer it


DISPOSITIONS: Mapping[ErrorKind, Disposition] = {
    ErrorKind.RATE_LIMITED: Disposition.NEXT_TARGET,
    ErrorKind.OVERLOADED: Disposition.NEXT_TARGET,
    ErrorKind.SERVER_ERROR: Disposition.RETRY_SAME,
    ErrorKind.TIMEOUT: Disposition.NEXT_TARGET,
    ErrorKind.CONNECTION: Disposition.RETRY_SAME,
    ErrorKind.INVALID_RESPONSE: Disposition.NEXT_TARGET,
    ErrorKind.CREDENTIAL: Disposition.NEXT_TARGET,
    ErrorKind.MODEL_NOT_FOUND: Disposition.NEXT_TARGET,
    ErrorKind.CONTEXT_LENGTH: Disposition.NEXT_TARGET,
    ErrorKind.CONTENT_POLICY: Disposition.GIVE_UP,
    ErrorKind.INVALID_REQUEST: Disposition.GIVE_UP,
}


@dataclass(slots=True)
class ProviderError(Exception):
    """One attempt's failure. `message` is the provider's text, safe to show; `status` is 0 if none came."""

    kind: ErrorKind
    message: str
    status: int = 0
    code: str | None = None
    param: str | None = None
    retry_after_s: float | None = None

    @property
    def disposition(self) -> Disposition:
        return DISPOSITIONS[self.kind]


class UnsupportedParameter(ValueError):
    """The request asks for something this provider's API cannot express; `param` names it."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


# ------------------------------------------------------------------ targets


@dataclass(frozen=True, slots=True)
class Target:
    """One way to serve a model: a provider's endpoint with the credential to use there."""

    endpoint_id: str
    provider: str  # slug
    kind: ProviderKind
    provider_model: str  # the provider's own name (for Azure: the deployment)
    model: str  # our catalogue slug
    region: str
    base_url: str  # without a trailing slash
    credential_id: str
    api_key: str = field(repr=False)
    operations: frozenset[str]
    capabilities: frozenset[str]  # vision, tools, json_schema, audio, reasoning, logprobs ...
    context_window: int | None
    max_output_tokens: int | None
    weight: int
    rates: "RateCard" = field(repr=False)
    options: Mapping[str, str]  # dialect extras: azure api_version, anthropic version ...
    first_byte_timeout_s: float
    stall_timeout_s: float
    total_timeout_s: float
    quota_key: str = ""  # whose rate limits a call takes from: credential and provider model
    is_own: bool = False  # the credential is the tenant's own (BYO): the provider bills the tenant
    trains_on_data: bool | None = None  # None: the operator has not said, which counts as yes
    retention_days: int | None = None  # how long the provider keeps content; None: not said
    limit_rpm: int | None = None  # the provider's limit of this credential, where its headers do not tell
    limit_tpm: int | None = None
    needs_own: bool = False  # the operator has no credential here: served only with a tenant's own


# ------------------------------------------------------------------ the adapter contract


@dataclass(frozen=True, slots=True)
class WireRequest:
    """What goes upstream: an absolute URL, headers without Host and Content-Length, a JSON body."""

    url: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer in OpenAI's shape (JSON bytes), with the provider's usage in disjoint units."""

    body: bytes
    usage: Usage | None
    model: str  # what the provider says it served
    finish_reason: str | None = None
    usage_invalid: bool = False  # usage is None because the provider's counts contradict themselves


@dataclass(slots=True)
class StreamState:
    """What one upstream stream has told so far; `parse_event` writes it, the relay reads it."""

    model: str  # what the client asked for; adapters put the served model in chunks
    include_usage: bool  # the client asked for the usage chunk (stream_options)
    created: int  # unix seconds, for dialects that do not send one
    id: str = ""
    usage: Usage | None = None
    finish_reason: str | None = None
    done: bool = False  # the provider's own end mark was seen
    error: ProviderError | None = None  # an error event inside the stream
    content_events: int = 0  # events that carried something a client would show
    content_bytes: int = 0  # UTF-8 bytes of generated text, tool arguments and reasoning
    malformed: int = 0  # events skipped because they were not JSON
    served_model: str | None = None
    scratch: dict[str, Any] = field(default_factory=dict)  # the dialect's own bookkeeping


class Adapter(Protocol):
    """A provider dialect: four pure functions. The OpenAI JSON body is the common language.

    A module in `routing.providers` is an Adapter by having these functions; see docs/adding-a-provider.md.
    """

    def build_request(self, operation: Operation, body: Json, target: Target, *, stream: bool) -> WireRequest:
        """Translate a checked OpenAI body (which must not be changed) for `target`.

        Always asks for usage in streams. Raises UnsupportedParameter for what cannot be expressed.
        """
        ...

    def parse_reply(self, operation: Operation, request: Json, body: bytes, target: Target) -> Reply:
        """A 2xx body, as OpenAI JSON. `request` is the OpenAI body that was sent to `build_request`.

        Raises ProviderError: INVALID_RESPONSE when it is not the promised shape, or the kind of the
        error object that came with the good status.
        """
        ...

    def parse_event(self, event: str, data: bytes, state: StreamState) -> Sequence[bytes]:
        """One server-sent event in, zero or more OpenAI chunk payloads out (JSON without `data:`).

        `event` is the SSE event name or "". Never yields `[DONE]`, and the usage chunk only if
        `state.include_usage`. Writes everything it learns to `state`.
        """
        ...

    def classify_error(self, status: int, headers: Headers, body: bytes) -> ProviderError:
        """A non-2xx answer as a ProviderError. Never raises."""
        ...


# ------------------------------------------------------------------ plans


class Dropped(NamedTuple):
    """A target the plan left out, and why, in words an admin can act on."""

    endpoint_id: str
    provider: str
    model: str
    reason: str


class Ranked(NamedTuple):
    """A target the plan kept, with the figure that ranked it (lower is better) and why.

    A named tuple, because a plan makes one for each of its fifty targets.
    """

    target: Target
    score: float
    reason: str


DEFAULT_MAX_ATTEMPTS = 3


class Recovery(StrEnum):
    """What becomes of a stream that breaks after something was shown."""

    END = "end"  # a typed error event, never a clean end
    CONTINUE = "continue"  # another target goes on from the text shown
    BUFFERED = "buffered"  # the newest part is held back, so that a cut restarts unseen


@dataclass(frozen=True, slots=True)
class Conduct:
    """How a policy wants its calls carried out, beside the order of their targets."""

    max_attempts: int = DEFAULT_MAX_ATTEMPTS  # tries in all, retries of the same target and hedges included
    recovery: Recovery = Recovery.END
    hold_back_tokens: int | None = None  # of a buffered stream; None: the whole answer
    hedge_after_ms: int | None = None  # None: never; 0: after the target's own p95 time to first byte
    queue_ms: int = (
        250  # the longest wait for a provider's rate limit before the call spills to the next target
    )


DEFAULT_CONDUCT = Conduct()


@dataclass(frozen=True, slots=True)
class Assignment:
    """The arm of an experiment that a call was given."""

    experiment: str  # slug
    arm: str
    parameters: Mapping[str, Any] = field(default_factory=dict)  # body fields the arm sets
    system_prompt: str = ""  # replaces the first system message; empty: as the caller wrote it


@dataclass(frozen=True, slots=True)
class Mirror:
    """A share of a policy's calls is sent to another target too; its answer is never shown."""

    target: Target
    reason: str
    rollout: str = ""  # slug of the gated rollout it measures for, or ""
    policy: str = ""  # what is mirrored, for the cap: the shadow's policy
    per_minute: int = 60  # mirrored calls at most, per worker
    scoring: Mapping[str, Any] = field(default_factory=dict)  # how answers are scored
    judge: Target | None = None  # what judges them, where the scoring needs a model


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """Targets in the order to try them, and the reasons. `policy` is `slug@version` or ""."""

    policy: str
    strategy: str
    targets: tuple[Ranked, ...]
    dropped: tuple[Dropped, ...]
    conduct: Conduct = DEFAULT_CONDUCT
    assignment: Assignment | None = None
    mirror: Mirror | None = None


# ------------------------------------------------------------------ health


class Circuit(StrEnum):
    """A circuit breaker's state."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    """What all workers together have lately seen of one endpoint. None: too little is known."""

    circuit: Circuit = Circuit.CLOSED
    open_until: float = 0.0  # unix seconds
    is_probe: bool = False  # half open, and this worker holds the permit for the one probe
    success: float | None = None  # share of attempts in [0, 1]
    samples: int = 0  # attempts behind `success`
    first_byte_p50_ms: float | None = None
    first_byte_p95_ms: float | None = None
    latency_p95_ms: float | None = None  # of whole answers, streams included
    output_tokens_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """The state of the providers at one moment, as the planner sees it."""

    endpoints: Mapping[str, EndpointHealth] = field(default_factory=dict)
    pauses: Mapping[str, float] = field(default_factory=dict)  # quota_key -> unix seconds (Retry-After)
    burn: Mapping[str, float] = field(default_factory=dict)
    """Feature key (`entries.FeatureEntry.key`) -> burn rate of its error budget; 1.0 spends it exactly in time."""


NO_HEALTH = Health()
