"""Who sells, who buys, and which tax that makes: read for a document, frozen into it when it is finalized.

A document must never be untaxed by oversight: a tax key without a rate in force is refused, not guessed.
"""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Final

from django.db.models import Q

from billing.models import BillingProfile, LegalEntity, TaxRate
from billing.rating import tax
from tenants.errors import ApiError
from tenants.models import Tenant

STANDARD: Final = "standard"
"""The tax key of a line that names none."""


@dataclass(frozen=True, slots=True)
class TaxTerms:
    """A rate with the words that a document must carry for it."""

    rate: tax.TaxRate
    exemption_text: str = ""
    exemption_code: str = ""


_TREATMENTS: Final = {
    BillingProfile.Treatment.REVERSE_CHARGE: TaxTerms(
        tax.TaxRate("reverse_charge", "AE", Decimal(0)),
        "Reverse charge: VAT to be accounted for by the recipient (Art. 196 Directive 2006/112/EC).",
        "VATEX-EU-AE",
    ),
    BillingProfile.Treatment.EXEMPT: TaxTerms(
        tax.TaxRate("exempt", "E", Decimal(0)), "Exempt from VAT.", "VATEX-EU-132"
    ),
    BillingProfile.Treatment.EXPORT: TaxTerms(
        tax.TaxRate("export", "O", Decimal(0)),
        "Services outside the scope of VAT: the place of supply is the recipient's (Art. 44 Directive 2006/112/EC).",
        "VATEX-EU-O",
    ),
}
"""What holds for a buyer's treatment unless a tax rate of that key says otherwise."""


def locked_profile(tenant: Tenant) -> BillingProfile:
    """The tenant's profile, made if missing, its row locked: before the invoice's, before the counter's."""
    BillingProfile.objects.bulk_create([BillingProfile(tenant=tenant)], ignore_conflicts=True)
    return (
        BillingProfile.objects.select_for_update(of=("self",))
        .select_related("legal_entity", "tenant")
        .get(tenant=tenant)
    )


def profile_of(tenant: Tenant) -> BillingProfile:
    """The tenant's profile; an unsaved, empty one where there is none."""
    found = BillingProfile.objects.for_tenant(tenant).select_related("legal_entity", "tenant").first()
    return found or BillingProfile(tenant=tenant)


def seller_of(profile: BillingProfile) -> LegalEntity:
    """Raises ApiError conflict where no legal entity is set up."""
    seller = profile.legal_entity or LegalEntity.objects.filter(is_default=True).first()
    if seller is None:
        raise ApiError(
            "conflict", "No legal entity issues documents yet: make one the default.", param="legal_entity"
        )
    return seller


def tax_key(profile: BillingProfile, wanted: str) -> str:
    """The tax key of a line: its own for a domestic buyer, else the one of the buyer's treatment."""
    terms = _TREATMENTS.get(BillingProfile.Treatment(profile.tax_treatment))
    return terms.rate.key if terms else wanted or STANDARD


def tax_terms(seller: LegalEntity, key: str, *, on: date) -> TaxTerms:
    """The rate of a key in the seller's country on a day. Raises ApiError conflict where there is none."""
    row = (
        TaxRate.objects.filter(Q(valid_to__isnull=True) | Q(valid_to__gt=on), valid_from__lte=on)
        .filter(key=key, country=seller.country)
        .order_by("-valid_from")
        .first()
    )
    if row is not None:
        return TaxTerms(
            tax.TaxRate(row.key, row.category, row.percent), row.exemption_text, row.exemption_code
        )
    for terms in _TREATMENTS.values():
        if terms.rate.key == key:
            return terms
    raise ApiError(
        "conflict", f"There is no tax rate {key!r} for {seller.country} on {on}.", param="tax_rates"
    )


def snapshot(seller: LegalEntity, profile: BillingProfile) -> dict[str, Any]:
    """Both parties in plain words, as the document keeps them."""
    tenant = profile.tenant
    return {
        "seller": {
            "code": seller.code,
            "name": seller.name,
            "address_lines": seller.address_lines,
            "postal_code": seller.postal_code,
            "city": seller.city,
            "country": seller.country,
            "vat_id": seller.vat_id,
            "registration": seller.registration,
            "email": seller.email,
            "iban": seller.iban,
            "bic": seller.bic,
            "logo_svg": seller.logo_svg,
            "footer": seller.footer,
            "timezone": seller.timezone,
        },
        "buyer": {
            "tenant": tenant.slug,
            "name": profile.legal_name or tenant.name,
            "address_lines": profile.address_lines,
            "postal_code": profile.postal_code,
            "city": profile.city,
            "country": profile.country,
            "vat_id": profile.vat_id,
            "tax_treatment": profile.tax_treatment,
            "einvoice_address": profile.einvoice_address,
            "buyer_reference": profile.buyer_reference,
            "purchase_order": profile.purchase_order,
            "emails": profile.emails,
        },
    }


def net_days_of(seller: LegalEntity, profile: BillingProfile) -> int:
    return seller.net_days if profile.net_days is None else profile.net_days
