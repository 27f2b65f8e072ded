"""The second wall between tenants: PostgreSQL's row-level security, below the scoped managers.

While a tenant's person or key is served, its connection sees and writes that principal's tenants alone,
whatever a query forgot to ask for. Operators, tasks and the data plane are unrestricted. A restriction must
never outlive its request, and a connection whose restriction cannot be lifted is closed, never handed on.

Two mechanisms, since neither holds everywhere. Every table of a tenant has a policy that compares with the
session setting `tollhouse.tenants`, and FORCE makes it hold for the tables' owner too. Superusers and logins
with BYPASSRLS ignore policies, so the request also becomes the plain role `tollhouse_restricted`, if the
login may. `standing` says which of them hold. A pooler in front of the database must keep a session with its
client for as long as the client is connected (PgBouncer: session pooling).
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast
from uuid import UUID

import psycopg
from django.apps import apps
from django.core import checks
from django.db import connection, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http.response import HttpResponseBase, StreamingHttpResponse
from psycopg.pq import TransactionStatus

from tenants.principal import Principal

ROLE: Final = "tollhouse_restricted"
SETTING: Final = "tollhouse.tenants"
SHARED: Final = frozenset(("routing_routingpolicy",))
"""Tables whose rows without a tenant (the operator's own) are open to tenants, to read."""
APPENDED: Final = frozenset(("tenants_auditevent",))
"""Tables to which a tenant's request may add rows without a tenant, and never see them."""
POLICY: Final = "tollhouse_tenants"

_IS_FREE: Final = (
    f"(SELECT coalesce(current_setting('{SETTING}', true), '') = '' AND current_user <> '{ROLE}')"
)
_OURS: Final = f"(SELECT nullif(current_setting('{SETTING}', true), '')::uuid[])"


# ------------------------------------------------------------------ entering


@contextmanager
def only(principal: Principal) -> Iterator[None]:
    """Let the block's queries on the default connection see this principal's tenants alone.

    Nothing happens for an operator. One statement to enter, one to leave; may be nested.
    """
    if principal.is_operator:
        yield
        return
    connection.ensure_connection()
    raw = cast("psycopg.Connection[Any]", connection.connection)
    before: _Restriction | None = _held_by(connection)
    restriction = _Restriction(raw, principal.tenant_scopes)
    restriction.apply(raw)
    connection._tollhouse_restriction = restriction  # type: ignore[attr-defined]
    try:
        with connection.execute_wrapper(restriction):
            yield
    finally:
        connection._tollhouse_restriction = before  # type: ignore[attr-defined]
        restriction.lift(before)


def streamed[R: HttpResponseBase](response: R, principal: Principal) -> R:
    """The response; if it is a stream, its pieces are made under the same restriction as the rest."""
    if isinstance(response, StreamingHttpResponse) and not response.is_async and not principal.is_operator:
        response.streaming_content = _restricted(
            cast("Iterator[bytes]", response.streaming_content), principal
        )
    return response


def _restricted(pieces: Iterable[bytes], principal: Principal) -> Iterator[bytes]:
    """Restricts the making of each piece, never the time between two: the connection serves others then."""
    source = iter(pieces)
    while True:
        with only(principal):
            piece = next(source, None)
        if piece is None:
            return
        yield piece


def _held_by(wrapper: Any) -> "_Restriction | None":
    return cast("_Restriction | None", getattr(wrapper, "_tollhouse_restriction", None))


class _Restriction:
    """What one `only` set, on which connection. Called around each query, it follows a new connection."""

    def __init__(self, raw: "psycopg.Connection[Any]", tenant_ids: Iterable[UUID]) -> None:
        self.raw = raw
        self.was_idle = raw.info.transaction_status is TransactionStatus.IDLE
        listed = ",".join(sorted(str(UUID(str(each))) for each in tenant_ids))
        # The role may be missing, or not open to this login: then the policies alone must do (see `standing`).
        self.statement = (
            f"SELECT set_config('{SETTING}', '{{{listed}}}', false),"  # noqa: S608 - hexadecimal, and our names
            f" set_config('role', coalesce((SELECT rolname FROM pg_roles WHERE rolname = '{ROLE}'"
            " AND pg_has_role(session_user, oid, 'SET')), 'none'), false)"
        )

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Mapping[str, Any]) -> Any:
        """Raises psycopg.Error rather than let a query through on a connection that could not be restricted."""
        raw = context["connection"].connection
        if raw is not self.raw and context["connection"].alias == connection.alias:
            self.apply(raw)
            self.raw, self.was_idle = raw, True
        return execute(sql, params, many, context)

    def apply(self, raw: "psycopg.Connection[Any]") -> None:
        with connection.wrap_database_errors:
            raw.execute(self.statement.encode())

    def lift(self, before: "_Restriction | None") -> None:
        """Back to what was. In a broken transaction the rollback that must follow does it: the restriction
        was set inside that transaction, or else the transaction would have ended before the restriction.
        """
        raw = self.raw
        if raw.closed:
            return
        status = raw.info.transaction_status
        if status is TransactionStatus.INERROR and not self.was_idle:
            return
        try:
            raw.execute(before.statement.encode() if before else f"RESET ROLE; RESET {SETTING}".encode())
        except psycopg.Error:  # whatever it was: nobody gets a connection in a state we do not know
            connection.close()


