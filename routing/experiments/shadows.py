"""Verbs of shadows: which share of a policy's calls is mirrored to which targets, and how answers are scored."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from django.db import transaction

from routing.experiments.arms import bad
from routing.experiments.models import PolicyShadow
from routing.models import RoutingPolicy
from routing.policies.wordings import check_targets, record_change
from tenants import versions
from tenants.errors import ApiError
from tenants.principal import Principal

SCORINGS: Final = ("none", "exact_match", "similarity", "rubric")
FIELDS: Final = ("share", "targets", "per_minute", "scoring", "is_enabled")
MAX_SHARE: Final = Decimal("0.5")
MAX_PER_MINUTE: Final = 6000
MAX_RUBRIC: Final = 8_000


def set_shadow(*, policy: RoutingPolicy, wording: Mapping[str, Any], actor: Principal) -> PolicyShadow:
    """Mirror a share of the policy's calls; what `wording` leaves out stays as it is. Raises ApiError."""
    with transaction.atomic():
        versions.bump("routing")
        held = PolicyShadow.objects.select_for_update().filter(policy=policy).first()
        before = picture(held) if held else None
        said = {**(before or {"per_minute": 60, "scoring": {}, "is_enabled": True}), **wording}
        if unknown := said.keys() - set(FIELDS):
            raise bad(f"shadow.{min(unknown)}", "is unknown")
        checked = _checked(said)
        made, _ = PolicyShadow.objects.update_or_create(policy=policy, defaults=checked)
        record_change("shadow.set", policy, before, picture(made), actor)
    return made


def clear_shadow(*, policy: RoutingPolicy, actor: Principal) -> None:
    """Mirror no more. Raises ApiError not_found where nothing is mirrored."""
    with transaction.atomic():
        versions.bump("routing")
        held = PolicyShadow.objects.select_for_update().filter(policy=policy).first()
        if held is None:
            raise ApiError("not_found", "This policy has no shadow.")
        before = picture(held)
        held.delete()
        record_change("shadow.clear", policy, before, None, actor)


def _checked(said: Mapping[str, Any]) -> dict[str, Any]:
    per_minute, targets = said["per_minute"], said.get("targets")
    if type(per_minute) is not int or not 1 <= per_minute <= MAX_PER_MINUTE:
        raise bad("shadow.per_minute", f"must be a whole number between 1 and {MAX_PER_MINUTE}")
    if type(said["is_enabled"]) is not bool:
        raise bad("shadow.is_enabled", "must be true or false")
    if not isinstance(targets, list) or not targets:
        raise bad("shadow.targets", "must name one target at least")
    check_targets("shadow.targets", targets)
    return {
        "share": checked_share("shadow.share", said.get("share"), MAX_SHARE),
        "targets": targets,
        "per_minute": per_minute,
        "scoring": checked_scoring("shadow.scoring", said["scoring"]),
        "is_enabled": said["is_enabled"],
    }


def checked_share(param: str, value: object, most: Decimal) -> Decimal:
    """A share above 0 with up to four places. Raises ApiError invalid_request."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise bad(param, f"must be a number above 0, up to {most}")
    try:
        share = Decimal(str(value)).quantize(Decimal("0.0001"))
        is_within = 0 < share <= most
    except ArithmeticError as error:
        raise bad(param, f"must be a number above 0, up to {most}") from error
    if not is_within:
        raise bad(param, f"must be a number above 0, up to {most}")
    return share


def checked_scoring(param: str, scoring: object) -> dict[str, Any]:
    """How answers are scored; a judge is opt-in, with its target and its rubric. Raises ApiError."""
    if not isinstance(scoring, Mapping):
        raise bad(param, "must be an object")
    kind = scoring.get("kind", "none")
    if kind not in SCORINGS:
        raise bad(f"{param}.kind", f"must be one of {', '.join(SCORINGS)}")
    allowed = {"kind", "target", "rubric"} if kind == "rubric" else {"kind"}
    if unknown := scoring.keys() - allowed:
        raise bad(f"{param}.{min(unknown)}", "is for a rubric alone")
    if kind != "rubric":
        return {"kind": kind}
    rubric, target = scoring.get("rubric"), scoring.get("target")
    if not isinstance(rubric, str) or not 1 <= len(rubric) <= MAX_RUBRIC:
        raise bad(f"{param}.rubric", f"must be a text of up to {MAX_RUBRIC} characters")
    if target is None:
        raise bad(f"{param}.target", "must name the model that judges")
    check_targets(f"{param}.target", [target])
    return {"kind": kind, "rubric": rubric, "target": target}


def picture(shadow: PolicyShadow) -> dict[str, Any]:
    return {
        "share": str(shadow.share),
        "targets": shadow.targets,
        "per_minute": shadow.per_minute,
        "scoring": shadow.scoring,
        "is_enabled": shadow.is_enabled,
    }
