"""Which targets a call may use at all, and which fit it: allowlists, regions, data, context windows, prices. Pure.

Fails closed: what a region, an allowlist or a constraint does not clearly permit is left out. Everything here is
worked out once per snapshot: a `Sieve` for a kind of call, in it a `Pool` for each range of sizes between two
context tiers or windows; what they keep is exact for every call in the range.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import IntEnum
from typing import Final
from uuid import UUID

from routing.catalog.cost import Unpriced, price_per_million, token_rates
from routing.entries import Choice, PolicyEntry, RoutingSnapshot
from routing.policies.constraints import Constraints, Credentials
from routing.policies.preferences import PRICED, Preferences
from routing.types import Dropped, Operation, Target
from tenants.errors import ApiError

MAX_POOLS: Final = 16
"""Pools a sieve remembers; kinds of sizes beyond that are worked out again."""
MILLION: Final = 10**6
USD: Final = "USD"
NO_PREFERENCES: Final = Preferences()


class Stage(IntEnum):
    """The filters in their order. If nothing is left, the furthest one that a target reached is the error."""

    SERVED = 1
    ALLOWED = 2
    RULES = 3
    OPERATION = 4
    CAPABILITY = 5
    REGION = 6
    DATA = 7
    CREDENTIALS = 8
    PREFERENCE = 9
    CONTEXT = 10
    PRICED = 11
    PRICE_LIMIT = 12
    PREFERRED_PRICE = 13
    COST_LIMIT = 14
    SLOW = 15
    UNRELIABLE = 16


@dataclass(frozen=True, slots=True)
class Demands:
    """What the call, its policy and the caller's preferences demand together."""

    name: str  # the model as the caller named it
    operation: Operation
    allowed_models: frozenset[str] | None  # None: all
    is_allowed_by_name: bool  # the allowlist names what the caller named: its targets need not be listed
    regions: frozenset[str] | None  # None: all
    capabilities: frozenset[str]
    constraints: Constraints
    preferences: Preferences


type Rates = tuple[int, int, int, int]
"""Of an input and of an output token, in pico-units: numerator and denominator each."""


