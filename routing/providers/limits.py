"""What a provider's reply tells about its rate limits: how much, how much is left, when to come back. Pure.

Header names and their meaning are each provider's own; a value that makes no sense is passed over, never
guessed at. Nothing here waits, counts or remembers: gateway/state/pace.py does.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from routing.providers.errors import MAX_RETRY_AFTER_S, date_of, retry_after
from routing.types import Headers, ProviderKind

MAX_LIMIT = 2**53 - 1
"""What a double, and so Redis's Lua, can still count one by one."""
WINDOWS_S = (60.0, 3_600.0, 86_400.0)
AZURE_REQUESTS_WINDOW_S = 10.0

_COUNT = re.compile(r"[0-9]{1,16}", re.ASCII)
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|us|µs|ns|h|m|s|d))+", re.ASCII)
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|us|µs|ns|h|m|s|d)", re.ASCII)
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)
_UNIT_S = {"d": 86_400, "h": 3_600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_MAX_DURATION_CHARS = 40


_TELLING = frozenset(
    (
        "x-ratelimit-limit-requests",
        "x-ratelimit-limit-tokens",
        "anthropic-ratelimit-requests-limit",
        "anthropic-ratelimit-tokens-limit",
        "anthropic-ratelimit-input-tokens-limit",
        "anthropic-ratelimit-output-tokens-limit",
    )
)


@dataclass(frozen=True, slots=True)
class Allowance:
    """One limit: at most `limit` in any `window_s`; `remaining` of it is left, and all of it in `reset_s`."""

    limit: int
    remaining: int | None
    reset_s: float | None
    window_s: float


@dataclass(frozen=True, slots=True)
class LimitState:
    """What one reply told. None: nothing was said. `retry_after_s`: no call before that many seconds."""

    requests: Allowance | None = None
    tokens: Allowance | None = None  # input and output together
    input_tokens: Allowance | None = None
    output_tokens: Allowance | None = None
    retry_after_s: float | None = None

    @property
    def allowances(self) -> Sequence[tuple[str, Allowance]]:
        """(what is counted, allowance) of each limit that was told."""
        told = (
            ("requests", self.requests),
            ("tokens", self.tokens),
            ("input_tokens", self.input_tokens),
            ("output_tokens", self.output_tokens),
        )
        return [(name, allowance) for name, allowance in told if allowance is not None]


def tells_limits(headers: Headers) -> bool:
    """Whether there is anything to read: most replies of most providers tell nothing."""
    return not _TELLING.isdisjoint(headers)


def read_limits(kind: ProviderKind, status: int, headers: Headers, now: float) -> LimitState | None:
    """The limits in a reply's headers (names in lower case), None if it tells none. `now`: unix seconds.

    `retry_after_s` is set for 429, 503 and 529 only; a 429 that names no time but an exhausted limit waits for
    that limit's reset. Gemini tells no limits in headers, and its waiting time (google.rpc.RetryInfo) in the
    body, where `gemini.classify_error` reads it.
    Sources: https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers
    https://docs.anthropic.com/en/api/rate-limits#response-headers
    https://learn.microsoft.com/en-us/azure/ai-services/openai/how-to/quota
    https://console.groq.com/docs/rate-limits#rate-limit-headers
    https://ai.google.dev/gemini-api/docs/rate-limits
    https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
    """
    match kind:
        case ProviderKind.OPENAI | ProviderKind.OPENAI_COMPATIBLE:
            state = _openai(headers, requests_window_s=WINDOWS_S[0])
        case ProviderKind.AZURE_OPENAI:
            # Azure spreads a minute's requests over windows of 10 s and tells what is left of one of these.
            state = _openai(headers, requests_window_s=AZURE_REQUESTS_WINDOW_S)
        case ProviderKind.ANTHROPIC:
            state = _anthropic(headers, now)
        case ProviderKind.GEMINI | ProviderKind.MISTRAL | ProviderKind.COHERE | ProviderKind.SANDBOX:
            state = LimitState()
    wait_s = None
    if status in (429, 503, 529):
        wait_s = retry_after(headers, now=now)
        if wait_s is None and status == 429:
            spent = [a.reset_s for _, a in state.allowances if a.remaining == 0 and a.reset_s is not None]
            wait_s = max(spent, default=None)
    if wait_s is None and not state.allowances:
        return None
    return LimitState(state.requests, state.tokens, state.input_tokens, state.output_tokens, wait_s)


def _openai(headers: Headers, *, requests_window_s: float) -> LimitState:
    def read(name: str, window_s: float) -> Allowance | None:
        return _allowance(
            headers.get(f"x-ratelimit-limit-{name}"),
            headers.get(f"x-ratelimit-remaining-{name}"),
            duration_s(headers.get(f"x-ratelimit-reset-{name}", "")),
            window_s,
        )

    return LimitState(read("requests", requests_window_s), read("tokens", WINDOWS_S[0]))


def _anthropic(headers: Headers, now: float) -> LimitState:
    """Resets are RFC 3339 instants, counted from the reply's own Date so that our clock does not matter."""
    sent = date_of(headers.get("date", ""))
    since = now if sent is None else sent

    def read(name: str) -> Allowance | None:
        stem = f"anthropic-ratelimit-{name}"
        return _allowance(
            headers.get(f"{stem}-limit"),
            headers.get(f"{stem}-remaining"),
            _until(headers.get(f"{stem}-reset", ""), since),
            WINDOWS_S[0],
        )

    return LimitState(read("requests"), read("tokens"), read("input-tokens"), read("output-tokens"))


def _allowance(
    limit_text: str | None, remaining_text: str | None, reset_s: float | None, window_s: float
) -> Allowance | None:
    """An allowance, if there is a limit to speak of.

    The window is `window_s` unless the reset lies beyond it: providers also tell daily limits under the
    names of the minute's ones (OpenAI's lower tiers, Groq), and no limit takes longer than its window to reset.
    """
    limit = _count(limit_text)
    if not limit:
        return None
    remaining = _count(remaining_text)
    if remaining is not None and remaining > limit:
        remaining = None
    if reset_s is not None and reset_s > window_s * 1.01:
        window_s = next((longer for longer in WINDOWS_S if reset_s <= longer * 1.01), WINDOWS_S[-1])
    return Allowance(limit, remaining, reset_s, window_s)


def _count(text: str | None) -> int | None:
    """A count from 0 to MAX_LIMIT. Azure sends -1 for "no limit": that is none."""
    if text is None or not _COUNT.fullmatch(text):
        return None
    count = int(text)
    return count if count <= MAX_LIMIT else None


def duration_s(text: str) -> float | None:
    """Seconds, from "6m0s", "1s", "20ms", "2m59.56s" (Go's notation) or a plain number of seconds."""
    if len(text) > _MAX_DURATION_CHARS:
        return None
    if _SECONDS.fullmatch(text):
        total = float(text)
    elif _DURATION.fullmatch(text):
        total = sum(float(number) * _UNIT_S[unit] for number, unit in _PART.findall(text))
    else:
        return None
    return total if total <= MAX_RETRY_AFTER_S else None


def _until(text: str, since: float) -> float | None:
    """Seconds from `since` (unix) to an RFC 3339 instant; 0 for one that has passed."""
    if not 20 <= len(text) <= _MAX_DURATION_CHARS:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    if instant.tzinfo is None:
        return None
    wait_s = instant.timestamp() - since
    return max(0.0, wait_s) if math.isfinite(wait_s) and wait_s <= MAX_RETRY_AFTER_S else None
