"""Budget pages: what is used of each limit, where it is going, and the form to set one."""

from collections.abc import Iterable
from typing import Any, cast
from uuid import UUID

from django import forms
from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone

from billing.api import BudgetResource
from billing.console.budget_rows import budget_rows
from billing.console.resources import act, refuse
from billing.models import Budget
from tenants.console import ConsoleRequest, page_of
from tenants.errors import ApiError
from tenants.models import ApiKey, Tenant
from tenants.places import both_rooms, here
from tenants.principal import Principal

READ, WRITE = "budgets:read", "budgets:write"
MAX_KEYS_OFFERED = 300
SCOPE = ("tenant", "key", "feature", "model", "user", "plan", "provider", "tag")


class BudgetForm(forms.Form):
    """A limit. Empty scope fields match every call of the tenant."""

    tenant = forms.ChoiceField(required=False)
    name = forms.CharField(max_length=100, required=False, help_text="What people call it.")
    currency = forms.CharField(
        max_length=3, required=False, help_text="Of a price: the tenant's unless given; of a cost: USD."
    )
    limit = forms.DecimalField(
        max_digits=24,
        decimal_places=6,
        min_value=0,
        help_text="In the tenant's currency, or whole tokens or requests.",
    )
    measure = forms.ChoiceField(choices=Budget.Measure.choices, initial=Budget.Measure.PRICE)
    mode = forms.ChoiceField(
        choices=Budget.Mode.choices,
        initial=Budget.Mode.HARD,
        help_text="Hard refuses calls that do not fit, soft only tells, throttle slows down or reroutes.",
    )
    throttle_policy = forms.CharField(
        max_length=63, required=False, help_text="Cheaper policy that calls take once it is used up."
    )
    throttle_rpm = forms.IntegerField(
        label="Throttle to calls a minute", min_value=1, max_value=2**31 - 1, required=False
    )
    window = forms.ChoiceField(choices=Budget.Window.choices, initial=Budget.Window.MONTH)
    rolling_s = forms.IntegerField(
        label="Rolling over seconds",
        min_value=60,
        max_value=2**31 - 1,
        required=False,
        help_text="For a rolling window.",
    )
    timezone = forms.CharField(
        label="Time zone", max_length=64, required=False, help_text="Empty: the tenant's."
    )
    anchor_day = forms.IntegerField(
        label="Month begins on day", min_value=1, max_value=31, initial=1, required=False
    )
    week_start = forms.TypedChoiceField(
        label="Week begins on",
        coerce=int,
        choices=tuple(
            enumerate(("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"))
        ),
        initial=0,
        required=False,
    )
    carry_over = forms.ChoiceField(choices=Budget.CarryOver.choices, initial=Budget.CarryOver.NONE)
    carry_max_percent = forms.IntegerField(
        label="At most percent", min_value=1, max_value=1000, required=False
    )
    carry_max_amount = forms.DecimalField(
        label="At most", max_digits=24, decimal_places=6, min_value=0, required=False
    )
    include_byok = forms.BooleanField(label="Count calls on the tenant's own provider keys", required=False)
    include_overhead = forms.BooleanField(
        label="Count shadow calls and evaluations",
        required=False,
        help_text="Of the whole house's cost alone.",
    )
    include_failed = forms.BooleanField(
        label="Count the cost of failed attempts", required=False, initial=True
    )
    key = forms.ChoiceField(label="API key", required=False)
    feature = forms.CharField(max_length=100, required=False)
    model = forms.CharField(max_length=200, required=False)
    user = forms.CharField(label="End user", max_length=200, required=False)
    provider = forms.CharField(max_length=63, required=False)
    plan = forms.CharField(max_length=63, required=False, help_text="Its slug.")
    tag = forms.CharField(max_length=141, required=False, help_text="key=value, as calls are tagged.")
    thresholds = forms.CharField(
        label="Alert at percent",
        required=False,
        initial="50, 80, 100",
        help_text="Default channels are told once per window and threshold.",
    )
    is_enabled = forms.BooleanField(label="In force", required=False, initial=True)

    def __init__(self, *args: Any, tenants: Iterable[Tenant], keys: Iterable[ApiKey], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        of_tenant: dict[str, list[tuple[str, str]]] = {}
        for key in keys:
            of_tenant.setdefault(key.tenant.name if key.tenant else "", []).append((str(key.pk), key.name))
        cast("forms.ChoiceField", self.fields["tenant"]).choices = [
            ("", "the whole house: all tenants together"),
            *((tenant.slug, tenant.name) for tenant in tenants),
        ]
        cast("forms.ChoiceField", self.fields["key"]).choices = [("", "every key"), *of_tenant.items()]

    def clean_thresholds(self) -> list[int]:
        words = self.cleaned_data["thresholds"].replace(",", " ").replace("%", " ").split()
        if not all(word.isascii() and word.isdecimal() for word in words):
            raise forms.ValidationError("Whole percentages, separated by commas.")
        return sorted({int(word) for word in words})

    @property
    def values(self) -> dict[str, Any]:
        """The fields as the resource takes them."""
        data = dict(self.cleaned_data)
        scope: dict[str, Any] = {name: data.pop(name) for name in SCOPE}
        for name in ("tenant", "key", "plan"):
            scope[name] = scope[name] or None
        if not data["currency"]:
            del data["currency"]  # the tenant's own, which the resource knows
        for name in ("anchor_day", "week_start"):
            if data[name] in (None, ""):
                del data[name]
        return data | {"scope": scope}


def _tenants(request: ConsoleRequest) -> QuerySet[Tenant]:
    if request.tenant is not None:
        return Tenant.objects.filter(pk=request.tenant.pk)
    return Tenant.objects.visible_to(request.principal, WRITE).order_by("name")


def _keys(request: ConsoleRequest, tenant: Tenant | None) -> Iterable[ApiKey]:
    rows = ApiKey.objects.visible_to(request.principal, READ).filter(revoked_at__isnull=True)
    rows = rows.filter(tenant__isnull=False) if tenant is None else rows.filter(tenant=tenant)
    return rows.select_related("tenant").order_by("tenant__name", "name")[:MAX_KEYS_OFFERED]


def _rows(principal: Principal, tenant: Tenant | None) -> QuerySet[Budget]:
    rows = Budget.objects.visible_to(principal, READ).select_related("tenant", "api_key", "plan")
    return rows if tenant is None else rows.filter(tenant=tenant)


@both_rooms(READ)
def budget_list(request: ConsoleRequest) -> HttpResponse:
    """Every limit, what its window has used, and when it is reached at this pace."""
    rows = _rows(request.principal, request.tenant)
    slug, measure = request.GET.get("tenant", "").strip(), request.GET.get("measure", "")
    if request.tenant is None and slug:
        rows = rows.filter(tenant__slug=slug)
    if measure in Budget.Measure:
        rows = rows.filter(measure=measure)
    page = page_of(rows, cursor=request.GET.get("cursor", ""))
    context = {
        "page": page,
        "rows": budget_rows(page.rows, principal=request.principal, now=timezone.now()),
        "asked_tenant": slug,
        "measure": measure,
        "measures": Budget.Measure.choices,
        "is_filtered": bool(slug or measure),
    }
    return render(request, "billing/budget_list.html", context)


@both_rooms(WRITE, write=WRITE)
def budget_create(request: ConsoleRequest) -> HttpResponse:
    """A new limit."""
    initial = {"tenant": request.GET.get("tenant", "")}
    form = BudgetForm(
        request.POST or None,
        initial=initial,
        tenants=_tenants(request),
        keys=_keys(request, request.tenant),
    )
    return _form_page(request, form, None)


@both_rooms(WRITE, write=WRITE)
def budget_edit(request: ConsoleRequest, budget_id: UUID) -> HttpResponse:
    """Change a limit. Its window goes on with what it has used."""
    budget = get_object_or_404(_rows(request.principal, request.tenant), pk=budget_id)
    form = BudgetForm(
        request.POST or None,
        initial=_initial(budget),
        tenants=[budget.tenant] if budget.tenant else [],
        keys=_keys(request, budget.tenant),
    )
    return _form_page(request, form, budget)


def _initial(budget: Budget) -> dict[str, Any]:
    held = {
        name: getattr(budget, name)
        for name in BudgetForm.base_fields
        if name not in ("key", "user", "tenant", "plan")
    }
    return {
        **held,
        "tenant": budget.tenant.slug if budget.tenant else "",
        "plan": budget.plan.slug if budget.plan else "",
        "key": str(budget.api_key_id or ""),
        "user": budget.end_user,
        "limit": budget.limit.normalize() if budget.limit != int(budget.limit) else int(budget.limit),
        "thresholds": ", ".join(map(str, budget.thresholds)),
    }


def _of_scope(error: ApiError) -> dict[str, str]:
    """`scope.key` is about the field key."""
    return {"scope": (error.param or "").rpartition(".")[2]}


def _form_page(request: ConsoleRequest, form: BudgetForm, budget: Budget | None) -> HttpResponse:
    if budget is not None or request.tenant is not None:
        owner = budget.tenant if budget is not None else request.tenant
        form.fields["tenant"].widget = forms.HiddenInput()
        form.initial["tenant"] = owner.slug if owner else ""
        if owner is not None:
            del form.fields["include_overhead"]
    if request.method == "POST" and form.is_valid():
        values = form.values
        if budget is not None or request.tenant is not None:
            values["scope"]["tenant"] = form.initial["tenant"] or None
        try:
            if budget is None:
                act(request, BudgetResource, "post", values, action="create")
            else:
                act(request, BudgetResource, "patch", values, action="partial_update", pk=budget.pk)
        except ApiError as error:
            refuse(form, error, _of_scope(error))
        else:
            messages.success(request, "The budget is in force within seconds.")
            return redirect(here(request, "budget_list"))
    row = None
    if budget is not None:
        (row,) = budget_rows([budget], principal=request.principal, now=timezone.now())
    context = {"form": form, "budget": budget, "row": row}
    return render(request, "billing/budget_form.html", context, status=422 if form.is_bound else 200)


@both_rooms(write=WRITE)
def budget_remove(request: ConsoleRequest, budget_id: UUID) -> HttpResponse:
    """Take a limit away; calls are no longer held against it."""
    budget = get_object_or_404(_rows(request.principal, request.tenant), pk=budget_id)
    try:
        act(request, BudgetResource, "delete", action="destroy", pk=budget.pk)
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"The budget {budget.name or budget} is gone.")
    return redirect(here(request, "budget_list"))
