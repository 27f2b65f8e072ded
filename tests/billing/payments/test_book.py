import time
from datetime import timedelta
from decimal import Decimal

import pytest
from django.test import Client
from django.utils import timezone

from billing.invoicing.issue_credit import issue_credit
from billing.models import (
    CreditGrant,
    Invoice,
    Payment,
    PaymentCustomer,
    PaymentEvent,
    Refund,
    Wallet,
)
from billing.payments import book
from billing.rating.money import PICO
from billing.wallets import book as wallets
from tenants.errors import ApiError
from tenants.models import AuditEvent
from tenants.principal import SYSTEM
from tests.billing.invoicing import world
from tests.billing.payments import fake_stripe
from tests.billing.payments.fake_stripe import event, signature

NOW = timezone.now()
HOOK = "/api/v1/payments/stripe/webhook/"


@pytest.fixture
def tenant(db):
    world.seller()
    return world.buyer(world.plan(base_amount="10"))


@pytest.fixture
def stripe(settings):
    with fake_stripe.running() as fake:
        settings.TOLLHOUSE_STRIPE_API_KEY = fake_stripe.KEY
        settings.TOLLHOUSE_STRIPE_WEBHOOK_SECRETS = ["whsec_older", fake_stripe.SECRET]
        settings.TOLLHOUSE_STRIPE_URL = fake.url
        yield fake


def top_up(tenant, amount_minor=5000, key="k1"):
    return book.ask_for_top_up(
        tenant=tenant, currency="EUR", amount_minor=amount_minor, key=key, now=NOW, actor=SYSTEM
    )


def post(body, *, header=None, at=None):
    at = int(time.time()) if at is None else at
    return Client().generic(
        "POST", HOOK, body, content_type="application/json",
        headers={"stripe-signature": signature(body, at) if header is None else header},
    )  # fmt: skip


def balance(tenant):
    wallet = Wallet.objects.filter(tenant=tenant).first()
    return Decimal(wallet.balance_pico) / PICO if wallet else 0


# ------------------------------------------------------------------ by hand


def test_money_that_arrived_is_booked_in_parts_under_its_reference(tenant):
    invoice = world.issued(tenant)
    first = book.record_manual(
        invoice=invoice, reference="SEPA 1", key="a", amount_minor=400, now=NOW, actor=SYSTEM
    )
    invoice.refresh_from_db()
    assert (first.status, invoice.status, invoice.balance_minor) == ("succeeded", "open", 790)
    book.record_manual(invoice=invoice, reference="SEPA 2", key="b", now=NOW, actor=SYSTEM)
    invoice.refresh_from_db()
    assert (invoice.status, invoice.payment_reference, invoice.paid_minor) == ("paid", "SEPA 2", 1190)
    with pytest.raises(ApiError) as refused:
        book.record_manual(invoice=invoice, reference="x", key="c", now=NOW, actor=SYSTEM)
    assert refused.value.code == "conflict"
    assert Payment.objects.count() == 2


def test_a_key_books_once(tenant):
    invoice = world.issued(tenant)
    book.record_manual(invoice=invoice, reference="r", key="a", amount_minor=400, now=NOW, actor=SYSTEM)
    with pytest.raises(ApiError) as refused:
        book.record_manual(invoice=invoice, reference="r", key="a", amount_minor=400, now=NOW, actor=SYSTEM)
    assert (refused.value.code, refused.value.param) == ("conflict", "Idempotency-Key")
    invoice.refresh_from_db()
    assert invoice.paid_minor == 400


def test_a_top_up_by_transfer_credits_when_it_is_confirmed_and_once(tenant):
    payment = top_up(tenant)
    assert book.start_due(now=NOW) == 1
    payment.refresh_from_db()
    assert (payment.provider, payment.status, payment.next_at) == ("manual", "pending", None)
    assert balance(tenant) == 0
    book.confirm_manual(payment=payment, reference="SEPA 9", now=NOW, actor=SYSTEM)
    assert balance(tenant) == 50
    with pytest.raises(ApiError, match="succeeded cannot be confirmed"):
        book.confirm_manual(payment=payment, reference="SEPA 9", now=NOW, actor=SYSTEM)
    assert balance(tenant) == 50


# ------------------------------------------------------------------ Stripe


