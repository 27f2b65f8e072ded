"""Pages of the books: providers' bills held against the ledger, and corrections of what calls cost.

Both tell what providers charge. A true-up and an approved re-rating append to the ledger and are typed to be
confirmed; nothing here changes a row that stands.
"""

from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, cast
from uuid import UUID

from django import forms
from django.contrib import messages
from django.db.models import Count, Q
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone

from billing.console.resources import act, refuse
from billing.models import BillSource, ProviderBill, ReconcileLine, ReconcileRun, ReRating
from billing.reconciliation.api import BillSourceResource, ReconcileLineResource, ReconcileRunResource
from billing.reconciliation.run import summary_of
from billing.rerating.api import PERS, ReRatingResource
from tenants.console import ConsoleRequest, page_of, platform_room, words_of
from tenants.errors import ApiError

READ, WRITE = "cost:read", "prices:write"
TRUE_UP_WORD: Final = "true up"
APPROVE_WORD: Final = "append"
DATE = forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d")
DEALT: Final = (ReconcileLine.Resolution.ACCEPTED, ReconcileLine.Resolution.TRUED_UP)


# ------------------------------------------------------------------ bills and comparisons


class SourceForm(forms.Form):
    """Where a provider's bills come from."""

    slug = forms.SlugField(max_length=63)
    provider = forms.CharField(max_length=63, help_text="Its slug, as it stands in the ledger.")
    kind = forms.ChoiceField(choices=BillSource.Kind.choices, help_text="The cost API, or files.")
    api_key = forms.CharField(
        label="Admin key",
        required=False,
        max_length=1000,
        widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
        help_text="Sealed and never shown again. Empty keeps the stored one.",
    )
    base_url = forms.CharField(
        label="Address", required=False, max_length=500, help_text="Empty: the provider's own."
    )
    tolerance_abs = forms.DecimalField(
        label="Tolerance, amount", max_digits=20, decimal_places=6, min_value=0, initial=Decimal("0.01")
    )
    tolerance_percent = forms.DecimalField(
        label="Tolerance, percent", max_digits=9, decimal_places=4, min_value=0, initial=Decimal("0.5")
    )
    repull_days = forms.IntegerField(
        label="Pull again for days", min_value=0, max_value=31, initial=3, help_text="Providers correct them."
    )
    is_enabled = forms.BooleanField(label="On", required=False, initial=True)

    @property
    def values(self) -> dict[str, Any]:
        """The fields as the resource takes them: no key means the stored one."""
        data = dict(self.cleaned_data)
        if not data["api_key"]:
            del data["api_key"]
        return data


class SpanForm(forms.Form):
    """Which days of which source to compare."""

    source = forms.ChoiceField()
    start = forms.DateField(label="From", widget=DATE)
    end = forms.DateField(label="Before", widget=DATE)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        slugs = BillSource.objects.values_list("slug", flat=True)
        cast("forms.ChoiceField", self.fields["source"]).choices = [(slug, slug) for slug in slugs]


