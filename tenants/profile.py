"""What people may change about themselves. Must never touch a role: others give those (members.py)."""

from zoneinfo import available_timezones

from django.db import transaction

from tenants import audit
from tenants.errors import ApiError
from tenants.models import User
from tenants.principal import Principal


def change_profile(*, user: User, name: str, timezone: str, actor: Principal) -> User:
    """Set the display name and the time zone. Raises ApiError: invalid_request with `param`."""
    if timezone not in available_timezones():
        raise ApiError("invalid_request", f"Unknown time zone {timezone!r}.", param="timezone")
    with transaction.atomic():
        held = User.objects.select_for_update().get(pk=user.pk)
        before = {"name": held.name, "timezone": held.timezone}
        held.name, held.timezone = name, timezone
        held.save(update_fields=("name", "timezone", "updated_at"))
        audit.record(
            principal=actor,
            action="user.update",
            object_type="user",
            object_id=held.id,
            tenant=None,
            before=before,
            after={"name": name, "timezone": timezone},
        )
    return held
