"""Days of the request log, made ahead. `gateway.content.purge` drops them when their time is over."""

from datetime import date, timedelta

from billing.usage.partitions import ensure_days

REQUEST_LOG = "gateway_request_log"


def ensure_partitions(*, today: date, days_ahead: int = 7) -> tuple[date, ...]:
    """Give the log a partition for `today` (UTC) and each of the following days; return the new ones."""
    return ensure_days(table=REQUEST_LOG, days=(today + timedelta(n) for n in range(days_ahead + 1)))
