"""Broken providers behind the real gateway: the sixteen cases of Failover Bench, and what each policy does.

The waits are those of the bench's fast profile, with our timeouts in proportion; `make failover` has the full ones.
"""

import asyncio

import orjson
import pytest
from django.db import transaction

from benchmarks.failover import CASES, FALLBACKS, FAST_LIMITS, Caller, run_case
from benchmarks.walls import FALLBACK, PRIMARY, add_policy, add_provider, open_tenant, seed_failover
from billing.models import UsageEvent
from routing import credentials
from routing.models import Provider
from tenants import versions
from tenants.models import Tenant
from tenants.principal import SYSTEM
from tests.fakes.faulty_provider import ANSWER, CUT_AFTER, FAST, WORDS, faulty
from tests.gateway import plane as planes

db, plane, drain = planes.db, planes.plane, planes.drain

SHOWN = " ".join(WORDS[:CUT_AFTER])
ASK = [{"role": "user", "content": "Why?"}]
TOOL = {"type": "function", "function": {"name": "pay", "parameters": {"type": "object"}}}
PREFILLING, OWN = "wall-c", "wall-d"


@pytest.fixture(scope="module")
def wall():
    with faulty(FAST) as provider:
        yield provider


@pytest.fixture(scope="module")
def demo(db, wall):
    """All of it before the server starts, so that it knows it from the first call."""
    for demo in planes.rows(db):
        seed_failover(wall.url, FALLBACKS, **FAST_LIMITS)
        with transaction.atomic():
            seed_more(wall.url)
        demo["bench_key"] = open_tenant()
        bring_own_address(wall.url)
        yield demo


@pytest.fixture(scope="module")
def key(demo):
    return demo["bench_key"]


def seed_more(url):
    """Models of their own for each test, so that no breaker carries over from one to the next."""
    versions.bump("routing")
    names = [f"s08:{name}" for name in ("go-on", "prefill", "tools", "many", "end", "twice", "window")]
    add_provider(PRIMARY, url, [*names, "tardy", "slow", "s01:late"], **FAST_LIMITS)
    add_provider(FALLBACK, url, ["s14:twice", "ok:tardy"], **FAST_LIMITS)
    add_provider(OWN, url, ["ok:own"], **FAST_LIMITS)
    add_provider(PREFILLING, url, ["ok:prefill", "ok-noprefill:prefill"], **FAST_LIMITS)
    Provider.objects.filter(slug=PREFILLING).update(options={"continuation": "prefill"})
    add_policy("go-on", ["s08:go-on", "ok"], recovery="continue")
    add_policy("prefill", ["s08:prefill", "ok-noprefill:prefill"], recovery="continue", max_attempts=4)
    add_policy("tools", ["s08:tools", "ok"], recovery="continue")
    add_policy("many", ["s08:many", "ok"], recovery="continue")
    add_policy("end", ["s08:end", "ok"])
    add_policy("twice", ["s08:twice", "s14:twice"], recovery="buffered", max_attempts=2)
    add_policy("window", ["s08:window", "ok"], recovery="buffered", hold_back_tokens=10)
    add_policy("slow", ["slow"], recovery="buffered")
    add_policy("hedged", ["tardy", "ok:tardy"], hedge_after_ms=100)


def bring_own_address(url):
    """The tenant has an address of its own for one provider: this very machine's."""
    credentials.store(
        provider=Provider.objects.get(slug=OWN),
        tenant=Tenant.objects.get(slug="bench"),
        secret="sk-own",
        label="",
        base_url=url,
        actor=SYSTEM,
    )


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_failover_bench(case, is_stream, key, plane, wall):
    async def run():
        async with Caller(f"{plane.url}/v1", key, max_tokens=60) as caller:
            return await run_case(case, caller, wall, is_stream=is_stream)

    verdict = asyncio.run(run())
    assert (verdict.word, verdict.why) == ("pass", verdict.why)


# ------------------------------------------------------------------ what a client and the ledger see


