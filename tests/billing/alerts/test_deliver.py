import contextlib
import socket
import threading
from collections.abc import Iterator
from datetime import datetime, time, timedelta
from decimal import Decimal

import orjson
import pytest
from django.core import mail
from django.test import override_settings

from billing.alerts import deliver, firing, setup
from billing.alerts.deliver import LEASE, claim, deliver_due, finish, fold, replay, send, try_out
from billing.models import AlertAttempt, AlertChannel, AlertDelivery, AlertFiring, AlertRule, AlertStep
from tenants import webhooks
from tenants.errors import ApiError
from tenants.models import AuditEvent, DataKey
from tenants.principal import SYSTEM
from tests.billing.alerts.world import NOW, ROUTING_KEY, after, alarm, channel, clock, no_dice
from tests.factories import tenant
from tests.fakes.http_server import FakeServer, reply, serve

pytestmark = pytest.mark.django_db


class Receiver:
    """A local receiver that answers what the test says, 200 unless told otherwise."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.answers: list[bytes] = []

    @property
    def bodies(self) -> list[dict]:
        return [orjson.loads(request.body) for request in self.server.requests]

    @property
    def ids(self) -> list[str]:
        return [request.header("webhook-id") for request in self.server.requests]

    @property
    def url(self) -> str:
        return f"{self.server.url}/hook"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    box: list[Receiver] = []

    async def answer(peer, request):
        await peer.send(box[0].answers.pop(0) if box[0].answers else reply())

    with serve(answer) as server:
        box.append(Receiver(server))
        with override_settings(
            TOLLHOUSE_EGRESS_ALLOWED_HOSTS=["127.0.0.1"], TOLLHOUSE_PAGERDUTY_URL=server.url
        ):
            yield box[0]


@pytest.fixture
def acme():
    return tenant("acme")


@pytest.fixture
def hook(acme, receiver) -> AlertChannel:
    return channel(acme, "webhook", receiver.url)


def deliver_at(moment: datetime) -> int:
    return deliver_due(clock=clock(moment), dice=no_dice)


def rings(of, number: int = 1, **changes) -> list[AlertFiring]:
    """Several firings of one budget."""
    made = [
        firing.fire(alarm=alarm(of, threshold=Decimal(n), **changes), now=NOW) for n in range(1, number + 1)
    ]
    return [each for each in made if each is not None]


# ------------------------------------------------------------------ webhooks


def test_a_webhook_arrives_signed_with_the_rows_id_and_says_everything(acme, hook, receiver) -> None:
    row = firing.fire(alarm=alarm(acme), now=NOW)
    assert deliver_at(NOW) == 1
    delivery = AlertDelivery.objects.get()
    assert (delivery.state, delivery.attempts, delivery.delivered_at) == ("delivered", 1, NOW)
    (request,) = receiver.server.requests
    (secret,) = webhooks.load(hook.secret())
    headers = dict(request.headers)
    assert webhooks.verify(headers=headers, body=request.body, secrets=[secret.text], now=NOW) == (
        f"msg_{delivery.pk.hex}"
    )
    (body,) = receiver.bodies
    assert (body["type"], body["timestamp"]) == ("alert.fired", NOW.isoformat())
    assert body["data"]["id"] == str(row.pk)
    assert {name: body["data"][name] for name in ("threshold", "value", "limit", "currency", "tenant")} == {
        "threshold": "80",
        "value": "8.5",
        "limit": "10",
        "currency": "USD",
        "tenant": "acme",
    }
    (attempt,) = AlertAttempt.objects.all()
    assert (attempt.number, attempt.status, attempt.finished_at) == (1, 200, NOW)


def test_a_failing_receiver_is_tried_again_under_one_id_until_the_letter_is_dead(
    acme, hook, receiver
) -> None:
    rings(acme)
    receiver.answers = [reply(b"no", status="500 Oops")] * 10
    moment, waits = NOW, []
    for _ in range(10):
        assert deliver_at(moment) == 1
        delivery = AlertDelivery.objects.get()
        waits.append((delivery.next_at - moment).total_seconds())
        moment = delivery.next_at
    assert waits[:9] == list(webhooks.RETRY_AFTER_S[1:])
    assert delivery.state == "dead"
    assert deliver_at(after(days=30)) == 0
    assert len(receiver.ids) == 10
    assert set(receiver.ids) == {f"msg_{delivery.pk.hex}"}
    assert len({request.body for request in receiver.server.requests}) == 1
    assert [each.number for each in AlertAttempt.objects.all()] == list(range(1, 11))


def test_a_dead_letter_is_replayed_under_its_own_id(acme, hook, receiver) -> None:
    rings(acme)
    deliver_at(NOW)
    AlertDelivery.objects.update(state="dead", attempts=10)
    row = replay(delivery=AlertDelivery.objects.get(), actor=SYSTEM, now=after(hours=1))
    assert (row.state, row.attempts) == ("pending", 0)
    deliver_at(after(hours=1))
    assert receiver.ids[0] == receiver.ids[1]
    assert list(AlertAttempt.objects.values_list("number", flat=True)) == [1, 2]
    assert AuditEvent.objects.filter(action="alertdelivery.replay").count() == 1


@pytest.mark.parametrize("state", ["pending", "folded"])
def test_what_is_due_anyway_is_not_replayed(acme, hook, state) -> None:
    rings(acme)
    AlertDelivery.objects.update(state=state)
    with pytest.raises(ApiError, check=lambda error: error.code == "conflict"):
        replay(delivery=AlertDelivery.objects.get(), actor=SYSTEM, now=NOW)


def test_a_redirect_is_a_failure_and_not_followed(acme, hook, receiver) -> None:
    rings(acme)
    receiver.answers = [reply(status="302 Found", headers=(("Location", f"{receiver.url}/elsewhere"),))]
    deliver_at(NOW)
    assert [request.target for request in receiver.server.requests] == ["/hook"]
    assert AlertAttempt.objects.get().status == 302
    assert AlertDelivery.objects.get().state == "pending"


def test_a_receiver_may_ask_for_time(acme, hook, receiver) -> None:
    rings(acme)
    receiver.answers = [reply(status="429 Slow", headers=(("Retry-After", "120"),))]
    deliver_at(NOW)
    assert AlertDelivery.objects.get().next_at == after(seconds=120)


def test_a_receiver_that_is_gone_is_not_called_again(acme, hook, receiver) -> None:
    rings(acme, 2)
    receiver.answers = [reply(status="410 Gone")] * 2
    deliver_at(NOW)
    assert not AlertChannel.objects.get().is_enabled
    assert AuditEvent.objects.filter(action="alertchannel.gone").count() == 1
    rings(acme, 1, window="next")
    assert deliver_at(after(days=1)) == 0


def test_an_endless_answer_is_cut_and_its_status_counts(acme, hook, receiver) -> None:
    rings(acme)
    receiver.answers = [reply(b"x" * 200_000)]
    deliver_at(NOW)
    assert AlertDelivery.objects.get().state == "delivered"


def test_a_private_address_is_never_called(acme, hook, receiver) -> None:
    rings(acme)
    with override_settings(TOLLHOUSE_EGRESS_ALLOWED_HOSTS=[]):
        deliver_at(NOW)
    assert receiver.server.requests == []
    assert "cannot be used" in AlertAttempt.objects.get().detail
    assert AlertDelivery.objects.get().state == "pending"


def test_while_a_secret_is_rotated_receivers_with_either_believe_the_message(acme, hook, receiver) -> None:
    (old,) = webhooks.load(hook.secret())
    _, fresh = setup.rotate_secret(channel=hook, grace_s=3600, now=NOW)
    rings(acme)
    deliver_at(NOW)
    (request,) = receiver.server.requests
    for secret in (old.text, fresh):
        assert webhooks.verify(headers=dict(request.headers), body=request.body, secrets=[secret], now=NOW)


def test_a_secret_that_does_not_open_keeps_the_message_for_later(acme, hook, receiver) -> None:
    rings(acme)
    master = DataKey.objects.get().master_key_id
    DataKey.objects.update(master_key_id="lost")
    deliver_at(NOW)
    assert "secret cannot be opened" in AlertAttempt.objects.get().detail
    DataKey.objects.update(master_key_id=master)
    deliver_at(after(seconds=5))
    assert AlertDelivery.objects.get().state == "delivered"


def test_a_row_that_cannot_be_composed_or_sent_does_not_hold_up_the_batch(acme, hook, receiver) -> None:
    odd, mailed = channel(acme, "webhook", receiver.url), channel(acme, "email")
    rings(acme)
    AlertDelivery.objects.filter(channel=odd).update(payload={"title": "from another age"})
    AlertChannel.objects.filter(pk=mailed.pk).update(target="a@x.example\nbcc: b@x.example")
    assert deliver_at(NOW) == 3
    states = {each.channel_id: each.state for each in AlertDelivery.objects.all()}
    assert states == {hook.pk: "delivered", odd.pk: "dead", mailed.pk: "pending"}
    assert not AlertAttempt.objects.filter(finished_at=None).exists()
    assert mail.outbox == []


# ------------------------------------------------------------------ at least once


def test_a_message_whose_sender_died_is_sent_again_when_its_lease_has_ended(acme, hook, receiver) -> None:
    rings(acme)
    (lost,) = claim(now=NOW)
    send(lost.outgoing)  # and dies before it could say so
    assert deliver_at(NOW + LEASE - timedelta(seconds=1)) == 0
    assert deliver_at(NOW + LEASE) == 1
    assert len(set(receiver.ids)) == 1
    assert len(receiver.ids) == 2
    delivery = AlertDelivery.objects.get()
    assert (delivery.state, delivery.attempts) == ("delivered", 2)
    assert [each.finished_at is None for each in AlertAttempt.objects.all()] == [True, False]


def test_who_lost_the_lease_books_only_its_attempt_unless_it_delivered(acme, hook, receiver) -> None:
    rings(acme)
    (slow,) = claim(now=NOW)
    (fast,) = claim(now=NOW + LEASE)
    failed = deliver.Outcome("dead", "gone", 404)
    assert finish(claim=slow, outcome=failed, now=after(minutes=3), draw=0).state == "pending"
    delivered = deliver.Outcome("delivered", "", 200)
    assert finish(claim=slow, outcome=delivered, now=after(minutes=3), draw=0).state == "delivered"
    assert finish(claim=fast, outcome=failed, now=after(minutes=4), draw=0).state == "delivered"


def test_two_claimers_never_get_the_same_message(acme, hook) -> None:
    rings(acme, 3)
    first = claim(now=NOW)
    assert len(first) == 3
    assert claim(now=NOW) == []


def test_a_dead_channel_does_not_keep_others_waiting(acme, receiver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tarpit:  # accepts nothing, answers nothing
        stuck = channel(acme, "webhook", f"http://127.0.0.1:{tarpit.getsockname()[1]}/")
        rings(acme, 30)
        good = channel(acme, "webhook", receiver.url)
        firing.fire(alarm=alarm(acme, threshold=Decimal(99), window="later"), now=after(seconds=1))
        claims = claim(now=after(seconds=2))
    of_channel = [each.delivery.channel for each in claims]
    assert of_channel.count(stuck) == deliver.PER_CHANNEL
    assert of_channel.count(good) == 1
    assert claim(now=after(seconds=3)) == []  # nothing more for a channel at work


def test_the_end_waits_for_the_beginning(acme, hook, receiver) -> None:
    (row,) = rings(acme)
    receiver.answers = [reply(status="500 Oops")]
    deliver_at(NOW)
    firing.resolve(firing=row, now=after(seconds=1))
    assert deliver_at(after(seconds=2)) == 0
    for _ in range(2):
        deliver_at(after(seconds=5))
    assert [body["type"] for body in receiver.bodies] == ["alert.fired", "alert.fired", "alert.resolved"]


# ------------------------------------------------------------------ PagerDuty and Slack


def test_pagerduty_opens_acknowledges_and_resolves_one_incident(acme, receiver) -> None:
    channel(acme, "pagerduty")
    receiver.answers = [reply(status="202 Accepted")] * 4
    row, sibling = rings(acme, 2)
    deliver_at(NOW)
    firing.acknowledge(firing=row, actor=SYSTEM, now=after(minutes=1))
    deliver_at(after(minutes=1))
    firing.resolve(firing=sibling, now=after(minutes=2))
    assert deliver_at(after(minutes=2)) == 0  # its sibling is still open
    firing.resolve(firing=row, now=after(minutes=3))
    deliver_at(after(minutes=3))
    assert [body["event_action"] for body in receiver.bodies] == [
        "trigger",
        "trigger",
        "acknowledge",
        "resolve",
    ]
    assert {body["dedup_key"] for body in receiver.bodies} == {"budget:1:1793491200"}
    assert {body["routing_key"] for body in receiver.bodies} == {ROUTING_KEY}
    payload = receiver.bodies[0]["payload"]
    assert (payload["severity"], payload["source"]) == ("warning", "tollhouse")
    assert payload["custom_details"]["Limit"] == "10.00 USD"
    assert {request.target for request in receiver.server.requests} == {"/v2/enqueue"}


def test_a_wrong_routing_key_is_dead_at_once_and_too_many_events_are_not(acme, receiver) -> None:
    channel(acme, "pagerduty")
    receiver.answers = [reply(status="429 Slow"), reply(status="400 Bad")]
    rings(acme)
    deliver_at(NOW)
    assert AlertDelivery.objects.get().state == "pending"
    deliver_at(after(seconds=5))
    assert AlertDelivery.objects.get().state == "dead"


def test_slack_gets_a_card_and_no_name_becomes_a_mention(acme, receiver) -> None:
    channel(acme, "slack", f"{receiver.url}/services/x")
    rings(acme, title="<!channel> & co", facts=[("Budget", "<https://evil.example|click>")])
    deliver_at(NOW)
    (body,) = receiver.bodies
    assert body["text"] == "&lt;!channel&gt; &amp; co"
    (attachment,) = body["attachments"]
    assert attachment["color"] == "#d08700"
    assert "&lt;https://evil.example|click&gt;" in attachment["blocks"][1]["fields"][0]["text"]


# ------------------------------------------------------------------ e-mail


def test_an_email_says_it_in_text_and_html_under_a_steady_message_id(acme) -> None:
    channel(acme, "email", "a@acme.example, b@acme.example")
    rings(acme, title="Chat <b>&\r\nBcc: x@evil.example has reached 80 %")
    deliver_at(NOW)
    (message,) = mail.outbox
    assert message.to == ["a@acme.example", "b@acme.example"]
    assert message.subject == "[Tollhouse] Chat <b>& Bcc: x@evil.example has reached 80 %"
    assert message.extra_headers["Message-ID"] == f"<{AlertDelivery.objects.get().pk}@127.0.0.1>"
    assert "Limit: 10.00 USD" in message.body
    html = message.alternatives[0].content
    assert "Chat &lt;b&gt;&amp;" in html
    assert "10.00 USD</td>" in html


@contextlib.contextmanager
def smtp_server(refusal: bytes | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """A mail server of a dozen lines, for one connection; answers RCPT with `refusal` if given."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rwb") as stream:
                stream.write(b"220 ready\r\n")
                stream.flush()
                is_data = False
                for line in stream:
                    received.append(line)
                    if is_data:
                        if line == b".\r\n":
                            is_data = False
                            stream.write(b"250 taken\r\n")
                    elif line.upper().startswith(b"DATA"):
                        is_data = True
                        stream.write(b"354 go on\r\n")
                    elif line.upper().startswith(b"RCPT") and refusal:
                        stream.write(refusal)
                    else:
                        stream.write(b"250 ok\r\n")
                    stream.flush()
                    if line.upper().startswith(b"QUIT"):
                        return

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield listener.getsockname()[1], received
        finally:
            thread.join(10)


