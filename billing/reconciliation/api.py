"""Provider bills over the API: sources, imports, comparisons, decisions, kept proofs. Operators only."""

from functools import partial
from typing import Any, ClassVar

from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from billing import tasks
from billing.models import (
    BillSource,
    LedgerProof,
    ProviderBill,
    ProviderBillLine,
    ReconcileLine,
    ReconcileRun,
)
from billing.rating.money import amount_text, fixed_text
from billing.reconciliation import bills, run
from tenants import audit, egress
from tenants.errors import ApiError
from tenants.rest import ReadResource, Resource, StrictSerializer

MAX_FILE_CHARACTERS = 20_000_000
MAX_FILE_BYTES = 24 * 1024 * 1024


class BillSourceSerializer(StrictSerializer, serializers.ModelSerializer[BillSource]):
    """Where a provider's bills come from. `api_key` is the provider's admin key: written, never read."""

    slug = serializers.RegexField(r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$", max_length=63)
    api_key = serializers.CharField(max_length=1000, write_only=True, required=False)
    has_key = serializers.SerializerMethodField()

    class Meta:
        model = BillSource
        fields: ClassVar[tuple[str, ...]] = (
            "id", "slug", "provider", "kind", "base_url", "api_key", "has_key", "tolerance_abs",
            "tolerance_percent", "repull_days", "is_enabled", "pulled_at", "last_error", "created_at",
        )  # fmt: skip
        read_only_fields = ("id", "has_key", "pulled_at", "last_error", "created_at")

    def get_has_key(self, source: BillSource) -> bool:
        return source.sealed is not None

    def validate_slug(self, slug: str) -> str:
        taken = BillSource.objects.filter(slug=slug)
        if isinstance(self.instance, BillSource):
            taken = taken.exclude(pk=self.instance.pk)
        if taken.exists():
            raise ApiError("conflict", f"There is a source {slug!r} already.", param="slug")
        return slug

    def validate_base_url(self, url: str) -> str:
        """The operator's own address: judged by its form here, by its addresses at every call."""
        if url:
            egress.check_form(url, param="base_url")
        return url

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """A key of one place must not follow to another: a new address takes its key with it."""
        held = self.instance if isinstance(self.instance, BillSource) else None
        moved = held is not None and any(
            name in attrs and attrs[name] != getattr(held, name) for name in ("base_url", "kind")
        )
        if moved and held is not None and held.sealed is not None and "api_key" not in attrs:
            raise ApiError(
                "invalid_request", "With another address or kind, give the key anew.", param="api_key"
            )
        for name in ("tolerance_abs", "tolerance_percent"):
            if name in attrs and attrs[name] < 0:
                raise ApiError("invalid_request", "A tolerance is never negative.", param=name)
        return attrs

    def save(self, **kwargs: Any) -> BillSource:
        key = self.validated_data.pop("api_key", None)
        source = super().save(**kwargs)
        if key is not None:
            source.put_secret(key)
            source.save(update_fields=("sealed", "updated_at"))
        return source


class PullSerializer(StrictSerializer):
    """The UTC days [start, end)."""

    start = serializers.DateField()
    end = serializers.DateField()


class ImportSerializer(StrictSerializer):
    """A file's text, and the days it covers unless they are those in it."""

    text = serializers.CharField(max_length=MAX_FILE_CHARACTERS, trim_whitespace=False)
    start = serializers.DateField(required=False)
    end = serializers.DateField(required=False)


class ProviderBillSerializer(serializers.ModelSerializer[ProviderBill]):
    """One import."""

    source = serializers.CharField(source="source.slug")  # type: ignore[assignment]  # a field

    class Meta:
        model = ProviderBill
        fields = ("id", "source", "start", "end", "digest", "imported_at", "imported_by")


class BillLineSerializer(serializers.ModelSerializer[ProviderBillLine]):
    """One item as the provider wrote it, and as it is matched."""

    amount = serializers.SerializerMethodField()

    class Meta:
        model = ProviderBillLine
        fields = (
            "day",
            "account",
            "item",
            "model_family",
            "quantity",
            "quantity_unit",
            "amount",
            "currency",
            "raw",
        )

    def get_amount(self, line: ProviderBillLine) -> str:
        return amount_text(int(line.amount_pico))


class BillSourceResource(Resource[BillSource]):
    """Sources of bills. Not deleted: their bills stay; switch one off instead."""

    queryset = BillSource.objects.all()
    serializer_class = BillSourceSerializer
    lookup_field = "slug"
    read_scope, write_scope = "cost:read", "prices:write"
    audit_type = "bill_source"
    http_method_names = ["get", "post", "patch", "head"]
    max_body_bytes = MAX_FILE_BYTES
    filters: ClassVar = {"provider": "provider", "kind": "kind"}
    secret_fields = ("api_key",)

    @extend_schema(request=PullSerializer, responses={202: BillSourceSerializer})
    @action(detail=True, methods=["post"])
    def pull(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Fetch these days from the provider and compare them, soon."""
        source = self.get_object()
        given = PullSerializer(data=request.data, context=self.get_serializer_context())
        given.is_valid(raise_exception=True)
        start, end = given.validated_data["start"], given.validated_data["end"]
        bills.check_pull(source=source, start=start, end=end)
        audit.record(
            principal=self.principal,
            action="bill_source.pull",
            object_type="bill_source",
            object_id=source.pk,
            tenant=None,
            after={"start": start, "end": end},
        )
        transaction.on_commit(
            partial(tasks.pull_bills.delay, source_id=str(source.pk), start=str(start), end=str(end))
        )
        return Response(self.get_serializer(source).data, 202)

    @extend_schema(request=ImportSerializer, responses={201: ProviderBillSerializer})
    @action(detail=True, methods=["post"], url_path="import")
    def import_(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Take a CSV or FOCUS file."""
        source = self.get_object()
        given = ImportSerializer(data=request.data, context=self.get_serializer_context())
        given.is_valid(raise_exception=True)
        bill = bills.import_file(
            source=source,
            text=given.validated_data["text"],
            start=given.validated_data.get("start"),
            end=given.validated_data.get("end"),
            actor=self.principal,
            now=timezone.now(),
        )
        return Response(ProviderBillSerializer(bill).data, 201)


class ProviderBillResource(ReadResource[ProviderBill]):
    """Imports, the newest first."""

    queryset = ProviderBill.objects.select_related("source").defer("payload")
    serializer_class = ProviderBillSerializer
    read_scope = "cost:read"
    http_method_names = ["get", "head"]
    filters: ClassVar = {"source": "source__slug"}

    @extend_schema(responses={200: BillLineSerializer(many=True)})
    @action(detail=True, methods=["get"])
    def lines(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """All items of the import."""
        return Response({"data": BillLineSerializer(self.get_object().lines.all(), many=True).data})


# ------------------------------------------------------------------ comparisons


class ReconcileLineSerializer(serializers.ModelSerializer[ReconcileLine]):
    """One day and model family (R25); amounts as exact decimals."""

    ledger = serializers.SerializerMethodField()
    provider = serializers.SerializerMethodField()
    variance = serializers.SerializerMethodField()

    class Meta:
        model = ReconcileLine
        fields = (
            "id", "day", "model_family", "currency", "ledger", "provider", "variance", "status", "cause",
            "evidence", "resolution", "note", "resolved_by", "resolved_at", "entry_id",
        )  # fmt: skip

    def get_ledger(self, line: ReconcileLine) -> str:
        return amount_text(int(line.ledger_pico))

    def get_provider(self, line: ReconcileLine) -> str:
        return amount_text(int(line.provider_pico))

    def get_variance(self, line: ReconcileLine) -> str:
        return amount_text(line.variance_pico)


class ReconcileRunSerializer(StrictSerializer, serializers.ModelSerializer[ReconcileRun]):
    """A comparison of the UTC days [start, end); `totals` by currency."""

    source = serializers.SlugRelatedField(  # type: ignore[assignment]  # a field
        slug_field="slug", queryset=BillSource.objects.all()
    )
    totals = serializers.SerializerMethodField()

    class Meta:
        model = ReconcileRun
        fields: ClassVar[tuple[str, ...]] = (
            "id", "source", "start", "end", "tolerance_abs", "tolerance_percent", "totals", "created_by",
            "created_at",
        )  # fmt: skip
        read_only_fields = ("id", "tolerance_abs", "tolerance_percent", "totals", "created_by", "created_at")

    def get_totals(self, row: ReconcileRun) -> dict[str, dict[str, Any]]:
        return {
            currency: {
                "ledger": amount_text(found.ledger_pico),
                "provider": amount_text(found.provider_pico),
                "variance": amount_text(found.variance_pico),
                "capture_rate_percent": None
                if found.capture_rate_e4 is None
                else fixed_text(found.capture_rate_e4, 4),
                "open": sum(
                    1
                    for line in row.lines.all()
                    if line.currency == currency
                    and line.status != ReconcileLine.Status.MATCH
                    and line.resolution in (ReconcileLine.Resolution.OPEN, ReconcileLine.Resolution.DISPUTED)
                ),
            }
            for currency, found in run.summary_of(row).items()
        }


class DecisionSerializer(StrictSerializer):
    """What is made of a difference. `trued_up` appends it to the ledger."""

    resolution = serializers.ChoiceField(choices=ReconcileLine.Resolution.choices)
    note = serializers.CharField(max_length=1000, required=False, default="", allow_blank=True)


class ReconcileRunResource(Resource[ReconcileRun]):
    """Comparisons of bills with the ledger."""

    queryset = ReconcileRun.objects.select_related("source").prefetch_related("lines")
    serializer_class = ReconcileRunSerializer
    read_scope, write_scope = "cost:read", "prices:write"
    audit_type = "reconciliation"
    http_method_names = ["get", "post", "head"]
    filters: ClassVar = {"source": "source__slug"}

    def perform_create(self, serializer: serializers.BaseSerializer[ReconcileRun]) -> None:
        """Raises ApiError as `run.reconcile`."""
        given = serializer.validated_data
        serializer.instance = run.reconcile(
            source=given["source"],
            start=given["start"],
            end=given["end"],
            actor=self.principal,
            now=timezone.now(),
        )

    @extend_schema(responses={200: ReconcileLineSerializer(many=True)})
    @action(detail=True, methods=["get"])
    def lines(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """All days and model families of the comparison."""
        return Response({"data": ReconcileLineSerializer(self.get_object().lines.all(), many=True).data})


class ReconcileLineResource(ReadResource[ReconcileLine]):
    """Single lines, to decide about."""

    queryset = ReconcileLine.objects.select_related("run__source")
    serializer_class = ReconcileLineSerializer
    read_scope, write_scope = "cost:read", "prices:write"
    http_method_names = ["get", "post", "head"]
    filters: ClassVar = {
        "source": "run__source__slug", "run": "run", "status": "status", "resolution": "resolution",
        "cause": "cause", "day": "day",
    }  # fmt: skip

    @extend_schema(request=DecisionSerializer, responses={200: ReconcileLineSerializer})
    @action(detail=True, methods=["post"])
    def resolve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Accept, dispute, true up, or open again; all but the last with a note."""
        line = self.get_object()
        given = DecisionSerializer(data=request.data, context=self.get_serializer_context())
        given.is_valid(raise_exception=True)
        resolution, note = given.validated_data["resolution"], given.validated_data["note"]
        if resolution == ReconcileLine.Resolution.TRUED_UP:
            done = run.true_up(line=line, note=note, actor=self.principal, now=timezone.now())
        else:
            done = run.resolve(
                line=line, resolution=resolution, note=note, actor=self.principal, now=timezone.now()
            )
        return Response(self.get_serializer(done).data)


# ------------------------------------------------------------------ kept proofs


class LedgerProofSerializer(serializers.ModelSerializer[LedgerProof]):
    """One run of the proof; `since` and `until` null: the whole ledger."""

    class Meta:
        model = LedgerProof
        fields = ("id", "at", "ok", "is_whole", "since", "until", "checks", "duration_ms")


class LedgerProofResource(ReadResource[LedgerProof]):
    """What the hourly proof found, the newest first."""

    queryset = LedgerProof.objects.all()
    serializer_class = LedgerProofSerializer
    read_scope = "ledger:read"
    http_method_names = ["get", "head"]
    filters: ClassVar = {"ok": "ok"}
