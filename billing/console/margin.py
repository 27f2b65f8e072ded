"""The margin page: what is earned and what it costs, by any two dimensions; where the month will end.

Tells what providers charge, so it takes `cost:read`. The sums are `billing.economics.report`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from django import forms
from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone

from billing.console.resources import download
from billing.economics.api import EconomicsCsv
from billing.economics.report import EconomicsReport, Row, outlook, report
from billing.models import FxRate
from tenants.console import ConsoleRequest, add_refusal, platform_room
from tenants.errors import ApiError
from tenants.models import ApiKey, Tenant

READ: Final = "cost:read"
DIMENSIONS: Final = (
    ("feature", "Feature"),
    ("tenant", "Tenant"),
    ("plan", "Plan"),
    ("model", "Model"),
    ("provider", "Provider"),
    ("region", "Region"),
    ("key", "API key"),
    ("day", "Day"),
)
SPANS: Final = (
    ("month", "This month"),
    ("last_month", "Last month"),
    ("7d", "7 days"),
    ("30d", "30 days"),
    ("90d", "90 days"),
)
ROWS_SHOWN: Final = 200


class MarginForm(forms.Form):
    """What stands in the address."""

    by = forms.ChoiceField(label="By", choices=DIMENSIONS, initial="tenant", required=False)
    then = forms.ChoiceField(label="and", choices=(("", "nothing else"), *DIMENSIONS), required=False)
    span = forms.ChoiceField(label="Time", choices=SPANS, initial="month", required=False)
    currency = forms.ChoiceField(initial="USD", required=False)
    target = forms.DecimalField(
        label="Target margin %", min_value=0, max_value=Decimal("99.99"), required=False, initial=50
    )
    tenant = forms.SlugField(
        required=False, max_length=63, widget=forms.TextInput(attrs={"placeholder": "slug"})
    )
    losing = forms.BooleanField(label="Only losing", required=False)

    def __init__(self, *args: Any, currencies: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["currency"] = forms.ChoiceField(
            label="In", choices=[(each, each) for each in currencies], required=False, initial="USD"
        )
        self.order_fields(["by", "then", "span", "currency"])


@dataclass(frozen=True, slots=True)
class Asked:
    """The page's question, from an address that may say anything."""

    group_by: tuple[str, ...]
    start: datetime
    end: datetime
    currency: str
    target: Decimal
    tenant: Tenant | None
    losing: bool

    @property
    def query(self) -> dict[str, str]:
        """The same question in the API's words."""
        asked = {
            "group_by": ",".join(self.group_by),
            "from": self.start.isoformat(),
            "to": self.end.isoformat(),
            "currency": self.currency,
            "target_margin_percent": f"{self.target:f}",
            "sort": "margin",
        }
        if self.tenant is not None:
            asked["tenant"] = self.tenant.slug
        return asked | ({"losing": "true"} if self.losing else {})


@dataclass(frozen=True, slots=True)
class ShownRow:
    """A row with its labels for people, and how long its margin's bar is (percent of the greatest)."""

    labels: tuple[str, ...]
    row: Row
    bar_percent: int
    is_losing: bool


def months_begin(now: datetime) -> datetime:
    """The first instant of the UTC month, in which the books are kept."""
    return datetime.combine(now.astimezone(UTC).date().replace(day=1), time(), UTC)


def span_of(name: str, now: datetime) -> tuple[datetime, datetime]:
    """[start, end) of a span of the page."""
    first = months_begin(now)
    if name == "last_month":
        return months_begin(first - timedelta(days=1)), first
    if name in ("7d", "30d", "90d"):
        return now - timedelta(days=int(name[:-1])), now
    return first, now


def currencies() -> list[str]:
    """What amounts can be shown in: the tenants' currencies, and those with rates into them."""
    known = {"USD", *Tenant.objects.values_list("currency", flat=True).distinct()}
    known |= set(FxRate.objects.values_list("quote", flat=True).distinct())
    return sorted(known)


def _asked(request: ConsoleRequest) -> tuple[MarginForm, Asked]:
    """The form and what it asks; what is not valid falls back to the page's own start."""
    start = {"by": "tenant", "span": "month", "currency": "USD", "target": "50"}
    form = MarginForm({**start, **request.GET.dict()}, currencies=currencies())
    data = form.cleaned_data if form.is_valid() else {}
    begin, end = span_of(data.get("span") or "month", timezone.now())
    first, second = data.get("by") or "tenant", data.get("then") or ""
    tenant = None
    if data.get("tenant"):
        tenant = Tenant.objects.filter(slug=data["tenant"]).first()
        if tenant is None:
            form.add_error("tenant", "There is no such tenant.")
    return form, Asked(
        group_by=(first,) if second in ("", first) else (first, second),
        start=begin,
        end=end,
        currency=data.get("currency") or "USD",
        target=data["target"] if data.get("target") is not None else Decimal(50),
        tenant=tenant,
        losing=bool(data.get("losing")),
    )


@platform_room(READ)
def margin(request: ConsoleRequest) -> HttpResponse:
    """Revenue, cost, overhead and margin by one or two dimensions, the worst first, and the outlook."""
    form, asked = _asked(request)
    found, rows = None, []
    try:
        found = report(
            start=asked.start,
            end=asked.end,
            group_by=asked.group_by,
            filters={"tenant": [asked.tenant.pk]} if asked.tenant else {},
            currency=asked.currency,
            target_margin_percent=asked.target,
        )
    except ApiError as error:
        add_refusal(form, error)
    else:
        rows = _shown(found, found.losing() if asked.losing else found.by_margin())
    context = {
        "form": form,
        "asked": asked,
        "report": found,
        "rows": rows[:ROWS_SHOWN],
        "has_more": len(rows) > ROWS_SHOWN,
        "losing_count": len(found.losing()) if found else 0,
        "headings": [dict(DIMENSIONS)[name] for name in asked.group_by],
        "outlooks": outlook(as_of=timezone.now(), tenant_ids=[asked.tenant.pk] if asked.tenant else None),
        "csv_query": request.GET.urlencode(),
    }
    return render(request, "billing/margin.html", context)


@platform_room(READ)
def margin_csv(request: ConsoleRequest) -> HttpResponse:
    """The same rows as a file."""
    _, asked = _asked(request)
    return download(request, EconomicsCsv, asked.query)


def _shown(found: EconomicsReport, rows: Sequence[Row]) -> list[ShownRow]:
    names = _names(found)
    greatest = max((abs(row.figures.margin_pico or 0) for row in found.rows), default=0) or 1
    return [
        ShownRow(
            labels=tuple(
                _label(name, part, names) for name, part in zip(found.group_by, row.label, strict=True)
            ),
            row=row,
            bar_percent=int(abs(row.figures.margin_pico or 0) * 100 // greatest),
            is_losing=(row.figures.margin_pico or 0) < 0,
        )
        for row in rows
    ]


def _names(found: EconomicsReport) -> Mapping[UUID, str]:
    """Names of the tenants and keys among the labels."""
    ids = {part for row in found.rows for part in row.label if isinstance(part, UUID)}
    named: dict[UUID, str] = {}
    if "tenant" in found.group_by:
        named |= dict(Tenant.objects.filter(id__in=ids).values_list("id", "name"))
    if "key" in found.group_by:
        named |= dict(ApiKey.objects.filter(id__in=ids).values_list("id", "name"))
    return named


def _label(name: str, part: Any, names: Mapping[UUID, str]) -> str:
    if isinstance(part, UUID):
        return names.get(part, "of nobody" if part.int == 0 else str(part))
    return str(part) or f"without {name}"
