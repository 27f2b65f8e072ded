"""The console's pages of experiments and rollouts, clicked."""

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from routing.experiments.models import Experiment, Rollout
from routing.models import RoutingPolicy
from tests.gateway import console_world

pytestmark = pytest.mark.django_db


@pytest.fixture
def world():
    return console_world.build(now=timezone.now(), calls=60)


@pytest.fixture
def operator(world):
    client = Client()
    client.force_login(world.operator, backend="allauth.account.auth_backends.AuthenticationBackend")
    return client


def page(client, name, *args):
    answer = client.get(reverse(name, args=args))
    assert answer.status_code == 200
    return answer.content.decode()


def test_an_experiment_is_written_started_stopped_and_promoted(operator):
    policy = RoutingPolicy.objects.get(slug="eu-careful")
    Rollout.objects.update(status="rolled_back")
    form = {
        "slug": "sizes",
        "policy": policy.pk,
        "unit": "user",
        "arms": '[{"name": "a"}, {"name": "b", "targets": ["gpt-4o"]}]',
    }
    assert operator.post(reverse("experiment_create"), form).status_code == 302
    for verb, status in (("start", "running"), ("stop", "stopped")):
        assert operator.post(reverse(f"experiment_{verb}", args=("sizes",))).status_code == 302
        assert Experiment.objects.get(slug="sizes").status == status
    operator.post(reverse("experiment_promote", args=("sizes",)), {"arm": "b"})
    made = Experiment.objects.get(slug="sizes")
    assert (made.status, made.promoted_arm) == ("promoted", "b")
    assert "promoted: b" in page(operator, "experiment_detail", "sizes")


def test_a_draft_that_makes_no_sense_comes_back_with_its_reason(operator):
    policy = RoutingPolicy.objects.get(slug="eu-careful")
    form = {"slug": "wrong", "policy": policy.pk, "unit": "moon", "arms": '[{"name": "a"}, {"name": "b"}]'}
    answer = operator.post(reverse("experiment_create"), form)
    assert answer.status_code == 422
    assert "unit must be tenant, user or tag:" in answer.content.decode()
    assert not Experiment.objects.filter(slug="wrong").exists()


def test_a_refusal_is_told(operator):
    answer = operator.post(reverse("experiment_start", args=("tone",)), follow=True)
    assert "This experiment is running." in answer.content.decode()


def test_the_report_shows_every_arm_with_intervals(operator):
    shown = page(operator, "experiment_detail", "tone")
    for arm in ("as-is", "larger", "brief"):
        assert arm in shown
    assert "no significant difference" in shown
    assert "too few calls" in shown


def test_a_rollout_is_begun_taken_further_and_taken_back(operator):
    Experiment.objects.update(status="stopped", is_in_force=False)
    policy = RoutingPolicy.objects.get(slug="cheap-first")
    form = {
        "slug": "try",
        "policy": policy.pk,
        "candidate": '{"strategy": "latency"}',
        "min_samples": 10,
        "min_stage_s": 0,
    }
    assert operator.post(reverse("rollout_create"), form).status_code == 302
    url = reverse("rollout_decide", args=("try",))
    operator.post(url, {"verdict": "advance", "stage": "0", "reason": "Fine so far."})
    stale = operator.post(url, {"verdict": "advance", "stage": "0"}, follow=True)
    assert "This rollout is at stage 1 by now." in stale.content.decode()
    operator.post(url, {"verdict": "roll_back", "stage": "1"})
    made = Rollout.objects.get(slug="try")
    assert (made.status, made.stage) == ("rolled_back", 1)
    assert [each.reason for each in made.decisions.all()] == [
        "The rollout began.",
        "Fine so far.",
        "By hand.",
    ]


def test_a_rollouts_page_shows_stages_figures_gates_and_decisions(operator):
    shown = page(operator, "rollout_detail", "go-careful")
    for words in (
        "31 of 100 calls measured",
        "max_cost_ratio",
        "not known yet",
        "140 calls passed every gate",
    ):
        assert words in shown


def test_a_candidate_that_is_no_object_comes_back_with_its_reason(operator):
    Experiment.objects.update(status="stopped", is_in_force=False)
    policy = RoutingPolicy.objects.get(slug="cheap-first")
    form = {"slug": "try", "policy": policy.pk, "candidate": "[1]", "min_samples": 10, "min_stage_s": 0}
    answer = operator.post(reverse("rollout_create"), form)
    assert answer.status_code == 422
    assert "This must be a JSON object." in answer.content.decode()
