"""The demo's price list. Only adds what is missing."""

from django.db import transaction

from billing.models import Plan
from billing.subscriptions import publish
from tenants.principal import SYSTEM

PLANS = (("starter", "Starter", "20"), ("scale", "Scale", "8"))


def seed() -> None:
    """Plans `starter` (cost plus 20 %) and `scale` (cost plus 8 %)."""
    for slug, name, markup in PLANS:
        with transaction.atomic():
            plan, is_new = Plan.objects.get_or_create(slug=slug, defaults={"name": name})
            if is_new:
                charges = [{"model": "cost_plus", "markup_percent": markup, "fixed_per_request": "0"}]
                publish(plan=plan, terms={"charges": charges}, actor=SYSTEM)
