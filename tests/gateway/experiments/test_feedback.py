"""`POST /v1/feedback` through both doors: checked, idempotent, and each tenant's own."""

import uuid

import pytest
from django.test import Client

from gateway.experiments.models import Feedback
from tenants import keys
from tenants.ids import uuid7
from tenants.models import Tenant
from tenants.principal import SYSTEM
from tests.gateway import plane as planes

db, demo, drain, plane = planes.db, planes.demo, planes.drain, planes.plane


@pytest.fixture(params=["", planes.DJANGO], ids=["asgi", "django"])
def door(request):
    return request.param


@pytest.fixture(scope="module")
def chat_only(demo):
    tenant = Tenant.objects.get(slug="acme")
    return keys.issue(tenant=tenant, name="chat", scopes=("inference:chat",), actor=SYSTEM).text


@pytest.fixture
def request_id(plane):
    answer = plane.http.post(
        f"{plane.url}/v1/chat/completions",
        headers={"authorization": f"Bearer {plane.key}"},
        json={"model": "sandbox-small", "messages": [{"role": "user", "content": "Hi"}]},
    )
    drain()
    return answer.headers["x-request-id"]


def give(plane, door, key=None, **body):
    return plane.http.post(
        f"{plane.url}{door}/v1/feedback", headers={"authorization": f"Bearer {key or plane.key}"}, json=body
    )


def test_feedback_is_stored_once_per_call_key_and_label(plane, door, request_id):
    first = give(plane, door, request_id=request_id, score=1, comment="Good")
    again = give(plane, door, request_id=request_id, score=1, comment="Good")
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert (first.json()["object"], first.json()["score"]) == ("feedback", 1.0)
    assert give(plane, door, request_id=request_id, score=-0.5).json()["score"] == -0.5
    assert give(plane, door, request_id=request_id, score=0, label="tone").status_code == 201
    rows = Feedback.objects.filter(request_id=request_id).order_by("label")
    assert [(row.label, row.score, row.comment) for row in rows] == [("", -0.5, ""), ("tone", 0.0, "")]
    assert {row.tenant.slug for row in rows} == {"acme"}


@pytest.mark.parametrize(("stars", "score"), [(1, -1.0), (3, 0.0), (5, 1.0), (4.5, 0.75)])
def test_stars_are_brought_to_the_same_scale(plane, request_id, stars, score):
    given = give(plane, "", request_id=request_id, score=stars, scale="stars")
    assert given.json()["score"] == score


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"score": 2}, "score"),
        ({"score": 0, "scale": "stars"}, "score"),
        ({"score": True}, "score"),
        ({"score": "1"}, "score"),
        ({"score": None}, "score"),
        ({"scale": "percent"}, "scale"),
        ({"request_id": "abc"}, "request_id"),
        ({"request_id": 7}, "request_id"),
        ({"comment": "x" * 2001}, "comment"),
        ({"label": "x" * 65}, "label"),
        ({"label": ["x"]}, "label"),
        ({"rating": 1}, "rating"),
    ],
)
def test_what_cannot_be_read_is_refused(plane, door, request_id, change, param):
    before = Feedback.objects.count()
    refused = give(plane, door, **{"request_id": request_id, "score": 1, **change})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert Feedback.objects.count() == before


def test_a_strangers_call_does_not_exist(plane, door, request_id):
    refused = give(plane, door, key=plane.other_key, request_id=request_id, score=1)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
    assert not Feedback.objects.filter(request_id=request_id).exists()


def test_an_unknown_old_id_is_refused_at_once(plane, door):
    for unknown in (uuid.uuid4(), uuid7(1_700_000_000_000)):
        assert give(plane, door, request_id=str(unknown), score=1).status_code == 404


def test_it_needs_its_scope_a_key_and_post(plane, door, request_id, chat_only):
    assert give(plane, door, key=chat_only, request_id=request_id, score=1).status_code == 403
    assert give(plane, door, key="th_wrong", request_id=request_id, score=1).status_code == 401
    url = f"{plane.url}{door}/v1/feedback"
    assert plane.http.get(url, headers={"authorization": f"Bearer {plane.key}"}).status_code == 405
    broken = plane.http.post(url, headers={"authorization": f"Bearer {plane.key}"}, content=b"{")
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_request")


def test_a_tenant_reads_its_own(plane, request_id):
    give(plane, "", request_id=request_id, score=1, label="mine")
    mine = Client(headers={"authorization": f"Bearer {plane.key}"}).get(
        "/api/v1/feedback/", {"label": "mine"}
    )
    assert request_id in {row["request_id"] for row in mine.json()["data"]}
    theirs = Client(headers={"authorization": f"Bearer {plane.other_key}"}).get("/api/v1/feedback/")
    assert theirs.json()["data"] == []
