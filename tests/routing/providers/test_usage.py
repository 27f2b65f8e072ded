"""Counts become disjoint units: never negative, summing exactly to what the provider says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.providers.usage import (
    anthropic_usage,
    cohere_usage,
    gemini_usage,
    openai_usage,
    record_usage,
    usage_json,
)
from routing.types import Usage, UsageInvalid
from tests.routing.providers.factories import a_state

COUNTS = st.integers(0, 5000)
SIX_COUNTS = st.tuples(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS)


def test_openai_parts_are_taken_out_of_their_totals():
    usage = openai_usage(
        {
            "prompt_tokens": 100,
            "completion_tokens": 60,
            "total_tokens": 160,
            "prompt_tokens_details": {"cached_tokens": 40, "audio_tokens": 10, "cache_write_tokens": 5},
            "completion_tokens_details": {"reasoning_tokens": 30, "audio_tokens": 8},
        }
    )
    assert usage == Usage(
        {
            "input": 45,
            "cache_read": 40,
            "cache_write": 5,
            "input_audio": 10,
            "output": 22,
            "reasoning": 30,
            "output_audio": 8,
        }
    )


def test_a_cached_image_is_counted_once_as_cached():
    raw = {
        "prompt_tokens": 1000,
        "completion_tokens": 0,
        "prompt_tokens_details": {"cached_tokens": 900, "image_tokens": 800},
    }
    assert openai_usage(raw).units == {"cache_read": 900, "input_image": 100}


def test_reasoning_counted_beside_the_completion_is_added_to_it():
    raw = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 35,
        "completion_tokens_details": {"reasoning_tokens": 20},
    }
    usage = openai_usage(raw)
    assert usage.units == {"input": 10, "output": 5, "reasoning": 20}


def test_deepseek_cache_hits_are_cache_reads():
    raw = {"prompt_tokens": 10, "completion_tokens": 1, "prompt_cache_hit_tokens": 4}
    assert openai_usage(raw).units == {"input": 6, "cache_read": 4, "output": 1}


def test_anthropic_writes_are_split_by_lifetime_and_searches_counted():
    raw = {
        "input_tokens": 3,
        "cache_creation_input_tokens": 30,
        "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
        "cache_read_input_tokens": 7,
        "output_tokens": 9,
        "output_tokens_details": {"thinking_tokens": 4},
        "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0},
    }
    assert anthropic_usage(raw).units == {
        "input": 3,
        "cache_read": 7,
        "cache_write": 10,
        "cache_write_1h": 20,
        "output": 5,
        "reasoning": 4,
        "web_searches": 2,
    }


def test_anthropic_writes_without_lifetimes_are_five_minute_writes():
    usage = anthropic_usage({"input_tokens": 1, "cache_creation_input_tokens": 6, "output_tokens": 1})
    assert usage.units == {"input": 1, "cache_write": 6, "output": 1}


def test_gemini_modalities_cache_and_tool_results_are_disjoint():
    raw = {
        "promptTokenCount": 100,
        "cachedContentTokenCount": 40,
        "toolUsePromptTokenCount": 5,
        "candidatesTokenCount": 20,
        "thoughtsTokenCount": 7,
        "totalTokenCount": 132,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": 40},
            {"modality": "IMAGE", "tokenCount": 50},
            {"modality": "AUDIO", "tokenCount": 10},
        ],
        "cacheTokensDetails": [
            {"modality": "IMAGE", "tokenCount": 30},
            {"modality": "TEXT", "tokenCount": 10},
        ],
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 6}],
    }
    assert gemini_usage(raw).units == {
        "input": 35,
        "cache_read": 40,
        "input_image": 20,
        "input_audio": 10,
        "output": 14,
        "output_image": 6,
        "reasoning": 7,
    }


@given(SIX_COUNTS)
def test_openai_units_sum_to_the_total_or_are_refused(sample):
    prompt, completion, cached, audio, image, reasoning = sample
    raw = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": audio, "image_tokens": image},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    if cached > prompt or audio + image > prompt or reasoning > completion:
        with pytest.raises(UsageInvalid):
            openai_usage(raw)
        return
    usage = openai_usage(raw)
    assert (usage.input_tokens, usage.output_tokens) == (prompt, completion)
    assert usage.units.get("cache_read", 0) == cached
    assert all(count > 0 for count in usage.units.values())


@given(SIX_COUNTS)
def test_anthropic_units_sum_to_the_totals_or_are_refused(sample):
    plain, read, short, long, output, thinking = sample
    raw = {
        "input_tokens": plain,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": short + long,
        "cache_creation": {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long},
        "output_tokens": output,
        "output_tokens_details": {"thinking_tokens": thinking},
    }
    if thinking > output:
        with pytest.raises(UsageInvalid):
            anthropic_usage(raw)
        return
    usage = anthropic_usage(raw)
    assert (usage.input_tokens, usage.output_tokens) == (plain + read + short + long, output)
    assert all(count > 0 for count in usage.units.values())


@given(SIX_COUNTS)
def test_gemini_units_sum_to_the_total_or_are_refused(sample):
    prompt, cached, tools, candidates, thoughts, image = sample
    raw = {
        "promptTokenCount": prompt,
        "cachedContentTokenCount": cached,
        "toolUsePromptTokenCount": tools,
        "candidatesTokenCount": candidates,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": prompt + tools + candidates + thoughts,
        "promptTokensDetails": [{"modality": "IMAGE", "tokenCount": image}],
    }
    if cached > prompt + tools or image > prompt + tools:
        with pytest.raises(UsageInvalid):
            gemini_usage(raw)
        return
    usage = gemini_usage(raw)
    assert usage.input_tokens + usage.output_tokens == raw["totalTokenCount"]
    assert all(count > 0 for count in usage.units.values())


ANYTHING = st.none() | st.booleans() | st.integers(-5, 20) | st.floats(0, 5) | st.text(max_size=2)
RAW = st.dictionaries(
    st.sampled_from(
        [
            "prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens",
            "cache_read_input_tokens", "cache_creation_input_tokens", "promptTokenCount", "totalTokenCount",
            "candidatesTokenCount", "cachedContentTokenCount", "prompt_tokens_details", "promptTokensDetails",
            "cache_creation", "server_tool_use",
        ]
    ),
    ANYTHING | st.dictionaries(st.sampled_from(["cached_tokens", "ephemeral_5m_input_tokens"]), ANYTHING),
)  # fmt: skip


@given(RAW, st.sampled_from([openai_usage, anthropic_usage, gemini_usage, cohere_usage]))
def test_odd_counts_are_read_exactly_or_refused_never_negative(raw, read):
    try:
        usage = read(raw)
    except UsageInvalid:
        return
    assert all(isinstance(count, int) and count > 0 for count in usage.units.values())


@pytest.mark.parametrize(
    "raw",
    [
        {"prompt_tokens": -1},
        {"prompt_tokens": True},
        {"prompt_tokens": 1.5},
        {"prompt_tokens": "7"},
        {"prompt_tokens": 10**11},
        {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 3},
        {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}},
        {"prompt_tokens": 1, "prompt_tokens_details": [2]},
        {"completion_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 2}},
    ],
)
def test_contradictory_openai_counts_are_refused(raw):
    with pytest.raises(UsageInvalid):
        openai_usage(raw)


@given(COUNTS, COUNTS, COUNTS, st.booleans())
def test_cohere_is_counted_by_what_it_bills(read, wrote, more, as_float):
    number = float if as_float else int
    tokens = {"input_tokens": number(read + more), "output_tokens": number(wrote)}
    billed = {"input_tokens": number(read), "output_tokens": number(wrote)}
    usage = cohere_usage({"billed_units": billed, "tokens": tokens})
    assert (usage.input_tokens, usage.output_tokens) == (read, wrote)
    usage = cohere_usage({"tokens": tokens})
    assert (usage.input_tokens, usage.output_tokens) == (read + more, wrote)


@pytest.mark.parametrize("odd", [-1, 1.5, "7", True, 10**11, float("inf")])
def test_odd_cohere_counts_are_refused(odd):
    with pytest.raises(UsageInvalid):
        cohere_usage({"billed_units": {"input_tokens": odd}})


def test_contradictory_counts_in_a_stream_leave_usage_unknown_until_better_ones_come():
    state = a_state()
    record_usage(state, {"prompt_tokens": -1}, openai_usage)
    assert (state.usage, state.error, state.scratch) == (None, None, {"usage_invalid": True})
    record_usage(state, {"prompt_tokens": 1}, openai_usage)
    assert (state.usage, state.scratch) == (Usage({"input": 1}), {})


def test_units_come_back_as_openai_usage_with_every_detail():
    units = {"input": 1, "cache_read": 2, "cache_write": 4, "input_image": 8, "output": 16, "reasoning": 32}
    assert usage_json(Usage(units)) == {
        "prompt_tokens": 15,
        "completion_tokens": 48,
        "total_tokens": 63,
        "prompt_tokens_details": {
            "cached_tokens": 2,
            "audio_tokens": 0,
            "cache_write_tokens": 4,
            "image_tokens": 8,
        },
        "completion_tokens_details": {"reasoning_tokens": 32, "audio_tokens": 0},
    }
    assert openai_usage(usage_json(Usage(units))) == Usage(units)
