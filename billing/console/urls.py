"""Console paths that belong to the billing room. Pages of both places come from `both`."""

from django.urls import URLPattern, path

from billing.console import alerts, budgets, invoices, parties
from billing.console.places import both

_INVOICE = "platform/billing/invoices/<uuid:invoice_id>"

console_urlpatterns: list[URLPattern] = [
    *both("budgets/", budgets.budget_list, "budget_list"),
    *both("budgets/new/", budgets.budget_create, "budget_create"),
    *both("budgets/<uuid:budget_id>/", budgets.budget_edit, "budget_edit"),
    *both("budgets/<uuid:budget_id>/remove/", budgets.budget_remove, "budget_remove"),
    *both("budgets/alerts/", alerts.alert_list, "alert_list"),
    *both("budgets/alerts/<uuid:alert_id>/", alerts.alert_detail, "alert_detail"),
    *both("budgets/alerts/<uuid:alert_id>/acknowledge/", alerts.alert_acknowledge, "alert_acknowledge"),
    *both("budgets/alerts/<uuid:alert_id>/snooze/", alerts.alert_snooze, "alert_snooze"),
    *both("budgets/deliveries/", alerts.delivery_list, "delivery_list"),
    *both("budgets/deliveries/<uuid:delivery_id>/replay/", alerts.delivery_replay, "delivery_replay"),
    *both("budgets/rules/", alerts.alert_rule_list, "alert_rule_list"),
    *both("budgets/rules/new/", alerts.alert_rule_create, "alert_rule_create"),
    *both("budgets/rules/<uuid:rule_id>/", alerts.alert_rule_edit, "alert_rule_edit"),
    *both("budgets/rules/<uuid:rule_id>/remove/", alerts.alert_rule_remove, "alert_rule_remove"),
    *both("budgets/channels/", alerts.channel_list, "channel_list"),
    *both("budgets/channels/new/", alerts.channel_create, "channel_create"),
    *both("budgets/channels/<uuid:channel_id>/", alerts.channel_edit, "channel_edit"),
    *both("budgets/channels/<uuid:channel_id>/test/", alerts.channel_test, "channel_test"),
    *both("budgets/channels/<uuid:channel_id>/rotate/", alerts.channel_rotate, "channel_rotate"),
    *both("budgets/channels/<uuid:channel_id>/close/", alerts.channel_close, "channel_close"),
    path("platform/billing/invoices/", invoices.invoice_list.platform, name="invoice_list"),
    path("t/<slug:tenant_slug>/billing/", invoices.invoice_list.tenant, name="tenant_invoice_list"),
    path("platform/billing/invoices/draft/", invoices.invoice_draft, name="invoice_draft"),
    path("platform/billing/invoices/finalize/", invoices.invoice_finalize_many, name="invoice_finalize_many"),
    *both("billing/invoices/<uuid:invoice_id>/", invoices.invoice_detail, "invoice_detail"),
    *both(
        "billing/invoices/<uuid:invoice_id>/lines/<int:position>/", invoices.invoice_calls, "invoice_calls"
    ),
    *both("billing/invoices/<uuid:invoice_id>/pdf/", invoices.invoice_pdf, "invoice_pdf"),
    *both("billing/invoices/<uuid:invoice_id>/xml/", invoices.invoice_xml, "invoice_xml"),
    *both("billing/invoices/<uuid:invoice_id>/csv/", invoices.invoice_csv, "invoice_csv"),
    *both("billing/invoices/<uuid:invoice_id>/calls.csv", invoices.invoice_calls_csv, "invoice_calls_csv"),
    path(f"{_INVOICE}/refresh/", invoices.invoice_refresh, name="invoice_refresh"),
    path(f"{_INVOICE}/finalize/", invoices.invoice_finalize, name="invoice_finalize"),
    path(f"{_INVOICE}/discard/", invoices.invoice_discard, name="invoice_discard"),
    path(f"{_INVOICE}/void/", invoices.invoice_void, name="invoice_void"),
    path(f"{_INVOICE}/pay/", invoices.invoice_pay, name="invoice_pay"),
    path(f"{_INVOICE}/write-off/", invoices.invoice_write_off, name="invoice_write_off"),
    path(f"{_INVOICE}/credit/", invoices.invoice_credit, name="invoice_credit"),
    *both("billing/credit-notes/<uuid:note_id>/", invoices.credit_note_detail, "credit_note_detail"),
    *both("billing/credit-notes/<uuid:note_id>/pdf/", invoices.credit_note_pdf, "credit_note_pdf"),
    *both("billing/credit-notes/<uuid:note_id>/xml/", invoices.credit_note_xml, "credit_note_xml"),
    path("t/<slug:tenant_slug>/billing/preview/", invoices.invoice_preview, name="invoice_preview"),
    path("t/<slug:tenant_slug>/billing/details/", parties.billing_profile, name="billing_profile"),
    path("platform/billing/sellers/", parties.legal_entity_list, name="legal_entity_list"),
    path("platform/billing/sellers/new/", parties.legal_entity_create, name="legal_entity_create"),
    path("platform/billing/sellers/<slug:code>/", parties.legal_entity_edit, name="legal_entity_edit"),
    path("platform/billing/taxes/new/", parties.tax_rate_create, name="tax_rate_create"),
    path("platform/billing/taxes/<uuid:rate_id>/", parties.tax_rate_end, name="tax_rate_end"),
    path("platform/billing/coupons/", parties.coupon_list, name="coupon_list"),
    path("platform/billing/coupons/new/", parties.coupon_create, name="coupon_create"),
    path("platform/billing/coupons/<slug:code>/redeem/", parties.coupon_redeem, name="coupon_redeem"),
]
