import math

import pytest

from routing.experiments.statistics import (
    LEVEL,
    Estimate,
    difference,
    level_for,
    mean,
    quantile_ranks,
    share,
    share_difference,
    wording,
    z_of,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (15, 148, 0.0624, 0.1605),  # Newcombe 1998, table I
        (81, 263, 0.2553, 0.3662),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_shares_have_wilsons_interval(successes: int, n: int, low: float, high: float) -> None:
    found = share(successes, n)
    assert found is not None
    assert found.low == pytest.approx(low, abs=1e-4)
    assert found.high == pytest.approx(high, abs=1e-4)


def test_a_share_of_nothing_is_unknown() -> None:
    assert share(0, 0) is None
    assert mean(0, 0, None) is None


def test_differences_of_shares_have_newcombes_interval() -> None:
    """Newcombe 1998 (II), table II: 56/70 against 48/80."""
    found = share_difference((56, 70), (48, 80), level=LEVEL)
    assert found is not None
    assert found.value == pytest.approx(0.2)
    assert found.low == pytest.approx(0.0524, abs=1e-4)
    assert found.high == pytest.approx(0.3339, abs=1e-4)


def test_a_mean_of_few_calls_has_no_interval() -> None:
    assert mean(29, 29, 1.0) == Estimate(1.0, None, None)
    found = mean(100, 100, 2.0)
    assert found is not None
    assert found.high == pytest.approx(1 + 1.96 * 0.2, abs=1e-3)


def test_a_quantiles_interval_lies_between_order_statistics() -> None:
    assert quantile_ranks(0.5, 29) is None
    assert quantile_ranks(0.5, 100) == (50, 40, 61)
    assert quantile_ranks(0.95, 100) is None
    assert quantile_ranks(0.95, 200) == (190, 183, 198)


@pytest.mark.parametrize("q", [0.5, 0.95])
@pytest.mark.parametrize("n", [120, 300, 1000])
def test_the_order_statistics_cover_at_least_their_level(q: float, n: int) -> None:
    """Exactly: the number of values below the quantile is binomial."""
    ranks = quantile_ranks(q, n)
    assert ranks is not None
    _, low, high = ranks
    covered = sum(math.comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(low, high))
    assert covered > 0.95


def test_a_difference_is_worded_by_its_interval() -> None:
    assert wording(Estimate(1, 0.5, 1.5)) == "significantly higher"
    assert wording(Estimate(-1, -1.5, -0.5)) == "significantly lower"
    assert wording(Estimate(1, -0.5, 1.5)) == "no significant difference"
    assert wording(Estimate(1, None, None)) == "too few calls"
    assert wording(None) == "too few calls"


def test_a_difference_of_means_adds_the_variances() -> None:
    z = z_of(LEVEL)
    found = difference(Estimate(10, 10 - 3 * z, 10 + 3 * z), Estimate(7, 7 - 4 * z, 7 + 4 * z), level=LEVEL)
    assert found is not None
    assert found.value == 3
    assert found.low == pytest.approx(3 - 5 * z)
    assert found.high == pytest.approx(3 + 5 * z)


def test_more_comparisons_ask_for_more_each() -> None:
    assert level_for(1) == pytest.approx(0.95)
    assert level_for(5) == pytest.approx(0.99)
    assert level_for(0) == pytest.approx(0.95)
