from datetime import UTC, datetime
from uuid import UUID

import pytest
from django.db import IntegrityError, connection, transaction

from tenants.errors import ApiError
from tenants.models import AuditEvent, LegalHold, RetentionSetting
from tenants.principal import SYSTEM, Principal
from tenants.retention import (
    change_setting,
    deletion_lock,
    held_tenants,
    is_held,
    place_hold,
    pseudonym_key,
    release_hold,
    setting_of,
)
from tenants.snapshot import load
from tests import factories

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
OFFICER = Principal(kind="user", id=UUID(int=7), label="officer@acme.test")


def test_without_a_choice_content_is_not_kept_and_the_rest_is_the_operators():
    row = setting_of(factories.tenant())
    assert (row.content_days, row.zero_retention, row.pseudonymize_end_users) == (0, False, False)
    assert (row.request_log_days, row.audit_days, row.artifacts_days) == (None, None, None)
    assert RetentionSetting.objects.count() == 0


def test_a_choice_is_audited_and_reaches_the_workers():
    acme = factories.tenant("acme")
    before = load()
    change_setting(tenant=acme, changes={"content_days": 30, "request_log_days": 7}, actor=OFFICER)
    event = AuditEvent.objects.get(action="retention.update")
    assert (event.actor_label, event.tenant, event.object_id) == ("officer@acme.test", acme, "acme")
    assert (event.before["content_days"], event.after["content_days"]) == (0, 30)
    entry = load(before).tenants[acme.id]
    assert (entry.content_days, entry.zero_retention, entry.is_pseudonymous) == (30, False, False)
    assert entry.pseudonym_key == pseudonym_key(acme)
    assert "pseudonym_key" not in repr(entry)


def test_zero_retention_keeps_no_content_and_records_no_name():
    acme = factories.tenant("acme")
    change_setting(tenant=acme, changes={"content_days": 30}, actor=SYSTEM)
    row = change_setting(tenant=acme, changes={"zero_retention": True}, actor=SYSTEM)
    assert row.content_days == 0
    entry = load().tenants[acme.id]
    assert (entry.content_days, entry.zero_retention, entry.is_pseudonymous) == (0, True, True)
    with pytest.raises(IntegrityError), transaction.atomic():
        RetentionSetting.objects.update(content_days=1)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"content_days": 366}, "content_days"),
        ({"content_days": -1}, "content_days"),
        ({"content_days": 1, "zero_retention": True}, "content_days"),
        ({"audit_days": 364}, "audit_days"),
        ({"request_log_days": 0}, "request_log_days"),
        ({"request_log_days": 31}, "request_log_days"),
        ({"artifacts_days": 401}, "artifacts_days"),
        ({"money_days": 10}, "money_days"),
    ],
)
def test_what_cannot_be_kept_so_is_refused_and_changes_nothing(changes, param):
    acme = factories.tenant("acme")
    with pytest.raises(ApiError) as refused:
        change_setting(tenant=acme, changes=changes, actor=OFFICER)
    assert (refused.value.code, refused.value.param) == ("invalid_request", param)
    assert (AuditEvent.objects.count(), RetentionSetting.objects.count()) == (0, 0)


def test_the_operator_may_forbid_content(settings):
    settings.TOLLHOUSE_MAX_CONTENT_DAYS = 0
    with pytest.raises(ApiError, match="0 days at most"):
        change_setting(tenant=factories.tenant(), changes={"content_days": 1}, actor=OFFICER)


def test_the_pseudonym_key_is_sealed_and_stays_the_same():
    acme = factories.tenant("acme")
    key = pseudonym_key(acme)
    change_setting(tenant=acme, changes={"content_days": 1}, actor=SYSTEM)
    assert (len(key), pseudonym_key(acme)) == (32, key)
    assert key not in bytes(RetentionSetting.objects.get().pseudonym_key)
    assert pseudonym_key(factories.tenant("globex")) != key


def test_a_hold_stands_until_it_is_lifted():
    acme = factories.tenant("acme")
    hold = place_hold(tenant=acme, reason="  Case\n12 ", actor=OFFICER, now=NOW)
    assert (hold.reason, hold.is_operators, is_held(acme.id), held_tenants()) == (
        "Case 12",
        False,
        True,
        {acme.id},
    )
    release_hold(hold=hold, actor=OFFICER, now=NOW)
    assert (is_held(acme.id), held_tenants()) == (False, frozenset())
    actions = AuditEvent.objects.order_by("sequence").values_list("action", flat=True)
    assert list(actions) == ["legal_hold.place", "legal_hold.release"]
    with pytest.raises(ApiError) as again:
        release_hold(hold=hold, actor=OFFICER, now=NOW)
    assert again.value.code == "conflict"


def test_of_two_holds_the_second_still_stands():
    acme = factories.tenant("acme")
    first, _ = (place_hold(tenant=acme, reason=each, actor=OFFICER, now=NOW) for each in ("one", "two"))
    release_hold(hold=first, actor=OFFICER, now=NOW)
    assert is_held(acme.id)


def test_the_operators_hold_is_the_operators_to_lift():
    hold = place_hold(tenant=factories.tenant(), reason="Subpoena", actor=SYSTEM, now=NOW)
    with pytest.raises(ApiError) as refused:
        release_hold(hold=hold, actor=OFFICER, now=NOW)
    assert refused.value.code == "permission_denied"
    assert release_hold(hold=hold, actor=SYSTEM, now=NOW).released_by == "tollhouse"


@pytest.mark.parametrize("reason", ["", "  ", "x" * 501, "a\x00b"])
def test_a_hold_needs_a_reason(reason):
    with pytest.raises(ApiError) as refused:
        place_hold(tenant=factories.tenant(), reason=reason, actor=OFFICER, now=NOW)
    assert (refused.value.param, LegalHold.objects.count()) == ("reason", 0)


def test_deletions_and_holds_wait_for_one_another():
    with transaction.atomic(), connection.cursor() as cursor:
        deletion_lock()
        cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")
        assert cursor.fetchone() == (1,)
