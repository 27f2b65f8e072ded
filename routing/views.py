"""Console pages about where calls may go: providers with their endpoints and keys, and the model catalogue.

Each view calls one verb or one query. A provider's key is taken in and never shown.
"""

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Q, QuerySet
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone

from routing import credentials, provisioning, switches
from routing.catalog.imports import import_models
from routing.catalog.offers import offers_of
from routing.models import Credential, Endpoint, KillSwitch, Model, Provider
from routing.probe import last_probe, probe
from routing.registry import DIALECTS
from tenants.console import ConsoleRequest, add_refusal, page_of, platform_room, uuid_or_none
from tenants.errors import ApiError

MODELS_PER_PAGE = 100


class ProviderForm(forms.Form):
    """A provider's account. The key is write-only: an empty field keeps the stored one."""

    kind = forms.ChoiceField(
        label="Dialect", choices=[(kind.value, dialect.name) for kind, dialect in DIALECTS.items()]
    )
    name = forms.CharField(max_length=200)
    slug = forms.SlugField(
        max_length=63, help_text="Stands in model names (slug/model), headers and the ledger. Never changes."
    )
    base_url = forms.URLField(
        label="Base URL",
        required=False,
        max_length=500,
        assume_scheme="https",
        widget=forms.URLInput(attrs={"placeholder": "https://…", "spellcheck": "false"}),
        help_text="Empty: the dialect's public address.",
    )
    region = forms.CharField(
        max_length=32, initial="global", help_text="Where it processes data, e.g. eu or us."
    )
    api_key = forms.CharField(
        label="API key",
        required=False,
        max_length=4000,
        widget=forms.PasswordInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
        help_text="Encrypted at rest and never shown again.",
    )
    price_book = forms.SlugField(
        required=False, max_length=63, help_text="Catalogue whose rates apply. Empty: the dialect's own."
    )
    trains_on_data = forms.TypedChoiceField(
        label="Trains on what is sent",
        required=False,
        choices=(("", "unknown: counts as yes"), ("True", "yes"), ("False", "no")),
        coerce=lambda value: value == "True",
        empty_value=None,
    )
    retention_days = forms.IntegerField(
        label="Keeps content for days",
        required=False,
        min_value=0,
        max_value=36_500,
        help_text="0: zero retention. Empty: unknown.",
    )
    is_enabled = forms.BooleanField(label="Calls may be routed to it", required=False, initial=True)
    first_byte_timeout_s = forms.FloatField(
        label="First byte, seconds", min_value=0.1, max_value=600, initial=10
    )
    stall_timeout_s = forms.FloatField(label="Stall, seconds", min_value=0.1, max_value=600, initial=10)
    total_timeout_s = forms.FloatField(label="Whole call, seconds", min_value=1, max_value=3600, initial=600)

    def clean(self) -> None:
        super().clean()
        data = self.cleaned_data
        dialect = next((d for kind, d in DIALECTS.items() if kind.value == data.get("kind")), None)
        if dialect and not dialect.base_url and not data.get("base_url") and "base_url" not in self.errors:
            self.add_error("base_url", f"{dialect.name} has no public address: enter the server's.")

    @property
    def provider_values(self) -> dict[str, Any]:
        """The row's own columns, without the key."""
        return {name: value for name, value in self.cleaned_data.items() if name != "api_key"}


class EndpointForm(forms.Form):
    """One more model that the provider serves."""

    model = forms.CharField(
        max_length=200, widget=forms.TextInput(attrs={"list": "model-names", "spellcheck": "false"})
    )
    provider_model = forms.CharField(
        label="The provider's name for it",
        required=False,
        max_length=200,
        widget=forms.TextInput(attrs={"spellcheck": "false"}),
        help_text="Empty: the same name. For Azure: the deployment.",
    )
    region = forms.CharField(required=False, max_length=32, help_text="Empty: the provider's.")
    weight = forms.IntegerField(min_value=0, max_value=1_000_000, initial=1, help_text="Share among equals.")

    def clean_model(self) -> Model:
        slug = self.cleaned_data["model"].strip()
        model = Model.objects.filter(slug=slug).first()
        if model is None:
            raise forms.ValidationError("The catalogue holds no model of this name.")
        return model


