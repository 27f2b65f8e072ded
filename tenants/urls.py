"""The tenants floor's paths under /api/v1/ and in the console."""

from django.urls import URLPattern, URLResolver, include, path
from rest_framework.routers import SimpleRouter

from tenants import (
    api,
    approval_api,
    approval_views,
    encryption_api,
    encryption_views,
    people_views,
    role_views,
    sso_api,
    sso_views,
    views,
)
from tenants.places import both
from tenants.trail import api as audit_api
from tenants.trail import views as audit

_top = SimpleRouter(use_regex_path=False)
_top.register("tenants", api.TenantResource, basename="tenant")
_top.register("keys", api.AllKeysResource, basename="all-key")
_top.register("platform-keys", api.PlatformKeyResource, basename="platform-key")
_top.register("audit", audit_api.AuditResource, basename="audit")
_top.register("audit-sinks", audit_api.SinkResource, basename="audit-sink")
_top.register("approvals", approval_api.ProposalResource, basename="approval")

_nested = SimpleRouter(use_regex_path=False)
_nested.register("keys", api.KeyResource, basename="key")
_nested.register("members", api.MemberResource, basename="member")
_nested.register("invitations", sso_api.InvitationResource, basename="invitation")
_nested.register("sso", sso_api.SsoResource, basename="sso-connection")
_nested.register("roles", api.CustomRoleResource, basename="role")
_nested.register("service-accounts", api.ServiceAccountResource, basename="service-account")

urlpatterns: list[URLPattern | URLResolver] = [
    *_top.urls,
    path("tenants/<slug:tenant>/", include(_nested.urls)),
    path("encryption/", encryption_api.EncryptionView.as_view(), name="encryption-progress"),
    path("encryption/rotate/", encryption_api.RotateDataKeyView.as_view(), name="encryption-rotate"),
    path("tenants/<slug:tenant>/sign-in/", sso_api.SignInView.as_view(), name="sign-in"),
]
console_urlpatterns: list[URLPattern | URLResolver] = [
    path("account/", people_views.account, name="account"),
    path("account/sessions/end/", people_views.sessions_end, name="sessions_end"),
    path("account/sessions/<int:session_id>/end/", people_views.session_end, name="session_end"),
    path("t/<slug:tenant_slug>/keys/", views.key_list, name="key_list"),
    path("t/<slug:tenant_slug>/keys/new/", views.key_create, name="key_create"),
    path("t/<slug:tenant_slug>/keys/bulk/", views.key_bulk, name="key_bulk"),
    path("t/<slug:tenant_slug>/keys/<uuid:key_id>/edit/", views.key_edit, name="key_edit"),
    path("platform/encryption/", encryption_views.encryption, name="encryption"),
    path("platform/encryption/rotate/", encryption_views.encryption_rotate, name="encryption_rotate"),
    path("platform/keys/", views.platform_key_list, name="platform_key_list"),
    path("platform/keys/bulk/", views.platform_key_bulk, name="platform_key_bulk"),
    path("t/<slug:tenant_slug>/keys/<uuid:key_id>/", views.key_detail, name="key_detail"),
    path("t/<slug:tenant_slug>/keys/<uuid:key_id>/rotate/", views.key_rotate, name="key_rotate"),
    path("t/<slug:tenant_slug>/keys/<uuid:key_id>/revoke/", views.key_revoke, name="key_revoke"),
    path("t/<slug:tenant_slug>/roles/", role_views.role_list, name="role_list"),
    path("t/<slug:tenant_slug>/roles/new/", role_views.role_create, name="role_create"),
    path("t/<slug:tenant_slug>/roles/<slug:role>/", role_views.role_edit, name="role_edit"),
    path("t/<slug:tenant_slug>/roles/<slug:role>/remove/", role_views.role_remove, name="role_remove"),
    path(
        "t/<slug:tenant_slug>/service-accounts/",
        role_views.service_account_list,
        name="service_account_list",
    ),
    path(
        "t/<slug:tenant_slug>/service-accounts/<uuid:account_id>/",
        role_views.service_account_detail,
        name="service_account_detail",
    ),
    path(
        "t/<slug:tenant_slug>/service-accounts/<uuid:account_id>/key/",
        role_views.service_account_key,
        name="service_account_key",
    ),
    path(
        "t/<slug:tenant_slug>/service-accounts/<uuid:account_id>/role/",
        role_views.service_account_role,
        name="service_account_role",
    ),
    path(
        "t/<slug:tenant_slug>/service-accounts/<uuid:account_id>/status/",
        role_views.service_account_status,
        name="service_account_status",
    ),
    path("t/<slug:tenant_slug>/members/", people_views.member_list, name="member_list"),
    path("t/<slug:tenant_slug>/members/<uuid:member_id>/role/", people_views.member_role, name="member_role"),
    path(
        "t/<slug:tenant_slug>/members/<uuid:member_id>/remove/",
        people_views.member_remove,
        name="member_remove",
    ),
    path(
        "t/<slug:tenant_slug>/invitations/<uuid:invitation_id>/resend/",
        people_views.invitation_resend,
        name="invitation_resend",
    ),
    path(
        "t/<slug:tenant_slug>/invitations/<uuid:invitation_id>/withdraw/",
        people_views.invitation_withdraw,
        name="invitation_withdraw",
    ),
    path("t/<slug:tenant_slug>/settings/sign-in/", sso_views.sign_in_settings, name="sign_in_settings"),
    path("t/<slug:tenant_slug>/settings/sign-in/new/", sso_views.sso_create, name="sso_create"),
    path("t/<slug:tenant_slug>/settings/sign-in/<uuid:connection_id>/", sso_views.sso_edit, name="sso_edit"),
    path(
        "t/<slug:tenant_slug>/settings/sign-in/<uuid:connection_id>/test/",
        sso_views.sso_test,
        name="sso_test",
    ),
    path(
        "t/<slug:tenant_slug>/settings/sign-in/<uuid:connection_id>/confirm/",
        sso_views.sso_confirm,
        name="sso_confirm",
    ),
    path(
        "t/<slug:tenant_slug>/settings/sign-in/<uuid:connection_id>/remove/",
        sso_views.sso_remove,
        name="sso_remove",
    ),
    *both("audit/", audit.audit_list, "audit_list"),
    *both("audit/events/<uuid:event_id>/", audit.audit_event, "audit_event"),
    *both("audit/export/", audit.audit_export, "audit_export"),
    *both("audit/verify/", audit.audit_verify, "audit_verify"),
    *both("audit/sinks/", audit.audit_sink_list, "audit_sink_list"),
    *both("audit/sinks/new/", audit.audit_sink_create, "audit_sink_create"),
    *both("audit/sinks/<uuid:sink_id>/", audit.audit_sink_edit, "audit_sink_edit"),
    *both("audit/sinks/<uuid:sink_id>/test/", audit.audit_sink_test, "audit_sink_test"),
    *both("audit/sinks/<uuid:sink_id>/rotate/", audit.audit_sink_rotate, "audit_sink_rotate"),
    *both("audit/sinks/<uuid:sink_id>/remove/", audit.audit_sink_remove, "audit_sink_remove"),
    *both("approvals/", approval_views.proposal_list, "proposal_list"),
    *both("approvals/<uuid:proposal_id>/", approval_views.proposal_detail, "proposal_detail"),
    *both("approvals/<uuid:proposal_id>/decide/", approval_views.proposal_decide, "proposal_decide"),
]
