"""Gated rollouts on a real gateway: shadowed first, then a growing share; advanced and taken back by the gates."""

import time
from decimal import Decimal

import orjson
import psycopg
import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from billing.models import UsageEvent
from billing.usage.verify import verify
from gateway import tasks
from gateway.experiments.evaluation import LOCK, evaluate
from gateway.experiments.models import ShadowSample
from gateway.models import RequestLog
from gateway.state import process as state
from routing import provisioning
from routing.catalog import rates
from routing.demo import PRICED_FROM
from routing.experiments import rollouts
from routing.experiments.models import Rollout
from routing.models import Model, Provider, RoutingPolicy
from routing.policies import wordings
from tenants import versions
from tenants.models import AuditEvent
from tenants.principal import SYSTEM
from tests.gateway import plane as planes

db, demo, drain = planes.db, planes.demo, planes.drain
BROKEN = "broken [[sandbox status=500]]"
STAGES = [
    {"kind": "shadow", "share": 0.5},
    {"kind": "live", "share": 0.5},
    {"kind": "live", "share": 1.0},
]
LARGE = [{"model": "sandbox-large", "provider": "sandbox"}]


@pytest.fixture(scope="module")
def plane(demo, tmp_path_factory):
    provisioning.add_endpoint(
        provider=Provider.objects.get(slug="sandbox"),
        model=Model.objects.get(slug="sandbox-large"),
        provider_model=BROKEN,
        region="",
        weight=0,
        actor=SYSTEM,
    )
    for component in ("input", "output"):
        rate = rates.NewRate("sandbox", BROKEN, component, Decimal(100), PRICED_FROM)
        rates.open_rate(rate=rate, actor=SYSTEM)
    with planes.serving(demo, tmp_path_factory.mktemp("data")) as started:
        yield started


def begun(slug, policy, **more):
    given = {
        "candidate": {"targets": LARGE},
        "stages": STAGES,
        "gates": {"max_success_drop": 0.05},
        "min_samples": 5,
        "min_stage_s": 0,
        "per_minute": 6000,
        **more,
    }
    row = RoutingPolicy.objects.get(slug=policy)
    return rollouts.begin_rollout(slug=slug, name="", policy=row, actor=SYSTEM, **given)


def caught_up():
    """The gateway has the newest configuration."""
    wanted = versions.current()["routing"]
    while state.current().snapshot.routing.version < wanted:
        time.sleep(0.02)


def drive(plane, policy, count=24, **more):
    """So many calls of the policy; everything they led to is in the database then."""
    caught_up()
    answers = [
        plane.http.post(
            f"{plane.url}/v1/chat/completions",
            headers={"authorization": f"Bearer {plane.key}"},
            json={
                "model": f"policy:{policy}",
                "messages": [{"role": "user", "content": f"Hi {n}"}],
                **more,
            },
        )
        for n in range(count)
    ]
    while state.current().shadows.in_flight:
        time.sleep(0.01)
    while drain():
        pass
    return answers


