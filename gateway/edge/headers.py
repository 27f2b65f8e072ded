"""Our own request and response headers (API.md)."""

import re

from gateway.pipeline.call import Call
from gateway.pipeline.relay import money
from gateway.state.limits import PICO_PER_MICRO
from gateway.state.process import Process
from tenants.errors import ApiError
from tenants.scopes import grants

FEATURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
TAG = re.compile(r"([A-Za-z0-9._-]{1,40})=([^,=]{1,100})")
MAX_TAGS = 10


def feature_of(headers: dict[str, str]) -> str:
    feature = headers.get("x-tollhouse-feature", "")
    if feature and FEATURE.fullmatch(feature) is None:
        raise ApiError(
            "invalid_request",
            "A feature is 1 to 100 letters, digits, dots, dashes.",
            param="X-Tollhouse-Feature",
        )
    return feature


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


def timeout_of(headers: dict[str, str], limit_s: float) -> float:
    text = headers.get("x-tollhouse-timeout-ms")
    if text is None:
        return limit_s
    if not text.isdigit() or not 1 <= int(text) <= limit_s * 1000:
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
            f"{attempt.target.provider}:{attempt.http_status or attempt.error_type}"
            for attempt in call.attempts
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
        headers.append((b"x-tollhouse-price", str(money(call.price_pico)).encode()))
        if call.caller is not None and grants(call.caller.key.scopes, "cost:read"):
            cost = call.attempts[-1].cost_pico if call.attempts else 0
            if cost is not None:
                headers.append((b"x-tollhouse-cost", str(money(cost)).encode()))
    if call.admission is not None:
        headers += _limits(call)
    return headers


def _limits(call: Call) -> list[tuple[bytes, bytes]]:
    admission = call.admission
    if admission is None:
        return []
    headers: list[tuple[bytes, bytes]] = []
    seen: dict[str, int] = {}
    for window, remaining in zip(admission.claim.windows, admission.window_remaining, strict=True):
        if window.measure in seen and seen[window.measure] <= remaining:
            continue
        seen[window.measure] = remaining
        name = window.measure.encode()
        headers = [header for header in headers if not header[0].endswith(name)]
        headers += (
            (b"x-ratelimit-limit-" + name, b"%d" % window.limit),
            (b"x-ratelimit-remaining-" + name, b"%d" % max(0, remaining)),
            (b"x-ratelimit-reset-" + name, b"60s"),
        )
    tightest: int | None = None
    for budget, left in zip(admission.claim.budgets, admission.budget_remaining, strict=True):
        if left is not None and budget.entry.measure in ("price", "cost"):
            # Once the call is settled the hold is back, and what it really took is gone.
            taken = -(-(call.price_pico or 0) // PICO_PER_MICRO) if call.is_recorded else budget.hold
            rest = left + budget.hold - taken
            tightest = rest if tightest is None else min(tightest, rest)
    if tightest is not None:
        headers.append(
            (b"x-tollhouse-budget-remaining", str(money(max(0, tightest) * PICO_PER_MICRO)).encode())
        )
    return headers


def _safe(text: str) -> bytes:
    return text.encode("latin-1", "replace").replace(b"\r", b"").replace(b"\n", b"")
