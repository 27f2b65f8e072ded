"""Prometheus series of finished calls and attempts. Counted by the worker that stores them, kept in Redis for all.

PURE but for `count`. A label is never a tenant, a key or a person.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import orjson
import redis

from billing.usage.records import UsageRecord
from gateway.logs.ingest import LogEntry
from gateway.telemetry import names

CALLS: Final = "th:metrics:calls"
DURATION_BOUNDS_MS: Final = (
    10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 5_120, 10_240, 20_480, 40_960, 81_920,
)  # fmt: skip
"""The conventions' own bounds for durations."""
TOKEN_BOUNDS: Final = (1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304)
"""The conventions' own bounds for tokens."""
LAST: Final = "+Inf"

type Labels = tuple[tuple[str, str], ...]


def count(pipe: "redis.client.Pipeline", rows: Iterable[UsageRecord], log: Iterable[LogEntry]) -> None:
    """Add finished calls to the totals, with whatever else the pipeline does."""
    for series, amount in increments(rows, log).items():
        pipe.hincrby(CALLS, series, amount)


def increments(rows: Iterable[UsageRecord], log: Iterable[LogEntry]) -> Counter[str]:
    """By series: how much these calls add. A series is a JSON array of name, labels and the histogram's part."""
    added: Counter[str] = Counter()
    for row in rows:
        labels = _labels(row)
        failed: Labels = ((names.ERROR_TYPE, row.error_type),) if row.error_type else ()
        duration = names.prometheus(names.OPERATION_DURATION, "seconds")
        _observe(added, duration, labels + failed, row.latency_ms, DURATION_BOUNDS_MS)
        if row.first_byte_ms is not None:
            first = names.prometheus(names.TIME_TO_FIRST_CHUNK, "seconds")
            _observe(added, first, labels, row.first_byte_ms, DURATION_BOUNDS_MS)
        for kind, tokens in (
            ("input", row.input_tokens + row.cache_read_tokens + row.cache_write_tokens),
            ("output", row.output_tokens + row.reasoning_tokens),
        ):
            if tokens:
                typed = (*labels, (names.TOKEN_TYPE, kind))
                _observe(added, names.prometheus(names.TOKEN_USAGE), typed, tokens, TOKEN_BOUNDS)
        _money(added, names.COST, row.cost_pico, row.cost_currency)
        _money(added, names.PRICE, row.price_pico, row.price_currency)
    for entry in log:
        shown = ((names.OPERATION, _operation(entry.operation)), (names.HTTP_STATUS, str(entry.status)))
        duration = names.prometheus(names.CALL_DURATION, "seconds")
        _observe(added, duration, shown, entry.latency_ms, DURATION_BOUNDS_MS)
    return added


def rendered(totals: Iterable[tuple[bytes, bytes]]) -> Iterator[str]:
    """The totals as Prometheus text: durations in seconds, buckets cumulative."""
    found: dict[str, dict[Labels, dict[str, int]]] = {}
    for series, amount in totals:
        name, labels, part = orjson.loads(series)
        held = found.setdefault(name, {}).setdefault(tuple((key, value) for key, value in labels), {})
        held[part] = int(amount)
    for name, by_labels in sorted(found.items()):
        is_histogram = any("count" in parts for parts in by_labels.values())
        yield f"# TYPE {name} {'histogram' if is_histogram else 'counter'}"
        for labels, parts in sorted(by_labels.items()):
            if is_histogram:
                yield from _histogram(name, labels, parts)
            else:
                yield _line(name, labels, parts[""])


def _histogram(name: str, labels: Labels, parts: dict[str, int]) -> Iterator[str]:
    is_time = name.endswith("_seconds")
    below = 0
    for bound in DURATION_BOUNDS_MS if is_time else TOKEN_BOUNDS:
        below += parts.get(str(bound), 0)
        shown = f"{bound / 1000:g}" if is_time else str(bound)
        yield _line(f"{name}_bucket", (*labels, ("le", shown)), below)
    yield _line(f"{name}_bucket", (*labels, ("le", LAST)), parts["count"])
    total = f"{parts['sum'] / 1000:.3f}" if is_time else parts["sum"]
    yield _line(f"{name}_sum", labels, total)
    yield _line(f"{name}_count", labels, parts["count"])


def _line(name: str, labels: Labels, value: float | str) -> str:
    text = ",".join(f'{names.prometheus(key)}="{_escaped(held)}"' for key, held in labels)
    return f"{name}{{{text}}} {value}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _labels(row: UsageRecord) -> Labels:
    return (
        (names.OPERATION, _operation(row.operation)),
        (names.PROVIDER, row.provider),
        (names.REQUEST_MODEL, row.provider_model),
    )


def _operation(operation: str) -> str:
    return names.OPERATION_NAMES.get(operation, operation)


def _observe(added: Counter[str], name: str, labels: Labels, value: int, bounds: Sequence[int]) -> None:
    bound = next((str(bound) for bound in bounds if value <= bound), LAST)
    for part, amount in ((bound, 1), ("sum", value), ("count", 1)):
        if amount:
            added[_series(name, labels, part)] += amount


def _money(added: Counter[str], name: str, pico: int | None, currency: str) -> None:
    """What is not priced adds nothing here; the ledger tells how much that is."""
    if pico:
        added[_series(names.prometheus(name, "pico_total"), (("currency", currency),), "")] += pico


def _series(name: str, labels: Labels, part: str) -> str:
    return orjson.dumps((name, labels, part)).decode()
