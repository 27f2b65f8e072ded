"""The control plane's REST resources of this floor: tenants, keys, members.

Shapes only: every change is one verb's. A key's text leaves through `key` of the answer that made it, and
never again.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, cast

from django.db import models
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from tenants import invitations, keys, lifecycle, members, roles, service_accounts
from tenants.errors import ApiError
from tenants.models import ApiKey, CustomRole, Membership, OwnedQuerySet, ServiceAccount, Tenant
from tenants.principal import Principal
from tenants.rest import ReadResource, Resource, StrictSerializer
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
            "leaked_at",
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
            "leaked_at",
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


class IssuedSerializer(KeySerializer):
    """A key as it is answered once: `key` is its text."""

    @classmethod
    def answer(cls, issued: Sequence[keys.Issued]) -> list[dict[str, Any]]:
        """The keys with their texts."""
        return [{**cls(each.key).data, "key": each.text} for each in issued]


class ChosenKeysSerializer(StrictSerializer):
    """The keys of one bulk change: `keys` by id, or `all` that were made before `before` (now, unless said).

    A call takes up to 500. More of `all` are left where `has_more` is true: repeat with the same `before`.
    """

    keys = serializers.ListField(
        child=serializers.UUIDField(), required=False, min_length=1, max_length=keys.MAX_AT_ONCE
    )
    all = serializers.BooleanField(required=False, default=False)
    before = serializers.DateTimeField(required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if bool(attrs.get("keys")) == attrs["all"]:
            raise serializers.ValidationError({"keys": "Name the keys, or say all."})
        return attrs


class RotateManySerializer(ChosenKeysSerializer):
    """Which keys, and how long the old ones go on, in seconds; a day unless said otherwise."""

    grace_s = serializers.IntegerField(default=24 * 3600, min_value=0, max_value=keys.MAX_GRACE_S)


class IssuedManySerializer(serializers.Serializer[Any]):
    """The new keys, their texts shown this once: keep them, and exchange the old ones."""

    issued = IssuedSerializer(many=True)
    before = serializers.DateTimeField()
    has_more = serializers.BooleanField()


class RevokedManySerializer(serializers.Serializer[Any]):
    """What is refused from now on."""

    revoked = KeySerializer(many=True)
    before = serializers.DateTimeField()
    has_more = serializers.BooleanField()


class RotateSerializer(StrictSerializer):
    """How long the old key goes on, in seconds; a day unless said otherwise."""

    grace_s = serializers.IntegerField(default=24 * 3600, min_value=0, max_value=keys.MAX_GRACE_S)


class NothingSerializer(StrictSerializer):
    """A body without fields."""


_DAYS = {"unused_days": keys.unused, "expiring_days": keys.expiring}


@extend_schema_view(
    list=extend_schema(
        parameters=[
            OpenApiParameter(
                "unused_days", int, description="Living keys not used for so many days, or ever."
            ),
            OpenApiParameter("expiring_days", int, description="Living keys that end within so many days."),
        ]
    )
)
class AllKeysResource(ReadResource[ApiKey]):
    """Every key one may see: an operator's all, a tenant's own. Bulk changes of them, all or nothing."""

    queryset = ApiKey.objects.select_related("tenant")
    serializer_class = KeySerializer
    read_scope, write_scope = "keys:read", "keys:write"
    http_method_names = ["get", "post", "head"]
    secret_fields = ("key", "issued")
    filters: ClassVar = {"name": "name", "created_by": "created_by", "tenant": "tenant__slug"}

    def filtered(self, rows: models.QuerySet[ApiKey], given: Mapping[str, str]) -> models.QuerySet[ApiKey]:
        """The rows that the parameters leave. Raises ApiError."""
        for name, chosen in _DAYS.items():
            if name in given:
                text = given[name]
                if not text.isascii() or not text.isdecimal() or not 0 < int(text) <= 3650:
                    raise ApiError("invalid_request", f"{name} must be 1 to 3650.", param=name)
                found = cast("OwnedQuerySet[ApiKey]", rows)
                rows = chosen(found, days=int(text), now=timezone.now())
        return super().filtered(rows, {name: text for name, text in given.items() if name not in _DAYS})

    @extend_schema(request=RotateManySerializer, responses={201: IssuedManySerializer})
    @action(detail=False, methods=["post"], url_path="bulk-rotate")
    def bulk_rotate(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Replace keys by new ones with the same rights; `issued` holds their texts, shown this once."""
        given = RotateManySerializer(data=request.data)
        given.is_valid(raise_exception=True)
        now = timezone.now()
        grace_s = given.validated_data.pop("grace_s")
        chosen, rest = self._chosen(given.validated_data, now=now, open_ones={"replaced_by": None})
        issued = keys.rotate_many(keys=chosen, grace_s=grace_s, actor=self.principal, now=now)
        return Response({"issued": IssuedSerializer.answer(issued), **rest}, status=201)

    @extend_schema(request=ChosenKeysSerializer, responses={200: RevokedManySerializer})
    @action(detail=False, methods=["post"], url_path="bulk-revoke")
    def bulk_revoke(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Refuse keys from now on."""
        given = ChosenKeysSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        now = timezone.now()
        chosen, rest = self._chosen(given.validated_data, now=now, open_ones={})
        revoked = keys.revoke_many(keys=chosen, actor=self.principal, now=now)
        return Response({"revoked": KeySerializer(revoked, many=True).data, **rest})

    def _chosen(
        self, given: Mapping[str, Any], *, now: datetime, open_ones: Mapping[str, Any]
    ) -> tuple[list[ApiKey], dict[str, Any]]:
        """The keys, among those that this path and principal know, and what the answer says of the others.

        Raises ApiError not_found when one of the named does not exist, conflict when there is none of `all`.
        """
        visible = cast("OwnedQuerySet[ApiKey]", self.get_queryset())
        rows = visible.visible_to(self.principal, "keys:write")
        before = given.get("before", now)
        if given["all"]:
            rows = keys.living(rows, now=now).filter(created_at__lt=before, **open_ones)
            if self.principal.id is not None:  # the key that asks stays: without it nobody could ask again
                rows = rows.exclude(pk=self.principal.id)
            found = list(rows.order_by("pk")[: keys.MAX_AT_ONCE + 1])
            if not found:
                raise ApiError("conflict", "There is no such key left.", param="all")
            has_more = len(found) > keys.MAX_AT_ONCE
            return found[: keys.MAX_AT_ONCE], {"before": before, "has_more": has_more}
        wanted = set(given["keys"])
        found = list(rows.filter(pk__in=wanted))
        if missing := wanted - {key.pk for key in found}:
            raise ApiError("not_found", f"There is no key {min(missing)}.", param="keys")
        return found, {"before": before, "has_more": False}


class KeyResource(AllKeysResource, Resource[ApiKey]):
    """The keys of one tenant. Nobody grants a key more than they hold; keys are revoked, never deleted."""

    http_method_names = ["get", "post", "patch", "head"]
    filters: ClassVar = {"name": "name", "created_by": "created_by"}

    def perform_update(self, serializer: serializers.BaseSerializer[ApiKey]) -> None:
        """Raises ApiError as `keys.change`."""
        changes = dict(serializer.validated_data)
        key = cast("ApiKey", serializer.instance)
        if changes.pop("service_account", key.service_account) != key.service_account:
            raise ApiError("invalid_request", "A key stays with its account.", param="service_account")
        serializer.instance = keys.change(key=key, changes=changes, actor=self.principal, now=timezone.now())

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
        read_only_fields = ("id", "created_at")


class RoleSerializer(StrictSerializer):
    """What can be changed of a member."""

    role = serializers.CharField(max_length=63, help_text=ROLE_HELP)


class MemberResource(Resource[Membership]):
    """The members of one tenant. POST makes somebody a member at once and mails them; /invitations/ asks first.

    Nobody gives a role that may do more than they; the last owner stays.
    """

    queryset = Membership.objects.select_related("user", "tenant")
    serializer_class = MemberSerializer
    read_scope, write_scope = "members:read", "members:write"
    http_method_names = ["get", "post", "patch", "delete", "head"]
    filters: ClassVar = {"email": "user__email__iexact", "role": "role"}

    def perform_create(self, serializer: serializers.BaseSerializer[Membership]) -> None:
        """Raises ApiError as `invitations.add`."""
        given = serializer.validated_data
        serializer.instance = invitations.add(
            tenant=cast("Tenant", self.tenant),
            email=given["user"]["email"],
            role=given["role"],
            actor=self.principal,
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
