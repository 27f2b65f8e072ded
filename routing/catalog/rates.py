"""Changes to cost rates: a new rate closes its predecessor, nothing is ever overwritten or deleted.

Costs already booked do not move when a rate changes here; that is what re-rating is for.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

import orjson
from django.db import connection, transaction

from routing.models import CostRate
from tenants import approvals, audit, versions
from tenants.approvals import Draft
from tenants.errors import ApiError
from tenants.principal import Principal

ONE_CURRENCY_FOR = timedelta(days=1)
"""A call in flight may be priced by yesterday's rate, and one card has one currency."""


@dataclass(frozen=True, slots=True)
class NewRate:
    """A rate as somebody states it. `price` per `per` units, in [effective_from, effective_to)."""

    provider: str
    provider_model: str
    component: str
    price: Decimal
    effective_from: datetime
    per: int = 1_000_000
    currency: str = "USD"
    service_tier: str = ""
    min_input_tokens: int = 0
    effective_to: datetime | None = None
    source: Literal["manual", "contract"] = "manual"

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What at most one rate can be in force for at a time."""
        return self.provider, self.provider_model, self.component, self.service_tier, self.min_input_tokens


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """What one stated rate would do. `closes` is the id of the rate that would end at its start."""

    action: Literal["open", "change", "unchanged"]
    rate: NewRate
    closes: str | None
    old_price: Decimal | None
    old_per: int | None
    old_currency: str | None


@dataclass(frozen=True, slots=True)
class RateDiff:
    """A reviewed set of changes; `digest` changes when the rates or what they would close do."""

    changes: tuple[PlannedChange, ...]
    digest: str


def open_rate(*, rate: NewRate, actor: Principal) -> CostRate:
    """Put one rate in force. Raises ApiError: conflict, invalid_request."""
    with transaction.atomic():
        versions.bump("routing")
        changes = _plan([rate])
        _gate("open", changes, {"rate": _as_json(rate)}, "/".join(map(str, rate.key)), actor)
        (row,) = _apply(changes, actor)
    return row


def preview(*, rates: Sequence[NewRate]) -> RateDiff:
    """What these rates would change as of now. Raises ApiError as `apply` would."""
    changes = _plan(rates)
    return RateDiff(changes, _digest(changes))


def apply(*, rates: Sequence[NewRate], digest: str, actor: Principal) -> RateDiff:
    """Apply what was previewed under `digest`, whole or not at all.

    Raises ApiError: conflict when it would no longer do the same, invalid_request.
    """
    with transaction.atomic():
        versions.bump("routing")
        diff = preview(rates=rates)
        if diff.digest != digest:
            raise ApiError(
                "conflict", "The rates changed since the preview: look at it again.", param="digest"
            )
        moved = [change for change in diff.changes if change.action != "unchanged"]
        if moved:
            payload = {"rates": [_as_json(rate) for rate in rates], "reviewed": digest}
            _gate("apply", moved, payload, digest, actor)
        _apply(moved, actor)
    return diff


# ------------------------------------------------------------------ under the two-person rule


def _gate(
    verb: str, changes: Sequence[PlannedChange], payload: dict[str, Any], object_id: str, actor: Principal
) -> None:
    if any(change.action == "unchanged" for change in changes):
        return  # refused as it is
    names = ["/".join(str(part) for part in change.rate.key if part) for change in changes]
    approvals.gate(
        Draft(
            kind="prices",
            operation=f"cost_rate.{verb}",
            payload=payload,
            scope="prices:write",
            object_type="cost_rate",
            object_id=object_id[:128],
            tenant=None,
            before={
                name: f"{change.old_price} {change.old_currency} per {change.old_per}, rate {change.closes}"
                if change.closes
                else None
                for name, change in zip(names, changes, strict=True)
            },
            after={
                name: f"{rate.price} {rate.currency} per {rate.per} from {rate.effective_from.isoformat()}"
                for name, rate in zip(names, (change.rate for change in changes), strict=True)
            },
        ),
        actor,
    )


def _as_json(rate: NewRate) -> dict[str, Any]:
    return asdict(rate) | {
        "price": str(rate.price),
        "effective_from": rate.effective_from.isoformat(),
        "effective_to": rate.effective_to.isoformat() if rate.effective_to else None,
    }


def _rate_of(shown: Mapping[str, Any]) -> NewRate:
    until = shown["effective_to"]
    return NewRate(
        **{
            **shown,
            "price": Decimal(shown["price"]),
            "effective_from": datetime.fromisoformat(shown["effective_from"]),
            "effective_to": datetime.fromisoformat(until) if until else None,
        }
    )


@approvals.executor("cost_rate.open")
def _open_approved(payload: Mapping[str, Any], actor: Principal) -> None:
    open_rate(rate=_rate_of(payload["rate"]), actor=actor)


@approvals.executor("cost_rate.apply")
def _apply_approved(payload: Mapping[str, Any], actor: Principal) -> None:
    apply(rates=[_rate_of(each) for each in payload["rates"]], digest=payload["reviewed"], actor=actor)


# ------------------------------------------------------------------ planning and applying


def _plan(rates: Sequence[NewRate]) -> tuple[PlannedChange, ...]:
    if len({rate.key for rate in rates}) < len(rates):
        raise ApiError("invalid_request", "Two rates are for the same thing.", param="rates")
    models = {(rate.provider, rate.provider_model) for rate in rates}
    rows = CostRate.objects.filter(
        provider__in={provider for provider, _ in models}, provider_model__in={name for _, name in models}
    ).order_by("effective_from")
    if connection.in_atomic_block:
        rows = rows.select_for_update()
    held = [row for row in rows if (row.provider, row.provider_model) in models]
    changes = tuple(_change(rate, [row for row in held if _key(row) == rate.key]) for rate in rates)
    _refuse_second_currency(changes, held)
    return changes


def _change(rate: NewRate, rows: Iterable[CostRate]) -> PlannedChange:
    """`rows` are all rates for the same key, by start."""
    closes: CostRate | None = None
    for row in rows:
        if row.effective_to is not None and row.effective_to <= rate.effective_from:
            continue
        if row.effective_from == rate.effective_from and _says_the_same(row, rate):
            return PlannedChange("unchanged", rate, None, row.price, row.per, row.currency)
        if row.effective_from >= rate.effective_from:
            if rate.effective_to is not None and row.effective_from >= rate.effective_to:
                continue
            raise ApiError(
                "conflict",
                f"A rate for {rate.component} starts at {row.effective_from.isoformat()}: end this there.",
                param="effective_to",
            )
        closes = row
    if closes is None:
        return PlannedChange("open", rate, None, None, None, None)
    if _says_the_same(closes, rate):
        return PlannedChange("unchanged", rate, None, closes.price, closes.per, closes.currency)
    return PlannedChange("change", rate, str(closes.pk), closes.price, closes.per, closes.currency)


def _says_the_same(row: CostRate, rate: NewRate) -> bool:
    held = (row.price, row.per, row.currency, row.effective_to, row.source)
    return held == (rate.price, rate.per, rate.currency, rate.effective_to, rate.source)


def _refuse_second_currency(changes: Iterable[PlannedChange], held: Sequence[CostRate]) -> None:
    """Costs of one call must add up, so the rates of one model have one currency at a time."""
    closing = {change.closes for change in changes}
    for change in changes:
        rate = change.rate
        others = [other.rate for other in changes if other.rate.key[:2] == rate.key[:2]]
        still_open = [
            row
            for row in held
            if (row.provider, row.provider_model) == rate.key[:2]
            and str(row.pk) not in closing
            and (row.effective_to is None or row.effective_to > rate.effective_from - ONE_CURRENCY_FOR)
        ]
        if {other.currency for other in others} | {row.currency for row in still_open} != {rate.currency}:
            raise ApiError(
                "invalid_request",
                f"The rates of {rate.provider}/{rate.provider_model} would be in two currencies.",
                param="currency",
            )


def _apply(changes: Iterable[PlannedChange], actor: Principal) -> list[CostRate]:
    opened: list[CostRate] = []
    for change in changes:
        if change.action == "unchanged":
            raise ApiError("conflict", "This rate is in force already.")
        rate = change.rate
        if change.closes is not None:
            CostRate.objects.filter(pk=change.closes).update(effective_to=rate.effective_from)
        row = CostRate.objects.create(
            provider=rate.provider,
            provider_model=rate.provider_model,
            component=rate.component,
            price=rate.price,
            per=rate.per,
            currency=rate.currency,
            service_tier=rate.service_tier,
            min_input_tokens=rate.min_input_tokens,
            effective_from=rate.effective_from,
            effective_to=rate.effective_to,
            source=rate.source,
        )
        opened.append(row)
        audit.record(
            principal=actor,
            action="cost_rate.create",
            object_type="cost_rate",
            object_id=row.pk,
            tenant=None,
            before=None
            if change.closes is None
            else {"closed": change.closes, "price": change.old_price, "per": change.old_per},
            after={
                "key": "/".join(str(part) for part in rate.key if part),
                "price": rate.price,
                "per": rate.per,
                "currency": rate.currency,
                "effective_from": rate.effective_from,
            },
        )
    return opened


def _key(row: CostRate) -> tuple[str, str, str, str, int]:
    return row.provider, row.provider_model, row.component, row.service_tier, row.min_input_tokens


def _digest(changes: Sequence[PlannedChange]) -> str:
    content = orjson.dumps(
        sorted((change.action, change.closes or "", _stated(change.rate)) for change in changes)
    )
    return hashlib.sha256(content).hexdigest()


def _stated(rate: NewRate) -> list[str]:
    until = rate.effective_to.isoformat() if rate.effective_to else ""
    fields = (
        rate.price.normalize(),
        rate.per,
        rate.currency,
        rate.effective_from.isoformat(),
        until,
        rate.source,
    )
    return [*(str(part) for part in rate.key), *(str(field) for field in fields)]
