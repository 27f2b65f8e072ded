"""Seed a demo: an admin, an operator key, two tenants whose keys may use everything, priced sandbox routes.

Idempotent. Secrets are shown when they are made; a later run makes fresh ones, since none is ever stored.
"""

import json
import secrets
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from django.db import transaction
from django.utils import timezone

import billing.demo
import routing.demo
from billing import subscriptions
from billing.models import Plan, Subscription
from routing.catalog.sync import load_catalogue
from tenants import keys, lifecycle
from tenants.models import ApiKey, Membership, Tenant, User
from tenants.principal import SYSTEM

ADMIN_EMAIL = "admin@tollhouse.local"
KEY_NAME = "demo"
TENANTS = (("acme", "Acme Inc.", "starter"), ("globex", "Globex Corp.", "scale"))


class Command(BaseCommand):
    help = "Seed the demo and print what a script needs."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        load_catalogue(now=timezone.now())
        with transaction.atomic():
            demo = seed()
        if options["json"]:
            self.stdout.write(json.dumps(demo))
        else:
            for name, value in demo.items():
                self.stdout.write(f"{name}: {value}")


def seed() -> dict[str, Any]:
    """Make what is missing; replace the demo's secrets by fresh ones and return them."""
    routing.demo.seed()
    billing.demo.seed()
    password = secrets.token_urlsafe(15)
    admin = User.objects.filter(email=ADMIN_EMAIL).first()
    if admin is None:
        admin = User.objects.create_superuser(ADMIN_EMAIL, password, name="Ada Admin")
    else:
        admin.set_password(password)
        admin.save(update_fields=("password", "updated_at"))
    shown = []
    for slug, name, plan in TENANTS:
        tenant = Tenant.objects.filter(slug=slug).first()
        if tenant is None:
            tenant = lifecycle.open_tenant(
                slug=slug, name=name, timezone="UTC", currency="USD", region_policy=(), actor=SYSTEM
            )
        if not Subscription.objects.for_tenant(tenant).filter(end__isnull=True).exists():
            subscriptions.subscribe(
                tenant=tenant, plan=Plan.objects.get(slug=plan), start=timezone.now(), actor=SYSTEM
            )
        Membership.objects.get_or_create(tenant=tenant, user=admin, defaults={"role": Membership.Role.OWNER})
        shown.append({"slug": slug, "api_key": _fresh_key(tenant, ("*",))})
    return {
        "base_url": f"{settings.PUBLIC_URL}/v1",
        "console_url": f"{settings.PUBLIC_URL}/",
        "admin_email": ADMIN_EMAIL,
        "admin_password": password,
        "operator_key": _fresh_key(None, ("*",)),
        "tenants": shown,
    }


def _fresh_key(tenant: Tenant | None, scopes: tuple[str, ...]) -> str:
    """A new demo key; the one of an earlier run is revoked."""
    for old in ApiKey.objects.filter(tenant=tenant, name=KEY_NAME, revoked_at__isnull=True):
        keys.revoke(key=old, actor=SYSTEM, now=timezone.now())
    return keys.issue(tenant=tenant, name=KEY_NAME, scopes=scopes, actor=SYSTEM).text