def mailers(port: int) -> dict:
    return {
        "default": {
            "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
            "OPTIONS": {"host": "127.0.0.1", "port": port, "timeout": 5},
        }
    }


def test_an_email_goes_through_a_real_mail_server(acme) -> None:
    channel(acme, "email")
    rings(acme)
    with smtp_server() as (port, received), override_settings(MAILERS=mailers(port)):
        deliver_at(NOW)
    assert AlertDelivery.objects.get().state == "delivered"
    assert b"Subject: [Tollhouse] Chat has reached 80 %: 8.50 USD of 10.00 USD\r\n" in received


@pytest.mark.parametrize(("refusal", "state"), [(b"550 nobody\r\n", "dead"), (b"450 later\r\n", "pending")])
def test_a_refused_address_is_dead_and_a_busy_server_is_not(acme, refusal, state) -> None:
    channel(acme, "email")
    rings(acme)
    with smtp_server(refusal) as (port, _), override_settings(MAILERS=mailers(port)):
        deliver_at(NOW)
    assert AlertDelivery.objects.get().state == state


def test_a_mail_server_that_is_down_is_tried_again(acme) -> None:
    channel(acme, "email")
    rings(acme)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with override_settings(MAILERS=mailers(port)):
        deliver_at(NOW)
    assert AlertDelivery.objects.get().next_at == after(seconds=5)


