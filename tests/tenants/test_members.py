import pytest

from tenants import members
from tenants.authentication import principal_of
from tenants.errors import ApiError
from tenants.models import AuditEvent, Membership, User
from tenants.principal import SYSTEM
from tests import factories

pytestmark = pytest.mark.urls("tests.tenants.urls")


@pytest.fixture
def acme(db):
    return factories.tenant("acme", name="Acme & Sons")


def refused(code, param=None):
    return pytest.raises(ApiError, check=lambda error: (error.code, error.param) == (code, param))


def add(tenant, email="new@example.com", role="developer"):
    return members.join(tenant=tenant, user=factories.user(email), role=role, actor=SYSTEM)


def test_a_role_that_is_no_longer_there_is_given_to_nobody(acme):
    with refused("conflict"):
        add(acme, role="auditor")
    assert not Membership.objects.exists()


def test_nobody_is_a_member_twice(acme):
    person = add(acme).user
    with refused("conflict", "email"):
        members.join(tenant=acme, user=person, role="owner", actor=SYSTEM)
    assert Membership.objects.get().role == "developer"


def test_an_address_has_one_account(acme):
    factories.user("known@example.com")
    with refused("conflict", "email"):
        members.create_person(email="KNOWN@example.com", actor=SYSTEM, by="invitation")
    assert User.objects.count() == 1


def test_an_admin_can_neither_demote_nor_remove_an_owner(acme):
    owners = [factories.member(acme, "owner") for _ in range(2)]
    admin = principal_of(factories.member(acme, "admin").user)
    with refused("permission_denied", "role"):
        members.change_role(membership=owners[0], role="viewer", actor=admin)
    with refused("permission_denied", "role"):
        members.remove_member(membership=owners[0], actor=admin)
    assert Membership.objects.filter(role="owner").count() == 2


def test_the_last_owner_stays(acme):
    owner = factories.member(acme, "owner")
    factories.member(factories.tenant(), "owner")
    with refused("conflict", "role"):
        members.change_role(membership=owner, role="admin", actor=SYSTEM)
    with refused("conflict", "role"):
        members.remove_member(membership=owner, actor=SYSTEM)
    other = factories.member(acme, "owner")
    members.remove_member(membership=owner, actor=SYSTEM)
    assert list(acme.memberships.all()) == [other]


def test_every_change_leaves_one_event(acme):
    membership = add(acme)
    members.change_role(membership=membership, role="viewer", actor=SYSTEM)
    members.remove_member(membership=membership, actor=SYSTEM)
    events = AuditEvent.objects.order_by("sequence").values_list("action", "before", "after")
    first, second = ({"email": "new@example.com", "role": role} for role in ("developer", "viewer"))
    assert list(events) == [
        ("member.create", None, first),
        ("member.update", first, second),
        ("member.delete", second, None),
    ]


def test_a_membership_gone_meanwhile_is_not_found(acme):
    membership = factories.member(acme, "viewer")
    Membership.objects.all().delete()
    with refused("not_found"):
        members.remove_member(membership=membership, actor=SYSTEM)