class ImportForm(forms.Form):
    """A provider's bill as a file."""

    bill = forms.FileField(label="CSV or FOCUS file")

    def clean_bill(self) -> str:
        try:
            return str(self.cleaned_data["bill"].read().decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise forms.ValidationError("The file must be UTF-8.") from error


def _span_form(request: ConsoleRequest) -> SpanForm:
    today = timezone.now().astimezone(UTC).date()
    initial = {"start": today - timedelta(days=7), "end": today}
    return SpanForm(request.POST if request.method == "POST" else None, initial=initial)


@platform_room(READ, write=WRITE)
def reconciliation(request: ConsoleRequest) -> HttpResponse:
    """Sources and comparisons; a POST compares some days."""
    form = _span_form(request)
    if request.method == "POST" and form.is_valid():
        try:
            made = act(request, ReconcileRunResource, "post", form.cleaned_data, action="create")
        except ApiError as error:
            refuse(form, error)
        else:
            return redirect("reconcile_run", made["id"])
    is_open = Q(lines__resolution__in=("open", "disputed")) & ~Q(lines__status=ReconcileLine.Status.MATCH)
    runs = ReconcileRun.objects.select_related("source").annotate(
        line_count=Count("lines"), open_count=Count("lines", filter=is_open)
    )
    context = {
        "form": form,
        "sources": BillSource.objects.annotate(bill_count=Count("bills")),
        "page": page_of(runs, cursor=request.GET.get("cursor", "")),
    }
    return render(request, "billing/reconciliation.html", context, status=422 if form.is_bound else 200)


@platform_room(WRITE, write=WRITE)
def bill_source_create(request: ConsoleRequest) -> HttpResponse:
    """One more source of bills."""
    return _source_page(request, SourceForm(request.POST or None), None)


@platform_room(WRITE, write=WRITE)
def bill_source_edit(request: ConsoleRequest, slug: str) -> HttpResponse:
    """Change a source; import a file into it."""
    source = get_object_or_404(BillSource, slug=slug)
    initial = {name: getattr(source, name, None) for name in SourceForm.base_fields if name != "api_key"}
    form = SourceForm(request.POST or None, initial=initial)
    return _source_page(request, form, source)


def _source_page(request: ConsoleRequest, form: SourceForm, source: BillSource | None) -> HttpResponse:
    if request.method == "POST" and form.is_valid():
        try:
            if source is None:
                act(request, BillSourceResource, "post", form.values, action="create")
            else:
                act(
                    request,
                    BillSourceResource,
                    "patch",
                    form.values,
                    action="partial_update",
                    slug=source.slug,
                )
        except ApiError as error:
            refuse(form, error)
        else:
            messages.success(request, "Saved.")
            return redirect("reconciliation")
    bills = ProviderBill.objects.filter(source=source).defer("payload")[:20] if source else []
    context = {"form": form, "source": source, "bills": bills, "import_form": ImportForm(auto_id="import_%s")}
    return render(request, "billing/bill_source_form.html", context, status=422 if form.is_bound else 200)


@platform_room(write=WRITE)
def bill_import(request: ConsoleRequest, slug: str) -> HttpResponse:
    """Take a file into a source."""
    source = get_object_or_404(BillSource, slug=slug)
    form = ImportForm(request.POST, request.FILES)
    if not form.is_valid():
        messages.error(request, "; ".join(str(each) for each in form.errors.get("bill", ["Choose a file."])))
        return redirect("bill_source_edit", source.slug)
    try:
        made = act(
            request,
            BillSourceResource,
            "post",
            {"text": form.cleaned_data["bill"]},
            action="import_",
            slug=source.slug,
        )
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"The bill covers {made['start']} to {made['end']}. Compare its days next.")
    return redirect("bill_source_edit", source.slug)


@platform_room(write=WRITE)
def bill_pull(request: ConsoleRequest) -> HttpResponse:
    """Fetch some days from a provider's cost API and compare them, soon."""
    form = _span_form(request)
    if not form.is_valid():
        messages.error(request, "Choose the source and the days.")
        return redirect("reconciliation")
    data = dict(form.cleaned_data)
    slug = data.pop("source")
    try:
        act(request, BillSourceResource, "post", data, action="pull", slug=slug)
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"The days are being fetched from {slug}; the comparison appears here.")
    return redirect("reconciliation")


@platform_room(READ)
def reconcile_run(request: ConsoleRequest, run_id: UUID) -> HttpResponse:
    """A comparison line by line; those to decide about first unless all are asked for."""
    run = get_object_or_404(ReconcileRun.objects.select_related("source"), pk=run_id)
    show = "all" if request.GET.get("show") == "all" else "open"
    lines = run.lines.all()
    if show == "open":
        lines = lines.exclude(status=ReconcileLine.Status.MATCH).exclude(resolution__in=DEALT)
    context = {
        "run": run,
        "show": show,
        "lines": lines[:500],
        "totals": summary_of(run).items(),
        "word": TRUE_UP_WORD,
        "resolutions": [
            choice
            for choice in ReconcileLine.Resolution.choices
            if choice[0] != ReconcileLine.Resolution.TRUED_UP
        ],
    }
    return render(request, "billing/reconcile_run.html", context)


@platform_room(write=WRITE)
def reconcile_resolve(request: ConsoleRequest, line_id: UUID) -> HttpResponse:
    """Decide about a difference; a true-up appends to the ledger, its word typed to confirm."""
    line = get_object_or_404(ReconcileLine, pk=line_id)
    resolution = request.POST.get("resolution", "")
    is_true_up = resolution == ReconcileLine.Resolution.TRUED_UP
    if is_true_up and request.POST.get("confirm", "").strip() != TRUE_UP_WORD:
        messages.error(request, f"Type {TRUE_UP_WORD} to confirm. Nothing was appended.")
        return redirect("reconcile_run", line.run_id)
    decision = {"resolution": resolution, "note": request.POST.get("note", "")}
    try:
        act(request, ReconcileLineResource, "post", decision, action="resolve", pk=line.pk)
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(
            request, f"{line.day} {line.model_family or 'in total'}: {resolution.replace('_', ' ')}."
        )
    return redirect("reconcile_run", line.run_id)


