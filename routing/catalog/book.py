"""The vendored price book: thousands of models and their published prices, readable without a network.

Reads one file and nothing else. It must never answer a price that the source did not state; see data/NOTICE.
"""

import json
import lzma
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("data") / "catalogue.json.xz"
SCHEMA = "tollhouse-catalogue/1"


@dataclass(frozen=True, slots=True)
class Source:
    """Where the file's facts come from; `sha256` is of the source file as published."""

    name: str
    version: str
    licence: str
    url: str
    sha256: str


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """A model, whoever serves it."""

    slug: str
    owned_by: str
    operations: tuple[str, ...]
    capabilities: tuple[str, ...]
    context_window: int | None
    max_output_tokens: int | None


@dataclass(frozen=True, slots=True)
class CatalogueRate:
    """A published price: `price` USD per `per` units of `component` (rules R2 to R4)."""

    component: str
    price: Decimal
    per: int
    service_tier: str
    min_input_tokens: int


@dataclass(frozen=True, slots=True)
class Listing:
    """A provider's offer of a model, under the provider's own name. Without rates it is unpriced."""

    book: str
    provider_model: str
    model: str
    rates: tuple[CatalogueRate, ...]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """One snapshot; `as_of` is the day its sources were fetched."""

    as_of: date
    sources: tuple[Source, ...]
    models: tuple[CatalogueModel, ...]
    listings: tuple[Listing, ...]


@lru_cache(maxsize=1)
def vendored() -> Catalogue:
    """The snapshot this release carries."""
    return parse(lzma.decompress(PATH.read_bytes()))


def parse(raw: bytes) -> Catalogue:
    """The catalogue in the file's JSON. Raises ValueError for another schema."""
    data = json.loads(raw)
    if data["schema"] != SCHEMA:
        raise ValueError(f"catalogue schema {data['schema']!r}, expected {SCHEMA!r}")
    return Catalogue(
        as_of=date.fromisoformat(data["as_of"]),
        sources=tuple(Source(**source) for source in data["sources"]),
        models=tuple(
            CatalogueModel(slug, owner, tuple(operations), tuple(capabilities), window, most)
            for slug, owner, operations, capabilities, window, most in data["models"]
        ),
        listings=tuple(
            Listing(
                book,
                name,
                model,
                tuple(
                    CatalogueRate(component, Decimal(price), per, tier, minimum)
                    for component, price, per, tier, minimum in rates
                ),
            )
            for book, name, model, rates in data["listings"]
        ),
    )


def dump(catalogue: Catalogue) -> bytes:
    """The file's JSON: the same catalogue gives the same bytes."""
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "as_of": catalogue.as_of.isoformat(),
        "sources": [asdict(source) for source in catalogue.sources],
        "models": [
            [m.slug, m.owned_by, m.operations, m.capabilities, m.context_window, m.max_output_tokens]
            for m in catalogue.models
        ],
        "listings": [
            [listing.book, listing.provider_model, listing.model, _rows(listing.rates)]
            for listing in catalogue.listings
        ],
    }
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()


def _rows(rates: Sequence[CatalogueRate]) -> list[list[str | int]]:
    return [[r.component, f"{r.price:f}", r.per, r.service_tier, r.min_input_tokens] for r in rates]
