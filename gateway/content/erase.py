"""Erasing one end user on request: asked for once, carried out day by day, certified at the end.

Goes: the content of their calls, comments on these, what the vault keeps of them, and in the log their name, tags
and error texts (a pseudonym stays). Stays: the ledger, append-only and kept by law; the certificate says how many of
its rows name them. Resumable: every day is one transaction, and the row says which day was the last.
"""

import logging
from datetime import UTC, date, datetime, timedelta
from typing import Final

from django.db import IntegrityError, connection, transaction
from django.db.models import Q
from django.utils import timezone

from billing.models import Budget
from billing.usage.partitions import LEDGER, existing_days
from gateway.content.certificates import DataClass, Deleted, Method, issue
from gateway.content.models import Erasure
from gateway.content.store import CONTENT
from gateway.experiments.models import Feedback
from gateway.logs.partitions import REQUEST_LOG
from gateway.privacy.bindings import END_USER
from gateway.privacy.kinds import KINDS
from gateway.privacy.tokens import Vault, bare
from gateway.privacy.vault import forget, key_of
from tenants import audit
from tenants.encryption import seal, unseal
from tenants.errors import ApiError
from tenants.ids import uuid7
from tenants.models import LegalHold, Tenant
from tenants.principal import Principal
from tenants.pseudonyms import is_pseudonym, pseudonym
from tenants.retention import deletion_lock, is_held, pseudonym_key

logger = logging.getLogger(__name__)

LEASE: Final = timedelta(seconds=60)
MAX_NAME: Final = 200
DEFAULT_DAY: Final = date(1, 1, 1)
"""Stands for the rows of no day's partition."""
COUNTED: Final = ("content", "request_log", "comments", "vault")


def ask(*, tenant: Tenant, end_user: str, actor: Principal, now: datetime) -> Erasure:
    """Queue the erasure of everything up to `now`. Raises ApiError: invalid_request, conflict under a legal hold or
    while the same person is being erased."""
    if not end_user or len(end_user) > MAX_NAME or not end_user.isprintable():
        raise ApiError(
            "invalid_request", f"An end user is 1 to {MAX_NAME} printable characters.", param="end_user"
        )
    if is_held(tenant.id):
        raise ApiError("conflict", "A legal hold stands on this tenant: nothing may be erased.")
    names, key = recorded_names(tenant, end_user), pseudonym_key(tenant)
    aliases = [name if is_pseudonym(name) else pseudonym(key, name) for name in names]
    row = Erasure(
        id=uuid7(),
        tenant=tenant,
        pseudonym=aliases[0],
        aliases=list(dict.fromkeys(aliases)),
        before=now,
        requested_by=actor.label,
    )
    row.sealed_name = seal(end_user, tenant=tenant, context=_place(row))
    try:
        with transaction.atomic():
            row.save(force_insert=True)
            audit.record(
                principal=actor,
                action="erasure.create",
                object_type="erasure",
                object_id=row.id,
                tenant=tenant,
                after={"pseudonym": row.pseudonym},
            )
    except IntegrityError as error:
        raise ApiError("conflict", "This end user is being erased already.", param="end_user") from error
    return row


def recorded_names(tenant: Tenant, end_user: str) -> list[str]:
    """What the person's calls may be recorded under: the name, and the vault's tokens for it. The name is first."""
    vault = Vault(key_of(tenant))
    tokens = [vault.token(kind, end_user) for kind in (END_USER, *KINDS)]
    return [end_user, *tokens, *map(bare, tokens)]


# ------------------------------------------------------------------ carrying it out


def run_next() -> bool:
    """Carry out one erasure that waits, or whose worker died; False if there is none that may run."""
    row = _claim(timezone.now())
    if row is None:
        return False
    end_user = unseal(bytes(row.sealed_name), tenant=row.tenant, context=_place(row))
    # Pseudonyms too: of calls made while the tenant recorded no names.
    names = [*recorded_names(row.tenant, end_user), row.pseudonym]
    for day in _days_left(row):
        if not _erase_day(row, day, names):
            logger.info("erasure %s waits: a legal hold stands", row.pk)
            return False
    return _finish(row, names)


def _claim(now: datetime) -> Erasure | None:
    waiting = Q(status=Erasure.Status.QUEUED) | Q(status=Erasure.Status.RUNNING, leased_until__lt=now)
    holds = LegalHold.objects.filter(released_at__isnull=True)
    with transaction.atomic():
        row = (
            Erasure.objects.select_for_update(skip_locked=True, of=("self",))
            .select_related("tenant")
            .filter(waiting)
            .exclude(tenant__in=holds.values("tenant"))
            .order_by("id")
            .first()
        )
        if row is not None:
            row.status, row.leased_until = Erasure.Status.RUNNING, now + LEASE
            row.save(update_fields=("status", "leased_until", "updated_at"))
    return row


