"""A provider's rate limit, used up by four gateway workers without ever being refused; and what pacing costs.

    uv run python -m benchmarks.pacing [--limit 600] [--window 60] [--warm-up 90] [--measured 180] [--offered 1.5]

A strict local provider counts every call of a sliding window and answers 429 beyond its limit; it tells its limit
in OpenAI's headers, nobody has configured it. Calls come evenly, as many times the limit as `--offered` says, so
that some must be turned away with a Retry-After. Judged after the warm-up: 429s upstream (none may be) and the share
of the limit used (at least 95 % must be).
"""

import argparse
import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import httpx

from benchmarks.__main__ import BenchmarkError
from benchmarks.product import product
from tests.fakes import limited_provider

WORKERS = 4
LEAST_USED = 0.95
MODEL = "limited"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "may I?"}], "max_tokens": 16}
COST_CALLS = 20_000


@dataclass(frozen=True, slots=True)
class Load:
    """How much to send, and which part of it counts."""

    limit: int
    window_s: float
    warm_up_s: float
    measured_s: float
    offered: float  # calls per call that the limit allows

    @property
    def interval_s(self) -> float:
        return self.window_s / self.limit / self.offered


def seed(provider_url: str) -> str:
    """One provider with one model, one tenant; returns its key. No limit is configured."""
    from django.db import transaction

    from routing import credentials
    from routing.models import CostRate, Endpoint, Model, Provider
    from tenants import keys, lifecycle, versions
    from tenants.principal import SYSTEM

    with transaction.atomic():
        for section in ("tenants", "routing", "billing"):
            versions.bump(section)
        provider = Provider.objects.create(
            slug="limited",
            name="limited",
            kind="openai",
            base_url=f"{provider_url}/v1",
            region="local",
        )
        model = Model.objects.create(slug=MODEL, name=MODEL, operations=["chat"])
        Endpoint.objects.create(provider=provider, model=model, provider_model=MODEL)
        for component in ("input", "output"):
            CostRate.objects.create(
                provider="limited",
                provider_model=MODEL,
                component=component,
                price=Decimal("0.15"),
                effective_from=datetime(2026, 1, 1, tzinfo=UTC),
            )
        tenant = lifecycle.open_tenant(
            slug="bench", name="Bench", timezone="UTC", currency="USD", region_policy=(), actor=SYSTEM
        )
        credentials.store(
            provider=provider, tenant=None, secret="sk-bench", label="bench", base_url="", actor=SYSTEM
        )
        return keys.issue(tenant=tenant, name="bench", scopes=("inference:*",), actor=SYSTEM).text


async def drive(url: str, key: str, load: Load) -> Counter[str]:
    """Send calls evenly until all is measured; gives how they ended."""
    ended: Counter[str] = Counter()
    headers = {"authorization": f"Bearer {key}", "connection": "close"}  # so that all workers get their share
    limits = httpx.Limits(max_connections=2_000, max_keepalive_connections=0)
    async with httpx.AsyncClient(headers=headers, limits=limits, timeout=60) as client:

        async def call() -> None:
            try:
                answer = await client.post(f"{url}/chat/completions", json=BODY)
            except httpx.HTTPError as error:
                ended[type(error).__name__] += 1
                return
            code = "" if answer.status_code == 200 else f" {answer.json()['error']['code']}"
            ended[f"{answer.status_code}{code}"] += 1

        begin_s = time.monotonic()
        async with asyncio.TaskGroup() as calls:
            number = 0
            while (due_s := number * load.interval_s) < load.warm_up_s + load.measured_s + 1:
                await asyncio.sleep(max(0.0, begin_s + due_s - time.monotonic()))
                calls.create_task(call())
                number += 1
    return ended


def judge(load: Load, accepted: Sequence[float], refused: Sequence[float]) -> tuple[str, bool]:
    """The figures after the warm-up, and whether they are what was promised."""
    begin_s = min(accepted) + load.warm_up_s
    end_s = begin_s + load.measured_s
    used = sum(begin_s <= at_s < end_s for at_s in accepted) / (load.limit / load.window_s * load.measured_s)
    early = sum(at_s < begin_s for at_s in refused)
    late = sum(begin_s <= at_s < end_s for at_s in refused)
    verdict = late == 0 and used >= LEAST_USED
    return "\n".join(
        (
            f"limit {load.limit} per {load.window_s:g} s, {WORKERS} workers, {load.offered:g} times that offered",
            f"warm-up of {load.warm_up_s:g} s: {early} upstream 429s",
            f"{load.measured_s:g} s after it: {late} upstream 429s, {used:.1%} of the limit used",
            f"promised: 0 and {LEAST_USED:.0%}: {'kept' if verdict else 'NOT KEPT'}",
        )
    ), verdict