# ------------------------------------------------------------------ re-rating


class ReRatingForm(forms.Form):
    """A corrected rate over a window. Without a rate, the price book as it stands."""

    reason = forms.CharField(max_length=500, help_text="For the people who read it later.")
    provider = forms.CharField(max_length=63, help_text="Its slug.")
    provider_model = forms.CharField(
        label="Its model", max_length=200, required=False, help_text="Empty: all."
    )
    start = forms.DateField(label="From (UTC)", widget=DATE)
    end = forms.DateField(label="Before (UTC)", widget=DATE)
    tenants = forms.CharField(required=False, help_text="Slugs, separated by commas. Empty: all.")
    component = forms.CharField(
        max_length=32, required=False, help_text="E.g. input or output. Empty: the price book rules."
    )
    price = forms.DecimalField(max_digits=20, decimal_places=10, min_value=0, required=False)
    per = forms.TypedChoiceField(
        choices=[(each, f"{each:,}") for each in PERS], coerce=int, initial=1_000_000, required=False
    )
    currency = forms.CharField(max_length=3, initial="USD", required=False)
    needs_two = forms.BooleanField(label="Somebody else must approve it", required=False)

    def clean(self) -> None:
        super().clean()
        if bool(self.cleaned_data.get("component")) != (self.cleaned_data.get("price") is not None):
            self.add_error("price", "A corrected rate has a component and a price.")

    @property
    def values(self) -> dict[str, Any]:
        """The fields as the resource takes them; days begin at midnight UTC."""
        data = dict(self.cleaned_data)
        rate = {name: data.pop(name) for name in ("component", "price", "per", "currency")}
        for name in ("start", "end"):
            data[name] = datetime.combine(data[name], time(), UTC)
        rates = [rate | {"currency": (rate["currency"] or "USD").upper()}] if rate["component"] else []
        return data | {"tenants": words_of(data["tenants"]), "rates": rates}


@platform_room(READ)
def rerating_list(request: ConsoleRequest) -> HttpResponse:
    """Corrections asked for, newest first."""
    page = page_of(ReRating.objects.all(), cursor=request.GET.get("cursor", ""))
    return render(request, "billing/rerating_list.html", {"page": page})


@platform_room(WRITE, write=WRITE)
def rerating_create(request: ConsoleRequest) -> HttpResponse:
    """Ask for a dry run."""
    form = ReRatingForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            made = act(request, ReRatingResource, "post", form.values, action="create")
        except ApiError as error:
            refuse(form, error, {"rates": "component"})
        else:
            messages.success(request, "The dry run is on its way; nothing is booked before it is approved.")
            return redirect("rerating_detail", made["id"])
    return render(request, "billing/rerating_form.html", {"form": form}, status=422 if form.is_bound else 200)


@platform_room(READ)
def rerating_detail(request: ConsoleRequest, rerating_id: UUID) -> HttpResponse:
    """What the dry run found, and the decision."""
    row = get_object_or_404(ReRating, pk=rerating_id)
    context = {"row": row, "word": APPROVE_WORD, "is_ready": row.status == ReRating.Status.READY}
    return render(request, "billing/rerating_detail.html", context)


@platform_room(write=WRITE)
def rerating_decide(request: ConsoleRequest, rerating_id: UUID) -> HttpResponse:
    """Approve the dry run that was looked at, its word typed to confirm, or reject it."""
    row = get_object_or_404(ReRating, pk=rerating_id)
    is_approval = request.POST.get("decision") == "approve"
    if is_approval and request.POST.get("confirm", "").strip() != APPROVE_WORD:
        messages.error(request, f"Type {APPROVE_WORD} to confirm. Nothing was booked.")
        return redirect("rerating_detail", row.pk)
    try:
        if is_approval:
            seen = {"digest": request.POST.get("digest", "")}
            act(request, ReRatingResource, "post", seen, action="approve", pk=row.pk)
        else:
            act(request, ReRatingResource, "post", action="reject", pk=row.pk)
    except ApiError as error:
        messages.error(request, error.message)
    else:
        words = "Approved: the deltas are being appended." if is_approval else "Rejected. Nothing was booked."
        messages.success(request, words)
    return redirect("rerating_detail", row.pk)
