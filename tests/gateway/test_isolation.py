"""The second wall: with the scoped managers taken away, a tenant's request still meets its own rows alone."""

# ruff: noqa: S608 - names of our own tables

import os
from datetime import date
from uuid import uuid4

import pytest
from django.apps import apps
from django.db import DatabaseError, ProgrammingError, connection, models, transaction
from django.http import HttpResponse, StreamingHttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import include, path
from rest_framework.response import Response

from billing.models import Budget
from billing.usage import partitions
from tenants import isolation
from tenants.console import tenant_room
from tenants.isolation import ROLE, only
from tenants.models import Tenant
from tenants.principal import SYSTEM, Principal
from tenants.rest import Guarded
from tests import factories


def depth_of(table):
    return 0 if table.parent is None else 1 + depth_of(table.parent)


TABLES = isolation.protected()
ORDER = sorted(TABLES, key=lambda name: (name != "tenants_tenant", depth_of(TABLES[name])))
VALUES = {
    "uuid": lambda width: str(uuid4()),
    "boolean": lambda width: False,
    "timestamp with time zone": lambda width: "2026-01-02T03:04:05Z",
    "date": lambda width: "2026-01-02",
    "jsonb": lambda width: "{}",
    "bytea": lambda width: uuid4().bytes,
    "inet": lambda width: "192.0.2.1",
    "ARRAY": lambda width: "{}",
    "character varying": lambda width: uuid4().hex[: width or 32],
    "text": lambda width: uuid4().hex,
}


def run(sql, *parameters):
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else cursor.rowcount


def value_of(sql, *parameters):
    ((value,),) = run(sql, *parameters)
    return value


def state():
    """Who the connection is, and whom it sees."""
    return tuple(run("SELECT current_user = session_user, current_setting('tollhouse.tenants', true)")[0])


FREE = ((True, None), (True, ""))


def principal(*tenants):
    return Principal("user", None, "somebody", tenant_scopes={each.id: frozenset(("*",)) for each in tenants})


def insert(table, **known):
    """A row with something in every column that needs it, by the columns' types."""
    columns = run(
        "SELECT column_name, data_type, character_maximum_length FROM information_schema.columns"
        " WHERE table_schema = current_schema() AND table_name = %s AND is_nullable = 'NO'"
        " AND column_default IS NULL AND is_identity = 'NO' AND is_generated = 'NEVER'",
        table,
    )
    row = {name: VALUES.get(kind, lambda width: 1)(width) for name, kind, width in columns} | known
    names = ", ".join(f'"{name}"' for name in row)
    places = ", ".join(["%s"] * len(row))
    run(f'INSERT INTO "{table}" ({names}) VALUES ({places})', *row.values())
    return row


@pytest.fixture
def world(db):
    """Two tenants with one row each in every table that belongs to tenants. Their checks rest meanwhile."""
    run("SET LOCAL session_replication_role = replica")
    for table, check in run(
        "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE contype = 'c' AND coninhcount = 0"
        " AND conrelid::regclass::text = ANY (%s)",
        list(TABLES),
    ):
        run(f'ALTER TABLE {table} DROP CONSTRAINT "{check}"')
    made = {}
    for owner in ("mine", "theirs"):
        rows = made[owner] = {}
        for name in ORDER:
            table = TABLES[name]
            if name == "tenants_tenant":
                rows[name] = insert(name)
            elif table.parent is None:
                rows[name] = insert(name, tenant_id=rows["tenants_tenant"]["id"])
            else:
                parent = rows[table.parent.name]
                rows[name] = insert(name, **{table.column: parent[table.parent_key]})
    run("SET LOCAL session_replication_role = DEFAULT")
    return made


def foreign(table, rows):
    """The SQL condition and parameter that find this row."""
    column = TABLES[table].column
    return f'"{column}" = %s', rows[table][column]


def somebody(world, owner):
    return principal(Tenant.objects.get(pk=world[owner]["tenants_tenant"]["id"]))


# ------------------------------------------------------------------ every table


def test_the_walk_sees_the_tables_that_matter():
    assert {
        "tenants_tenant", "tenants_membership", "tenants_apikey", "tenants_auditevent", "tenants_customrole",
        "tenants_serviceaccount", "routing_credential", "billing_usage_event", "billing_usage_hour",
        "billing_invoice", "billing_invoiceline", "billing_walletentry", "gateway_request_log",
        "gateway_shadowsample",
    } <= TABLES.keys()  # fmt: skip
    for model in apps.get_models():
        if any(field.column == "tenant_id" for field in model._meta.local_fields):
            assert model._meta.db_table in TABLES


def test_every_table_of_a_tenant_has_a_forced_policy(db):
    assert isolation.standing(connection) == isolation.Walls(has_role=True, is_bypassed=True, unprotected=())


