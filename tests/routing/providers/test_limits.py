"""What providers tell of their rate limits, in the headers they really send; nonsense is passed over."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.providers.adapters import adapter_for
from routing.providers.limits import MAX_LIMIT, Allowance, LimitState, duration_s, read_limits
from routing.types import ProviderKind

NOW = datetime(2026, 10, 21, 7, 28, tzinfo=UTC).timestamp()
OPENAI = {
    "x-ratelimit-limit-requests": "500",
    "x-ratelimit-limit-tokens": "30000",
    "x-ratelimit-remaining-requests": "499",
    "x-ratelimit-remaining-tokens": "29996",
    "x-ratelimit-reset-requests": "120ms",
    "x-ratelimit-reset-tokens": "8ms",
}
ANTHROPIC = {
    "date": "Wed, 21 Oct 2026 07:28:00 GMT",
    "anthropic-ratelimit-requests-limit": "50",
    "anthropic-ratelimit-requests-remaining": "0",
    "anthropic-ratelimit-requests-reset": "2026-10-21T07:28:45Z",
    "anthropic-ratelimit-tokens-limit": "38000",
    "anthropic-ratelimit-tokens-remaining": "37000",
    "anthropic-ratelimit-tokens-reset": "2026-10-21T07:28:02Z",
    "anthropic-ratelimit-input-tokens-limit": "30000",
    "anthropic-ratelimit-input-tokens-remaining": "29000",
    "anthropic-ratelimit-input-tokens-reset": "2026-10-21T09:28:02+02:00",
    "anthropic-ratelimit-output-tokens-limit": "8000",
    "anthropic-ratelimit-output-tokens-remaining": "8000",
    "anthropic-ratelimit-output-tokens-reset": "2026-10-21T07:28:00Z",
}


@pytest.mark.parametrize("kind", [ProviderKind.OPENAI, ProviderKind.OPENAI_COMPATIBLE])
def test_reads_the_six_headers_of_openai(kind):
    assert read_limits(kind, 200, OPENAI, NOW) == LimitState(
        requests=Allowance(500, 499, 0.12, 60.0), tokens=Allowance(30_000, 29_996, 0.008, 60.0)
    )


def test_a_limit_whose_reset_lies_beyond_the_minute_is_the_hours_or_the_days():
    groq = {
        "x-ratelimit-limit-requests": "14400",
        "x-ratelimit-remaining-requests": "14370",
        "x-ratelimit-reset-requests": "2m59.56s",
        "x-ratelimit-limit-tokens": "18000",
        "x-ratelimit-remaining-tokens": "17997",
        "x-ratelimit-reset-tokens": "7.66s",
    }
    state = read_limits(ProviderKind.OPENAI_COMPATIBLE, 200, groq, NOW)
    assert state is not None
    assert state.requests == Allowance(14_400, 14_370, 179.56, 3_600.0)
    assert state.tokens == Allowance(18_000, 17_997, 7.66, 60.0)
    spent = groq | {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "23h10m1s"}
    state = read_limits(ProviderKind.OPENAI_COMPATIBLE, 200, spent, NOW)
    assert state is not None
    assert state.requests == Allowance(14_400, 0, 83_401.0, 86_400.0)


def test_azure_counts_requests_in_windows_of_ten_seconds():
    headers = {"x-ratelimit-limit-requests": "20", "x-ratelimit-remaining-requests": "19"}
    headers |= {"x-ratelimit-limit-tokens": "20000", "x-ratelimit-remaining-tokens": "19913"}
    assert read_limits(ProviderKind.AZURE_OPENAI, 200, headers, NOW) == LimitState(
        requests=Allowance(20, 19, None, 10.0), tokens=Allowance(20_000, 19_913, None, 60.0)
    )


def test_azures_minus_one_is_no_limit():
    headers = {"x-ratelimit-limit-tokens": "-1", "x-ratelimit-remaining-tokens": "-1"}
    assert read_limits(ProviderKind.AZURE_OPENAI, 200, headers, NOW) is None


def test_reads_anthropics_instants_against_the_replys_own_clock():
    expected = LimitState(
        requests=Allowance(50, 0, 45.0, 60.0),
        tokens=Allowance(38_000, 37_000, 2.0, 60.0),
        input_tokens=Allowance(30_000, 29_000, 2.0, 60.0),
        output_tokens=Allowance(8_000, 8_000, 0.0, 60.0),
    )
    assert read_limits(ProviderKind.ANTHROPIC, 200, ANTHROPIC, NOW + 1_000) == expected
    undated = {name: value for name, value in ANTHROPIC.items() if name != "date"}
    assert read_limits(ProviderKind.ANTHROPIC, 200, undated, NOW) == expected


@pytest.mark.parametrize("kind", [kind for kind in ProviderKind if kind is not ProviderKind.SANDBOX])
@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, 30.0),
        ({"retry-after": "Wednesday, 21-Oct-26 07:28:30 GMT"}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 07:28:20 GMT"}, 10.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:27:00 GMT"}, 0.0),
        ({"retry-after-ms": "20", "retry-after": "7"}, 0.02),
    ],
)
def test_every_provider_may_say_when_to_come_back(kind, headers, wait_s):
    assert read_limits(kind, 429, headers, NOW) == LimitState(retry_after_s=wait_s)


def test_a_429_without_a_time_waits_for_the_exhausted_limits_reset():
    state = read_limits(ProviderKind.OPENAI, 429, OPENAI | {"x-ratelimit-remaining-requests": "0"}, NOW)
    assert state is not None
    assert state.retry_after_s == 0.12
    state = read_limits(ProviderKind.ANTHROPIC, 429, ANTHROPIC, NOW)
    assert state is not None
    assert state.retry_after_s == 45.0


def test_a_good_answer_asks_nobody_to_wait():
    assert read_limits(ProviderKind.OPENAI, 200, {"retry-after": "7"}, NOW) is None


def test_gemini_and_the_sandbox_tell_no_limits():
    assert read_limits(ProviderKind.GEMINI, 200, OPENAI | ANTHROPIC, NOW) is None
    assert read_limits(ProviderKind.SANDBOX, 200, OPENAI | ANTHROPIC, NOW) is None


def test_geminis_wait_stands_in_the_body():
    body = b"""{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "Quota", "details": [
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "31.5s"}]}}"""
    assert adapter_for(ProviderKind.GEMINI).classify_error(429, {}, body).retry_after_s == 31.5


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6m0s", 360.0),
        ("1s", 1.0),
        ("20ms", 0.02),
        ("2m59.56s", 179.56),
        ("1h0m0.5s", 3_600.5),
        ("1d", 86_400.0),
        ("8.64s", 8.64),
        ("60", 60.0),
        ("0", 0.0),
        ("", None),
        ("-1s", None),
        ("1e9s", None),
        ("nan", None),
        ("inf", None),
        ("6 m", None),
        ("s", None),
        ("1s;", None),
        ("2d", None),
        ("9" * 41, None),
        ("\u0661s", None),
    ],
)
def test_reads_durations_in_gos_notation(text, seconds):
    assert duration_s(text) == seconds


@pytest.mark.parametrize(
    "limit",
    ["0", "-5", "1.5", "", " 5", "5 ", "1e6", "NaN", "\u0665", str(MAX_LIMIT + 1), "9" * 500, "600, 600"],
)
def test_passes_over_a_limit_that_is_none(limit):
    headers = OPENAI | {"x-ratelimit-limit-requests": limit, "x-ratelimit-limit-tokens": limit}
    assert read_limits(ProviderKind.OPENAI, 200, headers, NOW) is None


@pytest.mark.parametrize("remaining", ["501", "-1", "many", ""])
def test_passes_over_a_remainder_that_cannot_be(remaining):
    headers = OPENAI | {"x-ratelimit-remaining-requests": remaining}
    state = read_limits(ProviderKind.OPENAI, 200, headers, NOW)
    assert state is not None
    assert state.requests == Allowance(500, None, 0.12, 60.0)


@pytest.mark.parametrize(
    "reset", ["2026-10-21T07:28:45", "2036-10-21T07:28:45Z", "tomorrow", "9999-99-99T99:99:99Z", "", "1"]
)
def test_passes_over_an_instant_that_is_none(reset):
    headers = ANTHROPIC | {"anthropic-ratelimit-requests-reset": reset}
    state = read_limits(ProviderKind.ANTHROPIC, 200, headers, NOW)
    assert state is not None
    assert state.requests == Allowance(50, 0, None, 60.0)


@given(
    st.sampled_from(sorted(ProviderKind)),
    st.integers(0, 999),
    st.dictionaries(
        st.sampled_from([*OPENAI, *ANTHROPIC, "retry-after", "retry-after-ms"]),
        st.text(max_size=45) | st.from_regex(r"[0-9A-Za-z:.,+ -]{0,40}", fullmatch=True),
    ),
)
def test_no_header_makes_it_raise_or_return_what_cannot_be(kind, status, headers):
    state = read_limits(kind, status, headers, NOW)
    if state is None:
        return
    assert state.retry_after_s is None or 0 <= state.retry_after_s <= 86_400
    for _, allowance in state.allowances:
        assert 1 <= allowance.limit <= MAX_LIMIT
        assert allowance.remaining is None or 0 <= allowance.remaining <= allowance.limit
        assert allowance.reset_s is None or 0 <= allowance.reset_s <= 86_400
        assert allowance.window_s in (10.0, 60.0, 3_600.0, 86_400.0)
