"""The one writer of the CSV files we hand out (RFC 4180). Pure.

Text that a spreadsheet would run as a formula must never be one: our own numbers pass, all else that begins
like a formula, also behind blanks, gets an apostrophe before it.
Source: https://owasp.org/www-community/attacks/CSV_Injection
"""

import csv
from collections.abc import Iterable
from typing import Any, Final

_FORMULA: Final = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # and their full-width forms


class _Echo:
    """What csv.writer takes for a file: gives each row back."""

    def write(self, row: str) -> str:
        return row


_WRITER: Final = csv.writer(_Echo())


def line(values: Iterable[Any]) -> str:
    """One row with its line end."""
    return str(_WRITER.writerow([cell(value) for value in values]))


def lines(*rows: Iterable[Any]) -> str:
    """A whole file."""
    return "".join(map(line, rows))


def cell(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip().startswith(_FORMULA) and not _is_number(value):
        return f"'{value}"
    return value


def _is_number(text: str) -> bool:
    digits = text.removeprefix("-").replace(".", "", 1)
    return digits.isascii() and digits.isdecimal()
