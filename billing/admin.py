"""The break-glass admin of this floor. Versions, subscriptions and their history can only be looked at.

The ledger and its rollups are missing: their primary keys span several columns, and Django's admin takes no
such model. `/api/v1/usage/`, `verify_ledger` and SQL show them. What is changed here is neither audited nor
announced to the workers; it is for when the console is broken.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.db import models
from django.http import HttpRequest

from billing.models import (
    AlertAction,
    AlertAttempt,
    AlertChannel,
    AlertDelivery,
    AlertFiring,
    AlertRule,
    AlertStep,
    AlertWatch,
    BillingProfile,
    BillSource,
    Budget,
    BudgetCheck,
    ClosedPeriod,
    Coupon,
    CreditGrant,
    CreditNote,
    CreditNoteLine,
    DocumentCounter,
    DunningHold,
    DunningReminder,
    DunningSchedule,
    FxRate,
    Invoice,
    InvoiceDiscount,
    InvoiceLine,
    LedgerProof,
    LegalEntity,
    Payment,
    PaymentCustomer,
    PaymentEvent,
    Plan,
    PlanVersion,
    ProviderBill,
    ProviderBillLine,
    ReconcileLine,
    ReconcileRun,
    Refund,
    ReRating,
    Subscription,
    SubscriptionChange,
    TaxRate,
    TenantCoupon,
    Wallet,
    WalletEntry,
)

if TYPE_CHECKING:
    _Admin = admin.ModelAdmin[models.Model]
else:  # Django's class takes no parameters at run time
    _Admin = admin.ModelAdmin


class ReadOnly(_Admin):
    """Rows that the ledger's rows were priced by."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Plan)
class PlanAdmin(_Admin):
    list_display = ("slug", "name", "is_default")
    search_fields = ("slug", "name")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(PlanVersion)
class PlanVersionAdmin(ReadOnly):
    list_display = ("plan", "number", "currency", "interval", "base_amount", "created_at")
    list_select_related = ("plan",)


@admin.register(Subscription)
class SubscriptionAdmin(ReadOnly):
    list_display = ("tenant", "plan_version", "start", "end")
    list_select_related = ("tenant", "plan_version__plan")


@admin.register(Budget)
class BudgetAdmin(_Admin):
    list_display = ("tenant", "name", "measure", "limit", "window", "mode", "is_enabled")
    list_select_related = ("tenant",)
    list_filter: ClassVar = ("measure", "window", "mode", "is_enabled")
    raw_id_fields = ("tenant", "api_key")


@admin.register(AlertChannel)
class AlertChannelAdmin(_Admin):
    list_display = ("tenant", "name", "kind", "target", "is_enabled")
    list_select_related = ("tenant",)
    list_filter: ClassVar = ("kind", "is_enabled")
    raw_id_fields = ("tenant",)
    readonly_fields = ("kind", "target")  # sealed with them: a new channel is the way to another target

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False


@admin.register(AlertRule)
class AlertRuleAdmin(_Admin):
    list_display = ("tenant", "name", "kind", "severity", "is_enabled")
    list_select_related = ("tenant",)
    list_filter: ClassVar = ("kind", "severity", "is_enabled")
    raw_id_fields = ("tenant", "budget", "api_key")


@admin.register(AlertStep)
class AlertStepAdmin(_Admin):
    list_display = ("rule", "channel", "after_s")
    list_select_related = ("rule", "channel")
    raw_id_fields = ("rule", "channel")


@admin.register(AlertFiring)
class AlertFiringAdmin(ReadOnly):
    list_display = ("fired_at", "tenant", "title", "severity", "resolved_at")
    list_select_related = ("tenant",)
    list_filter: ClassVar = ("kind", "severity")


@admin.register(AlertDelivery)
class AlertDeliveryAdmin(ReadOnly):
    list_display = ("next_at", "tenant", "event", "channel_label", "state", "attempts")
    list_select_related = ("tenant",)
    list_filter: ClassVar = ("state", "event")


@admin.register(AlertAttempt, AlertWatch)
class AlertTraceAdmin(ReadOnly):
    pass


