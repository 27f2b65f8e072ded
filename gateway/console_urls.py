"""Console paths that belong to the gateway room: homes, tenants and plans, prices, requests."""

from django.urls import URLPattern, path

from gateway import credential_views, leak_views, policy_views, views
from gateway.content import console_urls as content
from gateway.experiments import views as experiments
from gateway.privacy import views as privacy
from gateway.replay import views as replays
from tenants.places import both

urlpatterns: list[URLPattern] = [
    *both("privacy/", privacy.privacy_list, "privacy_list"),
    *both("privacy/new/", privacy.privacy_create, "privacy_create"),
    *both("privacy/try/", privacy.privacy_try, "privacy_try"),
    *both("privacy/<uuid:profile_id>/", privacy.privacy_edit, "privacy_edit"),
    *both("privacy/<uuid:profile_id>/remove/", privacy.privacy_remove, "privacy_remove"),
    *both("privacy/<uuid:profile_id>/webhook-secret/", privacy.privacy_secret, "privacy_secret"),
    *both("privacy/<uuid:profile_id>/bind/", privacy.privacy_bind, "privacy_bind"),
    *both(
        "privacy/<uuid:profile_id>/bindings/<uuid:privacy_binding_id>/remove/",
        privacy.privacy_unbind,
        "privacy_unbind",
    ),
    *content.urlpatterns,
    path("", views.home, name="home"),
    path("platform/", views.platform_home, name="platform_home"),
    path("platform/live/", views.platform_live, name="platform_live"),
    path("platform/requests/", views.platform_requests, name="platform_requests"),
    path("platform/requests/<uuid:request_id>/", views.platform_request, name="platform_request"),
    path(
        "platform/requests/<uuid:request_id>/content/",
        views.platform_request_content,
        name="platform_request_content",
    ),
    path("platform/replays/", replays.replay_list, name="replay_list"),
    path("platform/replays/new/", replays.replay_create, name="replay_create"),
    path("platform/replays/<uuid:replay_id>/", replays.replay_detail, name="replay_detail"),
    path("platform/policies/", policy_views.policy_list, name="policy_list"),
    path("platform/policies/new/", policy_views.policy_create, name="policy_create"),
    path("platform/policies/simulate/", policy_views.policy_simulate, name="policy_simulate"),
    path("platform/policies/<uuid:policy_id>/", policy_views.policy_detail, name="policy_detail"),
    path("platform/policies/<uuid:policy_id>/edit/", policy_views.policy_edit, name="policy_edit"),
    path("platform/policies/<uuid:policy_id>/diff/", policy_views.policy_diff, name="policy_diff"),
    path(
        "platform/policies/<uuid:policy_id>/rollback/", policy_views.policy_rollback, name="policy_rollback"
    ),
    path("platform/policies/<uuid:policy_id>/bind/", policy_views.policy_bind, name="policy_bind"),
    path(
        "platform/policies/<uuid:policy_id>/bindings/<uuid:binding_id>/remove/",
        policy_views.policy_unbind,
        name="policy_unbind",
    ),
    path("platform/features/", policy_views.feature_list, name="feature_list"),
    path("platform/features/new/", policy_views.feature_create, name="feature_create"),
    path("platform/features/<uuid:feature_id>/", policy_views.feature_edit, name="feature_edit"),
    path("platform/features/<uuid:feature_id>/remove/", policy_views.feature_remove, name="feature_remove"),
    path("platform/experiments/", experiments.experiment_list, name="experiment_list"),
    path("platform/experiments/new/", experiments.experiment_create, name="experiment_create"),
    path("platform/experiments/rollouts/", experiments.rollout_list, name="rollout_list"),
    path("platform/experiments/rollouts/new/", experiments.rollout_create, name="rollout_create"),
    path("platform/experiments/rollouts/<slug:rollout>/", experiments.rollout_detail, name="rollout_detail"),
    path(
        "platform/experiments/rollouts/<slug:rollout>/decide/",
        experiments.rollout_decide,
        name="rollout_decide",
    ),
    path("platform/experiments/<slug:experiment>/", experiments.experiment_detail, name="experiment_detail"),
    path(
        "platform/experiments/<slug:experiment>/start/", experiments.experiment_start, name="experiment_start"
    ),
    path("platform/experiments/<slug:experiment>/stop/", experiments.experiment_stop, name="experiment_stop"),
    path(
        "platform/experiments/<slug:experiment>/promote/",
        experiments.experiment_promote,
        name="experiment_promote",
    ),
    path("platform/tenants/", views.tenant_list, name="tenant_list"),
    path("platform/tenants/new/", views.tenant_create, name="tenant_create"),
    path("t/<slug:tenant_slug>/", views.tenant_home, name="tenant_home"),
    path("t/<slug:tenant_slug>/live/", views.tenant_live, name="tenant_live"),
    path("t/<slug:tenant_slug>/first-call/", views.tenant_first_call, name="tenant_first_call"),
    path("t/<slug:tenant_slug>/requests/", views.tenant_requests, name="tenant_requests"),
    path("t/<slug:tenant_slug>/requests/<uuid:request_id>/", views.tenant_request, name="tenant_request"),
    path(
        "t/<slug:tenant_slug>/requests/<uuid:request_id>/content/",
        views.tenant_request_content,
        name="tenant_request_content",
    ),
    path("t/<slug:tenant_slug>/models/", views.tenant_models, name="tenant_models"),
    path("t/<slug:tenant_slug>/provider-keys/", credential_views.credential_list, name="credential_list"),
    path(
        "t/<slug:tenant_slug>/provider-keys/<uuid:credential_id>/test/",
        credential_views.credential_test,
        name="credential_test",
    ),
    path(
        "t/<slug:tenant_slug>/provider-keys/<uuid:credential_id>/use/",
        credential_views.credential_switch,
        name="credential_switch",
    ),
    path(
        "t/<slug:tenant_slug>/provider-keys/<uuid:credential_id>/remove/",
        credential_views.credential_remove,
        name="credential_remove",
    ),
    path("t/<slug:tenant_slug>/keys/<uuid:key_id>/leaked/", leak_views.key_leaked, name="key_leaked"),
    path("t/<slug:tenant_slug>/settings/", views.tenant_settings, name="tenant_settings"),
    path("t/<slug:tenant_slug>/settings/plan/", views.tenant_plan, name="tenant_plan"),
    path("t/<slug:tenant_slug>/settings/status/", views.tenant_status, name="tenant_status"),
]
