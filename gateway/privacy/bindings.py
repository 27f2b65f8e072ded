"""Profiles and whose calls they rule: every change, checked, audited and announced to the workers.

A tenant's own rules can only add to what the operator has bound: nothing here lets one touch the other's.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from django.conf import settings
from django.db import IntegrityError, models, transaction

from gateway.privacy import guardrails
from gateway.privacy.detect import CustomPattern, check_names, check_pattern
from gateway.privacy.kinds import KINDS, Action
from gateway.privacy.models import MAX_VAULT_DAYS, PrivacyBinding, PrivacyProfile
from tenants import audit, egress, versions, webhooks
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.principal import Principal

SECTION: Final = "privacy"
END_USER: Final = "end_user"
"""The kind of the whole name by which a caller knows its end user; other kinds are found within texts."""
FIELDS: Final = (
    "name",
    "is_enabled",
    "actions",
    "custom_patterns",
    "detects_names",
    "phone_regions",
    "vault_days",
    "guardrails",
)
MAX_PROFILES: Final = 50
MAX_BINDINGS: Final = 200
MAX_CUSTOM: Final = 50
_CUSTOM_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,29}")
MAX_REGIONS: Final = 20
_REGION: Final = re.compile(r"[A-Z]{2}")
_FEATURE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")


# ------------------------------------------------------------------ profiles


def create_profile(
    *, slug: str, tenant: Tenant | None, values: Mapping[str, Any], actor: Principal
) -> PrivacyProfile:
    """A profile that rules nobody yet. Raises ApiError: invalid_request, url_not_allowed; conflict when the name
    is taken or there are 50."""
    checked = _checked(values, tenant, PrivacyProfile())
    try:
        with transaction.atomic():
            versions.bump(SECTION)
            if PrivacyProfile.objects.filter(tenant=tenant).count() >= MAX_PROFILES:
                raise ApiError("conflict", f"There are {MAX_PROFILES} profiles already.")
            profile = PrivacyProfile(slug=slug, tenant=tenant, **checked)
            _sign_webhooks(profile)
            profile.save(force_insert=True)
            _record(profile, "create", actor, after=picture(profile))
    except IntegrityError as error:
        raise ApiError("conflict", f"There is a profile {slug!r} already.", param="slug") from error
    return profile


def change_profile(*, profile: PrivacyProfile, values: Mapping[str, Any], actor: Principal) -> PrivacyProfile:
    """Change what it says, in force at once wherever it rules. Raises ApiError as `create_profile`."""
    with transaction.atomic():
        versions.bump(SECTION)
        held = _locked(profile)
        before = picture(held)
        for name, value in _checked(values, held.tenant, held).items():
            setattr(held, name, value)
        _sign_webhooks(held)
        held.save()
        after = picture(held)
        changed = [name for name in after if after[name] != before[name]]
        _record(
            held,
            "update",
            actor,
            before={name: before[name] for name in changed},
            after={name: after[name] for name in changed},
        )
    return held


def remove_profile(*, profile: PrivacyProfile, actor: Principal) -> None:
    """Forget it. Raises ApiError conflict while it rules anybody."""
    with transaction.atomic():
        versions.bump(SECTION)
        held = _locked(profile)
        if PrivacyBinding.objects.filter(profile=held).exists():
            raise ApiError("conflict", "This profile rules calls: take its bindings away first.")
        _record(held, "delete", actor, before=picture(held))
        held.delete()


def rotate_webhook_secret(*, profile: PrivacyProfile, grace_s: int, now: datetime, actor: Principal) -> str:
    """A fresh secret that webhooks are signed with, shown this once; the one before signs beside it for `grace_s`."""
    fresh = webhooks.new_secret()
    with transaction.atomic():
        versions.bump(SECTION)
        held = _locked(profile)
        known = webhooks.load(held.webhook_secrets()) if held.sealed_webhook_secrets else ()
        held.put_webhook_secrets(webhooks.dump(webhooks.rotate(known, fresh, now=now, grace_s=grace_s)))
        held.save(update_fields=("sealed_webhook_secrets", "updated_at"))
        _record(held, "rotate_webhook_secret", actor, after={"grace_s": grace_s})
    return fresh


def _sign_webhooks(profile: PrivacyProfile) -> None:
    """A profile whose guardrails ask a webhook has something to sign with; rotating shows it."""
    if not profile.sealed_webhook_secrets and any(each["kind"] == "webhook" for each in profile.guardrails):
        profile.put_webhook_secrets(webhooks.dump((webhooks.SigningSecret(webhooks.new_secret()),)))


def picture(profile: PrivacyProfile) -> dict[str, Any]:
    """As the audit trail shows it."""
    return {"slug": profile.slug, **{name: getattr(profile, name) for name in FIELDS}}


def _locked(profile: PrivacyProfile) -> PrivacyProfile:
    rows = PrivacyProfile.objects.select_for_update(of=("self",)).select_related("tenant")
    held: PrivacyProfile = rows.get(pk=profile.pk)
    return held


def _record(
    profile: PrivacyProfile,
    verb: str,
    actor: Principal,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    audit.record(
        principal=actor,
        action=f"privacy_profile.{verb}",
        object_type="privacy_profile",
        object_id=profile.pk,
        tenant=profile.tenant,
        before=before,
        after=after,
    )


# ------------------------------------------------------------------ what a profile may say


def draft(*, tenant: Tenant | None, values: Mapping[str, Any], base: PrivacyProfile | None) -> PrivacyProfile:
    """A profile as it would be, saved nowhere: for trying it out. Raises ApiError as `create_profile`."""
    made = PrivacyProfile(tenant=tenant)
    if base is not None:
        for name in FIELDS:
            setattr(made, name, getattr(base, name))
    for name, value in _checked(values, tenant, made).items():
        setattr(made, name, value)
    return made


def _checked(values: Mapping[str, Any], tenant: Tenant | None, held: PrivacyProfile) -> dict[str, Any]:
    """The given fields as they are stored. `held` is what stands where nothing is given."""
    checked = {name: values[name] for name in FIELDS if name in values}
    patterns = checked.get("custom_patterns", held.custom_patterns)
    if "custom_patterns" in checked:
        checked["custom_patterns"] = patterns = _patterns(patterns)
    if "actions" in checked or "custom_patterns" in checked:
        checked["actions"] = _actions(checked.get("actions", held.actions), patterns)
    if "guardrails" in checked:
        checked["guardrails"] = guardrails.read(checked["guardrails"])
        _check_addresses(checked["guardrails"], tenant)
    if checked.get("detects_names"):
        try:
            check_names()
        except ValueError as error:
            raise _bad("detects_names", f"cannot be used here ({error})") from error
    regions = checked.get("phone_regions", [])
    if (
        not isinstance(regions, list)
        or len(regions) > MAX_REGIONS
        or not all(isinstance(each, str) and _REGION.fullmatch(each) for each in regions)
    ):
        raise _bad("phone_regions", f"must be a list of up to {MAX_REGIONS} countries, as in DE")
    days = checked.get("vault_days", 0)
    if type(days) is not int or not 0 <= days <= MAX_VAULT_DAYS:
        raise ApiError("invalid_request", f"vault_days is 0 to {MAX_VAULT_DAYS}.", param="vault_days")
    return checked


def _patterns(raw: object) -> list[dict[str, str]]:
    if not isinstance(raw, list) or len(raw) > MAX_CUSTOM:
        raise _bad("custom_patterns", f"must be a list of up to {MAX_CUSTOM} patterns")
    made: list[dict[str, str]] = []
    for number, each in enumerate(raw):
        at = f"custom_patterns.{number}"
        if not isinstance(each, dict) or each.keys() != {"name", "pattern"}:
            raise _bad(at, "must be an object with name and pattern")
        name, pattern = each["name"], each["pattern"]
        if not isinstance(name, str) or not _CUSTOM_NAME.fullmatch(name):
            raise _bad(f"{at}.name", "must be up to 30 lower-case letters, digits and underscores")
        if any(name == other["name"] for other in made):
            raise _bad(f"{at}.name", "stands there twice")
        if not isinstance(pattern, str):
            raise _bad(f"{at}.pattern", "must be a regular expression")
        try:
            check_pattern(CustomPattern(name, pattern))
        except ValueError as error:
            raise _bad(f"{at}.pattern", f"cannot be used ({error})") from error
        made.append({"name": name, "pattern": pattern})
    return made


def _actions(raw: object, patterns: list[dict[str, str]]) -> dict[str, str]:
    if not isinstance(raw, Mapping):
        raise _bad("actions", "must be an object of kinds and actions")
    known = {*KINDS, END_USER, *(f"custom:{each['name']}" for each in patterns)}
    for kind, action in raw.items():
        if kind not in known:
            raise _bad(f"actions.{kind}", "is no kind of personal data that this profile knows")
        if action not in tuple(Action):
            raise _bad(f"actions.{kind}", f"must be one of {', '.join(Action)}")
    return dict(raw)


def _check_addresses(rules: list[dict[str, Any]], tenant: Tenant | None) -> None:
    """A tenant's webhook must be where the egress client may go; the operator's own may be anywhere."""
    for number, each in enumerate(rules):
        if tenant is not None and "url" in each:
            egress.check_url(
                each["url"],
                allow_private_hosts=settings.TOLLHOUSE_EGRESS_ALLOWED_HOSTS,
                param=f"guardrails.{number}.url",
            )


def _bad(param: str, what: str) -> ApiError:
    return ApiError("invalid_request", f"{param} {what}.", param=param)


# ------------------------------------------------------------------ bindings


def bind(
    *,
    profile: PrivacyProfile,
    bound_tenant: Tenant | None,
    feature: str = "",
    policy: str = "",
    actor: Principal,
) -> PrivacyBinding:
    """Let the profile rule: the tenant's calls (None: everybody's), or those of one feature or policy (its slug).

    A tenant's profile rules that tenant alone. Raises ApiError: invalid_request, conflict.
    """
    if feature and policy:
        raise ApiError("invalid_request", "Bind to a feature or to a policy, not to both.", param="policy")
    if feature and not _FEATURE.fullmatch(feature):
        raise ApiError(
            "invalid_request", "A feature is 1 to 100 letters, digits, dots, dashes.", param="feature"
        )
    if profile.tenant is not None and bound_tenant != profile.tenant:
        raise ApiError(
            "invalid_request", "A tenant's profile rules its own calls alone.", param="bound_tenant"
        )
    try:
        with transaction.atomic():
            versions.bump(SECTION)
            if PrivacyBinding.objects.filter(tenant=profile.tenant).count() >= MAX_BINDINGS:
                raise ApiError("conflict", f"There are {MAX_BINDINGS} bindings already.")
            row: PrivacyBinding = PrivacyBinding.objects.create(
                tenant=profile.tenant,
                profile=profile,
                bound_tenant=bound_tenant,
                feature=feature,
                policy=policy,
            )
            _record_binding(row, "create", actor, after=binding_picture(row))
    except IntegrityError as error:
        raise ApiError("conflict", "It is bound so already.", param="profile") from error
    return row


def unbind(*, binding: PrivacyBinding, actor: Principal) -> None:
    """Let the profile rule there no longer."""
    with transaction.atomic():
        versions.bump(SECTION)
        _record_binding(binding, "delete", actor, before=binding_picture(binding))
        binding.delete()


def binding_picture(row: PrivacyBinding) -> dict[str, Any]:
    """As the audit trail shows it."""
    return {
        "profile": row.profile.slug,
        "bound_tenant": row.bound_tenant.slug if row.bound_tenant else None,
        "feature": row.feature,
        "policy": row.policy,
    }


def _record_binding(
    row: PrivacyBinding,
    verb: str,
    actor: Principal,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    audit.record(
        principal=actor,
        action=f"privacy_binding.{verb}",
        object_type="privacy_binding",
        object_id=row.pk,
        tenant=row.tenant,
        before=before,
        after=after,
    )


def rules_of(tenant: Tenant) -> models.QuerySet[PrivacyBinding]:
    """What the operator has bound to this tenant or to everybody: the tenant sees it, and cannot change it."""
    return (
        PrivacyBinding.objects.filter(tenant=None, profile__is_enabled=True)
        .filter(models.Q(bound_tenant=tenant) | models.Q(bound_tenant=None))
        .select_related("profile")
    )