def test_a_stranger_sees_no_foreign_row_in_any_table(world):
    leaks, blind = [], []
    me = somebody(world, "mine")
    for table in TABLES:
        condition, value = foreign(table, world["theirs"])
        assert value_of(f'SELECT count(*) FROM "{table}" WHERE {condition}', value) > 0, table
        with only(me):
            if value_of(f'SELECT count(*) FROM "{table}" WHERE {condition}', value):
                leaks.append(table)
            if not value_of(f'SELECT count(*) FROM "{table}"'):
                blind.append(table)
    assert (leaks, blind) == ([], [])


def test_the_managers_taken_away_see_no_foreign_row(world):
    theirs = world["theirs"]["tenants_tenant"]["id"]
    with only(somebody(world, "mine")):
        for model in apps.get_models():
            if any(field.column == "tenant_id" for field in model._meta.local_fields):
                rows = model._base_manager.all()
                assert rows.filter(tenant_id=theirs).count() == 0, model
                assert rows.count() == 1, model


def test_a_stranger_can_neither_change_nor_remove_a_foreign_row(world):
    with only(somebody(world, "mine")):
        for table in TABLES:
            condition, value = foreign(table, world["theirs"])
            column = TABLES[table].column
            assert run(f'UPDATE "{table}" SET "{column}" = "{column}" WHERE {condition}', value) == 0, table
            assert run(f'DELETE FROM "{table}" WHERE {condition}', value) == 0, table


def test_a_stranger_can_add_no_row_to_a_foreign_tenant(world):
    run("SET LOCAL session_replication_role = replica")  # policies hold on their own, without any trigger
    with only(somebody(world, "mine")):
        for table in TABLES:
            if table == "tenants_tenant":
                known = {"id": str(uuid4())}
            else:
                known = {TABLES[table].column: world["theirs"][table][TABLES[table].column]}
            with pytest.raises(ProgrammingError, match="row-level security"), transaction.atomic():
                insert(table, **known)


def test_somebody_without_a_tenant_sees_nothing(world):
    with only(principal()):
        assert [table for table in TABLES if value_of(f'SELECT count(*) FROM "{table}"')] == []


def test_the_operators_own_rows_are_closed_unless_named(world):
    run("SET LOCAL session_replication_role = replica")
    for table in ("tenants_apikey", "routing_credential", "routing_routingpolicy"):
        insert(table)
    run("SET LOCAL session_replication_role = DEFAULT")
    with only(somebody(world, "mine")):
        counted = {
            table: value_of(f'SELECT count(*) FROM "{table}" WHERE tenant_id IS NULL')
            for table in ("tenants_apikey", "routing_credential", "routing_routingpolicy")
        }
        changed = run("UPDATE routing_routingpolicy SET \"name\" = 'x' WHERE tenant_id IS NULL")
    assert counted == {"tenants_apikey": 0, "routing_credential": 0, "routing_routingpolicy": 1}
    assert changed == 0


def test_operators_and_tasks_see_everything(world):
    with only(SYSTEM):
        assert Tenant.objects.count() == 2
    assert Tenant.objects.count() == 2


def test_the_owner_of_the_tables_is_held_too_where_there_is_no_role(world):
    """As on a server whose login may not become another role: FORCE alone must do."""
    owner = f"th_owner_{os.getpid()}"
    mine, theirs = (world[each]["tenants_tenant"]["id"] for each in ("mine", "theirs"))
    run(f"CREATE ROLE {owner} NOLOGIN")
    run(f"GRANT ALL ON SCHEMA public TO {owner}")
    for table in ("billing_usage_event", "tenants_tenant", "billing_invoice", "billing_invoiceline"):
        run(f"ALTER TABLE {table} OWNER TO {owner}")
    run(f"SET LOCAL ROLE {owner}")
    everything = {
        table: value_of(f"SELECT count(*) FROM {table}")
        for table in ("tenants_tenant", "billing_invoiceline")
    }
    run(f"SET LOCAL tollhouse.tenants = '{{{mine}}}'")
    assert everything == {"tenants_tenant": 2, "billing_invoiceline": 2}
    assert value_of("SELECT count(*) FROM billing_usage_event WHERE tenant_id = %s", theirs) == 0
    assert value_of("SELECT count(*) FROM tenants_tenant") == 1
    assert value_of("SELECT count(*) FROM billing_invoiceline") == 1


def test_the_role_without_the_setting_sees_nothing(world):
    run(f"SET LOCAL ROLE {ROLE}")
    assert value_of("SELECT count(*) FROM tenants_tenant") == 0


