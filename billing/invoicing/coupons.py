"""Redeeming a coupon for a tenant, and taking it away again. What it takes off is decided with each document."""

from datetime import datetime

from django.db import transaction

from billing.invoicing.parties import locked_profile
from billing.models import Coupon, TenantCoupon
from tenants import audit
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.principal import Principal


def redeem(*, coupon: Coupon, tenant: Tenant, now: datetime, actor: Principal) -> TenantCoupon:
    """Raises ApiError: conflict for one that is off, over, or redeemed already; invalid_request for another
    currency than the tenant's."""
    with transaction.atomic():
        locked_profile(tenant)
        if not coupon.is_active or (coupon.redeem_by is not None and coupon.redeem_by <= now):
            raise ApiError("conflict", f"The coupon {coupon.code} can no longer be redeemed.")
        if coupon.currency and coupon.currency != tenant.currency:
            raise ApiError(
                "invalid_request",
                f"The coupon is in {coupon.currency}, the tenant in {tenant.currency}.",
                param="tenant",
            )
        if TenantCoupon.objects.for_tenant(tenant).filter(coupon=coupon).exists():
            raise ApiError("conflict", f"{tenant.slug} has redeemed {coupon.code} already.", param="tenant")
        made = TenantCoupon.objects.create(tenant=tenant, coupon=coupon, redeemed_at=now)
        audit.record(
            principal=actor,
            action="coupon.redeem",
            object_type="coupon",
            object_id=coupon.pk,
            tenant=tenant,
            after={"code": coupon.code},
        )
    return made


def remove(*, coupon: Coupon, tenant: Tenant, now: datetime, actor: Principal) -> TenantCoupon:
    """No document of a period that begins later has it. Raises ApiError conflict where there is none."""
    with transaction.atomic():
        locked_profile(tenant)
        held = (
            TenantCoupon.objects.for_tenant(tenant)
            .select_for_update()
            .filter(coupon=coupon, removed_at__isnull=True)
            .first()
        )
        if held is None:
            raise ApiError("conflict", f"{tenant.slug} has no coupon {coupon.code}.", param="tenant")
        held.removed_at = now
        held.save(update_fields=("removed_at", "updated_at"))
        audit.record(
            principal=actor,
            action="coupon.remove",
            object_type="coupon",
            object_id=coupon.pk,
            tenant=tenant,
            before={"code": coupon.code},
        )
    return held
