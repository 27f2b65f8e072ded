"""Sinks against real local receivers: in order, at least once, and nothing is ever lost."""

import json
import ssl
from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone

from tenants import webhooks
from tenants.errors import ApiError
from tenants.models import AuditEvent, AuditSink, AuditSinkCursor
from tenants.principal import SYSTEM
from tenants.trail import sinks, syslog
from tenants.trail.export import as_json
from tests import factories
from tests.fakes.http_server import make_authority, reply, serve
from tests.tenants.test_audit import write


@pytest.fixture
def acme(committed_db, settings):
    from django.core.cache import cache

    cache.clear()
    settings.TOLLHOUSE_EGRESS_ALLOWED_HOSTS = ["127.0.0.1"]
    return factories.tenant("acme")


def written(tenant, **fields):
    with transaction.atomic():
        return write(tenant, **fields)


def add(tenant, target, **options):
    kind = "syslog" if target.startswith("syslog") else "webhook"
    return sinks.add_sink(
        tenant=tenant, name="siem", kind=kind, target=target, actor=SYSTEM, now=timezone.now(), **options
    )


def deliver(sink, *, later=timedelta(0)):
    return sinks.deliver(sink_id=sink.pk, clock=lambda: timezone.now() + later, draw=0.0)


def sequences(requests):
    return [[event["sequence"] for event in json.loads(each.body)["data"]["events"]] for each in requests]


# ------------------------------------------------------------------ webhooks


async def take(peer, request):
    await peer.send(reply())


def test_a_webhook_gets_new_events_signed_and_in_order(acme):
    written(acme)  # before the sink: not sent
    with serve(take) as server:
        made = add(acme, f"{server.url}/audit")
        events = [written(acme, after={"n": number}) for number in range(3)]
        assert sinks.due_sinks(now=timezone.now()) == [made.sink.pk]
        assert deliver(made.sink) == 4
        assert sinks.due_sinks(now=timezone.now()) == []
        (request,) = server.requests
    assert webhooks.verify(
        headers=dict(request.headers), body=request.body, secrets=[made.secret], now=timezone.now()
    ) == request.header("webhook-id")
    body = json.loads(request.body)
    assert (body["type"], body["data"]["chain"]) == ("audit.events", str(acme.id))
    assert [each["action"] for each in body["data"]["events"]] == ["audit_sink.create"] + ["thing.update"] * 3
    assert body["data"]["events"][1:] == [as_json(AuditEvent.objects.get(pk=each.pk)) for each in events]


def test_what_is_not_taken_is_sent_again_under_the_same_id(acme):
    answers = iter([reply(status="503 Busy"), reply(), reply()])

    async def busy(peer, request):
        await peer.send(next(answers))

    with serve(busy) as server:
        sink = add(acme, server.url).sink
        assert deliver(sink) == 0
        sink.refresh_from_db()
        assert (sink.failures, sink.last_error) == (1, "The receiver answered 503.")
        assert sinks.lags_of([sink]) == {sink.pk: 1}
        assert deliver(sink) == 0  # not before its time
        assert deliver(sink, later=timedelta(minutes=1)) == 1
        written(acme)
        assert deliver(sink, later=timedelta(minutes=1)) == 1
    sink.refresh_from_db()
    assert (sink.failures, sink.last_error, sink.lease_until) == (0, "", None)
    assert sequences(server.requests) == [[1], [1], [2]]
    first, second, third = (each.header("webhook-id") for each in server.requests)
    assert first == second != third


def test_retries_never_end(acme):
    with serve(take) as server:
        target = server.url
    sink = add(acme, target).sink  # nobody is there any more
    for number in range(1, 20):
        assert deliver(sink, later=timedelta(days=number)) == 0
    sink.refresh_from_db()
    assert (sink.failures, sink.is_enabled) == (19, True)
    assert "connection failed" in sink.last_error


