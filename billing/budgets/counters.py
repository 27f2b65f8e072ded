"""What a budget's window has used so far, by the ledger: the truth behind the counter in Redis."""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from django.db.models import F, Sum

from billing.models import UsageEvent
from billing.snapshot import BudgetEntry, Window
from billing.usage.records import OVERHEAD


def spent(entry: BudgetEntry, window: Window, *, request_ids: Sequence[UUID] | None = None) -> int:
    """Pico-units for price and cost, else tokens or requests. `request_ids` narrows to those calls.

    Exactly what settlements add (I8): unpriced rows and overhead add nothing, tokens and requests count final
    attempts.
    """
    rows = UsageEvent.objects.filter(
        tenant_id=entry.tenant_id, occurred_at__gte=datetime.fromtimestamp(window.start, UTC)
    ).exclude(kind__in=OVERHEAD)
    if window.end is not None:
        rows = rows.filter(occurred_at__lt=datetime.fromtimestamp(window.end, UTC))
    if entry.api_key_id is not None:
        rows = rows.filter(api_key_id=entry.api_key_id)
    for name in ("feature", "model", "end_user"):
        wanted = getattr(entry, name)
        if wanted:
            rows = rows.filter(**{name: wanted})
    if request_ids is not None:
        rows = rows.filter(request_id__in=request_ids)
    match entry.measure:
        case "price" | "cost":
            total = rows.aggregate(total=Sum(f"{entry.measure}_pico"))["total"]
        case "tokens":
            total = rows.filter(is_final=True).aggregate(
                total=Sum(
                    F("input_tokens")
                    + F("cache_read_tokens")
                    + F("cache_write_tokens")
                    + F("output_tokens")
                    + F("reasoning_tokens")
                )
            )["total"]
        case _:
            total = rows.filter(is_final=True, kind="usage").count()
    return int(total or 0)
