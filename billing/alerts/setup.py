"""Opening, changing and closing channels; whom a rule tells. The secret part of a target is sealed here.

Verbs leave the audit event to the API's frame, which shows the row as its serializer does: without secrets.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction

from billing.alerts.channels import email
from billing.models import AlertChannel, AlertDelivery, AlertRule, AlertStep
from tenants import egress, webhooks
from tenants.errors import ApiError
from tenants.models import Tenant

MAX_CHANNELS: Final = 50
MAX_RULES: Final = 200
_ROUTING_KEY: Final = re.compile(r"[0-9A-Za-z]{32}")
_Kind = AlertChannel.Kind


def open_channel(*, tenant: Tenant | None, kind: str, target: str, now: datetime, **fields: Any) -> tuple[
    AlertChannel, str | None
]:  # fmt: skip
    """A new channel and, for a webhook, the signing secret, which is shown this once.

    Raises ApiError: invalid_request or url_not_allowed about `target`, conflict beyond 50 channels.
    """
    shown, secret = _checked_target(kind, target)
    with transaction.atomic():
        if AlertChannel.objects.filter(tenant=tenant).count() >= MAX_CHANNELS:
            raise ApiError("conflict", f"There are {MAX_CHANNELS} channels already.")
        channel = AlertChannel(tenant=tenant, kind=kind, target=shown, **fields)
        fresh = webhooks.new_secret() if kind == _Kind.WEBHOOK else None
        if fresh is not None:
            secret = webhooks.dump(webhooks.rotate((), fresh, now=now, grace_s=0))
        if secret:
            channel.put_secret(secret)
        channel.save(force_insert=True)
    return channel, fresh


def change_channel(*, channel: AlertChannel, changes: Mapping[str, Any]) -> AlertChannel:
    """Change anything but the kind and the tenant. A webhook keeps its secrets under a new URL.

    Raises ApiError: invalid_request or url_not_allowed about `target`.
    """
    changes = dict(changes)
    target = changes.pop("target", None)
    with transaction.atomic():
        held = (
            AlertChannel.objects.select_for_update(of=("self",)).select_related("tenant").get(pk=channel.pk)
        )
        for name, value in changes.items():
            setattr(held, name, value)
        if target is not None and target != held.target:
            held.target, secret = _checked_target(held.kind, target)
            if secret:
                held.put_secret(secret)
        held.save()
    return held


def rotate_secret(*, channel: AlertChannel, grace_s: int, now: datetime) -> tuple[AlertChannel, str]:
    """A fresh signing secret, shown this once; the one before it signs beside it for `grace_s`.

    Raises ApiError: conflict for a channel that is no webhook, invalid_request for a grace out of range.
    """
    if channel.kind != _Kind.WEBHOOK:
        raise ApiError("conflict", "Only webhooks have a signing secret.")
    fresh = webhooks.new_secret()
    with transaction.atomic():
        held = (
            AlertChannel.objects.select_for_update(of=("self",)).select_related("tenant").get(pk=channel.pk)
        )
        try:
            rotated = webhooks.rotate(webhooks.load(held.secret()), fresh, now=now, grace_s=grace_s)
        except ValueError as error:
            raise ApiError("invalid_request", f"{error}.", param="grace_s") from error
        held.put_secret(webhooks.dump(rotated))
        held.save(update_fields=("sealed", "updated_at"))
    return held, fresh


def close_channel(*, channel: AlertChannel) -> None:
    """Delete it with its secret; what waited for it is cancelled, the log stays."""
    with transaction.atomic():
        channel.deliveries.filter(state=AlertDelivery.State.PENDING).update(
            state=AlertDelivery.State.CANCELLED, lease_until=None
        )
        channel.delete()


def set_steps(*, rule: AlertRule, steps: Sequence[tuple[int, UUID]]) -> None:
    """Whom the rule tells, and after how many seconds, from now on. The caller has checked the channels."""
    with transaction.atomic():
        rule.steps.all().delete()
        AlertStep.objects.bulk_create(
            AlertStep(rule=rule, channel_id=channel_id, after_s=after_s)
            for after_s, channel_id in sorted(set(steps))
        )


def _checked_target(kind: str, target: str) -> tuple[str, str]:
    """What may be shown of a target, and what must be sealed. Raises ApiError about `target`."""
    match _Kind(kind):
        case _Kind.EMAIL:
            return ", ".join(_checked_addresses(target)), ""
        case _Kind.WEBHOOK:
            _check_url(target)
            return target, ""
        case _Kind.SLACK:
            _check_url(target)
            return f"https://{urlsplit(target).netloc}/…{target[-4:]}", target
        case _Kind.PAGERDUTY:
            if not _ROUTING_KEY.fullmatch(target):
                raise _refused("A PagerDuty routing key has 32 letters and digits.")
            return f"…{target[-4:]}", target


def _checked_addresses(target: str) -> tuple[str, ...]:
    found = email.recipients(target)
    if not 1 <= len(found) <= email.MAX_RECIPIENTS:
        raise _refused(f"Name 1 to {email.MAX_RECIPIENTS} addresses, separated by commas.")
    for each in found:
        try:
            validate_email(each)
        except ValidationError as error:
            raise _refused(f"{each!r} is no e-mail address.") from error
    return found


def _check_url(url: str) -> None:
    egress.check_url(url, allow_private_hosts=settings.TOLLHOUSE_EGRESS_ALLOWED_HOSTS, param="target")


def _refused(message: str) -> ApiError:
    return ApiError("invalid_request", message, param="target")