def test_a_receiver_that_is_gone_is_not_called_again_and_loses_nothing(acme):
    answers = iter([reply(status="410 Gone"), reply()])

    async def gone(peer, request):
        await peer.send(next(answers))

    with serve(gone) as server:
        sink = add(acme, server.url).sink
        assert deliver(sink) == 0
        sink.refresh_from_db()
        assert not sink.is_enabled
        assert AuditEvent.objects.get(action="audit_sink.gone").actor_kind == "system"
        sinks.change_sink(sink=sink, changes={"is_enabled": True}, actor=SYSTEM, now=timezone.now())
        assert deliver(sink) == 3
    assert sequences(server.requests) == [[1], [1, 2, 3]]


def test_a_long_trail_goes_in_batches(acme, monkeypatch):
    monkeypatch.setattr(sinks, "BATCH", 2)
    with serve(take) as server:
        for _ in range(4):
            written(acme)
        sink = add(acme, server.url, is_from_start=True).sink
        assert deliver(sink) == 5
    assert sequences(server.requests) == [[1, 2], [3, 4], [5]]


def test_two_deliverers_do_not_send_beside_each_other(acme):
    with serve(take) as server:
        sink = add(acme, server.url).sink
        AuditSink.objects.filter(pk=sink.pk).update(lease_until=timezone.now() + timedelta(seconds=60))
        assert (deliver(sink), sinks.due_sinks(now=timezone.now())) == (0, [])
        assert deliver(sink, later=timedelta(seconds=61)) == 1  # whoever held it has died
    assert sequences(server.requests) == [[1]]


def test_the_operators_sink_takes_all_chains_also_those_to_come(acme):
    with serve(take) as server:
        sink = add(None, server.url, has_all_chains=True).sink
        written(acme)
        later = factories.tenant("later")
        written(later)
        written(None)
        assert sinks.lags_of([sink]) == {sink.pk: 4}
        assert deliver(sink) == 4
    chains = {json.loads(each.body)["data"]["chain"] for each in server.requests}
    assert chains == {"00000000-0000-0000-0000-000000000000", str(acme.id), str(later.id)}
    assert AuditSinkCursor.objects.filter(sink=sink).count() == 3
    assert sinks.lags_of([sink]) == {sink.pk: 0}


def test_a_tenants_sink_never_sees_another_chain(acme):
    with serve(take) as server:
        sink = add(acme, server.url).sink
        written(factories.tenant("other"))
        written(None)
        assert deliver(sink) == 1
    assert {json.loads(each.body)["data"]["chain"] for each in server.requests} == {str(acme.id)}


def test_both_secrets_sign_while_one_is_rotated(acme):
    with serve(take) as server:
        old = add(acme, server.url)
        new = sinks.rotate_secret(sink=old.sink, grace_s=3600, actor=SYSTEM, now=timezone.now())
        deliver(old.sink)
        (request,) = server.requests
    for secret in (old.secret, new.secret):
        webhooks.verify(
            headers=dict(request.headers), body=request.body, secrets=[secret], now=timezone.now()
        )


def test_a_test_says_why_it_was_not_taken_and_is_recorded(acme):
    async def refuse(peer, request):
        await peer.send(reply(status="401 No"))

    with serve(refuse) as server:
        sink = add(acme, server.url).sink
        now = timezone.now()
        assert sinks.try_out(sink=sink, actor=SYSTEM, now=now) == "The receiver answered 401."
        with pytest.raises(ApiError, match="One test in ten seconds"):
            sinks.try_out(sink=sink, actor=SYSTEM, now=now)
    event = AuditEvent.objects.get(action="audit_sink.test")
    assert event.after == {"taken": False, "error": "The receiver answered 401."}
    assert json.loads(server.requests[0].body)["type"] == "audit.test"


@pytest.mark.parametrize(
    ("target", "is_tenants"),
    [
        ("https://10.0.0.1/", True),
        ("http://example.com/", True),
        ("https://169.254.169.254/", False),
        ("syslog+tls://169.254.169.254", False),
        ("syslog+tls://10.0.0.1:6514", True),
        ("syslog+tcp://1.1.1.1:601", True),  # clear text
        ("syslog+tcp://user@127.0.0.1", True),
        ("syslog+tcp://127.0.0.1/path", True),
    ],
)
def test_a_target_that_must_not_be_called_is_refused(acme, target, is_tenants):
    with pytest.raises(ApiError) as refusal:
        add(acme if is_tenants else None, target)
    assert (refusal.value.code, refusal.value.param) == ("url_not_allowed", "target")
    assert not AuditSink.objects.exists()


