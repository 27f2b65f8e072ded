from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from billing.alerts.firing import fire
from billing.models import AlertChannel, AlertDelivery, AlertFiring, AlertRule, AlertStep, Budget
from tenants.models import AuditEvent, IdempotencyRecord
from tests.billing.alerts.world import SLACK_URL, alarm, channel
from tests.factories import api_key, client_with, tenant

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.billing.urls")]

API = "/api/v1"
HOOK = {"name": "hook", "kind": "webhook", "target": "https://8.8.8.8/hook"}


def error_of(response: Any) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


@pytest.fixture
def acme():
    return tenant("acme")


@pytest.fixture
def mine(acme) -> APIClient:
    return client_with(acme, "budgets:*")


# ------------------------------------------------------------------ channels


def test_a_webhooks_secret_is_shown_once_and_never_replayed_audited_or_read(mine) -> None:
    given = {"tenant": "acme", **HOOK}
    made = mine.post(f"{API}/alert-channels/", given, format="json", headers={"Idempotency-Key": "k"})
    assert made.status_code == 201
    secret = made.json()["secret"]
    assert secret.startswith("whsec_")
    again = mine.post(f"{API}/alert-channels/", given, format="json", headers={"Idempotency-Key": "k"})
    assert (again.json()["id"], again.json()["secret"]) == (made.json()["id"], None)
    assert mine.get(f"{API}/alert-channels/{made.json()['id']}/").json()["secret"] is None
    assert secret not in str([*AuditEvent.objects.values(), *IdempotencyRecord.objects.values()])
    row = AlertChannel.objects.get()
    assert secret.encode() not in bytes(row.sealed)
    assert secret in row.secret()


@pytest.mark.parametrize(
    ("given", "shown", "sealed"),
    [
        ({"kind": "slack", "target": SLACK_URL}, "https://8.8.4.4/…cret", SLACK_URL),
        ({"kind": "pagerduty", "target": "a" * 28 + "wxyz"}, "…wxyz", "a" * 28 + "wxyz"),
        (
            {"kind": "email", "target": "a@x.example,  b@x.example,a@x.example"},
            "a@x.example, b@x.example",
            "",
        ),
    ],
)
def test_what_opens_a_door_goes_in_and_does_not_come_out(mine, given, shown, sealed) -> None:
    made = mine.post(f"{API}/alert-channels/", {"tenant": "acme", "name": "n", **given}, format="json")
    assert (made.status_code, made.json()["target"], made.json()["secret"]) == (201, shown, None)
    assert AlertChannel.objects.get().secret() == sealed
    if sealed:
        assert sealed not in str([*AuditEvent.objects.values()])


@pytest.mark.parametrize(
    ("given", "code", "param"),
    [
        ({"kind": "webhook", "target": "http://8.8.8.8/"}, "url_not_allowed", "target"),
        ({"kind": "webhook", "target": "https://127.0.0.1/"}, "url_not_allowed", "target"),
        ({"kind": "slack", "target": "https://169.254.169.254/"}, "url_not_allowed", "target"),
        ({"kind": "pagerduty", "target": "short"}, "invalid_request", "target"),
        ({"kind": "email", "target": "nobody"}, "invalid_request", "target"),
        ({"kind": "email", "target": " , "}, "invalid_request", "target"),
        ({"kind": "email", "target": "a@x.example\nbcc: b@x.example"}, "invalid_request", "target"),
        ({"kind": "fax", "target": "1"}, "invalid_request", "kind"),
        ({**HOOK, "sealed": "x"}, "unknown_field", "sealed"),
        ({**HOOK, "secret": "whsec_x"}, "unknown_field", "secret"),
        ({**HOOK, "quiet_from": "22:00"}, "invalid_request", "quiet_to"),
        ({**HOOK, "timezone": "Mars/Base"}, "invalid_request", "timezone"),
        ({**HOOK, "tenant": "globex"}, "invalid_request", "tenant"),
    ],
)
def test_a_channel_that_cannot_work_is_refused_and_nothing_is_kept(mine, given, code, param) -> None:
    tenant("globex")
    response = mine.post(f"{API}/alert-channels/", {"tenant": "acme", "name": "n", **given}, format="json")
    assert error_of(response) == (400, code, param)
    assert not AlertChannel.objects.exists()


