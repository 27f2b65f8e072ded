"""Several profiles over one text: the strictest action wins, wherever findings overlap."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.privacy.detect import Found
from gateway.privacy.kinds import Action
from gateway.privacy.layers import Layers, merged_actions

ACTIONS = {"a": Action.TOKENIZE, "b": Action.BLOCK, "c": Action.REDACT, "d": Action.TOKENIZE}


class Fixed:
    """Finds what it is told to."""

    def __init__(self, *spans):
        self.spans = spans

    def find(self, text):
        return [Found(start, end, kind, text[start:end]) for start, end, kind in self.spans]


def found(text, *layers):
    return [(each.start, each.end, each.kind) for each in Layers(layers, ACTIONS).find(text)]


def test_for_each_kind_the_strictest_of_all_profiles_wins():
    assert merged_actions(
        [
            {"email": Action.TOKENIZE, "card": Action.BLOCK},
            {"email": Action.REDACT, "card": Action.ALLOW, "iban": Action.TOKENIZE},
        ]
    ) == {"email": Action.REDACT, "card": Action.BLOCK, "iban": Action.TOKENIZE}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([(2, 4, "b")], [(0, 9, "a")], [(0, 2, "a"), (2, 4, "b"), (4, 9, "a")]),
        ([(0, 9, "a")], [(2, 4, "b")], [(0, 2, "a"), (2, 4, "b"), (4, 9, "a")]),
        ([(0, 5, "a")], [(3, 9, "d")], [(0, 5, "a"), (5, 9, "d")]),
        ([(0, 3, "a"), (3, 6, "c")], [(1, 5, "d")], [(0, 3, "a"), (3, 6, "c")]),
        ([], [(1, 2, "a")], [(1, 2, "a")]),
    ],
)
def test_a_stricter_finding_stays_whole_and_the_other_keeps_what_is_left(first, second, expected):
    assert found("0123456789", Fixed(*first), Fixed(*second)) == expected


@st.composite
def spans(draw):
    cuts = sorted(draw(st.sets(st.integers(0, 30), max_size=10)))
    return [
        (start, end, draw(st.sampled_from("abcd"))) for start, end in zip(cuts[::2], cuts[1::2], strict=False)
    ]


@given(spans(), spans())
def test_every_character_gets_the_strictest_action_of_whoever_found_it(first, second):
    text = "x" * 31
    strength = [Action.ALLOW, Action.TOKENIZE, Action.REDACT, Action.BLOCK].index
    made = Layers((Fixed(*first), Fixed(*second)), ACTIONS).find(text)
    assert all(one.end <= other.start for one, other in pairwise(made))
    for at in range(31):
        wanted = max(
            (strength(ACTIONS[kind]) for start, end, kind in (*first, *second) if start <= at < end),
            default=0,
        )
        given_ = [strength(ACTIONS[each.kind]) for each in made if each.start <= at < each.end]
        assert given_ == ([wanted] if wanted else [])
