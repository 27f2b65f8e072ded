"""Plan pages: what is sold, its versions, who is on which, and the editor with a worked example.

A version never changes; saving publishes the next one. The example is computed, never written.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import orjson
from django import forms
from django.contrib import messages
from django.db.models import Count, Q
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render

from billing.api import PlanResource
from billing.console.resources import act, refuse
from billing.models import Plan, PlanVersion, Subscription
from billing.rating.example import Example, Month, NoChargeError, example
from billing.rating.lines import Unrateable
from billing.rating.money import plain_text
from billing.rating.prices import compile_charges
from tenants.console import ConsoleRequest, page_of, platform_room, words_of
from tenants.errors import ApiError

READ, WRITE = "plans:read", "plans:write"
RECIPES: Final[Mapping[str, list[dict[str, Any]]]] = {
    "Cost plus 20 %": [{"model": "cost_plus", "markup_percent": "20"}],
    "Per million tokens": [
        {
            "model": "standard",
            "components": {
                "input": {"price": "2.00", "per": 1_000_000},
                "output": {"price": "8.00", "per": 1_000_000},
            },
        }
    ],
    "Graduated": [
        {
            "model": "graduated",
            "components": {
                "tokens": {
                    "tiers": [
                        {"up_to": "10000000", "price": "4.00", "per": 1_000_000},
                        {"up_to": None, "price": "3.00", "per": 1_000_000},
                    ]
                }
            },
        }
    ],
    "Packages of a million": [
        {"model": "package", "components": {"tokens": {"size": "1000000", "price": "5.00"}}}
    ],
}


class JsonField(forms.CharField):
    """A list as JSON."""

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value)
        if not text:
            return []
        try:
            found = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise forms.ValidationError(f"This is no JSON: {error}.") from error
        if not isinstance(found, list):
            raise forms.ValidationError("Charges are a list: [ … ].")
        return found

    def prepare_value(self, value: Any) -> Any:
        return value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


class PlanForm(forms.Form):
    """A plan's wording."""

    slug = forms.SlugField(max_length=63)
    name = forms.CharField(max_length=200)
    currency = forms.CharField(max_length=3, initial="USD")
    interval = forms.ChoiceField(choices=PlanVersion.Interval.choices)
    base_amount = forms.DecimalField(
        label="Base amount per interval", max_digits=20, decimal_places=4, min_value=0, initial=0
    )
    is_in_advance = forms.BooleanField(label="Base amount is due in advance", required=False)
    min_commitment = forms.DecimalField(
        label="Minimum commitment",
        max_digits=20,
        decimal_places=4,
        min_value=0,
        initial=0,
        help_text="Of usage; what is missing is billed.",
    )
    trial_days = forms.IntegerField(
        label="Trial days", min_value=0, max_value=366, initial=0, help_text="For new tenants."
    )
    proration = forms.ChoiceField(
        choices=PlanVersion.Proration.choices, help_text="What a change within a period counts in."
    )
    base_tax = forms.SlugField(
        label="Tax key of the base", max_length=63, required=False, help_text="Empty: standard."
    )
    charges = JsonField(
        required=False,
        widget=forms.Textarea(attrs={"rows": 16, "spellcheck": "false"}),
        help_text="A list of charges. The first one whose models fit prices a call.",
    )
    models = forms.CharField(
        label="Models",
        required=False,
        widget=forms.Textarea(attrs={"rows": 2, "spellcheck": "false"}),
        help_text="One per line. Empty: all.",
    )
    limit_rpm = forms.IntegerField(
        label="Requests per minute", min_value=1, max_value=2**31 - 1, required=False
    )
    limit_tpm = forms.IntegerField(
        label="Tokens per minute", min_value=1, max_value=2**53 - 1, required=False
    )
    max_concurrent = forms.IntegerField(
        label="At the same time", min_value=1, max_value=2**31 - 1, required=False
    )

    @property
    def values(self) -> dict[str, Any]:
        """The fields as the resource takes them; limits that the form does not show are kept by the caller."""
        data = dict(self.cleaned_data)
        limits = {
            name: value
            for name in ("limit_rpm", "limit_tpm", "max_concurrent")
            if (value := data.pop(name)) is not None
        }
        data["currency"] = data["currency"].upper()
        data["entitlements"] = {"models": words_of(data.pop("models")), "limits": limits}
        return data


class ExampleForm(forms.Form):
    """An imagined month."""

    example_model = forms.CharField(label="Model", max_length=200, initial="gpt-4o-mini")
    example_requests = forms.IntegerField(label="Calls", min_value=0, max_value=10**12, initial=10_000)
    example_input = forms.IntegerField(
        label="Input tokens", min_value=0, max_value=10**15, initial=12_000_000
    )
    example_output = forms.IntegerField(
        label="Output tokens", min_value=0, max_value=10**15, initial=3_000_000
    )
    example_cost = forms.DecimalField(
        label="Providers charge", min_value=0, max_digits=20, decimal_places=6, initial=Decimal("3.60")
    )

    @property
    def month(self) -> Month:
        data = self.cleaned_data
        return Month(
            model=data["example_model"].strip(),
            requests=data["example_requests"],
            units={"input": data["example_input"], "output": data["example_output"]},
            cost=data["example_cost"],
        )


@platform_room(READ)
def plan_list(request: ConsoleRequest) -> HttpResponse:
    """What is sold now, and to how many."""
    on = Count("versions__subscriptions", filter=Q(versions__subscriptions__end__isnull=True), distinct=True)
    plans = Plan.objects.annotate(tenant_count=on).prefetch_related("versions").order_by("slug")
    rows = [(plan, next(iter(plan.versions.all()), None)) for plan in plans]
    return render(request, "billing/plan_list.html", {"rows": rows})


