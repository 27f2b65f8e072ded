"""The control plane's REST resources of this floor: providers, credentials, models, rates, policies.

Shapes only: every change is one verb's. An `api_key` goes in and never comes out.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, ClassVar, cast

from django.conf import settings
from django.db import models
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response

from routing import credentials, provisioning, switches
from routing.catalog import rates
from routing.catalog.imports import import_models
from routing.experiments import shadows
from routing.experiments.models import PolicyShadow
from routing.health.api import ProbeSerializer
from routing.models import (
    CostRate,
    Credential,
    Endpoint,
    Feature,
    KillSwitch,
    Model,
    Provider,
    RoutingPolicy,
    RoutingPolicyVersion,
)
from routing.policies import wordings
from routing.policies.wordings import Wording
from routing.probe import probe, probe_own
from routing.registry import dialect_of
from routing.types import INPUT_COMPONENTS, OUTPUT_COMPONENTS, Operation, ProviderKind
from tenants import audit, egress
from tenants.errors import ApiError
from tenants.principal import Principal
from tenants.rest import (
    ReadResource,
    Resource,
    StrictSerializer,
    TenantField,
    plain,
)
from tenants.wire import MAX_BODY_BYTES, StrictJSONParser

SLUG = r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$"
MODEL_NAME = r"^[A-Za-z0-9@][A-Za-z0-9@._:/+-]*$"
REGION = r"^[a-z0-9-]{1,32}$"
COMPONENTS = (*INPUT_COMPONENTS, *OUTPUT_COMPONENTS)
WORDING_FIELDS = ("strategy", "targets", "constraints", "fallback", "conduct", "max_attempts")
MAX_RATES = 5000


class NothingSerializer(StrictSerializer):
    """A body without fields."""


# ------------------------------------------------------------------ providers


class ProviderSerializer(StrictSerializer, serializers.ModelSerializer[Provider]):
    """A provider account. `api_key` is write-only; `has_key` tells whether one is stored."""

    slug = serializers.RegexField(SLUG, max_length=63)
    kind = serializers.ChoiceField(choices=[kind.value for kind in ProviderKind])
    base_url = serializers.CharField(max_length=500, required=False, allow_blank=True)
    region = serializers.RegexField(REGION, required=False)
    options = serializers.DictField(child=serializers.CharField(max_length=500), required=False)
    api_key = serializers.CharField(
        max_length=credentials.MAX_SECRET_CHARACTERS, required=False, write_only=True
    )
    has_key = serializers.SerializerMethodField()
    trains_on_data = serializers.BooleanField(
        required=False, allow_null=True, help_text="Whether it may train on what is sent. Null counts as yes."
    )
    retention_days = serializers.IntegerField(
        min_value=0,
        max_value=36_500,
        required=False,
        allow_null=True,
        help_text="How long it keeps content; 0 for zero retention, null for unknown.",
    )
    first_byte_timeout_s = serializers.FloatField(min_value=0.1, max_value=600, required=False)
    stall_timeout_s = serializers.FloatField(min_value=0.1, max_value=600, required=False)
    total_timeout_s = serializers.FloatField(min_value=1, max_value=3600, required=False)

    class Meta:
        model = Provider
        fields: ClassVar[tuple[str, ...]] = (
            "id",
            "slug",
            "name",
            "kind",
            "base_url",
            "region",
            "price_book",
            "options",
            "api_key",
            "has_key",
            "trains_on_data",
            "retention_days",
            "is_enabled",
            "first_byte_timeout_s",
            "stall_timeout_s",
            "total_timeout_s",
            "created_at",
            "updated_at",
        )
        read_only_fields = ("id", "created_at", "updated_at")
        extra_kwargs: ClassVar = {"name": {"required": False}}

    def get_has_key(self, provider: Provider) -> bool:
        return provider.credentials.filter(tenant=None, is_enabled=True).exists()

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        kind = attrs.get("kind") or (self.instance.kind if self.instance else "")
        base_url = attrs.get("base_url", self.instance.base_url if self.instance else "")
        if base_url and kind != ProviderKind.SANDBOX:
            try:
                egress.check_form(base_url)
            except ApiError as error:
                raise serializers.ValidationError({"base_url": error.message}) from error
        if not base_url and not dialect_of(kind).base_url:
            raise serializers.ValidationError(
                {"base_url": "This kind has no public address: give the server's."}
            )
        return attrs


class ImportModelsSerializer(StrictSerializer):
    """Provider models to take over; without any, all that the provider's price book lists."""

    models = serializers.ListField(
        child=serializers.CharField(max_length=200), required=False, min_length=1, max_length=2000
    )


