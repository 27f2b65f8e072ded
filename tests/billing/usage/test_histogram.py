from itertools import pairwise

import pytest
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from billing.usage.histogram import BOUNDS_MS, OVERFLOW, bucket_of, quantile
from billing.usage.rollups import BUCKET


def test_bounds_rise_by_no_more_than_fifteen_percent_and_one_millisecond():
    assert BOUNDS_MS[0] == 1
    assert BOUNDS_MS[-1] >= 20 * 60 * 1000
    assert all(a < b <= a * 1.15 + 1 for a, b in pairwise(BOUNDS_MS))


@pytest.mark.parametrize(
    ("latency_ms", "bucket"),
    [(0, 0), (1, 0), (2, 1), (BOUNDS_MS[40], 40), (BOUNDS_MS[40] + 1, 41), (BOUNDS_MS[-1] + 1, OVERFLOW)],
)
def test_a_bucket_holds_its_upper_bound(latency_ms: int, bucket: int):
    assert bucket_of(latency_ms) == bucket


@pytest.mark.django_db
def test_the_database_sorts_into_the_same_buckets():
    latencies = sorted({0, *(b + d for b in BOUNDS_MS for d in (-1, 0, 1)), 2**31 - 1})
    with connection.cursor() as cursor:
        sorting = f"SELECT {BUCKET} FROM unnest(%s::int[]) latency_ms ORDER BY latency_ms"  # noqa: S608
        cursor.execute(sorting, [latencies])
        assert [b for (b,) in cursor.fetchall()] == [bucket_of(ms) for ms in latencies]


@given(st.lists(st.integers(0, BOUNDS_MS[-1]), min_size=1, max_size=200), st.floats(0, 1))
def test_a_quantile_lies_in_the_bucket_of_the_exact_one(latencies: list[int], q: float):
    counts: dict[int, int] = {}
    for latency_ms in latencies:
        counts[bucket_of(latency_ms)] = counts.get(bucket_of(latency_ms), 0) + 1
    found = quantile(counts, q)
    exact = sorted(latencies)[max(0, -int(-q * len(latencies) // 1) - 1)]
    bucket = bucket_of(exact)
    assert found is not None
    assert (BOUNDS_MS[bucket - 1] if bucket else 0) <= found <= BOUNDS_MS[bucket]


def test_a_quantile_is_read_by_interpolation():
    bucket = bucket_of(100)
    assert (BOUNDS_MS[bucket - 1], BOUNDS_MS[bucket]) == (95, 110)
    assert quantile({bucket: 10}, 0.5) == 102.5
    assert quantile([0, 3, 1], 0.75) == 2.0


def test_a_quantile_of_nothing_is_none_and_of_everything_too_slow_the_last_bound():
    assert quantile({}, 0.5) is None
    assert quantile({3: 0}, 0.5) is None
    assert quantile({OVERFLOW: 2}, 0.5) == float(BOUNDS_MS[-1])
    with pytest.raises(ValueError, match="no share"):
        quantile({1: 1}, 1.5)
