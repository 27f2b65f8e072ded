"""Makes a move ours: providers, models, endpoints, rates, policies, each by the verb that the API would call.

Only adds what is not there, so that it may be run again; all of it in one transaction, or nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction

from gateway.moving.litellm import DeploymentMove, Move, PolicyMove, ProviderMove
from routing import credentials, provisioning
from routing.catalog import rates
from routing.catalog.book import vendored
from routing.catalog.imports import model_row
from routing.catalog.rates import NewRate
from routing.models import CostRate, Endpoint, Model, Provider, RoutingPolicy
from routing.policies import wordings
from routing.policies.wordings import Wording
from tenants import audit
from tenants.principal import Principal


@dataclass(frozen=True, slots=True)
class Moved:
    """How many rows were added; what was there already is not counted."""

    providers: int
    models: int
    endpoints: int
    rates: int
    policies: int


def apply(*, move: Move, actor: Principal, now: datetime) -> Moved:
    """Add what the move asks for. Raises ApiError as the verbs do; nothing is added then."""
    with transaction.atomic():
        providers = {each.slug: _provider(each, actor) for each in move.providers}
        groups = {each.model: each for each in move.deployments}
        models = {name: _model(each) for name, each in groups.items()}
        endpoints = [
            _endpoint(each, providers[each.provider][0], models[each.model][0], actor)
            for each in move.deployments
        ]
        priced = sum(_rates(each, actor, now) for each in move.deployments)
        policies = [_policy(each, actor) for each in move.policies]
        moved = Moved(
            providers=sum(is_new for _, is_new in providers.values()),
            models=sum(is_new for _, is_new in models.values()),
            endpoints=sum(endpoints),
            rates=priced,
            policies=sum(policies),
        )
        audit.record(
            principal=actor,
            action="gateway.import",
            object_type="import",
            object_id="litellm",
            tenant=None,
            after={name: getattr(moved, name) for name in Moved.__slots__},
        )
    return moved


def _provider(move: ProviderMove, actor: Principal) -> tuple[Provider, bool]:
    found = Provider.objects.filter(slug=move.slug).first()
    if found is not None:
        return found, False
    values: Mapping[str, object] = {
        "slug": move.slug,
        "name": move.slug,
        "kind": move.kind.value,
        "base_url": move.base_url,
        "options": dict(move.options),
    }
    made = provisioning.add_provider(values=values, api_key="", actor=actor)
    if move.secret:
        credentials.store(
            provider=made,
            tenant=None,
            secret=move.secret,
            label="",
            base_url="",
            actor=actor,
            limit_rpm=move.limit_rpm,
            limit_tpm=move.limit_tpm,
        )
    return made, True


def _model(move: DeploymentMove) -> tuple[Model, bool]:
    """The model group as one of our models, with the catalogue's facts where it knows the name."""
    found = Model.objects.filter(slug=move.model).first()
    if found is not None:
        return found, False
    known = next((each for each in vendored().models if each.slug == move.model), None)
    if known is not None:
        row = model_row(known)
    else:
        row = Model(
            slug=move.model,
            name=move.model,
            operations=[each.value for each in move.operations],
            context_window=move.max_input_tokens,
            max_output_tokens=move.max_output_tokens,
        )
    row.save(force_insert=True)
    return row, True


def _endpoint(move: DeploymentMove, provider: Provider, model: Model, actor: Principal) -> bool:
    held = Endpoint.objects.filter(provider=provider, model=model, provider_model=move.provider_model)
    if held.exists():
        return False
    provisioning.add_endpoint(
        provider=provider,
        model=model,
        provider_model=move.provider_model,
        region="",
        weight=move.weight,
        actor=actor,
    )
    return True


def _rates(move: DeploymentMove, actor: Principal, now: datetime) -> int:
    added = 0
    for component, price in move.rates.items():
        key = {"provider": move.provider, "provider_model": move.provider_model, "component": component}
        if CostRate.objects.filter(**key).exists():
            continue
        rate = NewRate(move.provider, move.provider_model, component, price, effective_from=now)
        rates.open_rate(rate=rate, actor=actor)
        added += 1
    return added


def _policy(move: PolicyMove, actor: Principal) -> bool:
    if RoutingPolicy.objects.filter(tenant=None, slug=move.slug).exists():
        return False
    wordings.create_policy(
        slug=move.slug,
        name=move.name,
        tenant=None,
        is_enabled=True,
        wording=Wording(strategy=move.strategy, targets=list(move.targets)),
        actor=actor,
    )
    return True
