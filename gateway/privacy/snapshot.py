"""Which rules for personal data apply to which calls, as plain data in memory, compiled once per change.

`load` alone reads the database here. A tenant without rules costs its calls one look into a dict.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from gateway.privacy.bindings import END_USER
from gateway.privacy.detect import CustomPattern, Rules, compiled
from gateway.privacy.guardrails import Guardrail, Kind, Stage, prepared
from gateway.privacy.kinds import CUSTOM_PREFIX, Action
from gateway.privacy.layers import Layers, merged_actions
from gateway.privacy.models import PrivacyBinding, PrivacyProfile
from gateway.privacy.walk import Finder
from tenants import versions, webhooks
from tenants.encryption import SealBrokenError
from tenants.webhooks import SigningSecret

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BoundGuardrail:
    """A guardrail with what its webhook is signed with. The operator's own webhooks may be anywhere."""

    rule: Guardrail
    is_operators: bool
    secrets: tuple[SigningSecret, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class ProfileEntry:
    """A profile. `is_operators`: what it says cannot be softened by anybody's."""

    id: UUID
    slug: str
    is_operators: bool
    actions: Mapping[str, Action]
    custom: tuple[CustomPattern, ...]
    detects_names: bool
    phone_regions: tuple[str, ...]
    vault_days: int
    guardrails: tuple[BoundGuardrail, ...]


@dataclass(frozen=True, slots=True)
class Bound:
    """A profile, and the calls of a tenant that it rules: all, or those of a feature or a policy."""

    profile: ProfileEntry
    feature: str
    policy: str

    def rules(self, feature: str, policies: Collection[str]) -> bool:
        return (not self.feature or self.feature == feature) and (not self.policy or self.policy in policies)


@dataclass(frozen=True, slots=True, eq=False)
class CallRules:
    """What applies to a call, joined over all profiles that rule it."""

    profiles: tuple[str, ...]
    rules: Rules
    finder: Finder = field(repr=False)
    end_user: Action
    vault_days: int
    before: tuple[BoundGuardrail, ...]
    after: tuple[BoundGuardrail, ...]

    @property
    def finds(self) -> bool:
        """Whether there is anything to look for in texts."""
        return any(action is not Action.ALLOW for action in self.rules.actions.values())


@dataclass(frozen=True, slots=True)
class PrivacySnapshot:
    """All bindings as of `version`. `everybody` stands for every tenant without an entry of its own."""

    version: int
    everybody: tuple[Bound, ...]
    tenants: Mapping[UUID, tuple[Bound, ...]]
    _joined: dict[tuple[UUID, ...], CallRules] = field(default_factory=dict, repr=False)

    def rules_for(self, tenant_id: UUID, feature: str, policies: Collection[str]) -> CallRules | None:
        """What applies to a call; None for nothing."""
        bound = self.tenants.get(tenant_id, self.everybody)
        if not bound:
            return None
        return self._rules(tuple(each.profile for each in bound if each.rules(feature, policies)))

    def rules_of(self, tenant_id: UUID) -> CallRules | None:
        """All that any of the tenant's calls may be under, for texts that belong to none."""
        return self._rules(tuple(each.profile for each in self.tenants.get(tenant_id, self.everybody)))

    def _rules(self, profiles: Sequence[ProfileEntry]) -> CallRules | None:
        profiles = tuple({each.id: each for each in profiles}.values())
        if not profiles:
            return None
        key = tuple(each.id for each in profiles)
        found = self._joined.get(key)
        if found is None:
            found = self._joined[key] = joined(profiles)
        return found


def joined(profiles: Sequence[ProfileEntry]) -> CallRules:
    """Several profiles as one set of rules: the strictest action for each kind, everybody's guardrails in order.

    The operator's profiles come first. A tenant's own patterns are a layer of their own, so that none of them
    can cover what the operator's rules would find.
    """
    ordered = sorted(profiles, key=lambda each: not each.is_operators)
    patterns: dict[bool, list[CustomPattern]] = {True: [], False: []}
    actions = merged_actions(
        {kind: action for kind, action in each.actions.items() if not kind.startswith(CUSTOM_PREFIX)}
        for each in ordered
    )
    for each in ordered:
        for pattern in each.custom:
            action = each.actions.get(f"{CUSTOM_PREFIX}{pattern.name}", Action.ALLOW)
            if action is Action.ALLOW:
                continue
            name = _free_name(pattern, actions)
            actions[f"{CUSTOM_PREFIX}{name}"] = action
            patterns[each.is_operators].append(CustomPattern(name, pattern.pattern))
    has_names = any(each.detects_names for each in ordered)
    regions = tuple(dict.fromkeys(region for each in ordered for region in each.phone_regions))
    end_user = actions.pop(END_USER, Action.ALLOW)
    main = Rules(actions=actions, custom=tuple(patterns[True]), names=has_names, regions=regions)
    finder: Finder = compiled(main)
    if patterns[False]:
        own = {kind: action for kind, action in actions.items() if kind.startswith(CUSTOM_PREFIX)}
        finder = Layers((finder, compiled(Rules(actions=own, custom=tuple(patterns[False])))), actions)
    keeping = [each.vault_days for each in ordered if Action.TOKENIZE in each.actions.values()]
    rails = [rail for each in ordered for rail in each.guardrails]
    return CallRules(
        profiles=tuple(each.slug for each in ordered),
        rules=replace(main, custom=(*patterns[True], *patterns[False])),
        finder=finder,
        end_user=end_user,
        vault_days=min(keeping, default=0),
        before=tuple(rail for rail in rails if rail.rule.stage is Stage.BEFORE),
        after=tuple(rail for rail in rails if rail.rule.stage is Stage.AFTER),
    )


def _free_name(pattern: CustomPattern, actions: Mapping[str, Action]) -> str:
    """Two profiles may use one name for different things."""
    name, number = pattern.name, 2
    while f"{CUSTOM_PREFIX}{name}" in actions:
        name, number = f"{pattern.name}_{number}", number + 1
    return name


# ------------------------------------------------------------------ loading


def load() -> PrivacySnapshot:
    """The bindings as the database has them now. A rule that cannot be used raises: none is ever left out."""
    version = versions.current()["privacy"]
    rows = PrivacyBinding.objects.filter(profile__is_enabled=True).select_related(
        "profile", "profile__tenant"
    )
    entries: dict[UUID, ProfileEntry] = {}
    everybody: list[Bound] = []
    of_tenant: dict[UUID, list[Bound]] = {}
    for row in rows.order_by("id"):
        entry = entries.get(row.profile_id)
        if entry is None:
            entry = entries[row.profile_id] = entry_of(row.profile)
        bound = Bound(entry, row.feature, row.policy)
        if row.bound_tenant_id is None:
            everybody.append(bound)
        else:
            of_tenant.setdefault(row.bound_tenant_id, []).append(bound)
    return PrivacySnapshot(
        version,
        tuple(everybody),
        {tenant_id: (*everybody, *bound) for tenant_id, bound in of_tenant.items()},
    )


def entry_of(profile: PrivacyProfile) -> ProfileEntry:
    """A profile, ready to use. Raises ValueError for what was checked by other rules than today's."""
    is_operators = profile.tenant is None
    rails = [prepared(each) for each in profile.guardrails]
    secrets = _secrets(profile) if any(rail.kind is Kind.WEBHOOK for rail in rails) else ()
    return ProfileEntry(
        id=profile.pk,
        slug=profile.slug,
        is_operators=is_operators,
        actions={kind: Action(action) for kind, action in profile.actions.items()},
        custom=tuple(CustomPattern(each["name"], each["pattern"]) for each in profile.custom_patterns),
        detects_names=profile.detects_names,
        phone_regions=tuple(profile.phone_regions),
        vault_days=profile.vault_days,
        guardrails=tuple(BoundGuardrail(rail, is_operators, secrets) for rail in rails),
    )


def _secrets(profile: PrivacyProfile) -> tuple[SigningSecret, ...]:
    """None under a lost key: the webhook is not asked then, which is no verdict."""
    if not profile.sealed_webhook_secrets:
        return ()
    try:
        return webhooks.load(profile.webhook_secrets())
    except SealBrokenError:
        logger.exception("the signing secrets of the privacy profile %s do not open", profile.pk)
        return ()
