from datetime import timedelta

import pytest

from gateway.content import certificates, erase
from gateway.content.models import Erasure, StoredContent
from gateway.experiments.models import Feedback
from gateway.models import RequestLog
from gateway.privacy.kinds import EMAIL
from gateway.privacy.tokens import Vault
from gateway.privacy.vault import key_of
from tenants.errors import ApiError
from tenants.ids import instant_of
from tenants.models import AuditEvent
from tenants.pseudonyms import pseudonym
from tenants.retention import place_hold, pseudonym_key, release_hold
from tests import factories
from tests.billing.ledger import put, record
from tests.gateway.content.world import NOW, OFFICER, content, days_ago, keeping, logged

pytestmark = pytest.mark.django_db

ANN = "ann@example.com"


def ask(tenant, end_user=ANN, now=NOW):
    return erase.ask(tenant=tenant, end_user=end_user, actor=OFFICER, now=now)


def names():
    return sorted(RequestLog.objects.values_list("tenant__slug", "end_user"))


def test_a_persons_content_comments_and_names_go_and_everybody_elses_stay():
    acme, globex = keeping("acme", content_days=30), keeping("globex", content_days=30)
    for tenant in (acme, globex):
        for person in (ANN, "bob"):
            content(tenant, days_ago(3), end_user=person)
            request_id = logged(tenant, days_ago(2), end_user=person, tags={"a": "b"}, error_message="no")
            Feedback.objects.create(
                tenant=tenant,
                api_key=factories.api_key(tenant).key,
                request_id=request_id,
                occurred_at=instant_of(request_id),
                score=1,
                comment="I am here",
            )
    erasure = ask(acme)
    assert erase.run_next()
    assert not erase.run_next()
    anns = pseudonym(pseudonym_key(acme), ANN)
    assert names() == [("acme", "bob"), ("acme", anns), ("globex", ANN), ("globex", "bob")]
    blank = RequestLog.objects.get(end_user=anns)
    assert (blank.tags, blank.error_message) == ({}, "")
    left = StoredContent.objects.values_list("tenant__slug", "end_user")
    assert sorted(left) == sorted(
        [
            ("acme", pseudonym(pseudonym_key(acme), "bob")),
            ("globex", pseudonym(pseudonym_key(globex), "bob")),
            ("globex", pseudonym(pseudonym_key(globex), ANN)),
        ]
    )
    assert sorted(Feedback.objects.values_list("tenant__slug", "comment")) == [
        ("acme", ""),
        ("acme", "I am here"),
        ("globex", "I am here"),
        ("globex", "I am here"),
    ]
    erasure.refresh_from_db()
    assert (erasure.status, erasure.days_done == erasure.days_total) == ("done", True)
    assert {name: erasure.counts[name] for name in erase.COUNTED} == {
        "content": 1,
        "request_log": 1,
        "comments": 1,
        "vault": 0,
    }


def test_the_certificate_says_what_went_and_what_the_ledger_keeps(ledger_row_of_ann):
    acme = ledger_row_of_ann
    logged(acme, days_ago(1), end_user=ANN)
    erasure = ask(acme)
    erase.run_next()
    erasure.refresh_from_db()
    certificate = erasure.certificate
    assert (certificate.data_class, certificate.method, certificate.rows) == ("end_user", "erased", 1)
    assert certificate.details["stays"] == {"ledger_rows": 1, "budgets": 0}
    assert certificate.details["pseudonym"] == erasure.pseudonym
    assert certificates.verify(acme.id) == []


@pytest.fixture
def ledger_row_of_ann(db):
    acme = factories.tenant("acme")
    put(record(days_ago(2), tenant_id=acme.id, end_user=ANN), record(days_ago(2), tenant_id=acme.id))
    return acme


def test_the_name_itself_is_nowhere_once_it_is_done():
    acme = keeping("acme", content_days=1)
    logged(acme, days_ago(1), end_user=ANN)
    erasure = ask(acme)
    assert ANN.encode() not in bytes(erasure.sealed_name)
    erase.run_next()
    erasure.refresh_from_db()
    assert bytes(erasure.sealed_name) == b""
    events = list(AuditEvent.objects.values_list("before", "after", "object_id"))
    assert ANN not in repr(events) + repr(Erasure.objects.values_list())


def test_calls_after_the_request_are_left_alone():
    acme = factories.tenant("acme")
    logged(acme, NOW + timedelta(seconds=1), end_user=ANN)
    ask(acme)
    erase.run_next()
    assert names() == [("acme", ANN)]


def test_calls_are_found_by_pseudonym_and_by_the_vaults_tokens():
    acme = factories.tenant("acme")
    token = Vault(key_of(acme)).token(EMAIL, ANN)
    for name in (pseudonym(pseudonym_key(acme), ANN), token, token[1:-1]):
        logged(acme, days_ago(1), end_user=name)
        content(acme, days_ago(1), end_user=name if name.startswith("<") else "")
    erasure = ask(acme)
    erase.run_next()
    assert {name for _, name in names()} == {erasure.pseudonym}
    assert StoredContent.objects.exclude(end_user="").count() == 0


def test_a_person_may_be_named_by_pseudonym():
    acme = factories.tenant("acme")
    content(acme, days_ago(1), end_user=ANN)
    erasure = ask(acme, pseudonym(pseudonym_key(acme), ANN))
    erase.run_next()
    assert (erasure.pseudonym, StoredContent.objects.count()) == (pseudonym(pseudonym_key(acme), ANN), 0)


def test_an_interrupted_erasure_goes_on_where_it_was():
    acme = factories.tenant("acme")
    for days in (1, 2, 3):
        logged(acme, days_ago(days), end_user=ANN)
    erasure = ask(acme)
    row = erase._claim(NOW)
    first, *_ = days = erase._days_left(row)
    erase._erase_day(row, first, [ANN])
    erasure.refresh_from_db()
    assert (erasure.status, erasure.position, erasure.days_done) == ("running", first, 1)
    assert not erase.run_next()  # its lease holds
    Erasure.objects.update(leased_until=NOW - timedelta(days=1))
    assert erase.run_next()
    erasure.refresh_from_db()
    assert (erasure.status, erasure.counts["request_log"], erasure.days_done) == ("done", 3, len(days))


def test_a_legal_hold_refuses_and_suspends_erasures():
    acme = factories.tenant("acme")
    logged(acme, days_ago(1), end_user=ANN)
    erasure = ask(acme)
    hold = place_hold(tenant=acme, reason="Case", actor=OFFICER, now=NOW)
    assert not erase.run_next()
    with pytest.raises(ApiError) as refused:
        ask(acme, "bob")
    assert refused.value.code == "conflict"
    assert names() == [("acme", ANN)]
    release_hold(hold=hold, actor=OFFICER, now=NOW)
    assert erase.run_next()
    erasure.refresh_from_db()
    assert erasure.status == "done"


def test_one_person_is_erased_once_at_a_time_and_may_be_again():
    acme = factories.tenant("acme")
    ask(acme)
    with pytest.raises(ApiError) as refused:
        ask(acme)
    assert (refused.value.code, refused.value.param) == ("conflict", "end_user")
    erase.run_next()
    assert ask(acme).status == "queued"


@pytest.mark.parametrize("end_user", ["", "x" * 201, "a\nb"])
def test_a_name_no_call_can_have_is_refused(end_user):
    with pytest.raises(ApiError) as refused:
        ask(factories.tenant(), end_user)
    assert (refused.value.code, refused.value.param) == ("invalid_request", "end_user")
    assert (Erasure.objects.count(), AuditEvent.objects.count()) == (0, 0)
