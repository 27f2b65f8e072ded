"""Alert pages: what fired, whom it was told, the rules and the channels.

A target's secret part is taken in and never shown; a signing secret is shown once, when it is made.
"""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final, cast
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone

from billing.alerts import deliver, firing, reads
from billing.alerts.api import ChannelResource, RuleResource
from billing.console.resources import act, refuse
from billing.models import AlertChannel, AlertDelivery, AlertFiring, AlertRule, Budget
from billing.rating.money import plain_text
from tenants.console import ConsoleRequest, page_of
from tenants.errors import ApiError
from tenants.models import ApiKey, Tenant
from tenants.places import both_rooms, here

READ, WRITE = reads.SCOPE, "budgets:write"
OFFERED: Final = 300
SHOW: Final = (("open", "Open"), ("all", "All"))
SNOOZE_CHOICES: Final = (
    (1, "1 hour"),
    (4, "4 hours"),
    (24, "1 day"),
    (24 * 7, "7 days"),
    (24 * 30, "30 days"),
)
GRACE_CHOICES: Final = (
    (0, "stop at once"),
    (3600, "1 hour"),
    (24 * 3600, "1 day"),
    (7 * 24 * 3600, "7 days"),
)


def zone_names(tenant: Tenant | None) -> str:
    return tenant.timezone if tenant is not None else "UTC"


# ------------------------------------------------------------------ what fired


class SnoozeForm(forms.Form):
    hours = forms.TypedChoiceField(label="Say nothing for", coerce=int, choices=SNOOZE_CHOICES, initial=24)


@both_rooms(READ)
def alert_list(request: ConsoleRequest) -> HttpResponse:
    """What fired, newest first; those that go on unless all are asked for."""
    show = "all" if request.GET.get("show") == "all" else "open"
    severity = request.GET.get("severity", "")
    find = reads.open_firings if show == "open" else reads.firings
    rows = find(request.principal, tenant=request.tenant)
    if severity in AlertRule.Severity:
        rows = rows.filter(severity=severity)
    since = timezone.now() - timedelta(days=7)
    context = {
        "page": page_of(rows, cursor=request.GET.get("cursor", "")),
        "show": show,
        "shows": SHOW,
        "severity": severity,
        "severities": AlertRule.Severity.choices,
        "summary": reads.summary(request.principal, tenant=request.tenant, since=since),
        "has_channels": reads.channels(request.principal, tenant=request.tenant).exists(),
    }
    return render(request, "billing/alert_list.html", context)


def _firing(request: ConsoleRequest, alert_id: UUID) -> AlertFiring:
    return get_object_or_404(reads.firings(request.principal, tenant=request.tenant), pk=alert_id)


@both_rooms(READ)
def alert_detail(request: ConsoleRequest, alert_id: UUID) -> HttpResponse:
    """One alert: the numbers, what it did, whom it was told and how that went."""
    row = _firing(request, alert_id)
    context = {
        "firing": row,
        "actions": row.actions.select_related("api_key"),
        "deliveries": reads.deliveries(request.principal, firing=row).order_by("id"),
        "snooze_form": SnoozeForm(),
    }
    return render(request, "billing/alert_detail.html", context)


@both_rooms(write=WRITE)
def alert_acknowledge(request: ConsoleRequest, alert_id: UUID) -> HttpResponse:
    """Somebody is on it: escalation stops."""
    row = _firing(request, alert_id)
    try:
        firing.acknowledge(firing=row, actor=request.principal, now=timezone.now())
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, "Acknowledged: nobody else is told.")
    return redirect(here(request, "alert_detail", alert_id=row.pk))


@both_rooms(write=WRITE)
def alert_snooze(request: ConsoleRequest, alert_id: UUID) -> HttpResponse:
    """Say nothing of its subject for a while."""
    row, form, now = _firing(request, alert_id), SnoozeForm(request.POST), timezone.now()
    if not form.is_valid():
        messages.error(request, "Choose for how long.")
        return redirect(here(request, "alert_detail", alert_id=row.pk))
    until = now + timedelta(hours=form.cleaned_data["hours"])
    try:
        firing.snooze(firing=row, until=until, actor=request.principal, now=now)
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, "Snoozed: what waits is told afterwards.")
    return redirect(here(request, "alert_detail", alert_id=row.pk))


