"""Pico-units and minor units: rounding, currencies, text. Pure, exact, never a float (R1, R24)."""

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

PICO = 10**12
"""Pico-units in one unit of a currency."""

type Exact = int | Decimal | Fraction

MINOR_DIGITS: Mapping[str, int] = {
    **dict.fromkeys(
        ("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV"), 0
    ),
    **dict.fromkeys(("XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    **dict.fromkeys(("CLF", "UYW"), 4),
}
"""ISO 4217's exceptions from two decimals (https://www.six-group.com/en/products-services/financial-information/
data-standards.html, list one). Not Babel's: CLDR has the digits in daily use, so 0 for IQD and LBP."""


def minor_digits(currency: str) -> int:
    """Decimals of the currency's minor unit (R24)."""
    return MINOR_DIGITS.get(currency, 2)


def round_half_away(value: Exact, digits: int = 0) -> int:
    """`value` in units of 10^-digits, half away from zero: 2.5 is 3, -2.5 is -3."""
    numerator, denominator = value.as_integer_ratio()
    return round_ratio(numerator * 10**digits, denominator)


def round_ratio(numerator: int, denominator: int) -> int:
    """numerator / denominator (above zero), half away from zero."""
    if numerator < 0:
        return -((-2 * numerator + denominator) // (2 * denominator))
    return (2 * numerator + denominator) // (2 * denominator)


def to_minor(amount: Exact, currency: str) -> int:
    """Currency units to whole minor units, half away from zero: the rounding of a document line (R6)."""
    return round_half_away(amount, minor_digits(currency))


def to_pico(amount: Exact) -> int:
    """Currency units to whole pico-units, half away from zero (R2)."""
    return round_half_away(amount, 12)


def pico_to_minor(pico: int, currency: str) -> int:
    """Half away from zero."""
    return round_ratio(pico, 10 ** (12 - minor_digits(currency)))


def minor_to_pico(minor: int, currency: str) -> int:
    return minor * int(10 ** (12 - minor_digits(currency)))


def minor_text(minor: int, currency: str) -> str:
    """With all decimals of the currency: 1050 is `10.50` in EUR, `1050` in JPY, `1.050` in KWD."""
    return fixed_text(minor, minor_digits(currency))


def fixed_text(value: int, digits: int) -> str:
    """`value` units of 10^-digits with exactly `digits` decimals."""
    whole, rest = divmod(abs(value), 10**digits)
    return f"{'-' if value < 0 else ''}{whole}{f'.{rest:0{digits}d}' if digits else ''}"


def amount_text(pico: int) -> str:
    """An exact plain decimal of currency units, without needless zeros: 1500000000000 is `1.5`."""
    whole, rest = divmod(abs(pico), PICO)
    digits = f"{rest:012d}".rstrip("0")
    return f"{'-' if pico < 0 else ''}{whole}{'.' if digits else ''}{digits}"


def plain_text(number: Decimal) -> str:
    """Without exponent and needless zeros: 1E+3 is `1000`, 0.50 is `0.5`."""
    text = f"{number:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
