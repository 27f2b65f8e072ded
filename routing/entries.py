"""The routing configuration of one moment, as the pipeline and the planner see it. Pure data.

Nothing here is changed after it was built; `_by_name` and `_choices` are answers worked out once.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from routing.types import DEFAULT_CONDUCT, Conduct, Target


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that somebody serves. `created` is in unix seconds; `targets` may be empty."""

    slug: str
    name: str
    owned_by: str
    operations: frozenset[str]
    capabilities: frozenset[str]
    context_window: int | None
    max_output_tokens: int | None
    created: int
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class PolicyTarget:
    """What a policy points at: a model, a provider, or a model at a provider."""

    model: str | None
    provider: str | None
    weight: int


@dataclass(frozen=True, slots=True)
class PolicyEntry:
    """A policy's wording in force. No targets means the whole catalogue; no tenant means for all."""

    slug: str
    number: int
    strategy: str
    targets: tuple[PolicyTarget, ...]
    constraints: Mapping[str, Any]
    tenant_id: UUID | None
    fallback: tuple[PolicyTarget, ...] = ()  # tried after all of `targets`, in this order
    conduct: Conduct = DEFAULT_CONDUCT
    variant: str = (
        ""  # "": as worded; else which arm, candidate or shadow of it this is: part of its identity
    )
    experiment: "ExperimentEntry | None" = None
    rollout: "RolloutEntry | None" = None
    shadow: "ShadowEntry | None" = None

    @property
    def name(self) -> str:
        """What answers and ledger rows say: `slug@version`, of a rollout's candidate `slug@version+rollout`."""
        suffix = "+rollout" if self.variant == ROLLOUT_VARIANT else ""
        return f"{self.slug}@{self.number}{suffix}"


ROLLOUT_VARIANT = "rollout"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of an experiment. `policy` is the experiment's policy with the arm's own targets, if it has any."""

    name: str
    weight: int
    policy: PolicyEntry | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)  # body fields the arm sets
    system_prompt: str = ""


@dataclass(frozen=True, slots=True)
class ExperimentEntry:
    """An experiment in force. `unit` is "tenant", "user" or "tag:<name>"; the first arm is the control."""

    slug: str
    unit: str
    salt: str
    arms: tuple[Arm, ...]


@dataclass(frozen=True, slots=True)
class RolloutEntry:
    """A gated rollout under way: `share` of the calls go by the candidate `policy`; 0 while only shadowed."""

    slug: str
    unit: str  # as an experiment's, or "call"
    salt: str
    share: float
    policy: PolicyEntry


@dataclass(frozen=True, slots=True)
class ShadowEntry:
    """A share of a policy's calls is mirrored to what `policy` (the same constraints, other targets) ranks first."""

    share: float
    policy: PolicyEntry
    per_minute: int  # mirrored calls at most, per worker
    rollout: str = ""  # slug of the gated rollout it measures for
    scoring: Mapping[str, Any] = field(
        default_factory=dict
    )  # how answers are scored: gateway.pipeline.scoring
    judge: PolicyEntry | None = (
        None  # the same constraints again, and the model that judges answers as target
    )


@dataclass(frozen=True, slots=True)
class FeatureEntry:
    """A feature of the operator's product, the policy it is bound to and what it promises (its SLO)."""

    slug: str
    tenant_id: UUID | None
    policy: PolicyEntry | None
    target_p95_ms: int | None
    target_success: float | None  # share in (0, 1)
    max_cost_pico: int | None  # per call, in USD

    @property
    def key(self) -> str:
        """Names the feature in `Health.burn`."""
        return f"{self.tenant_id or '*'}/{self.slug}"


@dataclass(frozen=True, slots=True)
class OwnCredential:
    """A tenant's own (BYO) credential for a provider, opened. `base_url` is empty for the provider's."""

    credential_id: str
    base_url: str
    api_key: str = field(repr=False)


