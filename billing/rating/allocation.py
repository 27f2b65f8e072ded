"""Sharing whole units out so that the parts equal the whole, by largest remainder (R11). Pure, integers."""

from collections.abc import Sequence


def spread(amount: int, weights: Sequence[int]) -> list[int]:
    """`amount` in proportion to `weights`: floors first, then one unit each by descending remainder, ties
    to the earlier. The parts sum to `amount`, negative ones too. Raises ValueError where the weights sum
    to 0 and the amount does not: there is no proportion."""
    whole = sum(weights)
    if whole == 0:
        if amount:
            msg = f"cannot spread {amount} over weights that sum to 0"
            raise ValueError(msg)
        return [0] * len(weights)
    sign = 1 if whole > 0 else -1
    shares = [divmod(sign * amount * weight, sign * whole) for weight in weights]
    parts = [floor for floor, _ in shares]
    by_remainder = sorted(range(len(weights)), key=lambda position: -shares[position][1])
    for position in by_remainder[: amount - sum(parts)]:
        parts[position] += 1
    return parts
