import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.models import Sum
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.models import CreditGrant, Wallet, WalletEntry
from billing.rating.money import PICO
from billing.wallets import book, drawdown
from tenants.errors import ApiError
from tenants.models import AuditEvent, Tenant
from tenants.principal import SYSTEM
from tests import factories

JULY = datetime(2026, 7, 1, tzinfo=UTC)
JUNE = datetime(2026, 6, 1, tzinfo=UTC)


def give(tenant, amount="5", category="paid", at=JUNE, **more):
    pico = int(Decimal(amount) * PICO)
    return book.grant(
        tenant=tenant, currency="USD", amount_pico=pico, category=category, at=at, actor=SYSTEM, **more
    )


def take(tenant, amount, at=JUNE, **more):
    return book.draw(tenant=tenant, currency="USD", amount_pico=int(Decimal(amount) * PICO), at=at, **more)


def holds(tenant):
    """The balance, after checking that it is what the entries and the grants say."""
    wallet = Wallet.objects.get(tenant=tenant)
    entries = WalletEntry.objects.filter(wallet=wallet).aggregate(sum=Sum("amount_pico"))["sum"] or 0
    grants = CreditGrant.objects.filter(wallet=wallet).aggregate(sum=Sum("remaining_pico"))["sum"] or 0
    assert wallet.balance_pico == entries == grants
    return Decimal(wallet.balance_pico) / PICO


@pytest.fixture
def tenant(db):
    return factories.tenant()


def test_a_draw_takes_by_priority_then_expiry_then_promotional_first(tenant):
    names = {}
    for name, more in (
        ("last", {"priority": 90}),
        ("paid", {}),
        ("promotional", {"category": "promotional"}),
        ("ends", {"expires_at": JULY}),
        ("first", {"priority": 10}),
        ("future", {"effective_at": JULY, "priority": 1}),
    ):
        names[str(give(tenant, "1", name=name, **more).pk)] = name
    made = take(tenant, "4.5")
    assert [(names[each.grant_id], each.amount_pico / PICO) for each in made.allocations] == [
        ("first", 1), ("ends", 1), ("promotional", 1), ("paid", 1), ("last", 0.5),
    ]  # fmt: skip
    assert made.uncovered_pico == 0
    assert holds(tenant) == Decimal("1.5")
    assert take(tenant, "1").uncovered_pico == PICO // 2


def test_a_grant_is_refused_without_amount_or_time(tenant):
    with pytest.raises(ApiError, match="above zero") as refused:
        give(tenant, "0")
    assert (refused.value.code, refused.value.param) == ("invalid_request", "amount")
    with pytest.raises(ApiError) as refused:
        give(tenant, at=JULY, effective_at=JUNE, expires_at=JULY)
    assert refused.value.param == "expires_at"
    assert not CreditGrant.objects.exists()
    assert not AuditEvent.objects.exists()


def test_what_is_left_at_expiry_is_lost_and_reported_once(tenant):
    held = give(tenant, "5", expires_at=JULY)
    give(tenant, "2")
    take(tenant, "1.25")
    assert book.expire(now=JULY - timedelta(seconds=1), actor=SYSTEM) == ()
    (lost,) = book.expire(now=JULY, actor=SYSTEM)
    assert (lost.grant_id, lost.lost_pico, lost.currency) == (held.pk, 3_750_000_000_000, "USD")
    assert book.expire(now=JULY, actor=SYSTEM) == ()
    assert holds(tenant) == 2
    (event,) = AuditEvent.objects.filter(action="wallet.expire")
    assert event.after == {"lost": "3.75", "currency": "USD"}


def test_a_request_is_drawn_once(tenant):
    give(tenant, "5")
    first = take(tenant, "2", request_id=UUID(int=7))
    assert take(tenant, "2", request_id=UUID(int=7)) == first
    assert holds(tenant) == 3


def test_categories_can_be_drawn_apart(tenant):
    give(tenant, "5", "promotional")
    give(tenant, "1")
    assert take(tenant, "2", category="paid").uncovered_pico == PICO
    assert book.usable(tenant, "USD", JUNE) == {"paid": 0, "promotional": 5 * PICO}


def test_currencies_and_tenants_have_wallets_of_their_own(tenant):
    give(tenant, "5")
    other = factories.tenant()
    assert take(other, "1").uncovered_pico == PICO
    assert book.draw(tenant=tenant, currency="EUR", amount_pico=1, at=JUNE).uncovered_pico == 1
    assert book.usable(tenant, "EUR", JUNE) == {"paid": 0, "promotional": 0}


def test_amounts_beyond_a_bigint_are_exact(tenant):
    pico = 10**9 * PICO + 1
    book.grant(tenant=tenant, currency="VND", amount_pico=pico, category="paid", at=JUNE, actor=SYSTEM)
    assert Wallet.objects.get(tenant=tenant).balance_pico == pico


