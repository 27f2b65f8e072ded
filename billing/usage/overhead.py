"""What the operator's own calls cost: shadows and evaluations, by whose calls and for which policy.

For operators alone: a tenant neither pays for these calls nor learns of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Sum

from billing.models import OverheadHour


@dataclass(frozen=True, slots=True)
class Overhead:
    """A sum over whole UTC hours. `unpriced` attempts are not in `cost_pico`, which is in `cost_currency`."""

    kind: str
    tenant_id: UUID
    policy: str
    provider: str
    model: str
    cost_currency: str
    attempts: int
    tokens: int
    cost_pico: int
    unpriced: int


def overhead(*, start: datetime, end: datetime) -> Sequence[Overhead]:
    """Overhead of the UTC hours that begin in [start, end), the dearest first."""
    keys = ("kind", "tenant_id", "policy", "provider", "model", "cost_currency")
    rows = (
        OverheadHour.objects.filter(hour__gte=start, hour__lt=end)
        .values_list(*keys)
        .annotate(
            total_attempts=Sum("attempts"),
            total_tokens=Sum("tokens"),
            total_cost_pico=Sum("cost_pico"),
            total_unpriced=Sum("unpriced"),
        )
        .order_by("-total_cost_pico", *keys)
    )
    return [
        Overhead(
            kind=kind,
            tenant_id=tenant_id,
            policy=policy,
            provider=provider,
            model=model,
            cost_currency=currency,
            attempts=attempts,
            tokens=tokens,
            cost_pico=int(cost_pico),
            unpriced=unpriced,
        )
        for kind, tenant_id, policy, provider, model, currency, attempts, tokens, cost_pico, unpriced in rows
    ]