# ------------------------------------------------------------------ noise


def test_more_than_five_in_ten_minutes_come_in_one_digest(acme) -> None:
    channel(acme, "email")
    rings(acme, 8)
    while deliver_at(NOW):
        pass
    assert len(mail.outbox) == 5
    digest = AlertDelivery.objects.get(event="digest")
    assert (digest.state, digest.next_at, digest.folded.count()) == ("pending", after(minutes=10), 3)
    rings(acme, 2, window="another")
    assert fold(now=after(minutes=1)) == 2
    deliver_at(after(minutes=10))
    assert len(mail.outbox) == 6
    assert mail.outbox[-1].subject == "[Tollhouse] 5 alerts"
    assert mail.outbox[-1].body.count("- Chat has reached") == 5
    assert deliver_at(after(days=1)) == 0


def test_programs_are_told_everything_singly(acme, hook, receiver) -> None:
    rings(acme, 12)
    moment = NOW
    while deliver_at(moment):
        moment += timedelta(seconds=1)
    assert len(receiver.ids) == len(set(receiver.ids)) == 12


def test_quiet_hours_hold_everything_but_what_is_critical(acme) -> None:
    channel(acme, "email", timezone="Europe/Berlin", quiet_from=time(12), quiet_to=time(15))
    rings(acme)
    firing.fire(alarm=alarm(acme, severity="critical", title="Bad"), now=NOW)
    deliver_at(NOW)  # 13:00 in Berlin
    assert [message.subject for message in mail.outbox] == ["[Tollhouse] Bad"]
    assert AlertDelivery.objects.get(state="pending").next_at == after(hours=2)
    deliver_at(after(hours=2))
    assert len(mail.outbox) == 2