def per_call_us(repeat: Callable[[], object], count: int) -> float:
    begin_ns = time.process_time_ns()
    for _ in range(count):
        repeat()
    return (time.process_time_ns() - begin_ns) / count / 1000


async def costs(redis_url: str) -> str:
    """CPU time of this process per check and per slot; Redis works elsewhere."""
    from gateway.state.pace import Pace
    from gateway.state.redis import RedisPipe
    from routing.types import ProviderKind
    from tests.routing.targets import target

    pipe = RedisPipe(redis_url)
    await pipe.start()
    pace = Pace(pipe, "costs")
    unknown = target("e", kind=ProviderKind.OPENAI, quota_key="c/unknown")
    # process time, so that other work on the machine does not count
    check_us = per_call_us(lambda: pace.governs(unknown), 1_000_000)
    told = {
        f"x-ratelimit-{what}-{of}": str(10**8)
        for what in ("limit", "remaining")
        for of in ("requests", "tokens")
    } | {"x-ratelimit-reset-requests": "1ms", "x-ratelimit-reset-tokens": "1ms"}
    listen_us = per_call_us(lambda: pace.learn(unknown, 200, told), 200_000)

    async def slots(at_once: int, quota_key: str) -> float:
        wanted = target("e", kind=ProviderKind.OPENAI, quota_key=quota_key, limit_rpm=10**8, limit_tpm=10**12)

        async def caller() -> None:
            for _ in range(COST_CALLS // at_once):
                slot = await pace.take(wanted, tokens=500, wait_s=1.0)
                pace.settle(slot, tokens=400)

        begin_ns = time.process_time_ns()
        await asyncio.gather(*(caller() for _ in range(at_once)))
        return (time.process_time_ns() - begin_ns) / COST_CALLS / 1000

    async def trips(quota_key: str) -> float:
        """One slot per trip to Redis, as at low rates: every call to a quota of its own."""
        wanted = [
            target("e", kind=ProviderKind.OPENAI, quota_key=f"{quota_key}{number}", limit_rpm=600)
            for number in range(COST_CALLS // 10)
        ]
        begin_ns = time.process_time_ns()
        for each in wanted:
            await pace.take(each, tokens=500, wait_s=1.0)
        return (time.process_time_ns() - begin_ns) / len(wanted) / 1000

    lent_us = await slots(8, "c/lent")
    trip_us = await trips("c/trip")
    pace.close()
    await pipe.aclose()
    return "\n".join(
        (
            f"CPU us per call: {check_us:.2f} to see that no limit is known, {listen_us:.2f} to heed headers,",
            f"{lent_us:.1f} for a slot at a high rate (taken ahead), {trip_us:.1f} for one with a trip of its own",
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pacing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--limit", type=int, default=600, help="calls per window (600)")
    parser.add_argument("--window", type=float, default=60.0, help="seconds (60)")
    parser.add_argument("--warm-up", type=float, default=90.0, help="seconds not judged (90)")
    parser.add_argument("--measured", type=float, default=180.0, help="seconds judged (180)")
    parser.add_argument("--offered", type=float, default=1.5, help="times the limit (1.5)")
    chosen = parser.parse_args()
    load = Load(chosen.limit, chosen.window, chosen.warm_up, chosen.measured, chosen.offered)
    try:
        with (
            limited_provider.running(load.limit, load.window_s) as provider_url,
            product(lambda: seed(provider_url), web_workers=WORKERS) as gateway,
        ):
            ended = asyncio.run(drive(gateway.url, gateway.key, load))
            accepted, refused = limited_provider.seen(provider_url)
            cost = asyncio.run(costs(os.environ["REDIS_URL"]))
    except BenchmarkError as error:
        raise SystemExit(f"pacing: {error}") from error
    told, is_kept = judge(load, accepted, refused)
    print(told)
    print("calls ended: " + ", ".join(f"{count} x {how}" for how, count in ended.most_common()))
    print(cost)
    raise SystemExit(0 if is_kept else 1)


if __name__ == "__main__":
    main()
