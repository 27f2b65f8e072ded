"""Unit economics over the API: the margin page's numbers, the same as CSV, and the month's outlook.

Operators only: it all tells what providers charge. Shapes alone, the sums are `billing.economics.report`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.economics.forecast import Forecast
from billing.economics.report import (
    FEES_ALLOCATION,
    GROUPS,
    Amounts,
    EconomicsReport,
    Figures,
    Row,
    outlook,
    report,
)
from billing.query import (
    IgnoreAccept,
    count_of,
    decimal_of,
    flag_of,
    instant_of,
    known_parameters,
    names_of,
    uuids_of,
)
from billing.rating.money import amount_text, fixed_text
from tenants.errors import ApiError
from tenants.models import ApiKey, Tenant
from tenants.rest import Guarded
from tenants.spreadsheet import line

_FILTERS: Final = tuple(name for name in GROUPS if name != "day")
PARAMETERS: Final = (
    "from", "to", "group_by", "currency", "target_margin_percent", "users", "sort", "limit", "losing",
    *_FILTERS,
)  # fmt: skip
SORTS: Final = ("label", "margin")
MOST_ROWS: Final = 100_000
_DESCRIBED = [
    OpenApiParameter("from", OpenApiTypes.DATETIME, description="30 days before `to` unless given."),
    OpenApiParameter("to", OpenApiTypes.DATETIME, description="Exclusive; now unless given."),
    OpenApiParameter("group_by", description=f"Of {', '.join(GROUPS)}; `feature` unless given."),
    OpenApiParameter("currency", description="What everything is converted into; USD unless given."),
    OpenApiParameter("target_margin_percent", description="For the target price; 50 unless given."),
    OpenApiParameter("users", OpenApiTypes.BOOL, description="Count end users (reads the ledger); true."),
    OpenApiParameter("sort", description="`label`, or `margin`: the lowest first."),
    OpenApiParameter("limit", OpenApiTypes.INT, description="At most so many rows."),
    OpenApiParameter("losing", OpenApiTypes.BOOL, description="Only rows with a margin below zero."),
    *(OpenApiParameter(name, description="Only these, separated by commas.") for name in _FILTERS),
]
_MONEY: Final = tuple(each.name.removesuffix("_pico") for each in fields(Amounts))


class EconomicsSerializer(serializers.Serializer[Any]):
    """Rows and totals; money as plain decimals of `currency`, null where a divisor is zero or money is foreign."""

    data = serializers.ListField(child=serializers.DictField())  # type: ignore[assignment]  # a field
    totals = serializers.DictField()
    currency = serializers.CharField()
    start = serializers.DateTimeField()
    end = serializers.DateTimeField()
    as_of = serializers.DateTimeField()
    base_fees = serializers.CharField(help_text="How base fees were shared out.")
    unallocated_base_revenue = serializers.CharField(help_text="Of tenants without charges: in totals alone.")
    reads_ledger = serializers.ListField(child=serializers.CharField())


class EconomicsView(Guarded):
    """Revenue, cost, overhead, margin and unit figures by group."""

    read_scope = "cost:read"
    http_method_names = ["get", "head"]

    @extend_schema(operation_id="economics", parameters=_DESCRIBED, responses={200: EconomicsSerializer})
    def get(self, request: Request) -> Response:
        """Unit economics of the span."""
        found, rows = self.ask(request)
        names = Names.of(found)
        return Response(
            {
                "data": [{**names.label(found, row), **figures_shown(row.figures)} for row in rows],
                "totals": figures_shown(found.totals),
                "currency": found.currency,
                "start": found.start,
                "end": found.end,
                "as_of": found.as_of,
                "base_fees": FEES_ALLOCATION,
                "unallocated_base_revenue": amount_text(found.unallocated_base_pico),
                "reads_ledger": list(found.reads_ledger),
            }
        )

    def ask(self, request: Request) -> tuple[EconomicsReport, Sequence[Row]]:
        """The report the parameters describe, and its rows as sorted and cut. Raises ApiError."""
        known_parameters(request, *PARAMETERS)
        end = instant_of(request, "to") or timezone.now()
        sort = request.query_params.get("sort", "label")
        if sort not in SORTS:
            raise ApiError("invalid_request", f"{sort!r} is none of {', '.join(SORTS)}.", param="sort")
        currency = request.query_params.get("currency", "USD")
        if not (len(currency) == 3 and currency.isascii() and currency.isupper()):
            raise ApiError("invalid_request", "currency is an ISO 4217 code.", param="currency")
        found = report(
            start=instant_of(request, "from") or end - timedelta(days=30),
            end=end,
            group_by=names_of(request, "group_by", "feature"),
            filters=_filters(request),
            currency=currency,
            target_margin_percent=decimal_of(request, "target_margin_percent", Decimal(50)),
            with_users=flag_of(request, "users", default=True),
        )
        rows: Sequence[Row] = found.rows if sort == "label" else found.by_margin()
        if flag_of(request, "losing", default=False):
            losing = found.losing()
            rows = losing if sort == "margin" else [row for row in found.rows if row in losing]
        return found, rows[: count_of(request, "limit", MOST_ROWS, most=MOST_ROWS)]


def _filters(request: Request) -> dict[str, list[Any]]:
    filters: dict[str, list[Any]] = {
        name: names_of(request, name)
        for name in _FILTERS
        if name in request.query_params and name not in ("tenant", "key")
    }
    if "key" in request.query_params:
        filters["key"] = uuids_of(request, "key")
    if "tenant" in request.query_params:
        slugs = set(names_of(request, "tenant"))
        ids = dict(Tenant.objects.filter(slug__in=slugs).values_list("slug", "id"))
        if unknown := slugs - set(ids):
            raise ApiError("not_found", f"There is no tenant {min(unknown)!r}.", param="tenant")
        filters["tenant"] = list(ids.values())
    return filters


class EconomicsCsv(EconomicsView):
    """The same rows as a file."""

    content_negotiation_class = IgnoreAccept

    @extend_schema(
        operation_id="economics_csv", parameters=_DESCRIBED, responses={(200, "text/csv"): OpenApiTypes.STR}
    )
    def get(self, request: Request) -> HttpResponse:  # type: ignore[override]  # a file, not data
        """Unit economics as CSV (RFC 4180, UTF-8). A row with money that has no rate says so in `foreign`."""
        found, rows = self.ask(request)
        names = Names.of(found)
        columns = [*found.group_by, *figures_shown(found.totals)]
        text = line([*columns, "currency"])
        for row in rows:
            shown = {**names.label(found, row), **figures_shown(row.figures)}
            shown["foreign"] = " ".join(sorted(shown["foreign"]))
            text += line([*(shown[name] for name in columns), found.currency])
        return HttpResponse(
            text,
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="economics.csv"'},
        )


class Names:
    """Slugs of tenants and names of keys for the labels of a report."""

    def __init__(self, tenants: Mapping[UUID, str], keys: Mapping[UUID, str]) -> None:
        self.tenants = tenants
        self.keys = keys

    @classmethod
    def of(cls, found: EconomicsReport) -> "Names":
        ids: dict[str, set[UUID]] = {"tenant": set(), "key": set()}
        for row in found.rows:
            for name, part in zip(found.group_by, row.label, strict=True):
                if name in ids and isinstance(part, UUID):
                    ids[name].add(part)
        return cls(
            dict(Tenant.objects.filter(id__in=ids["tenant"]).values_list("id", "slug")),
            dict(ApiKey.objects.filter(id__in=ids["key"]).values_list("id", "name")),
        )

    def label(self, found: EconomicsReport, row: Row) -> dict[str, Any]:
        """The groups of a row as clients get them; a key by its id, with its name beside it."""
        shown: dict[str, Any] = {}
        for name, part in zip(found.group_by, row.label, strict=True):
            if isinstance(part, date):
                shown[name] = part.isoformat()
            elif isinstance(part, UUID):
                shown[name] = self.tenants.get(part, str(part)) if name == "tenant" else str(part)
                if name == "key":
                    shown["key_name"] = self.keys.get(part, "")
            else:
                shown[name] = part
        return shown


def figures_shown(figures: Figures) -> dict[str, Any]:
    """Exact decimals as text; unit figures with 6 decimals, percent with 2 (R26)."""
    counts, amounts, units = figures.counts, figures.amounts, figures.units
    derived = {
        "revenue": amounts.revenue_pico,
        "cost": amounts.cost_pico,
        "overhead_cost": amounts.overhead_cost_pico,
    }
    return {
        "requests": counts.requests,
        "successes": counts.successes,
        "attempts": counts.attempts,
        "unpriced": counts.unpriced,
        "input_tokens": counts.input_tokens,
        "output_tokens": counts.output_tokens,
        "active_users": figures.active_users,
        **{name: amount_text(pico) for name, pico in derived.items()},
        **{name: amount_text(getattr(amounts, f"{name}_pico")) for name in _MONEY},
        "contribution_margin": None if figures.margin_pico is None else amount_text(figures.margin_pico),
        "contribution_margin_percent": _fixed(units.contribution_margin_percent_e2 if units else None, 2),
        "cost_per_1k_tokens": _fixed(units.cost_per_1k_tokens_e6 if units else None),
        "cost_per_1k_input_tokens": _fixed(figures.cost_per_1k_input_tokens_e6),
        "cost_per_1k_output_tokens": _fixed(figures.cost_per_1k_output_tokens_e6),
        "cost_per_request": _fixed(units.cost_per_request_e6 if units else None),
        "cost_per_success": _fixed(figures.cost_per_success_e6),
        "cost_per_active_user": _fixed(units.cost_per_active_user_e6 if units else None),
        "break_even_price_per_1k_tokens": _fixed(units.break_even_price_per_1k_tokens_e6 if units else None),
        "price_per_1k_tokens_for_target": _fixed(units.price_per_1k_tokens_for_target_e6 if units else None),
        "foreign": {
            currency: {
                "revenue": amount_text(part.revenue_pico),
                "cost": amount_text(part.cost_pico),
                "byok_cost": amount_text(part.byok_cost_pico),
            }
            for currency, part in figures.foreign.items()
        },
    }


def _fixed(value: int | None, digits: int = 6) -> str | None:
    return None if value is None else fixed_text(value, digits)


# ------------------------------------------------------------------ outlook


class ForecastSerializer(serializers.Serializer[Any]):
    """Where the running UTC month will end, per currency."""

    data = serializers.ListField(child=serializers.DictField())  # type: ignore[assignment]  # a field
    as_of = serializers.DateTimeField()


class EconomicsForecast(Guarded):
    """The month's end by the days so far: point, 80 % interval, the method and how far it was off before."""

    read_scope = "cost:read"
    http_method_names = ["get", "head"]

    @extend_schema(
        operation_id="economics_forecast",
        parameters=[OpenApiParameter("tenant", description="Only these, separated by commas.")],
        responses={200: ForecastSerializer},
    )
    def get(self, request: Request) -> Response:
        """The running month's revenue, cost and margin."""
        known_parameters(request, "tenant")
        now = datetime.now(UTC)
        filters = _filters(request)
        return Response(
            {
                "data": [
                    {
                        "currency": each.currency,
                        "revenue": forecast_shown(each.revenue),
                        "cost": forecast_shown(each.cost),
                        "contribution_margin": None
                        if each.margin_pico is None
                        else amount_text(each.margin_pico),
                    }
                    for each in outlook(as_of=now, tenant_ids=filters.get("tenant"))
                ],
                "as_of": now,
            }
        )


def forecast_shown(found: Forecast | None) -> dict[str, Any] | None:
    """`wape` is Σ|error| / Σ|actual| of the month's total at the same day, over `origins` past months."""
    if found is None:
        return None
    return {
        "method": found.method,
        "total": amount_text(found.total_pico),
        "low": None if found.low_pico is None else amount_text(found.low_pico),
        "high": None if found.high_pico is None else amount_text(found.high_pico),
        "accuracy": None if found.accuracy is None else asdict(found.accuracy),
    }
