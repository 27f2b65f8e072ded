"""The control plane's resources of privacy: profiles, whose calls they rule, the test box, and the vault.

Shapes only: every change is a verb's. Operators' profiles (tenant null) are for operators alone.
"""

from typing import Any, ClassVar, cast

from django.db import models
from django.urls import URLPattern, URLResolver, include, path
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter

from gateway.privacy import bindings, vault
from gateway.privacy.models import MAX_VAULT_DAYS, PrivacyBinding, PrivacyProfile
from gateway.privacy.trial import MAX_TEXT, tried
from routing.api import SLUG
from tenants import audit, webhooks
from tenants.errors import ApiError
from tenants.rest import Guarded, Resource, StrictSerializer, TenantField, plain

# ------------------------------------------------------------------ profiles


class PrivacyProfileSerializer(StrictSerializer, serializers.ModelSerializer[PrivacyProfile]):
    """Rules for personal data, and guardrails. `tenant` null: the operator's, mandatory where it is bound."""

    slug = serializers.RegexField(SLUG, max_length=63)
    tenant = TenantField(required=False, allow_null=True, default=None)
    actions = serializers.DictField(
        child=serializers.CharField(max_length=16),
        required=False,
        help_text='By kind: "allow", "tokenize", "redact", "block". What is not named is allowed.',
    )
    custom_patterns = serializers.JSONField(
        required=False, help_text='[{"name", "pattern"}], RE2 syntax; their kinds are "custom:<name>".'
    )
    vault_days = serializers.IntegerField(required=False, min_value=0, max_value=MAX_VAULT_DAYS)
    guardrails = serializers.JSONField(
        required=False,
        help_text='[{"name", "kind", "stage", "on_fail", "on_error", "timeout_ms", …}] in order of judgement.',
    )

    class Meta:
        model = PrivacyProfile
        fields: ClassVar[tuple[str, ...]] = (
            "id",
            "slug",
            "tenant",
            *bindings.FIELDS,
            "created_at",
            "updated_at",
        )
        read_only_fields = ("id", "created_at", "updated_at")
        validators: ClassVar[list[Any]] = []


class TestTextSerializer(StrictSerializer):
    """A text to try the profile on. It is kept nowhere."""

    text = serializers.CharField(max_length=MAX_TEXT, trim_whitespace=False)


class FindingSerializer(serializers.Serializer[Any]):
    """Where in the text (characters), what, and what becomes of it."""

    start = serializers.IntegerField()
    end = serializers.IntegerField()
    kind = serializers.CharField()
    action = serializers.CharField()


class JudgedSerializer(serializers.Serializer[Any]):
    """A guardrail, and what is wrong: empty for nothing, null for a webhook, which is not asked here."""

    guardrail = serializers.CharField()
    stage = serializers.CharField()
    wrong = serializers.CharField(allow_null=True, allow_blank=True)


class TriedSerializer(serializers.Serializer[Any]):
    """What the profile finds, and what would be sent; null where the call would be refused."""

    findings = FindingSerializer(many=True)
    sent = serializers.CharField(allow_null=True)
    blocked = serializers.CharField(allow_null=True, help_text="The kind that blocks.")
    guardrails = JudgedSerializer(many=True)


class GraceSerializer(StrictSerializer):
    """How long the secret before goes on signing beside the fresh one."""

    grace_s = serializers.IntegerField(default=24 * 3600, min_value=0, max_value=webhooks.MAX_GRACE_S)


class SecretSerializer(serializers.Serializer[Any]):
    """Shown this once."""

    secret = serializers.CharField()


