import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from tenants.models import AuditEvent, User


def test_create_admin_prints_a_password_that_works_once(db, capsys):
    call_command("create_admin", "--email", "Root@Example.com")
    email, password = capsys.readouterr().out.splitlines()
    user = User.objects.get()
    assert (email, user.email, user.operator_role) == ("root@example.com", "root@example.com", "owner")
    assert (user.is_staff, user.is_superuser) == (True, True)
    assert len(password) == 24
    assert Client().login(email=email, password=password)
    event = AuditEvent.objects.get()
    assert (event.action, event.after) == ("user.create", {"email": email, "operator_role": "owner"})
    assert password not in repr(event.__dict__)


@pytest.mark.parametrize(
    ("email", "reason"), [("nobody", "not an email"), ("ROOT@example.com", "exists already")]
)
def test_create_admin_refuses_a_bad_and_a_taken_address(db, email, reason):
    User.objects.create_user("root@example.com")
    with pytest.raises(CommandError, match=reason):
        call_command("create_admin", "--email", email)
    assert User.objects.count() == 1
    assert not User.objects.get().is_staff