def test_the_operators_own_channel_is_the_operators(mine) -> None:
    assert error_of(mine.post(f"{API}/alert-channels/", HOOK, format="json"))[:2] == (
        403,
        "permission_denied",
    )
    made = client_with(None, "budgets:*").post(f"{API}/alert-channels/", HOOK, format="json")
    assert (made.status_code, made.json()["tenant"]) == (201, None)
    assert mine.get(f"{API}/alert-channels/").json()["data"] == []
    assert mine.get(f"{API}/alert-channels/{made.json()['id']}/").status_code == 404


def test_a_channel_changes_its_target_and_keeps_its_kind_and_secret(mine, acme) -> None:
    hook = channel(acme, "webhook", "https://8.8.8.8/a")
    before = hook.secret()
    url = f"{API}/alert-channels/{hook.pk}/"
    assert mine.patch(url, {"target": "https://8.8.8.8/b", "name": "b"}, format="json").status_code == 200
    held = AlertChannel.objects.get()
    assert (held.target, held.name, held.secret()) == ("https://8.8.8.8/b", "b", before)
    assert error_of(mine.patch(url, {"kind": "slack"}, format="json")) == (400, "invalid_request", "kind")
    slack = channel(acme, "slack", SLACK_URL)
    mine.patch(f"{API}/alert-channels/{slack.pk}/", {"target": "https://8.8.4.4/new-one"}, format="json")
    assert AlertChannel.objects.get(pk=slack.pk).secret() == "https://8.8.4.4/new-one"


def test_rotating_shows_a_fresh_secret_once_and_only_of_a_webhook(mine, acme) -> None:
    hook, mail = channel(acme, "webhook"), channel(acme, "email")
    before = hook.secret()
    made = mine.post(f"{API}/alert-channels/{hook.pk}/rotate-secret/", {"grace_s": 60}, format="json")
    assert made.status_code == 201
    assert made.json()["secret"] not in before
    held = AlertChannel.objects.get(pk=hook.pk).secret()
    assert made.json()["secret"] in held
    assert before.split('"')[3] in held
    refused = mine.post(f"{API}/alert-channels/{mail.pk}/rotate-secret/", {}, format="json")
    assert error_of(refused) == (409, "conflict", None)


def test_a_deleted_channel_takes_its_secret_along_and_leaves_its_log(mine, acme) -> None:
    hook = channel(acme, "webhook")
    fire(alarm=alarm(acme), now=timezone.now())
    assert mine.delete(f"{API}/alert-channels/{hook.pk}/").status_code == 204
    delivery = AlertDelivery.objects.get()
    assert (delivery.channel, delivery.state) == (None, "cancelled")
    assert mine.get(f"{API}/alert-deliveries/").json()["data"][0]["channel_label"] == "webhook (webhook)"


# ------------------------------------------------------------------ rules


def rule(**changes: Any) -> dict[str, Any]:
    return {"tenant": "acme", "name": "errors", "kind": "error_rate", "thresholds": ["5"], **changes}


def test_a_rule_tells_channels_in_steps_and_shows_them_again(mine, acme) -> None:
    first, second = channel(acme, "email"), channel(acme, "webhook")
    given = rule(channels=[str(first.pk)], escalation=[{"after_s": 900, "channels": [str(second.pk)]}])
    made = mine.post(f"{API}/alert-rules/", given, format="json")
    assert made.status_code == 201, made.json()
    shown = made.json()
    assert (shown["channels"], shown["escalation"]) == (given["channels"], given["escalation"])
    assert shown["thresholds"] == ["5"]
    url = f"{API}/alert-rules/{shown['id']}/"
    changed = mine.patch(url, {"thresholds": ["5", "20.5"], "escalation": []}, format="json").json()
    assert (changed["thresholds"], changed["channels"], changed["escalation"]) == (
        ["5", "20.5"],
        given["channels"],
        [],
    )
    assert AlertStep.objects.count() == 1
    assert AuditEvent.objects.get(action="alertrule.update").after["thresholds"] == ["5", "20.5"]
    assert mine.delete(url).status_code == 204


