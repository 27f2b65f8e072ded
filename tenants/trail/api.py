"""The audit trail over REST: the list, the proof, the export, and the sinks that are sent it.

Shapes only. A sink's secret leaves through `secret` of the answer that made it, and never again.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, cast
from uuid import UUID

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from tenants import webhooks
from tenants.audit import OPERATOR_CHAIN
from tenants.errors import ApiError
from tenants.models import AuditEvent, AuditSink, Tenant
from tenants.rest import ReadResource, Resource, StrictSerializer, TenantField
from tenants.trail import proof, sinks
from tenants.trail.export import MEDIA_TYPES, Format, export

# ------------------------------------------------------------------ events


class ActorSerializer(serializers.Serializer[AuditEvent]):
    """Who did it: a user, a key, or the system itself."""

    kind = serializers.CharField(source="actor_kind")
    id = serializers.UUIDField(source="actor_id", allow_null=True)
    label = serializers.CharField(source="actor_label")  # type: ignore[assignment]  # a field, not a caption


class ObjectSerializer(serializers.Serializer[AuditEvent]):
    """What it was done to."""

    type = serializers.CharField(source="object_type")
    id = serializers.CharField(source="object_id")


@extend_schema_field(OpenApiTypes.STR)
class HexField(serializers.Field[bytes, Any, str, Any]):
    """Bytes as hexadecimal text."""

    def to_representation(self, value: bytes) -> str:
        return bytes(value).hex()


class AuditSerializer(serializers.ModelSerializer[AuditEvent]):
    """One write. `hash` covers the event and `previous_hash`, that of the event before it in its chain."""

    tenant = serializers.SlugRelatedField[Tenant](slug_field="slug", read_only=True)
    actor = ActorSerializer(source="*")
    object = ObjectSerializer(source="*")
    previous_hash = HexField(read_only=True)
    hash = HexField(read_only=True)

    class Meta:
        model = AuditEvent
        fields = (
            "id",
            "at",
            "tenant",
            "actor",
            "action",
            "object",
            "before",
            "after",
            "ip",
            "request_id",
            "reason",
            "chain",
            "sequence",
            "previous_hash",
            "hash",
        )
        read_only_fields = fields


class ChainProofSerializer(serializers.Serializer[Any]):
    """What the walk over one chain found; `error` is empty when it holds.

    Keep `sequence` and `head` elsewhere: given back as `anchor`, they prove that nothing before was rewritten.
    """

    chain = serializers.UUIDField()
    tenant = serializers.CharField(allow_null=True)
    ok = serializers.BooleanField()
    events = serializers.IntegerField()
    after = serializers.IntegerField()
    sequence = serializers.IntegerField()
    head = serializers.CharField()
    anchors = serializers.IntegerField()
    error = serializers.CharField()


class ProofSerializer(serializers.Serializer[Any]):
    """All chains of which the proof was asked."""

    ok = serializers.BooleanField()
    chains = ChainProofSerializer(many=True)


class AuditResource(ReadResource[AuditEvent]):
    """The audit trail: an operator sees all of it, a tenant's owner, admin or key its own chain."""

    queryset = AuditEvent.objects.select_related("tenant")
    serializer_class = AuditSerializer
    read_scope = "audit:read"
    filters: ClassVar = {
        "tenant": "tenant__slug",
        "actor": "actor_label",
        "action": "action",
        "object_type": "object_type",
        "object_id": "object_id",
        "request_id": "request_id",
        "from": "at__gte",
        "to": "at__lt",
    }

    @extend_schema(
        parameters=[
            OpenApiParameter("as", enum=["csv", "jsonl"], default="jsonl"),
            *(OpenApiParameter(name) for name in filters),
        ],
        responses={(200, "application/jsonl"): OpenApiTypes.STR, (200, "text/csv"): OpenApiTypes.STR},
    )
    @action(detail=False, url_path="export")
    def export_events(self, request: Request) -> StreamingHttpResponse:
        """All events that the list's filters find, oldest first, without a limit. Raises ApiError as the list."""
        form = request.query_params.get("as", "jsonl")
        if form not in MEDIA_TYPES:
            raise ApiError("invalid_request", "`as` is csv or jsonl.", param="as")
        given = {name: str(value) for name, value in request.query_params.items() if name != "as"}
        rows = self.filtered(self.get_queryset(), given)
        return stream(request._request, export(rows, cast("Format", form)), cast("Format", form))

    @extend_schema(
        parameters=[
            OpenApiParameter("tenant", description="One tenant's chain; else all that you may read."),
            OpenApiParameter("anchor", description="`sequence:head` of an earlier proof of that one chain."),
        ],
        responses={200: ProofSerializer},
    )
    @action(detail=False)
    def verify(self, request: Request) -> Response:
        """Recompute the chains that you may read. Raises ApiError: unknown_field, not_found, invalid_request."""
        for name in request.query_params:
            if name not in ("tenant", "anchor"):
                raise ApiError("unknown_field", f"The parameter {name!r} is unknown.", param=name)
        chains = self._chains(request.query_params.get("tenant"))
        anchors = [_anchor(text, chains) for text in request.query_params.getlist("anchor")]
        found = [each for chain in chains for each in proof.verify(chain, anchors=anchors).chains]
        shown = [
            {
                "chain": each.chain,
                "tenant": chains[each.chain],
                "ok": not each.error,
                "events": each.events,
                "after": each.after,
                "sequence": each.sequence,
                "head": each.head.hex(),
                "anchors": each.anchors,
                "error": each.error,
            }
            for each in found
        ]
        body = {"ok": all(each["ok"] for each in shown), "chains": shown}
        return Response(ProofSerializer(body).data)

    def _chains(self, slug: str | None) -> dict[UUID, str | None]:
        """Chains to prove with their tenants' slugs; the operator's own first."""
        allowed = self.principal.tenants_with("audit:read")
        tenants = Tenant.objects.order_by("slug")
        if allowed is not None:
            tenants = tenants.filter(id__in=allowed)
        if slug is not None:
            tenants = tenants.filter(slug=slug)
            if not tenants.exists():
                raise ApiError("not_found", "There is no such tenant.")
        chains: dict[UUID, str | None] = {}
        if allowed is None and slug is None:
            chains[OPERATOR_CHAIN] = None
        return chains | dict(tenants.values_list("id", "slug"))


