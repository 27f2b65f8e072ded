"""How the arms of an experiment compare: calls, success, latency, money and feedback, each with its interval.

Reads the request log and feedback between the experiment's start and end. For operators: it tells costs.
Never adds up amounts of different currencies, and says "too few calls" rather than guess.
"""

# ruff: noqa: S608 - statements are put together from this module's own constants

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db import connection
from django.utils import timezone

from gateway.logs.partitions import REQUEST_LOG
from routing.experiments.models import Experiment
from routing.experiments.statistics import (
    Estimate,
    difference,
    level_for,
    mean,
    quantile_ranks,
    share,
    share_difference,
    wording,
)

CLIENT_LEFT: Final = 499
_SPAN: Final = "experiment = %(experiment)s AND occurred_at >= %(start)s AND occurred_at < %(end)s"
_COUNTED: Final = f"status <> {CLIENT_LEFT}"
_GOOD: Final = "status < 400"


@dataclass(frozen=True, slots=True)
class Money:
    """A mean per call in pico-units of one currency, over the `n` calls that had a figure in it."""

    currency: str
    n: int
    mean_pico: Estimate


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of an arm against the control's, and what that says."""

    figure: str
    change: Estimate | None
    wording: str


@dataclass(frozen=True, slots=True)
class ArmReport:
    """One arm. `n` leaves out calls whose client left; latencies and money are of the good ones."""

    name: str
    is_control: bool
    n: int
    left: int
    tenants: int
    success: Estimate | None
    p50_ms: Estimate | None
    p95_ms: Estimate | None
    cost: Sequence[Money]
    price: Sequence[Money]
    feedback: Estimate | None
    feedback_n: int
    differences: Sequence[Difference]


@dataclass(frozen=True, slots=True)
class Report:
    """All arms in the experiment's order, the control first; `level` is that of each comparison."""

    slug: str
    start: datetime | None
    end: datetime | None
    level: float
    arms: Sequence[ArmReport]


def report(experiment: Experiment, *, now: datetime | None = None) -> Report:
    """What the arms did from the experiment's start to its end, or until now."""
    arms = [arm["name"] for arm in experiment.arms]
    level = level_for(len(arms) - 1)
    end = experiment.stopped_at or now or timezone.now()
    if experiment.started_at is None:
        return Report(experiment.slug, None, None, level, [_empty(name, name == arms[0]) for name in arms])
    found = measured(experiment.slug, arms, start=experiment.started_at, end=end)
    control = found[arms[0]]
    made = [_arm(name, found[name], control, level, is_control=name == arms[0]) for name in arms]
    return Report(experiment.slug, experiment.started_at, end, level, made)


@dataclass(frozen=True, slots=True)
class Measured:
    """What the log and feedback hold of one arm."""

    n: int = 0
    successes: int = 0
    left: int = 0
    tenants: int = 0
    p50_ms: Estimate | None = None
    p95_ms: Estimate | None = None
    cost: Sequence[Money] = ()
    price: Sequence[Money] = ()
    feedback: Estimate | None = None
    feedback_n: int = 0


def measured(
    experiment: str, arms: Sequence[str], *, start: datetime, end: datetime
) -> Mapping[str, Measured]:
    """Every arm's figures of the calls that began in [start, end)."""
    span = {"experiment": experiment, "start": start, "end": end}
    counts = {
        arm: row
        for arm, *row in _rows(
            f"SELECT arm, count(*) FILTER (WHERE {_COUNTED}), count(*) FILTER (WHERE {_GOOD}), "
            f"count(*) FILTER (WHERE NOT {_COUNTED}), count(DISTINCT tenant_id) "
            f"FROM {REQUEST_LOG} WHERE {_SPAN} GROUP BY arm",
            span,
        )
    }
    money = {kind: _money(kind, span) for kind in ("cost", "price")}
    liked = {
        arm: (n, mean(total, n, deviation))
        for arm, n, total, deviation in _rows(
            "SELECT arm, count(*), sum(score), stddev_samp(score) FROM gateway_feedback "
            f"WHERE {_SPAN} GROUP BY arm",
            span,
        )
    }
    made = {}
    for arm in arms:
        n, successes, left, tenants = counts.get(arm, (0, 0, 0, 0))
        feedback_n, feedback = liked.get(arm, (0, None))
        made[arm] = Measured(
            n=n,
            successes=successes,
            left=left,
            tenants=tenants,
            p50_ms=latency(span, arm, 0.5, successes),
            p95_ms=latency(span, arm, 0.95, successes),
            cost=money["cost"].get(arm, ()),
            price=money["price"].get(arm, ()),
            feedback=feedback,
            feedback_n=feedback_n,
        )
    return made


