"""The control plane's REST resources of this floor: tenants, keys, members.

Shapes only: every change is one verb's. A key's text leaves through `key` of the answer that made it, and
never again.
"""

from collections.abc import Callable
from typing import Any, ClassVar, cast

from django.db import models
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from tenants import keys, lifecycle, members, roles, service_accounts
from tenants.errors import ApiError
from tenants.models import ApiKey, CustomRole, Membership, ServiceAccount, Tenant
from tenants.principal import Principal
from tenants.rest import Resource, StrictSerializer
from tenants.scopes import SCOPES, TENANT_ROLES, TENANT_SCOPES

# ------------------------------------------------------------------ tenants


class TenantSerializer(StrictSerializer, serializers.ModelSerializer[Tenant]):
    """A tenant. `slug` is set once; `status` "suspended" refuses all its calls."""

    slug = serializers.RegexField(r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$", max_length=63)
    region_policy = serializers.ListField(
        child=serializers.RegexField(r"^[a-z0-9-]{1,32}$"),
        required=False,
        max_length=50,
        help_text="Regions its data may go to; empty means all.",
    )

    class Meta:
        model = Tenant
        fields: ClassVar[tuple[str, ...]] = (
            "id",
            "slug",
            "name",
            "status",
            "region_policy",
            "timezone",
            "currency",
            "created_at",
            "updated_at",
        )
        read_only_fields = ("id", "created_at", "updated_at")


class TenantResource(Resource[Tenant]):
    """Tenants: an operator sees all, a member or a key its own. Only operators create them."""

    queryset = Tenant.objects.all()
    serializer_class = TenantSerializer
    lookup_field = "slug"
    read_scope, write_scope = "tenants:read", "tenants:write"
    http_method_names = ["get", "post", "patch", "head"]
    filters: ClassVar = {"status": "status"}

    def perform_create(self, serializer: serializers.BaseSerializer[Tenant]) -> None:
        """Raises ApiError as `lifecycle.open_tenant`; permission_denied for everybody but operators."""
        self.require("tenants:write", None)
        given = {"timezone": "UTC", "currency": "USD", "region_policy": [], **serializer.validated_data}
        status = given.pop("status", Tenant.Status.ACTIVE)
        tenant = lifecycle.open_tenant(**given, actor=self.principal)
        if status == Tenant.Status.SUSPENDED:
            tenant = lifecycle.suspend(tenant=tenant, actor=self.principal)
        serializer.instance = tenant

    def perform_update(self, serializer: serializers.BaseSerializer[Tenant]) -> None:
        """Raises ApiError as `lifecycle.change_tenant`."""
        tenant = cast("Tenant", serializer.instance)
        changes = dict(serializer.validated_data)
        status = changes.pop("status", None)
        if changes.get("slug") == tenant.slug:
            del changes["slug"]
        if changes or status is None:
            tenant = lifecycle.change_tenant(tenant=tenant, changes=changes, actor=self.principal)
        if status == Tenant.Status.SUSPENDED:
            tenant = lifecycle.suspend(tenant=tenant, actor=self.principal)
        elif status == Tenant.Status.ACTIVE:
            tenant = lifecycle.activate(tenant=tenant, actor=self.principal)
        serializer.instance = tenant


# ------------------------------------------------------------------ keys


class ServiceAccountField(serializers.PrimaryKeyRelatedField[ServiceAccount]):
    """A service account of the tenant in the path; others do not exist."""

    def __init__(self, **options: Any) -> None:
        if not options.get("read_only"):
            options.setdefault("queryset", ServiceAccount.objects.all())
        super().__init__(**options)

    def get_queryset(self) -> models.QuerySet[ServiceAccount]:
        tenant = getattr(self.context.get("view"), "tenant", None)
        return ServiceAccount.objects.filter(tenant=tenant) if tenant else ServiceAccount.objects.none()


class KeySerializer(StrictSerializer, serializers.ModelSerializer[ApiKey]):
    """An API key. `key` holds its text in the answer that made it, and is null everywhere else."""

    key = serializers.SerializerMethodField(help_text="The key's text, shown once: null ever after.")
    tenant = serializers.SlugRelatedField[Tenant](slug_field="slug", read_only=True)
    service_account = ServiceAccountField(
        required=False, allow_null=True, help_text="Caps the key at the account's role; null for none."
    )
    scopes = serializers.ListField(
        child=serializers.CharField(max_length=64), help_text="Of: " + ", ".join(sorted(SCOPES))
    )
    allowed_models = serializers.ListField(
        child=serializers.CharField(max_length=200), required=False, max_length=500
    )
    allowed_ips = serializers.ListField(
        child=serializers.CharField(max_length=64), required=False, max_length=100
    )
    limit_rpm = serializers.IntegerField(min_value=1, max_value=2**31 - 1, required=False, allow_null=True)
    limit_tpm = serializers.IntegerField(min_value=1, max_value=2**53 - 1, required=False, allow_null=True)
    max_concurrent = serializers.IntegerField(
        min_value=1, max_value=2**31 - 1, required=False, allow_null=True
    )

    class Meta:
        model = ApiKey
        fields = (
            "id",
            "key",
            "tenant",
            "service_account",
            "name",
            "public_id",
            "last_four",
            "scopes",
            "allowed_models",
            "allowed_ips",
            "limit_rpm",
            "limit_tpm",
            "max_concurrent",
            "expires_at",
            "revoked_at",
            "replaced_by",
            "last_used_at",
            "created_by",
            "created_at",
        )
        read_only_fields = (
            "id",
            "public_id",
            "last_four",
            "revoked_at",
            "replaced_by",
            "last_used_at",
            "created_by",
            "created_at",
        )

    def get_key(self, key: ApiKey) -> str | None:
        return None

    def validate_expires_at(self, value: Any) -> Any:
        if value is not None and value <= timezone.now():
            raise serializers.ValidationError("This moment is in the past.")
        return value


class RotateSerializer(StrictSerializer):
    """How long the old key goes on, in seconds; a day unless said otherwise."""

    grace_s = serializers.IntegerField(default=24 * 3600, min_value=0, max_value=keys.MAX_GRACE_S)


class NothingSerializer(StrictSerializer):
    """A body without fields."""


class KeyResource(Resource[ApiKey]):
    """The keys of one tenant. Nobody grants a key more than they hold; keys are revoked, never deleted."""

    queryset = ApiKey.objects.select_related("tenant")
    serializer_class = KeySerializer
    read_scope, write_scope = "keys:read", "keys:write"
    http_method_names = ["get", "post", "head"]
    secret_fields = ("key",)
    filters: ClassVar = {"name": "name"}

    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Issue a key; `key` in the answer is its text."""
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        issued = keys.issue(tenant=self.tenant, actor=self.principal, **serializer.validated_data)
        return self._shown_once(issued)

    @extend_schema(request=RotateSerializer, responses={201: KeySerializer})
    @action(detail=True, methods=["post"])
    def rotate(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Replace the key by a new one with the same rights; `key` in the answer is the new text."""
        old = self.get_object()
        options = RotateSerializer(data=request.data)
        options.is_valid(raise_exception=True)
        issued = keys.rotate(key=old, actor=self.principal, now=timezone.now(), **options.validated_data)
        return self._shown_once(issued)

    @extend_schema(request=NothingSerializer, responses={200: KeySerializer})
    @action(detail=True, methods=["post"])
    def revoke(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Refuse the key from now on."""
        key = self.get_object()
        NothingSerializer(data=request.data).is_valid(raise_exception=True)
        revoked = keys.revoke(key=key, actor=self.principal, now=timezone.now())
        return Response(self.get_serializer(revoked).data)

    def _shown_once(self, issued: keys.Issued) -> Response:
        return Response({**self.get_serializer(issued.key).data, "key": issued.text}, status=201)


class PlatformKeyResource(KeyResource):
    """The operator's own keys, which belong to no tenant."""

    def authorize(self, principal: Principal) -> None:
        """Raises ApiError permission_denied for everybody but operators with the scope."""
        super().authorize(principal)
        self.require(str(self.scope_wanted()), None)

    def get_queryset(self) -> models.QuerySet[ApiKey]:
        return super().get_queryset().filter(tenant=None)


# ------------------------------------------------------------------ members


ROLE_HELP = f"One of {', '.join(TENANT_ROLES)}, or the slug of one of the tenant's own roles."


class MemberSerializer(StrictSerializer, serializers.ModelSerializer[Membership]):
    """A person's role in the tenant. `email` is set once."""

    email = serializers.EmailField(source="user.email")
    name = serializers.CharField(source="user.name", read_only=True)
    role = serializers.CharField(max_length=63, help_text=ROLE_HELP)

    class Meta:
        model = Membership
        fields = ("id", "email", "name", "role", "created_at")
        read_only_fields = ("id", "name", "created_at")


class RoleSerializer(StrictSerializer):
    """What can be changed of a member."""

    role = serializers.CharField(max_length=63, help_text=ROLE_HELP)


class MemberResource(Resource[Membership]):
    """The members of one tenant. Nobody gives a role that may do more than they; the last owner stays."""

    queryset = Membership.objects.select_related("user", "tenant")
    serializer_class = MemberSerializer
    read_scope, write_scope = "members:read", "members:write"
    filters: ClassVar = {"email": "user__email__iexact", "role": "role"}

    def perform_create(self, serializer: serializers.BaseSerializer[Membership]) -> None:
        """Raises ApiError as `members.add_member`."""
        given = serializer.validated_data
        if self.tenant is None:
            msg = "members live under a tenant's path"
            raise RuntimeError(msg)
        serializer.instance = members.add_member(
            tenant=self.tenant, email=given["user"]["email"], role=given["role"], actor=self.principal
        )

    @extend_schema(request=RoleSerializer, responses={200: MemberSerializer})
    def partial_update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Change the role. Raises ApiError as `members.change_role`."""
        membership = self.get_object()
        change = RoleSerializer(data=request.data)
        change.is_valid(raise_exception=True)
        changed = members.change_role(membership=membership, actor=self.principal, **change.validated_data)
        return Response(self.get_serializer(changed).data)

    def perform_destroy(self, instance: Membership) -> None:
        """Raises ApiError as `members.remove_member`."""
        members.remove_member(membership=instance, actor=self.principal)


# ------------------------------------------------------------------ roles and service accounts


class CustomRoleSerializer(StrictSerializer, serializers.ModelSerializer[CustomRole]):
    """A role of the tenant's own. `slug` is set once; scopes are single ones, never whole areas."""

    slug = serializers.CharField(max_length=63)
    scopes = serializers.ListField(
        child=serializers.CharField(max_length=64),
        max_length=len(TENANT_SCOPES),
        help_text="Of: " + ", ".join(scope for scope in SCOPES if scope in TENANT_SCOPES),
    )

    class Meta:
        model = CustomRole
        fields = ("id", "slug", "name", "scopes", "created_at", "updated_at")
        read_only_fields = ("id", "created_at", "updated_at")


class CustomRoleResource(Resource[CustomRole]):
    """The roles of a tenant's own, beside the built-in ones. Nobody makes one that may do more than they."""

    queryset = CustomRole.objects.select_related("tenant")
    serializer_class = CustomRoleSerializer
    lookup_field = "slug"
    read_scope, write_scope = "roles:read", "roles:write"

    def perform_create(self, serializer: serializers.BaseSerializer[CustomRole]) -> None:
        """Raises ApiError as `roles.create_role`."""
        serializer.instance = roles.create_role(
            tenant=cast("Tenant", self.tenant), actor=self.principal, **serializer.validated_data
        )

    def perform_update(self, serializer: serializers.BaseSerializer[CustomRole]) -> None:
        """Raises ApiError as `roles.change_role`; invalid_request for another slug."""
        role = cast("CustomRole", serializer.instance)
        changes = dict(serializer.validated_data)
        if changes.pop("slug", role.slug) != role.slug:
            raise ApiError("invalid_request", "The slug of a role is set once.", param="slug")
        serializer.instance = roles.change_role(role=role, actor=self.principal, **changes)

    def perform_destroy(self, instance: CustomRole) -> None:
        """Raises ApiError as `roles.remove_role`."""
        roles.remove_role(role=instance, actor=self.principal)


class ServiceAccountSerializer(StrictSerializer, serializers.ModelSerializer[ServiceAccount]):
    """An actor without a password that owns keys. `name` is set once; stop it by its actions."""

    role = serializers.CharField(max_length=63, help_text=ROLE_HELP)

    class Meta:
        model = ServiceAccount
        fields = ("id", "name", "role", "status", "stopped_at", "created_by", "created_at", "updated_at")
        read_only_fields = ("id", "status", "stopped_at", "created_by", "created_at", "updated_at")


class ServiceAccountResource(Resource[ServiceAccount]):
    """The service accounts of one tenant. They are deactivated, never deleted. Their keys are made under
    `keys/` with `service_account`.
    """

    queryset = ServiceAccount.objects.select_related("tenant")
    serializer_class = ServiceAccountSerializer
    read_scope, write_scope = "members:read", "members:write"
    http_method_names = ["get", "post", "patch", "head"]
    filters: ClassVar = {"name": "name", "status": "status"}

    def perform_create(self, serializer: serializers.BaseSerializer[ServiceAccount]) -> None:
        """Raises ApiError as `service_accounts.open_account`."""
        serializer.instance = service_accounts.open_account(
            tenant=cast("Tenant", self.tenant), actor=self.principal, **serializer.validated_data
        )

    @extend_schema(request=RoleSerializer, responses={200: ServiceAccountSerializer})
    def partial_update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Change the role. Raises ApiError as `service_accounts.change_role`."""
        account = self.get_object()
        change = RoleSerializer(data=request.data)
        change.is_valid(raise_exception=True)
        changed = service_accounts.change_role(account=account, actor=self.principal, **change.validated_data)
        return Response(self.get_serializer(changed).data)

    @extend_schema(request=NothingSerializer, responses={200: ServiceAccountSerializer})
    @action(detail=True, methods=["post"])
    def suspend(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Refuse the account's keys until it is activated."""
        return self._stop(service_accounts.suspend, request)

    @extend_schema(request=NothingSerializer, responses={200: ServiceAccountSerializer})
    @action(detail=True, methods=["post"])
    def activate(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Let the account's keys work again."""
        return self._stop(service_accounts.activate, request)

    @extend_schema(request=NothingSerializer, responses={200: ServiceAccountSerializer})
    @action(detail=True, methods=["post"])
    def deactivate(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Refuse the account's keys for good."""
        return self._stop(service_accounts.deactivate, request)

    def _stop(self, verb: Callable[..., ServiceAccount], request: Request) -> Response:
        account = self.get_object()
        NothingSerializer(data=request.data).is_valid(raise_exception=True)
        changed = verb(account=account, actor=self.principal, now=timezone.now())
        return Response(self.get_serializer(changed).data)
