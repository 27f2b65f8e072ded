"""Audit events as they leave the house: JSON lines, CSV, and the object that sinks are sent.

Reads in pages, so that no export has a limit. Text that a spreadsheet would run as a formula must never be one.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC
from typing import Any, Final, Literal

import orjson
from django.db import models

from tenants.models import AuditEvent
from tenants.spreadsheet import line

type Format = Literal["csv", "jsonl"]

MEDIA_TYPES: Final = {"csv": "text/csv; charset=utf-8", "jsonl": "application/jsonl"}
PAGE: Final = 1000
COLUMNS: Final = (
    "at", "chain", "sequence", "tenant", "actor_kind", "actor_id", "actor", "action", "object_type", "object_id",
    "reason", "ip", "request_id", "before", "after", "previous_hash", "hash", "id",
)  # fmt: skip


def as_json(event: AuditEvent) -> dict[str, Any]:
    """One event with all that its hash covers, in the names of the API."""
    return {
        "id": str(event.id),
        "chain": str(event.chain),
        "sequence": event.sequence,
        "at": event.at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "tenant": event.tenant.slug if event.tenant else None,
        "actor": {
            "kind": event.actor_kind,
            "id": str(event.actor_id) if event.actor_id else None,
            "label": event.actor_label,
        },
        "action": event.action,
        "object": {"type": event.object_type, "id": event.object_id},
        "before": event.before,
        "after": event.after,
        "ip": event.ip,
        "request_id": event.request_id,
        "reason": event.reason,
        "previous_hash": bytes(event.previous_hash).hex(),
        "hash": bytes(event.hash).hex(),
    }


def export(rows: models.QuerySet[AuditEvent], form: Format) -> Iterator[str]:
    """The events, oldest first, line by line; CSV begins with the columns' names."""
    events = _all(rows)
    if form == "jsonl":
        for event in events:
            yield orjson.dumps(as_json(event)).decode() + "\n"
        return
    yield from _csv(events)


def _all(rows: models.QuerySet[AuditEvent]) -> Iterator[AuditEvent]:
    """Page by page on the time-sorted id: no transaction stays open while a slow reader reads."""
    rows = rows.select_related("tenant").order_by("id")
    page = list(rows[:PAGE])
    while page:
        yield from page
        page = list(rows.filter(id__gt=page[-1].id)[:PAGE]) if len(page) == PAGE else []


def _csv(events: Iterable[AuditEvent]) -> Iterator[str]:
    yield line(COLUMNS)
    for event in events:
        shown = as_json(event)
        actor, of = shown.pop("actor"), shown.pop("object")
        flat = shown | {
            "actor_kind": actor["kind"],
            "actor_id": actor["id"],
            "actor": actor["label"],
            "object_type": of["type"],
            "object_id": of["id"],
            "before": _compact(shown["before"]),
            "after": _compact(shown["after"]),
        }
        yield line(flat[name] for name in COLUMNS)


def _compact(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