# ------------------------------------------------------------------ deliveries


@both_rooms(READ)
def delivery_list(request: ConsoleRequest) -> HttpResponse:
    """Every message with its attempts, newest first."""
    rows = reads.deliveries(request.principal)
    if request.tenant is not None:
        rows = rows.filter(tenant=request.tenant)
    state = request.GET.get("state", "")
    if state in AlertDelivery.State:
        rows = rows.filter(state=state)
    context = {
        "page": page_of(rows, cursor=request.GET.get("cursor", "")),
        "state": state,
        "states": AlertDelivery.State.choices,
    }
    return render(request, "billing/delivery_list.html", context)


@both_rooms(write=WRITE)
def delivery_replay(request: ConsoleRequest, delivery_id: UUID) -> HttpResponse:
    """Send a message once more."""
    rows = reads.deliveries(request.principal)
    if request.tenant is not None:
        rows = rows.filter(tenant=request.tenant)
    row = get_object_or_404(rows, pk=delivery_id)
    try:
        deliver.replay(delivery=row, actor=request.principal, now=timezone.now())
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"It goes to {row.channel_label} once more, under its own id.")
    return redirect(here(request, "delivery_list"))


# ------------------------------------------------------------------ channels


class ChannelForm(forms.Form):
    """Where alerts go."""

    kind = forms.ChoiceField(choices=AlertChannel.Kind.choices)
    name = forms.CharField(max_length=100, help_text="Who reads it, e.g. “On call”.")
    target = forms.CharField(
        max_length=2000,
        widget=forms.TextInput(attrs={"spellcheck": "false", "autocomplete": "off"}),
        help_text="E-mail: addresses, separated by commas. Webhook and Slack: the URL. PagerDuty: the routing key.",
    )
    is_default = forms.BooleanField(label="Told of every budget's thresholds", required=False, initial=True)
    is_enabled = forms.BooleanField(label="On", required=False, initial=True)
    timezone = forms.CharField(label="Time zone", max_length=64, initial="UTC")
    quiet_from = forms.TimeField(
        label="Quiet from", required=False, widget=forms.TimeInput(attrs={"type": "time"}, format="%H:%M")
    )
    quiet_to = forms.TimeField(
        label="Quiet until",
        required=False,
        widget=forms.TimeInput(attrs={"type": "time"}, format="%H:%M"),
        help_text="Critical alerts come through.",
    )


class RotateForm(forms.Form):
    grace_s = forms.TypedChoiceField(
        label="The old secret goes on for", coerce=int, choices=GRACE_CHOICES, initial=24 * 3600
    )


@both_rooms(READ)
def channel_list(request: ConsoleRequest) -> HttpResponse:
    """Where alerts go."""
    rows = reads.channels(request.principal, tenant=request.tenant)
    return render(request, "billing/channel_list.html", {"channels": rows})


@both_rooms(WRITE, write=WRITE)
def channel_create(request: ConsoleRequest) -> HttpResponse:
    """The form; a webhook's signing secret is in the answer, this once."""
    form = ChannelForm(request.POST or None, initial={"timezone": zone_names(request.tenant)})
    if request.method == "POST" and form.is_valid():
        values = form.cleaned_data | {"tenant": request.tenant.slug if request.tenant else None}
        try:
            made = act(request, ChannelResource, "post", values, action="create")
        except ApiError as error:
            refuse(form, error)
        else:
            if made["secret"]:
                return _secret_page(request, made)
            messages.success(request, "The channel is open. Send a test to be sure.")
            return redirect(here(request, "channel_edit", channel_id=made["id"]))
    context = {"form": form, "channel": None}
    return render(request, "billing/channel_form.html", context, status=422 if form.is_bound else 200)


