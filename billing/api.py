"""The control plane's REST resources of this floor: plans, subscriptions, budgets, usage, the ledger's proof.

Shapes only: every change is one verb's. What providers charge leaves only with the scope `cost:read`.
"""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.usage.verify import verify
from tenants.errors import ApiError
from tenants.rest import Guarded

# ------------------------------------------------------------------ query parameters


def _known_parameters(request: Request, *names: str) -> None:
    """Raises ApiError unknown_field for any other parameter."""
    for name in request.query_params:
        if name not in names:
            raise ApiError("unknown_field", f"The parameter {name!r} is unknown.", param=name)


def _instant(request: Request, name: str) -> datetime | None:
    """An RFC 3339 instant, UTC when it names no zone; None when left out. Raises ApiError invalid_request."""
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        return serializers.DateTimeField(default_timezone=UTC).run_validation(text)
    except serializers.ValidationError as error:
        raise ApiError("invalid_request", f"{name} must be an RFC 3339 instant.", param=name) from error


# ------------------------------------------------------------------ the proof of the ledger


class CheckSerializer(serializers.Serializer[Any]):
    """One rule. A warning that is not ok leaves the proof ok."""

    name = serializers.CharField()
    ok = serializers.BooleanField()
    detail = serializers.CharField()
    expected = serializers.CharField()
    found = serializers.CharField()
    is_warning = serializers.BooleanField()


class ProofSerializer(serializers.Serializer[Any]):
    """All checks over [since, until), widened to whole UTC hours."""

    ok = serializers.BooleanField()
    checks = CheckSerializer(many=True)
    since = serializers.DateTimeField(allow_null=True)
    until = serializers.DateTimeField(allow_null=True)
    as_of = serializers.DateTimeField()


class LedgerProof(Guarded):
    """Recompute the ledger's rollups and rules now; operators only."""

    read_scope = "ledger:read"
    http_method_names = ["get", "head"]

    @extend_schema(
        parameters=[OpenApiParameter("since"), OpenApiParameter("until")], responses={200: ProofSerializer}
    )
    def get(self, request: Request) -> Response:
        """Prove the books over [since, until)."""
        _known_parameters(request, "since", "until")
        proof = verify(since=_instant(request, "since"), until=_instant(request, "until"))
        return Response(ProofSerializer(asdict(proof)).data)
