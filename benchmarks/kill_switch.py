"""How long a kill switch takes to reach every worker: calls that began after it was thrown and still went there.

    uv run python -m benchmarks.kill_switch

Four workers, 32 connections that ask without a pause, the demo's two sandbox providers. The switch is thrown and
restored by the API, ten times each. Judged: the latest such call began within one second of the API's answer.
"""

import asyncio
import time
from dataclasses import dataclass, field

import httpx

from benchmarks.__main__ import BenchmarkError
from benchmarks.product import product

WORKERS = 4
CONNECTIONS = 32
ROUNDS = 10
SETTLE_S = 1.5
LIMIT_S = 1.0
TARGET = "sandbox"


@dataclass(slots=True)
class Seen:
    """When each call began (monotonic seconds), and which provider answered it."""

    calls: list[tuple[float, str]] = field(default_factory=list)
    is_over: bool = False


def seed() -> str:
    """The demo. Returns acme's key and the operator's, with a space between."""
    from gateway.management.commands.seed_demo import seed as seed_demo

    made = seed_demo()
    return f"{made['tenants'][0]['api_key']} {made['operator_key']}"


async def ask(url: str, key: str, seen: Seen) -> None:
    """One connection, call after call."""
    body = {
        "model": "policy:cost-optimized",
        "messages": [{"role": "user", "content": "[[sandbox tokens=1]]"}],
    }
    async with httpx.AsyncClient(timeout=30) as client:
        while not seen.is_over:
            began_s = time.monotonic()
            answer = await client.post(
                f"{url}/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}
            )
            if answer.status_code != 200:
                raise BenchmarkError(f"a call was answered {answer.status_code}: {answer.text[:300]}")
            seen.calls.append((began_s, answer.headers["x-tollhouse-provider"]))


async def switch(url: str, key: str, seen: Seen) -> tuple[list[float], list[float]]:
    """Throw and restore; for each, how late the last call began that had not heard of it, in seconds."""
    api = f"{url.removesuffix('/v1')}/api/v1/kill-switches/"
    headers = {"authorization": f"Bearer {key}"}
    thrown, restored = [], []
    async with httpx.AsyncClient(timeout=30, headers=headers) as client:
        await asyncio.sleep(SETTLE_S)
        for _ in range(ROUNDS):
            answer = await client.post(api, json={"kind": "provider", "target": TARGET, "reason": "measured"})
            if answer.status_code != 201:
                raise BenchmarkError(f"the switch was not thrown: {answer.text[:300]}")
            since_s = time.monotonic()
            await asyncio.sleep(SETTLE_S)
            thrown.append(lateness_s(seen, since_s, is_deaf=lambda provider: provider == TARGET))
            answer = await client.delete(f"{api}{answer.json()['id']}/")
            if answer.status_code != 200:
                raise BenchmarkError(f"the switch was not restored: {answer.text[:300]}")
            since_s = time.monotonic()
            await asyncio.sleep(SETTLE_S)
            restored.append(lateness_s(seen, since_s, is_deaf=lambda provider: provider != TARGET))
    seen.is_over = True
    return thrown, restored


def lateness_s(seen: Seen, since_s: float, *, is_deaf) -> float:
    late = [began_s - since_s for began_s, provider in seen.calls if began_s > since_s and is_deaf(provider)]
    return max(late, default=0.0)


async def measure(url: str, keys: str) -> tuple[list[float], list[float], int]:
    key, operator_key = keys.split()
    seen = Seen()
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(ask(url, key, seen))
        switched = group.create_task(switch(url, operator_key, seen))
    return *switched.result(), len(seen.calls)


def main() -> None:
    with product(seed, web_workers=WORKERS) as gateway:
        thrown, restored, calls = asyncio.run(measure(gateway.url, gateway.key))
    print(f"{calls} calls over {CONNECTIONS} connections to {WORKERS} workers, {ROUNDS} rounds")
    for what, late in (("thrown", thrown), ("restored", restored)):
        middle_ms, most_ms = sorted(late)[len(late) // 2] * 1000, max(late) * 1000
        print(f"{what}: the last deaf call began after {middle_ms:.0f} ms (median), {most_ms:.0f} ms (most)")
    raise SystemExit(0 if max(*thrown, *restored) < LIMIT_S else 1)


if __name__ == "__main__":
    main()
