"""Experiments on a real gateway: sticky arms, what an arm sends, what the log and the report say of it."""

from collections import Counter

import orjson
import pytest
from django.test import Client

from gateway.models import RequestLog
from gateway.pipeline.scoring import text_of
from routing.entries import Arm
from routing.experiments import trials
from routing.experiments.models import Experiment
from routing.models import RoutingPolicy
from routing.policies import wordings
from routing.policies.split import Subject, choose_arm, unit_value
from tenants.models import AuditEvent, Tenant
from tenants.principal import SYSTEM
from tests.gateway import plane as planes

db, demo, drain = planes.db, planes.demo, planes.drain
USERS = 60
ARMS = [
    {"name": "as-is", "weight": 1},
    {"name": "large", "weight": 1, "targets": [{"model": "sandbox-large", "provider": "sandbox"}]},
    {
        "name": "brief",
        "weight": 1,
        "parameters": {"max_completion_tokens": 3},
        "system_prompt": "Be brief, and then be briefer still: nobody has the time.",
    },
]


@pytest.fixture(scope="module")
def experiment(demo):
    made = trials.create_experiment(
        slug="sizes",
        name="",
        policy=RoutingPolicy.objects.get(slug="cost-optimized"),
        unit="user",
        arms=ARMS,
        actor=SYSTEM,
    )
    return trials.start(experiment=made, actor=SYSTEM)


@pytest.fixture(scope="module")
def plane(demo, experiment, tmp_path_factory):
    with planes.serving(demo, tmp_path_factory.mktemp("data")) as started:
        yield started


def ask(plane, user, key=None, **more):
    headers = {"authorization": f"Bearer {key or plane.key}"}
    if user:
        headers["x-tollhouse-user"] = user
    return plane.http.post(
        f"{plane.url}/v1/chat/completions",
        headers=headers,
        json={
            "model": "policy:cost-optimized",
            "messages": [{"role": "user", "content": "Tell me a long story, please."}],
            **more,
        },
    )


@pytest.fixture(scope="module")
def calls(plane):
    """Two calls of each user, the second a stream every other time; then everything is in the log."""
    answers = [ask(plane, f"user-{n}") for n in range(USERS)]
    answers += [ask(plane, f"user-{n}", stream=n % 2 == 1) for n in range(USERS)]
    while drain():
        pass
    return answers


def logged():
    return RequestLog.objects.exclude(experiment="")


def test_each_user_has_one_arm_and_it_is_the_one_worked_out(calls, experiment):
    acme = Tenant.objects.get(slug="acme")
    seen = {}
    for row in logged():
        seen.setdefault(row.end_user, []).append(row.arm)
    assert len(seen) == USERS
    arms = tuple(Arm(arm["name"], arm["weight"]) for arm in experiment.arms)
    for user, given in seen.items():
        expected = choose_arm(experiment.salt, unit_value("user", Subject(acme.id, user)), arms)
        assert given == [expected.name, expected.name]


def test_arms_get_about_their_share(calls):
    """Chi-square, two degrees of freedom: above 18.4 once in ten thousand salts."""
    users = Counter(dict(logged().values_list("end_user", "arm")).values())
    assert sum((users[arm["name"]] - USERS / 3) ** 2 / (USERS / 3) for arm in ARMS) < 18.4


def test_an_arm_sends_what_it_says(calls):
    texts = {}
    for answer in calls[:USERS]:
        row = RequestLog.objects.get(request_id=answer.headers["x-request-id"])
        texts.setdefault(row.arm, []).append((row, text_of(answer.content)))
    assert {row.model for row, _ in texts["as-is"]} == {"sandbox-small"}
    assert {row.model for row, _ in texts["large"]} == {"sandbox-large"}
    assert {row.output_tokens for row, _ in texts["brief"]} == {3}
    assert min(row.output_tokens for row, _ in texts["as-is"]) > 3
    as_is, brief = texts["as-is"][0][0], texts["brief"][0][0]
    assert brief.input_tokens > as_is.input_tokens  # the system prompt counts
    assert {row.policy for row in logged()} == {"cost-optimized@1"}


def test_a_call_without_a_user_takes_no_part(plane, calls):
    answer = ask(plane, "")
    assert answer.status_code == 200
    while drain():
        pass
    row = RequestLog.objects.get(request_id=answer.headers["x-request-id"])
    assert (row.experiment, row.arm, row.model) == ("", "", "sandbox-small")


def test_the_generation_tells_its_arm(plane, calls):
    request_id = calls[0].headers["x-request-id"]
    shown = plane.http.get(
        f"{plane.url}/v1/generations/{request_id}", headers={"authorization": f"Bearer {plane.key}"}
    ).json()
    row = RequestLog.objects.get(request_id=request_id)
    assert shown["experiment"] == {"name": "sizes", "arm": row.arm}


def test_feedback_is_reported_by_arm(plane, calls):
    for answer in calls[:USERS]:
        row = RequestLog.objects.get(request_id=answer.headers["x-request-id"])
        given = plane.http.post(
            f"{plane.url}/v1/feedback",
            headers={"authorization": f"Bearer {plane.key}"},
            json={"request_id": str(row.request_id), "score": 1 if row.arm == "large" else -1},
        )
        assert given.status_code == 201
    arms = report(plane)
    assert {name: arm["feedback"]["value"] for name, arm in arms.items()} == {
        "as-is": -1.0,
        "large": 1.0,
        "brief": -1.0,
    }