def _anchor(text: str, chains: dict[UUID, str | None]) -> proof.Anchor:
    sequence, _, head = text.partition(":")
    try:
        (chain,) = chains
        if not sequence.isascii() or not sequence.isdecimal() or len(sequence) > 18:
            raise ValueError
        return proof.Anchor(chain, int(sequence), bytes.fromhex(head))
    except ValueError as error:
        raise ApiError(
            "invalid_request", "An anchor is sequence:head, of one chain alone.", param="anchor"
        ) from error


def stream(request: HttpRequest, lines: Iterator[str], form: Format) -> StreamingHttpResponse:
    """The lines as they are read, in pieces; each kind of server gets the kind of iterator it consumes."""
    pieces = _pieces(lines)
    return StreamingHttpResponse(
        _awaited(pieces) if isinstance(request, ASGIRequest) else pieces,
        content_type=MEDIA_TYPES[form],
        headers={
            "Content-Disposition": f'attachment; filename="audit.{form}"',
            "X-Content-Type-Options": "nosniff",
        },
    )


_PIECE_CHARACTERS = 32_768


def _pieces(lines: Iterator[str]) -> Iterator[bytes]:
    held: list[str] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= _PIECE_CHARACTERS:
            yield "".join(held).encode()
            held, size = [], 0
    yield "".join(held).encode()


async def _awaited(pieces: Iterator[bytes]) -> Any:
    while (piece := await sync_to_async(_next)(pieces)) is not None:
        yield piece


def _next(pieces: Iterator[bytes]) -> bytes | None:
    return next(pieces, None)


# ------------------------------------------------------------------ sinks


class SinkSerializer(StrictSerializer, serializers.ModelSerializer[AuditSink]):
    """Where the trail is sent. `lag` is how many events wait; `secret` signs a webhook and is shown once."""

    tenant = TenantField(required=False, allow_null=True, default=None)
    ca_certificate = serializers.CharField(max_length=20_000, required=False, allow_blank=True)
    is_from_start = serializers.BooleanField(
        required=False, write_only=True, help_text="Begin with the first event that is kept, not from now."
    )
    secret = serializers.SerializerMethodField(help_text="The signing secret, shown once: null ever after.")
    lag = serializers.SerializerMethodField()

    class Meta:
        model = AuditSink
        fields: ClassVar[tuple[str, ...]] = (
            "id", "tenant", "name", "kind", "target", "ca_certificate", "has_all_chains", "is_from_start",
            "is_enabled", "secret", "lag", "failures", "next_at", "delivered_at", "last_error", "created_at",
        )  # fmt: skip
        read_only_fields = ("id", "failures", "next_at", "delivered_at", "last_error", "created_at")

    def get_secret(self, sink: AuditSink) -> str | None:
        return None

    def get_lag(self, sink: AuditSink) -> int:
        lags = self.context.get("lags")
        return int((lags if lags is not None else sinks.lags_of([sink]))[sink.pk])