def test_a_checkout_credits_after_a_signed_event_and_our_own_look(tenant, stripe):
    payment = top_up(tenant)
    assert book.start_due(now=NOW) == 1
    payment.refresh_from_db()
    assert (payment.status, payment.provider_ref) == ("pending", "cs_test_1")
    assert payment.checkout_url == "https://checkout.stripe.com/c/pay/cs_test_1"
    stripe.pay("cs_test_1")
    assert post(event(stripe.objects["cs_test_1"])).json() == {"received": True}
    payment.refresh_from_db()
    assert (payment.status, payment.charge_ref) == ("succeeded", "pi_of_cs_test_1")
    assert payment.grant.source == CreditGrant.Source.TOP_UP
    assert balance(tenant) == 50
    customer = PaymentCustomer.objects.get(tenant=tenant)
    assert (customer.customer_ref, customer.method_ref) == ("cus_1", "pm_1")


def test_a_replayed_event_and_a_second_one_about_the_same_payment_change_nothing(tenant, stripe):
    top_up(tenant)
    book.start_due(now=NOW)
    stripe.pay("cs_test_1")
    body = event(stripe.objects["cs_test_1"])
    for _ in range(3):
        assert post(body).status_code == 200
    assert post(event(stripe.objects["cs_test_1"], event_id="evt_2")).status_code == 200
    assert balance(tenant) == 50
    assert sorted(PaymentEvent.objects.values_list("event_id", flat=True)) == ["evt_1", "evt_2"]
    assert AuditEvent.objects.filter(action="payment.succeed").count() == 1


def test_an_event_that_claims_what_stripe_does_not_say_credits_nothing(tenant, stripe):
    top_up(tenant)
    book.start_due(now=NOW)
    claimed = stripe.objects["cs_test_1"] | {"payment_status": "paid", "status": "complete"}
    assert post(event(claimed)).status_code == 200
    assert Payment.objects.get().status == "pending"
    assert balance(tenant) == 0


def test_another_amount_at_stripe_credits_nothing_and_waits_for_people(tenant, stripe):
    top_up(tenant)
    book.start_due(now=NOW)
    stripe.pay("cs_test_1")
    stripe.objects["cs_test_1"]["amount_total"] = 1
    assert post(event(stripe.objects["cs_test_1"])).status_code == 200
    payment = Payment.objects.get()
    assert (payment.status, payment.next_at) == ("pending", None)
    assert payment.failure == "stripe has it as 0.01 EUR."
    assert balance(tenant) == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda body, at: (body, signature(body, at, "whsec_wrong")),
        lambda body, at: (body, ""),
        lambda body, at: (body, "t=x,v1=y"),
        lambda body, at: (body, signature(body, at).replace("v1=", "v2=")),
        lambda body, at: (body, signature(body, at - 301)),
        lambda body, at: (body, signature(body, at + 330)),
        lambda body, at: (body + b" ", signature(body, at)),
        lambda body, at: (b"[1]", signature(b"[1]", at)),
        lambda body, at: (b'{"id": 7}', signature(b'{"id": 7}', at)),
        lambda body, at: (b"{", signature(b"{", at)),
    ],
)
def test_a_forged_old_or_altered_event_is_refused_and_asks_nothing(tenant, stripe, change):
    top_up(tenant)
    book.start_due(now=NOW)
    stripe.pay("cs_test_1")
    asked = len(stripe.calls)
    body, header = change(event(stripe.objects["cs_test_1"]), int(time.time()))
    answer = post(body, header=header)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert not PaymentEvent.objects.exists()
    assert len(stripe.calls) == asked
    assert balance(tenant) == 0


def test_an_event_signed_by_the_older_secret_is_believed_while_both_hold(tenant, stripe):
    top_up(tenant)
    book.start_due(now=NOW)
    stripe.pay("cs_test_1")
    body = event(stripe.objects["cs_test_1"])
    assert post(body, header=signature(body, int(time.time()), "whsec_older")).status_code == 200
    assert balance(tenant) == 50


def test_while_stripe_cannot_be_asked_the_event_is_to_be_sent_again(tenant, stripe):
    top_up(tenant)
    book.start_due(now=NOW)
    stripe.pay("cs_test_1")
    body = event(stripe.objects["cs_test_1"])
    stripe.down = True
    answer = post(body)
    assert (answer.status_code, answer["Retry-After"]) == (503, "60")
    assert not PaymentEvent.objects.exists()
    stripe.down = False
    assert post(body).status_code == 200
    assert balance(tenant) == 50


