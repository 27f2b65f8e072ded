"""What a person types into the pages of policies and features, and the values that the verbs take. No rules here:
the verbs judge.
"""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from django import forms

from gateway.replay.views import JSONText
from routing.models import Feature, RoutingPolicy, RoutingPolicyVersion
from routing.policies.wordings import MOST_ATTEMPTS, Wording
from routing.types import Conduct, Operation, Recovery
from tenants.console import words_of
from tenants.errors import ApiError
from tenants.models import Tenant

_LINE: Final = re.compile(
    r"(?P<model>(?!@\s)[^\s*]\S*)?\s*(?:@\s+(?P<provider>[a-z0-9-]+))?\s*(?:\*\s*(?P<weight>\d+))?"
)
_NUMBERS: Final = ("hold_back_tokens", "hedge_after_ms", "queue_ms")
_AMOUNTS: Final = ("max_price_per_million", "max_cost")


STRATEGIES: Final = (
    (RoutingPolicyVersion.Strategy.COST.value, "cost: cheapest for this request"),
    (RoutingPolicyVersion.Strategy.LATENCY.value, "latency: fastest first byte"),
    (RoutingPolicyVersion.Strategy.RELIABILITY.value, "reliability: fewest failures"),
    (RoutingPolicyVersion.Strategy.SLO.value, "slo: what keeps the feature's promise"),
    (RoutingPolicyVersion.Strategy.WEIGHTED.value, "weighted: drawn by weight"),
    (RoutingPolicyVersion.Strategy.ORDERED.value, "ordered: as the targets stand"),
)


