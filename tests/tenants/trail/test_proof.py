"""What tampering looks like to `verify`, also by somebody who may rewrite every row."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from tenants import audit
from tenants.models import AuditEvent, AuditHead
from tenants.trail import proof
from tests import factories
from tests.tenants.test_audit import errors, tamper, write

LAST_YEAR = datetime(2025, 6, 1, tzinfo=UTC)


@pytest.fixture
def acme(db):
    return factories.tenant("acme")


@pytest.fixture
def anchored(acme):
    """Three events and the anchor of the second."""
    for number in range(2):
        write(acme, after={"n": number})
    anchors = proof.anchors_now()
    write(acme, after={"n": 2})
    return anchors


def forge(chain):
    """Hash the whole chain anew, head included: what the chain alone cannot tell from the truth."""
    previous = bytes(32)
    for event in AuditEvent.objects.filter(chain=chain).order_by("sequence"):
        event.previous_hash = previous
        previous = audit.hash_of(event)
        tamper(
            "UPDATE tenants_auditevent SET previous_hash = %s, hash = %s WHERE id = %s",
            bytes(event.previous_hash),
            previous,
            event.id,
        )
    head = AuditEvent.objects.filter(chain=chain).order_by("-sequence").first()
    AuditHead.objects.filter(chain=chain).update(sequence=head.sequence, hash=previous)


def verified(anchors):
    return [(each.anchors, each.error) for each in proof.verify(anchors=anchors).chains]


def test_anchors_of_an_untouched_chain_are_met(anchored):
    assert verified(anchored) == [(1, "")]


def test_a_chain_forged_as_a_whole_is_found_by_an_anchor(acme, anchored):
    tamper("UPDATE tenants_auditevent SET actor_label = 'nobody' WHERE sequence = 1")
    forge(acme.id)
    assert errors() == [""]
    assert verified(anchored) == [(0, "event 2 is not the one that was anchored")]


def test_a_forged_event_after_the_anchor_is_for_the_next_anchor(acme, anchored):
    newer = proof.anchors_now()
    tamper("UPDATE tenants_auditevent SET actor_label = 'nobody' WHERE sequence = 3")
    forge(acme.id)
    assert verified(anchored) == [(1, "")]
    assert verified([*anchored, *newer]) == [(1, "event 3 is not the one that was anchored")]


def test_a_cut_tail_with_a_forged_head_is_found_by_an_anchor(acme, anchored):
    tamper("DELETE FROM tenants_auditevent WHERE sequence >= 2")
    forge(acme.id)
    assert errors() == [""]
    assert verified(anchored) == [(0, "event 2, which is anchored, is missing")]


def test_a_chain_that_vanished_is_found_by_an_anchor(acme, anchored):
    tamper("DELETE FROM tenants_auditevent")
    AuditHead.objects.all().delete()
    assert errors() == []
    assert verified(anchored) == [(0, "event 2, which is anchored, is missing")]


def test_a_number_used_twice_is_found(acme, anchored):
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE tenants_auditevent DROP CONSTRAINT audit_chain_position")
    tamper("UPDATE tenants_auditevent SET sequence = 2 WHERE sequence = 3")
    assert errors() == ["event 2 stands twice"]


def test_since_takes_what_is_older_as_it_stands(acme):
    for days in range(4):
        write(acme, at=LAST_YEAR + timedelta(days=days))
    since = LAST_YEAR + timedelta(days=2)
    (chain,) = proof.verify(since=since).chains
    assert (chain.events, chain.after, chain.sequence, chain.error) == (2, 2, 4, "")
    tamper("UPDATE tenants_auditevent SET action = 'x' WHERE sequence = 1")
    assert proof.verify(since=since).ok
    tamper("UPDATE tenants_auditevent SET action = 'x' WHERE sequence = 3")
    assert [each.error for each in proof.verify(since=since).chains] == ["event 3 was altered"]


def test_an_anchor_survives_being_written_down(anchored):
    lines = [proof.line_of(anchor) for anchor in anchored]
    assert proof.anchors_of(["", *lines, "\n"]) == anchored


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda fields: fields | {"sequence": 1}, "line 1 is not as it was signed here"),
        (lambda fields: fields | {"hash": "00" * 32}, "line 1 is not as it was signed here"),
        (lambda fields: fields | {"chain": "x"}, "line 1 is no anchor"),
        (lambda fields: {"chain": fields["chain"]}, "line 1 is no anchor"),
        (lambda fields: [1], "line 1 is no anchor"),
    ],
)
def test_an_altered_anchor_is_refused(anchored, change, reason):
    fields = json.loads(proof.line_of(anchored[0]))
    with pytest.raises(proof.AnchorError, match=reason):
        proof.anchors_of([json.dumps(change(fields))])


# ------------------------------------------------------------------ the commands


def test_the_commands_write_anchors_and_hold_chains_against_them(acme, tmp_path, capsys):
    write(acme)
    call_command("audit_anchor")
    path = tmp_path / "anchors.jsonl"
    path.write_text(capsys.readouterr().out)
    call_command("verify_audit", "--anchors", str(path))
    assert "1 anchors met ok" in capsys.readouterr().out
    tamper("UPDATE tenants_auditevent SET actor_label = 'nobody'")
    forge(acme.id)
    call_command("verify_audit")
    with pytest.raises(CommandError, match="does not hold"):
        call_command("verify_audit", "--anchors", str(path))
    assert "BROKEN: event 1 is not the one that was anchored" in capsys.readouterr().out


def test_the_command_answers_in_json(acme, capsys):
    event = write(acme)
    call_command("verify_audit", "--json", "--tenant", "acme", "--since", "2020-01-01")
    assert json.loads(capsys.readouterr().out) == {
        "ok": True,
        "chains": [
            {
                "chain": str(acme.id),
                "ok": True,
                "events": 1,
                "after": 0,
                "sequence": 1,
                "head": event.hash.hex(),
                "anchors": 0,
                "error": "",
            }
        ],
    }


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--since", "yesterday"), "is no instant"),
        (("--anchors", "/nowhere"), "cannot be read"),
        (("--anchors", "{path}"), "line 1 is no anchor"),
        (("--anchors", "{empty}"), "no anchor of these chains"),
    ],
)
def test_the_command_refuses_what_it_cannot_use(acme, tmp_path, arguments, reason):
    (tmp_path / "path").write_text("nothing\n")
    (tmp_path / "empty").write_text("\n")
    filled = [each.format(path=tmp_path / "path", empty=tmp_path / "empty") for each in arguments]
    with pytest.raises(CommandError, match=reason):
        call_command("verify_audit", *filled)