def test_a_rule_that_makes_no_sense_is_refused_and_nothing_is_kept(mine, acme) -> None:
    budget = Budget.objects.create(tenant=acme, limit=10)
    elsewhere = tenant("globex")
    theirs = Budget.objects.create(tenant=elsewhere, limit=10)
    their_key = api_key(elsewhere).key
    own_key = api_key(acme).key
    of_budget = rule(kind="budget", budget=str(budget.pk))
    for given, param in [
        (rule(thresholds=[]), "thresholds"),
        (rule(thresholds=["101"]), "thresholds"),
        (rule(thresholds=["5", "5.0"]), "thresholds"),
        (rule(budget=str(budget.pk)), "budget"),
        (rule(basis="forecast"), "basis"),
        (rule(kind="budget"), "budget"),
        (rule(kind="budget", budget=str(theirs.pk)), "budget"),
        (rule(key=str(their_key.pk)), "key"),
        (rule(key=str(uuid4())), "key"),
        ({**of_budget, "thresholds": ["12.5"]}, "thresholds"),
        ({**of_budget, "feature": "chat"}, "feature"),
        ({**of_budget, "actions": ["freeze_key"]}, "actions"),
        (rule(key=str(own_key.pk), actions=["throttle_key"]), "throttle_rpm"),
        (rule(kind="anomaly", thresholds=["0"]), "thresholds"),
        (rule(channels=[str(uuid4())]), "channels"),
        (rule(channels=[str(channel(elsewhere, "email").pk)]), "channels"),
        (rule(channels=[str(channel(None, "email").pk)]), "channels"),
        (rule(tenant="globex"), "tenant"),
    ]:
        response = mine.post(f"{API}/alert-rules/", given, format="json")
        assert error_of(response) == (400, "invalid_request", param), given
    assert not AlertRule.objects.exists()


def test_what_shows_cost_or_touches_a_key_takes_the_scope_for_it(mine, acme) -> None:
    key = api_key(acme).key
    cost = Budget.objects.create(tenant=acme, limit=10, measure="cost")
    freezing = rule(key=str(key.pk), actions=["freeze_key"])
    for given in (
        rule(kind="margin", thresholds=["20"]),
        rule(kind="budget", budget=str(cost.pk), thresholds=["80"]),
        freezing,
    ):
        response = mine.post(f"{API}/alert-rules/", given, format="json")
        assert error_of(response)[:2] == (403, "permission_denied")
    assert not AlertRule.objects.exists()
    keeper = client_with(acme, "budgets:*", "keys:write")
    assert keeper.post(f"{API}/alert-rules/", freezing, format="json").status_code == 201


def test_the_operator_may_be_told_of_a_tenants_trouble_and_watch_the_platform(acme) -> None:
    operator = client_with(None, "budgets:*", "cost:read")
    pager = channel(None, "pagerduty")
    made = operator.post(f"{API}/alert-rules/", rule(channels=[str(pager.pk)]), format="json")
    assert made.status_code == 201
    platform = rule(tenant=None, kind="margin", thresholds=["20", "0"])
    assert operator.post(f"{API}/alert-rules/", platform, format="json").json()["tenant"] is None


# ------------------------------------------------------------------ firings


def test_an_alert_is_read_acknowledged_and_snoozed(mine, acme) -> None:
    row = fire(alarm=alarm(acme), now=timezone.now())
    url = f"{API}/alerts/{row.pk}/"
    shown = mine.get(url).json()
    assert (shown["state"], shown["threshold"], shown["value"], shown["limit"]) == (
        "firing",
        "80",
        "8.5",
        "10",
    )
    assert mine.post(f"{url}acknowledge/", {}, format="json").json()["state"] == "acknowledged"
    until = (timezone.now() + timedelta(hours=1)).isoformat()
    assert mine.post(f"{url}snooze/", {"until": until}, format="json").json()["snoozed_until"] is not None
    far = (timezone.now() + timedelta(days=31)).isoformat()
    assert error_of(mine.post(f"{url}snooze/", {"until": far}, format="json")) == (
        400,
        "invalid_request",
        "until",
    )
    assert {event.action for event in AuditEvent.objects.filter(object_type="alert")} == {
        "alert.fire",
        "alert.acknowledge",
        "alert.snooze",
    }


