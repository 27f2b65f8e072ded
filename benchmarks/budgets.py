"""Hard budgets under fire: races of 200 calls over 4 workers, and a Redis that is flushed and killed under load.

    uv run python -m benchmarks.budgets [--races 50] [--losses 6]

Races: each of 200 simultaneous calls costs exactly 0.01, and the budget is worth 20 of them: whole answers, streams,
embeddings, and five budgets of different scopes at once. Exactly 20 may pass, every time.
Losses: Redis loses everything (FLUSHALL), is killed and comes back empty, and is killed and comes back with an old
dump. Goals: no budget is ever exceeded, and within 10 s the counters say what the ledger says.
It judges a product of its own on services of its own, and must never touch others.
"""

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import httpx
import redis

from benchmarks.__main__ import HOUSE, BenchmarkError, free_port, is_ready
from gateway.embedded import Embedded, choose_redis, find_redis, lock_data_folder
from gateway.environment import new_secrets
from gateway.supervisor import Options, product_commands

WORKERS: Final = 4
CALLERS: Final = 200
FITS: Final = 20
PRICE: Final = Decimal("0.01")
KINDS: Final = ("whole", "stream", "embeddings", "mixed")
LOSSES: Final = ("flushed", "killed, comes back empty", "killed, comes back with an old dump")
LOAD_CALLERS: Final = 12
LOAD_FITS: Final = 1500
GAP_S: Final = 3.0
RIGHT_WITHIN_S: Final = 10.0


# ------------------------------------------------------------------ the house


class Store:
    """A Redis that can be killed. Keeps nothing but the dumps it is told to make."""

    def __init__(self, folder: Path) -> None:
        self._argv = [
            str(choose_redis(found=find_redis(), written_by=None).path),
            *("--port", "0", "--unixsocket", str(folder / "r.sock"), "--dir", str(folder)),
            *("--save", "", "--appendonly", "no", "--loglevel", "warning"),
        ]
        self.url = f"unix://{folder / 'r.sock'}?db=0"
        self._dump = folder / "dump.rdb"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with redis.Redis.from_url(self.url) as client:
            for _ in range(200):
                with contextlib.suppress(redis.RedisError):
                    client.ping()
                    return
                time.sleep(0.02)
        raise BenchmarkError("redis does not start")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def lose(self, how: str) -> None:
        """Forget, in the way named."""
        if how == LOSSES[0]:
            with redis.Redis.from_url(self.url) as client:
                client.flushall()
            return
        self.kill()
        if how == LOSSES[1]:
            self._dump.unlink(missing_ok=True)
        self.start()

    def keep(self) -> None:
        """Make the dump that a later death brings back."""
        with redis.Redis.from_url(self.url) as client:
            client.save()


@dataclass(frozen=True, slots=True)
class House:
    """A running gateway of WORKERS processes; `key` and `key_id` are its one caller's."""

    url: str
    key: str
    store: Store


