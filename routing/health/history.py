"""Moves what Redis counted into rows that are kept for 90 days, and reads them back: samples, incidents, uptime.

Writing may happen twice, late or by two at once: rows are keyed by what they tell of. Must never invent a
sample: what Redis no longer holds is missing.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import redis
from django.db import transaction
from django.db.models import Count, F, Max, Q, Sum
from django.db.models.functions import TruncDate

from routing.health.breaker import FAILURES, Breaker
from routing.health.exchange import EVENTS, PREFIX, SLOT_S, SLOT_TTL_S, decode_breaker, slot_key, tallies_of
from routing.health.histogram import FIRST_BYTE, WHOLE, Tally
from routing.health.models import HealthSample, Incident
from routing.health.tracker import OK
from routing.models import Endpoint
from routing.types import Circuit, ErrorKind

KEPT_DAYS: Final = 90
SAMPLE: Final = timedelta(minutes=5)
SLOTS_PER_SAMPLE: Final = int(SAMPLE.total_seconds()) // SLOT_S
EVENTS_AT_ONCE: Final = 500
LOST: Final = "lost"


# ------------------------------------------------------------------ writing


def record_incidents(*, client: redis.Redis, circuits: Mapping[str, Breaker], now: datetime) -> int:
    """Take over the openings and closings that the workers left; returns how many. Raises redis.RedisError.

    Events are deleted once their rows are committed. `circuits` is the shared picture: an incident whose
    breaker nobody knows as open any more (Redis lost it, the endpoint was turned off) ends now.
    """
    taken = 0
    while True:
        events: Any = client.xrange(EVENTS, count=EVENTS_AT_ONCE)
        with transaction.atomic():
            known = _known(fields[b"endpoint"].decode() for _, fields in events)
            for _, fields in events:
                endpoint_id = fields[b"endpoint"].decode()
                if endpoint_id in known:
                    _take(known[endpoint_id], decode_breaker(fields[b"breaker"]))
        if not events:
            break
        client.xdel(EVENTS, *(identity for identity, _ in events))
        taken += len(events)
    _end_lost(circuits, now)
    return taken


def _take(endpoint_id: UUID, breaker: Breaker) -> None:
    if not breaker.is_open:
        closed_at = _moment(breaker.closed_at)
        Incident.objects.filter(endpoint_id=endpoint_id, closed_at=None, opened_at__lte=closed_at).update(
            closed_at=closed_at, closed_by=breaker.source
        )
        return
    opened_at = _moment(breaker.opened_at)
    mine = Incident.objects.filter(endpoint_id=endpoint_id)
    if mine.filter(opened_at=opened_at, closed_by=LOST).update(closed_at=None, closed_by=""):
        return
    # Two workers may open a breaker within a moment of each other: that is one incident.
    is_told = mine.filter(opened_at__lte=opened_at).filter(Q(closed_at=None) | Q(closed_at__gte=opened_at))
    if not is_told.exists():
        Incident.objects.get_or_create(
            endpoint_id=endpoint_id,
            opened_at=opened_at,
            defaults={"reason": breaker.reason[:200], "opened_by": breaker.source},
        )


def _end_lost(circuits: Mapping[str, Breaker], now: datetime) -> None:
    open_ids = [endpoint_id for endpoint_id, breaker in circuits.items() if breaker.is_open]
    served = Endpoint.objects.filter(is_enabled=True, provider__is_enabled=True, pk__in=open_ids)
    Incident.objects.filter(closed_at=None, opened_at__lte=now).exclude(endpoint__in=served).update(
        closed_at=now, closed_by=LOST
    )


def record_samples(*, client: redis.Redis, now: datetime) -> int:
    """Write the samples since the newest one, that one again, and the one under way. Returns how many rows.

    Raises redis.RedisError. What is older than Redis keeps its slots is left out.
    """
    newest = HealthSample.objects.aggregate(newest=Max("at"))["newest"]
    oldest = _floor(now - timedelta(seconds=SLOT_TTL_S))
    start = max(oldest, newest - SAMPLE) if newest is not None else oldest
    rows: list[HealthSample] = []
    at = start
    while at <= now:
        rows += _samples(at, _tallies(client, at))
        at += SAMPLE
    rows.sort(key=lambda row: (row.at, row.endpoint_id))
    HealthSample.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=("endpoint", "at"),
        update_fields=(
            "attempts",
            "failed",
            "errors",
            "first_byte_p50_ms",
            "first_byte_p95_ms",
            "latency_p95_ms",
            "circuit",
        ),
    )
    return len(rows)


def prune(*, now: datetime) -> int:
    """Delete what is older than KEPT_DAYS; an incident counts from its end. Returns how many rows."""
    before = now - timedelta(days=KEPT_DAYS)
    samples, _ = HealthSample.objects.filter(at__lt=before).delete()
    incidents, _ = Incident.objects.filter(closed_at__lt=before).delete()
    return samples + incidents


def _tallies(client: redis.Redis, at: datetime) -> dict[str, Counter[str]]:
    first = int(at.timestamp()) // SLOT_S
    pipeline = client.pipeline(transaction=False)
    for slot in range(first, first + SLOTS_PER_SAMPLE):
        pipeline.hgetall(f"{PREFIX}{slot_key(slot)}")
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for held in pipeline.execute():
        for endpoint_id, tally in tallies_of(held.items()).items():
            sums[endpoint_id].update(tally)
    return sums


def _samples(at: datetime, tallies: Mapping[str, Counter[str]]) -> Iterable[HealthSample]:
    broken = set(
        Incident.objects.filter(opened_at__lt=at + SAMPLE)
        .filter(Q(closed_at=None) | Q(closed_at__gt=at))
        .values_list("endpoint_id", flat=True)
    )
    known = _known(tallies)
    by_id: dict[UUID, Tally] = {known[text]: tally for text, tally in tallies.items() if text in known}
    for endpoint_id in by_id.keys() | broken:
        tally = by_id.get(endpoint_id, {})
        failed = sum(tally.get(kind.value, 0) for kind in FAILURES)
        yield HealthSample(
            endpoint_id=endpoint_id,
            at=at,
            attempts=tally.get(OK, 0) + failed,
            failed=failed,
            errors={
                code: count
                for kind in ErrorKind
                for code in (kind.value, f"check_{kind.value}")
                if (count := tally.get(code, 0))
            },
            first_byte_p50_ms=FIRST_BYTE.quantile(tally, 0.5),
            first_byte_p95_ms=FIRST_BYTE.quantile(tally, 0.95),
            latency_p95_ms=WHOLE.quantile(tally, 0.95),
            circuit=Circuit.OPEN if endpoint_id in broken else Circuit.CLOSED,
        )


def _known(texts: Iterable[str]) -> dict[str, UUID]:
    """The endpoints among these ids that still exist."""
    ids = {}
    for text in texts:
        try:
            ids[text] = UUID(text)
        except ValueError:
            continue
    existing = set(Endpoint.objects.filter(pk__in=ids.values()).values_list("pk", flat=True))
    return {text: endpoint_id for text, endpoint_id in ids.items() if endpoint_id in existing}


def _moment(unix_s: float) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)


def _floor(moment: datetime) -> datetime:
    length_s = SAMPLE.total_seconds()
    return datetime.fromtimestamp(moment.timestamp() // length_s * length_s, UTC)


# ------------------------------------------------------------------ reading


@dataclass(frozen=True, slots=True)
class Day:
    """One provider's day (UTC). `uptime` is None where it had no endpoint yet."""

    date: date
    uptime: float | None  # share of the time in which its endpoints' breakers were closed, their mean
    incidents: int  # that began or went on
    attempts: int = 0
    failed: int = 0