class KeyForm(forms.Form):
    """One more of the operator's keys at a provider. A key of a label in use takes the old one's place."""

    label = forms.CharField(max_length=100, required=False, help_text="A key of the same label is replaced.")
    api_key = forms.CharField(
        label="API key",
        max_length=credentials.MAX_SECRET_CHARACTERS,
        widget=forms.PasswordInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
        help_text="Encrypted at rest and never shown again.",
    )
    weight = forms.IntegerField(
        min_value=0, max_value=credentials.MAX_WEIGHT, initial=1, help_text="Its share of the calls."
    )
    limit_rpm = forms.IntegerField(label="Its requests per minute", min_value=1, required=False)
    limit_tpm = forms.IntegerField(
        label="Its tokens per minute",
        min_value=1,
        required=False,
        help_text="Where the provider's headers do not tell.",
    )


class KillSwitchForm(forms.Form):
    """What to cut off at once, and why. The slug is typed twice, so that it is meant."""

    kind = forms.ChoiceField(choices=KillSwitch.Kind.choices)
    target = forms.CharField(
        max_length=200, help_text="Its slug.", widget=forms.TextInput(attrs={"spellcheck": "false"})
    )
    reason = forms.CharField(
        max_length=switches.MAX_REASON_CHARACTERS, widget=forms.Textarea(attrs={"rows": 2})
    )
    confirm = forms.CharField(
        label="Type the slug again to confirm",
        required=False,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )

    def clean(self) -> None:
        super().clean()
        data = self.cleaned_data
        if "target" in data and data.get("confirm", "").strip() != data["target"].strip():
            self.add_error("confirm", "This is not the same.")


@platform_room("providers:read")
def provider_list(request: ConsoleRequest) -> HttpResponse:
    """Every provider, what it serves, whether it has a key."""
    providers = Provider.objects.annotate(
        endpoint_count=Count("endpoints", filter=Q(endpoints__is_enabled=True), distinct=True),
        key_count=Count(
            "credentials", filter=Q(credentials__is_enabled=True, credentials__tenant=None), distinct=True
        ),
    )
    rows = [(provider, _dialect_name(provider), _state(provider)) for provider in providers]
    return render(request, "routing/provider_list.html", {"rows": rows})


def _dialect_name(provider: Provider) -> str:
    return next(
        (dialect.name for kind, dialect in DIALECTS.items() if kind.value == provider.kind), provider.kind
    )


def _state(provider: Provider) -> str:
    needs_key = next((d.needs_key for kind, d in DIALECTS.items() if kind.value == provider.kind), True)
    if not provider.is_enabled:
        return "disabled"
    if needs_key and not getattr(provider, "key_count", 0):
        return "no key"
    return "ready" if getattr(provider, "endpoint_count", 0) else "no models"


@platform_room("providers:write", write="providers:write")
def provider_create(request: ConsoleRequest) -> HttpResponse:
    """Connect a provider."""
    form = ProviderForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            provider = provisioning.add_provider(
                values=form.provider_values, api_key=form.cleaned_data["api_key"], actor=request.principal
            )
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(
                request, f"{provider.name} is connected. Test it, then say which models it serves."
            )
            return redirect("provider_detail", provider.slug)
    return render(request, "routing/provider_form.html", {"form": form}, status=422 if form.is_bound else 200)


@platform_room("providers:write", write="providers:write")
def provider_edit(request: ConsoleRequest, slug: str) -> HttpResponse:
    """Change a provider, or replace its key."""
    provider = get_object_or_404(Provider, slug=slug)
    initial = {name: getattr(provider, name) for name in ProviderForm.base_fields if name != "api_key"}
    form = ProviderForm(request.POST or None, initial=initial)
    del form.fields["slug"]
    if request.method == "POST" and form.is_valid():
        try:
            provisioning.change_provider(
                provider=provider,
                changes=form.provider_values,
                api_key=form.cleaned_data["api_key"],
                actor=request.principal,
            )
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(request, "Saved.")
            return redirect("provider_detail", provider.slug)
    context = {"form": form, "provider": provider}
    return render(request, "routing/provider_form.html", context, status=422 if form.is_bound else 200)