class Pool:
    """The targets that fit every call of one range of sizes at one time, and all that ranking needs of them.

    Parallel sequences, indexed by place, because planning fifty endpoints must stay cheap; `main` places come before
    the fallback's. Never changed.
    """

    __slots__ = (
        "choices",
        "classes",
        "currency",
        "dropped",
        "endpoint_ids",
        "from_s",
        "furthest",
        "is_mixed",
        "is_priced",
        "main",
        "param",
        "rates",
        "shares",
        "siblings",
        "targets",
        "until_s",
    )

    def __init__(
        self,
        choices: Sequence[Choice],
        rates: Sequence[Rates | None],
        dropped: Sequence[Dropped] = (),
        *,
        preferences: Preferences = NO_PREFERENCES,
        furthest: Stage = Stage.SERVED,
        param: str = "",
        from_s: float = float("-inf"),
        until_s: float = float("inf"),
    ) -> None:
        self.choices = tuple(choices)
        self.rates = tuple(rates)
        self.dropped = tuple(dropped)
        self.furthest = furthest
        self.param = param  # of the preference that excluded a target
        self.from_s, self.until_s = from_s, until_s
        self.targets = tuple(choice[0] for choice in choices)
        self.endpoint_ids = tuple(target.endpoint_id for target in self.targets)
        self.main = sum(not choice[3] for choice in choices)
        self.is_priced = None not in rates
        currencies = Counter(target.rates.currency for target in self.targets).most_common()
        self.currency = currencies[0][0] if currencies else ""
        self.is_mixed = len(currencies) > 1  # some rates are in another currency than the commonest
        self.shares = shares_of(self.choices)
        self.siblings = _siblings(self.targets)
        classes = tuple(_class(choice, preferences.order) for choice in self.choices)
        self.classes = classes if len(set(classes)) > 1 else None  # targets of a lower class go first

    def costs(self, input_tokens: int, output_tokens: int) -> list[int | None]:
        """Each target's `estimate_pico` for a call of this pool's range; None while unpriced."""
        tokens = input_tokens or 1
        if self.is_priced:
            return [tokens * a // b + output_tokens * c // d for a, b, c, d in self.rates]  # type: ignore[misc]  # none is None
        return [
            None if rates is None else tokens * rates[0] // rates[1] + output_tokens * rates[2] // rates[3]
            for rates in self.rates
        ]


@dataclass(slots=True)
class Sieve:
    """What passes the filters that depend neither on a call's size nor on the moment, and why the rest does not."""

    demands: Demands
    passed: Sequence[Choice]
    dropped: Sequence[Dropped]
    furthest: Stage
    param: str
    sizes: Sequence[int]  # input tokens beyond which something changes: a context tier or window
    pools: dict[tuple[int, bool, str, bool], Pool] = field(default_factory=dict)

    def pool(
        self, *, input_tokens: int, has_output: bool, service_tier: str, allow_unpriced: bool, now: float
    ) -> Pool:
        """The targets that fit, priced for `now` (unix seconds)."""
        key = (bisect_left(self.sizes, input_tokens), has_output, service_tier, allow_unpriced)
        pool = self.pools.get(key)
        if pool is None or not pool.from_s <= now < pool.until_s:
            if len(self.pools) >= MAX_POOLS:
                self.pools.clear()
            pool = self.pools[key] = _fit(
                self,
                input_tokens=input_tokens,
                has_output=has_output,
                service_tier=service_tier,
                allow_unpriced=allow_unpriced,
                now=now,
            )
        return pool


# ------------------------------------------------------------------ what a call's size and time do not touch


def sieve(demands: Demands, choices: Sequence[Choice], unserved: Iterable[Dropped]) -> Sieve:
    """Sort the choices by the filters of a kind of call. `unserved` is told with what is dropped."""
    passed: list[Choice] = []
    dropped: list[Dropped] = []
    furthest, furthest_param = Stage.SERVED, ""
    for choice in choices:
        found = _obstacle(choice[0], demands)
        if found is None:
            passed.append(choice)
            continue
        stage, reason, param = found
        dropped.append(dropped_for(choice[0], reason))
        if stage >= furthest:
            furthest, furthest_param = stage, param
    sizes = {choice[0].context_window for choice in passed} - {None}
    sizes |= {rate.min_input_tokens for choice in passed for rate in choice[0].rates.rates} - {0}
    return Sieve(
        demands=demands,
        passed=passed,
        dropped=[*dropped, *unserved],
        furthest=furthest,
        param=furthest_param,
        sizes=sorted(size for size in sizes if size is not None),
    )


def with_own(
    choices: Sequence[Choice], *, tenant_id: UUID, mode: Credentials, snapshot: RoutingSnapshot
) -> Sequence[Choice]:
    """The choices with the tenant's own credentials in front of the operator's at each of their providers."""
    if mode is Credentials.NEVER or not snapshot.has_own(tenant_id):
        return choices
    made: list[Choice] = []
    seen: set[tuple[str, str]] = set()
    for choice in choices:
        target = choice[0]
        for own in snapshot.own.get((tenant_id, target.provider), ()):
            name = (target.endpoint_id, own.credential_id)
            if name not in seen:
                seen.add(name)
                variant = replace(
                    target,
                    credential_id=own.credential_id,
                    api_key=own.api_key,
                    base_url=own.base_url or target.base_url,
                    quota_key=f"{own.credential_id}/{target.provider_model}",
                    is_own=True,
                    needs_own=False,
                    limit_rpm=None,
                    limit_tpm=None,
                )
                made.append(choice._replace(target=variant))
        made.append(choice)
    return made


def unserved(policy: PolicyEntry, choices: Sequence[Choice]) -> Iterable[Dropped]:
    """What a policy names but nobody serves: disabled, without a credential, or misspelt."""
    reached = {choice[2] for choice in choices}
    for position, pointer in enumerate((*policy.targets, *policy.fallback)):
        is_named_before = any(
            pointer.model in (None, choice[0].model, choice[0].provider_model)
            and pointer.provider in (None, choice[0].provider)
            for choice in choices
        )
        if position not in reached and not is_named_before:
            yield Dropped(
                "",
                pointer.provider or "",
                pointer.model or "",
                "no enabled endpoint with a credential serves it",
            )


def dropped_for(target: Target, reason: str) -> Dropped:
    return Dropped(target.endpoint_id, target.provider, target.model, reason)


def _obstacle(target: Target, demands: Demands) -> tuple[Stage, str, str] | None:
    """The first filter that keeps a target out: its stage, the reason and the preference's name if it is one."""
    rules = demands.constraints
    if target.needs_own:
        return Stage.SERVED, "the operator has no credential there", ""
    if not demands.is_allowed_by_name and not _is_listed(target, demands.allowed_models):
        return Stage.ALLOWED, "not among the models this key may use", ""
    if reason := _ruled_out(target, rules):
        return Stage.RULES, reason, ""
    if demands.operation not in target.operations:
        return Stage.OPERATION, f"does not serve {demands.operation}", ""
    if not demands.capabilities <= target.capabilities:
        missing = min(demands.capabilities - target.capabilities)
        return Stage.CAPABILITY, f"does not support {missing}", ""
    if demands.regions is not None and target.region not in demands.regions:
        return Stage.REGION, f"is in region {target.region}", ""
    if not rules.may_train and target.trains_on_data is not False:
        return Stage.DATA, "may train on what it is sent", ""
    if reason := _kept_too_long(target, rules.max_retention_days):
        return Stage.DATA, reason, ""
    if rules.credentials is Credentials.OWN_ONLY and not target.is_own:
        return Stage.CREDENTIALS, "is not reached with the tenant's own credential", ""
    return _unwanted(target, demands.preferences)


def _is_listed(target: Target, names: frozenset[str] | None) -> bool:
    return names is None or target.model in names or f"{target.provider}/{target.model}" in names


def _ruled_out(target: Target, constraints: Constraints) -> str:
    """Why the policy's allow and deny keep a target out, or "". Models go by any of their names."""
    allow, deny = constraints.allow, constraints.deny
    names = {target.model, target.provider_model}
    names |= {f"{target.provider}/{name}" for name in names}
    if allow.providers is not None and target.provider not in allow.providers:
        return "its provider is not among those the policy allows"
    if allow.models is not None and not names & allow.models:
        return "not among the models the policy allows"
    if deny.providers is not None and target.provider in deny.providers:
        return "the policy denies its provider"
    if deny.models is not None and names & deny.models:
        return "the policy denies the model"
    return ""


def _kept_too_long(target: Target, max_days: int | None) -> str:
    if max_days is None:
        return ""
    if target.retention_days is None:
        return "does not say how long it keeps content"
    return f"keeps content for {target.retention_days} days" if target.retention_days > max_days else ""


def _unwanted(target: Target, preferences: Preferences) -> tuple[Stage, str, str] | None:
    """What the caller's own preferences leave out; the third part names the one that does."""
    provider, param = target.provider, ""
    if preferences.only is not None and provider not in preferences.only:
        param, reason = "provider.only", f"{provider} is not in provider.only"
    elif provider in preferences.ignore:
        param, reason = "provider.ignore", f"{provider} is in provider.ignore"
    elif preferences.order and not preferences.allow_fallbacks and provider not in preferences.order:
        param, reason = "provider.order", "not in provider.order, and provider.allow_fallbacks is false"
    elif not preferences.may_train and target.trains_on_data is not False:
        param, reason = "provider.data_collection", "may train on what it is sent (provider.data_collection)"
    elif preferences.zero_retention and (kept := _kept_too_long(target, 0)):
        param, reason = "provider.zdr", f"{kept} (provider.zdr)"
    return (Stage.PREFERENCE, reason, param) if param else None


# ------------------------------------------------------------------ what fits a range of sizes, at a time


def _fit(
    sieve: Sieve, *, input_tokens: int, has_output: bool, service_tier: str, allow_unpriced: bool, now: float
) -> Pool:
    """Context window and prices."""
    demands = sieve.demands
    limit, preferred = demands.constraints.max_price_per_million, demands.preferences.max_price
    needs_price = limit is not None or preferred or demands.constraints.max_cost_pico is not None
    kept: list[Choice] = []
    rates: list[Rates | None] = []
    dropped: list[Dropped] = []
    furthest, param = sieve.furthest, sieve.param
    from_s, until_s = float("-inf"), float("inf")

    def drop(target: Target, stage: Stage, reason: str) -> None:
        nonlocal furthest
        dropped.append(dropped_for(target, reason))
        furthest = max(furthest, stage)

    for choice in sieve.passed:
        target = choice[0]
        period = target.rates.at(now)
        from_s, until_s = max(from_s, period.from_s), min(until_s, period.until_s)
        window = target.context_window
        if window is not None and input_tokens > window:
            drop(target, Stage.CONTEXT, f"its context window is {window} tokens")
            continue
        per_input, per_output = token_rates(
            target.rates, now, service_tier=service_tier, input_tokens=input_tokens
        )
        if not has_output:
            per_output = (0, 1)
        if per_input is None or per_output is None:
            if allow_unpriced and not needs_price:
                kept.append(choice)
                rates.append(None)
            else:
                component = "input" if per_input is None else "output"
                drop(target, Stage.PRICED, f"has no price for {component}")
            continue
        prices = {
            "input": Decimal(per_input[0]) / per_input[1] / MILLION,
            "output": Decimal(per_output[0]) / per_output[1] / MILLION,
        }
        if limit is not None and (reason := _over_limit(target, prices, limit)):
            drop(target, Stage.PRICE_LIMIT, reason)
            continue
        if preferred and (reason := _over_preferred(target, prices, preferred, service_tier, now)):
            drop(target, Stage.PREFERRED_PRICE, reason)
            continue
        kept.append(choice)
        rates.append((*per_input, *per_output))
    return Pool(
        kept,
        rates,
        [*sieve.dropped, *dropped],
        preferences=demands.preferences,
        furthest=furthest,
        param=param,
        from_s=from_s,
        until_s=until_s,
    )


def _over_limit(target: Target, prices: Mapping[str, Decimal], limit: Decimal) -> str:
    """Neither input nor output may cost more per million than the policy says. Reason, or ""."""
    if target.rates.currency != USD:
        return f"priced in {target.rates.currency}, not comparable with a limit in USD"
    return f"costs more than {limit} per million" if max(prices.values()) > limit else ""


def _over_preferred(
    target: Target,
    prices: Mapping[str, Decimal],
    preferred: Iterable[tuple[str, Decimal]],
    service_tier: str,
    now: float,
) -> str:
    """Against the caller's max_price. A fee that a target does not charge is within every limit."""
    if target.rates.currency != USD:
        return f"priced in {target.rates.currency}, not comparable with provider.max_price"
    for name, limit in preferred:
        component, units = PRICED[name]
        price = prices.get(component)
        if price is None:
            try:
                fee = price_per_million(target.rates, now, component, service_tier=service_tier)
            except Unpriced:
                continue
            price = fee * units / MILLION
        if price > limit:
            return f"costs more than provider.max_price.{name} = {limit}"
    return ""


# ------------------------------------------------------------------ what ranking needs


def _class(choice: Choice, order: Sequence[str]) -> tuple[int, int, int]:
    """What goes before the rank: the fallback's place, own credentials first, the caller's provider.order."""
    target = choice[0]
    named = order.index(target.provider) if target.provider in order else len(order)
    return (choice[2] + 1 if choice[3] else 0, 0 if target.is_own else 1, named)


def shares_of(choices: Sequence[Choice]) -> tuple[float, ...]:
    """Each one's share of the weights: a policy target's is shared by its endpoints in proportion to theirs."""
    totals: Counter[tuple[int, bool]] = Counter()
    for choice in choices:
        totals[choice[2], choice[0].is_own] += choice[0].weight
    return tuple(
        choice[1] * choice[0].weight / (totals[choice[2], choice[0].is_own] or 1) for choice in choices
    )


def _siblings(targets: Sequence[Target]) -> tuple[tuple[int, ...], ...]:
    """The places that are one endpoint with several credentials of the same owner."""
    groups: dict[tuple[str, bool], list[int]] = {}
    for place, target in enumerate(targets):
        groups.setdefault((target.endpoint_id, target.is_own), []).append(place)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


# ------------------------------------------------------------------ nothing is left


class NoTarget(ApiError):
    """No target is left for a call. `dropped` says why of each; the caller is told the one that came furthest."""

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(code, message, param=param)
        self.dropped: tuple[Dropped, ...] = ()


def refusal(
    stage: Stage, demands: Demands, *, input_tokens: int, policy: str, binding: str, param: str
) -> NoTarget:
    """The error that says why no target is left: by the furthest filter that one reached."""
    name = demands.name
    by = f"the policy {policy}" + (f", bound to {binding}," if binding else "")
    match stage:
        case Stage.SERVED:
            return NoTarget(
                "model_not_found",
                f"The model {name!r} does not exist or is not available to you.",
                param="model",
            )
        case Stage.ALLOWED:
            return NoTarget("model_not_allowed", f"This key may not use {name!r}.", param="model")
        case Stage.RULES:
            return NoTarget("model_not_allowed", f"{by} allows no target of {name!r}.", param="model")
        case Stage.OPERATION:
            return NoTarget("invalid_request", f"{name!r} does not serve {demands.operation}.", param="model")
        case Stage.CAPABILITY:
            needed = ", ".join(sorted(demands.capabilities))
            return NoTarget(
                "unsupported_parameter", f"No target of {name!r} supports {needed}.", param=needed
            )
        case Stage.REGION:
            regions = ", ".join(sorted(demands.regions or ())) or "none"
            return NoTarget(
                "region_unavailable", f"No target of {name!r} is in an allowed region ({regions})."
            )
        case Stage.DATA:
            return NoTarget(
                "model_not_allowed", f"No target of {name!r} meets the data rules of {by}.", param="model"
            )
        case Stage.CREDENTIALS:
            return NoTarget(
                "model_not_allowed",
                f"{by} takes only your own credentials, and you have none for {name!r}.",
                param="model",
            )
        case Stage.PREFERENCE:
            return NoTarget("unsupported_parameter", f"No target of {name!r} meets {param}.", param=param)
        case Stage.CONTEXT:
            return NoTarget(
                "context_length_exceeded",
                f"About {input_tokens} input tokens do not fit any target of {name!r}.",
                param="messages" if demands.operation is Operation.CHAT else None,
            )
        case Stage.PRICED:
            return NoTarget("model_unpriced", f"No target of {name!r} has a known price.", param="model")
        case Stage.PRICE_LIMIT:
            return NoTarget(
                "model_not_allowed",
                f"Every target of {name!r} costs more than its policy allows.",
                param="model",
            )
        case Stage.PREFERRED_PRICE:
            return NoTarget(
                "unsupported_parameter",
                f"Every target of {name!r} costs more than provider.max_price.",
                param="provider.max_price",
            )
        case Stage.COST_LIMIT:
            return NoTarget(
                "model_not_allowed",
                f"A call of this size costs more than allowed at every target of {name!r}.",
                param="model",
            )
        case Stage.SLOW | Stage.UNRELIABLE:
            return NoTarget(
                "provider_unavailable",
                f"No target of {name!r} is now as {'fast' if stage is Stage.SLOW else 'reliable'} as {by} asks.",
            )