def test_escalation_goes_on_until_somebody_acknowledges(acme) -> None:
    first, second = channel(acme, "email", "first@x.example"), channel(acme, "email", "second@x.example")
    rule = AlertRule.objects.create(tenant=acme, name="r", kind="error_rate", thresholds=[5])
    AlertStep.objects.create(rule=rule, channel=first)
    AlertStep.objects.create(rule=rule, channel=second, after_s=900)
    told = rings(acme, 2, rule=rule)
    deliver_at(NOW)
    assert [message.to for message in mail.outbox] == [["first@x.example"]] * 2
    firing.acknowledge(firing=told[0], actor=SYSTEM, now=after(minutes=5))
    deliver_at(after(minutes=15))
    assert [message.to for message in mail.outbox[2:]] == [["second@x.example"]]
    assert AlertDelivery.objects.get(firing=told[0], after_s=900).state == "cancelled"


def test_a_snoozed_subject_is_told_afterwards(acme) -> None:
    channel(acme, "email")
    (row,) = rings(acme)
    deliver_at(NOW)
    firing.snooze(firing=row, until=after(hours=2), actor=SYSTEM, now=NOW)
    firing.fire(alarm=alarm(acme, threshold=Decimal(99)), now=after(minutes=1))
    assert deliver_at(after(hours=1)) == 0
    assert deliver_at(after(hours=2)) == 1


