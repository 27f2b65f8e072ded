"""What a rollout's gates are held against: the candidate's and the control's figures since its stage began.

While the candidate is only shadowed both come from the mirrored calls, which are pairs; later from the request
log, with the mirrored calls of that time for what only they measure.
"""

# ruff: noqa: S608 - statements are put together from this module's own constants

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from django.db import connection

from gateway.experiments.reports import Measured, Money, measured
from routing.experiments.gates import Figures
from routing.experiments.models import Rollout
from routing.policies.split import CANDIDATE, CONTROL, ROLLOUT_PREFIX


def figures_of(rollout: Rollout, *, now: datetime) -> tuple[Figures, Figures]:
    """(candidate, control) of the rollout's present stage."""
    stage = rollout.stages[rollout.stage]
    mirrored, beside = _mirrored(rollout, rollout.stage_started_at, now)
    if stage["kind"] == "shadow":
        return mirrored, beside
    name = ROLLOUT_PREFIX + rollout.slug
    found = measured(name, (CANDIDATE, CONTROL), start=rollout.stage_started_at, end=now)
    control = found[CONTROL]
    if stage["share"] >= 1:  # nobody goes the old way any more: those who did before
        control = measured(name, (CONTROL,), start=rollout.started_at, end=rollout.stage_started_at)[CONTROL]
        mirrored, _ = _mirrored(rollout, rollout.started_at, now)
    candidate = replace(
        _figures(found[CANDIDATE]),
        json_asked=mirrored.json_asked,
        json_valid=mirrored.json_valid,
        scored=mirrored.scored,
        score=mirrored.score,
    )
    return candidate, _figures(control)


def _figures(found: Measured) -> Figures:
    money: Sequence[Money] = found.cost
    return Figures(
        n=found.n,
        successes=found.successes,
        p95_ms=found.p95_ms.value if found.p95_ms else None,
        cost_pico=money[0].mean_pico.value if money else None,
        cost_currency=money[0].currency if money else "",
    )


_SIDE = """
count(*), count(*) FILTER (WHERE {of}status < 400),
percentile_disc(0.95) WITHIN GROUP (ORDER BY {of}latency_ms) FILTER (WHERE {of}status < 400),
avg({of}cost_pico) FILTER (WHERE {of}status < 400), min({of}cost_currency), max({of}cost_currency),
count({of}is_json_valid), count(*) FILTER (WHERE {of}is_json_valid)
"""


def _mirrored(rollout: Rollout, start: datetime, end: datetime) -> tuple[Figures, Figures]:
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {_SIDE.format(of='')}, {_SIDE.format(of='of_')}, count(score), avg(score) "
            "FROM gateway_shadowsample "
            "WHERE rollout = %s AND occurred_at >= %s AND occurred_at < %s",
            [rollout.slug, start, end],
        )
        row = cursor.fetchone()
    candidate = replace(_side(row[:8]), scored=row[16], score=row[17])
    return candidate, _side(row[8:16])


def _side(row: Sequence[Any]) -> Figures:
    n, successes, p95_ms, cost_pico, lowest, highest, asked, valid = row
    is_one_currency = lowest == highest
    return Figures(
        n=n,
        successes=successes,
        p95_ms=None if p95_ms is None else float(p95_ms),
        cost_pico=float(cost_pico) if cost_pico is not None and is_one_currency else None,
        cost_currency=lowest if lowest and is_one_currency else "",
        json_asked=asked,
        json_valid=valid,
    )