def test_the_webhook_takes_posts_of_a_set_up_stripe_alone(tenant, stripe, settings):
    assert Client().get(HOOK).status_code == 405
    assert post(b"x" * (1024 * 1024 + 1)).status_code == 413
    settings.TOLLHOUSE_STRIPE_API_KEY = ""
    assert post(b"{}").status_code == 404


def test_an_event_about_nothing_of_ours_is_noted_and_answered(tenant, stripe):
    assert post(event({"id": "cs_other", "object": "checkout.session"})).status_code == 200
    assert post(event({"id": "sub_1", "object": "subscription"}, event_id="evt_2")).status_code == 200
    assert PaymentEvent.objects.filter(payment=None).count() == 2


def test_a_missed_event_is_made_up_for_by_looking_again(tenant, stripe):
    top_up(tenant)
    book.start_due(now=NOW)
    stripe.pay("cs_test_1")
    assert book.start_due(now=NOW) == 0
    assert book.start_due(now=NOW + book.LOOK_AGAIN) == 1
    assert balance(tenant) == 50


def test_a_start_that_was_lost_is_repeated_under_the_same_key(tenant, stripe):
    payment = top_up(tenant)
    book.start_due(now=NOW)
    Payment.objects.filter(pk=payment.pk).update(status="waiting", provider_ref=None, next_at=NOW)
    book.start_due(now=NOW)
    payment.refresh_from_db()
    assert payment.provider_ref == "cs_test_1"
    assert list(stripe.objects) == ["cs_test_1"]


def test_a_provider_that_never_answers_fails_the_payment_in_the_end(tenant, stripe):
    payment = top_up(tenant)
    stripe.down = True
    for _ in range(len(book.RETRY)):
        Payment.objects.update(next_at=NOW)
        book.start_due(now=NOW)
    payment.refresh_from_db()
    assert (payment.status, payment.attempts, payment.next_at) == ("failed", 6, None)
    assert fake_stripe.KEY not in payment.failure


def test_an_invoice_is_paid_and_what_is_too_much_goes_into_the_wallet(tenant, stripe):
    invoice = world.issued(tenant)
    payment = book.ask_for_invoice(invoice=invoice, key="i1", now=NOW, actor=SYSTEM)
    with pytest.raises(ApiError, match="under way"):
        book.ask_for_invoice(invoice=invoice, key="i2", now=NOW, actor=SYSTEM)
    book.start_due(now=NOW)
    book.record_manual(invoice=invoice, reference="r", key="m", amount_minor=190, now=NOW, actor=SYSTEM)
    stripe.pay("cs_test_1")
    post(event(stripe.objects["cs_test_1"]))
    payment.refresh_from_db()
    invoice.refresh_from_db()
    assert (payment.amount_minor, payment.invoice_minor) == (1190, 1000)
    assert (invoice.status, invoice.paid_minor, invoice.payment_reference) == ("paid", 1190, "cs_test_1")
    assert balance(tenant) == Decimal("1.90")


# ------------------------------------------------------------------ top-ups by themselves


def automatic(tenant, below=1000, amount=2000, cap=5000):
    wallets.grant(tenant=tenant, currency="EUR", amount_pico=9 * PICO, category="paid", at=NOW, actor=SYSTEM)
    Wallet.objects.filter(tenant=tenant).update(
        top_up_below_minor=below, top_up_amount_minor=amount, top_up_monthly_cap_minor=cap
    )
    PaymentCustomer.objects.create(tenant=tenant, provider="stripe", customer_ref="cus_1", method_ref="pm_1")


def test_below_its_threshold_a_wallet_charges_the_saved_card_once_and_within_the_cap(tenant, stripe):
    automatic(tenant)
    assert (book.ask_for_due_top_ups(now=NOW), book.ask_for_due_top_ups(now=NOW)) == (1, 0)
    book.start_due(now=NOW)
    assert balance(tenant) == 29
    assert Payment.objects.get().charge_ref == "pi_1"
    assert book.ask_for_due_top_ups(now=NOW) == 0
    for turn, expected in ((1, 1), (2, 0)):
        held = int(balance(tenant) * PICO)
        wallets.draw(tenant=tenant, currency="EUR", amount_pico=held, at=timezone.now())
        assert book.ask_for_due_top_ups(now=NOW + timedelta(seconds=turn)) == expected
        book.start_due(now=NOW + timedelta(seconds=turn))
    assert Payment.objects.filter(is_automatic=True).count() == 2