def uptime(
    endpoints: Sequence[Endpoint], *, now: datetime, days: int = KEPT_DAYS
) -> Mapping[str, Sequence[Day]]:
    """Per provider slug, the last `days` days, oldest first, today included. Two queries."""
    today = now.astimezone(UTC).date()
    first = today - timedelta(days=days - 1)
    incidents: dict[UUID, list[Incident]] = defaultdict(list)
    for incident in Incident.objects.filter(endpoint__in=endpoints).filter(
        Q(closed_at=None) | Q(closed_at__gt=_midnight(first))
    ):
        incidents[incident.endpoint_id].append(incident)
    counted = _counted(endpoints, first)
    held: dict[str, list[Endpoint]] = defaultdict(list)
    for endpoint in endpoints:
        held[endpoint.provider.slug].append(endpoint)
    return {
        provider: [
            _day(first + timedelta(days=number), mine, incidents, counted.get(provider, {}), now)
            for number in range(days)
        ]
        for provider, mine in held.items()
    }


def mean_uptime(days: Sequence[Day]) -> float | None:
    """The mean of the days that have one."""
    shares = [day.uptime for day in days if day.uptime is not None]
    return sum(shares) / len(shares) if shares else None


def incidents_of(endpoints: Sequence[Endpoint], *, limit: int) -> Sequence[Incident]:
    """The newest incidents, those that go on first."""
    return list(
        Incident.objects.filter(endpoint__in=endpoints)
        .select_related("endpoint__model", "endpoint__provider")
        .order_by(F("closed_at").desc(nulls_first=True), "-opened_at")[:limit]
    )


def recent(endpoints: Sequence[Endpoint], *, since: datetime) -> Mapping[UUID, Sequence[HealthSample]]:
    """Samples by endpoint, oldest first."""
    rows: dict[UUID, list[HealthSample]] = defaultdict(list)
    for row in HealthSample.objects.filter(endpoint__in=endpoints, at__gte=since).order_by("at"):
        rows[row.endpoint_id].append(row)
    return rows


def _counted(endpoints: Sequence[Endpoint], first: date) -> Mapping[str, Mapping[date, tuple[int, int]]]:
    rows = (
        HealthSample.objects.filter(endpoint__in=endpoints, at__gte=_midnight(first))
        .annotate(day=TruncDate("at", tzinfo=UTC))
        .values("endpoint__provider__slug", "day")
        .annotate(attempts=Sum("attempts"), failed=Sum("failed"), rows=Count("id"))
        .order_by()
    )
    sums: dict[str, dict[date, tuple[int, int]]] = defaultdict(dict)
    for row in rows:
        sums[row["endpoint__provider__slug"]][row["day"]] = (row["attempts"], row["failed"])
    return sums


def _day(
    day: date,
    endpoints: Sequence[Endpoint],
    incidents: Mapping[UUID, Sequence[Incident]],
    counted: Mapping[date, tuple[int, int]],
    now: datetime,
) -> Day:
    start = _midnight(day)
    end = min(start + timedelta(days=1), now)
    observed_s = down_s = 0.0
    touched = 0
    for endpoint in endpoints:
        since = max(start, endpoint.created_at)
        if since >= end:
            continue
        observed_s += (end - since).total_seconds()
        for incident in incidents.get(endpoint.pk, ()):
            overlap = min(incident.closed_at or now, end) - max(incident.opened_at, since)
            if overlap > timedelta(0):
                touched += 1
                down_s += overlap.total_seconds()
    attempts, failed = counted.get(day, (0, 0))
    share = max(0.0, 1 - down_s / observed_s) if observed_s else None
    return Day(date=day, uptime=share, incidents=touched, attempts=attempts, failed=failed)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
