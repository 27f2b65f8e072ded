"""Which payment providers this installation has: transfers always, Stripe where its key is set."""

from django.conf import settings

from billing.payments import manual, stripe
from billing.payments.interface import PaymentProvider
from billing.payments.manual import ManualProvider
from billing.payments.stripe import StripeProvider
from tenants.errors import ApiError


def default_name() -> str:
    """The one that asks for money unless somebody books it by hand."""
    return stripe.NAME if settings.TOLLHOUSE_STRIPE_API_KEY else manual.NAME


def provider(name: str) -> PaymentProvider:
    """Raises ApiError not_found for one that is not set up here."""
    if name == manual.NAME:
        return ManualProvider()
    if name == stripe.NAME and settings.TOLLHOUSE_STRIPE_API_KEY:
        return StripeProvider(
            api_key=settings.TOLLHOUSE_STRIPE_API_KEY,
            webhook_secrets=tuple(settings.TOLLHOUSE_STRIPE_WEBHOOK_SECRETS),
            url=settings.TOLLHOUSE_STRIPE_URL.rstrip("/"),
        )
    raise ApiError("not_found", f"There is no payment provider {name!r} here.")