def test_at_its_threshold_a_wallet_asks_for_nothing(tenant, stripe):
    automatic(tenant, below=900)
    assert book.ask_for_due_top_ups(now=NOW) == 0


def test_a_declined_card_fails_the_top_up_and_rests_for_a_day(tenant, stripe):
    automatic(tenant)
    stripe.declines = True
    book.ask_for_due_top_ups(now=NOW)
    book.start_due(now=NOW)
    payment = Payment.objects.get()
    assert (payment.status, payment.failure) == ("failed", "Your card was declined.")
    assert balance(tenant) == 9
    assert book.ask_for_due_top_ups(now=NOW) == 0
    assert book.ask_for_due_top_ups(now=timezone.now() + timedelta(days=1, minutes=1)) == 1


# ------------------------------------------------------------------ refunds


def paid_by_stripe(tenant, stripe):
    invoice = world.issued(tenant)
    payment = book.ask_for_invoice(invoice=invoice, key="i1", now=NOW, actor=SYSTEM)
    book.start_due(now=NOW)
    stripe.pay("cs_test_1")
    post(event(stripe.objects["cs_test_1"]))
    payment.refresh_from_db()
    return invoice, payment


def give_back(payment, amount_minor, destination="provider", key="r1"):
    return book.refund(
        payment=payment, amount_minor=amount_minor, destination=destination, reason="goodwill", key=key,
        now=NOW, actor=SYSTEM,
    )  # fmt: skip


def test_only_what_credit_notes_free_is_refunded_and_once(tenant, stripe):
    invoice, payment = paid_by_stripe(tenant, stripe)
    with pytest.raises(ApiError, match=r"leave 0\.00 EUR"):
        give_back(payment, 100)
    (line,) = invoice.lines.all()
    issue_credit(invoice=invoice, lines=[(line.pk, 500)], reason="half", now=NOW, actor=SYSTEM)
    made = give_back(payment, 595)
    with pytest.raises(ApiError) as refused:
        give_back(payment, 595, key="r2")
    assert refused.value.code == "conflict"
    assert (made.status, book.refund_due(now=NOW)) == ("waiting", 1)
    made.refresh_from_db()
    assert (made.status, made.provider_ref) == ("pending", "re_2")
    stripe.objects["re_2"]["status"] = "succeeded"
    assert post(event(stripe.objects["re_2"], "refund.updated", "evt_9")).status_code == 200
    made.refresh_from_db()
    payment.refresh_from_db()
    assert (made.status, payment.refunded_minor) == ("succeeded", 595)


def test_a_refund_that_fails_may_be_made_again(tenant, stripe):
    invoice, payment = paid_by_stripe(tenant, stripe)
    (line,) = invoice.lines.all()
    issue_credit(invoice=invoice, lines=[(line.pk, 500)], reason="half", now=NOW, actor=SYSTEM)
    made = give_back(payment, 595)
    book.refund_due(now=NOW)
    stripe.objects["re_2"] |= {"status": "failed", "failure_reason": "lost_or_stolen_card"}
    assert book.refund_due(now=NOW + book.LOOK_AGAIN) == 1
    made.refresh_from_db()
    payment.refresh_from_db()
    assert (made.status, made.failure, payment.refunded_minor) == ("failed", "lost_or_stolen_card", 0)
    assert give_back(payment, 595, key="r2").status == "waiting"


def test_a_refund_into_the_wallet_is_there_at_once(tenant, stripe):
    invoice, payment = paid_by_stripe(tenant, stripe)
    (line,) = invoice.lines.all()
    issue_credit(invoice=invoice, lines=[(line.pk, 1000)], reason="all", now=NOW, actor=SYSTEM)
    made = book.refund_to_wallet(
        payment=payment, amount_minor=1190, reason="kept", key="w", now=NOW, actor=SYSTEM
    )
    assert made.status == Refund.Status.SUCCEEDED
    assert balance(tenant) == Decimal("11.90")


def test_a_top_up_is_refunded_from_what_is_left_of_it(tenant, stripe):
    payment = top_up(tenant)
    book.start_due(now=NOW)
    stripe.pay("cs_test_1")
    post(event(stripe.objects["cs_test_1"]))
    payment.refresh_from_db()
    wallets.draw(tenant=tenant, currency="EUR", amount_pico=20 * PICO, at=timezone.now())
    with pytest.raises(ApiError, match="Only 30 EUR"):
        give_back(payment, 3001)
    give_back(payment, 3000)
    assert balance(tenant) == 0
    assert Invoice.objects.count() == 0
