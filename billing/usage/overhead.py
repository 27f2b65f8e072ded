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
        .annotate(Sum("attempts"), Sum("tokens"), Sum("cost_pico"), Sum("unpriced"))
        .order_by("-cost_pico__sum", *keys)
    )
    return [
        Overhead(*row[:6], attempts=row[6], tokens=row[7], cost_pico=int(row[8]), unpriced=row[9])
        for row in rows
    ]
