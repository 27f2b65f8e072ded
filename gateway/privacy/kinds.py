"""The words of the privacy rules: which kinds of personal data are known, and what may become of them.

Plain data only: nothing here may know how a kind is found.
"""

from enum import StrEnum
from typing import Final


class Action(StrEnum):
    """What becomes of a finding, mildest first."""

    ALLOW = "allow"
    TOKENIZE = "tokenize"
    REDACT = "redact"
    BLOCK = "block"


EMAIL: Final = "email"
PHONE: Final = "phone"
CARD: Final = "card"
IBAN: Final = "iban"
NATIONAL_ID: Final = "national_id"
NAME: Final = "name"
IP_ADDRESS: Final = "ip_address"
SECRET: Final = "secret"  # noqa: S105  # a kind, not one

CUSTOM_PREFIX: Final = "custom:"
KINDS: Final = (EMAIL, PHONE, CARD, IBAN, NATIONAL_ID, NAME, IP_ADDRESS, SECRET)
"""The built-in kinds; a profile's own are `custom:<name>`."""

MAX_LABEL: Final = 29


def label(kind: str) -> str:
    """How a kind is called in tokens and redactions: `custom:staff` is `CUSTOM_STAFF`. At most 29 of A-Z, 0-9, _."""
    spelled = kind.replace(CUSTOM_PREFIX, "CUSTOM_", 1).upper()
    return "".join(sign if sign.isascii() and sign.isalnum() else "_" for sign in spelled)[:MAX_LABEL]