def test_a_good_candidate_goes_from_shadow_to_all_calls(plane):
    rollout = begun("better", "cost-optimized")
    answers = drive(plane, "cost-optimized")
    assert {answer.headers["x-tollhouse-policy"] for answer in answers} == {"cost-optimized@1"}
    assert {row.rollout for row in ShadowSample.objects.all()} == {"better"}
    assert not RequestLog.objects.exclude(experiment="").exists()
    assert tasks.evaluate_rollouts()["better"] == "advance"

    answers = drive(plane, "cost-optimized", 40)
    served = {answer.headers["x-tollhouse-policy"] for answer in answers}
    assert served == {"cost-optimized@1", "cost-optimized@1+rollout"}
    sides = {
        (row.arm, row.model, row.policy) for row in RequestLog.objects.filter(experiment="rollout:better")
    }
    assert sides == {
        ("control", "sandbox-small", "cost-optimized@1"),
        ("candidate", "sandbox-large", "cost-optimized@1+rollout"),
    }
    assert tasks.evaluate_rollouts()["better"] == "advance"

    answers = drive(plane, "cost-optimized", 8)
    assert {answer.headers["x-tollhouse-policy"] for answer in answers} == {"cost-optimized@1+rollout"}
    assert tasks.evaluate_rollouts()["better"] == "advance"

    rollout.refresh_from_db()
    assert (rollout.status, rollout.stage) == ("completed", 2)
    newest = wordings.newest(rollout.policy)
    assert (newest.number, newest.targets, newest.strategy) == (2, LARGE, "cost")
    decisions = list(rollout.decisions.values_list("verdict", "from_stage", "to_stage"))
    assert decisions == [("start", 0, 0), ("advance", 0, 1), ("advance", 1, 2), ("complete", 2, 2)]
    for decision in rollout.decisions.exclude(verdict="start"):
        assert decision.figures["candidate"]["n"] >= 5
        assert [gate["is_open"] for gate in decision.figures["gates"]] == [True]
    events = AuditEvent.objects.filter(object_type="rollout", object_id="better").order_by("sequence")
    assert [event.action for event in events] == [
        "rollout.start",
        "rollout.advance",
        "rollout.advance",
        "rollout.complete",
    ]
    (answer,) = drive(plane, "cost-optimized", 1)
    assert answer.headers["x-tollhouse-policy"] == "cost-optimized@2"
    assert "better" not in tasks.evaluate_rollouts()
    assert verify().ok


def test_a_broken_candidate_is_taken_back_before_anybody_sees_it(plane):
    rollout = begun(
        "worse",
        "eu-only",
        candidate={"targets": [{"model": BROKEN, "provider": "sandbox"}], "constraints": {}},
    )
    answers = drive(plane, "eu-only")
    assert {answer.status_code for answer in answers} == {200}
    assert tasks.evaluate_rollouts()["worse"] == "roll_back"
    rollout.refresh_from_db()
    assert (rollout.status, rollout.stage) == ("rolled_back", 0)
    last = rollout.decisions.last()
    assert (last.verdict, last.figures["candidate"]["successes"]) == ("roll_back", 0)
    before = UsageEvent.objects.filter(kind="shadow").count()
    drive(plane, "eu-only", 6)
    assert UsageEvent.objects.filter(kind="shadow").count() == before
    assert wordings.newest(rollout.policy).number == 1


def test_a_candidate_that_breaks_when_live_is_taken_back_for_everybody(plane):
    rollout = begun(
        "breaks",
        "latency-optimized",
        candidate={
            "strategy": "ordered",
            "targets": [{"model": BROKEN, "provider": "sandbox"}],
            "max_attempts": 1,
        },
        stages=[{"kind": "live", "share": 0.5}, {"kind": "live", "share": 1}],
    )
    statuses = {answer.status_code for answer in drive(plane, "latency-optimized")}
    assert statuses == {200, 502}
    assert tasks.evaluate_rollouts()["breaks"] == "roll_back"
    rollout.refresh_from_db()
    assert rollout.status == "rolled_back"
    assert {answer.status_code for answer in drive(plane, "latency-optimized", 8)} == {200}


def test_too_few_calls_hold_and_say_so(plane):
    rollout = begun("slow", "reliable", min_samples=1000)
    drive(plane, "reliable", 2)
    assert tasks.evaluate_rollouts()["slow"] == "hold"
    rollout.refresh_from_db()
    assert rollout.evaluation["reason"].endswith("of 1000 calls measured")
    assert rollout.decisions.count() == 1
    rollouts.roll_back(rollout=rollout, reason="Enough.", figures={}, actor=SYSTEM)


