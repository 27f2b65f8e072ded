import hashlib
import threading
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction
from django.test import RequestFactory
from hypothesis import given
from hypothesis import strategies as st

from tenants import audit
from tenants.errors import ApiError
from tenants.models import AuditEvent, AuditHead
from tenants.principal import SYSTEM
from tenants.trail import proof
from tests import factories


def write(tenant=None, **fields):
    given = {"principal": SYSTEM, "action": "thing.update", "object_type": "thing", "object_id": 1}
    return audit.record(**given | {"tenant": tenant} | fields)


def tamper(statement, *values):
    """What somebody with the database in hand could do."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(statement, values)
        cursor.execute("SET LOCAL session_replication_role = DEFAULT")


def errors(chain=None):
    return [each.error for each in proof.verify(chain).chains]


def test_each_tenant_and_the_operator_have_a_chain_of_their_own(db):
    one, two = factories.tenant(), factories.tenant()
    sequences = [write(owner).sequence for owner in (one, two, one, None, one)]
    assert sequences == [1, 1, 2, 1, 3]
    found = proof.verify()
    assert found.ok
    assert {each.chain: each.events for each in found.chains} == {one.id: 3, two.id: 1, uuid.UUID(int=0): 1}


def test_an_event_names_actor_change_and_origin(db):
    tenant = factories.tenant()
    with audit.origin(ip="203.0.113.7", request_id="r1") as origin:
        write(tenant, before={"a": 1}, after={"a": 2})
    event = AuditEvent.objects.get()
    assert (event.actor_kind, event.actor_label, event.action, event.object_id) == (
        "system",
        "tollhouse",
        "thing.update",
        "1",
    )
    assert (event.before, event.after, event.ip, event.request_id) == (
        {"a": 1},
        {"a": 2},
        "203.0.113.7",
        "r1",
    )
    assert (event.tenant, event.chain, origin.events) == (tenant, tenant.id, 1)


def test_an_event_outside_a_transaction_is_refused(committed_db):
    with pytest.raises(RuntimeError, match="belongs into the transaction"):
        write()
    assert not AuditEvent.objects.exists()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tenants_auditevent SET actor_label = 'nobody'",
        "DELETE FROM tenants_auditevent",
        "TRUNCATE tenants_auditevent",
    ],
)
def test_the_database_refuses_to_change_an_event(db, statement):
    write()
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # or TRUNCATE is refused for its pending checks
        with pytest.raises(IntegrityError, match="append only"), transaction.atomic():
            cursor.execute(statement)
    assert AuditEvent.objects.get().actor_label == "tollhouse"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("actor_label", "nobody"),
        ("actor_kind", "user"),
        ("actor_id", str(uuid.UUID(int=7))),
        ("action", "thing.delete"),
        ("object_type", "key"),
        ("object_id", "2"),
        ("before", '{"limit": 1}'),
        ("after", '{"limit": 3}'),
        ("ip", "203.0.113.8"),
        ("request_id", "r2"),
        ("at", datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=1)),
        ("tenant_id", None),
    ],
)
def test_an_altered_event_is_found(db, column, value):
    tenant = factories.tenant()
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for _ in range(3):
        write(tenant, before={"limit": 0}, after={"limit": 2}, ip="203.0.113.7", request_id="r1", at=at)
    assert errors() == [""]
    tamper(f"UPDATE tenants_auditevent SET {column} = %s WHERE sequence = 2", value)  # noqa: S608
    assert errors() == ["event 2 was altered"]


def test_an_altered_event_with_a_new_hash_breaks_the_next_link(db):
    for number in range(3):
        write(after={"n": number})
    event = AuditEvent.objects.get(sequence=2)
    event.after = {"n": 7}
    tamper(
        "UPDATE tenants_auditevent SET after = '{\"n\": 7}', hash = %s WHERE sequence = 2",
        audit.hash_of(event),
    )
    assert errors() == ["event 3 does not follow event 2"]


def test_a_dropped_event_is_found(db):
    for _ in range(3):
        write()
    tamper("DELETE FROM tenants_auditevent WHERE sequence = 2")
    assert errors() == ["event 2 is missing"]


def test_a_cut_tail_is_found(db):
    for _ in range(3):
        write()
    tamper("DELETE FROM tenants_auditevent WHERE sequence = 3")
    assert errors() == ["the head says event 3, the chain ends at event 2"]


def test_an_emptied_chain_and_a_lost_head_are_found(db):
    tenant = factories.tenant()
    write(tenant)
    tamper("DELETE FROM tenants_auditevent")
    assert errors() == ["the head says event 1, the chain ends at event 0"]
    AuditHead.objects.all().delete()
    write()
    AuditHead.objects.all().delete()
    assert errors() == ["event 1 lies beyond the head"]


def test_swapped_events_are_found(db):
    write(after={"n": 1})
    write(after={"n": 2})
    tamper("UPDATE tenants_auditevent SET sequence = CASE sequence WHEN 1 THEN 12 ELSE 11 END")
    tamper("UPDATE tenants_auditevent SET sequence = sequence - 10")
    assert errors()[0].startswith("event 1 ")


def test_the_command_prints_heads_and_fails_on_a_broken_chain(db, capsys):
    tenant = factories.tenant("acme")
    event = write(tenant)
    call_command("verify_audit", "--tenant", "acme")
    assert capsys.readouterr().out == f"{tenant.id} 1 events, head {event.hash.hex()} ok\n"
    tamper("UPDATE tenants_auditevent SET action = 'thing.read'")
    with pytest.raises(CommandError, match="does not hold"):
        call_command("verify_audit")
    assert "BROKEN: event 1 was altered" in capsys.readouterr().out
    with pytest.raises(CommandError, match="no tenant 'nobody'"):
        call_command("verify_audit", "--tenant", "nobody")


def test_concurrent_writers_keep_one_unbroken_chain(committed_db):
    def change():
        for _ in range(15):
            with transaction.atomic():
                write()
        connection.close()

    threads = [threading.Thread(target=change) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (chain,) = proof.verify().chains
    assert (chain.error, chain.events) == ("", 60)


# ------------------------------------------------------------------ masking


def test_secrets_are_masked_wherever_they_hide():
    text = factories.keys.compose(public_id="a" * 12, secret=bytes(32))
    shown = audit.masked(
        {
            "api_key": "sk-1",
            "webhook_secret": "s",
            "password": "p",
            "digest": b"d",
            "note": f"use {text} here",
            "nested": [{"access_token": "t", "max_tokens": 5}],
            "raw": b"bytes",
            "empty_secret": "",
            "keys": ["a"],
        }
    )
    assert shown == {
        "api_key": "***",
        "webhook_secret": "***",
        "password": "***",
        "digest": "***",
        "note": "use *** here",
        "nested": [{"access_token": "***", "max_tokens": 5}],
        "raw": "***",
        "empty_secret": "",
        "keys": ["a"],
    }


def test_values_json_does_not_know_are_written_as_text():
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    shown = audit.masked({"price": Decimal("0.10"), "at": moment, "id": uuid.UUID(int=1), "set": {"b", "a"}})
    assert shown == {
        "price": "0.10",
        "at": "2026-01-01 00:00:00+00:00",
        "id": "00000000-0000-0000-0000-000000000001",
        "set": ["a", "b"],
    }


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_characters="\0", codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=5), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@pytest.fixture
def chain(db):
    return factories.tenant()


def test_whatever_was_recorded_verifies_after_the_database_kept_it(chain):
    @given(json_values)
    def recorded(value):
        write(chain, after={"value": value})

    recorded()
    assert errors(chain.id) == [""]


# ------------------------------------------------------------------ reasons and secret accesses


def test_a_reason_is_part_of_the_event_and_of_its_hash(db):
    with audit.origin(ip=None, request_id="r1", reason="Ticket 7"):
        write()
        write(reason="Ticket 8")
    write()
    assert list(AuditEvent.objects.order_by("sequence").values_list("reason", flat=True)) == [
        "Ticket 7",
        "Ticket 8",
        "",
    ]
    assert errors() == [""]
    tamper("UPDATE tenants_auditevent SET reason = '' WHERE sequence = 2")
    assert errors() == ["event 2 was altered"]
    tamper("UPDATE tenants_auditevent SET reason = 'Ticket 8' WHERE sequence = 2")
    tamper("UPDATE tenants_auditevent SET reason = 'Ticket 9' WHERE sequence = 3")
    assert errors() == ["event 3 was altered"]


def test_a_key_in_a_reason_is_masked(db):
    text = factories.keys.compose(public_id="a" * 12, secret=bytes(32))
    assert write(reason=f"leaked {text}").reason == "leaked ***"


def test_an_event_without_a_reason_has_the_hash_it_had_before_there_were_reasons(db):
    event = AuditEvent(
        chain=audit.OPERATOR_CHAIN,
        sequence=1,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        actor_kind="system",
        actor_label="tollhouse",
        action="thing.update",
        object_type="thing",
        object_id="1",
        previous_hash=bytes(32),
    )
    content = (
        '["00000000-0000-0000-0000-000000000000",1,"2026-01-01T00:00:00+00:00",null,"system",null,'
        f'"tollhouse","thing.update","thing","1",null,null,null,"","{"00" * 32}"]'
    )
    assert audit.hash_of(event) == hashlib.sha256(content.encode()).digest()


def test_a_secret_access_is_an_event_of_its_own(committed_db):
    tenant = factories.tenant()
    audit.record_access(principal=SYSTEM, object_type="credential", object_id=7, tenant=tenant, what="tested")
    event = AuditEvent.objects.get()
    assert (event.action, event.object_id, event.after) == ("credential.access", "7", {"what": "tested"})


@pytest.mark.parametrize(
    ("header", "reason"),
    [("Ticket 7", "Ticket 7"), ("Prüfung".encode().decode("latin-1"), "Prüfung"), ("\xe9t\xe9", "été")],
)
def test_a_header_gives_the_reason(header, reason):
    assert audit.reason_given(RequestFactory().post("/", headers={"X-Tollhouse-Reason": header})) == reason


@pytest.mark.parametrize("header", ["x" * 501, "two\x85lines"])
def test_a_header_that_is_no_reason_is_refused(header):
    with pytest.raises(ApiError, match="at most 500 printable") as refusal:
        audit.reason_given(RequestFactory().post("/", headers={"X-Tollhouse-Reason": header}))
    assert (refusal.value.code, refusal.value.param) == ("invalid_request", "X-Tollhouse-Reason")


def test_a_form_field_gives_the_reason_in_one_line():
    assert audit.reason_typed(RequestFactory().post("/", {"reason": " Ticket\r\n7\0 "})) == "Ticket 7"
    assert audit.reason_typed(RequestFactory().get("/", {"reason": "Ticket 7"})) == ""
