"""Cells of the CSV files we hand out. Pure. Text that a spreadsheet would run as a formula must never be one."""

from typing import Any


def cell(value: Any) -> Any:
    """Text that begins like a formula is quoted with an apostrophe; our own numbers are not."""
    if isinstance(value, str) and value.lstrip().startswith(("=", "+", "-", "@")) and not _is_number(value):
        return f"'{value}"
    return value


def _is_number(text: str) -> bool:
    digits = text.removeprefix("-").replace(".", "", 1)
    return digits.isascii() and digits.isdecimal()
