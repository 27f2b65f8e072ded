"""Brings the vendored price book into the database: new models, and cost rates of source "catalogue".

Never touches a model that exists, nor a manual or contract rate; an outdated rate is closed, never changed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time
from decimal import Decimal
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from routing.catalog.book import Catalogue, CatalogueRate, vendored
from routing.catalog.imports import model_row
from routing.models import CostRate, Model
from tenants import audit, versions
from tenants.principal import SYSTEM, Principal

BATCH_ROWS = 2000

type RateKey = tuple[str, str, str, str, int]
"""provider (here: the book), provider_model, component, service_tier, min_input_tokens."""


@dataclass(frozen=True, slots=True)
class RateChange:
    """One price that differs. `old` is None for a new one, `new` for one the book no longer has."""

    key: RateKey
    old: Decimal | None
    new: Decimal | None


@dataclass(frozen=True, slots=True)
class CatalogueDiff:
    """What a sync did, or would do. `kept` are keys that an operator's own rate holds."""

    models: tuple[str, ...]
    rates: tuple[RateChange, ...]
    kept: tuple[RateKey, ...]

    @property
    def is_empty(self) -> bool:
        return not self.models and not self.rates


@transaction.atomic
def load_catalogue(
    *,
    now: datetime,
    catalogue: Catalogue | None = None,
    is_dry_run: bool = False,
    principal: Principal = SYSTEM,
) -> CatalogueDiff:
    """Make the open catalogue rates equal to `catalogue` (default: the vendored one) as of `now`.

    A key that was never priced before is valid from the day the book was fetched, any other change from
    `now`. Safe to run twice and from two places at once.
    """
    catalogue = catalogue or vendored()
    if not is_dry_run:
        # The version's row lock puts two syncs in line.
        versions.bump("routing")
    models = _new_models(catalogue)
    wanted = dict(_wanted(catalogue))
    held, known, foreign = _held(catalogue, now)
    kept = tuple(sorted(wanted.keys() & foreign))
    closing: list[UUID] = []
    opening: list[CostRate] = []
    changes: list[RateChange] = []
    published = datetime.combine(catalogue.as_of, time(), UTC)
    for key in sorted((wanted.keys() - foreign) | held.keys()):
        rate, row = wanted.get(key), held.get(key)
        if rate and row and (row.price, row.per, row.currency) == (rate.price, rate.per, "USD"):
            continue
        changes.append(RateChange(key, row.price if row else None, rate.price if rate else None))
        if row:
            closing.append(row.pk)
        if rate:
            opening.append(_row(key, rate, now if key in known else min(now, published)))
    diff = CatalogueDiff(tuple(model.slug for model in models), tuple(changes), kept)
    if is_dry_run or diff.is_empty:
        # Without a change there is no new version to announce.
        transaction.set_rollback(True)
        return diff
    Model.objects.bulk_create(models, batch_size=BATCH_ROWS)
    CostRate.objects.filter(pk__in=closing).update(effective_to=now)
    CostRate.objects.bulk_create(opening, batch_size=BATCH_ROWS)
    audit.record(
        principal=principal,
        action="catalogue.sync",
        object_type="catalogue",
        object_id=catalogue.as_of.isoformat(),
        tenant=None,
        after={"models": len(models), "opened": len(opening), "closed": len(closing), "kept": len(kept)},
    )
    return diff


def _new_models(catalogue: Catalogue) -> list[Model]:
    existing = set(Model.objects.values_list("slug", flat=True))
    return [model_row(model) for model in catalogue.models if model.slug not in existing]


def _wanted(catalogue: Catalogue) -> Iterator[tuple[RateKey, CatalogueRate]]:
    for listing in catalogue.listings:
        for rate in listing.rates:
            yield (
                (
                    listing.book,
                    listing.provider_model,
                    rate.component,
                    rate.service_tier,
                    rate.min_input_tokens,
                ),
                rate,
            )


def _held(catalogue: Catalogue, now: datetime) -> tuple[dict[RateKey, CostRate], set[RateKey], set[RateKey]]:
    """Open catalogue rows by key, all keys ever priced, and keys with an operator's rate from `now` on."""
    books = {listing.book for listing in catalogue.listings}
    of_catalogue = Q(source="catalogue")
    held: dict[RateKey, CostRate] = {}
    known: set[RateKey] = set()
    foreign: set[RateKey] = set()
    for row in CostRate.objects.filter(of_catalogue | Q(provider__in=books)).iterator(chunk_size=BATCH_ROWS):
        key = (row.provider, row.provider_model, row.component, row.service_tier, row.min_input_tokens)
        known.add(key)
        if row.effective_to is not None and row.effective_to <= now:
            continue
        if row.source != "catalogue":
            foreign.add(key)
        elif row.effective_to is None:
            held[key] = row
        else:
            # A catalogue row that somebody ends in the future makes room for what follows: leave it.
            foreign.add(key)
    return held, known, foreign


def _row(key: RateKey, rate: CatalogueRate, effective_from: datetime) -> CostRate:
    provider, provider_model, component, service_tier, min_input_tokens = key
    return CostRate(
        provider=provider,
        provider_model=provider_model,
        component=component,
        price=rate.price,
        per=rate.per,
        currency="USD",
        service_tier=service_tier,
        min_input_tokens=min_input_tokens,
        effective_from=effective_from,
        source="catalogue",
    )