# ------------------------------------------------------------------ what is protected


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a tenant. `column` names the tenant, or, with `parent`, the row of the table that does."""

    name: str
    column: str
    parent: "Table | None" = None
    parent_key: str = "id"

    @property
    def is_ours(self) -> str:
        """The SQL condition for a row of the session's tenants."""
        if self.parent is None:
            return f'"{self.name}"."{self.column}" = ANY ({_OURS}::uuid[])'
        return (
            f'EXISTS (SELECT FROM "{self.parent.name}" WHERE "{self.parent.name}"."{self.parent_key}"'
            f' = "{self.name}"."{self.column}" AND {self.parent.is_ours})'
        )

    @property
    def policies(self) -> Mapping[str, str]:
        """Name and definition of each policy."""
        made = {POLICY: f"USING ({_IS_FREE} OR {self.is_ours})"}
        if self.name in SHARED:
            made["tollhouse_shared"] = f'FOR SELECT USING ("{self.column}" IS NULL)'
        if self.name in APPENDED:
            made["tollhouse_appended"] = f'FOR INSERT WITH CHECK ("{self.column}" IS NULL)'
        return made


def protected(known: Iterable[type[models.Model]] | None = None) -> Mapping[str, Table]:
    """Every table that belongs to tenants, by name: the tenants themselves, tables with a `tenant_id`, and
    those that hang on one of these by a foreign key (the first one that cascades, else the first).
    """
    waiting = [
        model
        for model in (apps.get_models(include_auto_created=True) if known is None else known)
        if not model._meta.proxy
    ]
    found: dict[str, Table] = {}
    for model in waiting:
        name = model._meta.db_table
        if model._meta.label == "tenants.Tenant":
            found[name] = Table(name, "id")
        elif any(field.column == "tenant_id" for field in model._meta.local_fields):
            found[name] = Table(name, "tenant_id")
    while True:
        more = [
            table for model in waiting if model._meta.db_table not in found for table in _child(model, found)
        ]
        if not more:
            return found
        found |= {table.name: table for table in more}


def _child(model: type[models.Model], found: Mapping[str, Table]) -> list[Table]:
    links = [
        field
        for field in model._meta.local_fields
        if isinstance(field, models.ForeignKey)
        and field.related_model._meta.db_table in found
        and field.related_model is not model
    ]
    links.sort(key=lambda field: field.remote_field.on_delete is not models.CASCADE)
    return [
        Table(
            model._meta.db_table,
            field.column,
            parent=found[field.related_model._meta.db_table],
            parent_key=str(field.target_field.column),
        )
        for field in links[:1]
    ]


# ------------------------------------------------------------------ building


def build(on: BaseDatabaseWrapper) -> None:
    """Bring the database's policies and the role's rights up to date: after every `migrate`, changing nothing
    where all is as it should be. Tables that do not exist yet are left out.
    """
    with on.cursor() as cursor:
        existing = set(on.introspection.table_names(cursor))
        tables = [table for name, table in sorted(protected().items()) if name in existing]
        cursor.execute(
            "SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity, p.polname,"
            " obj_description(p.oid, 'pg_policy') FROM pg_class c LEFT JOIN pg_policy p ON p.polrelid = c.oid"
            " WHERE c.relnamespace = current_schema()::regnamespace AND c.relname = ANY (%s)",
            [[table.name for table in tables]],
        )
        state: dict[str, dict[str, str]] = {}
        forced: set[str] = set()
        for name, is_forced, policy, mark in cursor.fetchall():
            state.setdefault(name, {})
            if policy is not None:
                state[name][policy] = mark or ""
            if is_forced:
                forced.add(name)
        for table in tables:
            for statement in _statements(table, state.get(table.name, {}), is_forced=table.name in forced):
                cursor.execute(statement)
        _grant(cursor, sorted(existing & {model._meta.db_table for model in _models()}))


