"""The request log over the API: `/requests/` and one call's story, with its content where that is kept and allowed."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.urls import URLPattern, path
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.query import count_of, instant_of, known_parameters, uuids_of
from gateway.content import read
from gateway.logs.generations import story_of, summary_of
from gateway.logs.search import Filters, find, search
from gateway.models import RequestLog
from tenants import audit
from tenants.console import uuid_or_none
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.rest import Guarded

MAX_LIMIT = 200
FILTERS = ("model", "provider", "status", "experiment", "arm")
_PARAMETERS = [
    OpenApiParameter("from", OpenApiTypes.DATETIME, description="Inclusive; a day before `to`."),
    OpenApiParameter("to", OpenApiTypes.DATETIME, description="Exclusive; now unless given."),
    OpenApiParameter("tenant", description="A tenant's slug."),
    OpenApiParameter("key", OpenApiTypes.UUID, description="Calls of this API key."),
    *(OpenApiParameter(name) for name in FILTERS),
    OpenApiParameter("cursor", description="`next_cursor` of the page before."),
    OpenApiParameter("limit", OpenApiTypes.INT, description=f"1 to {MAX_LIMIT}; 50 unless given."),
]


class RequestPageSerializer(serializers.Serializer[Any]):
    """Calls, newest first; amounts are decimals, null where nobody knows them."""

    data = serializers.ListField(child=serializers.DictField())  # type: ignore[assignment]  # a field
    next_cursor = serializers.CharField(allow_null=True)


class RequestSerializer(serializers.Serializer[Any]):
    """One call: figures, attempts, route; `content` where it was asked for (null: not kept)."""

    id = serializers.UUIDField()
    tenant = serializers.CharField()
    occurred_at = serializers.DateTimeField()
    status = serializers.IntegerField()
    attempts = serializers.ListField(child=serializers.DictField())
    route = serializers.DictField()
    tags = serializers.DictField()
    content = serializers.DictField(allow_null=True, required=False)


class _Requests(Guarded):
    read_scope = "requests:read"
    is_open_to_tenants = True
    http_method_names = ["get", "head"]

    def tenant_ids(self) -> frozenset[UUID] | None:
        return self.principal.tenants_with("requests:read")

    def summary(self, row: RequestLog) -> dict[str, Any]:
        sees_cost = self.principal.can("cost:read", row.tenant_id)
        return {
            "id": row.request_id,
            "tenant": row.tenant.slug,
            "occurred_at": row.occurred_at,
            **summary_of(row, sees_cost=sees_cost),
            "api_key": row.api_key_id,
            "tenant_regions": None
            if row.tenant_regions is None
            else row.tenant_regions.split(",")
            if row.tenant_regions
            else [],
            "kept_in": row.kept_in,
        }


class RequestListView(_Requests):
    """The calls of the tenants whose log the principal may read."""

    @extend_schema(
        operation_id="requests_list", parameters=_PARAMETERS, responses={200: RequestPageSerializer}
    )
    def get(self, request: Request) -> Response:
        """One page of calls, newest first."""
        known_parameters(request, "from", "to", "tenant", "key", "cursor", "limit", *FILTERS)
        given = request.query_params
        end = instant_of(request, "to") or timezone.now()
        start = instant_of(request, "from") or end - timedelta(days=1)
        if not start < end:
            raise ApiError("invalid_request", "The period must end after its start.", param="to")
        keys = uuids_of(request, "key")
        if len(keys) > 1:
            raise ApiError("invalid_request", "Name one key.", param="key")
        cursor = uuid_or_none(given["cursor"]) if "cursor" in given else None
        if "cursor" in given and (cursor is None or cursor.version != 7):
            raise ApiError("invalid_request", "This cursor is not one of ours.", param="cursor")
        page = search(
            filters=Filters(
                tenant_ids=self._tenants_asked_for(given.get("tenant")),
                start=start,
                end=end,
                api_key_id=keys[0] if keys else None,
                **{name: given.get(name, "") for name in FILTERS},
            ),
            cursor=cursor,
            size=count_of(request, "limit", 50, most=MAX_LIMIT),
        )
        rows = [self.summary(row) for row in page.rows]
        return Response({"data": rows, "next_cursor": page.next_cursor or None})

    def _tenants_asked_for(self, slug: str | None) -> frozenset[UUID] | None:
        allowed = self.tenant_ids()
        if slug is None:
            return allowed
        tenant = Tenant.objects.filter(slug=slug).first()
        if tenant is None or (allowed is not None and tenant.id not in allowed):
            raise ApiError("not_found", f"There is no tenant {slug!r}.", param="tenant")
        return frozenset((tenant.id,))


class RequestView(_Requests):
    """One call."""

    @extend_schema(
        operation_id="requests_retrieve",
        parameters=[
            OpenApiParameter(
                "include",
                enum=["content"],
                description="`content`: request and answer, where they are kept; needs content:read, is recorded, "
                "and asks the operator's staff for X-Tollhouse-Reason.",
            )
        ],
        responses={200: RequestSerializer},
    )
    def get(self, request: Request, request_id: UUID) -> Response:
        """What was asked, where it went, why, and what it cost."""
        known_parameters(request, "include")
        include = request.query_params.get("include")
        if include not in (None, "content"):
            raise ApiError("invalid_request", "Only content can be included.", param="include")
        row = find(request_id, tenant_ids=self.tenant_ids())
        if row is None:
            raise ApiError("not_found", "There is no such request.")
        document = self.summary(row) | story_of(row)
        if include is not None:
            found = read.read(
                request_id=request_id,
                tenant=row.tenant,
                principal=self.principal,
                reason=audit.reason_given(request._request),
            )
            document["content"] = None if found is None else _shown(found)
        return Response(document)


def _shown(found: read.Content) -> dict[str, Any]:
    texts = found.texts
    return {
        "request": texts.request,
        "answer": texts.answer,
        "is_stream": texts.is_stream,
        "is_cut": texts.is_cut,
        "request_bytes": texts.request_bytes,
        "answer_bytes": texts.answer_bytes,
        "kept_until": found.kept_until,
        "kept_in": found.kept_in,
        "shadows": [
            {"request_id": request_id, "answer": shadow.answer} for request_id, shadow in found.shadows
        ],
    }


urlpatterns: list[URLPattern] = [
    path("requests/", RequestListView.as_view(), name="request-list"),
    path("requests/<uuid:request_id>/", RequestView.as_view(), name="request-detail"),
]
