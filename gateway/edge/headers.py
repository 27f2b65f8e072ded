"""Our own request and response headers (API.md)."""

import re

from billing.rating.money import amount_text
from gateway.pipeline.call import Call
from gateway.state.limits import PICO_PER_MICRO, Admission
from gateway.state.process import Process
from routing.types import Json
from tenants.errors import ApiError
from tenants.scopes import grants

FEATURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
TAG = re.compile(r"([A-Za-z0-9._-]{1,40})=([^,=]{1,100})")
TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
MAX_TAGS = 10
MAX_END_USER = 200


def feature_of(headers: dict[str, str]) -> str:
    feature = headers.get("x-tollhouse-feature", "")
    if feature and FEATURE.fullmatch(feature) is None:
        raise ApiError(
            "invalid_request",
            "A feature is 1 to 100 letters, digits, dots, dashes.",
            param="X-Tollhouse-Feature",
        )
    return feature


def end_user_of(headers: dict[str, str], body: Json) -> str:
    """The tenant's own end user, from our header or OpenAI's `user`: what the ledger can hold, or a refusal."""
    param = "X-Tollhouse-User" if headers.get("x-tollhouse-user") else "user"
    end_user = headers.get("x-tollhouse-user") or body.get("user") or ""
    if len(end_user) > MAX_END_USER or not end_user.isprintable():
        raise ApiError(
            "invalid_request", f"A user is up to {MAX_END_USER} printable characters.", param=param
        )
    return end_user


def tags_of(headers: dict[str, str]) -> dict[str, str]:
    text = headers.get("x-tollhouse-tags")
    if not text:
        return {}
    tags: dict[str, str] = {}
    for part in text.split(","):
        match = TAG.fullmatch(part.strip())
        if match is None or len(tags) == MAX_TAGS:
            raise ApiError(
                "invalid_request",
                f"Tags are up to {MAX_TAGS} pairs: key=value,key=value.",
                param="X-Tollhouse-Tags",
            )
        tags[match[1]] = match[2]
    return tags


def is_whole_number(text: str) -> bool:
    """Digits that int() takes, and few enough of them: header text may hold ², which isdigit() takes too."""
    return text.isascii() and text.isdecimal() and len(text) <= 18


def traceparent_of(headers: dict[str, str]) -> str:
    """The caller's trace; what is not well-formed starts a new one. https://www.w3.org/TR/trace-context/"""
    given = headers.get("traceparent", "")
    return given if given and TRACEPARENT.fullmatch(given) else ""


def timeout_of(headers: dict[str, str], limit_s: float) -> float:
    text = headers.get("x-tollhouse-timeout-ms")
    if text is None:
        return limit_s
    if not is_whole_number(text) or not 1 <= int(text) <= limit_s * 1000:
        raise ApiError(
            "invalid_request",
            f"The timeout is a whole number of milliseconds up to {limit_s * 1000:.0f}.",
            param="X-Tollhouse-Timeout-Ms",
        )
    return int(text) / 1000


def answer_headers(call: Call, process: Process) -> list[tuple[bytes, bytes]]:
    """What the answer tells about itself. A stream's money is not known yet and is left out."""
    headers = [(b"x-request-id", call.id_text.encode()), (b"x-tollhouse-cache", b"off")]
    if call.attempts:
        last = call.attempts[-1]
        target = last.target
        tried = ",".join(
            [
                f"{attempt.target.provider}:{attempt.http_status or attempt.error_type}"
                for attempt in call.attempts
            ]
        )
        headers += (
            (b"x-tollhouse-provider", target.provider.encode()),
            (b"x-tollhouse-model", _safe(target.provider_model)),
            (b"x-tollhouse-region", target.region.encode()),
            (b"x-tollhouse-attempts", tried.encode()),
        )
    if call.plan is not None and call.plan.policy:
        headers.append((b"x-tollhouse-policy", call.plan.policy.encode()))
    if call.is_recorded and call.price_pico is not None:
        headers.append((b"x-tollhouse-price", amount_text(call.price_pico).encode()))
        if call.caller is not None and grants(call.caller.key.scopes, "cost:read"):
            cost = call.attempts[-1].cost_pico if call.attempts else 0
            if cost is not None:
                headers.append((b"x-tollhouse-cost", amount_text(cost).encode()))
    if call.admission is not None:
        headers += _limits(call)
    if call.privacy is not None:
        headers.append((b"x-tollhouse-redacted", b"%d" % sum(call.privacy.counts.values())))
        if call.privacy.flags:
            names = dict.fromkeys(flag["guardrail"] for flag in call.privacy.flags)
            headers.append((b"x-tollhouse-guardrails", ",".join(names).encode()))
    return headers


def _limits(call: Call) -> list[tuple[bytes, bytes]]:
    admission = call.admission
    if admission is None:
        return []
    headers: list[tuple[bytes, bytes]] = []
    least: dict[str, tuple[int, int]] = {}  # measure -> remaining and limit of its tightest window
    for window, remaining in zip(admission.claim.windows, admission.window_remaining, strict=True):
        known = least.get(window.measure)
        if known is None or remaining < known[0]:
            least[window.measure] = (remaining, window.limit)
    for measure, (remaining, limit) in least.items():
        name = measure.encode()
        headers += (
            (b"x-ratelimit-limit-" + name, b"%d" % limit),
            (b"x-ratelimit-remaining-" + name, b"%d" % max(0, remaining)),
            (b"x-ratelimit-reset-" + name, b"60s"),
        )
    for throttle in call.throttled:
        headers.append((b"x-tollhouse-throttled", _safe(throttle.entry.shown_name())))
    if (tightest := _tightest(call, admission)) is not None:
        headers.append(
            (b"x-tollhouse-budget-remaining", amount_text(max(0, tightest) * PICO_PER_MICRO).encode())
        )
    return headers


def _tightest(call: Call, admission: Admission) -> int | None:
    """What is left of the tenant's tightest budget in its own currency, in micro-units.

    Costs are for those who may see them, and the operator's budgets for nobody.
    """
    caller = call.caller
    if caller is None or not admission.claim.budgets:
        return None
    measures = ("price", "cost") if grants(caller.key.scopes, "cost:read") else ("price",)
    rests = []
    for budget, left in zip(admission.claim.budgets, admission.budget_remaining, strict=True):
        entry = budget.entry
        is_shown = entry.measure in measures and entry.tenant_id is not None
        if left is None or not is_shown or entry.currency != caller.terms.currency:
            continue
        # Once the call is settled the hold is back, and what it really took is gone.
        used = call.price_pico
        if entry.measure == "cost":
            used = sum(attempt.cost_pico or 0 for attempt in call.attempts)
        taken = -(-(used or 0) // PICO_PER_MICRO) if call.is_recorded else budget.hold
        rests.append(left + budget.hold - taken)
    return min(rests, default=None)


def _safe(text: str) -> bytes:
    return text.encode("latin-1", "replace").replace(b"\r", b"").replace(b"\n", b"")