@admin.register(AlertAction)
class AlertActionAdmin(ReadOnly):
    list_display = ("created_at", "action", "api_key", "until", "undone_at")
    list_select_related = ("api_key",)


@admin.register(Wallet)
class WalletAdmin(ReadOnly):
    list_display = ("tenant", "currency", "balance_pico", "is_prepaid")
    list_select_related = ("tenant",)


@admin.register(CreditGrant)
class CreditGrantAdmin(ReadOnly):
    list_display = ("tenant", "name", "category", "amount_pico", "remaining_pico", "expires_at")
    list_select_related = ("tenant",)


@admin.register(WalletEntry)
class WalletEntryAdmin(ReadOnly):
    list_display = ("at", "tenant", "kind", "amount_pico")
    list_select_related = ("tenant",)


@admin.register(Payment)
class PaymentAdmin(ReadOnly):
    list_display = ("created_at", "tenant", "provider", "purpose", "status", "amount_minor", "currency")
    list_select_related = ("tenant",)
    list_filter: ClassVar = ("provider", "purpose", "status")


@admin.register(Refund)
class RefundAdmin(ReadOnly):
    list_display = ("created_at", "tenant", "destination", "status", "amount_minor")
    list_select_related = ("tenant",)


@admin.register(PaymentCustomer, PaymentEvent, SubscriptionChange, DunningHold)
class PaymentTraceAdmin(ReadOnly):
    pass


@admin.register(DunningReminder)
class DunningReminderAdmin(ReadOnly):
    list_display = ("due_at", "tenant", "invoice", "day", "state")
    list_select_related = ("tenant", "invoice")
    list_filter: ClassVar = ("state",)


@admin.register(DunningSchedule)
class DunningScheduleAdmin(_Admin):
    list_display = ("legal_entity", "days", "local_time", "is_enabled")
    list_select_related = ("legal_entity",)


@admin.register(LegalEntity)
class LegalEntityAdmin(_Admin):
    list_display = ("code", "name", "country", "vat_id")


@admin.register(BillingProfile)
class BillingProfileAdmin(_Admin):
    list_display = ("tenant", "legal_name", "country", "tax_treatment")
    list_select_related = ("tenant",)
    raw_id_fields = ("tenant",)


@admin.register(TaxRate)
class TaxRateAdmin(_Admin):
    list_display = ("key", "category", "percent", "country", "valid_from", "valid_to")


@admin.register(Coupon)
class CouponAdmin(_Admin):
    list_display = ("code", "kind", "value", "currency", "is_active")


@admin.register(Invoice)
class InvoiceAdmin(ReadOnly):
    list_display = ("number", "tenant", "status", "currency", "period_start", "period_end", "issue_date")
    list_select_related = ("tenant",)
    list_filter: ClassVar = ("status", "document")
    search_fields = ("number",)


@admin.register(CreditNote)
class CreditNoteAdmin(ReadOnly):
    list_display = ("number", "tenant", "invoice", "total_minor", "currency", "issue_date")
    list_select_related = ("tenant", "invoice")


@admin.register(FxRate)
class FxRateAdmin(ReadOnly):
    list_display = ("base", "quote", "day", "rate", "source")


@admin.register(LedgerProof)
class LedgerProofAdmin(ReadOnly):
    list_display = ("at", "ok", "is_whole", "duration_ms")
    list_filter: ClassVar = ("ok",)


@admin.register(BillSource)
class BillSourceAdmin(ReadOnly):
    """Its key is sealed to the row and comes only through the API."""

    list_display = ("slug", "provider", "kind", "is_enabled", "pulled_at", "last_error")
    exclude = ("sealed",)


@admin.register(ReRating)
class ReRatingAdmin(ReadOnly):
    list_display = ("created_at", "provider", "provider_model", "status", "reason")
    list_filter: ClassVar = ("status",)


@admin.register(
    BudgetCheck,
    ClosedPeriod,
    CreditNoteLine,
    DocumentCounter,
    InvoiceDiscount,
    InvoiceLine,
    ProviderBill,
    ProviderBillLine,
    ReconcileLine,
    ReconcileRun,
    TenantCoupon,
)
class BookTraceAdmin(ReadOnly):
    pass
