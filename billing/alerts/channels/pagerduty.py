"""PagerDuty's Events API v2: one incident per subject and window, opened, acknowledged and resolved.

https://developer.pagerduty.com/docs/events-api-v2-overview
"""

from collections.abc import Mapping

import orjson

from billing.alerts.channels import JSON, Outcome, Post, retry_after_s
from billing.alerts.notices import Notice

PATH = "/v2/enqueue"
_ACTIONS = {"fired": "trigger", "test": "trigger", "acknowledged": "acknowledge", "resolved": "resolve"}
_PERMANENT = frozenset({400, 401, 403, 404})
_SUMMARY_CHARACTERS = 1024


def compose(notice: Notice, *, base_url: str, routing_key: str) -> Post:
    """Trigger, acknowledge or resolve by the notice's event; `dedup_key` keeps it one incident."""
    event: dict[str, object] = {
        "routing_key": routing_key,
        "event_action": _ACTIONS[notice.event],
        "dedup_key": notice.dedup_key,
    }
    if event["event_action"] == "trigger":
        event |= {
            "client": "Tollhouse",
            "client_url": notice.href,
            "payload": {
                "summary": notice.headline[:_SUMMARY_CHARACTERS],
                "source": "tollhouse",
                "severity": notice.severity,
                "timestamp": notice.at,
                "custom_details": {"what": notice.body, **dict(notice.facts)},
            },
        }
    return Post(base_url.rstrip("/") + PATH, orjson.dumps(event), (JSON,), _judge, is_operators=True)


def _judge(status: int, headers: Mapping[str, str]) -> Outcome:
    """202 is queued there; 4xx (but 429) says that the event or the key is wrong for good."""
    if 200 <= status < 300:
        return Outcome("delivered", "", status)
    if status in _PERMANENT:
        return Outcome("dead", f"PagerDuty refuses the event ({status}).", status)
    return Outcome("retry", f"PagerDuty answered {status}.", status, retry_after_s(headers))
