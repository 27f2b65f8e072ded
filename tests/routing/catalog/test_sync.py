from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import StringIO

import pytest
from django.core.management import call_command

from routing.catalog.book import Catalogue, CatalogueModel, CatalogueRate, Listing, vendored
from routing.catalog.sync import RateChange, load_catalogue
from routing.models import CostRate, Model
from tenants import versions
from tenants.models import AuditEvent

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 25, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
INPUT = ("acme", "m-1", "input", "", 0)
OUTPUT = ("acme", "m-1", "output", "", 0)


def catalogue(*rates: tuple[str, str], model: str = "m-1") -> Catalogue:
    listing = Listing(
        "acme",
        model,
        model,
        tuple(CatalogueRate(component, Decimal(price), 1_000_000, "", 0) for component, price in rates),
    )
    return Catalogue(
        date(2026, 11, 20),
        (),
        (CatalogueModel(model, "acme", ("chat",), ("tools",), 8000, 1000),),
        (listing,),
    )


def rows() -> list[tuple[str, Decimal, datetime, datetime | None]]:
    return list(
        CostRate.objects.order_by("component", "effective_from").values_list(
            "component", "price", "effective_from", "effective_to"
        )
    )


def test_a_first_load_prices_from_the_day_the_book_was_fetched() -> None:
    diff = load_catalogue(now=NOW, catalogue=catalogue(("input", "1.5"), ("output", "6")))
    assert diff.models == ("m-1",)
    assert diff.rates == (
        RateChange(INPUT, None, Decimal("1.5")),
        RateChange(OUTPUT, None, Decimal(6)),
    )
    fetched = datetime(2026, 11, 20, tzinfo=UTC)
    assert rows() == [("input", Decimal("1.5"), fetched, None), ("output", Decimal(6), fetched, None)]
    model = Model.objects.get()
    assert (model.slug, model.operations, model.capabilities, model.context_window) == (
        "m-1", ["chat"], ["tools"], 8000,
    )  # fmt: skip


def test_a_second_load_changes_nothing_not_even_the_version() -> None:
    load_catalogue(now=NOW, catalogue=catalogue(("input", "1.5")))
    before, version = rows(), versions.current()["routing"]
    assert load_catalogue(now=LATER, catalogue=catalogue(("input", "1.5"))).is_empty
    assert (rows(), versions.current()["routing"]) == (before, version)
    assert AuditEvent.objects.filter(action="catalogue.sync").count() == 1


def test_a_changed_price_closes_the_old_rate_and_opens_a_new_one() -> None:
    load_catalogue(now=NOW, catalogue=catalogue(("input", "1.5")))
    diff = load_catalogue(now=LATER, catalogue=catalogue(("input", "1.2")))
    assert diff.rates == (RateChange(INPUT, Decimal("1.5"), Decimal("1.2")),)
    assert [(price, ends) for _, price, _, ends in rows()] == [
        (Decimal("1.5"), LATER),
        (Decimal("1.2"), None),
    ]
    assert rows()[1][2] == LATER


def test_a_price_that_left_the_book_is_closed() -> None:
    load_catalogue(now=NOW, catalogue=catalogue(("input", "1.5"), ("output", "6")))
    diff = load_catalogue(now=LATER, catalogue=catalogue(("input", "1.5")))
    assert diff.rates == (RateChange(OUTPUT, Decimal(6), None),)
    assert [(component, ends) for component, _, _, ends in rows()] == [("input", None), ("output", LATER)]


@pytest.mark.parametrize("source", ["manual", "contract"])
def test_an_operators_rate_is_never_touched(source: str) -> None:
    own = CostRate.objects.create(
        provider="acme", provider_model="m-1", component="input", price=9, effective_from=NOW, source=source
    )
    diff = load_catalogue(now=LATER, catalogue=catalogue(("input", "1.5"), ("output", "6")))
    assert diff.kept == (INPUT,)
    own.refresh_from_db()
    assert (own.price, own.effective_to, own.source) == (Decimal(9), None, source)
    assert CostRate.objects.filter(source="catalogue").values_list("component", flat=True).get() == "output"


def test_a_model_that_exists_stays_as_the_operator_left_it() -> None:
    Model.objects.create(slug="m-1", name="Ours", operations=["chat"], context_window=5)
    assert load_catalogue(now=NOW, catalogue=catalogue(("input", "1"))).models == ()
    assert Model.objects.get().context_window == 5


def test_a_dry_run_tells_but_does_not_write() -> None:
    diff = load_catalogue(now=NOW, catalogue=catalogue(("input", "1")), is_dry_run=True)
    assert (diff.models, len(diff.rates)) == (("m-1",), 1)
    assert not Model.objects.exists()
    assert not CostRate.objects.exists()
    assert versions.current()["routing"] == 0


def test_the_vendored_book_loads_whole_and_the_command_reports_it() -> None:
    book = vendored()
    rates = sum(len(listing.rates) for listing in book.listings)
    first, again = StringIO(), StringIO()
    call_command("sync_catalogue", stdout=first)
    call_command("sync_catalogue", stdout=again)
    assert first.getvalue() == f"{len(book.models)} new models, {rates} rates opened, 0 closed, 0 kept\n"
    assert again.getvalue() == "0 new models, 0 rates opened, 0 closed, 0 kept\n"
    assert CostRate.objects.count() == rates
    assert CostRate.objects.filter(price=0).exclude(provider__in=("ollama", "lemonade")).count() == 0
