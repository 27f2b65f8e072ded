"""The break-glass admin of this floor. Shows no secret, changes no audit event, deletes nothing.

What is changed here is neither audited nor announced to the workers; it is for when the console is broken.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.db import models
from django.http import HttpRequest

from tenants.models import (
    ApiKey,
    AuditCheckpoint,
    AuditEvent,
    AuditHead,
    AuditSink,
    AuditSinkCursor,
    ConfigVersion,
    CustomRole,
    DataKey,
    IdempotencyRecord,
    Invitation,
    LegalHold,
    Membership,
    Proposal,
    RetentionSetting,
    ServiceAccount,
    SignInSetting,
    SsoConnection,
    SsoDomain,
    Tenant,
    User,
)

if TYPE_CHECKING:
    _Admin = admin.ModelAdmin[models.Model]
else:  # Django's class takes no parameters at run time
    _Admin = admin.ModelAdmin


class Undeletable(_Admin):
    """Rows that history refers to."""

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ReadOnly(Undeletable):
    """Rows that only the program writes."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Tenant)
class TenantAdmin(Undeletable):
    list_display = ("slug", "name", "status", "currency", "timezone")
    search_fields = ("slug", "name")
    list_filter = ("status",)


@admin.register(User)
class UserAdmin(Undeletable):
    list_display = ("email", "name", "operator_role", "is_active", "is_staff")
    search_fields = ("email", "name")
    exclude = ("password", "user_permissions", "groups")
    readonly_fields = ("last_login",)


@admin.register(Membership)
class MembershipAdmin(_Admin):
    list_display = ("user", "tenant", "role")
    list_select_related = ("user", "tenant")
    raw_id_fields = ("user", "tenant", "custom_role")


@admin.register(CustomRole)
class CustomRoleAdmin(ReadOnly):
    list_display = ("slug", "tenant", "name")
    list_select_related = ("tenant",)
    search_fields = ("slug", "name")


@admin.register(ServiceAccount)
class ServiceAccountAdmin(ReadOnly):
    list_display = ("name", "tenant", "role", "status")
    list_select_related = ("tenant",)
    search_fields = ("name",)


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnly):
    list_display = ("name", "public_id", "last_four", "tenant", "expires_at", "revoked_at")
    list_select_related = ("tenant",)
    search_fields = ("name", "public_id")
    exclude = ("digest",)


@admin.register(DataKey)
class DataKeyAdmin(ReadOnly):
    list_display = ("id", "tenant", "master_key_id")
    exclude = ("wrapped",)


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnly):
    list_display = ("at", "tenant", "actor_label", "action", "object_type", "object_id")
    list_select_related = ("tenant",)
    search_fields = ("actor_label", "object_id")
    list_filter: ClassVar = ("action",)


@admin.register(AuditSink)
class AuditSinkAdmin(ReadOnly):
    list_display = ("name", "kind", "tenant", "is_enabled", "failures", "last_error")
    list_select_related = ("tenant",)
    exclude = ("sealed",)


@admin.register(Proposal)
class ProposalAdmin(ReadOnly):
    list_display = ("created_at", "operation", "object_id", "tenant", "proposed_by_label", "state")
    list_select_related = ("tenant",)
    list_filter: ClassVar = ("state", "kind")


admin.site.register(AuditCheckpoint, ReadOnly)
admin.site.register(AuditHead, ReadOnly)
admin.site.register(AuditSinkCursor, ReadOnly)
admin.site.register(ConfigVersion, ReadOnly)


@admin.register(IdempotencyRecord)
class IdempotencyRecordAdmin(ReadOnly):
    list_display = ("created_at", "owner", "key", "status")
    exclude = ("body", "fingerprint")


@admin.register(RetentionSetting)
class RetentionSettingAdmin(ReadOnly):
    list_display = ("tenant", "content_days", "zero_retention", "request_log_days", "audit_days")
    exclude = ("pseudonym_key",)


@admin.register(LegalHold)
class LegalHoldAdmin(ReadOnly):
    list_display = ("tenant", "reason", "since", "placed_by", "released_at")


@admin.register(Invitation)
class InvitationAdmin(ReadOnly):
    list_display = ("email", "tenant", "role", "expires_at", "accepted_at", "withdrawn_at")
    list_select_related = ("tenant",)
    exclude = ("token_digest",)


@admin.register(SignInSetting)
class SignInSettingAdmin(_Admin):
    list_display = ("tenant", "require_mfa")
    list_select_related = ("tenant",)
    raw_id_fields = ("tenant",)


@admin.register(SsoConnection)
class SsoConnectionAdmin(_Admin):
    """Changed here for one purpose: to open a door again that a broken provider has shut."""

    list_display = ("name", "tenant", "issuer", "is_enabled", "is_enforced")
    list_select_related = ("tenant",)
    fields = ("name", "tenant", "issuer", "client_id", "default_role", "is_enabled", "is_enforced")
    readonly_fields = ("name", "tenant", "issuer", "client_id", "default_role")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False


@admin.register(SsoDomain)
class SsoDomainAdmin(ReadOnly):
    list_display = ("domain", "connection", "tenant", "confirmed_at")
    list_select_related = ("connection", "tenant")
