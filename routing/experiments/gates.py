"""Whether a rollout may go on: the candidate's figures against its gates. Pure.

Never lets a stage pass on too few calls; a candidate that is clearly broken is taken back before that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from routing.experiments.statistics import share

EARLY: Final = 20
"""From so many calls on a success share whose whole interval is below its gate ends the rollout."""


class Verdict(StrEnum):
    """What to do now."""

    ADVANCE = "advance"
    HOLD = "hold"
    ROLL_BACK = "roll_back"


@dataclass(frozen=True, slots=True)
class Gates:
    """What a candidate must keep. None does not ask. Ratios are the candidate's figure to the control's."""

    min_success: float | None = None  # share of calls
    max_success_drop: float | None = None  # below the control's share, e.g. 0.01
    max_p95_ms: float | None = None
    max_p95_ratio: float | None = None
    max_cost_ratio: float | None = None
    min_json_valid: float | None = None  # share of the mirrored calls that asked for JSON
    min_score: float | None = None  # mean of the evaluation, in [0, 1]


DEFAULT_GATES: Final = Gates(max_success_drop=0.01, max_p95_ratio=1.5, max_cost_ratio=1.5)
_BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "min_success": (0, 1),
    "max_success_drop": (0, 1),
    "max_p95_ms": (1, 3_600_000),
    "max_p95_ratio": (0.01, 1000),
    "max_cost_ratio": (0.01, 1000),
    "min_json_valid": (0, 1),
    "min_score": (0, 1),
}


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one side. `cost_pico` is the mean per call in `cost_currency`; None: not known."""

    n: int = 0
    successes: int = 0
    p95_ms: float | None = None
    cost_pico: float | None = None
    cost_currency: str = ""
    json_asked: int = 0
    json_valid: int = 0
    scored: int = 0
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One gate, looked at. `is_open` None: it cannot be told yet."""

    gate: str
    limit: float
    found: float | None
    is_open: bool | None


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict, why, and how each gate stands."""

    verdict: Verdict
    reason: str
    outcomes: tuple[Outcome, ...]


def gates_of(said: Mapping[str, Any]) -> Gates:
    """Gates as an admin wrote them; nothing said means DEFAULT_GATES. Raises ValueError, in words for an admin."""
    if not said:
        return DEFAULT_GATES
    for name, value in said.items():
        if name not in _BOUNDS:
            raise ValueError(f"the gate {name!r} is unknown: there are {', '.join(_BOUNDS)}")
        low, high = _BOUNDS[name]
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float | Decimal)
            or not low <= value <= high
        ):
            raise ValueError(f"{name} must be a number between {low:g} and {high:g}")
    return Gates(**{name: float(value) for name, value in said.items()})


def decide(
    gates: Gates,
    *,
    candidate: Figures,
    control: Figures,
    min_samples: int,
    elapsed_s: float,
    min_stage_s: float,
) -> Decision:
    """What becomes of the stage, by the figures since it began."""
    outcomes = tuple(_looked_at(gates, candidate, control))
    if broken := _broken_early(gates, candidate, control):
        return Decision(Verdict.ROLL_BACK, broken, outcomes)
    if candidate.n < min_samples:
        return Decision(Verdict.HOLD, f"{candidate.n} of {min_samples} calls measured", outcomes)
    closed = [outcome for outcome in outcomes if outcome.is_open is False]
    if closed:
        return Decision(Verdict.ROLL_BACK, "; ".join(map(_words, closed)), outcomes)
    unknown = [outcome.gate for outcome in outcomes if outcome.is_open is None]
    if unknown:
        return Decision(Verdict.HOLD, f"nothing measured yet for {', '.join(unknown)}", outcomes)
    if elapsed_s < min_stage_s:
        return Decision(Verdict.HOLD, f"the stage lasts at least {min_stage_s:g} s", outcomes)
    return Decision(Verdict.ADVANCE, f"{candidate.n} calls passed every gate", outcomes)


def _looked_at(gates: Gates, candidate: Figures, control: Figures) -> list[Outcome]:
    found: Mapping[str, float | None] = {
        "min_success": _ratio(candidate.successes, candidate.n),
        "max_success_drop": _drop(candidate, control),
        "max_p95_ms": candidate.p95_ms,
        "max_p95_ratio": _ratio(candidate.p95_ms, control.p95_ms),
        "max_cost_ratio": _cost_ratio(candidate, control),
        "min_json_valid": _ratio(candidate.json_valid, candidate.json_asked),
        "min_score": candidate.score if candidate.scored else None,
    }
    outcomes = []
    for each in fields(gates):
        limit = getattr(gates, each.name)
        if limit is None:
            continue
        value = found[each.name]
        passes: bool | None = None
        if value is not None:
            passes = value >= limit if each.name.startswith("min_") else value <= limit
        outcomes.append(Outcome(each.name, limit, value, passes))
    return outcomes


def _broken_early(gates: Gates, candidate: Figures, control: Figures) -> str:
    """Why the candidate is beyond doubt worse than its gates on success allow; "" while there is doubt."""
    limits = [gates.min_success or 0.0]
    if gates.max_success_drop is not None and control.n:
        limits.append(control.successes / control.n - gates.max_success_drop)
    seen = share(candidate.successes, candidate.n)
    if candidate.n < EARLY or seen is None or seen.high is None or seen.high >= max(limits):
        return ""
    return (
        f"success {seen.value:.4f} of {candidate.n} calls, at best {seen.high:.4f}, "
        f"is below {max(limits):.4f} beyond doubt"
    )


def _drop(candidate: Figures, control: Figures) -> float | None:
    ours, theirs = _ratio(candidate.successes, candidate.n), _ratio(control.successes, control.n)
    return None if ours is None or theirs is None else theirs - ours


def _cost_ratio(candidate: Figures, control: Figures) -> float | None:
    """Two that are free cost the same; beside a free control everything else is infinitely dear."""
    ours, theirs = candidate.cost_pico, control.cost_pico
    if ours is None or theirs is None or candidate.cost_currency != control.cost_currency:
        return None
    if theirs == 0:
        return 1.0 if ours == 0 else float("inf")
    return ours / theirs


def _ratio(part: float | None, whole: float | None) -> float | None:
    """None while it cannot be told."""
    return part / whole if part is not None and whole else None


def _words(outcome: Outcome) -> str:
    side = "at least" if outcome.gate.startswith("min_") else "at most"
    return f"{outcome.gate} is {outcome.found:.4g}, {side} {outcome.limit:.4g} is allowed"