def stream(plane, key, model, *, timeout_ms=30_000, **more):
    """The response head, the parsed data of every event, and whether the stream was ended as whole."""
    body = {
        "model": model,
        "messages": ASK,
        "stream": True,
        "stream_options": {"include_usage": True},
        **more,
    }
    headers = {"authorization": f"Bearer {key}", "x-tollhouse-timeout-ms": str(timeout_ms)}
    answer = plane.http.post(f"{plane.url}/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    data = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    events = [orjson.loads(each) for each in data if each != "[DONE]"]
    return answer, events, data[-1] == "[DONE]"


def text_of(events):
    return "".join(
        choice["delta"].get("content") or "" for event in events for choice in event.get("choices", ())
    )


def ledger(answer):
    """The call's rows in the order of their attempts."""
    drain()
    return list(UsageEvent.objects.filter(request_id=answer.headers["x-request-id"]).order_by("attempt"))


def test_continue_goes_on_from_the_text_shown_as_one_stream(plane, key, wall):
    wall.reset()
    answer, events, is_whole = stream(plane, key, "policy:go-on")
    assert (text_of(events), is_whole) == (ANSWER, True)
    assert len({event["id"] for event in events}) == 1
    roles = [choice["delta"].get("role") for event in events for choice in event["choices"]]
    assert roles.count("assistant") == 1
    (asked,) = wall.tries_at("ok")
    assert asked.messages[-2] == {"role": "assistant", "content": SHOWN}
    assert asked.last_role == "user"
    said = events[-1]["usage"]["tollhouse"]
    assert (said["provider"], said["attempts"], said["recovery"]) == (FALLBACK, 2, "continued")
    assert answer.headers["x-tollhouse-provider"] == PRIMARY  # the head left before the stream broke
    first, second = ledger(answer)
    assert (first.status, first.error_type, first.price_pico) == ("cut", "invalid_response", 0)
    assert (first.output_tokens, first.usage_source, first.is_final) == (CUT_AFTER, "estimated", False)
    assert first.cost_pico > 0
    assert (second.status, second.output_tokens, second.is_final) == ("ok", 20, True)
    assert second.usage_source == "provider"
    assert events[-1]["usage"]["completion_tokens"] == 20


def test_a_refused_prefill_is_asked_again_by_instruction(plane, key, wall):
    wall.reset()
    answer, events, is_whole = stream(plane, key, "policy:prefill")
    assert (text_of(events), is_whole) == (ANSWER, True)
    assert [each.outcome for each in wall.tries_at("ok-noprefill:prefill")] == ["refuse prefill", "ok"]
    assert [row.status for row in ledger(answer)] == ["cut", "error", "ok"]


def test_several_choices_are_not_continued(plane, key, wall):
    wall.reset()
    _, events, is_whole = stream(plane, key, "policy:many", n=2)
    assert (text_of(events), is_whole) == (SHOWN, False)
    assert events[-1]["error"]["code"] == "provider_invalid_response"
    assert wall.tries_at("ok") == []


def test_end_shows_what_came_and_says_that_it_broke(plane, key, wall):
    wall.reset()
    answer, events, is_whole = stream(plane, key, "policy:end")
    assert (text_of(events), is_whole) == (SHOWN, False)
    assert events[-1]["error"]["code"] == "provider_invalid_response"
    (row,) = ledger(answer)
    assert (row.status, row.output_tokens, row.is_final) == ("cut", CUT_AFTER, True)


def test_buffered_restarts_unseen_and_the_first_try_is_not_priced(plane, key, wall):
    answer, events, is_whole = stream(plane, key, "policy:s08")
    assert (text_of(events), is_whole) == (ANSWER, True)
    assert {event["model"] for event in events} == {"ok"}
    said = events[-1]["usage"]["tollhouse"]
    assert (said["attempts"], said["recovery"]) == (2, "restarted")
    first, second = ledger(answer)
    assert (first.status, first.price_pico, first.output_tokens) == ("error", 0, CUT_AFTER)
    assert first.cost_pico > 0
    assert (second.status, second.output_tokens) == ("ok", 60)


def test_buffered_at_two_broken_providers_ends_in_an_error_and_costs_the_tenant_nothing(plane, key, wall):
    answer, events, is_whole = stream(plane, key, "policy:twice")
    assert (text_of(events), is_whole) == ("", False)
    assert events[-1]["error"]["code"] == "provider_invalid_response"
    rows = ledger(answer)
    assert [(row.status, row.price_pico) for row in rows] == [("error", 0), ("error", 0)]
    assert all(row.cost_pico > 0 for row in rows)


def test_a_held_stream_that_runs_out_of_time_costs_the_tenant_nothing(plane, key):
    answer, events, is_whole = stream(plane, key, "policy:slow", timeout_ms=1000)
    assert (text_of(events), is_whole) == ("", False)
    assert events[-1]["error"]["code"] == "provider_timeout"
    (row,) = ledger(answer)
    assert (row.status, row.price_pico) == ("error", 0)
    assert row.cost_pico > 0


def test_a_break_behind_the_window_goes_on_from_what_was_shown(plane, key, wall):
    wall.reset()
    _, events, is_whole = stream(plane, key, "policy:window")
    assert (text_of(events), is_whole) == (ANSWER, True)
    (asked,) = wall.tries_at("ok")
    shown = asked.messages[-2]["content"]
    assert len(shown.split()) == CUT_AFTER - 10
    assert ANSWER.startswith(shown)


def test_a_held_stream_gives_signs_of_life_that_the_official_client_reads_past(plane, key):
    async def ask():
        async with Caller(f"{plane.url}/v1", key) as caller:
            return await caller.call("policy:slow", is_stream=True, limit_s=30)

    answer, events, is_whole = stream(plane, key, "policy:slow")
    assert answer.text.startswith(": ")
    assert (text_of(events), is_whole) == (ANSWER, True)
    assert asyncio.run(ask()).is_whole


def test_a_slow_target_gets_a_rival_and_the_loser_is_booked(plane, key, wall):
    wall.reset()
    headers = {"authorization": f"Bearer {key}"}
    body = {"model": "policy:hedged", "messages": ASK}
    # Where an answer may act there is no second one.
    acting = plane.http.post(
        f"{plane.url}/v1/chat/completions", json={**body, "tools": [TOOL]}, headers=headers
    )
    assert acting.status_code == 422  # no target takes tools
    answer = plane.http.post(f"{plane.url}/v1/chat/completions", json=body, headers=headers)
    assert answer.json()["choices"][0]["message"]["content"] == ANSWER
    assert answer.headers["x-tollhouse-provider"] == FALLBACK
    lost, won = ledger(answer)
    assert (lost.status, lost.error_type, lost.price_pico, lost.is_final) == (
        "cancelled",
        "hedge_lost",
        0,
        False,
    )
    assert (lost.usage_source, lost.output_tokens) == ("estimated", 0)
    assert lost.cost_pico > 0
    assert (won.status, won.is_final) == ("ok", True)
    # One in twenty: the next slow call waits for its own target.
    again = plane.http.post(f"{plane.url}/v1/chat/completions", json=body, headers=headers)
    assert again.headers["x-tollhouse-provider"] == PRIMARY
    assert [row.status for row in ledger(again)] == ["ok"]
    assert len(wall.tries_at("ok:tardy")) == 1


def test_a_client_that_leaves_a_held_stream_is_recorded_and_nobody_works_on(plane, key, wall):
    body = {"model": "policy:slow", "messages": ASK, "stream": True}
    with plane.http.stream(
        "POST", f"{plane.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}
    ) as answer:
        assert next(answer.iter_bytes()).startswith(b": ")
    for _ in range(100):
        if rows := ledger(answer):
            break
    assert [(row.status, row.is_final) for row in rows] == [("cancelled", True)]


def test_a_tenants_address_is_judged_when_it_is_connected_to(key, plane, wall):
    wall.reset()
    answer = plane.http.post(
        f"{plane.url}/v1/chat/completions",
        json={"model": "ok:own", "messages": ASK},
        headers={"authorization": f"Bearer {key}"},
    )
    assert answer.status_code == 200
    tries = [(row.status, row.error_type) for row in ledger(answer)]
    assert tries == [("error", "connection"), ("ok", "")]
    assert len(wall.tries_at("ok:own")) == 1  # the operator's own may be on a private address
