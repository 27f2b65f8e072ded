"""The targets that fit a kind of call, laid out for ranking: exact prices, weights, classes, twins. Pure."""

from collections import Counter
from collections.abc import Sequence

from routing.entries import Choice
from routing.policies.preferences import NO_PREFERENCES, Preferences
from routing.policies.refusals import Stage
from routing.types import Dropped, Target

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
        "whole",
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
        # Nearly always a token costs whole pico-units: then there is nothing to divide.
        self.whole: tuple[tuple[int, int], ...] | None = None
        if all(each is not None and each[1] == each[3] == 1 for each in rates):
            self.whole = tuple((each[0], each[2]) for each in rates if each is not None)
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
        if self.whole is not None:
            return [tokens * per_input + output_tokens * per_output for per_input, per_output in self.whole]
        return [
            None if rates is None else tokens * rates[0] // rates[1] + output_tokens * rates[2] // rates[3]
            for rates in self.rates
        ]


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
