from datetime import UTC, datetime
from uuid import UUID

import orjson

from billing.usage.records import UsageRecord
from gateway.logs.ingest import LogEntry
from gateway.telemetry.metrics import increments, rendered

AT = datetime(2026, 11, 1, tzinfo=UTC)
NIL = UUID(int=0)


def a_row(**changes):
    fields = {
        "occurred_at": AT, "request_id": NIL, "tenant_id": NIL, "api_key_id": NIL, "plan_version_id": NIL,
        "operation": "completions", "request_model": "m", "model": "m", "provider": "acme",
        "provider_model": "their-m", "endpoint_id": NIL, "status": "ok", "usage_source": "provider",
        "input_tokens": 10, "cache_read_tokens": 6, "output_tokens": 4, "reasoning_tokens": 1,
        "cost_pico": 7, "cost_currency": "USD", "price_pico": None, "price_currency": "EUR",
        "latency_ms": 15, "first_byte_ms": 9,
    }  # fmt: skip
    return UsageRecord(**{**fields, **changes})


def an_entry(**changes):
    fields = {
        "occurred_at": AT, "request_id": NIL, "tenant_id": NIL, "api_key_id": NIL, "operation": "chat",
        "request_model": "m", "status": 200, "latency_ms": 1_500,
    }  # fmt: skip
    return LogEntry(**{**fields, **changes})


def text_of(rows=(), log=()):
    totals = increments(rows, log)
    return list(rendered((series.encode(), str(count).encode()) for series, count in totals.items()))


def test_an_attempt_is_a_duration_a_first_chunk_and_its_tokens():
    lines = text_of([a_row(), a_row(latency_ms=100_000, first_byte_ms=None)])
    of = 'gen_ai_operation_name="text_completion",gen_ai_provider_name="acme",gen_ai_request_model="their-m"'
    duration = "gen_ai_client_operation_duration_seconds"
    assert f"# TYPE {duration} histogram" in lines
    assert f'{duration}_bucket{{{of},le="0.01"}} 0' in lines
    assert f'{duration}_bucket{{{of},le="0.02"}} 1' in lines
    assert f'{duration}_bucket{{{of},le="81.92"}} 1' in lines
    assert f'{duration}_bucket{{{of},le="+Inf"}} 2' in lines
    assert f"{duration}_sum{{{of}}} 100.015" in lines
    assert f"{duration}_count{{{of}}} 2" in lines
    assert f"gen_ai_client_operation_time_to_first_chunk_seconds_count{{{of}}} 1" in lines
    tokens = "gen_ai_client_token_usage"
    assert f'{tokens}_sum{{{of},gen_ai_token_type="input"}} 32' in lines
    assert f'{tokens}_sum{{{of},gen_ai_token_type="output"}} 10' in lines
    assert f'{tokens}_bucket{{{of},gen_ai_token_type="output",le="16"}} 2' in lines


def test_a_failure_names_its_kind():
    lines = text_of([a_row(error_type="timeout", status="error")])
    counts = [line for line in lines if line.startswith("gen_ai_client_operation_duration_seconds_count")]
    assert len(counts) == 1
    assert 'error_type="timeout"' in counts[0]


def test_money_is_counted_by_currency_in_whole_pico_units():
    lines = text_of([a_row(), a_row(price_pico=3)])
    assert 'tollhouse_cost_pico_total{currency="USD"} 14' in lines
    assert 'tollhouse_price_pico_total{currency="EUR"} 3' in lines


def test_a_call_is_one_duration_however_many_attempts_it_took():
    lines = text_of(log=[an_entry(), an_entry(status=503)])
    name = "tollhouse_call_duration_seconds"
    assert f'{name}_count{{gen_ai_operation_name="chat",http_response_status_code="200"}} 1' in lines
    assert f'{name}_count{{gen_ai_operation_name="chat",http_response_status_code="503"}} 1' in lines


def test_no_label_names_a_tenant_a_key_or_a_person():
    entry = an_entry(end_user="somebody", tags={"team": "red"}, feature="search")
    series = increments([a_row(end_user="somebody", feature="search")], [entry])
    labels = {key for each in series for key, _ in orjson.loads(each)[1]}
    assert labels == {
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.request.model",
        "gen_ai.token.type",
        "http.response.status_code",
        "currency",
    }


def test_strange_names_are_escaped():
    lines = text_of([a_row(provider_model='a"b\\c\nd')])
    assert any('gen_ai_request_model="a\\"b\\\\c\\nd"' in line for line in lines)