def _secret_page(request: ConsoleRequest, made: dict[str, Any]) -> HttpResponse:
    return render(request, "billing/channel_secret.html", {"channel": made, "secret": made["secret"]})


def _channel(request: ConsoleRequest, channel_id: UUID) -> AlertChannel:
    return get_object_or_404(reads.channels(request.principal, tenant=request.tenant), pk=channel_id)


@both_rooms(WRITE, write=WRITE)
def channel_edit(request: ConsoleRequest, channel_id: UUID) -> HttpResponse:
    """Change a channel; an untouched target keeps its secret part."""
    channel = _channel(request, channel_id)
    initial = {name: getattr(channel, name) for name in ChannelForm.base_fields}
    form = ChannelForm(request.POST or None, initial=initial)
    del form.fields["kind"]
    if request.method == "POST" and form.is_valid():
        try:
            act(
                request,
                ChannelResource,
                "patch",
                form.cleaned_data,
                action="partial_update",
                pk=channel.pk,
            )
        except ApiError as error:
            refuse(form, error)
        else:
            messages.success(request, "Saved.")
            return redirect(here(request, "channel_list"))
    deliveries = (
        reads.deliveries(request.principal).filter(channel=channel).order_by("-created_at", "-id")[:10]
    )
    context = {"form": form, "channel": channel, "rotate_form": RotateForm(), "deliveries": deliveries}
    return render(request, "billing/channel_form.html", context, status=422 if form.is_bound else 200)


@both_rooms(write=WRITE)
def channel_test(request: ConsoleRequest, channel_id: UUID) -> HttpResponse:
    """Send a test message and say what became of it."""
    channel = _channel(request, channel_id)
    try:
        _, outcome = deliver.try_out(channel=channel, actor=request.principal, clock=timezone.now)
    except ApiError as error:
        messages.error(request, error.message)
    else:
        if outcome.kind == "delivered":
            messages.success(request, f"The test arrived at {channel.name}.")
        else:
            messages.error(request, f"The test did not arrive: {outcome.detail or outcome.status}")
    return redirect(here(request, "channel_edit", channel_id=channel.pk))


@both_rooms(write=WRITE)
def channel_rotate(request: ConsoleRequest, channel_id: UUID) -> HttpResponse:
    """A fresh signing secret, shown this once."""
    channel, form = _channel(request, channel_id), RotateForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Choose how long the old secret goes on.")
        return redirect(here(request, "channel_edit", channel_id=channel.pk))
    try:
        made = act(request, ChannelResource, "post", form.cleaned_data, action="rotate_secret", pk=channel.pk)
    except ApiError as error:
        messages.error(request, error.message)
        return redirect(here(request, "channel_edit", channel_id=channel.pk))
    return _secret_page(request, made)


@both_rooms(write=WRITE)
def channel_close(request: ConsoleRequest, channel_id: UUID) -> HttpResponse:
    """Delete a channel with its secret, its name typed to confirm."""
    channel = _channel(request, channel_id)
    if request.POST.get("confirm", "").strip() != channel.name:
        messages.error(request, "The name did not match. The channel was not removed.")
        return redirect(here(request, "channel_edit", channel_id=channel.pk))
    try:
        act(request, ChannelResource, "delete", action="destroy", pk=channel.pk)
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"{channel.name} is closed; its secret is gone.")
    return redirect(here(request, "channel_list"))


# ------------------------------------------------------------------ rules


