"""The month's closing list over the API, with what only the data plane knows: records that are set aside."""

from typing import Any

import redis
from django.conf import settings
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.query import known_parameters, month_of
from billing.reconciliation.close import Checklist, checklist
from gateway.logs.consumer import SUSPENSE
from tenants.rest import Guarded


def closing(*, month: str) -> Checklist:
    """The list of a UTC month, `YYYY-MM`. Raises ApiError invalid_request."""
    return checklist(month=month_of(month), now=timezone.now(), suspense=suspended())


def suspended() -> int | None:
    """Records that nobody could read or store; None while Redis does not answer."""
    try:
        with redis.Redis.from_url(settings.REDIS_URL) as client:
            return int(client.xlen(SUSPENSE))
    except redis.ConnectionError:
        return None


class StepSerializer(serializers.Serializer[Any]):
    """One line: `done`, `open`, or `unknown` where nobody could look."""

    key = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]  # a field
    state = serializers.CharField()
    count = serializers.IntegerField(allow_null=True)
    detail = serializers.CharField()


class ClosingSerializer(serializers.Serializer[Any]):
    """The list; `is_done` once the month is over and every step is."""

    month = serializers.DateField()
    is_over = serializers.BooleanField()
    is_done = serializers.BooleanField()
    steps = StepSerializer(many=True)


class ClosingView(Guarded):
    """What stands between a month and its end. Operators only."""

    read_scope = "cost:read"
    http_method_names = ["get", "head"]

    @extend_schema(
        operation_id="reconciliation_close",
        parameters=[OpenApiParameter("month", OpenApiTypes.STR, description="YYYY-MM; the running one.")],
        responses={200: ClosingSerializer},
    )
    def get(self, request: Request) -> Response:
        """The closing list of a UTC month."""
        known_parameters(request, "month")
        month = request.query_params.get("month", f"{timezone.now():%Y-%m}")
        return Response(ClosingSerializer(closing(month=month)).data)