class Choice(NamedTuple):
    """A target, and the weight and the position of the policy target that led to it."""

    target: Target
    weight: int
    position: int
    is_fallback: bool = False  # tried only after all that are not


@dataclass(frozen=True, slots=True)
class RoutingSnapshot:
    """One version of the routing floor's configuration. `providers` maps the slugs in use to their kinds."""

    version: int
    models: Mapping[str, ModelEntry]
    policies: Mapping[tuple[UUID | None, str], PolicyEntry]
    providers: Mapping[str, str]
    features: Mapping[tuple[UUID | None, str], FeatureEntry] = field(default_factory=dict)
    bindings: Mapping[tuple[UUID | None, str], PolicyEntry] = field(default_factory=dict)
    """(tenant, "") or (None, plan slug) -> the policy that rules its calls."""
    own: Mapping[tuple[UUID, str], tuple[OwnCredential, ...]] = field(default_factory=dict)
    """(tenant, provider slug) -> the tenant's own credentials there."""
    _by_name: dict[tuple[str, str], tuple[Target, ...]] = field(init=False, repr=False, compare=False)
    _choices: dict[tuple[UUID | None, str, str], tuple[Choice, ...]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )
    _owners: frozenset[UUID] = field(init=False, repr=False, compare=False)
    memo: dict[Hashable, Any] = field(init=False, repr=False, compare=False, default_factory=dict)
    """What the planner worked out for this snapshot; it may be emptied at any time."""

    def __post_init__(self) -> None:
        by_name: dict[tuple[str, str], tuple[Target, ...]] = {}
        for entry in self.models.values():
            for target in entry.targets:
                for name in {target.provider_model, target.model}:
                    key = (target.provider, name)
                    by_name[key] = (*by_name.get(key, ()), target)
        object.__setattr__(self, "_by_name", by_name)
        object.__setattr__(self, "_owners", frozenset(tenant_id for tenant_id, _ in self.own))

    def targets_of(self, provider: str, name: str) -> tuple[Target, ...]:
        """One provider's targets for `name`: its own name of a model, or our slug."""
        return self._by_name.get((provider, name), ())

    def feature_of(self, tenant_id: UUID, slug: str) -> FeatureEntry | None:
        """The feature that a tenant's call names: the tenant's own before the operator's."""
        if not slug:
            return None
        return self.features.get((tenant_id, slug)) or self.features.get((None, slug))

    def has_own(self, tenant_id: UUID) -> bool:
        """Whether the tenant has a credential of its own (BYO) with any provider."""
        return tenant_id in self._owners

    def choices_of(self, policy: PolicyEntry) -> tuple[Choice, ...]:
        """The targets a policy points at, each once, in its order, its fallback last. Once per snapshot."""
        key = (policy.tenant_id, policy.slug, policy.variant)
        choices = self._choices.get(key)
        if choices is None:
            choices = self._choices[key] = tuple(self._expand(policy))
        return choices

    def _expand(self, policy: PolicyEntry) -> Iterable[Choice]:
        seen: set[tuple[str, str]] = set()
        everything = (PolicyTarget(model=None, provider=None, weight=1),)
        main = policy.targets or everything
        for position, pointer in enumerate((*main, *policy.fallback)):
            for target in self._pointed_at(pointer):
                name = (target.endpoint_id, target.credential_id)
                if name not in seen:
                    seen.add(name)
                    yield Choice(target, pointer.weight, position, position >= len(main))

    def _pointed_at(self, pointer: PolicyTarget) -> Iterable[Target]:
        if pointer.provider is not None and pointer.model is not None:
            return self.targets_of(pointer.provider, pointer.model)
        if pointer.model is not None:
            entry = self.models.get(pointer.model)
            return entry.targets if entry else ()
        return (
            target
            for entry in self.models.values()
            for target in entry.targets
            if pointer.provider in (None, target.provider)
        )
