"""Everything a call must know about providers, models, prices and policies, as plain data in memory.

`load` alone reads the database here, in a fixed number of queries; what it returns is never changed.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any, Final
from uuid import UUID

from django.db.models import Q
from django.utils import timezone

from routing import credentials
from routing.catalog.cost import Rate, RateCard, RatesInvalid
from routing.credentials import OperatorCredential
from routing.entries import FeatureEntry, ModelEntry, PolicyEntry, PolicyTarget, RoutingSnapshot
from routing.experiments.splits import attached
from routing.models import (
    CostRate,
    Endpoint,
    Feature,
    KillSwitch,
    PolicyBinding,
    Provider,
    RoutingPolicy,
    RoutingPolicyVersion,
)
from routing.registry import base_url_of, dialect_of
from routing.types import Conduct, ProviderKind, Recovery, Target
from tenants import versions

__all__ = ["ModelEntry", "PolicyEntry", "PolicyTarget", "RoutingSnapshot", "load"]

logger = logging.getLogger(__name__)

RATES_KEPT_FOR = timedelta(days=1)
"""A rate that ended longer ago can price no call that is still under way."""

PICO: Final = 10**12

FINEST_SHARE: Final = 10**6
"""Weights are whole numbers; beyond this common denominator credentials share by rounded ones."""

NO_RATES = RateCard(())


def load(*, rates_since: datetime | None = None) -> RoutingSnapshot:
    """The configuration as the database has it now, secrets opened; for a look back, with rates since then.

    A row that cannot be used (a secret under a lost key, rates that contradict each other) is logged and
    left out: it must not take the other routes down with it.
    """
    # The version comes first: a change during the load then makes the next poll load again.
    version = versions.current()["routing"]
    endpoints = list(
        Endpoint.objects.routable()
        .select_related("provider", "model")
        .order_by("model__slug", "provider__slug", "id")
    )
    secrets = credentials.unseal_all()
    own = credentials.unseal_own()
    cards = _cards(endpoints, since=rates_since)
    targets: dict[UUID, list[Target]] = defaultdict(list)
    shares = {provider: _shares(held) for provider, held in secrets.items()}
    scale = _scale(shares.values())
    brought = {provider for _, provider in own}
    for endpoint in endpoints:
        rates = cards.get(endpoint.pk, NO_RATES)
        held = secrets.get(endpoint.provider_id)
        if held is not None:
            for secret, share in zip(held, shares[endpoint.provider_id], strict=True):
                weight = round(endpoint.weight * scale * share)
                targets[endpoint.model_id].append(target_of(endpoint, secret, rates, weight=weight))
            continue
        needs_own = dialect_of(endpoint.provider.kind).needs_key
        if not needs_own or endpoint.provider.slug in brought:
            target = target_of(endpoint, None, rates, weight=endpoint.weight * scale, needs_own=needs_own)
            targets[endpoint.model_id].append(target)
    policies, by_id = _policies()
    return RoutingSnapshot(
        version=version,
        models=_models(endpoints, targets),
        policies=policies,
        providers=dict(
            Provider.objects.filter(is_enabled=True)
            .exclude(slug__in=KillSwitch.thrown_at_kind(KillSwitch.Kind.PROVIDER))
            .values_list("slug", "kind")
        ),
        features=_features(by_id),
        bindings=_bindings(by_id),
        own=own,
    )


def _shares(held: Sequence[OperatorCredential]) -> tuple[Fraction, ...]:
    """How a provider's credentials share its calls; equally if none has a weight."""
    total = sum(secret.weight for secret in held)
    if not total:
        return tuple(Fraction(1, len(held)) for _ in held)
    return tuple(Fraction(secret.weight, total) for secret in held)


def _scale(shares: Iterable[Sequence[Fraction]]) -> int:
    """What all weights are multiplied by, so that every credential's part of an endpoint's is whole."""
    denominators = {share.denominator for each in shares for share in each}
    return min(math.lcm(*denominators), FINEST_SHARE)


