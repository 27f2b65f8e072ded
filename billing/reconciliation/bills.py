"""Bills come in: from a provider's cost API or as a file, each import whole, with its payload, or not at all.

What was imported is never changed: a later import of the same days takes its place by being later.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from urllib.parse import urlencode

import orjson
from django.db import transaction

from billing.models import BillSource, ProviderBill, ProviderBillLine
from billing.reconciliation.statements import (
    BilledItem,
    Page,
    StatementInvalid,
    anthropic_page,
    csv_items,
    focus_items,
    openai_page,
)
from tenants import audit, egress
from tenants.errors import ApiError
from tenants.principal import Principal

MAX_DAYS: Final = 180
MAX_PAGES: Final = 500
MAX_PAGE_BYTES: Final = 16 * 1024 * 1024
TIMEOUT_S: Final = 60.0
ANTHROPIC_VERSION: Final = "2023-06-01"
KEPT_ERROR: Final = 500

_Kind = BillSource.Kind
ADDRESSES: Final[Mapping[str, str]] = {
    _Kind.OPENAI: "https://api.openai.com",
    _Kind.ANTHROPIC: "https://api.anthropic.com",
}
FILES: Final = (_Kind.CSV, _Kind.FOCUS)


@dataclass(frozen=True, slots=True)
class Fetched:
    """All pages of a span, as text and as items."""

    texts: tuple[str, ...]
    items: tuple[BilledItem, ...]


def fetch(*, source: BillSource, start: date, end: date) -> Fetched:
    """Ask the provider for the UTC days [start, end). Network: never call it inside a transaction.

    Raises ApiError: invalid_request for a source without an API or key, or a span that is too long;
    provider_unavailable, provider_timeout, provider_invalid_response; url_not_allowed.
    """
    check_pull(source=source, start=start, end=end)
    key = source.secret()
    base = (source.base_url or ADDRESSES[source.kind]).rstrip("/")
    texts: list[str] = []
    items: list[BilledItem] = []
    page: str | None = None
    for _ in range(MAX_PAGES):
        text = _get(*_request(source.kind, base, key, start, end, page))
        found = _read(source.kind, text)
        texts.append(text)
        items += found.items
        page = found.next_page
        if page is None:
            return Fetched(tuple(texts), tuple(item for item in items if start <= item.day < end))
    raise ApiError("provider_invalid_response", f"The bill has more than {MAX_PAGES} pages.")


def check_pull(*, source: BillSource, start: date, end: date) -> None:
    """Raises ApiError invalid_request for a source without an API or key, or a span that is too long."""
    if source.kind not in ADDRESSES:
        raise ApiError("invalid_request", "Bills of this source come as files.", param="source")
    if source.sealed is None:
        raise ApiError("invalid_request", "The source has no admin key.", param="api_key")
    if not start < end or (end - start).days > MAX_DAYS:
        raise ApiError("invalid_request", f"From 1 to {MAX_DAYS} days at once.", param="start")


def _request(
    kind: str, base: str, key: str, start: date, end: date, page: str | None
) -> tuple[str, list[tuple[str, str]]]:
    begin, until = (datetime.combine(day, time(), UTC) for day in (start, end))
    more = [("page", page)] if page else []
    if kind == _Kind.OPENAI:
        query = [
            ("start_time", str(int(begin.timestamp()))),
            ("end_time", str(int(until.timestamp()))),
            ("bucket_width", "1d"),
            ("group_by", "project_id"),
            ("group_by", "line_item"),
            ("limit", "180"),
            *more,
        ]
        return f"{base}/v1/organization/costs?{urlencode(query)}", [("Authorization", f"Bearer {key}")]
    query = [
        ("starting_at", f"{begin:%Y-%m-%dT%H:%M:%SZ}"),
        ("ending_at", f"{until:%Y-%m-%dT%H:%M:%SZ}"),
        ("bucket_width", "1d"),
        ("group_by[]", "workspace_id"),
        ("group_by[]", "description"),
        ("limit", "31"),
        *more,
    ]
    return f"{base}/v1/organizations/cost_report?{urlencode(query)}", [
        ("x-api-key", key),
        ("anthropic-version", ANTHROPIC_VERSION),
    ]


def _get(url: str, headers: Sequence[tuple[str, str]]) -> str:
    """The body of a 200. What the provider says in an error stays out of ours: it may echo the key."""
    try:
        reply = egress.fetch(
            "GET",
            url,
            allow_private_hosts=egress.ANY_HOST,
            headers=headers,
            timeout_s=TIMEOUT_S,
            max_bytes=MAX_PAGE_BYTES,
        )
    except egress.EgressError as error:
        code = "provider_timeout" if error.kind == "timeout" else "provider_unavailable"
        raise ApiError(code, f"The provider's cost API did not answer: {error}") from error
    if reply.status in (401, 403):
        raise ApiError("provider_unavailable", "The provider refused the admin key.", param="api_key")
    if reply.status != 200:
        raise ApiError("provider_unavailable", f"The provider's cost API answered {reply.status}.")
    try:
        return reply.body.decode()
    except UnicodeDecodeError as error:
        raise ApiError("provider_invalid_response", "The bill is not UTF-8.") from error


def _read(kind: str, text: str) -> Page:
    try:
        return openai_page(text) if kind == _Kind.OPENAI else anthropic_page(text)
    except StatementInvalid as error:
        raise ApiError("provider_invalid_response", f"The bill cannot be read: {error}.") from error


def store(
    *, source: BillSource, fetched: Fetched, start: date, end: date, actor: Principal, now: datetime
) -> ProviderBill:
    """Keep what was fetched. The very same payload again changes nothing but when it was pulled."""
    with transaction.atomic():
        bill = _store(source, fetched.texts, fetched.items, start, end, actor, now)
        BillSource.objects.filter(pk=source.pk).update(pulled_at=now, last_error="")
    return bill


def failed(*, source: BillSource, error: ApiError, now: datetime) -> None:
    """Remember why the last pull came to nothing."""
    BillSource.objects.filter(pk=source.pk).update(pulled_at=now, last_error=error.message[:KEPT_ERROR])


def import_file(
    *, source: BillSource, text: str, start: date | None, end: date | None, actor: Principal, now: datetime
) -> ProviderBill:
    """Keep a CSV or FOCUS file. It covers [start, end), or from its first to its last day.

    Raises ApiError invalid_request for a file that cannot be read or has days outside of what it covers.
    """
    if source.kind not in FILES:
        raise ApiError("invalid_request", "Bills of this source come from its API.", param="source")
    try:
        items = csv_items(text) if source.kind == _Kind.CSV else focus_items(text)
    except StatementInvalid as error:
        raise ApiError("invalid_request", f"The file cannot be read: {error}.", param="text") from error
    if not items and (start is None or end is None):
        raise ApiError("invalid_request", "The file is empty: say which days it covers.", param="start")
    begin = start or min(item.day for item in items)
    until = end or max(item.day for item in items) + timedelta(days=1)
    if not begin < until:
        raise ApiError("invalid_request", "The span must end after it starts.", param="end")
    for item in items:
        if not begin <= item.day < until:
            raise ApiError("invalid_request", f"{item.day} lies outside of the span.", param="text")
    with transaction.atomic():
        return _store(source, (text,), items, begin, until, actor, now)


def _store(
    source: BillSource,
    texts: Sequence[str],
    items: Iterable[BilledItem],
    start: date,
    end: date,
    actor: Principal,
    now: datetime,
) -> ProviderBill:
    digest = hashlib.sha256(orjson.dumps([str(start), str(end), *texts])).hexdigest()
    BillSource.objects.select_for_update().get(pk=source.pk)  # imports of a source queue up
    newest = ProviderBill.objects.filter(source=source, start__lt=end, end__gt=start).first()
    if newest is not None and newest.digest == digest:
        audit.record(
            principal=actor, action="provider_bill.repeat", object_type="provider_bill", object_id=newest.pk,
            tenant=None, after={"digest": digest},
        )  # fmt: skip
        return newest
    bill = ProviderBill.objects.create(
        source=source,
        start=start,
        end=end,
        payload=list(texts),
        digest=digest,
        imported_at=now,
        imported_by=actor.label,
    )
    lines = ProviderBillLine.objects.bulk_create(
        (
            ProviderBillLine(
                bill=bill,
                day=item.day,
                account=item.account,
                item=item.item,
                model_family=item.model_family,
                quantity=item.quantity,
                quantity_unit=item.quantity_unit,
                amount_pico=item.amount_pico,
                currency=item.currency,
                raw=dict(item.raw),
            )
            for item in items
        ),
        batch_size=2_000,
    )
    audit.record(
        principal=actor,
        action="provider_bill.import",
        object_type="provider_bill",
        object_id=bill.pk,
        tenant=None,
        after={"source": source.slug, "start": start, "end": end, "lines": len(lines), "digest": digest},
    )
    return bill


def covering(*, source: BillSource, start: date, end: date) -> dict[date, ProviderBill]:
    """The bill that counts for each day of [start, end) that has one: the newest that covers it."""
    found: dict[date, ProviderBill] = {}
    bills = ProviderBill.objects.filter(source=source, start__lt=end, end__gt=start).defer("payload")
    for bill in bills.order_by("id"):
        day = max(bill.start, start)
        while day < min(bill.end, end):
            found[day] = bill
            day += timedelta(days=1)
    return found
