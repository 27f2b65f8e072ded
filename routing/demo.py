"""The demo's routes: sandbox providers in two regions, priced models, and four policies to call them by.

Only adds what is missing: what an operator changed since stays changed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from django.db import transaction

from routing.models import CostRate, Endpoint, Model, Provider, RoutingPolicy, RoutingPolicyVersion
from routing.types import ProviderKind
from tenants import audit, versions
from tenants.principal import SYSTEM, Principal

PRICED_FROM: Final = datetime(2025, 1, 1, tzinfo=UTC)

PROVIDERS: Final = (("sandbox", "Sandbox (US)", "us"), ("sandbox-eu", "Sandbox (EU)", "eu"))

CHAT: Final = ("chat", "completions")


@dataclass(frozen=True, slots=True)
class DemoModel:
    """A model, how its sandbox behaves (docs/sandbox.md), and its prices per million tokens by provider."""

    slug: str
    name: str
    operations: Sequence[str]
    capabilities: Sequence[str]
    pace: str
    prices: Mapping[str, Mapping[str, str]]
    context_window: int | None = 128_000
    max_output_tokens: int | None = 16_384


MODELS: Final = (
    DemoModel(
        "sandbox-small", "Sandbox Small", CHAT, ("tools", "json_schema"), "first_token_ms=120 token_ms=6",
        {
            "sandbox": {"input": "0.10", "cache_read": "0.025", "output": "0.40"},
            "sandbox-eu": {"input": "0.11", "cache_read": "0.0275", "output": "0.44"},
        },
    ),
    DemoModel(
        "sandbox-large", "Sandbox Large", CHAT, ("tools", "json_schema", "vision", "logprobs"),
        "first_token_ms=25 token_ms=1",
        {
            "sandbox": {"input": "2.50", "cache_read": "0.625", "input_image": "2.50", "output": "10"},
            "sandbox-eu": {"input": "2.75", "cache_read": "0.6875", "input_image": "2.75", "output": "11"},
        },
    ),
    DemoModel(
        "sandbox-reasoner", "Sandbox Reasoner", ("chat",), ("tools", "json_schema", "reasoning"),
        "first_token_ms=250 token_ms=3",
        {
            "sandbox": {"input": "1.10", "cache_read": "0.275", "output": "4.40"},
            "sandbox-eu": {"input": "1.21", "cache_read": "0.3025", "output": "4.84"},
        },
    ),
    DemoModel(
        "sandbox-vision", "Sandbox Vision", ("chat",), ("tools", "json_schema", "vision"),
        "first_token_ms=80 token_ms=3",
        {
            "sandbox": {"input": "0.40", "cache_read": "0.10", "input_image": "0.40", "output": "1.60"},
            "sandbox-eu": {"input": "0.44", "cache_read": "0.11", "input_image": "0.44", "output": "1.76"},
        },
    ),
    DemoModel(
        "sandbox-embed", "Sandbox Embed", ("embeddings",), (), "",
        {"sandbox": {"input": "0.02"}, "sandbox-eu": {"input": "0.022"}},
        context_window=8191, max_output_tokens=None,
    ),
)  # fmt: skip

EVERYTHING: Final = [model.slug for model in MODELS]

POLICIES: Final[tuple[tuple[str, str, str, Sequence[str], Mapping[str, Any]], ...]] = (
    ("cost-optimized", "Cheapest for each request", "cost", EVERYTHING, {}),
    ("latency-optimized", "Fastest first byte", "latency", EVERYTHING, {}),
    (
        "reliable",
        "Large first, then what else answers",
        "ordered",
        ["sandbox-large", "sandbox-vision", "sandbox-small", "sandbox-embed"],
        {},
    ),
    ("eu-only", "Cheapest within the EU", "cost", EVERYTHING, {"regions": ["eu"]}),
)


@dataclass(frozen=True, slots=True)
class DemoRoutes:
    """How many rows the seeding added; all zero the second time."""

    providers: int
    models: int
    endpoints: int
    rates: int
    policies: int


@transaction.atomic
def seed(*, actor: Principal = SYSTEM) -> DemoRoutes:
    """Add the demo's routes. Safe to run again."""
    versions.bump("routing")
    providers, new_providers = _providers()
    models, new_models = _models()
    endpoints = rates = 0
    for model in MODELS:
        for slug, prices in model.prices.items():
            name = provider_model_of(model)
            _, is_new = Endpoint.objects.get_or_create(
                provider=providers[slug], model=models[model.slug], provider_model=name, region=""
            )
            endpoints += is_new
            rates += sum(_price(slug, name, component, price) for component, price in prices.items())
    added = DemoRoutes(new_providers, new_models, endpoints, rates, sum(_policies()))
    if added == DemoRoutes(0, 0, 0, 0, 0):
        # Nothing changed, so no version is announced and nothing is audited.
        transaction.set_rollback(True)
        return added
    audit.record(
        principal=actor,
        action="demo.seed_routes",
        object_type="demo",
        object_id="routes",
        tenant=None,
        after={name: getattr(added, name) for name in DemoRoutes.__slots__},
    )
    return added


def provider_model_of(model: DemoModel) -> str:
    """The sandbox's name for it: the directives in it set its pace."""
    return f"{model.slug} [[sandbox {model.pace}]]" if model.pace else model.slug


def _providers() -> tuple[dict[str, Provider], int]:
    rows: dict[str, Provider] = {}
    added = 0
    for slug, name, region in PROVIDERS:
        defaults = {"name": name, "kind": ProviderKind.SANDBOX.value, "region": region}
        rows[slug], is_new = Provider.objects.get_or_create(slug=slug, defaults=defaults)
        added += is_new
    return rows, added


def _models() -> tuple[dict[str, Model], int]:
    rows: dict[str, Model] = {}
    added = 0
    for model in MODELS:
        defaults: dict[str, Any] = {
            "name": model.name,
            "owned_by": "tollhouse",
            "operations": list(model.operations),
            "capabilities": list(model.capabilities),
            "context_window": model.context_window,
            "max_output_tokens": model.max_output_tokens,
        }
        rows[model.slug], is_new = Model.objects.get_or_create(slug=model.slug, defaults=defaults)
        added += is_new
    return rows, added


def _price(provider: str, provider_model: str, component: str, price: str) -> bool:
    """Open the rate, unless this component was ever priced."""
    key = {"provider": provider, "provider_model": provider_model, "component": component}
    if CostRate.objects.filter(**key).exists():
        return False
    CostRate.objects.create(**key, price=Decimal(price), effective_from=PRICED_FROM, source="manual")
    return True


def _policies() -> Iterator[bool]:
    for slug, name, strategy, targets, constraints in POLICIES:
        policy, is_new = RoutingPolicy.objects.get_or_create(slug=slug, tenant=None, defaults={"name": name})
        if is_new:
            RoutingPolicyVersion.objects.create(
                policy=policy,
                number=1,
                strategy=strategy,
                targets=list(targets),
                constraints=dict(constraints),
                created_by=SYSTEM.label,
            )
        yield is_new