def test_whoever_comes_second_leaves_it_to_the_first(plane):
    rollout = begun("twice", "reliable")

    with psycopg.connect(**connection.get_connection_params() | {"cursor_factory": None}) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [LOCK, str(rollout.pk)])
        assert evaluate(rollout_id=rollout.pk, now=timezone.now()) == "busy"
    assert evaluate(rollout_id=rollout.pk, now=timezone.now()) == "hold"
    rollouts.roll_back(rollout=rollout, reason="Enough.", figures={}, actor=SYSTEM)
    assert evaluate(rollout_id=rollout.pk, now=timezone.now()) == "over"


def test_a_policy_that_was_changed_meanwhile_is_never_overwritten(plane):
    policy = RoutingPolicy.objects.get(slug="reliable")
    rollout = begun("overtaken", "reliable")
    current = wordings.wording_of(wordings.newest(policy))
    changed = wordings.Wording(current.strategy, ["sandbox-vision"], current.constraints)
    wordings.change_policy(policy=policy, name="", is_enabled=True, wording=changed, actor=SYSTEM)
    assert tasks.evaluate_rollouts()["overtaken"] == "roll_back"
    rollout.refresh_from_db()
    assert rollout.decisions.last().reason.startswith("The policy was changed meanwhile")
    assert wordings.newest(policy).targets == ["sandbox-vision"]


# ------------------------------------------------------------------ over the API


def api(demo):
    client = Client(headers={"authorization": f"Bearer {demo['operator_key']}"})

    def send(path, **body):
        answer = client.post(f"/api/v1/rollouts/{path}", orjson.dumps(body), content_type="application/json")
        return answer.status_code, answer.json()

    return send


def test_a_person_may_decide_instead_of_the_gates(plane):
    send = api(plane.demo)
    body = {"slug": "by-hand", "policy": "reliable", "candidate": {"strategy": "cost"}}
    status, made = send("", **body)
    assert (status, made["status"], made["stage"]) == (201, "running", 0)
    assert [stage["share"] for stage in made["stages"]] == [0.05, 0.1, 0.5, 1.0]
    assert send("", **body)[0] == 409
    assert send("", **{**body, "slug": "second"})[1]["error"]["code"] == "conflict"
    status, moved = send("by-hand/advance/", reason="Looks good.")
    assert (status, moved["stage"]) == (200, 1)
    assert [(each["verdict"], each["reason"]) for each in moved["decisions"]] == [
        ("start", "The rollout began."),
        ("advance", "Looks good."),
    ]
    assert send("by-hand/rollback/")[1]["status"] == "rolled_back"
    assert send("by-hand/advance/")[0] == 409
    assert send("no-such/advance/")[0] == 404


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"candidate": {}}, "candidate"),
        ({"candidate": {"speed": 1}}, "candidate.speed"),
        ({"candidate": {"strategy": "magic"}}, "strategy"),
        ({"candidate": {"version": 1, "strategy": "cost"}}, "candidate.version"),
        ({"candidate": {"max_attempts": "many"}}, "candidate"),
        ({"stages": [{"kind": "live", "share": 0.5}]}, "stages"),
        ({"stages": [{"kind": "live", "share": 1}, {"kind": "live", "share": 1}]}, "stages.1"),
        ({"stages": [{"kind": "shadow", "share": 0.6}, {"kind": "live", "share": 1}]}, "stages.0.share"),
        ({"gates": {"speed": 1}}, "gates"),
        ({"gates": {"min_score": 0.5}}, "gates.min_score"),
        ({"scoring": {"kind": "rubric", "rubric": "Nice?"}}, "scoring.target"),
        ({"min_samples": 0}, "min_samples"),
        ({"unit": "moon"}, "unit"),
    ],
)
def test_what_makes_no_sense_is_refused(plane, change, param):
    before = Rollout.objects.count()
    body = {"slug": "wrong", "policy": "cost-optimized", "candidate": {"strategy": "ordered"}, **change}
    status, refused = api(plane.demo)("", **body)
    assert (status, refused["error"]["code"], refused["error"]["param"]) == (400, "invalid_request", param)
    assert Rollout.objects.count() == before