# ------------------------------------------------------------------ the database's own refusals


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE billing_walletentry SET amount_pico = 1",
        "DELETE FROM billing_walletentry",
        "TRUNCATE billing_walletentry",
        "UPDATE billing_wallet SET balance_pico = balance_pico + 1",
        "UPDATE billing_wallet SET currency = 'EUR'",
        "UPDATE billing_creditgrant SET remaining_pico = 1",
        "UPDATE billing_creditgrant SET expires_at = NULL, priority = 1",
        "DELETE FROM billing_creditgrant",
    ],
)
def test_the_database_refuses_to_rewrite_the_books(tenant, statement):
    give(tenant, "5", expires_at=JULY)
    with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert holds(tenant) == 5


def test_the_database_lets_no_grant_and_no_wallet_fall_below_zero(tenant):
    held = give(tenant, "5")
    give(tenant, "5")
    with pytest.raises(IntegrityError, match="grant_remaining"), transaction.atomic():
        WalletEntry.objects.create(
            wallet=held.wallet, tenant=tenant, grant=held, kind="draw", amount_pico=-6 * PICO, at=JUNE
        )
    assert holds(tenant) == 10


def test_the_database_refuses_an_entry_of_another_tenant(tenant):
    held = give(tenant, "5")
    with pytest.raises(IntegrityError, match="another tenant"), transaction.atomic():
        WalletEntry.objects.create(
            wallet=held.wallet, tenant=factories.tenant(), grant=held, kind="draw", amount_pico=-1, at=JUNE
        )


# ------------------------------------------------------------------ many at once


def test_draws_at_once_never_take_more_than_there_is(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock():
        tenant = factories.tenant()
        give(tenant, "10")
        taken, errors = [], []

        def work(number):
            try:
                for turn in range(5):
                    made = take(tenant, "0.7", request_id=UUID(int=1000 * number + turn + 1))
                    taken.append(sum(part.amount_pico for part in made.allocations))
            except DatabaseError as error:
                errors.append(error)
            finally:
                connection.close()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        try:
            assert errors == []
            assert sum(taken) == 10 * PICO
            assert len(taken) == 20
            assert holds(tenant) == 0
        finally:
            empty(tenant)


def empty(tenant):
    """Take back committed rows; only a superuser's session in replica role passes the triggers."""
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        for table in ("walletentry", "creditgrant", "wallet"):
            cursor.execute(f"DELETE FROM billing_{table} WHERE tenant_id = %s", [tenant.pk])  # noqa: S608
        cursor.execute("DELETE FROM tenants_auditevent WHERE tenant_id = %s", [tenant.pk])
        cursor.execute("DELETE FROM tenants_audithead WHERE chain = %s", [tenant.pk])
        cursor.execute("SET session_replication_role = DEFAULT")
    Tenant.objects.filter(pk=tenant.pk).delete()
    connection.close()


# ------------------------------------------------------------------ any story

DAY = timedelta(days=1)
grants = st.tuples(
    st.just("grant"), st.integers(1, 10**13), st.sampled_from(("paid", "promotional")),
    st.one_of(st.none(), st.integers(1, 20)), st.integers(0, 3),
)  # fmt: skip
draws = st.tuples(st.just("draw"), st.integers(0, 10**13))
STORY = st.lists(st.one_of(grants, draws, st.just(("expire",))), max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=STORY)
def test_after_any_story_the_balance_is_the_sum_of_the_entries_and_follows_the_rule(db, story):
    with transaction.atomic():
        tenant, model, left = factories.tenant(), [], {}
        for day, (what, *terms) in enumerate(story):
            now = JUNE + day * DAY
            if what == "grant":
                amount, category, span, priority = terms
                ends = None if span is None else now + span * DAY
                held = give_pico(tenant, amount, category, now, ends, priority)
                model.append(
                    drawdown.Grant(str(held.pk), amount, category, held.effective_at, ends, priority)
                )
                left[str(held.pk)] = amount
            elif what == "draw":
                made = book.draw(tenant=tenant, currency="USD", amount_pico=terms[0], at=now)
                assert made == drawdown.draw(terms[0], model, left, at=now)
                for part in made.allocations:
                    left[part.grant_id] -= part.amount_pico
            else:
                for lost in book.expire(now=now, actor=SYSTEM):
                    assert left[str(lost.grant_id)] == lost.lost_pico
                    left[str(lost.grant_id)] = 0
        if model:
            assert holds(tenant) * PICO == sum(left.values()) >= 0
        transaction.set_rollback(True)


def give_pico(tenant, amount, category, at, ends, priority):
    return book.grant(
        tenant=tenant, currency="USD", amount_pico=amount, category=category, at=at, actor=SYSTEM,
        expires_at=ends, priority=priority,
    )  # fmt: skip
