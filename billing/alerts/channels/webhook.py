"""A webhook signed as Standard Webhooks says. Any 2xx is delivered; 410 says never to come again."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import orjson

from billing.alerts.channels import JSON, Outcome, Post, retry_after_s
from billing.alerts.notices import Notice
from tenants import webhooks


def compose(notice: Notice, *, url: str, secrets: Sequence[str], message_id: str, now: datetime) -> Post:
    """`{"type", "timestamp", "data"}`; `timestamp` is the event's, the signature's own is the attempt's."""
    body = orjson.dumps(
        {
            "type": f"alert.{notice.event}",
            "timestamp": notice.at,
            "data": {
                "title": notice.title,
                "body": notice.body,
                "severity": notice.severity,
                "dedup_key": notice.dedup_key,
                "href": notice.href,
                **notice.data,
            },
        }
    )
    signed = webhooks.sign(message_id=message_id, at=now, body=body, secrets=secrets)
    headers = (JSON, ("User-Agent", "Tollhouse-Webhooks/1"), *signed)
    return Post(url, body, headers, _judge)


def _judge(status: int, headers: Mapping[str, str]) -> Outcome:
    """What an answer means. A redirect is a failure like any other: it is not followed."""
    if 200 <= status < 300:
        return Outcome("delivered", "", status)
    if status == 410:
        return Outcome("dead", "The receiver is gone (410).", status, is_gone=True)
    return Outcome("retry", f"The receiver answered {status}.", status, retry_after_s(headers))
