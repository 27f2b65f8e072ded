"""A real call through a real gateway, its metrics at /metrics and its trace under the caller's."""

from gateway.models import RequestLog
from tests.gateway import plane as planes

db, demo, plane, drain = planes.db, planes.demo, planes.plane, planes.drain
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def ask(plane, **headers):
    answer = plane.http.post(
        f"{plane.url}/v1/chat/completions",
        headers={"authorization": f"Bearer {plane.key}", **headers},
        json={"model": "sandbox-large", "messages": [{"role": "user", "content": "Hi"}]},
    )
    assert answer.status_code == 200
    drain()
    return answer


def test_finished_calls_are_in_the_metrics(plane):
    ask(plane)
    text = plane.http.get(f"{plane.url}/metrics").text
    assert (
        'tollhouse_call_duration_seconds_count{gen_ai_operation_name="chat",http_response_status_code="200"}'
        in text
    )
    assert "gen_ai_client_token_usage_bucket{" in text
    assert 'tollhouse_cost_pico_total{currency="USD"}' in text


def test_a_callers_trace_is_kept_and_nonsense_is_not(plane):
    kept = ask(plane, traceparent=PARENT).headers["x-request-id"]
    nonsense = ask(plane, traceparent="00-zz").headers["x-request-id"]
    assert RequestLog.objects.get(request_id=kept).route["traceparent"] == PARENT
    assert "traceparent" not in RequestLog.objects.get(request_id=nonsense).route
