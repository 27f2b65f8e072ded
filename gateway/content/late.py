"""What arrives late of people who have been erased: calls that were on their way while the erasure ran."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from gateway.content.models import Erasure
from gateway.logs.ingest import LogEntry
from tenants.models import Tenant
from tenants.pseudonyms import is_pseudonym, pseudonym
from tenants.retention import pseudonym_key

type Person = tuple[UUID, str]
"""A tenant's id and a pseudonym."""


def erased(tenant_ids: Collection[UUID]) -> dict[Person, datetime]:
    """Whose calls are erased, and up to which instant."""
    rows = Erasure.objects.order_by("before").filter(tenant_id__in=tenant_ids)
    return {
        (tenant_id, alias): before
        for tenant_id, aliases, before in rows.values_list("tenant_id", "aliases", "before")
        for alias in aliases
    }


def forgotten(entries: Sequence[LogEntry]) -> Sequence[LogEntry]:
    """The entries, with a pseudonym in the place of everybody who has been erased since their call."""
    named = {entry.tenant_id for entry in entries if entry.end_user}
    people = erased(named) if named else {}
    if not people:
        return entries
    keys = _keys({tenant_id for tenant_id, _ in people})
    return [_without_name(entry, people, keys) for entry in entries]


def _keys(tenant_ids: Iterable[UUID]) -> dict[UUID, bytes]:
    return {tenant.id: pseudonym_key(tenant) for tenant in Tenant.objects.filter(id__in=list(tenant_ids))}


def _without_name(entry: LogEntry, people: dict[Person, datetime], keys: dict[UUID, bytes]) -> LogEntry:
    key = keys.get(entry.tenant_id)
    if key is None or not entry.end_user:
        return entry
    name = entry.end_user if is_pseudonym(entry.end_user) else pseudonym(key, entry.end_user)
    before = people.get((entry.tenant_id, name))
    if before is None or entry.occurred_at > before:
        return entry
    return replace(entry, end_user=name, error_message="", tags={})
