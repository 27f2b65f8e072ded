from dataclasses import replace
from typing import Any

import pytest

from routing.experiments.gates import DEFAULT_GATES, Decision, Figures, Gates, Verdict, decide, gates_of

GOOD = Figures(n=200, successes=199, p95_ms=900, cost_pico=1_000, cost_currency="USD")


def decided(
    candidate: Figures, control: Figures = GOOD, gates: Gates = DEFAULT_GATES, **more: Any
) -> Decision:
    values = {"min_samples": 100, "elapsed_s": 600.0, "min_stage_s": 300.0, **more}
    return decide(gates, candidate=candidate, control=control, **values)


def test_a_candidate_as_good_as_the_control_advances() -> None:
    decision = decided(GOOD)
    assert decision.verdict is Verdict.ADVANCE
    assert [outcome.is_open for outcome in decision.outcomes] == [True, True, True]


def test_nobody_advances_on_too_few_calls_or_too_soon() -> None:
    few = decided(replace(GOOD, n=99, successes=99))
    assert (few.verdict, few.reason) == (Verdict.HOLD, "99 of 100 calls measured")
    soon = decided(GOOD, elapsed_s=299.0)
    assert (soon.verdict, soon.reason) == (Verdict.HOLD, "the stage lasts at least 300 s")


@pytest.mark.parametrize(
    ("change", "gate"),
    [
        ({"successes": 195}, "max_success_drop"),
        ({"p95_ms": 1_351.0}, "max_p95_ratio"),
        ({"cost_pico": 1_501.0}, "max_cost_ratio"),
    ],
)
def test_a_closed_gate_takes_the_candidate_back(change: dict[str, Any], gate: str) -> None:
    decision = decided(replace(GOOD, **change))
    assert decision.verdict is Verdict.ROLL_BACK
    assert decision.reason.startswith(f"{gate} is ")
    assert [outcome.gate for outcome in decision.outcomes if outcome.is_open is False] == [gate]


def test_a_clearly_broken_candidate_is_taken_back_before_the_stage_has_its_calls() -> None:
    decision = decided(Figures(n=20, successes=5), min_samples=1000)
    assert decision.verdict is Verdict.ROLL_BACK
    assert "beyond doubt" in decision.reason
    assert decided(Figures(n=19, successes=5), min_samples=1000).verdict is Verdict.HOLD


def test_bad_luck_is_not_beyond_doubt() -> None:
    assert decided(Figures(n=20, successes=19), min_samples=1000).verdict is Verdict.HOLD


def test_a_gate_nothing_is_known_of_holds() -> None:
    decision = decided(GOOD, gates=Gates(min_json_valid=0.9))
    assert (decision.verdict, decision.reason) == (Verdict.HOLD, "nothing measured yet for min_json_valid")
    assert decided(replace(GOOD, json_asked=10, json_valid=8), gates=Gates(min_json_valid=0.9)).verdict is (
        Verdict.ROLL_BACK
    )
    assert decided(replace(GOOD, scored=10, score=0.7), gates=Gates(min_score=0.7)).verdict is Verdict.ADVANCE


def test_costs_in_two_currencies_are_never_compared() -> None:
    assert decided(replace(GOOD, cost_currency="EUR")).verdict is Verdict.HOLD


def test_free_beside_free_is_no_dearer_and_anything_beside_free_is() -> None:
    free = replace(GOOD, cost_pico=0)
    assert decided(free, free).verdict is Verdict.ADVANCE
    assert decided(GOOD, free).verdict is Verdict.ROLL_BACK


def test_gates_nobody_wrote_are_the_defaults() -> None:
    assert gates_of({}) == DEFAULT_GATES
    assert gates_of({"max_p95_ms": 2000}) == Gates(max_p95_ms=2000.0)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"speed": 1}, "the gate 'speed' is unknown"),
        ({"min_success": 2}, "min_success must be a number between 0 and 1"),
        ({"min_success": True}, "min_success must be a number"),
        ({"max_p95_ms": "fast"}, "max_p95_ms must be a number"),
        ({"max_p95_ms": float("nan")}, "max_p95_ms must be a number"),
    ],
)
def test_gates_that_make_no_sense_are_refused(said: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gates_of(said)