class RuleForm(forms.Form):
    """Something to watch beyond the budgets' own thresholds."""

    kind = forms.ChoiceField(choices=AlertRule.Kind.choices)
    name = forms.CharField(max_length=100)
    severity = forms.ChoiceField(choices=AlertRule.Severity.choices, initial=AlertRule.Severity.WARNING)
    thresholds = forms.CharField(
        help_text="One or more, separated by commas: percent (budget, margin, error rate), milliseconds (p95),"
        " a score (anomaly: 5)."
    )
    budget = forms.ChoiceField(required=False, help_text="For rules of kind budget.")
    basis = forms.ChoiceField(
        choices=AlertRule.Basis.choices,
        initial=AlertRule.Basis.ACTUAL,
        help_text="Forecast: where the budget's window will end.",
    )
    unit = forms.ChoiceField(choices=AlertRule.Unit.choices, initial=AlertRule.Unit.PERCENT)
    key = forms.ChoiceField(label="API key", required=False)
    feature = forms.CharField(max_length=100, required=False)
    model = forms.CharField(max_length=200, required=False)
    provider = forms.CharField(max_length=63, required=False)
    window = forms.ChoiceField(
        choices=AlertRule.Window.choices, initial=AlertRule.Window.DAY, help_text="Of a margin."
    )
    span_s = forms.IntegerField(
        label="Look back, seconds",
        min_value=60,
        max_value=24 * 3600,
        initial=300,
        help_text="Error rate and p95.",
    )
    min_requests = forms.IntegerField(
        label="From so many calls on",
        min_value=1,
        max_value=10**6,
        initial=20,
        help_text="Fewer say nothing.",
    )
    min_amount = forms.DecimalField(
        label="From this amount on",
        max_digits=24,
        decimal_places=6,
        min_value=0,
        initial=1,
        help_text="Anomaly and margin.",
    )
    action = forms.ChoiceField(
        label="And do",
        required=False,
        choices=(("", "nothing but tell"), *AlertRule.Action.choices),
        help_text="To the key above, or to the budget's key.",
    )
    throttle_rpm = forms.IntegerField(
        label="Throttle to calls a minute", required=False, min_value=1, max_value=2**31 - 1
    )
    channels = forms.MultipleChoiceField(label="Tell", required=False, widget=forms.CheckboxSelectMultiple)
    escalate_after_min = forms.IntegerField(
        label="Not acknowledged after minutes",
        required=False,
        min_value=1,
        max_value=7 * 24 * 60,
    )
    escalate_to = forms.MultipleChoiceField(
        label="then tell", required=False, widget=forms.CheckboxSelectMultiple
    )
    is_enabled = forms.BooleanField(label="On", required=False, initial=True)

    def __init__(
        self,
        *args: Any,
        budgets: Iterable[Budget],
        keys: Iterable[ApiKey],
        channels: Iterable[AlertChannel],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        told = [(str(each.pk), str(each)) for each in channels]
        for name, choices in (
            (
                "budget",
                [
                    ("", "none"),
                    *((str(b.pk), f"{b.tenant.name if b.tenant else 'All'}: {b.name or b}") for b in budgets),
                ],
            ),
            ("key", [("", "every key"), *((str(k.pk), k.name) for k in keys)]),
            ("channels", told),
            ("escalate_to", told),
        ):
            cast("forms.ChoiceField", self.fields[name]).choices = choices

    def clean(self) -> None:
        super().clean()
        if bool(self.cleaned_data.get("escalate_after_min")) != bool(self.cleaned_data.get("escalate_to")):
            self.add_error("escalate_after_min", "Say after how many minutes, and whom to tell then.")

    @property
    def values(self) -> dict[str, Any]:
        """The fields as the resource takes them."""
        data = dict(self.cleaned_data)
        after_min, channels = data.pop("escalate_after_min"), data.pop("escalate_to")
        action = data.pop("action")
        return data | {
            "budget": data["budget"] or None,
            "key": data["key"] or None,
            "thresholds": data["thresholds"].replace(",", " ").replace("%", " ").split(),
            "actions": [action] if action else [],
            "escalation": [{"after_s": after_min * 60, "channels": channels}] if after_min else [],
        }


def _rule_form(request: ConsoleRequest, rule: AlertRule | None = None) -> RuleForm:
    tenant, principal = request.tenant, request.principal
    budgets = (
        Budget.objects.visible_to(principal, READ).select_related("tenant").order_by("tenant__name", "id")
    )
    keys = ApiKey.objects.visible_to(principal, READ).filter(revoked_at__isnull=True).order_by("name")
    if tenant is not None:
        budgets, keys = budgets.filter(tenant=tenant), keys.filter(tenant=tenant)
    channels: list[AlertChannel] = list(reads.channels(principal, tenant=tenant))
    if tenant is not None and principal.can(WRITE):
        channels += reads.channels(principal, tenant=None)  # the operator's own may be told of a tenant's
    form = RuleForm(
        request.POST or None,
        initial=_rule_initial(rule) if rule else {"budget": request.GET.get("budget", "")},
        budgets=budgets[:OFFERED],
        keys=keys[:OFFERED],
        channels=channels,
    )
    if rule is not None:
        del form.fields["kind"]
    return form


def _rule_initial(rule: AlertRule) -> dict[str, Any]:
    steps = list(rule.steps.all())
    later = [step for step in steps if step.after_s]
    first_s = min((step.after_s for step in later), default=0)
    held = {name: getattr(rule, name, None) for name in RuleForm.base_fields}
    return {
        **held,
        "budget": str(rule.budget_id or ""),
        "key": str(rule.api_key_id or ""),
        "thresholds": ", ".join(plain_text(each) for each in rule.thresholds),
        "min_amount": plain_text(rule.min_amount),
        "action": next(iter(rule.actions), ""),
        "channels": [str(step.channel_id) for step in steps if not step.after_s],
        "escalate_after_min": first_s // 60 or None,
        "escalate_to": [str(step.channel_id) for step in later if step.after_s == first_s],
    }


@both_rooms(READ)
def alert_rule_list(request: ConsoleRequest) -> HttpResponse:
    """What is watched beyond the budgets' own thresholds."""
    rules = reads.rules(request.principal, tenant=request.tenant)
    rows = [(rule, _thresholds_shown(rule)) for rule in rules]
    return render(request, "billing/alert_rule_list.html", {"rows": rows})


def _thresholds_shown(rule: AlertRule) -> str:
    unit = {
        AlertRule.Kind.BUDGET: " %" if rule.unit == AlertRule.Unit.PERCENT else "",
        AlertRule.Kind.MARGIN: " %",
        AlertRule.Kind.ERROR_RATE: " %",
        AlertRule.Kind.LATENCY_P95: " ms",
        AlertRule.Kind.ANOMALY: "",
    }[AlertRule.Kind(rule.kind)]
    return ", ".join(f"{plain_text(each)}{unit}" for each in rule.thresholds)


@both_rooms(WRITE, write=WRITE)
def alert_rule_create(request: ConsoleRequest) -> HttpResponse:
    """Watch something new."""
    return _rule_page(request, _rule_form(request), None)


@both_rooms(WRITE, write=WRITE)
def alert_rule_edit(request: ConsoleRequest, rule_id: UUID) -> HttpResponse:
    """Change what is watched and who is told."""
    rule = get_object_or_404(reads.rules(request.principal, tenant=request.tenant), pk=rule_id)
    return _rule_page(request, _rule_form(request, rule), rule)


def _rule_page(request: ConsoleRequest, form: RuleForm, rule: AlertRule | None) -> HttpResponse:
    if request.method == "POST" and form.is_valid():
        try:
            if rule is None:
                values = form.values | {"tenant": request.tenant.slug if request.tenant else None}
                act(request, RuleResource, "post", values, action="create")
            else:
                act(request, RuleResource, "patch", form.values, action="partial_update", pk=rule.pk)
        except ApiError as error:
            refuse(form, error, {"actions": "action", "escalation": "escalate_to"})
        else:
            messages.success(request, "It is watched from now on.")
            return redirect(here(request, "alert_rule_list"))
    context = {"form": form, "rule": rule}
    return render(request, "billing/alert_rule_form.html", context, status=422 if form.is_bound else 200)


@both_rooms(write=WRITE)
def alert_rule_remove(request: ConsoleRequest, rule_id: UUID) -> HttpResponse:
    """Watch it no longer; what fired stays."""
    rule = get_object_or_404(reads.rules(request.principal, tenant=request.tenant), pk=rule_id)
    try:
        act(request, RuleResource, "delete", action="destroy", pk=rule.pk)
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"{rule.name} is no longer watched.")
    return redirect(here(request, "alert_rule_list"))
