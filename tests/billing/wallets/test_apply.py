from datetime import timedelta
from decimal import Decimal

import pytest

from billing.budgets.counters import spent
from billing.invoicing.draft import draft
from billing.invoicing.finalize import finalize
from billing.invoicing.issue_credit import issue_credit
from billing.invoicing.void import void
from billing.models import Invoice, Wallet, WalletEntry
from billing.rating.money import PICO
from billing.snapshot import load
from billing.wallets import apply, book, prepaid
from tenants.errors import ApiError
from tenants.principal import SYSTEM
from tests.billing.invoicing import world

OCTOBER, AFTER = world.OCTOBER, world.AFTER
DAY = timedelta(days=1)


@pytest.fixture
def tenant(db):
    world.seller()
    return world.buyer(world.plan(base_amount="10"))


def give(tenant, amount, category="paid", at=OCTOBER, **more):
    return book.grant(
        tenant=tenant, currency="EUR", amount_pico=int(Decimal(amount) * PICO), category=category, at=at,
        actor=SYSTEM, **more,
    )  # fmt: skip


def use(tenant, amount="4.00", at=OCTOBER + DAY):
    """Calls whose tokens come to `amount` at 2.00 per million."""
    tokens = int(Decimal(amount) * 500_000)
    world.use(tenant, at, input_tokens=tokens, price_pico=int(Decimal(amount) * PICO))


def balance(tenant):
    return Decimal(Wallet.objects.get(tenant=tenant).balance_pico) / PICO


def test_promotional_credit_lowers_usage_before_tax_and_the_balance_pays_the_rest(tenant):
    give(tenant, "6.00", "promotional")
    give(tenant, "100.00")
    use(tenant, "4.00")
    invoice = world.issued(tenant)
    assert (invoice.subtotal_minor, invoice.promotional_minor, invoice.net_minor) == (1400, 400, 1000)
    assert (invoice.tax_minor, invoice.total_minor, invoice.prepaid_minor) == (190, 1190, 1190)
    assert (invoice.status, invoice.amount_due_minor) == (Invoice.Status.PAID, 0)
    drawn = WalletEntry.objects.filter(invoice=invoice).order_by("id")
    assert [(e.grant.category, e.amount_pico) for e in drawn] == [
        ("promotional", -4 * PICO), ("paid", -11_900_000_000_000),
    ]  # fmt: skip
    assert balance(tenant) == Decimal("90.10")


def test_a_draft_takes_nothing_and_a_changed_wallet_makes_it_out_of_date(tenant):
    give(tenant, "5.00")
    made = world.drafted(tenant).invoice
    assert made.prepaid_minor == 500
    assert balance(tenant) == 5
    book.draw(tenant=tenant, currency="EUR", amount_pico=PICO, at=AFTER)
    with pytest.raises(ApiError, match="out of date in prepaid_minor"):
        finalize(invoice=made, now=AFTER, actor=SYSTEM)
    assert not WalletEntry.objects.filter(invoice=made).exists()
    assert balance(tenant) == 4
    draft(tenant=tenant, period=world.period(tenant, OCTOBER), now=AFTER, actor=SYSTEM)
    assert finalize(invoice=made, now=AFTER, actor=SYSTEM).prepaid_minor == 400
    assert balance(tenant) == 0


def test_taking_more_than_there_is_takes_nothing(tenant):
    give(tenant, "1.00")
    invoice = world.drafted(tenant).invoice
    with pytest.raises(ApiError) as refused:
        apply.take(invoice=invoice, promotional_minor=0, prepaid_minor=101, at=AFTER)
    assert refused.value.code == "conflict"


def test_parts_of_a_minor_unit_stay_in_the_wallet(tenant):
    give(tenant, "1.009")
    found = apply.available(tenant=tenant, currency="EUR", at=AFTER)
    assert (found.promotional_minor, found.prepaid_minor) == (0, 100)


def test_a_voided_invoice_gives_back_to_the_grants_it_took_from_once(tenant):
    ends = give(tenant, "2.00", expires_at=AFTER + DAY)
    lasts = give(tenant, "3.00")
    invoice = world.issued(tenant)
    assert balance(tenant) == 0
    later = AFTER + 2 * DAY
    void(invoice=invoice, reason="wrong buyer", now=later, actor=SYSTEM)
    assert balance(tenant) == 5
    assert book.give_back(invoice=invoice, at=later) in (0, 5 * PICO)
    lasts.refresh_from_db()
    ends.refresh_from_db()
    assert (lasts.remaining_pico, ends.remaining_pico) == (3 * PICO, 0)
    assert book.expire(now=later, actor=SYSTEM) == ()
    assert book.usable(tenant, "EUR", later) == {"paid": 5 * PICO, "promotional": 0}


