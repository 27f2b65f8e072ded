from datetime import date, timedelta

import pytest
from django.db import IntegrityError, connection, transaction

from billing.usage.partitions import existing_days, partition_of
from gateway.content import certificates, day_keys, read
from gateway.content.models import ContentDayKey, DeletionCertificate, StoredContent
from gateway.content.purge import (
    drop_content_days,
    drop_days,
    forget_artifacts,
    purge,
    shorten_logs,
    shred_content,
)
from gateway.content.store import CONTENT
from gateway.experiments.models import Feedback
from gateway.logs import ingest
from gateway.logs.partitions import REQUEST_LOG
from gateway.models import RequestLog
from tenants.ids import instant_of
from tenants.models import AuditEvent
from tenants.principal import SYSTEM
from tenants.retention import change_setting, place_hold, release_hold
from tests import factories
from tests.gateway.content.world import NOW, OFFICER, content, days_ago, keeping, logged

pytestmark = pytest.mark.django_db

TODAY = NOW.date()


@pytest.fixture(autouse=True)
def no_days(db):
    """Without the days that other modules have left, and without what this process remembers of them."""
    ingest._known_days.clear()
    with connection.cursor() as cursor:
        for table in (CONTENT, REQUEST_LOG):
            for day in existing_days(table=table):
                cursor.execute(f"DROP TABLE {partition_of(table=table, day=day)}")
    yield
    ingest._known_days.clear()


def shredded():
    return [(key.tenant.slug, key.day) for key in shred_content(today=TODAY, now=NOW)]


def told(**filters):
    rows = DeletionCertificate.objects.filter(**filters).order_by("chain", "sequence")
    return [
        (row.tenant.slug if row.tenant else None, row.day, row.method, row.rows, row.rule) for row in rows
    ]


def look(tenant, request_id):
    return read.read(request_id=request_id, tenant=tenant, principal=SYSTEM, reason="test")


def test_content_is_readable_for_the_tenants_days_and_shredded_after_them():
    acme = keeping("acme", content_days=2)
    kept, gone = content(acme, days_ago(2)), content(acme, days_ago(3))
    assert shredded() == [("acme", date(2026, 11, 21))]
    assert look(acme, kept).texts.request == '{"q":1}'
    assert look(acme, gone) is None
    assert told() == [("acme", date(2026, 11, 21), "key_destroyed", 1, "content_days=2")]
    assert shredded() == []


def test_a_destroyed_key_is_empty_and_its_rows_never_open_again():
    acme = keeping("acme", content_days=1)
    request_id = content(acme, days_ago(5))
    list(shred_content(today=TODAY, now=NOW))
    key = ContentDayKey.objects.get()
    assert (bytes(key.sealed_key), key.destroyed_at) == (b"", NOW)
    assert StoredContent.objects.filter(request_id=request_id).count() == 1
    assert day_keys.key_of(key.id) is None


def test_a_day_is_dropped_once_nobodys_key_of_it_is_alive_and_every_tenant_gets_a_certificate():
    acme, globex = keeping("acme", content_days=1), keeping("globex", content_days=5)
    for tenant in (acme, acme, globex):
        content(tenant, days_ago(4))
    assert shredded() == [("acme", date(2026, 11, 20))]
    assert drop_content_days(today=TODAY, now=NOW) == []
    later = NOW + timedelta(days=2)
    assert [key.tenant for key in shred_content(today=later.date(), now=later)] == [globex]
    assert drop_content_days(today=later.date(), now=later) == [date(2026, 11, 20)]
    assert existing_days(table=CONTENT) == set()
    rule = "every tenant's key of the day is destroyed"
    assert told(method="partition_dropped") == [
        (None, date(2026, 11, 20), "partition_dropped", 3, rule),
        *[
            (tenant.slug, date(2026, 11, 20), "partition_dropped", rows, rule)
            for tenant, rows in sorted(((acme, 2), (globex, 1)), key=lambda each: each[0].id)
        ],
    ]
    event = AuditEvent.objects.get(action="deletion_certificate.issue", tenant=None)
    assert (event.after["certificates"], event.after["rows"], event.after["day"]) == (3, 3, "2026-11-20")
    assert certificates.verify() == []


def test_a_tenant_that_stops_keeping_content_loses_all_of_it_at_once():
    acme = keeping("acme", content_days=30)
    request_id = content(acme, NOW)
    change_setting(tenant=acme, changes={"zero_retention": True}, actor=SYSTEM)
    assert shredded() == [("acme", TODAY)]
    assert look(acme, request_id) is None
    assert told() == [("acme", TODAY, "key_destroyed", 1, "content_days=0, zero retention")]


def test_under_a_legal_hold_nothing_of_the_tenant_is_deleted():
    acme, globex = keeping("acme", content_days=1, artifacts_days=1), keeping("globex", content_days=1)
    held = content(acme, days_ago(40))
    content(globex, days_ago(40))
    for tenant in (acme, globex):
        logged(tenant, days_ago(40), now=days_ago(40), end_user="ann")
    hold = place_hold(tenant=acme, reason="Case 12", actor=OFFICER, now=NOW)
    purge(now=NOW)
    assert look(acme, held).texts.answer == '{"a":2}'
    assert list(RequestLog.objects.values_list("tenant__slug", "end_user")) == [("acme", "ann")]
    assert told(tenant=acme) == []
    release_hold(hold=hold, actor=OFFICER, now=NOW)
    purge(now=NOW)
    assert look(acme, held) is None
    assert RequestLog.objects.count() == 0
    assert [row[2] for row in told(tenant=acme)] == [
        "key_destroyed",
        "partition_dropped",
        "partition_dropped",
    ]


