"""The tenants floor's paths under /api/v1/ and in the console."""

from django.urls import URLPattern, URLResolver, include, path
from rest_framework.routers import SimpleRouter

from tenants import api, approval_api, views
from tenants.trail import api as audit_api

_top = SimpleRouter(use_regex_path=False)
_top.register("tenants", api.TenantResource, basename="tenant")
_top.register("platform-keys", api.PlatformKeyResource, basename="platform-key")
_top.register("audit", audit_api.AuditResource, basename="audit")
_top.register("audit-sinks", audit_api.SinkResource, basename="audit-sink")
_top.register("approvals", approval_api.ProposalResource, basename="approval")

_nested = SimpleRouter(use_regex_path=False)
_nested.register("keys", api.KeyResource, basename="key")
_nested.register("members", api.MemberResource, basename="member")
_nested.register("roles", api.CustomRoleResource, basename="role")
_nested.register("service-accounts", api.ServiceAccountResource, basename="service-account")

urlpatterns: list[URLPattern | URLResolver] = [
    *_top.urls,
    path("tenants/<slug:tenant>/", include(_nested.urls)),
]
console_urlpatterns: list[URLPattern | URLResolver] = [
    path("account/", views.account, name="account"),
    path("t/<slug:tenant_slug>/keys/", views.key_list, name="key_list"),
    path("t/<slug:tenant_slug>/keys/new/", views.key_create, name="key_create"),
    path("t/<slug:tenant_slug>/keys/<uuid:key_id>/", views.key_detail, name="key_detail"),
    path("t/<slug:tenant_slug>/keys/<uuid:key_id>/rotate/", views.key_rotate, name="key_rotate"),
    path("t/<slug:tenant_slug>/keys/<uuid:key_id>/revoke/", views.key_revoke, name="key_revoke"),
    path("t/<slug:tenant_slug>/members/", views.member_list, name="member_list"),
    path("t/<slug:tenant_slug>/members/<uuid:member_id>/role/", views.member_role, name="member_role"),
    path("t/<slug:tenant_slug>/members/<uuid:member_id>/remove/", views.member_remove, name="member_remove"),
]