def test_a_credit_note_returns_to_the_wallet_what_the_wallet_had_paid(tenant):
    give(tenant, "100.00")
    invoice = world.issued(tenant)
    (line,) = invoice.lines.all()
    note = issue_credit(invoice=invoice, lines=[(line.pk, 1000)], reason="goodwill", now=AFTER, actor=SYSTEM)
    assert note.to_wallet_minor == 1190
    assert note.grant.amount_pico == 11_900_000_000_000
    assert balance(tenant) == 100


# ------------------------------------------------------------------ prepaid


def limit(tenant, at=AFTER):
    (found,) = prepaid.limits(at)
    assert found.tenant_id == tenant.pk
    return found.limit_micro


def test_the_limit_on_calls_is_the_balance_less_the_tax_to_come(tenant):
    held = give(tenant, "119.00")
    give(tenant, "7.00", "promotional")
    use(tenant, "4.00", at=OCTOBER - 40 * DAY)
    prepaid.switch(wallet=held.wallet, is_prepaid=True, now=OCTOBER + DAY, actor=SYSTEM)
    assert limit(tenant, OCTOBER + DAY) == (4 + 100 + 7) * 10**6


def test_an_issued_document_moves_limit_and_balance_by_the_same_calls(tenant):
    held = give(tenant, "119.00")
    prepaid.switch(wallet=held.wallet, is_prepaid=True, now=OCTOBER + DAY, actor=SYSTEM)
    use(tenant, "20.00")
    before = limit(tenant)
    invoice = world.issued(tenant)
    assert invoice.total_minor == 3570
    assert balance(tenant) == Decimal("83.30")
    assert before == 100 * 10**6
    assert limit(tenant) == (20 + 70) * 10**6  # the base amount is the difference
    use(tenant, "1.00", at=AFTER)
    wallet = Wallet.objects.select_related("tenant").get(tenant=tenant)
    assert prepaid.spendable_pico(wallet, AFTER) == 82_300_000_000_000


def test_voiding_a_document_makes_its_calls_unsettled_again(tenant):
    held = give(tenant, "23.80")
    prepaid.switch(wallet=held.wallet, is_prepaid=True, now=OCTOBER + DAY, actor=SYSTEM)
    use(tenant, "20.00")
    assert limit(tenant) == 20 * 10**6
    invoice = world.issued(tenant)
    assert (limit(tenant), balance(tenant)) == (20 * 10**6, 0)
    void(invoice=invoice, reason="again", now=AFTER, actor=SYSTEM)
    assert (limit(tenant), balance(tenant)) == (20 * 10**6, Decimal("23.80"))
    wallet = Wallet.objects.select_related("tenant").get(tenant=tenant)
    assert (wallet.settled_pico, prepaid.spendable_pico(wallet, AFTER)) == (0, 3_800_000_000_000)


def test_a_late_call_of_an_invoiced_period_is_not_settled(tenant):
    held = give(tenant, "119.00")
    prepaid.switch(wallet=held.wallet, is_prepaid=True, now=OCTOBER + DAY, actor=SYSTEM)
    use(tenant, "20.00")
    world.issued(tenant)
    settled = Wallet.objects.get(tenant=tenant).settled_pico
    world.use(tenant, OCTOBER + DAY, recorded_at=AFTER + DAY, price_pico=PICO, input_tokens=500_000)
    prepaid.settle(tenant=tenant)
    assert Wallet.objects.get(tenant=tenant).settled_pico == settled == 20 * PICO


def test_only_a_wallet_in_the_tenants_currency_can_limit_calls(tenant):
    held = book.grant(
        tenant=tenant, currency="USD", amount_pico=PICO, category="paid", at=OCTOBER, actor=SYSTEM
    )
    with pytest.raises(ApiError) as refused:
        prepaid.switch(wallet=held.wallet, is_prepaid=True, now=AFTER, actor=SYSTEM)
    assert (refused.value.code, refused.value.param) == ("invalid_request", "is_prepaid")


def test_the_workers_see_the_balance_as_a_hard_budget_of_all_time(tenant):
    held = give(tenant, "119.00")
    assert tenant.pk not in load().budgets
    prepaid.switch(wallet=held.wallet, is_prepaid=True, now=AFTER, actor=SYSTEM)
    (entry,) = load().budgets[tenant.pk]
    assert (entry.id, entry.mode, entry.measure, entry.window) == (held.wallet_id, "hard", "price", "total")
    assert (entry.limit, entry.currency, entry.name) == (100 * 10**6, "EUR", "Prepaid balance")
    before = load().version
    give(tenant, "1.19")
    assert load().version > before
    assert load().budgets[tenant.pk][0].limit == 101 * 10**6
    use(tenant, "3.00")
    assert spent(entry, entry.window_at(AFTER.timestamp())) == 3 * PICO
    prepaid.switch(wallet=held.wallet, is_prepaid=False, now=AFTER, actor=SYSTEM)
    assert tenant.pk not in load().budgets
