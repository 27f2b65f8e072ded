"""Malformed requests by the thousand: no 500, no hang, no row from a refused one. Fixed seeds, so always the same.

`make fuzz` runs 100,000 of them (FUZZ_REQUESTS) and prints what came back.
"""

import os
from urllib.parse import urlsplit

import pytest
from drf_spectacular.generators import SchemaGenerator

from tests.gateway import fuzz
from tests.gateway import plane as planes

db, demo, drain = planes.db, planes.demo, planes.drain

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "3000"))
SEED = 20_261_124
KNOWN = ["acme", "globex", "sandbox", "sandbox-large", "starter", "00000000-0000-0000-0000-000000000001", "1"]


@pytest.fixture(scope="module")
def plane(demo, tmp_path_factory):
    with planes.serving(demo, tmp_path_factory.mktemp("data")) as started:
        yield started


@pytest.fixture(scope="module")
def schema(plane):
    return SchemaGenerator().get_schema(request=None, public=True)


@pytest.fixture
def campaign(plane, request):
    port = urlsplit(plane.url).port
    made = fuzz.Campaign(fuzz.Wire(port), **getattr(request, "param", {}))
    yield made
    made.wire.close()
    print(f"\n{request.node.name}: {made.report()}")


def finish(campaign):
    assert campaign.hangs == 0
    assert campaign.broken == {}


@pytest.mark.parametrize("campaign", [{"counts_every": 200}], indirect=True, ids=["data plane"])
def test_the_data_plane_refuses_in_order(plane, campaign):
    fuzz.examples(fuzz.data_plane([plane.key, plane.other_key]), REQUESTS * 6 // 10, SEED)(campaign.run)
    finish(campaign)
    assert campaign.statuses[400] > campaign.requests // 3
    from billing.models import UsageEvent

    # A ledger row for each call that reached a provider, and for no other.
    written = UsageEvent.objects.count()
    while drain():
        pass
    assert UsageEvent.objects.count() - written == campaign.wire.reached


def test_the_control_plane_refuses_in_order(plane, demo, schema, campaign):
    keys = [demo["operator_key"], plane.key]
    fuzz.examples(fuzz.control_plane(keys, schema, KNOWN), REQUESTS * 3 // 10, SEED)(campaign.run)
    finish(campaign)


@pytest.mark.parametrize("prefix", ["/v1", "/api/v1/"])
def test_what_schemathesis_makes_of_the_schema_is_answered_in_order(plane, demo, schema, campaign, prefix):
    keys = [demo["operator_key"], plane.key] if prefix == "/api/v1/" else [plane.key]
    share = REQUESTS // (50 if prefix == "/v1" else 10)
    fuzz.from_schema(schema, prefix, keys, share, SEED)(campaign.run)
    finish(campaign)


@pytest.mark.parametrize(
    ("path", "spoilt", "param"),
    [
        ("/v1/chat/completions", {"messages": [{"role": {}, "content": "a"}]}, "messages[0].role"),
        (
            "/v1/chat/completions",
            {"tool_choice": {"type": "function", "function": {"name": {}}}},
            "tool_choice",
        ),
        (
            "/v1beta/models/sandbox-large:generateContent",
            {"toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": True}}},
            "toolConfig.functionCallingConfig.allowedFunctionNames",
        ),
    ],
)
def test_what_fuzzing_once_broke_is_refused_by_name(plane, path, spoilt, param):
    headers = {"authorization": f"Bearer {plane.key}"}
    answer = plane.http.post(plane.url + path, json=fuzz.TEMPLATES[path] | spoilt, headers=headers)
    assert answer.status_code == 400
    assert f'"param":"{param}"' in answer.text


def test_a_header_or_query_of_digits_that_are_no_number_is_refused(plane, demo):
    # ² is a digit to isdigit(), not to int(); and int() takes no more than 4,300 digits.
    headers = {"authorization": f"Bearer {plane.key}", "x-tollhouse-timeout-ms": b"\xb2"}
    answer = plane.http.post(
        f"{plane.url}/v1/embeddings", json=fuzz.TEMPLATES["/v1/embeddings"], headers=headers
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "X-Tollhouse-Timeout-Ms")
    answer = plane.http.get(
        f"{plane.url}/api/v1/policies/reliable/diff/?from={'9' * 5000}&to=1",
        headers={"authorization": f"Bearer {demo['operator_key']}"},
    )
    assert answer.status_code in (400, 404)