class ImportedSerializer(serializers.Serializer[Any]):
    """How many endpoints are new."""

    created = serializers.IntegerField()


class ProviderResource(Resource[Provider]):
    """The operator's provider accounts."""

    queryset = Provider.objects.all()
    serializer_class = ProviderSerializer
    lookup_field = "slug"
    read_scope, write_scope = "providers:read", "providers:write"
    section = "routing"
    readonly_actions = ("test",)
    filters: ClassVar = {"kind": "kind", "region": "region"}

    def perform_create(self, serializer: serializers.BaseSerializer[Provider]) -> None:
        """Raises ApiError as `provisioning.add_provider`."""
        values = dict(serializer.validated_data)
        api_key = values.pop("api_key", "")
        values.setdefault("name", values["slug"])
        serializer.instance = provisioning.add_provider(values=values, api_key=api_key, actor=self.principal)

    def perform_update(self, serializer: serializers.BaseSerializer[Provider]) -> None:
        """Raises ApiError as `provisioning.change_provider`."""
        provider = cast("Provider", serializer.instance)
        changes = dict(serializer.validated_data)
        api_key = changes.pop("api_key", "")
        if changes.get("slug") == provider.slug:
            del changes["slug"]
        serializer.instance = provisioning.change_provider(
            provider=provider, changes=changes, api_key=api_key, actor=self.principal
        )

    @extend_schema(request=NothingSerializer, responses={200: ProbeSerializer})
    @action(detail=True, methods=["post"])
    def test(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Ask the provider for its models, or for one token. A failure is an answer too: see `code`."""
        provider = self.get_object()
        NothingSerializer(data=request.data).is_valid(raise_exception=True)
        return Response(ProbeSerializer(probe(provider=provider, actor=self.principal)).data)

    @extend_schema(request=ImportModelsSerializer, responses={200: ImportedSerializer})
    @action(detail=True, methods=["post"], url_path="import-models")
    def import_models(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Create endpoints (and models) for the given provider models, or for all of its price book."""
        provider = self.get_object()
        wanted = ImportModelsSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        created = import_models(
            provider=provider, actor=self.principal, names=wanted.validated_data.get("models")
        )
        return Response({"created": created})


# ------------------------------------------------------------------ the operator's credentials


class ProviderCredentialSerializer(StrictSerializer, serializers.ModelSerializer[Credential]):
    """One of the operator's keys at a provider. Of each label the newest is used; labels share the calls.

    `limit_rpm` and `limit_tpm` are the provider's limits of this key, where its headers do not tell them.
    """

    label = serializers.CharField(  # type: ignore[assignment]  # DRF takes it off the class again
        max_length=100, required=False, allow_blank=True, default=""
    )
    api_key = serializers.CharField(
        max_length=credentials.MAX_SECRET_CHARACTERS, write_only=True, required=False
    )
    base_url = serializers.CharField(max_length=500, required=False, allow_blank=True, default="")
    weight = serializers.IntegerField(min_value=0, max_value=credentials.MAX_WEIGHT, required=False)
    limit_rpm = serializers.IntegerField(min_value=1, max_value=2**31 - 1, required=False, allow_null=True)
    limit_tpm = serializers.IntegerField(min_value=1, max_value=2**31 - 1, required=False, allow_null=True)

    class Meta:
        model = Credential
        fields = (
            "id",
            "label",
            "api_key",
            "base_url",
            "last_four",
            "weight",
            "limit_rpm",
            "limit_tpm",
            "is_enabled",
            "created_at",
            "updated_at",
        )
        read_only_fields = ("id", "last_four", "created_at", "updated_at")

    def validate_base_url(self, value: str) -> str:
        if value:
            try:
                egress.check_form(value)
            except ApiError as error:
                raise serializers.ValidationError(error.message) from error
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if self.instance is None and not attrs.get("api_key"):
            raise serializers.ValidationError({"api_key": "This field is required."})
        return attrs


class ProviderCredentialResource(Resource[Credential]):
    """The operator's keys at one provider, in use and replaced. A secret goes in and never comes out."""

    queryset = Credential.objects.filter(tenant=None).select_related("provider", "tenant")
    serializer_class = ProviderCredentialSerializer
    read_scope, write_scope = "providers:read", "providers:write"
    section = "routing"
    filters: ClassVar = {"label": "label", "is_enabled": "is_enabled"}

    def authorize(self, principal: Principal) -> None:
        """For the operator alone, whatever a tenant's key may do. Raises ApiError."""
        super().authorize(principal)
        self.require(str(self.scope_wanted()), None)

    def get_queryset(self) -> models.QuerySet[Credential]:
        rows = super().get_queryset()
        return rows if "provider" not in self.kwargs else rows.filter(provider=self._provider())

    def _provider(self) -> Provider:
        found = Provider.objects.filter(slug=self.kwargs["provider"]).first()
        if found is None:
            raise ApiError("not_found", "There is no such provider.")
        return found

    def perform_create(self, serializer: serializers.BaseSerializer[Credential]) -> None:
        """Raises ApiError as `credentials.store`."""
        given = dict(serializer.validated_data)
        is_enabled = given.pop("is_enabled", True)
        row = credentials.store(
            provider=self._provider(),
            tenant=None,
            secret=given.pop("api_key"),
            actor=self.principal,
            **given,
        )
        if not is_enabled:
            row = credentials.change(credential=row, changes={"is_enabled": False}, actor=self.principal)
        serializer.instance = row

    def perform_update(self, serializer: serializers.BaseSerializer[Credential]) -> None:
        """Raises ApiError as `credentials.change`."""
        serializer.instance = credentials.change(
            credential=cast("Credential", serializer.instance),
            changes=serializer.validated_data,
            actor=self.principal,
        )

    def perform_destroy(self, instance: Credential) -> None:
        credentials.remove(credential=instance, actor=self.principal)


# ------------------------------------------------------------------ tenants' own credentials


class CredentialSerializer(StrictSerializer, serializers.ModelSerializer[Credential]):
    """A tenant's own key at a provider. `api_key` is write-only; a new one replaces the old of its label."""

    provider = serializers.SlugRelatedField[Provider](slug_field="slug", queryset=Provider.objects.all())
    api_key = serializers.CharField(max_length=credentials.MAX_SECRET_CHARACTERS, write_only=True)
    base_url = serializers.CharField(max_length=500, required=False, allow_blank=True, default="")
    label = serializers.CharField(  # type: ignore[assignment]  # DRF takes it off the class again
        max_length=100, required=False, allow_blank=True, default=""
    )

    class Meta:
        model = Credential
        fields = ("id", "provider", "label", "api_key", "base_url", "last_four", "is_enabled", "created_at")
        read_only_fields = ("id", "last_four", "is_enabled", "created_at")


class SwitchSerializer(StrictSerializer):
    """What can be changed of a stored key."""

    is_enabled = serializers.BooleanField()


class CredentialResource(Resource[Credential]):
    """A tenant's provider keys: added, tested, paused and removed, never shown."""

    queryset = Credential.objects.select_related("provider", "tenant")
    serializer_class = CredentialSerializer
    read_scope, write_scope = "credentials:read", "credentials:write"
    section = "routing"
    http_method_names = ["get", "post", "patch", "delete", "head"]
    filters: ClassVar = {"provider": "provider__slug"}

    @extend_schema(request=SwitchSerializer, responses={200: CredentialSerializer})
    def partial_update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Use the key or pause it. Raises ApiError as `credentials.change`."""
        credential = self.get_object()
        given = SwitchSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        changed = credentials.change(
            credential=credential, changes=given.validated_data, actor=self.principal
        )
        return Response(self.get_serializer(changed).data)

    @extend_schema(request=NothingSerializer, responses={200: ProbeSerializer})
    @action(detail=True, methods=["post"])
    def test(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Ask the provider for its models, or for one token, with this key. A failure is an answer: see `code`."""
        credential = self.get_object()
        NothingSerializer(data=request.data).is_valid(raise_exception=True)
        return Response(ProbeSerializer(probe_own(credential=credential, actor=self.principal)).data)

    def perform_create(self, serializer: serializers.BaseSerializer[Credential]) -> None:
        """Raises ApiError: url_not_allowed, and as `credentials.store`."""
        given = serializer.validated_data
        if given["base_url"]:
            egress.check_url(
                given["base_url"],
                allow_private_hosts=settings.TOLLHOUSE_EGRESS_ALLOWED_HOSTS,
                param="base_url",
            )
        serializer.instance = credentials.store(
            provider=given["provider"],
            tenant=self.tenant,
            secret=given["api_key"],
            label=given["label"],
            base_url=given["base_url"],
            actor=self.principal,
        )

    def perform_destroy(self, instance: Credential) -> None:
        credentials.remove(credential=instance, actor=self.principal)


# ------------------------------------------------------------------ models and endpoints


class ModelSerializer(StrictSerializer, serializers.ModelSerializer[Model]):
    """A model of the catalogue, whoever serves it. `slug` is what callers say."""

    slug = serializers.RegexField(MODEL_NAME, max_length=200)
    name = serializers.CharField(max_length=200, required=False)
    operations = serializers.ListField(
        child=serializers.ChoiceField(choices=[operation.value for operation in Operation]), min_length=1
    )
    capabilities = serializers.ListField(
        child=serializers.RegexField(r"^[a-z0-9_]{1,32}$"), required=False, max_length=50
    )

    class Meta:
        model = Model
        fields: ClassVar[tuple[str, ...]] = (
            "id",
            "slug",
            "name",
            "owned_by",
            "operations",
            "capabilities",
            "context_window",
            "max_output_tokens",
            "is_enabled",
            "created_at",
            "updated_at",
        )
        read_only_fields = ("id", "created_at", "updated_at")

    def validate_slug(self, value: str) -> str:
        if self.instance and value != self.instance.slug:
            raise serializers.ValidationError("The slug stands in ledger rows and cannot change.")
        if self.instance is None and Model.objects.filter(slug=value).exists():
            raise serializers.ValidationError("This model exists already.", code="unique")
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if self.instance is None:
            attrs.setdefault("name", attrs["slug"])
        return attrs


class ModelResource(Resource[Model]):
    """The catalogue: what can be called, if an endpoint serves it."""

    queryset = Model.objects.all()
    serializer_class = ModelSerializer
    lookup_field = "slug"
    lookup_value_converter = "path"
    read_scope, write_scope = "providers:read", "providers:write"
    section = "routing"
    filters: ClassVar = {"owned_by": "owned_by", "slug": "slug", "q": "slug__icontains"}


class EndpointSerializer(StrictSerializer, serializers.ModelSerializer[Endpoint]):
    """A provider serving a model under the provider's own name. Empty `region`: the provider's."""

    provider = serializers.SlugRelatedField[Provider](slug_field="slug", queryset=Provider.objects.all())
    model = serializers.SlugRelatedField[Model](slug_field="slug", queryset=Model.objects.all())
    provider_model = serializers.CharField(max_length=200, required=False)
    region = serializers.RegexField(REGION, required=False, allow_blank=True)
    weight = serializers.IntegerField(min_value=0, max_value=1_000_000, required=False)

    class Meta:
        model = Endpoint
        fields: ClassVar[tuple[str, ...]] = (
            "id",
            "provider",
            "model",
            "provider_model",
            "region",
            "weight",
            "is_enabled",
            "created_at",
            "updated_at",
        )
        read_only_fields = ("id", "created_at", "updated_at")
        # The verb says conflict; the serializer's own check would demand every field.
        validators: ClassVar[list[Any]] = []

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if self.instance is None:
            attrs.setdefault("provider_model", attrs["model"].slug)
        elif fixed := attrs.keys() & {"provider", "model", "provider_model"}:
            raise serializers.ValidationError({min(fixed): "This cannot change: create another endpoint."})
        return attrs


class EndpointResource(Resource[Endpoint]):
    """Who serves what."""

    queryset = Endpoint.objects.select_related("provider", "model")
    serializer_class = EndpointSerializer
    read_scope, write_scope = "providers:read", "providers:write"
    section = "routing"
    filters: ClassVar = {"provider": "provider__slug", "model": "model__slug", "region": "region"}

    def perform_create(self, serializer: serializers.BaseSerializer[Endpoint]) -> None:
        """Raises ApiError as `provisioning.add_endpoint`."""
        given = {"region": "", "weight": 1, **serializer.validated_data}
        is_enabled = given.pop("is_enabled", True)
        endpoint = provisioning.add_endpoint(**given, actor=self.principal)
        if not is_enabled:
            endpoint = provisioning.change_endpoint(
                endpoint=endpoint, changes={"is_enabled": False}, actor=self.principal
            )
        serializer.instance = endpoint

    def perform_update(self, serializer: serializers.BaseSerializer[Endpoint]) -> None:
        endpoint = cast("Endpoint", serializer.instance)
        serializer.instance = provisioning.change_endpoint(
            endpoint=endpoint, changes=serializer.validated_data, actor=self.principal
        )


# ------------------------------------------------------------------ cost rates


class RateSerializer(StrictSerializer, serializers.ModelSerializer[CostRate]):
    """What a provider, or a price book of that name, charges: `price` for `per` units of a component."""

    price = serializers.DecimalField(max_digits=20, decimal_places=10, min_value=Decimal(0))
    per = serializers.ChoiceField(choices=(1, 60, 1000, 3600, 1_000_000), default=1_000_000)
    component = serializers.RegexField(
        r"^[a-z0-9_]{1,32}$", help_text="E.g. " + ", ".join(COMPONENTS) + ", web_searches"
    )
    currency = serializers.RegexField(r"^[A-Z]{3}$", default="USD")
    service_tier = serializers.RegexField(r"^[a-z0-9_-]{1,32}$", allow_blank=True, default="")
    min_input_tokens = serializers.IntegerField(min_value=0, max_value=2**31 - 1, default=0)
    effective_from = serializers.DateTimeField(required=False, help_text="Now, unless said otherwise.")
    effective_to = serializers.DateTimeField(required=False, allow_null=True, default=None)
    source = serializers.ChoiceField(  # type: ignore[assignment]  # DRF takes it off the class again
        choices=("manual", "contract"), default="manual"
    )

    class Meta:
        model = CostRate
        fields: ClassVar[tuple[str, ...]] = (
            "id",
            "provider",
            "provider_model",
            "component",
            "price",
            "per",
            "currency",
            "service_tier",
            "min_input_tokens",
            "effective_from",
            "effective_to",
            "source",
            "created_at",
        )
        read_only_fields = ("id", "created_at")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        attrs.setdefault("effective_from", timezone.now())
        if attrs["effective_to"] is not None and attrs["effective_to"] <= attrs["effective_from"]:
            raise serializers.ValidationError({"effective_to": "This is not after effective_from."})
        return attrs

    def to_representation(self, instance: CostRate) -> dict[str, Any]:
        # The source of a stored rate may also be the catalogue, which nobody can claim.
        return {**super().to_representation(instance), "source": instance.source}


class StatedRateSerializer(RateSerializer):
    """A rate in an import. Its start must be said: a preview and its application must mean the same."""

    effective_from = serializers.DateTimeField()


class ImportSerializer(StrictSerializer):
    """Rates to review, and to apply with the digest that the review gave."""

    rates = StatedRateSerializer(many=True, allow_empty=False, max_length=MAX_RATES)  # type: ignore[call-arg]  # of many
    apply = serializers.BooleanField(default=False)
    digest = serializers.CharField(required=False, allow_blank=True, default="")


class RateChangeSerializer(serializers.Serializer[Any]):
    """What one line of an import does."""

    action = serializers.ChoiceField(choices=("open", "change", "unchanged"))
    provider = serializers.CharField(source="rate.provider")
    provider_model = serializers.CharField(source="rate.provider_model")
    component = serializers.CharField(source="rate.component")
    service_tier = serializers.CharField(source="rate.service_tier")
    min_input_tokens = serializers.IntegerField(source="rate.min_input_tokens")
    effective_from = serializers.DateTimeField(source="rate.effective_from")
    currency = serializers.CharField(source="rate.currency")
    old_price = serializers.DecimalField(max_digits=20, decimal_places=10, allow_null=True)
    new_price = serializers.DecimalField(max_digits=20, decimal_places=10, source="rate.price")
    per = serializers.IntegerField(source="rate.per")
    closes = serializers.UUIDField(allow_null=True)


class RateDiffSerializer(serializers.Serializer[Any]):
    """The reviewed difference. Send `digest` back with `apply` to put it in force."""

    applied = serializers.BooleanField()
    digest = serializers.CharField()
    changes = RateChangeSerializer(many=True)


class RatesCSVParser(BaseParser):
    """Rates as CSV with a header line; `apply` and `digest` come as query parameters."""

    media_type = "text/csv"

    def parse(
        self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Raises ApiError: payload_too_large, invalid_request."""
        limit = getattr((parser_context or {}).get("view"), "max_body_bytes", MAX_BODY_BYTES)
        raw = stream.read(limit + 1)
        if len(raw) > limit:
            raise ApiError("payload_too_large", f"The body may hold {limit} bytes.")
        try:
            reader = csv.DictReader(io.StringIO(raw.decode("utf-8-sig"), newline=""), strict=True)
            lines = list(reader)
        except (UnicodeDecodeError, csv.Error) as error:
            raise ApiError("invalid_request", f"The body is not CSV in UTF-8: {error}.") from error
        if any(None in line or None in line.values() for line in lines):
            raise ApiError("invalid_request", "Every line must have as many fields as the header.")
        # An empty field says nothing, so the default holds.
        return {"rates": [{name: value for name, value in line.items() if value} for line in lines]}


class RateResource(Resource[CostRate]):
    """What providers charge. A new rate ends its predecessor; none is changed or deleted."""

    queryset = CostRate.objects.all()
    serializer_class = RateSerializer
    read_scope, write_scope = "prices:read", "prices:write"
    section = "routing"
    http_method_names = ["get", "post", "head"]
    filters: ClassVar = {
        "provider": "provider",
        "provider_model": "provider_model",
        "component": "component",
        "source": "source",
        "at": "effective_from__lte",
    }

    def filter_queryset(self, queryset: Any) -> Any:
        """`at` shows the rates in force at that moment."""
        rows = super().filter_queryset(queryset)
        at = self.request.query_params.get("at") if self.action == "list" else None
        if at is None:
            return rows
        return rows.filter(models.Q(effective_to=None) | models.Q(effective_to__gt=at))

    def perform_create(self, serializer: serializers.BaseSerializer[CostRate]) -> None:
        """Raises ApiError as `rates.open_rate`."""
        rate = rates.NewRate(**serializer.validated_data)
        serializer.instance = rates.open_rate(rate=rate, actor=self.principal)

    @extend_schema(request=ImportSerializer, responses={200: RateDiffSerializer})
    @action(
        detail=False, methods=["post"], url_path="import", parser_classes=[StrictJSONParser, RatesCSVParser]
    )
    def import_rates(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Review a set of rates, then apply it: the same body with `apply` and the review's `digest`."""
        is_csv = (request.content_type or "").startswith("text/csv")
        body = cast("dict[str, Any]", request.data)
        data = {**body, **request.query_params.dict()} if is_csv else body
        given = ImportSerializer(data=data, context=self.get_serializer_context())
        given.is_valid(raise_exception=True)
        stated = [rates.NewRate(**rate) for rate in given.validated_data["rates"]]
        if given.validated_data["apply"]:
            diff = rates.apply(rates=stated, digest=given.validated_data["digest"], actor=self.principal)
        else:
            diff = rates.preview(rates=stated)
        audit.record(
            principal=self.principal,
            action="cost_rate.import" if given.validated_data["apply"] else "cost_rate.review",
            object_type="cost_rate",
            object_id=diff.digest,
            tenant=None,
            after={"rates": len(stated)},
        )
        shown = {"applied": given.validated_data["apply"], "digest": diff.digest, "changes": diff.changes}
        return Response(plain(RateDiffSerializer(shown).data))


# ------------------------------------------------------------------ policies


class PolicySerializer(StrictSerializer, serializers.ModelSerializer[RoutingPolicy]):
    """A policy, called as `policy:<slug>`, in its newest wording. No tenant: for all tenants."""

    slug = serializers.RegexField(SLUG, max_length=63)
    tenant = TenantField(required=False, allow_null=True, default=None)
    is_enabled = serializers.BooleanField(required=False)
    version = serializers.SerializerMethodField()
    strategy = serializers.CharField(max_length=16)
    targets = serializers.ListField(
        child=serializers.JSONField(),
        required=False,
        help_text='Models, or {"model", "provider", "weight"}; empty: the whole catalogue.',
    )
    constraints = serializers.DictField(
        required=False, help_text='{"regions": [], "capabilities": [], "max_price_per_million": ""}'
    )
    fallback = serializers.ListField(
        child=serializers.JSONField(),
        required=False,
        help_text="Tried after all `targets`, in this order; written as they are.",
    )
    conduct = serializers.DictField(
        required=False, help_text='{"recovery", "hold_back_tokens", "hedge_after_ms", "queue_ms"}'
    )
    max_attempts = serializers.IntegerField(required=False)
    shadow = serializers.DictField(
        required=False,
        allow_null=True,
        help_text='Mirrors a share of the calls: {"share", "targets", "per_minute", "scoring", "is_enabled"}.',
    )
    experiment = serializers.SerializerMethodField(help_text="The experiment that splits its calls now.")

    class Meta:
        model = RoutingPolicy
        fields: ClassVar[tuple[str, ...]] = (
            "id",
            "slug",
            "name",
            "tenant",
            "is_enabled",
            "version",
            *WORDING_FIELDS,
            "shadow",
            "experiment",
            "created_at",
            "updated_at",
        )
        read_only_fields = ("id", "created_at", "updated_at")
        validators: ClassVar[list[Any]] = []

    def get_experiment(self, policy: RoutingPolicy) -> str | None:
        """By its slug: see /experiments/."""
        return policy.experiments.filter(is_in_force=True).values_list("slug", flat=True).first()

    def get_version(self, policy: RoutingPolicy) -> int | None:
        version = wordings.newest(policy)
        return version.number if version else None

    def to_representation(self, instance: RoutingPolicy) -> dict[str, Any]:
        version = wordings.newest(instance)
        return {
            "id": str(instance.pk),
            "slug": instance.slug,
            "name": instance.name,
            "tenant": instance.tenant.slug if instance.tenant else None,
            "is_enabled": instance.is_enabled,
            "version": version.number if version else None,
            **{name: getattr(version, name) if version else None for name in WORDING_FIELDS},
            "shadow": shadows.picture(shadow) if (shadow := _shadow_of(instance)) else None,
            "experiment": self.get_experiment(instance),
            "created_at": instance.created_at,
            "updated_at": instance.updated_at,
        }


def _shadow_of(policy: RoutingPolicy) -> PolicyShadow | None:
    return PolicyShadow.objects.filter(policy=policy).first()


class PolicyVersionSerializer(serializers.ModelSerializer[RoutingPolicyVersion]):
    """One immutable wording: since when, and by whom."""

    class Meta:
        model = RoutingPolicyVersion
        fields = ("number", *WORDING_FIELDS, "created_at", "created_by")
        read_only_fields = fields


class ChangeSerializer(serializers.Serializer[wordings.Change]):
    """One field that two versions say differently. Null: not said."""

    field = serializers.CharField()
    before = serializers.JSONField(allow_null=True)
    after = serializers.JSONField(allow_null=True)


class PolicyDiffSerializer(serializers.Serializer[Any]):
    """What changed between two versions."""

    before = PolicyVersionSerializer()
    after = PolicyVersionSerializer()
    changes = ChangeSerializer(many=True)


class RollbackSerializer(StrictSerializer):
    """The version whose wording comes into force again."""

    version = serializers.IntegerField(min_value=1)


class SlugOfTenant[M: RoutingPolicy | Feature](Resource[M]):
    """Objects named by a slug that is taken once per tenant, and once for all: `?tenant=` says whose is meant."""

    lookup_field = "slug"

    def get_object(self) -> M:
        """Of `?tenant=` if given, else the operator's own, else the only one. Raises ApiError."""
        found = list(self.get_queryset().filter(slug=self.kwargs["slug"]))
        owner = self.request.query_params.get("tenant")
        if owner is not None:
            found = [row for row in found if row.tenant and row.tenant.slug == owner]
        elif common := [row for row in found if row.tenant is None]:
            found = common
        if not found:
            raise ApiError("not_found", "There is no such object.")
        if len(found) > 1:
            raise ApiError("conflict", "Several tenants have this: add ?tenant=.", param="tenant")
        self.check_object_permissions(self.request, found[0])
        return found[0]

    def refusal(self, principal: Principal, scope: str) -> ApiError:
        """Another tenant's object does not exist, also where several have one of this name."""
        slug = self.kwargs.get("slug")
        rows: models.QuerySet[Any] = super(ReadResource, self).get_queryset()  # whoever they belong to
        owners = set(rows.filter(slug=slug).values_list("tenant_id", flat=True))
        is_known = slug is None or principal.is_operator or bool(owners & set(principal.tenant_scopes))
        if not is_known:
            return ApiError("not_found", "There is no such object.")
        return ApiError("permission_denied", f"This needs the scope {scope!r}.")


class PolicyResource(SlugOfTenant[RoutingPolicy]):
    """Policies: a change is a new version. Disabled, not deleted: ledger rows name their versions."""

    queryset = RoutingPolicy.objects.select_related("tenant")
    serializer_class = PolicySerializer
    read_scope, write_scope = "policies:read", "policies:write"
    section = "routing"
    http_method_names = ["get", "post", "patch", "head"]
    filters: ClassVar = {"tenant": "tenant__slug", "slug": "slug"}

    def perform_create(self, serializer: serializers.BaseSerializer[RoutingPolicy]) -> None:
        """Raises ApiError as `wordings.create_policy`."""
        given = serializer.validated_data
        self.require("policies:write", given["tenant"])
        serializer.instance = wordings.create_policy(
            slug=given["slug"],
            name=given.get("name", ""),
            tenant=given["tenant"],
            is_enabled=given.get("is_enabled", True),
            wording=_wording(given, Wording(given["strategy"])),
            actor=self.principal,
        )
        self._put_shadow(serializer.instance, given)

    def perform_update(self, serializer: serializers.BaseSerializer[RoutingPolicy]) -> None:
        """Raises ApiError as `wordings.change_policy`; invalid_request for another slug or tenant."""
        policy = cast("RoutingPolicy", serializer.instance)
        given = serializer.validated_data
        for name, held in (("slug", policy.slug), ("tenant", policy.tenant)):
            if name in given and given[name] != held:
                raise ApiError("invalid_request", f"The {name} of a policy cannot change.", param=name)
        newest = wordings.newest(policy)
        serializer.instance = wordings.change_policy(
            policy=policy,
            name=given.get("name", policy.name),
            is_enabled=given.get("is_enabled", policy.is_enabled),
            wording=_wording(given, wordings.wording_of(newest) if newest else Wording("cost")),
            actor=self.principal,
        )
        self._put_shadow(serializer.instance, given)

    def _put_shadow(self, policy: RoutingPolicy, given: Mapping[str, Any]) -> None:
        """Mirrored calls are the operator's cost, so the operator alone says so. Raises as `shadows.set_shadow`."""
        if "shadow" not in given:
            return
        self.require("policies:write", None)
        if given["shadow"] is not None:
            shadows.set_shadow(policy=policy, wording=given["shadow"], actor=self.principal)
        elif _shadow_of(policy) is not None:
            shadows.clear_shadow(policy=policy, actor=self.principal)

    @extend_schema(responses={200: PolicyVersionSerializer(many=True)})
    @action(detail=True)
    def versions(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """All wordings, newest first."""
        rows = self.get_object().versions.order_by("-number")
        return Response({"data": PolicyVersionSerializer(rows, many=True).data, "next_cursor": None})

    @extend_schema(responses={200: PolicyVersionSerializer})
    @action(detail=True, url_path="versions/<int:number>", url_name="version")
    def version(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """One wording."""
        found = wordings.version_of(self.get_object(), kwargs["number"])
        return Response(PolicyVersionSerializer(found).data)

    @extend_schema(
        parameters=[
            OpenApiParameter("from", int, description="The version before `to`, unless said otherwise."),
            OpenApiParameter("to", int, description="The newest version, unless said otherwise."),
        ],
        responses={200: PolicyDiffSerializer},
    )
    @action(detail=True)
    def diff(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """What changed between two versions, field by field."""
        policy = self.get_object()
        newest = wordings.newest(policy)
        later = _number(request, "to", newest.number if newest else 1)
        after = wordings.version_of(policy, later)
        before = wordings.version_of(policy, _number(request, "from", max(later - 1, 1)))
        changes = wordings.difference(wordings.wording_of(before), wordings.wording_of(after))
        return Response(PolicyDiffSerializer({"before": before, "after": after, "changes": changes}).data)

    @extend_schema(request=RollbackSerializer, responses={200: PolicySerializer})
    @action(detail=True, methods=["post"])
    def rollback(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Put an older version's wording in force again, as a new version."""
        policy = self.get_object()
        wanted = RollbackSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        wordings.roll_back(policy=policy, number=wanted.validated_data["version"], actor=self.principal)
        policy.refresh_from_db()
        return Response(self.get_serializer(policy).data)


# ------------------------------------------------------------------ kill switches


class KillSwitchSerializer(StrictSerializer, serializers.ModelSerializer[KillSwitch]):
    """What was cut off: by whom, when and why, and when it came back. `target` is a slug."""

    is_thrown = serializers.SerializerMethodField()

    class Meta:
        model = KillSwitch
        fields = (
            "id",
            "kind",
            "target",
            "reason",
            "thrown_at",
            "thrown_by",
            "is_thrown",
            "restored_at",
            "restored_by",
        )
        read_only_fields = ("id", "thrown_at", "thrown_by", "is_thrown", "restored_at", "restored_by")
        # The verb says conflict; the serializer's own check would say so in other words.
        validators: ClassVar[list[Any]] = []

    def get_is_thrown(self, row: KillSwitch) -> bool:
        return row.restored_at is None


class KillSwitchResource(Resource[KillSwitch]):
    """Cut off a provider, a model or a tenant in all workers at once; DELETE restores it. For the operator.

    New calls are refused or go elsewhere; calls under way end as they would have.
    """

    queryset = KillSwitch.objects.all()
    serializer_class = KillSwitchSerializer
    read_scope, write_scope = "providers:read", "providers:write"
    http_method_names = ["get", "post", "delete", "head"]
    filters: ClassVar = {"kind": "kind", "target": "target"}

    def perform_create(self, serializer: serializers.BaseSerializer[KillSwitch]) -> None:
        """Raises ApiError as `switches.throw`; permission_denied without tenants:write for a tenant."""
        given = serializer.validated_data
        if given["kind"] == KillSwitch.Kind.TENANT:
            self.require("tenants:write", None)
        serializer.instance = switches.throw(**given, actor=self.principal)

    @extend_schema(responses={200: KillSwitchSerializer})
    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Restore it. The switch stays in the list, with who restored it and when. Raises ApiError: conflict."""
        switch = self.get_object()
        if switch.kind == KillSwitch.Kind.TENANT:
            self.require("tenants:write", None)
        return Response(self.get_serializer(switches.restore(switch=switch, actor=self.principal)).data)


def _number(request: Request, name: str, default: int) -> int:
    """A version's number in the query. Raises ApiError: invalid_request."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isdecimal() or len(text) > 10 or not 0 < int(text) < 2**31:
        raise ApiError("invalid_request", f"{name} must be a version's number.", param=name)
    return int(text)


def _wording(given: Mapping[str, Any], base: Wording) -> Wording:
    """`base` with what the request says."""
    return replace(base, **{name: given[name] for name in WORDING_FIELDS if name in given})