@platform_room("providers:read", write="providers:write")
def provider_detail(request: ConsoleRequest, slug: str) -> HttpResponse:
    """What a provider is and serves; a POST adds a model or (`about=key`) a key, or switches a key on or off."""
    provider = get_object_or_404(Provider, slug=slug)
    if request.method == "POST" and request.POST.get("about") == "key":
        return _add_key(request, provider)
    if request.method == "POST" and request.POST.get("about") == "key_state":
        return _switch_key(request, provider)
    form = EndpointForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        try:
            endpoint = provisioning.add_endpoint(
                provider=provider,
                model=data["model"],
                provider_model=data["provider_model"] or data["model"].slug,
                region=data["region"],
                weight=data["weight"],
                actor=request.principal,
            )
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(request, f"{provider.name} now serves {endpoint.model.slug}.")
            return redirect("provider_detail", provider.slug)
    return _show_provider(request, provider, form)


def _add_key(request: ConsoleRequest, provider: Provider) -> HttpResponse:
    key_form = KeyForm(request.POST, prefix="key")
    if key_form.is_valid():
        data = dict(key_form.cleaned_data)
        try:
            credentials.store(
                provider=provider,
                tenant=None,
                secret=data.pop("api_key"),
                base_url="",
                actor=request.principal,
                **data,
            )
        except ApiError as error:
            add_refusal(key_form, error)
        else:
            messages.success(request, f"{provider.name} is called with this key too.")
            return redirect("provider_detail", provider.slug)
    return _show_provider(request, provider, EndpointForm(), key_form)


def _switch_key(request: ConsoleRequest, provider: Provider) -> HttpResponse:
    credential = get_object_or_404(
        Credential, pk=uuid_or_none(request.POST.get("credential", "")), provider=provider, tenant=None
    )
    is_enabled = request.POST.get("is_enabled") == "true"
    try:
        credentials.change(credential=credential, changes={"is_enabled": is_enabled}, actor=request.principal)
    except ApiError as error:
        messages.error(request, error.message)
    else:
        state = "in use" if is_enabled else "no longer used"
        messages.success(request, f"The key …{credential.last_four} is {state}.")
    return redirect("provider_detail", provider.slug)


def _show_provider(
    request: ConsoleRequest, provider: Provider, form: EndpointForm, key_form: KeyForm | None = None
) -> HttpResponse:
    endpoints = list(
        Endpoint.objects.filter(provider=provider).select_related("provider", "model").order_by("model__slug")
    )
    offers = offers_of(endpoints, now=timezone.now())
    with_cost = request.principal.can("cost:read")
    context = {
        "provider": provider,
        "dialect": _dialect_name(provider),
        "probe": last_probe(provider),
        "offers": [offers[endpoint.pk] for endpoint in endpoints],
        "credentials": Credential.objects.filter(provider=provider, tenant=None).order_by("-id"),
        "form": form,
        "key_form": key_form or KeyForm(prefix="key"),
        "names": _catalogue_names(provider),
        "with_cost": with_cost,
        "switch": switches.thrown(kind=KillSwitch.Kind.PROVIDER, target=provider.slug),
    }
    is_refused = form.is_bound or key_form is not None
    return render(request, "routing/provider_detail.html", context, status=422 if is_refused else 200)


def _catalogue_names(provider: Provider) -> QuerySet[Model, str]:
    owner = provider.price_book or provider.kind
    return (
        Model.objects.filter(Q(owned_by__icontains=owner) | Q(endpoints__provider=provider))
        .values_list("slug", flat=True)
        .distinct()[:200]
    )


@platform_room(write="providers:write")
def endpoint_toggle(request: ConsoleRequest, slug: str, endpoint_id: UUID) -> HttpResponse:
    """Allow or forbid routing to one endpoint."""
    endpoint = get_object_or_404(
        Endpoint.objects.select_related("model"), provider__slug=slug, pk=endpoint_id
    )
    is_enabled = request.POST.get("is_enabled") == "true"
    provisioning.change_endpoint(
        endpoint=endpoint, changes={"is_enabled": is_enabled}, actor=request.principal
    )
    state = "routed to" if is_enabled else "left out"
    messages.success(request, f"{endpoint.model.slug} at {slug} is {state} from now on.")
    return redirect("provider_detail", slug)


