import pytest

from billing.payments.interface import ProviderRefusedError
from billing.payments.stripe import StripeProvider, from_stripe, to_stripe


@pytest.mark.parametrize(
    ("minor", "currency", "theirs"),
    [(1050, "EUR", 1050), (500, "JPY", 500), (5, "ISK", 500), (7, "UGX", 700), (1230, "KWD", 1230),
     (100, "HUF", 100), (100, "TWD", 100), (500, "MGA", 5)],
)  # fmt: skip
def test_amounts_are_told_in_stripes_own_decimals_and_back(minor, currency, theirs):
    assert to_stripe(minor, currency) == theirs
    assert from_stripe(theirs, currency) == minor


@pytest.mark.parametrize(("minor", "currency"), [(1234, "KWD"), (501, "MGA")])
def test_an_amount_that_stripe_cannot_charge_is_refused(minor, currency):
    with pytest.raises(ProviderRefusedError):
        to_stripe(minor, currency)


def test_the_secrets_are_never_shown():
    shown = repr(StripeProvider(api_key="sk_live_secret", webhook_secrets=("whsec_secret",)))
    assert "secret" not in shown.replace("webhook_secrets", "")
