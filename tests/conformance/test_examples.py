"""The worked cases of billing_examples.json, string by string."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.billing import RUNNERS, run_case

RULEBOOK: dict[str, Any] = json.loads(Path(__file__).with_name("billing_examples.json").read_text())
CASES: list[dict[str, Any]] = RULEBOOK["cases"]


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=f"{case['id']}-{case['kind']}") for case in CASES],
)
def test_production_code_answers_the_worked_case(case: dict[str, Any]) -> None:
    assert run_case(case) == case["expected"]


def test_every_kind_of_the_rulebook_has_a_translation() -> None:
    assert {*RUNNERS} == {*RULEBOOK["kinds"]}


def test_a_kind_without_a_translation_names_itself() -> None:
    with pytest.raises(NotImplementedError, match=r"^no_such_kind$"):
        run_case({"kind": "no_such_kind", "input": {}})