def _statements(table: Table, held: Mapping[str, str], *, is_forced: bool) -> Iterator[str]:
    wanted = table.policies
    for policy in held:
        if policy.startswith("tollhouse_") and held[policy] != _mark(wanted.get(policy, "")):
            yield f'DROP POLICY "{policy}" ON "{table.name}"'
    for policy, definition in wanted.items():
        if held.get(policy) != _mark(definition):
            yield f'CREATE POLICY "{policy}" ON "{table.name}" {definition}'
            yield f'COMMENT ON POLICY "{policy}" ON "{table.name}" IS \'{_mark(definition)}\''
    if not is_forced:
        yield f'ALTER TABLE "{table.name}" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY'


def _mark(definition: str) -> str:
    """Tells whether a policy is as wanted: PostgreSQL gives its text back in other words."""
    return hashlib.sha256(definition.encode()).hexdigest()[:16]


def _models() -> list[type[models.Model]]:
    return [model for model in apps.get_models(include_auto_created=True) if not model._meta.proxy]


def _grant(cursor: Any, tables: list[str]) -> None:
    """Make the role, if this login may, and give it rows but no definitions. Partitions get nothing: they are
    reached through their parents, whose policies hold.
    """
    cursor.execute("SELECT rolsuper, rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
    is_superuser, may_create = cursor.fetchone()
    if may_create:
        # Roles belong to the whole cluster: another database's migration may make it at the same moment.
        cursor.execute(
            f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}')"
            f" THEN CREATE ROLE {ROLE} NOLOGIN NOSUPERUSER NOBYPASSRLS NOINHERIT; END IF;"
            " EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        )
        if not is_superuser:
            cursor.execute(
                f"DO $$ BEGIN IF NOT pg_has_role(current_user, '{ROLE}', 'SET')"
                f" THEN GRANT {ROLE} TO CURRENT_USER WITH INHERIT FALSE, SET TRUE; END IF; END $$"
            )
    cursor.execute("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %s), current_schema()", [ROLE])
    exists, schema = cursor.fetchone()
    if not exists or not tables:
        return
    cursor.execute(f'GRANT USAGE ON SCHEMA "{schema}" TO {ROLE}')
    cursor.execute(f'GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA "{schema}" TO {ROLE}')
    listed = ", ".join(f'"{table}"' for table in tables)
    cursor.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {listed} TO {ROLE}")


# ------------------------------------------------------------------ what stands


@dataclass(frozen=True, slots=True)
class Walls:
    """What holds in this database. `unprotected`: tables of tenants whose policy is missing or not forced."""

    has_role: bool
    is_bypassed: bool
    unprotected: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.unprotected and (self.has_role or not self.is_bypassed)


def standing(on: BaseDatabaseWrapper) -> Walls:
    """Which walls stand for this login. `has_role`: requests change to the plain role; `is_bypassed`: without
    it the policies would be ignored, since the login is a superuser or has BYPASSRLS.
    """
    with on.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %s AND pg_has_role(session_user, oid, 'SET')),"
            " (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = session_user)",
            [ROLE],
        )
        has_role, is_bypassed = cursor.fetchone()
        cursor.execute(
            "SELECT c.relname FROM pg_class c JOIN pg_policy p ON p.polrelid = c.oid AND p.polname = %s"
            " WHERE c.relnamespace = current_schema()::regnamespace"
            " AND c.relrowsecurity AND c.relforcerowsecurity",
            [POLICY],
        )
        held = {name for (name,) in cursor.fetchall()}
    return Walls(has_role, is_bypassed, tuple(sorted(protected().keys() - held)))


def check_walls(*, databases: Iterable[str] | None = None, **options: Any) -> list[checks.CheckMessage]:
    """For `check --deploy --database default`: a wall that does not stand is a warning."""
    if not databases or connection.alias not in databases:
        return []
    walls = standing(connection)
    found: list[checks.CheckMessage] = []
    if walls.unprotected:
        found.append(
            checks.Warning(
                f"Tables of tenants without row-level security: {', '.join(walls.unprotected)}.",
                hint="Run migrate.",
                id="tenants.W001",
            )
        )
    if walls.is_bypassed and not walls.has_role:
        found.append(
            checks.Warning(
                "The database login ignores row-level security, and may not become the role"
                f" {ROLE}: the scoped managers are the only wall between tenants.",
                hint="Use a login without SUPERUSER and BYPASSRLS, or run migrate with one that may CREATE ROLE.",
                id="tenants.W002",
            )
        )
    return found
