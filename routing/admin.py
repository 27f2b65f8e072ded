"""The break-glass admin of this floor. Shows no secret; rates and policy versions can only be looked at.

What is changed here is neither audited nor announced to the workers; it is for when the console is broken.
"""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from routing.experiments.models import Experiment, PolicyShadow, Rollout, RolloutDecision
from routing.health.models import HealthSample, Incident
from routing.models import (
    CostRate,
    Credential,
    Endpoint,
    Feature,
    KillSwitch,
    Model,
    PolicyBinding,
    Provider,
    RoutingPolicy,
    RoutingPolicyVersion,
)

# ModelAdmin has a type parameter for mypy alone; at run time it takes none.


@admin.register(Provider)
class ProviderAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("slug", "kind", "region", "is_enabled")
    list_filter = ("kind", "region", "is_enabled")
    search_fields = ("slug", "name")


@admin.register(Credential)
class CredentialAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """May be disabled; the secret is sealed to its row and comes only through the API or the console."""

    list_display = ("provider", "tenant", "label", "last_four", "is_enabled")
    exclude = ("secret",)
    readonly_fields = ("provider", "tenant", "label", "last_four", "base_url")
    list_select_related = ("provider", "tenant")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False


@admin.register(Model)
class ModelAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("slug", "owned_by", "context_window")
    search_fields = ("slug", "name", "owned_by")


@admin.register(Endpoint)
class EndpointAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("provider", "provider_model", "model", "region", "weight", "is_enabled")
    list_filter = ("provider", "is_enabled")
    search_fields = ("provider_model", "model__slug")
    list_select_related = ("provider", "model")
    autocomplete_fields = ("model",)


@admin.register(RoutingPolicy)
class RoutingPolicyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("slug", "tenant", "is_enabled")
    list_select_related = ("tenant",)
    search_fields = ("slug",)


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows that nobody changes by hand; most of them the database itself refuses to change."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(CostRate)
class CostRateAdmin(ReadOnlyAdmin):
    list_display = (
        "provider",
        "provider_model",
        "component",
        "price",
        "per",
        "currency",
        "service_tier",
        "min_input_tokens",
        "effective_from",
        "effective_to",
        "source",
    )
    list_filter = ("source", "component", "service_tier")
    search_fields = ("provider", "provider_model")


@admin.register(RoutingPolicyVersion)
class RoutingPolicyVersionAdmin(ReadOnlyAdmin):
    list_display = ("policy", "number", "strategy", "created_at", "created_by")
    list_select_related = ("policy",)


@admin.register(HealthSample)
class HealthSampleAdmin(ReadOnlyAdmin):
    list_display = (
        "endpoint",
        "at",
        "attempts",
        "failed",
        "first_byte_p50_ms",
        "first_byte_p95_ms",
        "circuit",
    )
    list_filter = ("circuit", "endpoint__provider")
    list_select_related = ("endpoint__provider",)


@admin.register(Incident)
class IncidentAdmin(ReadOnlyAdmin):
    list_display = ("endpoint", "opened_at", "closed_at", "reason", "opened_by", "closed_by")
    list_filter = ("endpoint__provider",)
    list_select_related = ("endpoint__provider",)


@admin.register(Feature)
class FeatureAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("slug", "tenant", "policy", "slo_p95_ms", "slo_success")
    list_select_related = ("tenant", "policy")
    search_fields = ("slug",)


@admin.register(PolicyBinding)
class PolicyBindingAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("policy", "tenant", "plan")
    list_select_related = ("policy", "tenant")


@admin.register(KillSwitch)
class KillSwitchAdmin(ReadOnlyAdmin):
    list_display = ("kind", "target", "reason", "thrown_at", "thrown_by", "restored_at")
    list_filter = ("kind",)


@admin.register(Experiment)
class ExperimentAdmin(ReadOnlyAdmin):
    list_display = ("slug", "policy", "unit", "status", "started_at", "stopped_at")
    list_select_related = ("policy",)


@admin.register(PolicyShadow)
class PolicyShadowAdmin(ReadOnlyAdmin):
    list_display = ("policy", "share", "per_minute", "is_enabled")
    list_select_related = ("policy",)


@admin.register(Rollout)
class RolloutAdmin(ReadOnlyAdmin):
    list_display = ("slug", "policy", "unit", "min_samples")
    list_select_related = ("policy",)


@admin.register(RolloutDecision)
class RolloutDecisionAdmin(ReadOnlyAdmin):
    list_display = ("rollout", "at", "verdict", "from_stage", "to_stage", "actor")
    list_select_related = ("rollout",)
