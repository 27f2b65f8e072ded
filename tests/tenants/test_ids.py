from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from tenants.ids import instant_of, uuid7

moments = st.integers(0, 2**48 - 1)


@given(moments)
def test_an_id_is_a_uuid_of_version_7(unix_ms):
    value = uuid7(unix_ms)
    assert (value.version, value.variant) == (7, "specified in RFC 4122")


@given(moments, moments)
def test_ids_sort_by_time(first_ms, second_ms):
    if first_ms < second_ms:
        assert uuid7(first_ms) < uuid7(second_ms)


@given(st.integers(0, 4_000_000_000_000))
def test_an_id_tells_its_moment_to_the_millisecond(unix_ms):
    assert instant_of(uuid7(unix_ms)) == datetime.fromtimestamp(unix_ms / 1000, UTC)


def test_ids_of_one_millisecond_differ():
    assert len({uuid7(1) for _ in range(1000)}) == 1000


def test_ids_made_one_after_the_other_sort_in_that_order():
    made = [uuid7() for _ in range(1000)]
    assert made == sorted(made)
