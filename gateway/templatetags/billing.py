"""What the money pages' templates need beside `money` and `console`: addresses of both places, minor units."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from babel import Locale
from babel.dates import format_date
from babel.numbers import format_currency
from django import template
from django.template.context import RequestContext
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import get_language

from billing.rating.money import minor_text, plain_text
from gateway.templatetags.console import percent
from gateway.templatetags.money import money
from tenants import places

register = template.Library()


@register.simple_tag(takes_context=True)
def here(context: RequestContext, name: str, **kwargs: Any) -> str:
    """`{% here 'budget_edit' budget_id=budget.id %}`: the page in this place, platform or tenant."""
    return places.here(context["request"], name, **kwargs)


@register.filter
def minor(amount: int | None, currency: str) -> SafeString:
    """`{{ invoice.total_minor|minor:invoice.currency }}`: with the currency's own decimals, exact to machines."""
    return units(None if amount is None else minor_text(amount, currency), currency)


@register.filter
def units(amount: Decimal | str | None, currency: str) -> SafeString:
    """A plain amount of currency units as a document has it: 10.50 is $10.50, 1050 in JPY is \N{YEN SIGN}1,050."""
    if amount is None:
        return SafeString("\N{EN DASH}")
    value = Decimal(amount)
    locale = Locale.parse(get_language() or "en", sep="-")
    return format_html(
        '<data value="{}" title="{} {}">{}</data>',
        amount,
        currency,
        amount,
        format_currency(value, currency, locale=locale),
    )


@register.filter
def day_in(moment: datetime, zone: str) -> SafeString:
    """The day of an instant where the tenant lives, which is what a document's period is counted in."""
    return _day(moment, moment.astimezone(ZoneInfo(zone)))


@register.filter
def last_day_in(end: datetime, zone: str) -> SafeString:
    """The last day before an end that is not part of the period."""
    return _day(end, (end - timedelta(microseconds=1)).astimezone(ZoneInfo(zone)))


def _day(moment: datetime, local: datetime) -> SafeString:
    locale = Locale.parse(get_language() or "en", sep="-")
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        f"{moment:%Y-%m-%dT%H:%M:%SZ}",
        f"{moment:%Y-%m-%d %H:%M:%S} UTC",
        format_date(local.date(), "d MMM y", locale=locale),
    )


@register.filter
def is_nonzero(amount: str | None) -> bool:
    """Whether a decimal text is worth a row."""
    return amount is not None and Decimal(amount) != 0


@register.filter
def normal(number: Decimal | None) -> str:
    """A decimal without needless zeros."""
    return "\N{EN DASH}" if number is None else plain_text(number)


@register.filter
def words(name: str) -> str:
    """A name of code for people: robust_theta is robust theta."""
    return name.replace("_", " ")


@register.filter
def e6(amount: int | str | None, currency: str) -> SafeString:
    """Millionths of a currency unit as money; an en dash where there is nothing to divide by.

    A template that asks a None for its figures gets "": that is nothing as well.
    """
    return SafeString("\N{EN DASH}") if not isinstance(amount, int) else money(amount * 10**6, currency)


@register.filter
def e2_percent(hundredths: int | str | None) -> str:
    """Hundredths of a percent; nothing as in `e6`."""
    return percent(Decimal(hundredths) / 10_000 if isinstance(hundredths, int) else None)


@register.filter
def e4_percent(ten_thousandths: int) -> str:
    """Ten-thousandths of a percent."""
    return percent(Decimal(ten_thousandths) / 1_000_000)
