"""The providers' health as Prometheus text: attempts by outcome, time to first byte, circuits.

Totals of all workers; a counter starts anew only when Redis loses its memory.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from routing.health import store
from routing.health.breaker import CLOSED, circuit_of
from routing.health.exchange import NAMES, TOTALS, tallies_of
from routing.health.histogram import FIRST_BYTE, Tally
from routing.health.tracker import FIRST_BYTE_SUM_MS, OK, Tracker
from routing.types import Circuit, ErrorKind

EVERY_NTH_BOUND: Final = 6
"""Six buckets of ours make one of Prometheus's, whose bounds then lie about 2.3 times apart."""

CIRCUIT_VALUES: Final[Mapping[Circuit, int]] = {Circuit.CLOSED: 0, Circuit.HALF_OPEN: 1, Circuit.OPEN: 2}


def lines() -> Iterator[str]:
    """Lines of the exposition format, without a final one. Raises redis.RedisError."""
    client = store.connection()
    totals: Any = client.hgetall(TOTALS)
    names: Any = client.hgetall(NAMES)
    tracker = store.current()
    by_provider = tallies_of(sorted(totals.items(), key=lambda item: item[0].partition(b" ")[2]))
    yield "# TYPE tollhouse_provider_attempts_total counter"
    for provider, tally in by_provider.items():
        for outcome in (OK, *ErrorKind):
            if count := tally.get(str(outcome), 0):
                yield _line(
                    "tollhouse_provider_attempts_total", count, provider=provider, outcome=str(outcome)
                )
    yield "# TYPE tollhouse_provider_first_byte_seconds histogram"
    for provider, tally in by_provider.items():
        yield from _first_byte(provider, tally)
    yield from _circuits(tracker, names)
    yield "# TYPE tollhouse_credential_refused gauge"
    for mark in tracker.marks.values():
        yield _line(
            "tollhouse_credential_refused", mark.count, provider=mark.provider, credential=mark.credential_id
        )


def _first_byte(provider: str, tally: Tally) -> Iterator[str]:
    name = "tollhouse_provider_first_byte_seconds"
    below = FIRST_BYTE.below(tally)
    for bound_ms, count in below[EVERY_NTH_BOUND - 1 :: EVERY_NTH_BOUND]:
        yield _line(f"{name}_bucket", count, provider=provider, le=f"{bound_ms / 1000:g}")
    total = FIRST_BYTE.count(tally)
    yield _line(f"{name}_bucket", total, provider=provider, le="+Inf")
    yield _line(f"{name}_sum", f"{tally.get(FIRST_BYTE_SUM_MS, 0) / 1000:.3f}", provider=provider)
    yield _line(f"{name}_count", total, provider=provider)


def _circuits(tracker: Tracker, names: Mapping[bytes, bytes]) -> Iterator[str]:
    yield "# HELP tollhouse_endpoint_circuit 0 closed, 1 half open, 2 open"
    yield "# TYPE tollhouse_endpoint_circuit gauge"
    now = tracker.now()
    for key, name in sorted(names.items()):
        endpoint_id = key.decode()
        provider, model, provider_model, region = orjson.loads(name)
        circuit = circuit_of(tracker.circuits.get(endpoint_id, CLOSED), now)
        yield _line(
            "tollhouse_endpoint_circuit",
            CIRCUIT_VALUES[circuit],
            endpoint=endpoint_id,
            provider=provider,
            model=model,
            provider_model=provider_model,
            region=region,
        )


def _line(name: str, value: float | str, **labels: str) -> str:
    text = ",".join(f'{label}="{_escaped(held)}"' for label, held in labels.items())
    return f"{name}{{{text}}} {value}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
