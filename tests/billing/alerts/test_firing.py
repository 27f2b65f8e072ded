from datetime import timedelta
from decimal import Decimal

import pytest

from billing.alerts.firing import acknowledge, fire, resolve, snooze, undo_throttles
from billing.models import AlertAction, AlertDelivery, AlertFiring, AlertRule
from tenants import keys
from tenants.errors import ApiError
from tenants.models import ApiKey, AuditEvent, ConfigVersion
from tenants.principal import SYSTEM
from tests.billing.alerts.world import NOW, after, alarm, channel
from tests.factories import api_key, tenant

pytestmark = pytest.mark.django_db


@pytest.fixture
def acme():
    return tenant("acme")


def acting(of, action: str, key: ApiKey, **fields) -> AlertRule:
    return AlertRule.objects.create(
        tenant=of, name="r", kind="error_rate", thresholds=[5], api_key=key, actions=[action], **fields
    )


def conflict():
    return pytest.raises(ApiError, check=lambda error: error.code == "conflict")


def test_the_same_threshold_fires_once_in_a_window_whoever_finds_it(acme) -> None:
    channel(acme, "webhook")
    assert fire(alarm=alarm(acme), now=NOW) is not None
    assert fire(alarm=alarm(acme), now=NOW) is None
    assert fire(alarm=alarm(acme, window="next"), now=NOW) is not None
    assert AlertDelivery.objects.count() == 2
    assert AuditEvent.objects.filter(action="alert.fire").count() == 2


def test_armed_again_it_fires_again_and_resolves_only_once(acme) -> None:
    row = fire(alarm=alarm(acme), now=NOW)
    assert resolve(firing=row, now=NOW, is_rearmed=True).rearmed_at == NOW
    assert fire(alarm=alarm(acme), now=NOW) is not None
    resolved = fire(alarm=alarm(acme, window="next"), now=NOW)
    resolve(firing=resolved, now=NOW)
    assert fire(alarm=alarm(acme, window="next"), now=NOW) is None  # its window is not over with it
    assert resolve(firing=resolved, now=after(hours=1)).resolved_at == NOW
    assert AlertFiring.objects.count() == 3


def test_acknowledging_twice_keeps_the_first_and_an_ended_alert_is_no_more_answered(acme) -> None:
    row = fire(alarm=alarm(acme), now=NOW)
    acknowledge(firing=row, actor=SYSTEM, now=NOW)
    assert acknowledge(firing=row, actor=SYSTEM, now=after(hours=1)).acknowledged_at == NOW
    resolve(firing=row, now=after(hours=2))
    with conflict():
        acknowledge(firing=row, actor=SYSTEM, now=after(hours=3))
    with conflict():
        snooze(firing=row, until=after(hours=5), actor=SYSTEM, now=after(hours=3))


@pytest.mark.parametrize("until", [NOW, NOW - timedelta(seconds=1), NOW + timedelta(days=30, seconds=1)])
def test_a_snooze_lies_ahead_and_ends_within_a_month(acme, until) -> None:
    row = fire(alarm=alarm(acme), now=NOW)
    with pytest.raises(ApiError, check=lambda error: error.param == "until"):
        snooze(firing=row, until=until, actor=SYSTEM, now=NOW)
    assert AlertFiring.objects.get().snoozed_until is None


def test_names_cannot_break_lines_or_turn_the_text_around(acme) -> None:
    row = fire(alarm=alarm(acme, title="a\r\nb\u202ec", facts=[("x\n", "y\x00z")]), now=NOW)
    assert (row.title, row.facts["shown"]) == ("a b c", [["x", "y z"]])


# ------------------------------------------------------------------ actions


