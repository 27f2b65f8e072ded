"""When a wallet tops itself up."""

from dataclasses import dataclass

from django.db import transaction

from billing.models import Wallet
from billing.rating.money import minor_text
from billing.wallets.book import locked_wallet
from tenants import audit
from tenants.errors import ApiError
from tenants.principal import Principal


@dataclass(frozen=True, slots=True)
class AutoTopUp:
    """Minor units: below `below_minor` add `amount_minor`, at most `monthly_cap_minor` a month."""

    below_minor: int
    amount_minor: int
    monthly_cap_minor: int | None = None


def set_auto_top_up(*, wallet: Wallet, terms: AutoTopUp | None, actor: Principal) -> Wallet:
    """None: never by itself. Raises ApiError invalid_request for a cap that no top-up fits under."""
    cap = terms.monthly_cap_minor if terms is not None else None
    if terms is not None and cap is not None and cap < terms.amount_minor:
        raise ApiError("invalid_request", "No top-up fits under this cap.", param="auto_top_up.monthly_cap")
    with transaction.atomic():
        held = locked_wallet(wallet.tenant, wallet.currency)
        before = _shown(held)
        held.top_up_below_minor = terms.below_minor if terms else None
        held.top_up_amount_minor = terms.amount_minor if terms else None
        held.top_up_monthly_cap_minor = terms.monthly_cap_minor if terms else None
        held.save(
            update_fields=(
                "top_up_below_minor",
                "top_up_amount_minor",
                "top_up_monthly_cap_minor",
                "updated_at",
            )
        )
        audit.record(
            principal=actor,
            action="wallet.auto_top_up",
            object_type="wallet",
            object_id=held.pk,
            tenant=held.tenant,
            before=before,
            after=_shown(held),
        )
    return held


def _shown(held: Wallet) -> dict[str, str | None]:
    amounts = {
        "below": held.top_up_below_minor,
        "amount": held.top_up_amount_minor,
        "monthly_cap": held.top_up_monthly_cap_minor,
    }
    return {
        name: None if minor is None else minor_text(minor, held.currency) for name, minor in amounts.items()
    }