class SinkChangeSerializer(StrictSerializer):
    """What can be changed of a sink; whatever failed is tried again at once."""

    name = serializers.CharField(max_length=100, required=False)
    target = serializers.CharField(max_length=2000, required=False)
    ca_certificate = serializers.CharField(max_length=20_000, required=False, allow_blank=True)
    is_enabled = serializers.BooleanField(required=False)


class SinkRotateSerializer(StrictSerializer):
    """How long messages carry the old signature too, in seconds; a day unless said otherwise."""

    grace_s = serializers.IntegerField(default=24 * 3600, min_value=0, max_value=webhooks.MAX_GRACE_S)


class SinkTestSerializer(StrictSerializer):
    """Whether a message without events was taken, else why not."""

    taken = serializers.BooleanField(read_only=True)
    error = serializers.CharField(read_only=True)


class SinkResource(Resource[AuditSink]):
    """Audit sinks: a tenant's owner or admin its own; without a tenant they are the operator's."""

    queryset = AuditSink.objects.select_related("tenant")
    serializer_class = SinkSerializer
    read_scope, write_scope = "audit:read", "audit:write"
    secret_fields = ("secret",)
    filters: ClassVar = {"tenant": "tenant__slug", "kind": "kind"}

    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Send the trail somewhere; `secret` in the answer signs its messages. Raises ApiError as `add_sink`."""
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        given = serializer.validated_data
        self.require("audit:write", given["tenant"])
        is_enabled = given.pop("is_enabled", True)
        now = timezone.now()
        made = sinks.add_sink(**given, actor=self.principal, now=now)
        sink = made.sink
        if not is_enabled:
            sink = sinks.change_sink(sink=sink, changes={"is_enabled": False}, actor=self.principal, now=now)
        return self._shown_once(sinks.Made(sink, made.secret), 201)

    @extend_schema(request=SinkChangeSerializer, responses={200: SinkSerializer})
    def partial_update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Change it. Raises ApiError as `change_sink`."""
        sink = self.get_object()
        change = SinkChangeSerializer(data=request.data)
        change.is_valid(raise_exception=True)
        changed = sinks.change_sink(
            sink=sink, changes=change.validated_data, actor=self.principal, now=timezone.now()
        )
        return Response(self.get_serializer(changed).data)

    def perform_destroy(self, instance: AuditSink) -> None:
        sinks.remove_sink(sink=instance, actor=self.principal)

    @extend_schema(request=SinkRotateSerializer, responses={200: SinkSerializer})
    @action(detail=True, methods=["post"])
    def rotate(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """A new signing secret; `secret` in the answer is its text. Raises ApiError as `rotate_secret`."""
        sink = self.get_object()
        options = SinkRotateSerializer(data=request.data)
        options.is_valid(raise_exception=True)
        made = sinks.rotate_secret(
            sink=sink, actor=self.principal, now=timezone.now(), **options.validated_data
        )
        return self._shown_once(made, 200)

    @extend_schema(request=SinkTestSerializer, responses={200: SinkTestSerializer})
    @action(detail=True, methods=["post"])
    def test(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Send a message without events now. Raises ApiError as `try_out`."""
        sink = self.get_object()
        SinkTestSerializer(data=request.data).is_valid(raise_exception=True)
        error = sinks.try_out(sink=sink, actor=self.principal, now=timezone.now())
        return Response({"taken": not error, "error": error})

    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Newest first."""
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset())) or []
        context = {**self.get_serializer_context(), "lags": sinks.lags_of(page)}
        return self.get_paginated_response(SinkSerializer(page, many=True, context=context).data)

    def _shown_once(self, made: sinks.Made, status: int) -> Response:
        data = {**self.get_serializer(made.sink).data, "secret": made.secret or None}
        return Response(data, status=status)
