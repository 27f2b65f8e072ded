"""Targets and snapshots as plain data, for tests that plan without a database."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from routing.catalog.cost import Rate, RateCard
from routing.entries import ModelEntry, PolicyEntry, PolicyTarget, RoutingSnapshot
from routing.types import ProviderKind, Target

NOW = datetime(2026, 6, 1, tzinfo=UTC).timestamp()


def card(currency: str = "USD", **prices: str) -> RateCard:
    """Rates per million tokens, in force since the beginning of the year."""
    return RateCard(
        Rate(
            component,
            Decimal(price),
            1_000_000,
            currency,
            "",
            0,
            datetime(2026, 1, 1, tzinfo=UTC),
            None,
            component,
        )
        for component, price in prices.items()
    )


TARGET = Target(
    endpoint_id="e",
    provider="acme",
    kind=ProviderKind.OPENAI,
    provider_model="m-1",
    model="m",
    region="us",
    base_url="https://api.acme.test/v1",
    credential_id="c",
    api_key="sk-test",
    operations=frozenset({"chat"}),
    capabilities=frozenset({"tools"}),
    context_window=8000,
    max_output_tokens=1000,
    weight=1,
    rates=card(input="1", output="2"),
    options={},
    first_byte_timeout_s=10,
    stall_timeout_s=10,
    total_timeout_s=600,
)


def target(endpoint_id: str, **fields: Any) -> Target:
    return replace(TARGET, endpoint_id=endpoint_id, **fields)


def policy(slug: str, strategy: str, *targets: PolicyTarget | str, **fields: Any) -> PolicyEntry:
    pointers = tuple(PolicyTarget(t, None, 1) if isinstance(t, str) else t for t in targets)
    return PolicyEntry(
        **{
            "slug": slug,
            "number": 3,
            "strategy": strategy,
            "targets": pointers,
            "constraints": {},
            "tenant_id": None,
            **fields,
        }
    )


def snapshot(targets: Sequence[Target], *policies: PolicyEntry, **more: Any) -> RoutingSnapshot:
    models: dict[str, ModelEntry] = {}
    for each in targets:
        entry = models.get(each.model) or ModelEntry(
            slug=each.model,
            name=each.model,
            owned_by="acme",
            operations=each.operations,
            capabilities=each.capabilities,
            context_window=each.context_window,
            max_output_tokens=each.max_output_tokens,
            created=0,
            targets=(),
        )
        models[each.model] = replace(entry, targets=(*entry.targets, each))
    return RoutingSnapshot(
        version=1,
        models=models,
        policies={(each.tenant_id, each.slug): each for each in policies},
        providers={each.provider: each.kind.value for each in targets},
        **more,
    )