@platform_room("providers:read")
def model_list(request: ConsoleRequest) -> HttpResponse:
    """The catalogue: what is served, by whom, at what cost."""
    text = request.GET.get("q", "").strip()
    show = request.GET.get("show", "")
    rows = Model.objects.order_by("slug")
    if text:
        rows = rows.filter(Q(slug__icontains=text) | Q(name__icontains=text) | Q(owned_by__icontains=text))
    if show != "all":
        rows = rows.filter(endpoints__isnull=False).distinct()
    after = request.GET.get("cursor", "")
    if after:
        rows = rows.filter(slug__gt=after)
    models = list(rows[: MODELS_PER_PAGE + 1])
    page = models[:MODELS_PER_PAGE]
    endpoints = list(Endpoint.objects.filter(model__in=page).select_related("provider", "model"))
    offers = offers_of(endpoints, now=timezone.now())
    by_model = {
        model.pk: [offer for offer in offers.values() if offer.endpoint.model_id == model.pk]
        for model in page
    }
    context = {
        "rows": [(model, by_model[model.pk]) for model in page],
        "next_cursor": page[-1].slug if len(models) > MODELS_PER_PAGE else "",
        "q": text,
        "show": show,
        "with_cost": request.principal.can("cost:read"),
        "killed": set(
            KillSwitch.objects.filter(
                kind=KillSwitch.Kind.MODEL, target__in=[model.slug for model in page], restored_at=None
            ).values_list("target", flat=True)
        ),
    }
    return render(request, "routing/model_list.html", context)


@platform_room(write="providers:write")
def provider_test(request: ConsoleRequest, slug: str) -> HttpResponse:
    """Ask the provider for something small and show how it answered, as a fragment."""
    provider = get_object_or_404(Provider, slug=slug)
    return render(
        request, "routing/test_result.html", {"probe": probe(provider=provider, actor=request.principal)}
    )


@platform_room(write="providers:write")
def provider_import(request: ConsoleRequest, slug: str) -> HttpResponse:
    """Take over every model that the provider's price book lists."""
    provider = get_object_or_404(Provider, slug=slug)
    try:
        created = import_models(provider=provider, actor=request.principal)
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"{created} models added to {provider.name}.")
    return redirect("provider_detail", slug)


# ------------------------------------------------------------------ kill switches


@platform_room("providers:read", write="providers:write")
def kill_switch_list(request: ConsoleRequest) -> HttpResponse:
    """What is or was cut off; a POST cuts something off. `?kind` and `?target` name it beforehand."""
    form = KillSwitchForm(
        request.POST or None,
        initial={"kind": request.GET.get("kind", ""), "target": request.GET.get("target", "")},
    )
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        _require_for(request, data["kind"])
        try:
            switches.throw(
                kind=data["kind"],
                target=data["target"].strip(),
                reason=data["reason"],
                actor=request.principal,
            )
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(request, f"The {data['kind']} {data['target']} is cut off.")
            return redirect("kill_switch_list")
    page = page_of(KillSwitch.objects.all(), cursor=request.GET.get("cursor", ""))
    context = {"page": page, "switches": page.rows, "form": form}
    return render(request, "routing/kill_switch_list.html", context, status=422 if form.is_bound else 200)


@platform_room(write="providers:write")
def kill_switch_restore(request: ConsoleRequest, switch_id: UUID) -> HttpResponse:
    """Give back what was cut off."""
    switch = get_object_or_404(KillSwitch, pk=switch_id)
    _require_for(request, switch.kind)
    try:
        switches.restore(switch=switch, actor=request.principal)
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"The {switch.kind} {switch.target} is back.")
    return redirect("kill_switch_list")


def _require_for(request: ConsoleRequest, kind: str) -> None:
    """Who suspends tenants needs the scope for it, here as elsewhere."""
    if kind == KillSwitch.Kind.TENANT and not request.principal.can("tenants:write"):
        raise PermissionDenied("tenants:write")
