"""Old events leave by certificate alone."""

from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from tenants import audit, retention
from tenants.errors import ApiError
from tenants.models import AuditCheckpoint, AuditEvent, AuditSink, AuditSinkCursor
from tenants.principal import SYSTEM
from tenants.trail import proof
from tenants.trail.retention import prune, prune_due
from tests import factories
from tests.tenants.test_audit import errors, tamper, write

NOW = timezone.now()


def old(days):
    return NOW - timedelta(days=days)


@pytest.fixture
def acme(db):
    """Three events older than 400 days, one of 366 days, one of today."""
    tenant = factories.tenant("acme")
    for days in (500, 450, 401, 366, 0):
        write(tenant, at=old(days))
    return tenant


def test_the_oldest_leave_and_a_witnessed_certificate_stays(acme):
    third = AuditEvent.objects.get(sequence=3)
    checkpoint = prune(chain=acme.id, kept_days=400, now=NOW)
    assert (checkpoint.sequence, checkpoint.count, bytes(checkpoint.hash)) == (3, 3, bytes(third.hash))
    assert (checkpoint.first_at, checkpoint.last_at) == (old(500), old(401))
    assert list(AuditEvent.objects.order_by("sequence").values_list("sequence", "action")) == [
        (4, "thing.update"),
        (5, "thing.update"),
        (6, "audit.prune"),
    ]
    (chain,) = proof.verify().chains
    assert (chain.after, chain.events, chain.error) == (3, 3, "")


def test_it_goes_on_from_the_checkpoint_the_next_time(acme):
    first = prune(chain=acme.id, kept_days=400, now=NOW)
    second = prune(chain=acme.id, kept_days=365, now=NOW)
    assert (second.sequence, second.count) == (4, 1)
    assert second.certificate == proof.certificate_of(second, bytes(first.certificate))
    assert prune(chain=acme.id, kept_days=365, now=NOW) is None
    assert errors() == [""]


def test_less_than_a_year_is_refused(acme):
    with pytest.raises(ApiError, match="365 days at least"):
        prune(chain=acme.id, kept_days=364, now=NOW)
    assert AuditEvent.objects.count() == 5


@pytest.mark.parametrize("is_pruned", [False, True])
def test_nobody_else_can_delete_even_with_the_session_setting(acme, is_pruned):
    """Not without a checkpoint at or above it."""
    if is_pruned:
        prune(chain=acme.id, kept_days=400, now=NOW)
    before = AuditEvent.objects.count()
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('tollhouse.audit_retention', %s, true)", [str(acme.id)])
        with pytest.raises(IntegrityError, match="append only"), transaction.atomic():
            cursor.execute("DELETE FROM tenants_auditevent WHERE sequence = 4")
    assert AuditEvent.objects.count() == before


def test_a_year_is_the_databases_own_rule(acme):
    """Also a checkpoint over young events does not let them go."""
    event = AuditEvent.objects.get(sequence=5)
    AuditCheckpoint.objects.create(
        chain=acme.id, tenant=acme, sequence=5, hash=event.hash, count=5, first_at=old(500), last_at=NOW,
        kept_days=365, removed_at=NOW, certificate=bytes(32),
    )  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('tollhouse.audit_retention', %s, true)", [str(acme.id)])
        with pytest.raises(IntegrityError, match="append only"), transaction.atomic():
            cursor.execute("DELETE FROM tenants_auditevent WHERE sequence = 5")
    assert errors() == ["the checkpoint at event 5 was altered"]


def test_a_checkpoint_cannot_be_changed_and_an_altered_one_is_found(acme):
    prune(chain=acme.id, kept_days=400, now=NOW)
    with pytest.raises(IntegrityError, match="append only"), transaction.atomic():
        AuditCheckpoint.objects.update(count=2)
    tamper("UPDATE tenants_auditcheckpoint SET kept_days = 365")
    assert errors() == ["the checkpoint at event 3 was altered"]


def test_a_prefix_removed_under_a_checkpoint_without_a_witness_is_found(acme):
    third = AuditEvent.objects.get(sequence=3)
    forged = AuditCheckpoint(
        chain=acme.id, tenant=acme, sequence=3, hash=bytes(third.hash), count=3, first_at=old(500),
        last_at=old(401), kept_days=400, removed_at=NOW,
    )  # fmt: skip
    forged.certificate = proof.certificate_of(forged, bytes(32))
    forged.save(force_insert=True)
    tamper("DELETE FROM tenants_auditevent WHERE sequence <= 3")
    assert errors() == ["no event of the chain bears witness to the checkpoint at event 3"]


def test_an_anchor_of_what_was_removed_is_met_by_the_checkpoint_or_must_be_renewed(acme):
    second, third = (AuditEvent.objects.get(sequence=number) for number in (2, 3))
    anchors = [proof.Anchor(acme.id, each.sequence, bytes(each.hash)) for each in (second, third)]
    prune(chain=acme.id, kept_days=400, now=NOW)
    assert [each.anchors for each in proof.verify(anchors=anchors).chains] == [1]
    assert [each.error for each in proof.verify(anchors=anchors[:1]).chains] == [
        "all anchors lie below the checkpoint at event 3: keep newer ones"
    ]


def test_what_a_sink_has_not_taken_stays(acme):
    sink = AuditSink.objects.create(
        tenant=acme, name="siem", kind="webhook", target="https://example.com", next_at=NOW
    )
    cursor = AuditSinkCursor.objects.create(sink=sink, chain=acme.id, sequence=1)
    assert prune(chain=acme.id, kept_days=400, now=NOW).sequence == 1
    assert prune(chain=acme.id, kept_days=400, now=NOW) is None
    cursor.sequence = 6
    cursor.save()
    assert prune(chain=acme.id, kept_days=400, now=NOW).sequence == 3


def test_each_tenant_by_its_own_choice_and_none_under_a_legal_hold(acme, settings):
    other = factories.tenant("other")
    write(other, at=old(500))
    write(None, at=old(800))
    write(None, at=old(700))
    assert prune_due(now=NOW) == []
    retention.change_setting(tenant=acme, changes={"audit_days": 400}, actor=SYSTEM)
    retention.change_setting(tenant=other, changes={"audit_days": 365}, actor=SYSTEM)
    retention.place_hold(tenant=other, reason="Case 7", actor=SYSTEM, now=NOW)
    settings.TOLLHOUSE_AUDIT_DAYS = 730
    made = {each.chain: each.count for each in prune_due(now=NOW)}
    assert made == {acme.id: 3, audit.OPERATOR_CHAIN: 1}
    assert proof.verify().ok