def test_settled_messages_are_forgotten_after_90_days_and_what_is_due_never(acme, hook, receiver) -> None:
    rings(acme, 3)
    AlertDelivery.objects.filter(firing__threshold=1).update(state="delivered", updated_at=after(days=-91))
    AlertDelivery.objects.filter(firing__threshold=2).update(state="delivered", updated_at=after(days=-89))
    AlertDelivery.objects.filter(firing__threshold=3).update(updated_at=after(days=-91))
    assert deliver.prune(now=NOW) == 1
    assert sorted(AlertDelivery.objects.values_list("firing__threshold", flat=True)) == [2, 3]
    assert AlertFiring.objects.count() == 3


# ------------------------------------------------------------------ the test button


def test_the_test_button_sends_now_and_says_what_became_of_it(acme, hook, receiver) -> None:
    receiver.answers = [reply(), reply(status="500 Oops")]
    _, outcome = try_out(channel=hook, actor=SYSTEM, clock=clock())
    assert (outcome.kind, outcome.status) == ("delivered", 200)
    assert receiver.bodies[0]["type"] == "alert.test"
    with pytest.raises(ApiError, check=lambda error: error.code == "rate_limit_exceeded"):
        try_out(channel=hook, actor=SYSTEM, clock=clock())
    AlertDelivery.objects.update(created_at=after(minutes=-1))
    row, outcome = try_out(channel=hook, actor=SYSTEM, clock=clock())
    assert (outcome.status, row.state) == (500, "dead")  # nobody waits 75 hours for a test
    assert len(receiver.server.requests) == 2


def test_a_test_of_pagerduty_does_not_stay_an_incident(acme, receiver) -> None:
    pager = channel(acme, "pagerduty")
    try_out(channel=pager, actor=SYSTEM, clock=clock())
    deliver_at(NOW)
    assert [body["event_action"] for body in receiver.bodies] == ["trigger", "resolve"]
    assert len({body["dedup_key"] for body in receiver.bodies}) == 1


def test_a_disabled_channel_is_neither_tried_nor_told(acme, hook, receiver) -> None:
    rings(acme)
    AlertChannel.objects.update(is_enabled=False)
    with pytest.raises(ApiError, check=lambda error: error.code == "conflict"):
        try_out(channel=hook, actor=SYSTEM, clock=clock())
    assert deliver_at(NOW) == 0
    assert AlertDelivery.objects.get().state == "cancelled"
    assert receiver.server.requests == []