def test_no_secret_stays_readable_or_is_audited(acme):
    made = add(acme, "http://127.0.0.1:1/")
    made.sink.refresh_from_db()
    assert made.secret.startswith("whsec_")
    assert made.secret.encode() not in bytes(made.sink.sealed)
    event = AuditEvent.objects.get(action="audit_sink.create")
    assert made.secret not in json.dumps([event.before, event.after])


# ------------------------------------------------------------------ syslog


def receiver(lines):
    """Reads octet-counted frames until the client has said that there are no more, then closes."""

    async def read(peer):
        received = b""
        while data := await peer.reader.read(65536):
            received += data
        while received:
            length, _, received = received.partition(b" ")
            lines.append(received[: int(length)])
            received = received[int(length) :]

    return read


@pytest.mark.parametrize("is_tls", [False, True])
def test_syslog_gets_each_event_in_a_counted_frame(acme, is_tls, settings):
    settings.PUBLIC_URL = "https://gateway.example.com"
    lines = []
    authority = make_authority("127.0.0.1")
    tls = authority.server_context if is_tls else None
    with serve(raw=receiver(lines), tls=tls) as server:
        scheme = "syslog+tls" if is_tls else "syslog+tcp"
        target = f"{scheme}://127.0.0.1:{server.port}"
        sink = add(acme, target, ca_certificate=authority.ca_pem if is_tls else "").sink
        event = written(acme, after={"name": "Zoë"})
        assert deliver(sink) == 2
    sink.refresh_from_db()
    assert (sink.last_error, len(lines)) == ("", 2)
    head, _, body = lines[1].partition(b"\xef\xbb\xbf")
    stamp = event.at.isoformat(timespec="microseconds").replace("+00:00", "Z")
    assert head.decode() == (
        f"<109>1 {stamp} gateway.example.com tollhouse - thing.update "
        f'[tollhouse@32473 chain="{acme.id}" sequence="2"] '
    )
    assert json.loads(body) == as_json(AuditEvent.objects.get(pk=event.pk))


def test_a_syslog_server_that_cuts_the_line_gets_it_all_again(acme):
    lines = []
    read = receiver(lines)

    async def cut_once(peer):
        if peer.number == 1:
            await peer.reader.read(10)
            peer.reset()
            return
        await read(peer)

    with serve(raw=cut_once) as server:
        sink = add(acme, f"syslog+tcp://127.0.0.1:{server.port}").sink
        written(acme)
        assert deliver(sink) == 0
        sink.refresh_from_db()
        assert sink.last_error.startswith("The syslog server did not take it: ")
        assert deliver(sink, later=timedelta(minutes=1)) == 2
    assert [json.loads(line.partition(b"\xef\xbb\xbf")[2])["sequence"] for line in lines] == [1, 2]


def test_a_syslog_server_without_the_right_certificate_gets_nothing(acme):
    lines = []
    with serve(raw=receiver(lines), tls=make_authority("127.0.0.1").server_context) as server:
        sink = add(acme, f"syslog+tls://127.0.0.1:{server.port}").sink
        assert deliver(sink) == 0
    sink.refresh_from_db()
    assert "certificate verify failed" in sink.last_error.lower()
    assert lines == []


def test_a_certificate_that_is_none_is_an_error_and_no_crash(acme):
    sink = add(acme, "syslog+tls://127.0.0.1:1", ca_certificate="not a certificate").sink
    target = syslog.Target("127.0.0.1", 1, is_tls=True)
    with pytest.raises(syslog.SyslogError):
        syslog.send(target, ["127.0.0.1"], [b"x"], timeout_s=1, ca_pem=sink.ca_certificate)
    with pytest.raises(ssl.SSLError):
        ssl.create_default_context(cadata="not a certificate")
    assert deliver(sink) == 0