def latency(span: Mapping[str, Any], arm: str, q: float, n: int) -> Estimate | None:
    """A quantile of the good calls' latency in ms, with the order statistics that bound it."""
    if n == 0:
        return None
    ranks = quantile_ranks(q, n)
    places = ranks or (max(1, -int(-n * q // 1)),)
    (values,) = _rows(
        "SELECT percentile_disc(%(shares)s::float8[]) WITHIN GROUP (ORDER BY latency_ms) "
        f"FROM {REQUEST_LOG} WHERE {_SPAN} AND arm = %(arm)s AND {_GOOD}",
        # percentile_disc takes the first value whose place reaches the share: half a place keeps rounding out
        {**span, "arm": arm, "shares": [(place - 0.5) / n for place in places]},
    )[0]
    if values is None:
        return None
    if ranks is None:
        return Estimate(float(values[0]), None, None)
    here, low, high = values
    return Estimate(float(here), float(low), float(high))


def _money(kind: str, span: Mapping[str, Any]) -> Mapping[str, Sequence[Money]]:
    """Mean cost or price per good call, by arm and currency; unpriced calls have no figure."""
    made: dict[str, list[Money]] = {}
    for arm, currency, n, total, deviation in _rows(
        f"SELECT arm, {kind}_currency, count({kind}_pico), sum({kind}_pico), "
        f"stddev_samp({kind}_pico) FROM {REQUEST_LOG} WHERE {_SPAN} AND {_GOOD} AND {kind}_pico IS NOT NULL "
        f"GROUP BY arm, {kind}_currency ORDER BY arm, count(*) DESC, {kind}_currency",
        span,
    ):
        estimate = mean(float(total), n, None if deviation is None else float(deviation))
        if estimate is not None:
            made.setdefault(arm, []).append(Money(currency, n, estimate))
    return made


def _rows(statement: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


# ------------------------------------------------------------------ comparing


def _arm(name: str, ours: Measured, control: Measured, level: float, *, is_control: bool) -> ArmReport:
    return ArmReport(
        name=name,
        is_control=is_control,
        n=ours.n,
        left=ours.left,
        tenants=ours.tenants,
        success=share(ours.successes, ours.n),
        p50_ms=ours.p50_ms,
        p95_ms=ours.p95_ms,
        cost=ours.cost,
        price=ours.price,
        feedback=ours.feedback,
        feedback_n=ours.feedback_n,
        differences=() if is_control else _differences(ours, control, level),
    )


def _differences(ours: Measured, control: Measured, level: float) -> list[Difference]:
    changes = [
        (
            "success",
            share_difference((ours.successes, ours.n), (control.successes, control.n), level=level),
        ),
        ("p50_ms", difference(ours.p50_ms, control.p50_ms, level=level)),
        ("p95_ms", difference(ours.p95_ms, control.p95_ms, level=level)),
        ("cost", difference(*_comparable(ours.cost, control.cost), level=level)),
        ("price", difference(*_comparable(ours.price, control.price), level=level)),
        ("feedback", difference(ours.feedback, control.feedback, level=level)),
    ]
    return [Difference(figure, change, wording(change)) for figure, change in changes]


def _comparable(ours: Sequence[Money], control: Sequence[Money]) -> tuple[Estimate | None, Estimate | None]:
    """Both means in the control's commonest currency."""
    if not control:
        return None, None
    currency = control[0].currency
    mine = next((each.mean_pico for each in ours if each.currency == currency), None)
    return mine, control[0].mean_pico


def _empty(name: str, is_control: bool) -> ArmReport:
    return _arm(name, Measured(), Measured(), 0.95, is_control=is_control)
