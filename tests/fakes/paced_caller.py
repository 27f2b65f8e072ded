"""One worker's share of a saturating load, through Pace and the data plane's own HTTP client.

    python -m tests.fakes.paced_caller REDIS_URL PROVIDER_URL SECONDS CALLERS

Prints how many calls were answered and how many found no slot: {"sent": n, "saturated": n}. Needs the settings'
environment, as every part of the gateway does.
"""

import asyncio
import os
import sys
import time

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")

import django

django.setup()

import orjson  # noqa: E402
import uvloop  # noqa: E402

from gateway.state.clients import HttpClient  # noqa: E402
from gateway.state.pace import Pace, Saturated  # noqa: E402
from gateway.state.redis import RedisPipe  # noqa: E402
from routing.types import ProviderKind, WireRequest  # noqa: E402
from tests.routing.targets import target  # noqa: E402

WAIT_S = 0.25


async def main(redis_url: str, provider_url: str, seconds: float, callers: int) -> dict[str, int]:
    pipe, http = RedisPipe(redis_url), HttpClient()
    await pipe.start()
    pace = Pace(pipe, f"worker-{os.getpid()}")
    limited = target("e", kind=ProviderKind.AZURE_OPENAI, quota_key="c/limited")
    wire = WireRequest(
        f"{provider_url}/chat", (("content-type", "application/json"),), b'{"model":"limited"}'
    )
    end_s = time.monotonic() + seconds
    counts = {"sent": 0, "saturated": 0}

    async def call() -> None:
        while time.monotonic() < end_s:
            if pace.governs(limited):
                try:
                    await pace.take(limited, tokens=21, wait_s=WAIT_S)
                except Saturated as full:
                    counts["saturated"] += 1
                    await asyncio.sleep(min(full.retry_after_s, 0.05))
                    continue
            reply = await http.send(wire, first_byte_timeout_s=10, total_timeout_s=10)
            pace.learn(limited, reply.status, reply.headers)
            counts["sent"] += 1

    async def refreshing() -> None:
        while True:
            await pace.refresh()
            await asyncio.sleep(1)

    beat = asyncio.ensure_future(refreshing())
    try:
        await asyncio.gather(*(call() for _ in range(callers)))
    finally:
        beat.cancel()
        pace.close()
        await http.aclose()
        await pipe.aclose()
    return counts


if __name__ == "__main__":
    arguments = (sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
    sys.stdout.buffer.write(orjson.dumps(uvloop.run(main(*arguments))))