def test_old_days_of_the_log_are_dropped_whole_stragglers_too():
    acme = factories.tenant("acme")
    for when in (days_ago(40), days_ago(31), days_ago(30), NOW, days_ago(9000)):
        logged(acme, when)
    limit = TODAY - timedelta(days=30)
    dropped = drop_days(REQUEST_LOG, before=limit, rule="TOLLHOUSE_REQUEST_LOG_DAYS=30", now=NOW)
    assert dropped == [date(2026, 10, 15), date(2026, 10, 24)]
    assert [row.occurred_at for row in RequestLog.objects.order_by("occurred_at")] == [days_ago(30), NOW]
    assert [row[1:4] for row in told(tenant=acme)] == [
        (date(2026, 10, 15), "partition_dropped", 1),
        (date(2026, 10, 24), "partition_dropped", 1),
        (None, "rows_deleted", 1),
    ]
    assert DeletionCertificate.objects.count() == 6
    assert drop_days(REQUEST_LOG, before=limit, rule="x", now=NOW) == []
    assert DeletionCertificate.objects.count() == 6


def test_a_tenants_shorter_log_days_blank_who_what_for_and_why_it_failed():
    acme, globex = keeping("acme", request_log_days=7), factories.tenant("globex")
    for tenant in (acme, globex):
        for days in (7, 8):
            logged(
                tenant, days_ago(days), end_user="ann", tags={"team": "core"}, error_message="oh", model="m"
            )
    assert shorten_logs(today=TODAY, now=NOW) == 1
    rows = {
        (row.tenant.slug, (NOW - row.occurred_at).days): (
            row.end_user,
            row.tags,
            row.error_message,
            row.model,
        )
        for row in RequestLog.objects.select_related("tenant")
    }
    whole = ("ann", {"team": "core"}, "oh", "m")
    assert rows == {
        ("acme", 7): whole,
        ("acme", 8): ("", {}, "", "m"),
        ("globex", 7): whole,
        ("globex", 8): whole,
    }
    assert told() == [("acme", date(2026, 11, 16), "columns_blanked", 1, "request_log_days=7")]
    assert shorten_logs(today=TODAY, now=NOW) == 0


def test_feedback_goes_after_the_tenants_days_or_the_operators(settings):
    settings.TOLLHOUSE_ARTIFACTS_DAYS = 400
    acme, globex = keeping("acme", artifacts_days=10), factories.tenant("globex")
    for tenant in (acme, globex):
        key = factories.api_key(tenant).key
        for days in (9, 11, 401):
            request_id = logged(tenant, days_ago(days), now=days_ago(days))
            Feedback.objects.create(
                tenant=tenant, api_key=key, request_id=request_id, occurred_at=instant_of(request_id), score=1
            )
    assert forget_artifacts(now=NOW) == 2
    left = Feedback.objects.order_by("tenant__slug", "-occurred_at")
    assert [(row.tenant.slug, (NOW - row.occurred_at).days) for row in left] == [
        ("acme", 9),
        ("globex", 9),
        ("globex", 11),
    ]
    assert sorted((row[0], row[3], row[4]) for row in told()) == [
        ("acme", 2, "10 days"),
        ("globex", 1, "400 days"),
    ]


def test_certificates_are_only_ever_added():
    content(keeping("acme", content_days=1), days_ago(5))
    list(shred_content(today=TODAY, now=NOW))
    for change in (
        "UPDATE gateway_deletioncertificate SET rows = 0",
        "DELETE FROM gateway_deletioncertificate",
    ):
        with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(change)


def test_a_certificate_that_was_altered_taken_out_or_put_in_is_found():
    acme = keeping("acme", content_days=1)
    for days in (3, 4, 5):
        content(acme, days_ago(days))
    list(shred_content(today=TODAY, now=NOW))
    assert certificates.verify(acme.id) == []
    for change, error in (
        ("UPDATE gateway_deletioncertificate SET rows = 9 WHERE sequence = 2", "certificate 2 was altered"),
        ("DELETE FROM gateway_deletioncertificate WHERE sequence = 2", "certificate 2 is missing"),
    ):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL session_replication_role = replica")
            cursor.execute(change)
            assert f"{acme.id}: {error}" in certificates.verify(acme.id)
            transaction.set_rollback(True)


def test_a_chain_that_lost_its_end_is_found_by_the_audit_trail():
    acme = keeping("acme", content_days=1)
    content(acme, days_ago(5))
    list(shred_content(today=TODAY, now=NOW))
    last = DeletionCertificate.objects.get()
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("DELETE FROM gateway_deletioncertificate")
    assert certificates.verify(acme.id) == [f"{acme.id}: certificate {last.id} of the audit trail is missing"]
