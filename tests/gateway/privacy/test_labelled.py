"""What the detectors find in the labelled set, text by text."""

import pytest

from gateway.privacy.detect import Rules, compiled
from gateway.privacy.kinds import CARD, EMAIL, IBAN, IP_ADDRESS, NATIONAL_ID, PHONE, SECRET, Action
from tests.gateway.privacy.labelled import labelled, scores

KINDS = (EMAIL, PHONE, CARD, IBAN, NATIONAL_ID, IP_ADDRESS, SECRET)
DETECTOR = compiled(Rules(dict.fromkeys(KINDS, Action.TOKENIZE)))


def test_the_set_is_large_and_mixed() -> None:
    texts = labelled("tuning") + labelled("held_out")
    assert sum(bool(each.spans) for each in texts) >= 300
    assert sum(not each.spans for each in texts) >= 100
    assert len({each.language for each in texts}) >= 20
    assert {"prose", "json", "code", "log", "csv", "chat"} <= {each.form for each in texts}
    assert len({each.text for each in texts}) == len(texts)


@pytest.mark.parametrize("name", ["held_out", "tuning"])
@pytest.mark.parametrize("kind", KINDS)
def test_finds_each_kind_with_few_misses_and_fewer_false_alarms(name: str, kind: str) -> None:
    score = scores(labelled(name), DETECTOR)[kind]
    assert score.right >= 15
    assert score.precision >= 0.98
    assert score.recall >= 0.95