class TargetLines(forms.CharField):
    """Targets, one per line: `model`, `model @ provider`, `@ provider`, each with `* weight` if it wants one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            required=False,
            widget=forms.Textarea(attrs={"rows": 4, "spellcheck": "false"}),
            **options,
        )

    def clean(self, value: Any) -> Any:
        """A list as the API takes it. Raises ValidationError naming the line."""
        lines = [line.strip() for line in (super().clean(value) or "").splitlines() if line.strip()]
        return [self._target(line) for line in lines]

    def _target(self, line: str) -> str | dict[str, Any]:
        found = _LINE.fullmatch(line)
        if found is None or not (found["model"] or found["provider"]):
            raise forms.ValidationError(f"“{line}” is not a target.")
        if found["model"] and not found["provider"] and found["weight"] is None:
            return found["model"]
        target: dict[str, Any] = {}
        for name in ("model", "provider"):
            if found[name]:
                target[name] = found[name]
        if found["weight"] is not None:
            target["weight"] = int(found["weight"])
        return target

    def prepare_value(self, value: Any) -> Any:
        return value if isinstance(value, str) or value is None else lines_of(value)


def lines_of(targets: Sequence[str | Mapping[str, Any]]) -> str:
    """Targets as a person types them."""
    return "\n".join(line_of(each) for each in targets)


def line_of(target: str | Mapping[str, Any]) -> str:
    if isinstance(target, str):
        return target
    parts = [str(target.get("model") or "")]
    if target.get("provider"):
        parts.append(f"@ {target['provider']}")
    if target.get("weight", 1) != 1:
        parts.append(f"* {target['weight']}")
    return " ".join(part for part in parts if part)


class PolicyForm(forms.Form):
    """A policy's wording; for a new one also its name and owner, which stay."""

    slug = forms.SlugField(max_length=63, help_text="Called as policy:slug. Never changes.")
    tenant = forms.ModelChoiceField(
        queryset=Tenant.objects.order_by("slug"),
        required=False,
        empty_label="all tenants",
        help_text="Whose policy it is. Never changes.",
    )
    name = forms.CharField(max_length=200, required=False)
    is_enabled = forms.BooleanField(label="In use", required=False, initial=True)

    strategy = forms.ChoiceField(choices=STRATEGIES)
    targets = TargetLines(
        help_text="One per line: model, model @ provider, @ provider, each with * weight. Empty: all."
    )
    fallback = TargetLines(help_text="Tried after all of these, in this order.")

    regions = forms.CharField(required=False, help_text="E.g. eu. Empty: all.")
    capabilities = forms.CharField(required=False, help_text="E.g. tools, vision.")
    credentials = forms.ChoiceField(
        label="Tenants' own keys",
        required=False,
        choices=(
            ("", "first, where the tenant has one"),
            ("own_only", "nothing else"),
            ("never", "never"),
        ),
    )
    max_price_per_million = forms.CharField(label="Price per million, USD at most", required=False)
    max_cost = forms.CharField(label="Cost per call, USD at most", required=False)
    max_p95_ms = forms.IntegerField(label="p95 at most, ms", required=False)
    min_success = forms.DecimalField(
        label="Success at least", required=False, help_text="A share, e.g. 0.99."
    )
    no_training = forms.BooleanField(label="Only where nobody trains on what is sent", required=False)
    retention_days = forms.IntegerField(
        label="Content kept for days, at most", required=False, help_text="0: zero retention."
    )
    allow = JSONText(
        help_text='{"models": [], "providers": [], "tenants": [], "plans": [], "keys": [], "features": []}'
    )
    deny = JSONText(help_text="The same.")

    max_attempts = forms.IntegerField(
        label="Attempts in all", min_value=1, max_value=MOST_ATTEMPTS, initial=Conduct().max_attempts
    )
    recovery = forms.ChoiceField(
        label="A stream that breaks",
        choices=(
            (Recovery.END.value, "ends with an error"),
            (Recovery.CONTINUE.value, "goes on elsewhere"),
            (Recovery.BUFFERED.value, "starts again, unseen"),
        ),
        initial=Recovery.END.value,
    )
    hold_back_tokens = forms.IntegerField(
        label="Tokens held back for that", required=False, help_text="Empty: the whole answer."
    )
    hedge_after_ms = forms.IntegerField(
        label="Ask a second target after, ms",
        required=False,
        help_text="0: after the first's own p95. Empty: never.",
    )
    queue_ms = forms.IntegerField(
        label="Wait for a rate limit, ms", required=False, help_text=f"Empty: {Conduct().queue_ms}."
    )

    def __init__(self, *args: Any, policy: RoutingPolicy | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        for name in ("allow", "deny"):
            self.fields[name].widget.attrs["rows"] = 2
        if policy is not None:
            del self.fields["slug"], self.fields["tenant"]

    def wording(self) -> Wording:
        """What the verbs take; only of a valid form."""
        data = self.cleaned_data
        conduct = {"recovery": data["recovery"]} if data["recovery"] != Recovery.END else {}
        conduct |= {name: data[name] for name in _NUMBERS if data[name] is not None}
        return Wording(
            strategy=data["strategy"],
            targets=data["targets"],
            constraints=self._constraints(),
            max_attempts=data["max_attempts"],
            fallback=data["fallback"],
            conduct=conduct,
        )

    def _constraints(self) -> dict[str, Any]:
        data = self.cleaned_data
        said: dict[str, Any] = {
            "regions": words_of(data["regions"]),
            "capabilities": words_of(data["capabilities"]),
            "credentials": data["credentials"],
            "allow": data["allow"],
            "deny": data["deny"],
            "max_p95_ms": data["max_p95_ms"],
            "min_success": None if data["min_success"] is None else float(data["min_success"]),
            **{name: data[name].strip() for name in _AMOUNTS},
        }
        rules: dict[str, Any] = {"training": "deny"} if data["no_training"] else {}
        if data["retention_days"] is not None:
            rules["retention_days"] = data["retention_days"]
        said["data"] = rules
        return {name: value for name, value in said.items() if value not in (None, "", [], {})}

    def refuse(self, error: ApiError) -> None:
        """Show a verb's refusal beside the field that it is about, or above the form."""
        parts = (error.param or "").split(".")
        named = [part for part in (parts[-1], parts[0]) if part in self.fields]
        if parts[0] == "constraints":  # its parts are fields here, and the message begins with their name
            named = [name for name in self.fields if f"constraints {name} " in error.message]
        self.add_error(named[0] if named else None, error.message)


def initial_of(policy: RoutingPolicy, wording: Wording) -> dict[str, Any]:
    """A policy as its form begins."""
    said, conduct = wording.constraints, wording.conduct
    data = said.get("data", {})
    return {
        "name": policy.name,
        "is_enabled": policy.is_enabled,
        "strategy": wording.strategy,
        "targets": wording.targets,
        "fallback": wording.fallback,
        "regions": ", ".join(said.get("regions", ())),
        "capabilities": ", ".join(said.get("capabilities", ())),
        "credentials": "" if said.get("credentials") == "own_first" else said.get("credentials", ""),
        **{name: said.get(name) for name in (*_AMOUNTS, "max_p95_ms", "min_success", "allow", "deny")},
        "no_training": data.get("training") == "deny",
        "retention_days": data.get("retention_days"),
        "max_attempts": wording.max_attempts,
        "recovery": conduct.get("recovery", Recovery.END.value),
        **{name: conduct.get(name) for name in _NUMBERS},
    }


class SimulateForm(forms.Form):
    """A call to plan and not to make."""

    tenant = forms.ModelChoiceField(
        queryset=Tenant.objects.filter(status=Tenant.Status.ACTIVE).order_by("slug"), empty_label=None
    )
    model = forms.CharField(
        required=False,
        max_length=300,
        help_text="Empty: this policy.",
        widget=forms.TextInput(attrs={"spellcheck": "false"}),
    )
    operation = forms.ChoiceField(choices=[(each.value, each.value) for each in Operation])
    feature = forms.CharField(required=False, max_length=100)
    input_tokens = forms.IntegerField(min_value=0, max_value=2**31 - 1, initial=1000)
    output_tokens = forms.IntegerField(min_value=0, max_value=2**31 - 1, initial=500)
    needs = forms.CharField(required=False, help_text="Capabilities, e.g. tools.")
    provider = JSONText(label="Provider preferences", help_text='As in the body: {"only": ["azure-eu"]}.')


class FeatureForm(forms.Form):
    """A feature, the policy that rules its calls and what it promises."""

    slug = forms.RegexField(
        r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$",
        max_length=100,
        help_text="What calls say in X-Tollhouse-Feature. Never changes.",
        widget=forms.TextInput(attrs={"spellcheck": "false"}),
    )
    tenant = forms.ModelChoiceField(
        queryset=Tenant.objects.order_by("slug"), required=False, empty_label="all tenants"
    )
    name = forms.CharField(max_length=200, required=False)
    policy = forms.ModelChoiceField(
        queryset=RoutingPolicy.objects.filter(is_enabled=True).select_related("tenant").order_by("slug"),
        required=False,
        empty_label="none of its own",
    )
    slo_p95_ms = forms.IntegerField(label="p95 at most, ms", required=False, min_value=1, max_value=3_600_000)
    slo_success = forms.DecimalField(
        label="Success at least",
        required=False,
        min_value=Decimal("0.00001"),
        max_value=Decimal("0.99999"),
        max_digits=6,
        decimal_places=5,
        help_text="A share of calls, e.g. 0.999.",
    )
    slo_max_cost = forms.DecimalField(
        label="Cost per call, USD at most", required=False, min_value=0, max_digits=20, decimal_places=10
    )

    def __init__(self, *args: Any, feature: Feature | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        if feature is not None:
            del self.fields["slug"], self.fields["tenant"]

    def values(self) -> dict[str, Any]:
        """The columns that may change."""
        names = ("name", "policy", "slo_p95_ms", "slo_success", "slo_max_cost")
        return {name: self.cleaned_data[name] for name in names}


class BindingForm(forms.Form):
    """Whom a policy rules: one tenant, or all on a plan."""

    tenant = forms.ModelChoiceField(
        queryset=Tenant.objects.order_by("slug"), required=False, empty_label="choose", label="A tenant"
    )
    plan = forms.ChoiceField(required=False, label="or all on a plan")

    def __init__(self, *args: Any, plans: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["plan"].choices = [("", "choose"), *((plan, plan) for plan in plans)]  # type: ignore[attr-defined]
