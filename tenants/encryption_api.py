"""REST about the keys that seal stored secrets: where rotations stand, and a new data key for one owner.

For the operator alone. No key ever leaves here, wrapped or not.
"""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from tenants import resealing
from tenants.principal import Principal
from tenants.rest import Guarded, StrictSerializer, TenantField


class RotationSerializer(serializers.Serializer[Any]):
    """A retired data key, and how many values of each column are left under it."""

    tenant = serializers.CharField(source="tenant.slug", default=None, allow_null=True, read_only=True)
    version = serializers.IntegerField()
    retired_at = serializers.DateTimeField()
    remaining = serializers.DictField(child=serializers.IntegerField())


class EncryptionSerializer(serializers.Serializer[Any]):
    """Data keys under each older master key, and rotations of data keys that go on."""

    newest_master_key = serializers.CharField()
    data_keys = serializers.IntegerField()
    under_older_master_keys = serializers.DictField(child=serializers.IntegerField())
    rotations = RotationSerializer(many=True)


class DataKeySerializer(StrictSerializer):
    """Whose data key to rotate; without a tenant, the operator's own."""

    tenant = TenantField(required=False, allow_null=True, default=None)


class RotatedSerializer(serializers.Serializer[Any]):
    """The data key that seals from now on."""

    id = serializers.UUIDField()
    version = serializers.IntegerField()
    master_key_id = serializers.CharField()


class _OfOperators(Guarded):
    read_scope, write_scope = "credentials:read", "credentials:write"

    def authorize(self, principal: Principal) -> None:
        """Raises ApiError permission_denied for everybody but operators with the scope."""
        super().authorize(principal)
        self.require(str(self.scope_wanted()), None)


class EncryptionView(_OfOperators):
    """Where rotations of master keys and data keys stand."""

    http_method_names = ["get", "head"]

    @extend_schema(responses={200: EncryptionSerializer})
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Raises ApiError overloaded while the key management service is away."""
        return Response(EncryptionSerializer(resealing.progress()).data)


class RotateDataKeyView(_OfOperators):
    """Seal an owner's secrets under a new data key; stored ones move in the background."""

    http_method_names = ["post"]

    @extend_schema(request=DataKeySerializer, responses={201: RotatedSerializer})
    def post(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Raises ApiError as `resealing.rotate_data_key`."""
        given = DataKeySerializer(data=request.data, context={"request": request})
        given.is_valid(raise_exception=True)
        fresh = resealing.rotate_data_key(
            tenant=given.validated_data["tenant"], actor=self.principal, now=timezone.now()
        )
        return Response(RotatedSerializer(fresh).data, status=201)