def test_freezing_revokes_the_key_with_the_firing_and_the_workers_hear_of_it(acme) -> None:
    issued = api_key(acme)
    before = ConfigVersion.objects.get(pk="tenants").version
    fire(alarm=alarm(acme, rule=acting(acme, "freeze_key", issued.key)), now=NOW)
    with pytest.raises(ApiError, check=lambda error: error.code == "key_revoked"):
        keys.verify(issued.text, NOW)
    assert ConfigVersion.objects.get(pk="tenants").version > before
    assert AlertAction.objects.get().action == "freeze_key"
    assert AuditEvent.objects.filter(action="key.revoke").count() == 1


def test_a_throttle_lowers_the_rate_until_the_window_ends_and_gives_it_back(acme) -> None:
    key = api_key(acme, limit_rpm=100).key
    fire(alarm=alarm(acme, rule=acting(acme, "throttle_key", key, throttle_rpm=5)), now=NOW)
    assert ApiKey.objects.get(pk=key.pk).limit_rpm == 5
    assert undo_throttles(now=after(days=6)) == 0
    assert undo_throttles(now=after(days=7)) == 1
    assert ApiKey.objects.get(pk=key.pk).limit_rpm == 100
    assert undo_throttles(now=after(days=8)) == 0


def test_a_throttle_without_a_window_lasts_an_hour(acme) -> None:
    key = api_key(acme).key
    rule = acting(acme, "throttle_key", key, throttle_rpm=5)
    fire(alarm=alarm(acme, rule=rule, window_end=None), now=NOW)
    assert AlertAction.objects.get().until == after(hours=1)
    undo_throttles(now=after(hours=1))
    assert ApiKey.objects.get(pk=key.pk).limit_rpm is None


def test_throttles_on_each_other_end_in_the_limit_before_both(acme) -> None:
    key = api_key(acme, limit_rpm=100).key
    gentle = acting(acme, "throttle_key", key, throttle_rpm=20)
    harsh = acting(acme, "throttle_key", key, throttle_rpm=5)
    fire(alarm=alarm(acme, rule=gentle, subject="a", window_end=after(hours=3)), now=NOW)
    fire(alarm=alarm(acme, rule=harsh, subject="b", window_end=after(hours=1)), now=NOW)
    fire(alarm=alarm(acme, rule=gentle, subject="c", window_end=after(hours=9)), now=NOW)  # nothing to lower
    assert ApiKey.objects.get(pk=key.pk).limit_rpm == 5
    undo_throttles(now=after(hours=2))
    assert ApiKey.objects.get(pk=key.pk).limit_rpm == 5
    undo_throttles(now=after(hours=3))
    assert ApiKey.objects.get(pk=key.pk).limit_rpm == 100


def test_a_limit_that_people_set_meanwhile_stays_theirs(acme) -> None:
    key = api_key(acme, limit_rpm=100).key
    fire(alarm=alarm(acme, rule=acting(acme, "throttle_key", key, throttle_rpm=5)), now=NOW)
    keys.limit_rate(key=key, limit_rpm=50, actor=SYSTEM)
    assert undo_throttles(now=after(days=30)) == 1
    assert ApiKey.objects.get(pk=key.pk).limit_rpm == 50


def test_an_alert_that_has_fired_does_not_act_again(acme) -> None:
    key = api_key(acme).key
    rule = acting(acme, "throttle_key", key, throttle_rpm=5)
    fire(alarm=alarm(acme, rule=rule), now=NOW)
    keys.limit_rate(key=key, limit_rpm=None, actor=SYSTEM)
    fire(alarm=alarm(acme, rule=rule), now=NOW)
    assert ApiKey.objects.get(pk=key.pk).limit_rpm is None


def test_a_revoked_key_is_left_alone(acme) -> None:
    key = api_key(acme).key
    keys.revoke(key=key, actor=SYSTEM, now=NOW)
    rule = acting(acme, "throttle_key", key, throttle_rpm=5)
    assert fire(alarm=alarm(acme, rule=rule, threshold=Decimal(5)), now=NOW) is not None
    assert not AlertAction.objects.exists()