class PrivacyProfileResource(Resource[PrivacyProfile]):
    """Sets of rules. Whom they rule is said by bindings."""

    queryset = PrivacyProfile.objects.select_related("tenant")
    serializer_class = PrivacyProfileSerializer
    read_scope, write_scope = "privacy:read", "privacy:write"
    readonly_actions = ("test",)
    secret_fields = ("secret",)
    section = "privacy"
    filters: ClassVar = {"tenant": "tenant__slug", "slug": "slug"}

    def perform_create(self, serializer: serializers.BaseSerializer[PrivacyProfile]) -> None:
        """Raises ApiError as `bindings.create_profile`."""
        given = dict(serializer.validated_data)
        tenant = given.pop("tenant")
        self.require("privacy:write", tenant)
        serializer.instance = bindings.create_profile(
            slug=given.pop("slug"), tenant=tenant, values=given, actor=self.principal
        )

    def perform_update(self, serializer: serializers.BaseSerializer[PrivacyProfile]) -> None:
        """Raises ApiError as `bindings.change_profile`; the slug and the tenant stay."""
        profile = cast("PrivacyProfile", serializer.instance)
        given = dict(serializer.validated_data)
        for name, held in (("slug", profile.slug), ("tenant", profile.tenant)):
            if given.pop(name, held) != held and name in self.request.data:
                raise ApiError("invalid_request", f"The {name} of a profile cannot change.", param=name)
        serializer.instance = bindings.change_profile(profile=profile, values=given, actor=self.principal)

    def perform_destroy(self, instance: PrivacyProfile) -> None:
        bindings.remove_profile(profile=instance, actor=self.principal)

    @extend_schema(request=TestTextSerializer, responses={200: TriedSerializer})
    @action(detail=True, methods=["post"])
    def test(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """What the profile makes of a text; nothing is sent, nothing is kept."""
        profile = self.get_object()
        given = TestTextSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        return Response(TriedSerializer(tried(profile, given.validated_data["text"])).data)

    @extend_schema(request=GraceSerializer, responses={201: SecretSerializer})
    @action(detail=True, methods=["post"], url_path="webhook-secret")
    def webhook_secret(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """A fresh secret that the profile's webhooks are signed with; the old one goes on for a while."""
        profile = self.get_object()
        given = GraceSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        secret = bindings.rotate_webhook_secret(
            profile=profile,
            grace_s=given.validated_data["grace_s"],
            now=timezone.now(),
            actor=self.principal,
        )
        return Response({"secret": secret}, status=201)


# ------------------------------------------------------------------ bindings


class ProfileField(serializers.PrimaryKeyRelatedField[PrivacyProfile]):
    """A profile by its id, among those that the principal may change."""

    def get_queryset(self) -> models.QuerySet[PrivacyProfile]:
        return PrivacyProfile.objects.visible_to(
            self.context["request"].user, "privacy:write"
        ).select_related("tenant")


class PrivacyBindingSerializer(StrictSerializer, serializers.ModelSerializer[PrivacyBinding]):
    """Whose calls a profile rules. `bound_tenant` null: everybody's (the operator's profiles alone); a tenant's
    own profile rules that tenant, whether it is named or not."""

    tenant = TenantField(read_only=True, help_text="Whose profile it is.")
    profile = ProfileField()
    bound_tenant = TenantField(required=False, allow_null=True, default=None)
    feature = serializers.CharField(max_length=100, required=False, allow_blank=True, default="")
    policy = serializers.CharField(max_length=63, required=False, allow_blank=True, default="")

    class Meta:
        model = PrivacyBinding
        fields: ClassVar[tuple[str, ...]] = (
            "id",
            "tenant",
            "profile",
            "bound_tenant",
            "feature",
            "policy",
            "created_at",
        )
        read_only_fields = ("id", "created_at")
        validators: ClassVar[list[Any]] = []


class PrivacyBindingResource(Resource[PrivacyBinding]):
    """Which profiles rule whose calls; all that match apply at once, the strictest action for each kind."""

    queryset = PrivacyBinding.objects.select_related("tenant", "profile", "profile__tenant", "bound_tenant")
    serializer_class = PrivacyBindingSerializer
    read_scope, write_scope = "privacy:read", "privacy:write"
    section = "privacy"
    http_method_names = ["get", "post", "delete", "head"]
    filters: ClassVar = {
        "tenant": "tenant__slug",
        "bound_tenant": "bound_tenant__slug",
        "profile": "profile",
        "feature": "feature",
        "policy": "policy",
    }

    def perform_create(self, serializer: serializers.BaseSerializer[PrivacyBinding]) -> None:
        """Raises ApiError as `bindings.bind`."""
        given = serializer.validated_data
        profile: PrivacyProfile = given["profile"]
        self.require("privacy:write", profile.tenant)
        serializer.instance = bindings.bind(
            profile=profile,
            bound_tenant=given["bound_tenant"] or profile.tenant,
            feature=given["feature"],
            policy=given["policy"],
            actor=self.principal,
        )

    def perform_destroy(self, instance: PrivacyBinding) -> None:
        bindings.unbind(binding=instance, actor=self.principal)


# ------------------------------------------------------------------ the vault


class RevealSerializer(StrictSerializer):
    """A token, and why somebody must know what it stands for."""

    token = serializers.CharField(max_length=60)
    reason = serializers.CharField(max_length=500)


class RevealedSerializer(serializers.Serializer[Any]):
    token = serializers.CharField()
    value = serializers.CharField()


class RevealView(Guarded):
    """What a token stands for, while the vault keeps it. Who asked, and why, is on the audit trail."""

    write_scope = "privacy:reveal"
    secret_fields = ("value",)
    http_method_names = ["post"]

    @extend_schema(
        operation_id="privacy_reveal", request=RevealSerializer, responses={200: RevealedSerializer}
    )
    def post(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Reveal one token. Raises ApiError: not_found once its days are over."""
        given = RevealSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        if self.tenant is None:
            raise RuntimeError("the path names a tenant")
        token = given.validated_data["token"]
        value = vault.reveal(tenant=self.tenant, token=token)
        audit.record(
            principal=self.principal,
            action="privacy_token.access",
            object_type="privacy_token",
            object_id=token,
            tenant=self.tenant,
            after={"what": "revealed"},
            reason=given.validated_data["reason"],
        )
        return Response(plain({"token": token, "value": value}))


_router = SimpleRouter(use_regex_path=False)
_router.register("privacy-profiles", PrivacyProfileResource, basename="privacy-profile")
_router.register("privacy-bindings", PrivacyBindingResource, basename="privacy-binding")

urlpatterns: list[URLPattern | URLResolver] = [
    path("tenants/<slug:tenant>/privacy/reveal/", RevealView.as_view(), name="privacy-reveal"),
    path("", include(_router.urls)),
]
