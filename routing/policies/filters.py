"""Which targets a call may use at all, and which fit it: allowlists, regions, data, context windows, prices. Pure.

Fails closed: what a region, an allowlist or a constraint does not clearly permit is left out. Everything here is
worked out once per snapshot: a `Sieve` for a kind of call, in it a `Pool` for each range of sizes between two
context tiers or windows; what they keep is exact for every call in the range.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final
from uuid import UUID

from routing.catalog.cost import Unpriced, price_per_million, token_rates
from routing.entries import Choice, PolicyEntry, PolicyTarget, RoutingSnapshot
from routing.policies.constraints import Constraints, Credentials
from routing.policies.pool import Pool, Rates
from routing.policies.preferences import PRICED, Preferences
from routing.policies.refusals import Stage
from routing.policies.request import Demands
from routing.types import PRICED_BY, Dropped, Target

MAX_POOLS: Final = 16
"""Pools a sieve remembers; kinds of sizes beyond that are worked out again."""
MILLION: Final = 10**6
USD: Final = "USD"


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
    catalogue = () if policy.targets else (PolicyTarget(None, None, 1),)
    for position, pointer in enumerate((*policy.targets, *catalogue, *policy.fallback)):
        is_named_before = any(
            pointer.model in (None, choice[0].model, choice[0].provider_model)
            and pointer.provider in (None, choice[0].provider)
            for choice in choices
        )
        if position not in reached and not is_named_before and pointer not in catalogue:
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
    counted = PRICED_BY.get(demands.operation, "input")
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
            target.rates,
            now,
            service_tier=service_tier,
            input_tokens=0 if counted != "input" else input_tokens,
            input_component=counted,
        )
        if not has_output:
            per_output = (0, 1)
        if per_input is None or per_output is None:
            if allow_unpriced and not needs_price:
                kept.append(choice)
                rates.append(None)
            else:
                component = counted if per_input is None else "output"
                drop(target, Stage.PRICED, f"has no price for {component}")
            continue
        # Limits per million are limits of tokens: other units are bounded by max_cost.
        per_unit = per_input if counted == "input" else (0, 1)
        prices = {
            "input": Decimal(per_unit[0]) / per_unit[1] / MILLION,
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