@platform_room(READ)
def plan_detail(request: ConsoleRequest, slug: str) -> HttpResponse:
    """Every version of a plan, and who is on which."""
    plan = get_object_or_404(Plan.objects.prefetch_related("versions"), slug=slug)
    versions = list(plan.versions.all())
    wanted = request.GET.get("version", "")
    version = next(
        (each for each in versions if str(each.number) == wanted), versions[0] if versions else None
    )
    subscriptions = (
        Subscription.objects.visible_to(request.principal, READ)
        .filter(plan_version__plan=plan, end__isnull=True)
        .select_related("tenant", "plan_version")
    )
    context = {
        "plan": plan,
        "versions": versions,
        "version": version,
        "charges": orjson.dumps(version.charges, option=orjson.OPT_INDENT_2).decode() if version else "",
        "page": page_of(subscriptions, cursor=request.GET.get("cursor", "")),
    }
    return render(request, "billing/plan_detail.html", context)


@platform_room(WRITE, write=WRITE)
def plan_create(request: ConsoleRequest) -> HttpResponse:
    """A new plan with its first version."""
    initial = {"charges": RECIPES["Cost plus 20 %"]}
    return _editor(request, PlanForm(request.POST or None, initial=initial), None)


@platform_room(WRITE, write=WRITE)
def plan_edit(request: ConsoleRequest, slug: str) -> HttpResponse:
    """The newest version's wording; saving publishes the next one."""
    plan = get_object_or_404(Plan, slug=slug)
    newest = plan.versions.order_by("-number").first()
    initial: dict[str, Any] = {"slug": plan.slug, "name": plan.name}
    if newest is not None:
        initial |= {name: getattr(newest, name, None) for name in PlanForm.base_fields if name not in initial}
        initial |= {name: plain_text(initial[name]) for name in ("base_amount", "min_commitment")}
        initial |= {"models": "\n".join(newest.allowed_models), **newest.limits}
    form = PlanForm(request.POST or None, initial=initial)
    del form.fields["slug"]
    return _editor(request, form, plan)


def _editor(request: ConsoleRequest, form: PlanForm, plan: Plan | None) -> HttpResponse:
    if request.method == "POST" and form.is_valid():
        values = form.values
        try:
            if plan is None:
                made = act(request, PlanResource, "post", values, action="create")
            else:
                newest = plan.versions.order_by("-number").first()
                kept = {} if newest is None else newest.limits
                shown = ("limit_rpm", "limit_tpm", "max_concurrent")
                limits = {name: value for name, value in kept.items() if name not in shown}
                values["entitlements"]["limits"] |= limits
                made = act(request, PlanResource, "patch", values, action="partial_update", slug=plan.slug)
        except ApiError as error:
            refuse(form, _about_charges(error), {"entitlements": "models"})
        else:
            messages.success(request, f"Version {made['version']} is sold from now on.")
            return redirect("plan_detail", made["slug"])
    months = ExampleForm(request.POST if "example_model" in request.POST else None)
    context = {
        "form": form,
        "plan": plan,
        "months": months,
        "recipes": [
            (name, orjson.dumps(each, option=orjson.OPT_INDENT_2).decode()) for name, each in RECIPES.items()
        ],
        **_worked(form, months),
    }
    return render(request, "billing/plan_form.html", context, status=422 if form.is_bound else 200)


def _about_charges(error: ApiError) -> ApiError:
    """`charges[0].model` is about the field charges."""
    is_charge = (error.param or "").startswith("charges")
    return ApiError(error.code, error.message, param="charges") if is_charge else error


@platform_room(write=WRITE)
def plan_example(request: ConsoleRequest) -> HttpResponse:
    """The worked example of a wording that is not saved: a part of the editor's page."""
    form, months = PlanForm(request.POST), ExampleForm(request.POST)
    return render(request, "billing/plan_example.html", _worked(form, months))


def _worked(form: PlanForm, months: ExampleForm) -> dict[str, Any]:
    """`example`, or `problem` in words: what is typed at the moment need not make sense yet."""
    if form.is_bound:
        form.is_valid()
        wording = {**_initial_of(form), **form.cleaned_data}
    else:
        wording = _initial_of(form)
    if not months.is_bound:
        months = ExampleForm({name: field.initial for name, field in months.fields.items()})
    if not months.is_valid():
        return {"problem": "Fill in the month: " + "; ".join(_first_errors(months))}
    if "charges" in form.errors:
        return {"problem": str(form.errors["charges"][0])}
    found: Example | None = None
    problem = ""
    try:
        found = example(
            pricing=compile_charges(wording["charges"] or [], (wording["currency"] or "USD").upper()),
            base=Decimal(wording["base_amount"] or 0),
            commitment=Decimal(wording["min_commitment"] or 0),
            month=months.month,
        )
    except ApiError as error:
        problem = error.message
    except NoChargeError as error:
        problem = f"No charge covers {error}: its calls would be unpriced and refused by hard budgets."
    except Unrateable as error:
        problem = f"{error}."
    return {"example": found, "problem": problem}


def _initial_of(form: PlanForm) -> dict[str, Any]:
    names = ("charges", "currency", "base_amount", "min_commitment")
    return {name: form.get_initial_for_field(form.fields[name], name) for name in names}


def _first_errors(form: forms.Form) -> list[str]:
    return [f"{form.fields[name].label}: {errors[0]}" for name, errors in form.errors.items()]
