"""A provider with a strict rate limit behind the real gateway: never refused there, never failed for it here."""

import pytest
from django.db import transaction

from benchmarks.walls import add_policy, add_provider
from tenants import versions
from tests.fakes import limited_provider
from tests.gateway import plane as planes

db, plane = planes.db, planes.plane

TIGHT, ROOMY = 10, 100_000


@pytest.fixture(scope="module")
def providers():
    with limited_provider.running(TIGHT, 60.0) as tight, limited_provider.running(ROOMY, 60.0) as roomy:
        yield tight, roomy


@pytest.fixture(scope="module")
def demo(db, providers):
    for demo in planes.rows(db):
        with transaction.atomic():
            versions.bump("routing")
            add_provider("tight", providers[0], ["tight", "alone"])
            add_provider("roomy", providers[1], ["roomy"])
            add_policy("spill", ["tight", "roomy"])
        yield demo


def call(plane, model):
    body = {"model": model, "messages": [{"role": "user", "content": "may I?"}], "max_tokens": 16}
    return plane.http.post(
        f"{plane.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {plane.key}"}
    )


def test_calls_beyond_a_providers_limit_go_to_the_next_target_and_none_is_refused(plane, providers):
    before, _ = limited_provider.seen(providers[0])
    answers = [call(plane, "policy:spill") for _ in range(30)]
    assert {answer.status_code for answer in answers} == {200}
    served = [answer.headers["x-tollhouse-provider"] for answer in answers]
    accepted, refused = limited_provider.seen(providers[0])
    assert served.count("tight") == len(accepted) - len(before) <= TIGHT
    assert served.count("tight") >= TIGHT / 2
    assert served.count("roomy") == 30 - served.count("tight")
    assert refused == []


def test_where_no_other_target_is_left_the_caller_is_told_when_to_come_back(plane, providers):
    _, refused_before = limited_provider.seen(providers[0])
    for _ in range(TIGHT + 1):
        answer = call(plane, "alone")
        if answer.status_code != 200:
            break
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "provider_overloaded"
    assert 1 <= int(answer.headers["retry-after"]) <= 61
    _, refused = limited_provider.seen(providers[0])
    assert len(refused) == len(refused_before)
