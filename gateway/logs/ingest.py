"""From finished calls to the request log, in batches and idempotently. Must never hold prompts or answers.

The log is for people to read: texts that exceed their column are cut, unlike the ledger's, which are refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from django.db import connection, transaction

from billing.usage.partitions import ensure_days, existing_days
from gateway.logs.partitions import REQUEST_LOG
from gateway.models import RequestLog

KEPT_DAYS = 400
AHEAD_DAYS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One call for people to read: the columns of RequestLog in their order.

    `occurred_at` is the instant in `request_id`; `status` is HTTP's, 499 when the client left; tokens are
    totals (cached and reasoning ones included); amounts are pico-units, None means unpriced.
    `tenant_regions` as in UsageRecord; `kept_in` is the region of the installation that writes the row.
    """

    occurred_at: datetime
    request_id: UUID
    tenant_id: UUID
    api_key_id: UUID
    operation: str
    request_model: str
    model: str = ""
    provider: str = ""
    region: str = ""
    policy: str = ""
    status: int
    error_code: str = ""
    error_message: str = ""
    finish_reason: str = ""
    is_stream: bool = False
    feature: str = ""
    end_user: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    input_tokens: int = 0
    output_tokens: int = 0
    usage_source: str = ""
    cost_pico: int | None = None
    price_pico: int | None = None
    cost_currency: str = ""
    price_currency: str = ""
    latency_ms: int
    first_byte_ms: int | None = None
    attempts: Sequence[Mapping[str, Any]] = ()
    route: Mapping[str, Any] = field(default_factory=dict)
    experiment: str = ""
    arm: str = ""
    tenant_regions: str | None = None
    kept_in: str = ""


COLUMNS: tuple[str, ...] = tuple(LogEntry.__dataclass_fields__)
_MAX_LENGTHS = {f.attname: f.max_length for f in RequestLog._meta.concrete_fields if f.max_length}
_STAGING = f"""
CREATE TEMPORARY TABLE IF NOT EXISTS gateway_log_staging
ON COMMIT DELETE ROWS
AS SELECT {", ".join(COLUMNS)} FROM {REQUEST_LOG} WITH NO DATA
"""  # noqa: S608 - constants, here and below
_INSERT = f"""
INSERT INTO {REQUEST_LOG} ({", ".join(COLUMNS)})
SELECT {", ".join(COLUMNS)} FROM gateway_log_staging ORDER BY occurred_at, request_id
ON CONFLICT DO NOTHING
"""  # noqa: S608
_known_days: dict[str, set[date]] = {}


def store(entries: Sequence[LogEntry], *, now: datetime) -> int:
    """Store a batch; return how many calls were new. A call that is there already stays as it is."""
    if not entries:
        return 0
    _prepare_days({entry.occurred_at.astimezone(UTC).date() for entry in entries}, now)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_STAGING)
        cursor.execute("DELETE FROM gateway_log_staging")  # left by an earlier batch of the same transaction
        copied = f"COPY gateway_log_staging ({', '.join(COLUMNS)}) FROM STDIN"
        with connection.wrap_database_errors, cursor.copy(copied) as copy:  # Django does not wrap copy
            for entry in entries:
                copy.write_row([_fit(name, getattr(entry, name)) for name in COLUMNS])
        cursor.execute(_INSERT)
        return int(cursor.rowcount)


def _fit(name: str, value: Any) -> Any:
    if isinstance(value, str):
        storable = value.encode(errors="replace").decode().replace("\x00", "\ufffd")
        return storable[: _MAX_LENGTHS.get(name)]
    if name in ("tags", "attempts", "route"):
        return orjson.dumps(value, default=list).decode().replace("\\u0000", "\\ufffd")
    return value


def _prepare_days(days: set[date], now: datetime) -> None:
    today = now.astimezone(UTC).date()
    database = str(connection.settings_dict["NAME"])
    wanted = {d for d in days if today - timedelta(KEPT_DAYS) <= d <= today + timedelta(AHEAD_DAYS)}
    if wanted - _known_days.get(database, set()):
        ensure_days(table=REQUEST_LOG, days=wanted)
        if not connection.in_atomic_block:  # else a rollback could take them back
            _known_days[database] = existing_days(table=REQUEST_LOG)
