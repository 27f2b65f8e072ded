from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import IntegrityError, transaction

from routing.models import CostRate, RoutingPolicy, RoutingPolicyVersion

pytestmark = pytest.mark.django_db

START = datetime(2026, 1, 1, tzinfo=UTC)
END = START + timedelta(days=30)


def make_rate(**fields: object) -> CostRate:
    return CostRate.objects.create(
        **{
            "provider": "p",
            "provider_model": "m",
            "component": "input",
            "price": 3,
            "effective_from": START,
            **fields,
        }
    )


def refuse(act: Callable[[], object]) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        act()


def test_an_open_rate_can_be_closed_and_a_closed_one_earlier() -> None:
    row = make_rate()
    for end in (END, END - timedelta(days=1)):
        CostRate.objects.filter(pk=row.pk).update(effective_to=end)
    row.refresh_from_db()
    assert row.effective_to == END - timedelta(days=1)


@pytest.mark.parametrize(
    "change",
    [
        {"price": Decimal(4)},
        {"price": Decimal(4), "effective_to": END},
        {"effective_to": None},
        {"effective_to": END + timedelta(days=1)},
        {"effective_from": START + timedelta(days=1)},
        {"source": "contract"},
    ],
)
def test_the_database_refuses_every_other_change_of_a_rate(change: dict[str, object]) -> None:
    row = make_rate(effective_to=END)
    refuse(lambda: CostRate.objects.filter(pk=row.pk).update(**change))
    row.refresh_from_db()
    assert (row.price, row.effective_from, row.effective_to, row.source) == (Decimal(3), START, END, "manual")


def test_the_database_refuses_to_delete_a_rate() -> None:
    row = make_rate()
    refuse(row.delete)
    assert CostRate.objects.count() == 1


def test_the_database_refuses_two_rates_for_one_thing_at_once() -> None:
    make_rate(effective_to=END)
    refuse(lambda: make_rate(effective_from=END - timedelta(seconds=1)))
    make_rate(effective_from=END)
    assert CostRate.objects.count() == 2


def test_the_database_refuses_to_change_or_delete_a_policys_version() -> None:
    policy = RoutingPolicy.objects.create(slug="p")
    version = RoutingPolicyVersion.objects.create(policy=policy, number=1, strategy="cost")
    refuse(lambda: RoutingPolicyVersion.objects.filter(pk=version.pk).update(strategy="latency"))
    refuse(version.delete)
    assert RoutingPolicyVersion.objects.get().strategy == "cost"
