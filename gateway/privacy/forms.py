"""A profile as a person fills it in: a select per kind, rows of patterns and of guardrails.

Shapes only: what a profile may say is checked by `gateway.privacy.bindings`, whose refusals land beside their field.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson
from django import forms

from gateway.privacy import guardrails
from gateway.privacy.bindings import END_USER
from gateway.privacy.kinds import CUSTOM_PREFIX, KINDS, Action
from gateway.privacy.models import MAX_VAULT_DAYS, PrivacyProfile
from tenants.console import words_of
from tenants.errors import ApiError
from tenants.models import Tenant

ACTIONS: Final = (
    (Action.ALLOW.value, "let through"),
    (Action.TOKENIZE.value, "tokenize, restore in answers"),
    (Action.REDACT.value, "redact for good"),
    (Action.BLOCK.value, "refuse the call"),
)
LABELS: Final = {
    "email": "E-mail addresses",
    "phone": "Phone numbers",
    "card": "Card numbers",
    "iban": "IBANs",
    "national_id": "National ids",
    "name": "Names of people",
    "ip_address": "IP addresses",
    "secret": "Keys and passwords",
    END_USER: "The end user's name",
}
SETTING_OF: Final = {
    "max_length": "max_characters",
    "banned_topics": "topics",
    "regex": "pattern",
    "json_schema": "schema",
    "webhook": "url",
}
EMPTY_ROWS: Final = 2


class ProfileForm(forms.Form):
    """The profile itself; for a new one also its slug, which stays."""

    slug = forms.SlugField(max_length=63, help_text="Never changes.")
    name = forms.CharField(max_length=200, required=False)
    is_enabled = forms.BooleanField(label="In force where it is bound", required=False, initial=True)
    detects_names = forms.BooleanField(
        label="Look for names with the model-based detector",
        required=False,
        help_text="Slower, and never certain. Needs the detector to be installed.",
    )
    phone_regions = forms.CharField(
        required=False,
        help_text="Countries whose national numbers are known without a word nearby, e.g. DE, US.",
    )
    vault_days = forms.IntegerField(
        label="Tokens can be revealed for, in days",
        min_value=0,
        max_value=MAX_VAULT_DAYS,
        initial=0,
        help_text="Sealed under the workspace's own key. 0: what a token stands for is never kept.",
    )

    def __init__(self, *args: Any, profile: PrivacyProfile | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for kind in (*KINDS, END_USER):
            self.fields[f"action_{kind}"] = forms.ChoiceField(label=LABELS[kind], choices=ACTIONS)
        if profile is not None:
            del self.fields["slug"]

    @property
    def actions(self) -> list[forms.BoundField]:
        """The selects, one per kind."""
        return [self[f"action_{kind}"] for kind in (*KINDS, END_USER)]


class PatternForm(forms.Form):
    """One pattern of the profile's own; an empty row is none."""

    name = forms.CharField(max_length=30, required=False)
    pattern = forms.CharField(max_length=1000, required=False, label="Regular expression (RE2)")
    action = forms.ChoiceField(choices=ACTIONS, initial=Action.TOKENIZE.value)


class GuardrailForm(forms.Form):
    """One guardrail; an empty row is none."""

    name = forms.CharField(max_length=40, required=False)
    kind = forms.ChoiceField(choices=[(kind.value, kind.value.replace("_", " ")) for kind in guardrails.Kind])
    stage = forms.ChoiceField(choices=(("before", "the request"), ("after", "the answer")), label="Judges")
    on_fail = forms.ChoiceField(choices=(("block", "block"), ("flag", "flag only")), label="If it fails")
    on_error = forms.ChoiceField(
        choices=(("fail_closed", "fail closed"), ("fail_open", "fail open")), label="Without a verdict"
    )
    timeout_ms = forms.IntegerField(initial=guardrails.DEFAULT_TIMEOUT_MS, label="Timeout, ms")
    mode = forms.ChoiceField(
        choices=(("forbid", "must not occur"), ("require", "must occur")), label="A regex"
    )
    setting = forms.CharField(
        required=False,
        label="Setting",
        widget=forms.Textarea(attrs={"rows": 2, "spellcheck": "false"}),
        help_text="Characters at most; topics, one per line; the regex; the JSON schema; or the URL.",
    )

    def stored(self, at: int) -> dict[str, Any]:
        """As `guardrails.read` takes it. Raises ApiError for a schema that is no JSON."""
        data = self.cleaned_data
        made: dict[str, Any] = {
            name: data[name] for name in ("name", "kind", "stage", "on_fail", "on_error", "timeout_ms")
        }
        text = data["setting"].strip()
        setting: Any = text
        match data["kind"]:
            case "max_length":
                setting = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None
            case "banned_topics":
                setting = words_of(text)
            case "regex":
                made["mode"] = data["mode"]
            case "json_schema":
                try:
                    setting = orjson.loads(text)
                except orjson.JSONDecodeError as error:
                    raise ApiError(
                        "invalid_request", "This is not JSON.", param=f"guardrails.{at}.schema"
                    ) from error
        return {**made, SETTING_OF[data["kind"]]: setting}