def _days_left(row: Erasure) -> list[date]:
    days = sorted({DEFAULT_DAY} | existing_days(table=CONTENT) | existing_days(table=REQUEST_LOG))
    left = [day for day in days if row.position is None or day > row.position]
    Erasure.objects.filter(pk=row.pk).update(days_total=len(days), days_done=len(days) - len(left))
    return left


def _erase_day(row: Erasure, day: date, names: list[str]) -> bool:
    """One day, and where the erasure stands, in one transaction. False under a legal hold."""
    with transaction.atomic():
        deletion_lock()
        if is_held(row.tenant_id):
            Erasure.objects.filter(pk=row.pk).update(status=Erasure.Status.QUEUED, leased_until=None)
            return False
        counts = _erase(row, day, names)
        for name, count in counts.items():
            row.counts[name] = row.counts.get(name, 0) + count
        row.position, row.days_done, row.leased_until = day, row.days_done + 1, timezone.now() + LEASE
        row.save(update_fields=("counts", "position", "days_done", "leased_until", "updated_at"))
    return True


def _erase(row: Erasure, day: date, names: list[str]) -> dict[str, int]:
    suffix = "default" if day == DEFAULT_DAY else f"{day:%Y%m%d}"
    counts = {"content": 0, "request_log": 0, "comments": 0}
    with connection.cursor() as cursor:
        if _exists(f"{CONTENT}_{suffix}"):
            cursor.execute(
                f"DELETE FROM {CONTENT}_{suffix} "  # noqa: S608
                "WHERE tenant_id = %s AND end_user = ANY(%s) AND occurred_at <= %s",
                [row.tenant_id, row.aliases, row.before],
            )
            counts["content"] = cursor.rowcount
        if not _exists(f"{REQUEST_LOG}_{suffix}"):
            return counts
        cursor.execute(
            f"UPDATE {REQUEST_LOG}_{suffix} SET end_user = %s, tags = '{{}}', error_message = '' "  # noqa: S608
            "WHERE tenant_id = %s AND end_user = ANY(%s) AND occurred_at <= %s RETURNING request_id",
            [row.pseudonym, row.tenant_id, names, row.before],
        )
        calls = [request_id for (request_id,) in cursor.fetchall()]
    counts["request_log"] = len(calls)
    comments = Feedback.objects.filter(tenant=row.tenant_id, request_id__in=calls).exclude(comment="")
    counts["comments"] = comments.update(comment="")
    return counts


def _finish(row: Erasure, names: list[str]) -> bool:
    """Certify, and forget the name. False under a legal hold."""
    now = timezone.now()
    stays = _stays(row, names)
    row.counts["vault"] = sum(forget(tenant=row.tenant, end_user=name) for name in names)
    with transaction.atomic():
        deletion_lock()
        held = Erasure.objects.select_for_update().get(pk=row.pk)
        if held.status != Erasure.Status.RUNNING or is_held(row.tenant_id):
            return False
        (certificate,) = issue(
            [
                Deleted(
                    tenant_id=row.tenant_id,
                    data_class=DataClass.END_USER,
                    method=Method.ERASED,
                    rows=sum(row.counts.get(name, 0) for name in COUNTED),
                    rule=f"erasure {row.pk}",
                    details={
                        "pseudonym": row.pseudonym,
                        "before": row.before.astimezone(UTC).isoformat(),
                        **{name: row.counts.get(name, 0) for name in COUNTED},
                        "stays": stays,
                    },
                )
            ],
            now=now,
        )
        held.status, held.finished_at, held.leased_until = Erasure.Status.DONE, now, None
        held.sealed_name, held.certificate, held.counts = b"", certificate, {**row.counts, "stays": stays}
        held.save()
    return True


def _stays(row: Erasure, names: list[str]) -> dict[str, int]:
    """What keeps naming the person: money rows (append-only), and budgets that somebody made for them."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT count(*) FROM {LEDGER} WHERE tenant_id = %s AND end_user = ANY(%s) AND occurred_at <= %s",  # noqa: S608
            [row.tenant_id, names, row.before],
        )
        ledger = int(cursor.fetchone()[0])
    return {
        "ledger_rows": ledger,
        "budgets": Budget.objects.filter(tenant=row.tenant_id, end_user__in=names).count(),
    }


def _exists(table: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [table])
        return bool(cursor.fetchone()[0])


def _place(row: Erasure) -> str:
    return f"gateway_erasure|{row.id}|sealed_name"