def reworded(routes: RoutingSnapshot, version: RoutingPolicyVersion) -> RoutingSnapshot:
    """The configuration with this wording wherever its policy rules: by its name, and by every binding."""
    policy = version.policy
    key = (policy.tenant_id, policy.slug)
    entry = policy_entry(policy, version)

    def renewed(bound: PolicyEntry) -> PolicyEntry:
        return entry if (bound.tenant_id, bound.slug) == key else bound

    return replace(
        routes,
        policies={**routes.policies, key: entry},
        features={
            name: replace(feature, policy=feature.policy and renewed(feature.policy))
            for name, feature in routes.features.items()
        },
        bindings={name: renewed(bound) for name, bound in routes.bindings.items()},
    )


def policy_target(raw: str | Mapping[str, Any]) -> PolicyTarget:
    """A target as policies are written: a model's slug, or {"model", "provider", "weight"}."""
    if isinstance(raw, str):
        return PolicyTarget(model=raw, provider=None, weight=1)
    return PolicyTarget(raw.get("model"), raw.get("provider"), int(raw.get("weight", 1)))


def conduct_of(version: RoutingPolicyVersion) -> Conduct:
    """How a version wants its calls carried out; what it leaves open is as `Conduct` has it."""
    said = dict(version.conduct)
    recovery = Recovery(said.pop("recovery", Recovery.END))
    return Conduct(max_attempts=version.max_attempts, recovery=recovery, **said)


def _models(endpoints: list[Endpoint], targets: Mapping[UUID, list[Target]]) -> dict[str, ModelEntry]:
    rows = {endpoint.model_id: endpoint.model for endpoint in endpoints}
    return {
        row.slug: ModelEntry(
            slug=row.slug,
            name=row.name,
            owned_by=row.owned_by,
            operations=frozenset(row.operations),
            capabilities=frozenset(row.capabilities),
            context_window=row.context_window,
            max_output_tokens=row.max_output_tokens,
            created=int(row.created_at.timestamp()),
            targets=tuple(targets.get(row.pk, ())),
        )
        for row in rows.values()
    }


def target_of(
    endpoint: Endpoint,
    secret: OperatorCredential | None,
    rates: RateCard,
    *,
    weight: int | None = None,
    needs_own: bool = False,
) -> Target:
    """The endpoint (with its provider and model) as calls see it. `weight`: this credential's part of its own."""
    provider, model = endpoint.provider, endpoint.model
    return Target(
        endpoint_id=str(endpoint.pk),
        provider=provider.slug,
        kind=ProviderKind(provider.kind),
        provider_model=endpoint.provider_model,
        model=model.slug,
        region=endpoint.region or provider.region,
        base_url=base_url_of(provider.kind, secret.base_url if secret else "", provider.base_url),
        credential_id=str(secret.id) if secret else "",
        quota_key=f"{secret.id if secret else provider.slug}/{endpoint.provider_model}",
        api_key=secret.api_key if secret else "",
        operations=frozenset(model.operations) & dialect_of(provider.kind).operations,
        capabilities=frozenset(model.capabilities),
        context_window=model.context_window,
        max_output_tokens=model.max_output_tokens,
        weight=endpoint.weight if weight is None else weight,
        rates=rates,
        options={name: str(value) for name, value in provider.options.items()},
        first_byte_timeout_s=provider.first_byte_timeout_s,
        stall_timeout_s=provider.stall_timeout_s,
        total_timeout_s=provider.total_timeout_s,
        trains_on_data=provider.trains_on_data,
        retention_days=provider.retention_days,
        limit_rpm=secret.limit_rpm if secret else None,
        limit_tpm=secret.limit_tpm if secret else None,
        needs_own=needs_own,
    )


def price_keys(provider: Provider, provider_model: str, model_slug: str) -> tuple[tuple[str, str], ...]:
    """Where an endpoint's rates may stand, best first: the provider's own, then its price book's.

    A deployment's name is the operator's own word, so there the book is asked for the model's slug too.
    """
    dialect = dialect_of(provider.kind)
    book = provider.price_book or dialect.price_book
    keys = [(provider.slug, provider_model)]
    if book:
        keys.append((book, provider_model))
        if dialect.are_names_deployments:
            keys.append((book, model_slug))
    return tuple(dict.fromkeys(keys))


