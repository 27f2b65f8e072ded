"""REST resources of sign-in: invitations, single sign-on connections, what a tenant demands.

Shapes only: every change is one verb's. A client secret is taken and never given back; an invitation's link
leaves by mail alone.
"""

from typing import Any, ClassVar, cast

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from tenants import invitations, oidc, sso
from tenants.api import ROLE_HELP, NothingSerializer
from tenants.models import Invitation, SignInSetting, SsoConnection, SsoDomain, Tenant
from tenants.rest import Guarded, Resource, StrictSerializer

# ------------------------------------------------------------------ invitations


class InvitationSerializer(StrictSerializer, serializers.ModelSerializer[Invitation]):
    """An invitation. `state` is pending, accepted, expired or withdrawn."""

    role = serializers.CharField(max_length=63, help_text=ROLE_HELP)
    state = serializers.SerializerMethodField()

    class Meta:
        model = Invitation
        fields = (
            "id",
            "email",
            "role",
            "state",
            "invited_by",
            "sent_at",
            "expires_at",
            "accepted_at",
            "withdrawn_at",
            "created_at",
        )
        read_only_fields = (
            "id",
            "invited_by",
            "sent_at",
            "expires_at",
            "accepted_at",
            "withdrawn_at",
            "created_at",
        )

    def get_state(self, invitation: Invitation) -> str:
        return invitation.state(timezone.now())


