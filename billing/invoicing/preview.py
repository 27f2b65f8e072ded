"""What the running period's document would say now. The computation of the draft; nothing is written."""

from datetime import datetime

from django.db import connection, transaction

from billing.invoicing.compose import Composition, compose
from billing.invoicing.parties import profile_of
from billing.invoicing.period import Period, period_at, segments_of
from billing.snapshot import fx_table
from tenants.errors import ApiError
from tenants.models import Tenant


def preview(
    *, tenant: Tenant, now: datetime, at: datetime | None = None, currency: str | None = None
) -> Composition:
    """The document of the period that contains `at` (now unless given), by the ledger as it stands.

    Raises ApiError invalid_request for a time before the tenant's first period or in the future; conflict
    without a legal entity or tax rate.
    """
    moment = at or now
    with transaction.atomic():
        if not connection.savepoint_ids:  # a transaction of its own: one snapshot for all it reads
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        period = period_of(tenant, moment, now=now)
        return compose(
            profile=profile_of(tenant),
            period=period,
            currency=currency or tenant.currency,
            now=now,
            ledger_to=now,
            fx=fx_table(),
        )


def period_of(tenant: Tenant, at: datetime, *, now: datetime) -> Period:
    """The tenant's period that contains `at`. Raises ApiError invalid_request where there is none yet."""
    segments = segments_of(tenant)
    period = period_at(segments, tenant.timezone, at)
    if period is None or period.start > now:
        raise ApiError("invalid_request", "The tenant has no period then.", param="at")
    return period
