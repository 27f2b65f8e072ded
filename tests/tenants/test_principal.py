from uuid import UUID

import pytest

from tenants.principal import SYSTEM, Principal
from tenants.scopes import OPERATOR_ROLES, SCOPES, TENANT_ROLES, grants, is_scope

ONE, TWO = UUID(int=1), UUID(int=2)


@pytest.mark.parametrize(
    ("held", "scope", "granted"),
    [
        ((), "keys:read", False),
        (("keys:read",), "keys:read", True),
        (("keys:read",), "keys:write", False),
        (("keys:*",), "keys:write", True),
        (("keys:*",), "keys:*", True),
        (("keys:*",), "members:read", False),
        (("keys:read", "keys:write"), "keys:*", False),
        (("*",), "keys:*", True),
        (("*",), "*", True),
        (("keys:*",), "*", False),
    ],
)
def test_a_grant_covers_its_scope_and_nothing_else(held, scope, granted):
    assert grants(held, scope) is granted


@pytest.mark.parametrize("scope", [*SCOPES, "*", "inference:*"])
def test_scopes_of_the_table_may_stand_on_a_key(scope):
    assert is_scope(scope)


@pytest.mark.parametrize("scope", ["", ":", ":*", "keys", "keys:", "key:*", "keys:rea*", "**", "Keys:read"])
def test_nothing_else_may(scope):
    assert not is_scope(scope)


@pytest.mark.parametrize("roles", [TENANT_ROLES, OPERATOR_ROLES])
def test_roles_bundle_scopes_that_exist(roles):
    assert all(is_scope(scope) for bundle in roles.values() for scope in bundle)


def test_no_tenant_role_reaches_the_operators_things():
    for scopes in TENANT_ROLES.values():
        for scope in (
            "cost:read",
            "tenants:write",
            "tenants:act",
            "providers:read",
            "prices:read",
            "plans:write",
            "ledger:read",
        ):
            assert not grants(scopes, scope)


def test_a_tenants_scopes_hold_there_alone():
    principal = Principal("key", None, "k", tenant_scopes={ONE: frozenset(("keys:read",))})
    assert principal.can("keys:read", ONE)
    assert not principal.can("keys:read", TWO)
    assert not principal.can("keys:read")
    assert not principal.can("keys:write", ONE)
    assert principal.tenants_with("keys:read") == {ONE}
    assert principal.tenants_with("keys:write") == frozenset()


def test_an_operators_scopes_hold_everywhere():
    principal = Principal("user", None, "u", operator_scopes=frozenset(("keys:read",)))
    assert principal.can("keys:read")
    assert principal.can("keys:read", ONE)
    assert not principal.can("keys:write", ONE)
    assert principal.tenants_with("keys:read") is None
    assert SYSTEM.tenants_with("anything:at-all") is None
