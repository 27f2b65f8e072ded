"""E-mail, as text and as HTML that reads well in any client."""

from collections.abc import Sequence
from typing import Final

from django.template.loader import render_to_string

from billing.alerts.channels import Mail
from billing.alerts.notices import Notice

MAX_RECIPIENTS: Final = 20
_COLOURS = {"info": "#4a6fa5", "warning": "#b26a00", "critical": "#b3261e"}


def recipients(target: str) -> tuple[str, ...]:
    """The addresses of a channel's target, separated by commas."""
    return tuple(dict.fromkeys(each.strip() for each in target.split(",") if each.strip()))


def compose(notice: Notice, *, to: Sequence[str], message_id: str, host: str) -> Mail:
    """`host` is the right side of the Message-ID."""
    context = {"notice": notice, "colour": _COLOURS[notice.severity]}
    return Mail(
        recipients=tuple(to),
        subject=f"[Tollhouse] {notice.headline}",
        text=render_to_string("emails/alert_message.txt", context).strip() + "\n",
        html=render_to_string("emails/alert_message.html", context),
        message_id=f"<{message_id}@{host}>",
    )