class InvitationResource(Resource[Invitation]):
    """Who was invited to the tenant. The link goes to the address alone; it works once, for seven days."""

    queryset = Invitation.objects.select_related("tenant")
    serializer_class = InvitationSerializer
    read_scope, write_scope = "members:read", "members:write"
    http_method_names = ["get", "post", "head"]
    filters: ClassVar = {"email": "email__iexact"}

    def perform_create(self, serializer: serializers.BaseSerializer[Invitation]) -> None:
        """Raises ApiError as `invitations.invite`."""
        serializer.instance = invitations.invite(
            tenant=cast("Tenant", self.tenant),
            actor=self.principal,
            now=timezone.now(),
            **serializer.validated_data,
        )

    @extend_schema(request=NothingSerializer, responses={200: InvitationSerializer})
    @action(detail=True, methods=["post"])
    def resend(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Mail a new link; the old one is dead. Raises ApiError as `invitations.resend`."""
        found = self.get_object()
        NothingSerializer(data=request.data).is_valid(raise_exception=True)
        sent = invitations.resend(invitation=found, actor=self.principal, now=timezone.now())
        return Response(self.get_serializer(sent).data)

    @extend_schema(request=NothingSerializer, responses={200: InvitationSerializer})
    @action(detail=True, methods=["post"])
    def withdraw(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """The link stops working. Raises ApiError as `invitations.withdraw`."""
        found = self.get_object()
        NothingSerializer(data=request.data).is_valid(raise_exception=True)
        ended = invitations.withdraw(invitation=found, actor=self.principal, now=timezone.now())
        return Response(self.get_serializer(ended).data)


# ------------------------------------------------------------------ single sign-on


class SsoDomainSerializer(StrictSerializer, serializers.ModelSerializer[SsoDomain]):
    """A claimed mail domain; `confirmed_at` is null until the operator has confirmed it."""

    class Meta:
        model = SsoDomain
        fields = ("domain", "confirmed_at")
        read_only_fields = fields


class SsoConnectionSerializer(StrictSerializer, serializers.ModelSerializer[SsoConnection]):
    """A connection. `domains` is written as a list of names and read from `claimed_domains`."""

    client_secret = serializers.CharField(write_only=True, max_length=2000, trim_whitespace=True)
    domains = serializers.ListField(
        child=serializers.CharField(max_length=253),
        write_only=True,
        required=False,
        max_length=sso.MAX_DOMAINS,
        help_text="Mail domains it is to speak for; each waits for the operator.",
    )
    claimed_domains = SsoDomainSerializer(source="domains", many=True, read_only=True)
    default_role = serializers.CharField(
        max_length=63,
        required=False,
        allow_blank=True,
        help_text="Role of people who come for the first time; empty lets in invited people alone.",
    )
    redirect_uri = serializers.SerializerMethodField(help_text="To be registered with the provider.")

    class Meta:
        model = SsoConnection
        fields = (
            "id",
            "name",
            "issuer",
            "client_id",
            "client_secret",
            "domains",
            "claimed_domains",
            "default_role",
            "counts_as_mfa",
            "is_enabled",
            "is_enforced",
            "redirect_uri",
            "created_at",
            "updated_at",
        )
        read_only_fields = ("id", "created_at", "updated_at")

    def get_redirect_uri(self, connection: SsoConnection) -> str:
        return oidc.callback_url(connection)


class DomainSerializer(StrictSerializer):
    domain = serializers.CharField(max_length=253)


class SsoTestSerializer(StrictSerializer):
    """What a provider offers."""

    issuer = serializers.CharField()
    authorization_endpoint = serializers.CharField()
    token_endpoint = serializers.CharField()
    keys = serializers.CharField()
    callback = serializers.CharField()


class SsoResource(Resource[SsoConnection]):
    """OpenID Connect providers of one tenant. The operator confirms which mail domains each speaks for."""

    queryset = SsoConnection.objects.select_related("tenant").prefetch_related("domains")
    serializer_class = SsoConnectionSerializer
    read_scope, write_scope = "sso:read", "sso:write"
    action_scopes: ClassVar = {"confirm_domain": "tenants:write"}
    readonly_actions = ("test",)
    audit_type = "sso_connection"

    def perform_create(self, serializer: serializers.BaseSerializer[SsoConnection]) -> None:
        """Raises ApiError as `sso.create_connection`."""
        serializer.instance = sso.create_connection(
            tenant=cast("Tenant", self.tenant), actor=self.principal, **serializer.validated_data
        )

    def perform_update(self, serializer: serializers.BaseSerializer[SsoConnection]) -> None:
        """Raises ApiError as `sso.change_connection`."""
        connection = cast("SsoConnection", serializer.instance)
        serializer.instance = sso.change_connection(
            connection=connection, changes=serializer.validated_data, actor=self.principal
        )

    def perform_destroy(self, instance: SsoConnection) -> None:
        sso.remove_connection(connection=instance, actor=self.principal)

    @extend_schema(request=DomainSerializer, responses={200: SsoConnectionSerializer})
    @action(detail=True, methods=["post"], url_path="confirm-domain")
    def confirm_domain(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """The operator's word that the domain is the tenant's. Raises ApiError as `sso.confirm_domain`."""
        found = self.get_object()
        given = DomainSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        sso.confirm_domain(
            connection=found, domain=given.validated_data["domain"], actor=self.principal, now=timezone.now()
        )
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(request=NothingSerializer, responses={200: SsoTestSerializer})
    @action(detail=True, methods=["post"])
    def test(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Ask the provider for its description and keys. Raises ApiError as `oidc.try_connection`."""
        found = self.get_object()
        NothingSerializer(data=request.data).is_valid(raise_exception=True)
        return Response(oidc.try_connection(connection=found, actor=self.principal))


# ------------------------------------------------------------------ what a tenant demands


class SignInSerializer(StrictSerializer, serializers.ModelSerializer[SignInSetting]):
    """What the tenant demands of its members' sign-ins."""

    require_mfa = serializers.BooleanField(
        help_text="Members without a second factor are led to set one up before anything else."
    )

    class Meta:
        model = SignInSetting
        fields = ("require_mfa",)


class SignInView(Guarded):
    """The tenant's demands on sign-ins."""

    read_scope, write_scope = "sso:read", "sso:write"
    http_method_names = ["get", "patch", "head"]

    @extend_schema(operation_id="sign_in_retrieve", responses={200: SignInSerializer})
    def get(self, request: Request, tenant: str) -> Response:
        """What holds now."""
        return Response(SignInSerializer(sso.demands_of(cast("Tenant", self.tenant))).data)

    @extend_schema(operation_id="sign_in_update", request=SignInSerializer, responses={200: SignInSerializer})
    def patch(self, request: Request, tenant: str) -> Response:
        """Change them."""
        given = SignInSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        changed = sso.change_demands(
            tenant=cast("Tenant", self.tenant), actor=self.principal, **given.validated_data
        )
        return Response(SignInSerializer(changed).data)