def report(plane):
    operator = Client(headers={"authorization": f"Bearer {plane.demo['operator_key']}"})
    answer = operator.get("/api/v1/experiments/sizes/report/")
    assert answer.status_code == 200
    return {arm["name"]: arm for arm in answer.json()["arms"]}


def test_the_report_adds_up_to_the_log(plane, calls):
    arms = report(plane)
    assert sum(arm["n"] for arm in arms.values()) == 2 * USERS
    for name, arm in arms.items():
        rows = list(RequestLog.objects.filter(experiment="sizes", arm=name))
        assert arm["success"]["value"] == 1.0
        assert 0.8 < arm["success"]["low"] < arm["success"]["high"] == 1.0
        latencies = sorted(row.latency_ms for row in rows)
        assert arm["p50_ms"]["value"] == latencies[-(-len(rows) // 2) - 1]
        (cost,) = arm["cost"]
        mean_pico = sum(row.cost_pico for row in rows) / len(rows)
        assert float(cost["value"]) == pytest.approx(mean_pico / 10**12, rel=1e-9)
    dearer = {each["figure"]: each for each in arms["large"]["differences"]}
    assert dearer["success"]["wording"] == "no significant difference"
    assert dearer["p95_ms"]["wording"] == "too few calls"
    assert arms["as-is"]["differences"] == []


def test_a_tenant_may_not_read_experiments(plane):
    client = Client(headers={"authorization": f"Bearer {plane.key}"})
    for path in ("experiments/", "experiments/sizes/", "experiments/sizes/report/", "rollouts/"):
        assert client.get(f"/api/v1/{path}").status_code in (403, 404)


# ------------------------------------------------------------------ over the API


def api(demo):
    client = Client(headers={"authorization": f"Bearer {demo['operator_key']}"})

    def send(method, path, **body):
        answer = getattr(client, method)(
            f"/api/v1/experiments/{path}", orjson.dumps(body), content_type="application/json"
        )
        return answer.status_code, answer.json()

    return send


def test_an_experiments_life_over_the_api(demo):
    send = api(demo)
    arms = [{"name": "control"}, {"name": "other", "targets": ["sandbox-vision"]}]
    status, made = send("post", "", slug="life", policy="reliable", arms=arms)
    assert (status, made["status"], made["unit"]) == (201, "draft", "tenant")
    assert send("post", "", slug="life", policy="reliable", arms=arms)[0] == 409
    assert send("patch", "life/", unit="tag:team")[1]["unit"] == "tag:team"
    assert send("post", "life/start/")[1]["is_in_force"] is True
    assert send("post", "life/start/")[0] == 409
    assert send("patch", "life/", unit="user")[0] == 409
    rival = send("post", "", slug="rival", policy="reliable", arms=arms)
    assert rival[0] == 201
    status, refused = send("post", "rival/start/")
    assert (status, refused["error"]["code"]) == (409, "conflict")
    assert send("post", "life/promote/", arm="nobody")[1]["error"]["param"] == "arm"
    status, promoted = send("post", "life/promote/", arm="other")
    assert (promoted["status"], promoted["promoted_arm"], promoted["is_in_force"]) == (
        "promoted",
        "other",
        False,
    )
    newest = wordings.newest(RoutingPolicy.objects.get(slug="reliable"))
    assert (newest.number, newest.targets) == (2, ["sandbox-vision"])
    events = AuditEvent.objects.filter(object_type="experiment", object_id="life").order_by("sequence")
    assert [event.action for event in events] == [
        f"experiment.{verb}" for verb in ("create", "update", "start", "promote")
    ]
    assert send("post", "rival/start/")[0] == 200
    assert send("post", "rival/stop/")[1]["status"] == "stopped"
    assert send("post", "rival/stop/")[0] == 409


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"unit": "moon"}, "unit"),
        ({"slug": "rollouts"}, "slug"),
        ({"policy": "no-such"}, "policy"),
        ({"arms": [{"name": "one"}]}, "arms"),
        ({"arms": [{"name": "a"}, {"name": "a"}]}, "arms"),
        ({"arms": [{"name": "a"}, {"name": "b", "weight": 0}]}, "arms"),
        ({"arms": [{"name": "a"}, {"name": "B!"}]}, "arms.1.name"),
        ({"arms": [{"name": "a"}, {"name": "b", "wait": 1}]}, "arms.1.wait"),
        ({"arms": [{"name": "a"}, {"name": "b", "targets": ["none"]}]}, "arms.1.targets.0"),
        ({"arms": [{"name": "a"}, {"name": "b", "parameters": {"user": "x"}}]}, "arms.1.parameters.user"),
        (
            {"arms": [{"name": "a"}, {"name": "b", "parameters": {"temperature": 3}}]},
            "arms.1.parameters.temperature",
        ),
        ({"arms": [{"name": "a"}, {"name": "b", "system_prompt": 7}]}, "arms.1.system_prompt"),
    ],
)
def test_what_makes_no_sense_is_refused(demo, change, param):
    before = Experiment.objects.count()
    body = {"slug": "wrong", "policy": "eu-only", "arms": [{"name": "a"}, {"name": "b"}], **change}
    status, refused = api(demo)("post", "", **body)
    assert (status, refused["error"]["code"], refused["error"]["param"]) == (400, "invalid_request", param)
    assert Experiment.objects.count() == before
