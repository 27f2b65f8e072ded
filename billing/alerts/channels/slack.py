"""A Slack incoming webhook, also spoken by Mattermost and others.

https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
"""

from collections.abc import Mapping

import orjson

from billing.alerts.channels import JSON, Outcome, Post, retry_after_s
from billing.alerts.notices import Notice

MAX_ITEMS = 20
_COLOURS = {"info": "#4a6fa5", "warning": "#d08700", "critical": "#c0362c"}
_PERMANENT = frozenset({400, 401, 403, 404, 405, 410})
_TEXT_CHARACTERS = 2900  # Slack takes 3000 in a section's text


def escape(text: str) -> str:
    """`&`, `<` and `>` as Slack wants them: else a name could be a link or a mention of everybody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def compose(notice: Notice, *, url: str) -> Post:
    """A coloured card; `text` is what notifications show."""
    headline = escape(notice.headline)
    said = [f"*{headline}*", escape(notice.body)]
    said += [f"• {escape(item)}" for item in notice.items[:MAX_ITEMS]]
    if len(notice.items) > MAX_ITEMS:
        said.append(f"… and {len(notice.items) - MAX_ITEMS} more")
    blocks: list[dict[str, object]] = [
        {"type": "section", "text": {"type": "mrkdwn", "text": "\n".join(said)[:_TEXT_CHARACTERS]}}
    ]
    if notice.facts:
        fields = [
            {"type": "mrkdwn", "text": f"*{escape(label)}*\n{escape(value)}"}
            for label, value in notice.facts[:10]
        ]
        blocks.append({"type": "section", "fields": fields})
    body = {"text": headline, "attachments": [{"color": _COLOURS[notice.severity], "blocks": blocks}]}
    return Post(url, orjson.dumps(body), (JSON,), _judge)


def _judge(status: int, headers: Mapping[str, str]) -> Outcome:
    """A revoked or unknown hook stays so; too many messages and broken servers pass."""
    if 200 <= status < 300:
        return Outcome("delivered", "", status)
    if status in _PERMANENT:
        return Outcome("dead", f"Slack refuses this hook ({status}).", status)
    return Outcome("retry", f"Slack answered {status}.", status, retry_after_s(headers))
