"""Connecting providers and saying what they serve. One transaction each, audited, announced to the workers.

A provider's key goes in and never comes out: only `credentials.store` sees it.
"""

from collections.abc import Mapping
from typing import Any, Final

from django.db import IntegrityError, transaction

from routing import credentials
from routing.models import Endpoint, Model, Provider
from tenants import audit, versions
from tenants.errors import ApiError
from tenants.principal import Principal

_PROVIDER_FIELDS: Final = (
    "slug",
    "name",
    "kind",
    "base_url",
    "region",
    "price_book",
    "options",
    "trains_on_data",
    "retention_days",
    "is_enabled",
    "first_byte_timeout_s",
    "stall_timeout_s",
    "total_timeout_s",
)
_ENDPOINT_FIELDS: Final = ("provider_model", "region", "weight", "is_enabled")


def add_provider(*, values: Mapping[str, Any], api_key: str, actor: Principal) -> Provider:
    """Connect a provider. `api_key` may be empty where the dialect needs none, or to be added later.

    Raises ApiError: conflict when the slug is taken.
    """
    try:
        with transaction.atomic():
            versions.bump("routing")
            provider = Provider.objects.create(**values)
            _record(
                "provider.create", provider, before=None, after=_of(provider, _PROVIDER_FIELDS), actor=actor
            )
            if api_key:
                credentials.store(
                    provider=provider, tenant=None, secret=api_key, label="", base_url="", actor=actor
                )
    except IntegrityError as error:
        raise ApiError("conflict", f"The slug {values['slug']!r} is taken.", param="slug") from error
    return provider


def change_provider(
    *, provider: Provider, changes: Mapping[str, Any], api_key: str, actor: Principal
) -> Provider:
    """Change what stands in `changes`; a non-empty `api_key` replaces the operator's key. The slug stays."""
    if "slug" in changes:
        raise ApiError("invalid_request", "The slug stands in ledger rows and cannot change.", param="slug")
    with transaction.atomic():
        versions.bump("routing")
        held = Provider.objects.select_for_update().get(pk=provider.pk)
        before = _of(held, _PROVIDER_FIELDS)
        for field, value in changes.items():
            setattr(held, field, value)
        held.save(update_fields=[*changes, "updated_at"])
        _record("provider.update", held, before=before, after=_of(held, _PROVIDER_FIELDS), actor=actor)
        if api_key:
            credentials.store(provider=held, tenant=None, secret=api_key, label="", base_url="", actor=actor)
    return held


def add_endpoint(
    *, provider: Provider, model: Model, provider_model: str, region: str, weight: int, actor: Principal
) -> Endpoint:
    """Say that the provider serves the model under `provider_model`.

    Raises ApiError: conflict if that is said already.
    """
    try:
        with transaction.atomic():
            versions.bump("routing")
            endpoint = Endpoint.objects.create(
                provider=provider, model=model, provider_model=provider_model, region=region, weight=weight
            )
            _record(
                "endpoint.create", endpoint, before=None, after=_of(endpoint, _ENDPOINT_FIELDS), actor=actor
            )
    except IntegrityError as error:
        raise ApiError(
            "conflict", "This provider serves that model already.", param="provider_model"
        ) from error
    return endpoint


def change_endpoint(*, endpoint: Endpoint, changes: Mapping[str, Any], actor: Principal) -> Endpoint:
    """Change weight, region or whether it may be routed to."""
    with transaction.atomic():
        versions.bump("routing")
        held = Endpoint.objects.select_for_update().get(pk=endpoint.pk)
        before = _of(held, _ENDPOINT_FIELDS)
        for field, value in changes.items():
            setattr(held, field, value)
        held.save(update_fields=[*changes, "updated_at"])
        _record("endpoint.update", held, before=before, after=_of(held, _ENDPOINT_FIELDS), actor=actor)
    return held


def _of(row: Provider | Endpoint, fields: tuple[str, ...]) -> dict[str, Any]:
    return {field: getattr(row, field) for field in fields}


def _record(
    action: str,
    row: Provider | Endpoint,
    *,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any],
    actor: Principal,
) -> None:
    object_type, object_id = ("provider", row.slug) if isinstance(row, Provider) else ("endpoint", row.id)
    audit.record(
        principal=actor,
        action=action,
        object_type=object_type,
        object_id=object_id,
        tenant=None,
        before=before,
        after=after,
    )
