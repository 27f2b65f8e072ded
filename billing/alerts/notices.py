"""What a message says, apart from the channel that carries it. Pure.

A notice is frozen when it is queued: every attempt and every replay says the same under the same id.
Names come from tenants: they are put on one line here, and each channel escapes them for its own medium.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any, Self

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


@dataclass(frozen=True, slots=True)
class Notice:
    """One message. `facts` are label and value, in order; `items` the lines of a digest.

    `dedup_key` names what the message is about, over all its messages; `at` is RFC 3339. `data` is what
    programs read (webhooks), `href` where the alert can be read.
    """

    event: str
    title: str
    body: str
    severity: str
    at: str
    dedup_key: str
    href: str = ""
    facts: Sequence[tuple[str, str]] = ()
    items: Sequence[str] = ()
    data: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For the delivery's row."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        """What `as_json` made."""
        pairs = tuple((label, value) for label, value in row["facts"])
        return cls(**{**row, "facts": pairs, "items": tuple(row["items"])})

    @property
    def headline(self) -> str:
        """The title with what happened to it."""
        prefix = {"acknowledged": "Acknowledged: ", "resolved": "Resolved: ", "test": "Test: "}
        return prefix.get(self.event, "") + self.title


def one_line(text: str, limit: int = 200) -> str:
    """`text` without line breaks, control and direction characters, cut to `limit` characters."""
    line = " ".join(_CONTROL.sub(" ", text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def number_text(value: Decimal | float, places: int = 2) -> str:
    """At most `places` decimals, without zeros at the end, thousands apart."""
    text = f"{Decimal(str(value)):,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def money_text(value: Decimal, currency: str) -> str:
    """Two decimals, or as many as it takes to show three digits of a small amount."""
    if value and abs(value) < Decimal("0.1"):
        places = min(12, 2 - value.adjusted())
        return f"{value:.{places}f} {currency}".strip()
    return f"{value:,.2f} {currency}".strip()


def digest(notices: Sequence[Notice], *, at: str, dedup_key: str, href: str) -> Notice:
    """Many messages to one channel as one, the most severe first."""
    ranks = {"critical": 0, "warning": 1, "info": 2}
    ordered = sorted(notices, key=lambda each: ranks[each.severity])
    return Notice(
        event="digest",
        title=f"{len(notices)} alerts",
        body="So many alerts fired within ten minutes that they come in one message.",
        severity=ordered[0].severity,
        at=at,
        dedup_key=dedup_key,
        href=href,
        items=tuple(each.headline for each in ordered),
    )
