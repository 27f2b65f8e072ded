"""The channels: each turns a notice into something to send, and an answer into what became of it. Pure.

A channel is two functions, `compose` and, where HTTP carries it, `_judge`. Nothing here opens a connection.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Post:
    """One HTTP POST and who judges its answer (status, headers).

    `is_operators` marks an address of the operator's, which may be private.
    """

    url: str = field(repr=False)
    body: bytes = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    judge: "Callable[[int, Mapping[str, str]], Outcome]"
    is_operators: bool = False


@dataclass(frozen=True, slots=True)
class Mail:
    """One e-mail. `message_id` is the same for every attempt, so that mail programs show it once."""

    recipients: tuple[str, ...]
    subject: str
    text: str
    html: str
    message_id: str


type Outgoing = Post | Mail


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attempt. `dead`: the receiver will never take it; `detail` is fit to be shown."""

    kind: Literal["delivered", "retry", "dead"]
    detail: str
    status: int | None = None
    retry_after_s: float | None = None
    is_gone: bool = False


JSON = ("Content-Type", "application/json")


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The seconds of a Retry-After header; None without one, or for one that names a date."""
    text = headers.get("retry-after", "").strip()
    return float(text) if text.isdecimal() and len(text) < 10 else None