PatternRows = forms.formset_factory(PatternForm, extra=EMPTY_ROWS, max_num=60)
GuardrailRows = forms.formset_factory(GuardrailForm, extra=EMPTY_ROWS, max_num=30)


class Editor:
    """The three parts of a profile's page as one."""

    def __init__(self, data: Any, profile: PrivacyProfile | None) -> None:
        self.profile = profile
        held = profile or PrivacyProfile()
        self.form = ProfileForm(data, profile=profile, initial=_initial(held))
        self.patterns = PatternRows(data, prefix="patterns", initial=_patterns(held))
        self.rails = GuardrailRows(data, prefix="rails", initial=_rails(held))

    def is_valid(self) -> bool:
        return all([self.form.is_valid(), self.patterns.is_valid(), self.rails.is_valid()])

    def values(self) -> dict[str, Any]:
        """As the verbs take them. Raises ApiError."""
        data = self.form.cleaned_data
        actions = {kind: data[f"action_{kind}"] for kind in (*KINDS, END_USER)}
        rows = [row.cleaned_data for row in self._filled(self.patterns)]
        actions |= {f"{CUSTOM_PREFIX}{row['name']}": row["action"] for row in rows}
        return {
            **{name: data[name] for name in ("name", "is_enabled", "detects_names", "vault_days")},
            "phone_regions": [word.upper() for word in words_of(data["phone_regions"])],
            "actions": {kind: action for kind, action in actions.items() if action != Action.ALLOW},
            "custom_patterns": [{"name": row["name"], "pattern": row["pattern"]} for row in rows],
            "guardrails": [row.stored(at) for at, row in enumerate(self._filled(self.rails))],
        }

    def refuse(self, error: ApiError) -> None:
        """Show a verb's refusal beside the field or the row it names, or above the form."""
        part, _, rest = (error.param or "").partition(".")
        number, _, name = rest.partition(".")
        rows = {"custom_patterns": self.patterns, "guardrails": self.rails}.get(part)
        if rows is not None and number.isdecimal():
            row = self._filled(rows)[int(number)]
            row.add_error(
                name if name in row.fields else "setting" if rows is self.rails else None, error.message
            )
        elif part == "actions" and f"action_{rest}" in self.form.fields:
            self.form.add_error(f"action_{rest}", error.message)
        else:
            self.form.add_error(part if part in self.form.fields else None, error.message)

    @staticmethod
    def _filled(rows: Any) -> list[Any]:
        """Rows that say something."""
        return [row for row in rows if row.cleaned_data.get("name")]


def _initial(profile: PrivacyProfile) -> dict[str, Any]:
    initial: dict[str, Any] = {
        name: getattr(profile, name) for name in ("name", "is_enabled", "detects_names", "vault_days")
    }
    initial["phone_regions"] = ", ".join(profile.phone_regions)
    return initial | {
        f"action_{kind}": profile.actions.get(kind, Action.ALLOW.value) for kind in (*KINDS, END_USER)
    }


def _patterns(profile: PrivacyProfile) -> list[dict[str, Any]]:
    return [
        {**each, "action": profile.actions.get(f"{CUSTOM_PREFIX}{each['name']}", Action.ALLOW.value)}
        for each in profile.custom_patterns
    ]


def _rails(profile: PrivacyProfile) -> list[dict[str, Any]]:
    return [{**each, "setting": _setting(each)} for each in profile.guardrails]


def _setting(stored: Mapping[str, Any]) -> str:
    value = stored[SETTING_OF[stored["kind"]]]
    if isinstance(value, list):
        return "\n".join(value)
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() if isinstance(value, dict) else str(value)


class TryForm(forms.Form):
    """A text to try the rules on."""

    text = forms.CharField(
        max_length=20_000,
        required=False,
        widget=forms.Textarea(attrs={"rows": 4}),
        help_text="Kept nowhere.",
    )


class BindForm(forms.Form):
    """Whose calls a profile rules. Only the operator chooses among tenants."""

    bound_tenant = forms.ModelChoiceField(
        label="Tenant",
        queryset=Tenant.objects.order_by("slug"),
        required=False,
        empty_label="everybody",
    )
    feature = forms.CharField(max_length=100, required=False, help_text="Its calls alone.")
    policy = forms.CharField(max_length=63, required=False, help_text="The slug; its calls alone.")

    def __init__(self, *args: Any, tenant: Tenant | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if tenant is not None:
            del self.fields["bound_tenant"]