def test_the_role_defines_nothing_and_reaches_no_partition(world):
    name = partitions.partition_of(table=partitions.LEDGER, day=date(2026, 1, 2))
    partitions.ensure_days(table=partitions.LEDGER, days=[date(2026, 1, 2)])
    with only(somebody(world, "mine")):
        for statement in (
            "CREATE TABLE mine_now (id int)",
            "ALTER TABLE billing_budget DISABLE ROW LEVEL SECURITY",
            "DROP POLICY tollhouse_tenants ON billing_budget",
            "TRUNCATE billing_budget",
            f"SELECT count(*) FROM {name}",
            "SELECT count(*) FROM gateway_request_log_default",
        ):
            with pytest.raises(DatabaseError), transaction.atomic():
                run(statement)


# ------------------------------------------------------------------ new tables


def test_a_table_without_a_policy_is_found(db):
    run("DROP POLICY tollhouse_tenants ON billing_budget")
    run("ALTER TABLE billing_wallet NO FORCE ROW LEVEL SECURITY")
    walls = isolation.standing(connection)
    assert (walls.ok, walls.unprotected) == (False, ("billing_budget", "billing_wallet"))
    (warning,) = isolation.check_walls(databases=["default"])
    assert (warning.id, "billing_budget, billing_wallet" in warning.msg) == ("tenants.W001", True)
    isolation.build(connection)
    assert isolation.standing(connection).ok
    assert isolation.check_walls(databases=["default"]) == []


def test_a_new_model_of_a_tenant_is_discovered_with_what_hangs_on_it():
    class Meta:
        app_label = "tenants"
        apps = type(apps)()  # a registry of its own: nobody else sees these

    new = type("New", (models.Model,), {
        "__module__": __name__, "Meta": Meta, "tenant_id": models.UUIDField(),
    })  # fmt: skip
    part = type("Part", (models.Model,), {
        "__module__": __name__, "Meta": Meta, "new": models.ForeignKey(new, models.CASCADE),
    })  # fmt: skip
    other = type("Other", (models.Model,), {"__module__": __name__, "Meta": Meta})
    found = isolation.protected([part, other, new])
    assert found.keys() == {"tenants_new", "tenants_part"}
    assert found["tenants_part"].parent == found["tenants_new"]


def test_a_policy_that_changed_is_made_anew_and_others_are_left_alone(db):
    run("COMMENT ON POLICY tollhouse_tenants ON billing_budget IS 'older'")
    run("CREATE POLICY tollhouse_gone ON billing_wallet USING (true)")
    with CaptureQueriesContext(
        connection,
    ) as first:
        isolation.build(connection)
    with CaptureQueriesContext(connection) as second:
        isolation.build(connection)
    changes = [each["sql"] for each in first if "POLICY" in each["sql"]]
    assert [sql.split(" USING")[0] for sql in changes if not sql.startswith("COMMENT")] == [
        'DROP POLICY "tollhouse_tenants" ON "billing_budget"',
        'CREATE POLICY "tollhouse_tenants" ON "billing_budget"',
        'DROP POLICY "tollhouse_gone" ON "billing_wallet"',
    ]
    assert [each["sql"] for each in second if "POLICY" in each["sql"]] == []


def test_the_check_says_when_only_the_managers_stand(db):
    walls = isolation.Walls(has_role=False, is_bypassed=True, unprotected=())
    assert not walls.ok
    assert isolation.Walls(has_role=False, is_bypassed=False, unprotected=()).ok
    assert isolation.check_walls() == []  # never asks a database it was not given


# ------------------------------------------------------------------ nothing is left behind


@pytest.fixture
def committed(django_db_setup, django_db_blocker):
    """The connection as requests have it: in no transaction."""
    with django_db_blocker.unblock():
        yield
        connection.close()


def mine():
    return Principal("user", None, "somebody", tenant_scopes={uuid4(): frozenset(("*",))})


def test_a_block_leaves_the_connection_as_it_was(committed):
    me = mine()
    with only(me):
        assert state() == (False, f"{{{next(iter(me.tenant_scopes))}}}")
    assert state() in FREE


def test_an_exception_leaves_nothing(committed):
    with pytest.raises(ZeroDivisionError), only(mine()), transaction.atomic():
        raise ZeroDivisionError
    assert state() in FREE


def test_a_database_error_leaves_nothing(committed):
    with pytest.raises(DatabaseError), only(mine()):
        run("SELECT no_such_column")
    assert state() in FREE


def test_a_broken_transaction_inside_leaves_nothing_and_stays_restricted(committed):
    with only(mine()):
        with pytest.raises(DatabaseError), transaction.atomic():
            run("SELECT no_such_column")
        assert state()[0] is False
    assert state() in FREE


