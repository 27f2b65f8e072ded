"""REST for a leaked key: one call to stop it and see what it did, and a door for whoever finds one.

The door says the same to every text, so that nobody learns from it whether a key exists.
"""

from functools import partial
from typing import Any, cast
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.rating.money import amount_text
from gateway import leaks
from gateway.tasks import tell_of_leak
from tenants import audit, keys
from tenants.api import KeySerializer
from tenants.errors import ApiError
from tenants.models import ApiKey, Tenant
from tenants.rest import Guarded, StrictSerializer
from tenants.wire import request_id_of


class LeakSerializer(StrictSerializer):
    """Where it was seen, whether to make a new key, and since when its calls are worth a look."""

    reason = serializers.CharField(max_length=500)
    replace = serializers.BooleanField(default=False, help_text="Make a new key with the same rights.")
    since = serializers.DateTimeField(
        required=False, help_text="The last use known to be one's own; the last 30 days unless said."
    )


class TracesSerializer(serializers.Serializer[Any]):
    """All calls of the key in that time, whoever made them: callers' addresses are not stored."""

    since = serializers.DateTimeField()
    until = serializers.DateTimeField()
    requests = serializers.IntegerField()
    tokens = serializers.IntegerField()
    errors = serializers.IntegerField()  # type: ignore[assignment]  # DRF takes it off the class again
    price = serializers.DictField(child=serializers.CharField())
    models = serializers.DictField(child=serializers.IntegerField())
    statuses = serializers.DictField(child=serializers.IntegerField())


class LeakedSerializer(serializers.Serializer[Any]):
    """The key, refused from now on, and the text of its replacement, shown this once."""

    leaked = KeySerializer()
    key = serializers.CharField(allow_null=True)
    replacement = KeySerializer(allow_null=True)
    traces = TracesSerializer()


class LeakedView(Guarded):
    """Revoke a leaked key, tell the tenant's owners and admins, and see what it did."""

    write_scope = "keys:write"
    secret_fields = ("key",)
    http_method_names = ["post"]

    @extend_schema(request=LeakSerializer, responses={200: LeakedSerializer})
    def post(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Raises ApiError as `keys.mark_leaked` and `leaks.traces_of`; not_found for no such key."""
        key = ApiKey.objects.for_tenant(cast("Tenant", self.tenant)).filter(pk=kwargs["key_id"]).first()
        if key is None:
            raise ApiError("not_found", "There is no such key.")
        given = LeakSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        said, now = given.validated_data, timezone.now()
        traces = leaks.traces_of(key=key, since=said.get("since"), now=now)
        leak = keys.mark_leaked(
            key=key, reason=said["reason"], actor=self.principal, now=now, is_replaced=said["replace"]
        )
        _tell(leak.key.id, reason=said["reason"], by=self.principal.label)
        issued = leak.replacement
        return Response(
            {
                "leaked": KeySerializer(leak.key).data,
                "key": issued.text if issued else None,
                "replacement": KeySerializer(issued.key).data if issued else None,
                "traces": _traces(traces),
            }
        )


class FoundSerializer(StrictSerializer):
    """The whole text of a key that was found, and where."""

    key = serializers.CharField(max_length=keys.MAX_TEXT_CHARACTERS)
    where = serializers.CharField(max_length=300, required=False, allow_blank=True, default="")


class ReceivedSerializer(serializers.Serializer[Any]):
    """The same for every text: if it is one of our keys, it is refused from now on."""

    received = serializers.BooleanField()


class LeakReportView(APIView):
    """For whoever finds a key: hand in its whole text, and it is refused. No key is needed; who has it may stop it."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    @extend_schema(request=FoundSerializer, responses={202: ReceivedSerializer})
    def post(self, request: Request) -> Response:
        """Raises ApiError: invalid_request, rate_limit_exceeded; never tells whether the text was a key."""
        given = FoundSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        where = " ".join(filter(str.isprintable, given.validated_data["where"].split()))
        address = audit.client_ip(request._request)
        with audit.origin(ip=address, request_id=request_id_of(request._request)):
            found = leaks.report_found(
                text=given.validated_data["key"], where=where, address=address or "", now=timezone.now()
            )
        if found is not None:
            _tell(found, reason=where or "Reported by a finder.", by=leaks.FINDER.label)
        return Response({"received": True}, status=202)


def _tell(key_id: UUID, *, reason: str, by: str) -> None:
    told = partial(tell_of_leak.delay, key_id=str(key_id), reason=reason, by=by)
    transaction.on_commit(
        told, robust=True
    )  # the answer holds a text that comes once: it goes out whatever happens


def _traces(traces: leaks.Traces) -> dict[str, Any]:
    return {
        "since": traces.since,
        "until": traces.until,
        "requests": traces.requests,
        "tokens": traces.tokens,
        "errors": traces.errors,
        "price": {currency: amount_text(pico) for currency, pico in traces.price.items()},
        "models": dict(traces.models),
        "statuses": {str(status): count for status, count in traces.statuses},
    }
