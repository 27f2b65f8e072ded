"""Content, log rows and feedback of two tenants, made as the worker makes them."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from gateway.content import day_keys, seal, store
from gateway.content.models import StoredContent
from gateway.logs.ingest import LogEntry
from gateway.logs.ingest import store as store_log
from tenants.ids import instant_of, uuid7
from tenants.principal import SYSTEM, Principal
from tenants.pseudonyms import pseudonym
from tenants.retention import change_setting, pseudonym_key
from tests import factories

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
OFFICER = Principal(kind="user", id=UUID(int=7), label="officer@acme.test")


def days_ago(days):
    return NOW - timedelta(days=days)


def keeping(slug, **changes):
    """A tenant with these retention settings."""
    tenant = factories.tenant(slug)
    change_setting(tenant=tenant, changes=changes, actor=SYSTEM)
    return tenant


def content(tenant, when=NOW, *, end_user="", request='{"q":1}', answer='{"a":2}', request_id=None):
    """One stored content; returns its request id."""
    request_id = request_id or uuid7(int(when.timestamp() * 1000))
    day = (tenant.id, instant_of(request_id).astimezone(UTC).date())
    key = day_keys.obtain([day])[day]
    texts = seal.Texts(request, answer, request_bytes=len(request), answer_bytes=len(answer))
    row = StoredContent(
        occurred_at=instant_of(request_id),
        request_id=request_id,
        tenant_id=tenant.id,
        kind="usage",
        end_user=pseudonym(pseudonym_key(tenant), end_user),
        day_key_id=key.id,
        sealed=seal.sealed(texts, key.cipher, tenant_id=tenant.id, request_id=request_id),
        size_bytes=14,
        is_cut=False,
        kept_in="eu",
        stored_at=NOW,
    )
    store.keep([row])
    return request_id


def logged(tenant, when=NOW, *, now=NOW, **columns):
    """One row of the request log; returns its request id."""
    request_id = uuid7(int(when.timestamp() * 1000))
    entry = LogEntry(
        occurred_at=instant_of(request_id),
        request_id=request_id,
        tenant_id=tenant.id,
        api_key_id=UUID(int=2),
        operation="chat",
        request_model="m",
        status=200,
        latency_ms=1,
        first_byte_ms=None,
        **columns,
    )
    store_log([entry], now=now)
    return request_id