def test_a_broken_transaction_outside_takes_the_restriction_with_it(committed):
    with pytest.raises(DatabaseError), transaction.atomic(), only(mine()):
        run("SELECT no_such_column")
    assert state() in FREE


def test_a_broken_savepoint_takes_the_restriction_with_it(committed):
    with transaction.atomic():
        with pytest.raises(DatabaseError), transaction.atomic(), only(mine()):
            run("SELECT no_such_column")
        assert state() in FREE
    assert state() in FREE


def test_a_rollback_asked_for_takes_nothing_else(committed):
    with only(mine()):
        with transaction.atomic():
            transaction.set_rollback(True)
        assert state()[0] is False
    with transaction.atomic(), only(mine()):
        transaction.set_rollback(True)
    assert state() in FREE


def test_a_lost_connection_is_restricted_again(committed):
    with only(mine()):
        run("SELECT 1")
        connection.close()
        assert state()[0] is False
    assert state() in FREE


def test_a_connection_whose_restriction_cannot_be_lifted_is_closed(committed):
    with only(mine()):
        connection.connection.execute("BEGIN")
        with pytest.raises(DatabaseError):
            run("SELECT no_such_column")
    assert connection.connection is None
    assert state() in FREE


def test_blocks_may_be_nested(committed):
    outer, inner = mine(), mine()
    with only(outer):
        before = state()
        with only(inner):
            assert state() != before
        assert state() == before
    assert state() in FREE


def test_entering_and_leaving_cost_one_statement_each(committed):
    with only(mine()):
        run("SELECT 1")
        pid = value_of("SELECT pg_backend_pid()")
    assert value_of("SELECT pg_backend_pid()") == pid


# ------------------------------------------------------------------ requests


class LeakyView(Guarded):
    """A view whose author forgot whose rows these are."""

    read_scope = "budgets:read"
    is_open_to_tenants = True

    def get(self, request, **kwargs):
        if request.query_params.get("fail"):
            run("SELECT no_such_column")
        return Response([budget.name for budget in Budget.objects.order_by("name")])


class LeakyStream(LeakyView):
    def get(self, request, **kwargs):
        return StreamingHttpResponse(
            f"{tenant.slug} " for tenant in Tenant.objects.order_by("slug").iterator()
        )


@tenant_room("budgets:read")
def leaky_page(request, tenant):
    return HttpResponse(" ".join(budget.name for budget in Budget.objects.order_by("name")))


urlpatterns = [
    path("api/v1/leaky/", LeakyView.as_view()),
    path("api/v1/leaky/stream/", LeakyStream.as_view()),
    path("t/<slug:tenant_slug>/leaky/", leaky_page, name="leaky"),
    path("", include("gateway.urls")),
]


@pytest.fixture
def budgets(db):
    for slug in ("acme", "globex"):
        Budget.objects.create(tenant=factories.tenant(slug), name=f"of {slug}", limit=1)
    Budget.objects.create(tenant=None, name="of the operator", limit=1)
    return {tenant.slug: tenant for tenant in Tenant.objects.all()}


@pytest.mark.urls(__name__)
def test_a_view_that_forgot_to_scope_shows_a_tenants_key_its_own_rows(budgets):
    assert factories.client_with(budgets["acme"], "*").get("/api/v1/leaky/").json() == ["of acme"]
    everything = ["of acme", "of globex", "of the operator"]
    assert factories.client_with(None, "*").get("/api/v1/leaky/").json() == everything
    assert state() in FREE


@pytest.mark.urls(__name__)
def test_a_stream_is_made_under_the_same_restriction(budgets):
    answer = factories.client_with(budgets["acme"], "*").get("/api/v1/leaky/stream/")
    assert state() in FREE
    assert answer.getvalue() == b"acme "
    assert state() in FREE
    assert factories.client_with(None, "*").get("/api/v1/leaky/stream/").getvalue() == b"acme globex "


@pytest.mark.urls(__name__)
def test_a_page_that_forgot_to_scope_shows_a_member_their_own_rows(budgets):
    client = Client()
    client.force_login(
        factories.member(budgets["acme"], "owner").user,
        backend="allauth.account.auth_backends.AuthenticationBackend",
    )
    assert client.get("/t/acme/leaky/").content == b"of acme"
    assert client.get("/t/globex/leaky/").status_code == 404
    assert state() in FREE


@pytest.mark.urls(__name__)
def test_a_request_that_fails_leaves_nothing(budgets):
    client = factories.client_with(budgets["acme"], "*")
    client.raise_request_exception = False
    with transaction.atomic():
        assert client.get("/api/v1/leaky/?fail=1").status_code >= 500
        transaction.set_rollback(True)
    assert state() in FREE
    assert Tenant.objects.count() == 2
