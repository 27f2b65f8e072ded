"""Routes to a provider that breaks on purpose, and a tenant who may use them.

Needs Django set up; for benchmarks and for tests of what they judge.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.db import transaction

from routing.models import CostRate, Endpoint, Model, Provider, RoutingPolicy, RoutingPolicyVersion
from tenants import keys, lifecycle, versions
from tenants.models import Tenant
from tenants.principal import SYSTEM

SINCE = datetime(2026, 1, 1, tzinfo=UTC)
PRIMARY, FALLBACK = "wall-a", "wall-b"


def add_provider(slug: str, base_url: str, models: Iterable[str], **limits: float) -> None:
    """A provider that serves these models, priced; `limits` are its timeouts in seconds."""
    provider, _ = Provider.objects.update_or_create(
        slug=slug,
        defaults={
            "name": slug,
            "kind": "openai_compatible",
            "base_url": base_url,
            "region": "local",
            **limits,
        },
    )
    for name in models:
        model, _ = Model.objects.get_or_create(slug=name, defaults={"name": name, "operations": ["chat"]})
        Endpoint.objects.get_or_create(provider=provider, model=model, provider_model=name)
        for component, price in (("input", "1"), ("output", "2")):
            CostRate.objects.get_or_create(
                provider=slug,
                provider_model=name,
                component=component,
                defaults={"price": Decimal(price), "effective_from": SINCE},
            )


def add_policy(slug: str, targets: list[Any], *, max_attempts: int = 3, **conduct: Any) -> None:
    """An ordered policy of the operator's."""
    policy = RoutingPolicy.objects.create(slug=slug, tenant=None, name=slug)
    RoutingPolicyVersion.objects.create(
        policy=policy,
        number=1,
        strategy="ordered",
        targets=targets,
        constraints={},
        conduct=conduct,
        max_attempts=max_attempts,
        created_by=SYSTEM.label,
    )


@transaction.atomic
def seed_failover(url: str, cases: Mapping[str, str], **limits: float) -> None:
    """Every case's model at the primary, its fallback (the mapping's value) behind it; three policies each.

    `case`: buffered; `case-continue`: goes on from what was shown; `case-end`: the product's default.
    """
    versions.bump("routing")
    add_provider(PRIMARY, url, cases, **limits)
    add_provider(FALLBACK, url, sorted(set(cases.values())), **limits)
    for case, fallback in cases.items():
        add_policy(case, [case, fallback], recovery="buffered")
        add_policy(f"{case}-continue", [case, fallback], recovery="continue")
        add_policy(f"{case}-end", [case, fallback])


@transaction.atomic
def seed_drill(url: str, policy: str, models: tuple[str, str], *, max_attempts: int, **limits: float) -> None:
    """Two providers with a model each, and a policy over both that holds its streams back."""
    versions.bump("routing")
    for provider, model in zip((PRIMARY, FALLBACK), models, strict=True):
        add_provider(provider, url, [model], **limits)
    add_policy(policy, list(models), max_attempts=max_attempts, recovery="buffered")


@transaction.atomic
def open_tenant() -> str:
    """A tenant without limits; returns its key."""
    for section in ("tenants", "billing"):
        versions.bump(section)
    tenant = Tenant.objects.filter(slug="bench").first() or lifecycle.open_tenant(
        slug="bench", name="Bench", timezone="UTC", currency="USD", region_policy=(), actor=SYSTEM
    )
    return keys.issue(tenant=tenant, name="bench", scopes=("inference:*",), actor=SYSTEM).text