@contextlib.contextmanager
def house(seed: Callable[[], str]) -> Iterator[House]:
    """Migrate, seed, start, and drain the stream meanwhile. Raises BenchmarkError."""
    with tempfile.TemporaryDirectory(prefix="tollhouse-budgets-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        lock = lock_data_folder(folder)
        stack.callback(lock.release)
        embedded = Embedded(folder, with_redis=False, is_durable=False)
        stack.callback(embedded.stop)
        database_url = embedded.start().database_url or ""
        (folder / "store").mkdir()
        store = Store(folder / "store")
        store.start()
        stack.callback(store.kill)
        options = Options(
            root=folder, host="127.0.0.1", port=free_port(), web_workers=WORKERS, celery_concurrency=1,
            drain_s=5, with_demo=False,
        )  # fmt: skip
        os.environ |= {
            **new_secrets(),
            "DATABASE_URL": database_url,
            "REDIS_URL": store.url,
            "TOLLHOUSE_DATA": name,
            "PUBLIC_URL": options.public_url,
            "DJANGO_SETTINGS_MODULE": "gateway.settings",
            "LOG_LEVEL": "ERROR",
        }
        migrate = [sys.executable, "-W", "ignore::RuntimeWarning", "manage.py", "migrate", "-v0"]
        done = subprocess.run(migrate, cwd=HOUSE, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BenchmarkError(f"migrate failed:\n{done.stderr[-3000:]}")
        import django

        django.setup()
        key = seed()
        argv = [sys.executable, "-W", "ignore", "-m", *product_commands(options)["web"]]
        web = subprocess.Popen(argv, cwd=HOUSE)
        stack.callback(web.wait, 30)
        stack.callback(web.terminate)
        deadline_s = time.monotonic() + 60
        while not is_ready(options.port):
            if web.poll() is not None or time.monotonic() > deadline_s:
                raise BenchmarkError("the gateway does not start")
            time.sleep(0.1)
        stack.enter_context(draining())
        yield House(f"{options.public_url}/v1", key, store)


@contextlib.contextmanager
def draining() -> Iterator[None]:
    """Closed calls reach the ledger, as the worker's task sees to it each second."""
    from django.db import connection

    from gateway.logs import consumer

    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            try:
                consumer.drain(budget_s=1, block_ms=100)
            except redis.RedisError:
                time.sleep(0.1)  # it is being killed
        connection.close()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        over.set()
        worker.join()


def open_acme() -> str:
    """The demo's tenant acme on a plan of PRICE per request. Its key's text."""
    from django.utils import timezone

    from billing.models import Plan
    from billing.subscriptions import change_plan, publish
    from gateway.management.commands.seed_demo import seed
    from tenants.models import Tenant
    from tenants.principal import SYSTEM

    shown = seed()
    plan = Plan.objects.create(slug="flat", name="Flat")
    charges = [{"model": "standard", "components": {"requests": {"price": str(PRICE), "per": 1}}}]
    publish(plan=plan, terms={"currency": "USD", "charges": charges}, actor=SYSTEM)
    acme = Tenant.objects.get(slug="acme")
    change_plan(tenant=acme, plan=plan, at=timezone.now(), actor=SYSTEM)
    return str(shown["tenants"][0]["api_key"])


def budgets_for(feature: str, *, fits: int, is_mixed: bool = False) -> list[Any]:
    """Hard budgets that `fits` calls of the feature exhaust; mixed: four wider or narrower ones besides."""
    from billing.models import Budget
    from tenants.models import ApiKey, Tenant

    tenant = Tenant.objects.get(slug="acme")
    key = ApiKey.objects.filter(tenant=tenant, revoked_at=None).latest("id")
    made = [Budget(tenant=tenant, feature=feature, limit=PRICE * fits, window="total")]
    if is_mixed:
        scopes: list[Mapping[str, Any]] = [
            {
                "tenant": tenant,
                "api_key": key,
                "tag": f"race={feature}",
                "measure": "requests",
                "limit": fits,
            },
            {"tenant": tenant, "end_user": feature, "measure": "price", "limit": PRICE * (fits + 5)},
            {"feature": feature, "provider": "sandbox", "measure": "requests", "limit": fits + 5},
            {
                "feature": feature,
                "measure": "requests",
                "limit": fits,
                "window": "rolling",
                "rolling_s": 3600,
            },
        ]
        made += [Budget(**{"window": "total", **scope}) for scope in scopes]
    for budget in made:
        budget.save()
    return made


def announce() -> None:
    from django.db import transaction

    from tenants import versions

    with transaction.atomic():
        versions.bump("billing")
    time.sleep(2.5)  # every worker looks once a second


def spent_of(budget: Any) -> tuple[int, int]:
    """(what the ledger says, the limit), in the budget's smallest unit."""
    from billing.budgets.counters import spent
    from billing.models import Budget
    from billing.snapshot import entry_of

    entry = entry_of(Budget.objects.select_related("tenant").get(pk=budget.pk))
    return spent(entry, entry.window_at(time.time())), entry.limit * entry.unit


# ------------------------------------------------------------------ calls


def request_of(kind: str, feature: str, number: int) -> tuple[str, dict[str, Any]]:
    if kind == "mixed":
        kind = KINDS[number % 3]
    if kind == "embeddings":
        return "/embeddings", {"model": "sandbox-embed", "input": "race", "user": feature}
    text = "[[sandbox tokens=3 token_ms=5 first_token_ms=20]] race"
    body = {"model": "sandbox-small", "messages": [{"role": "user", "content": text}], "user": feature}
    return "/chat/completions", body | ({"stream": True} if kind == "stream" else {})


async def call(http: httpx.AsyncClient, kind: str, feature: str, number: int) -> int:
    """The status; a stream counts as answered when it ended as it should, else 599."""
    path, body = request_of(kind, feature, number)
    headers = {"x-tollhouse-feature": feature, "x-tollhouse-tags": f"race={feature}"}
    answer = await http.post(path, json=body, headers=headers)
    is_cut = body.get("stream") and answer.status_code == 200 and "[DONE]" not in answer.text
    return 599 if is_cut else answer.status_code


def client_of(where: House) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=where.url,
        headers={"authorization": f"Bearer {where.key}"},
        timeout=60,
        limits=httpx.Limits(max_connections=None),
    )


# ------------------------------------------------------------------ races


async def race(where: House, kind: str, feature: str) -> Counter[int]:
    async with client_of(where) as http:
        return Counter(
            await asyncio.gather(*(call(http, kind, feature, number) for number in range(CALLERS)))
        )


def races(where: House, count: int) -> Iterator[tuple[str, Counter[int], list[tuple[int, int]]]]:
    """Each race's kind, statuses, and (spent, limit) of its budgets."""
    plan = [(KINDS[number % len(KINDS)], f"race-{number}") for number in range(count)]
    made = [budgets_for(feature, fits=FITS, is_mixed=kind == "mixed") for kind, feature in plan]
    announce()
    for (kind, feature), budgets in zip(plan, made, strict=True):
        statuses = asyncio.run(race(where, kind, feature))
        settle(where)
        yield kind, statuses, [spent_of(budget) for budget in budgets]


def settle(where: House, wait_s: float = 30.0) -> None:
    """Until no call is open and the stream is empty. Raises BenchmarkError."""
    until_s = time.monotonic() + wait_s
    with redis.Redis.from_url(where.store.url) as client:
        while client.hlen("th:open") or client.xlen("th:usage"):
            if time.monotonic() > until_s:
                raise BenchmarkError("calls stay open, or the ledger does not follow")
            time.sleep(0.02)


# ------------------------------------------------------------------ losses


@dataclass(slots=True)
class Load:
    """What callers met while Redis lost its memory again and again."""

    statuses: Counter[int] = field(default_factory=Counter)
    is_over: bool = False


async def drill(where: House, how: str, count: int, load: Load) -> None:
    async with client_of(where) as http:

        async def caller(number: int) -> None:
            turn = number
            while not load.is_over:
                turn += 1
                kind = KINDS[turn % 3]
                load.statuses[await call(http, kind, ("tight", "roomy")[turn % 2], turn)] += 1

        callers = [asyncio.ensure_future(caller(number)) for number in range(LOAD_CALLERS)]
        await asyncio.sleep(GAP_S)
        await asyncio.to_thread(where.store.keep)
        for _ in range(count):
            await asyncio.sleep(GAP_S)
            await asyncio.to_thread(where.store.lose, how)
        await asyncio.sleep(GAP_S)
        load.is_over = True
        await asyncio.gather(*callers)


def right_after_s(wait_s: float = 30.0) -> float:
    """How long until every counter says what the ledger says, without a repair. Raises BenchmarkError."""
    from django.utils import timezone

    from gateway.state import budgets

    began_s = time.monotonic()
    while time.monotonic() - began_s < wait_s:
        found = budgets.check(now=timezone.now())
        if found.counters and not found.differences:
            return time.monotonic() - began_s
        time.sleep(0.2)
    raise BenchmarkError("the counters do not agree with the ledger")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--races", type=int, default=50)
    parser.add_argument("--losses", type=int, default=6)
    chosen = parser.parse_args()
    failures = 0

    def tell(goal: str, measured: str, *, is_reached: bool) -> None:
        nonlocal failures
        failures += not is_reached
        print(f"{'ok    ' if is_reached else 'FAILED'} {goal}: {measured}", flush=True)

    with house(open_acme) as where:
        overspends, began_s, seen = 0, time.monotonic(), Counter[tuple[str, int]]()
        for kind, statuses, sums in races(where, chosen.races):
            overspends += sum(spent > limit for spent, limit in sums)
            seen[kind, statuses[200]] += 1
            if statuses != {200: FITS, 402: CALLERS - FITS}:
                print(f"       a race of {kind}: {dict(statuses)}", flush=True)
        passed = ", ".join(f"{count} x {kind}: {ok}" for (kind, ok), count in sorted(seen.items()))
        goal = f"{CALLERS} calls at once on {WORKERS} workers, {FITS} fit, {chosen.races} races"
        tell(goal, f"passed {passed}", is_reached={ok for _, ok in seen} == {FITS})
        tell("overspends", f"{overspends} ({time.monotonic() - began_s:.0f} s)", is_reached=overspends == 0)
        for how in LOSSES:
            tight = budgets_for("tight", fits=LOAD_FITS)
            roomy = budgets_for("roomy", fits=1_000_000)
            announce()
            load = Load()
            asyncio.run(drill(where, how, chosen.losses, load))
            after_s = right_after_s()
            settle(where)
            sums = [spent_of(budget) for budget in (*tight, *roomy)]
            total = sum(load.statuses.values())
            share = load.statuses[503] / total
            odd = {status: n for status, n in load.statuses.items() if status not in (200, 402, 503)}
            told = f"{total} calls, 503 {share:.2%}, 402 {load.statuses[402]}"
            tell(
                f"Redis {how} x {chosen.losses}",
                told + (f", others {odd}" if odd else ""),
                is_reached=not odd,
            )
            used = ", ".join(f"{spent / limit:.1%}" for spent, limit in sums)
            tell("  never above a limit", used, is_reached=all(spent <= limit for spent, limit in sums))
            tell("  counters = ledger after", f"{after_s:.1f} s", is_reached=after_s <= RIGHT_WITHIN_S)
            for budget in (*tight, *roomy):
                type(budget).objects.filter(pk=budget.pk).update(is_enabled=False)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
