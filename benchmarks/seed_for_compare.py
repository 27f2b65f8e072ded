"""Seed the models and the key that the side-by-side benchmark expects; prints the key.

    MOCK_PORT=9100 uv run python -m benchmarks.seed_for_compare

Everything a real tenant has is on: rpm, tpm and concurrency limits and a hard budget, all far away.
"""

import os
from datetime import UTC, datetime
from decimal import Decimal

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")

import django

django.setup()

from django.db import transaction  # noqa: E402

from billing.models import Budget  # noqa: E402
from routing.models import CostRate, Endpoint, Model, Provider  # noqa: E402
from tenants import keys, lifecycle, versions  # noqa: E402
from tenants.models import Tenant  # noqa: E402
from tenants.principal import SYSTEM  # noqa: E402

MODELS = ("mock", "mock-d50", "mock-g5000-n50", "mock-g0-n50", "mock-e429-p20-r1", "mock-e500-p20")
SINCE = datetime(2026, 1, 1, tzinfo=UTC)


def seed(*, port: int) -> str:
    with transaction.atomic():
        for section in ("tenants", "routing", "billing"):
            versions.bump(section)
        provider, _ = Provider.objects.update_or_create(
            slug="mock",
            defaults={
                "name": "mock",
                "kind": "openai_compatible",
                "base_url": f"http://127.0.0.1:{port}/v1",
                "region": "local",
            },
        )
        for name in MODELS:
            model, _ = Model.objects.get_or_create(
                slug=name, defaults={"name": name, "operations": ["chat", "completions", "embeddings"]}
            )
            Endpoint.objects.get_or_create(provider=provider, model=model, provider_model=name)
            for component, price in (("input", "0.15"), ("output", "0.60")):
                CostRate.objects.get_or_create(
                    provider="mock",
                    provider_model=name,
                    component=component,
                    defaults={"price": Decimal(price), "effective_from": SINCE},
                )
        tenant = Tenant.objects.filter(slug="bench").first() or lifecycle.open_tenant(
            slug="bench", name="Bench", timezone="UTC", currency="USD", region_policy=(), actor=SYSTEM
        )
        Budget.objects.get_or_create(tenant=tenant, name="bench", defaults={"limit": Decimal(1_000_000)})
    return keys.issue(
        tenant=tenant,
        name="bench",
        scopes=("inference:*",),
        actor=SYSTEM,
        limit_rpm=10**9,
        limit_tpm=10**12,
        max_concurrent=10**6,
    ).text


if __name__ == "__main__":
    print(seed(port=int(os.environ["MOCK_PORT"])))
