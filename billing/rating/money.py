"""Pico-units as text. Pure, exact, never a float."""

PICO = 10**12
"""Pico-units in one unit of a currency."""


def amount_text(pico: int) -> str:
    """An exact plain decimal of currency units, without needless zeros: 1500000000000 is `1.5`."""
    whole, rest = divmod(abs(pico), PICO)
    digits = f"{rest:012d}".rstrip("0")
    return f"{'-' if pico < 0 else ''}{whole}{'.' if digits else ''}{digits}"
