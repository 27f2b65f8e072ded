"""What to do about a key that strangers have: stop it, see what it did, tell those who answer for it.

Joins keys (tenants), the ledger (billing) and the request log. Whether a call was its owner's or a thief's nobody
knows here, and addresses of callers are not stored: it shows all calls since an instant, and says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.core.cache import cache
from django.core.mail import EmailMessage
from django.db.models import Count
from django.template.loader import render_to_string

from billing.usage.reports import report
from gateway.models import RequestLog
from tenants import keys
from tenants.errors import ApiError
from tenants.models import ApiKey, Membership, User
from tenants.principal import Principal

LOOKED_BACK: Final = timedelta(days=30)
"""How far back to look where nobody says when the key was last used by its owner."""
REPORTS_PER_MINUTE: Final = 10
"""Texts that one address may hand in by `report_found`."""
FINDER: Final = Principal(kind="system", id=None, label="leak report")
_MEASURES: Final = ("requests", "tokens", "errors", "price")


@dataclass(frozen=True, slots=True)
class Traces:
    """What a key did from `since` until `until`: totals by the ledger, models and outcomes by the request log.

    `price` maps currencies to pico-units.
    """

    since: datetime
    until: datetime
    requests: int
    tokens: int
    errors: int
    price: dict[str, int]
    models: Sequence[tuple[str, int]]
    statuses: Sequence[tuple[int, int]]


def traces_of(*, key: ApiKey, since: datetime | None, now: datetime) -> Traces:
    """All calls of the key since then; without an instant, of the last 30 days. Raises ApiError invalid_request."""
    start = now - LOOKED_BACK if since is None else since
    if not start < now:
        raise ApiError("invalid_request", "This moment is not in the past.", param="since")
    start = max(start, now - timedelta(days=366))
    totals = report(
        tenant_ids=None if key.tenant_id is None else frozenset((key.tenant_id,)),
        start=start,
        end=now,
        timezone="UTC",
        group_by=(),
        measures=_MEASURES,
        filters={"key": (key.id,)},
    ).totals
    calls = RequestLog.objects.order_by().filter(
        occurred_at__gte=start, occurred_at__lt=now, api_key_id=key.id
    )
    return Traces(
        since=start,
        until=now,
        requests=totals["requests"],
        tokens=totals["tokens"],
        errors=totals["errors"],
        price=dict(totals["price"]),
        models=list(calls.values_list("request_model").annotate(n=Count("*")).order_by("-n")[:20]),
        statuses=list(calls.values_list("status").annotate(n=Count("*")).order_by("-n")[:20]),
    )


def report_found(*, text: str, where: str, address: str, now: datetime) -> UUID | None:
    """Refuse the key whose whole text somebody found; its id, or None for any other text.

    The caller must answer the same either way. Raises ApiError rate_limit_exceeded.
    """
    name = f"gateway:leak-reports:{address}"
    cache.add(name, 0, timeout=60)
    if cache.incr(name) > REPORTS_PER_MINUTE:
        raise ApiError("rate_limit_exceeded", "Too many reports from this address.", retry_after_s=60)
    key = keys.find(text.strip())
    if key is None or key.leaked_at is not None:
        return None
    reason = f"Reported by a finder: {where}" if where else "Reported by a finder."
    return keys.mark_leaked(key=key, reason=reason, actor=FINDER, now=now).key.id


def tell(*, key_id: UUID, reason: str, by: str) -> int:
    """Mail those who answer for the key: its tenant's owners and admins, or the operator's. Returns how many.

    Raises what the mail server raises (OSError, smtplib.SMTPException): nothing is remembered, tell again.
    """
    key = ApiKey.objects.select_related("tenant").get(pk=key_id)
    people = _answering(key)
    path = f"/t/{key.tenant.slug}/keys/{key.id}/" if key.tenant else "/platform/keys/"
    context: dict[str, Any] = {"key": key, "reason": reason, "by": by, "url": f"{settings.PUBLIC_URL}{path}"}
    for address in people:
        EmailMessage(
            f"Tollhouse: the API key {' '.join(key.name.split())} has leaked",
            render_to_string("emails/leak_message.txt", context),
            to=[address],
        ).send()
    return len(people)


def _answering(key: ApiKey) -> list[str]:
    if key.tenant_id is None:
        roles = (User.OperatorRole.OWNER, User.OperatorRole.ADMIN)
        people = User.objects.filter(is_active=True, operator_role__in=roles)
    else:
        ids = Membership.objects.filter(
            tenant_id=key.tenant_id, role__in=(Membership.Role.OWNER, Membership.Role.ADMIN)
        ).values("user_id")
        people = User.objects.filter(is_active=True, id__in=ids)
    return list(people.order_by("email").values_list("email", flat=True))