def _cards(endpoints: list[Endpoint], *, since: datetime | None) -> dict[UUID, RateCard]:
    wanted = {e.pk: price_keys(e.provider, e.provider_model, e.model.slug) for e in endpoints}
    keys = {key for candidates in wanted.values() for key in candidates}
    rates: dict[tuple[str, str], list[Rate]] = defaultdict(list)
    rows = CostRate.objects.filter(
        Q(effective_to__isnull=True) | Q(effective_to__gt=since or timezone.now() - RATES_KEPT_FOR),
        provider__in={provider for provider, _ in keys},
        provider_model__in={name for _, name in keys},
    )
    for row in rows.iterator(chunk_size=2000):
        rates[row.provider, row.provider_model].append(rate_of(row))
    cards: dict[tuple[str, str], RateCard] = {}
    for key in keys & rates.keys():
        try:
            cards[key] = RateCard(rates[key])
        except RatesInvalid as error:
            logger.error("the rates of %s/%s are not used, its calls are unpriced: %s", *key, error)
            cards[key] = NO_RATES
    return {
        endpoint_id: card
        for endpoint_id, candidates in wanted.items()
        if (card := next((cards[key] for key in candidates if key in cards), None)) is not None
    }


def rate_of(row: CostRate) -> Rate:
    """A CostRate row as plain data."""
    return Rate(
        component=row.component,
        price=row.price,
        per=row.per,
        currency=row.currency,
        service_tier=row.service_tier,
        min_input_tokens=row.min_input_tokens,
        effective_from=row.effective_from,
        effective_to=row.effective_to,
        id=str(row.pk),
    )


def _policies() -> tuple[dict[tuple[UUID | None, str], PolicyEntry], Mapping[UUID, PolicyEntry]]:
    """The enabled policies in their newest wording: by owner and slug, and by id."""
    newest = (
        RoutingPolicyVersion.objects.filter(policy__is_enabled=True)
        .order_by("policy_id", "-number")
        .distinct("policy_id")
        .select_related("policy")
    )
    by_id = attached(
        {version.policy_id: policy_entry(version.policy, version) for version in newest},
        target_of=policy_target,
        entry_of=policy_entry,
    )
    return {(entry.tenant_id, entry.slug): entry for entry in by_id.values()}, by_id


def policy_entry(policy: RoutingPolicy, version: RoutingPolicyVersion) -> PolicyEntry:
    """The policy in this wording, stored or not."""
    return PolicyEntry(
        slug=policy.slug,
        number=version.number,
        strategy=version.strategy,
        targets=tuple(policy_target(raw) for raw in version.targets),
        constraints=dict(version.constraints),
        tenant_id=policy.tenant_id,
        fallback=tuple(policy_target(raw) for raw in version.fallback),
        conduct=conduct_of(version),
    )


def _features(policies: Mapping[UUID, PolicyEntry]) -> dict[tuple[UUID | None, str], FeatureEntry]:
    return {
        (row.tenant_id, row.slug): FeatureEntry(
            slug=row.slug,
            tenant_id=row.tenant_id,
            policy=policies.get(row.policy_id) if row.policy_id else None,
            target_p95_ms=row.slo_p95_ms,
            target_success=float(row.slo_success) if row.slo_success is not None else None,
            max_cost_pico=int(row.slo_max_cost * PICO) if row.slo_max_cost is not None else None,
        )
        for row in Feature.objects.all()
    }


def _bindings(policies: Mapping[UUID, PolicyEntry]) -> dict[tuple[UUID | None, str], PolicyEntry]:
    rows = PolicyBinding.objects.values_list("tenant_id", "plan", "policy_id")
    return {(tenant, plan): policies[policy] for tenant, plan, policy in rows if policy in policies}
