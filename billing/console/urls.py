"""Console paths that belong to the billing room. Pages of both places come from `both`."""

from django.urls import URLPattern

from billing.console import alerts, budgets
from billing.console.places import both

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
]