def test_reading_is_no_writing(acme) -> None:
    row = fire(alarm=alarm(acme), now=timezone.now())
    reader = client_with(acme, "budgets:read")
    assert reader.get(f"{API}/alerts/{row.pk}/").status_code == 200
    for path in ("acknowledge/", "snooze/"):
        assert reader.post(f"{API}/alerts/{row.pk}/{path}", {}, format="json").status_code == 403
    assert AlertFiring.objects.get().state == "firing"


def test_an_alert_about_cost_exists_only_with_cost_read(mine, acme) -> None:
    hidden = fire(alarm=alarm(acme, is_cost=True), now=timezone.now())
    seen = fire(alarm=alarm(acme, threshold=Decimal(90)), now=timezone.now())
    channel(acme, "email")
    AlertDelivery.objects.create(
        tenant=acme, firing=hidden, channel_label="x", event="fired", payload={"title": "t"},
        next_at=timezone.now(),
    )  # fmt: skip
    assert [each["id"] for each in mine.get(f"{API}/alerts/").json()["data"]] == [str(seen.pk)]
    assert mine.get(f"{API}/alerts/{hidden.pk}/").status_code == 404
    assert mine.get(f"{API}/alert-deliveries/").json()["data"] == []
    knowing = client_with(acme, "budgets:read", "cost:read")
    assert len(knowing.get(f"{API}/alerts/").json()["data"]) == 2
    assert len(knowing.get(f"{API}/alert-deliveries/").json()["data"]) == 1


def test_a_delivery_shows_its_attempts_and_only_dead_letters_are_replayed(mine, acme) -> None:
    hook = channel(acme, "webhook")
    row = fire(alarm=alarm(acme), now=timezone.now())
    delivery = AlertDelivery.objects.get()
    (shown,) = mine.get(f"{API}/alerts/{row.pk}/deliveries/").json()["data"]
    assert (shown["state"], shown["log"], shown["channel"]) == ("pending", [], str(hook.pk))
    assert shown["message_id"] == f"msg_{delivery.pk.hex}"
    url = f"{API}/alert-deliveries/{delivery.pk}/replay/"
    assert error_of(mine.post(url, {}, format="json")) == (409, "conflict", None)
    AlertDelivery.objects.update(state="dead", attempts=10)
    assert mine.post(url, {}, format="json").json()["state"] == "pending"
    delivery.refresh_from_db()
    assert (delivery.state, delivery.attempts) == ("pending", 0)


def test_another_tenants_rows_do_not_exist(acme) -> None:
    stranger = client_with(tenant("globex"), "*")
    hook = channel(acme, "webhook")
    row = fire(alarm=alarm(acme), now=timezone.now())
    watch = AlertRule.objects.create(tenant=acme, name="r", kind="error_rate", thresholds=[5])
    delivery = AlertDelivery.objects.get()
    for path in (f"alert-channels/{hook.pk}", f"alert-rules/{watch.pk}", f"alerts/{row.pk}",
                 f"alert-deliveries/{delivery.pk}"):  # fmt: skip
        collection = path.partition("/")[0]
        assert stranger.get(f"{API}/{collection}/").json()["data"] == []
        for method in ("get", "patch", "delete"):
            assert getattr(stranger, method)(f"{API}/{path}/").status_code in (404, 405), (method, path)
    for path in (f"alert-channels/{hook.pk}/test", f"alert-channels/{hook.pk}/rotate-secret",
                 f"alerts/{row.pk}/acknowledge", f"alerts/{row.pk}/snooze",
                 f"alert-deliveries/{delivery.pk}/replay"):  # fmt: skip
        assert stranger.post(f"{API}/{path}/", {}, format="json").status_code == 404
    assert stranger.get(f"{API}/alerts/{row.pk}/deliveries/").status_code == 404
