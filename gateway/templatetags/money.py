"""How templates show money: integer pico-units in, text out, exact to the last digit where it matters.

Never a float, and never a zero for an amount that nobody could price.
"""

from decimal import Decimal, localcontext

from babel import Locale
from babel.numbers import format_currency
from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import get_language

register = template.Library()

PICO_EXPONENT = -12
SIGNIFICANT_DIGITS = 4
PRECISION = 60  # numeric(38, 0) and then some
UNPRICED = SafeString('<span class="tag warn">unpriced</span>')


def amount_of(pico: int | Decimal) -> Decimal:
    """Pico-units as a decimal amount of the currency, exactly."""
    with localcontext(prec=PRECISION):
        return Decimal(pico).scaleb(PICO_EXPONENT)


def digits_for(amount: Decimal) -> int:
    """Decimal places to show: two from one unit up, else enough for four significant digits (at most 12)."""
    if amount == 0 or abs(amount) >= 1:
        return 2
    return max(2, min(-PICO_EXPONENT, SIGNIFICANT_DIGITS - 1 - amount.adjusted()))


def shown(pico: int | Decimal, currency: str) -> str:
    """The amount as people read it, in the language in force: $1,204.50, $0.0042, $0.000000012."""
    amount = amount_of(pico)
    locale = Locale.parse(get_language() or "en", sep="-")
    with localcontext(prec=PRECISION):
        digits = digits_for(amount)
        rounded = round(amount, digits)
        if rounded == amount:  # nothing was rounded away, so trailing zeros would say nothing
            digits = max(2, -int(rounded.normalize().as_tuple().exponent))
        pattern = locale.currency_formats["standard"].pattern.replace("0.00", f"0.{'0' * digits}")
        return format_currency(rounded, currency, format=pattern, locale=locale, currency_digits=False)


def exact(pico: int | Decimal) -> str:
    """The amount with every digit it has and no exponent: 0.000123456789."""
    amount = amount_of(pico)
    with localcontext(prec=PRECISION):
        whole = amount.quantize(Decimal(1)) if amount == amount.to_integral_value() else amount.normalize()
    return f"{whole:f}"


@register.filter
def money(pico: int | Decimal | None, currency: str = "USD") -> SafeString:
    """`{{ pico|money:currency }}`: shown rounded, the exact amount on hover and to machines."""
    if pico is None:
        return UNPRICED
    value = exact(pico)
    return format_html(
        '<data value="{}" title="{} {}">{}</data>', value, currency, value, shown(pico, currency)
    )


@register.filter
def money_exact(pico: int | Decimal | None, currency: str = "USD") -> SafeString:
    """`{{ pico|money_exact:currency }}`: every digit, for sums that must add up before the reader."""
    if pico is None:
        return UNPRICED
    value = exact(pico)
    return format_html('<data value="{}">{} {}</data>', value, value, currency)


@register.filter
def rate(price: Decimal | None, currency: str = "USD") -> SafeString:
    """A cost rate as a decimal of the currency: $2.50; `unpriced` where no rate is in force."""
    return money(None if price is None else price.scaleb(-PICO_EXPONENT), currency)
