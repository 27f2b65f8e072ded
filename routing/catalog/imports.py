"""Makes endpoints of what a price book lists for a provider, so that nobody types hundreds of model names.

Only adds: an endpoint that exists, disabled or reweighted, stays as it is.
"""

from collections.abc import Collection, Iterable

from django.db import transaction

from routing.catalog.book import CatalogueModel, Listing, vendored
from routing.models import Endpoint, Model, Provider
from routing.registry import dialect_of
from tenants import audit, versions
from tenants.errors import ApiError
from tenants.principal import Principal


def import_models(*, provider: Provider, actor: Principal, names: Collection[str] | None = None) -> int:
    """Create endpoints (and missing models) for the provider's own `names`, default all its book prices.

    A name that no book lists must be a model's slug here. Returns how many endpoints are new. Raises ApiError
    invalid_request for an unknown name, or when there is no list to take all from.
    """
    with transaction.atomic():
        versions.bump("routing")
        Provider.objects.select_for_update().get(pk=provider.pk)
        wanted = _listed(provider) if names is None else _named(provider, names)
        models = _models(wanted)
        existing = set(Endpoint.objects.filter(provider=provider).values_list("provider_model", "model_id"))
        rows = [
            Endpoint(provider=provider, model=models[slug], provider_model=name)
            for name, slug in wanted.items()
            if (name, models[slug].pk) not in existing
        ]
        Endpoint.objects.bulk_create(rows, batch_size=1000)
        audit.record(
            principal=actor,
            action="provider.import_models",
            object_type="provider",
            object_id=provider.slug,
            tenant=None,
            after={"endpoints": sorted(row.provider_model for row in rows)},
        )
    return len(rows)


def _listed(provider: Provider) -> dict[str, str]:
    """Every priced offer of the provider's book that its dialect can serve: own name to model slug."""
    dialect = dialect_of(provider.kind)
    book = _book_of(provider)
    if dialect.are_names_deployments:
        raise ApiError("invalid_request", "Deployments have names of your own: list them.", param="models")
    if not book:
        raise ApiError("invalid_request", "This provider has no price book: list its models.", param="models")
    serves = {str(operation) for operation in dialect.operations}
    able = {model.slug for model in vendored().models if serves.intersection(model.operations)}
    found = {
        listing.provider_model: listing.model
        for listing in vendored().listings
        if listing.book == book and listing.rates and listing.model in able
    }
    if not found:
        raise ApiError("invalid_request", f"The catalogue lists nothing under {book!r}.", param="price_book")
    return found


def _named(provider: Provider, names: Collection[str]) -> dict[str, str]:
    listings = {each.provider_model: each for each in _offers(_book_of(provider))}
    slugs = set(Model.objects.filter(slug__in=names).values_list("slug", flat=True))
    catalogue = {model.slug for model in vendored().models}
    wanted: dict[str, str] = {}
    for name in names:
        if name in listings:
            wanted[name] = listings[name].model
        elif name in slugs or name in catalogue:
            wanted[name] = name
        else:
            raise ApiError(
                "invalid_request",
                f"Nobody knows a model {name!r}: create it first, then its endpoint.",
                param="models",
            )
    return wanted


def _book_of(provider: Provider) -> str:
    return provider.price_book or dialect_of(provider.kind).price_book


def _offers(book: str) -> Iterable[Listing]:
    return (listing for listing in vendored().listings if listing.book == book)


def _models(wanted: dict[str, str]) -> dict[str, Model]:
    """The Model rows by slug; those only the catalogue knows are made."""
    slugs = set(wanted.values())
    rows = {row.slug: row for row in Model.objects.filter(slug__in=slugs)}
    missing = [model_row(model) for model in vendored().models if model.slug in slugs - rows.keys()]
    Model.objects.bulk_create(missing, batch_size=1000)
    return rows | {row.slug: row for row in missing}


def model_row(model: CatalogueModel) -> Model:
    """An unsaved Model row with the catalogue's facts."""
    return Model(
        slug=model.slug,
        name=model.slug,
        owned_by=model.owned_by,
        operations=list(model.operations),
        capabilities=list(model.capabilities),
        context_window=model.context_window,
        max_output_tokens=model.max_output_tokens,
    )
