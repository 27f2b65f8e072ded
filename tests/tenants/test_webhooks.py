import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import pytest

from tenants import webhooks
from tenants.webhooks import RETRY_AFTER_S, SignatureError, SigningSecret

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
OTHER = webhooks.new_secret()
# The example of the specification's reference libraries.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
SIGNED_AT = datetime.fromtimestamp(1614265330, UTC)
BODY = b'{"test": 2432232314}'


def signed(*secrets, at=NOW, body=b"{}", message_id="m1"):
    return dict(webhooks.sign(message_id=message_id, at=at, body=body, secrets=secrets or (SECRET,)))


def test_the_specifications_own_example_is_signed_as_it_says() -> None:
    assert signed(SECRET, at=SIGNED_AT, body=BODY, message_id=MESSAGE_ID) == {
        "webhook-id": MESSAGE_ID,
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_a_signature_is_the_hmac_of_id_time_and_body() -> None:
    key = base64.b64decode(OTHER.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.digest(key, b"m1.%d.{}" % NOW.timestamp(), hashlib.sha256)).decode()
    assert signed(OTHER)["webhook-signature"] == f"v1,{expected}"


def test_a_fresh_secret_holds_256_bits_and_no_two_are_alike() -> None:
    fresh = webhooks.new_secret()
    assert fresh.startswith("whsec_")
    assert len(base64.b64decode(fresh.removeprefix("whsec_"))) == 32
    assert fresh != webhooks.new_secret()


@pytest.mark.parametrize("message_id", ["", "a.b", "a b", "a\r\nx: y", "é", "a" * 129])
def test_an_id_that_could_forge_a_header_or_the_signed_text_is_refused(message_id: str) -> None:
    with pytest.raises(ValueError, match="message id"):
        signed(message_id=message_id)


@pytest.mark.parametrize(
    "secret", ["whsec_!", "whsec_" + base64.b64encode(b"x" * 23).decode(), "", "whsec_YQ"]
)
def test_a_secret_of_another_form_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="signing secret"):
        signed(secret)


def test_nothing_is_sent_unsigned() -> None:
    with pytest.raises(ValueError, match="nothing to sign with"):
        webhooks.sign(message_id="m1", at=NOW, body=b"{}", secrets=())


# ------------------------------------------------------------------ verification


def test_what_was_signed_verifies_under_any_case_of_the_headers() -> None:
    headers = {name.title(): value for name, value in signed().items()}
    assert webhooks.verify(headers=headers, body=b"{}", secrets=[SECRET], now=NOW) == "m1"


@pytest.mark.parametrize(
    "change",
    [
        {"body": b"{ }"},
        {"secrets": [OTHER]},
        {"secrets": []},
        {"headers": {**signed(), "webhook-id": "m2"}},
        {"headers": {**signed(), "webhook-timestamp": str(int(NOW.timestamp()) + 1)}},
        {"headers": {**signed(), "webhook-timestamp": "now"}},
        {"headers": {**signed(), "webhook-signature": "v1,"}},
        {"headers": {**signed(), "webhook-signature": "v1a," + signed()["webhook-signature"][3:]}},
        {"headers": {**signed(), "webhook-signature": "é"}},
        {"headers": {name: value for name, value in signed().items() if name != "webhook-id"}},
        {"headers": {}},
    ],
)
def test_what_was_changed_on_the_way_does_not_verify(change) -> None:
    given = {"headers": signed(), "body": b"{}", "secrets": [SECRET], "now": NOW, **change}
    with pytest.raises(SignatureError):
        webhooks.verify(**given)


@pytest.mark.parametrize(("age_s", "is_believed"), [(300, True), (301, False), (-300, True), (-301, False)])
def test_a_message_is_believed_for_five_minutes_around_its_time(age_s: int, is_believed: bool) -> None:
    given = {"headers": signed(), "body": b"{}", "secrets": [SECRET], "now": NOW + timedelta(seconds=age_s)}
    if is_believed:
        assert webhooks.verify(**given) == "m1"
    else:
        with pytest.raises(SignatureError, match="too old" if age_s > 0 else "future"):
            webhooks.verify(**given)


# ------------------------------------------------------------------ rotation


def test_while_a_secret_is_rotated_the_message_carries_both_signatures() -> None:
    held = webhooks.rotate([SigningSecret(SECRET)], OTHER, now=NOW, grace_s=3600)
    headers = signed(*webhooks.in_force(held, NOW))
    assert headers["webhook-signature"].count("v1,") == 2
    for secret in (SECRET, OTHER):
        assert webhooks.verify(headers=headers, body=b"{}", secrets=[secret], now=NOW) == "m1"


def test_the_old_secret_signs_until_its_grace_ends_and_not_a_moment_longer() -> None:
    held = webhooks.rotate([SigningSecret(SECRET)], OTHER, now=NOW, grace_s=3600)
    assert webhooks.in_force(held, NOW + timedelta(seconds=3599)) == (OTHER, SECRET)
    assert webhooks.in_force(held, NOW + timedelta(seconds=3600)) == (OTHER,)


def test_rotating_twice_keeps_two_secrets_and_without_grace_one() -> None:
    third = webhooks.new_secret()
    twice = webhooks.rotate(
        webhooks.rotate([SigningSecret(SECRET)], OTHER, now=NOW, grace_s=3600), third, now=NOW, grace_s=60
    )
    assert webhooks.in_force(twice, NOW) == (third, OTHER)
    assert webhooks.rotate(twice, SECRET, now=NOW, grace_s=0) == (SigningSecret(SECRET),)


@pytest.mark.parametrize("grace_s", [-1, 30 * 24 * 3600 + 1])
def test_a_grace_out_of_range_is_refused(grace_s: int) -> None:
    with pytest.raises(ValueError, match="grace_s"):
        webhooks.rotate([], OTHER, now=NOW, grace_s=grace_s)


def test_secrets_survive_being_put_away_and_show_in_no_repr() -> None:
    held = webhooks.rotate([SigningSecret(SECRET)], OTHER, now=NOW, grace_s=3600)
    assert webhooks.load(webhooks.dump(held)) == held
    assert SECRET not in repr(held)


# ------------------------------------------------------------------ retries


def test_ten_attempts_span_75_and_a_half_hours_then_the_letter_is_dead() -> None:
    at, waits = NOW, []
    for attempts in range(1, len(RETRY_AFTER_S)):
        following = webhooks.next_attempt_at(attempts=attempts, now=at, draw=0)
        waits.append((following - at).total_seconds())
        at = following
    assert waits == [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400]
    assert (at - NOW).total_seconds() == 272_105
    assert webhooks.next_attempt_at(attempts=10, now=at, draw=0) is None


def test_the_dice_lengthen_a_wait_by_a_tenth_at_most() -> None:
    assert webhooks.next_attempt_at(attempts=2, now=NOW, draw=0.5) == NOW + timedelta(seconds=315)
    assert webhooks.next_attempt_at(attempts=2, now=NOW, draw=1) == NOW + timedelta(seconds=330)


@pytest.mark.parametrize(("asked_s", "wait_s"), [(1, 5), (60, 60), (10**9, 3600)])
def test_a_receiver_may_ask_for_more_time_but_not_for_more_than_an_hour(asked_s: int, wait_s: int) -> None:
    following = webhooks.next_attempt_at(attempts=1, now=NOW, draw=0, retry_after_s=asked_s)
    assert following == NOW + timedelta(seconds=wait_s)
