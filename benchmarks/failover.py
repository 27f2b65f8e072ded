"""Failover Bench on this gateway: sixteen broken providers, one call each through the official openai client.

    uv run python -m benchmarks.failover [--profile full|fast] [--whole] [--only S06,S08] [--readme]

Our own make of the sixteen cases and the rules of their verdicts (RELIABILITY.md §6; the bench itself is
https://github.com/failoverbench/failoverbench). `full` has the stated waits and counts; `fast` scales them, with
our timeouts. The policy is the product's default but for `recovery: buffered`: after a cut, no system that
passes tokens on as they come can give a whole answer without the client's help.
"""

import argparse
import asyncio
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import openai

from benchmarks.product import Product, product
from tests.fakes.faulty_provider import ANSWER, FAST, FULL, FaultyProvider, Try, faulty

PROMPT = (
    "Explain in exactly sixty words why a gateway earns trust only when the provider behind it misbehaves."
)
MARKS = ("<!-- failover bench: begin -->", "<!-- failover bench: end -->")
FAST_LIMITS = {"first_byte_timeout_s": 1.5, "stall_timeout_s": 1.5}

type Outcome = Literal["answer", "error", "hang"]
type Word = Literal["pass", "partial", "safe", "fail"]


@dataclass(slots=True)
class Seen:
    """What one case showed: to the client, and to the provider."""

    outcome: Outcome = "hang"
    text: str = ""
    error: str = ""
    model: str = ""
    usage: Any = None
    elapsed_s: float = 0.0
    primary: list[Try] = field(default_factory=list)
    fallback: list[Try] = field(default_factory=list)
    is_alive_after: bool = False

    @property
    def is_whole(self) -> bool:
        return self.outcome == "answer" and self.text == ANSWER


@dataclass(frozen=True, slots=True)
class Check:
    """`is_advisory`: its failure makes a rescue partial, not a failure."""

    name: str
    holds: Callable[[Seen], bool]
    is_advisory: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """One fault and what is asked of a gateway. `whole_differs`: checks that mean nothing without a stream."""

    id: str
    title: str
    checks: tuple[Check, ...]
    max_wall_s: float = 45.0
    fallback: str = "ok"
    ideal: Outcome = "answer"
    stream_only: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        return self.id.lower()


def within(limit_s: float, *, is_advisory: bool = False) -> Check:
    return Check(f"≤ {limit_s:g} s", lambda seen: seen.elapsed_s <= limit_s, is_advisory)


def at_most(count: int, *, is_advisory: bool = False) -> Check:
    return Check(f"≤ {count} primary attempts", lambda seen: len(seen.primary) <= count, is_advisory)


def at_least(count: int) -> Check:
    return Check(f"≥ {count} primary attempts", lambda seen: len(seen.primary) >= count, True)


def once() -> Check:
    return Check("primary exactly once", lambda seen: len(seen.primary) == 1)


def no_hammer(count: int, window_s: float) -> Check:
    return Check(
        f"≤ {count} attempts in {window_s:g} s",
        lambda seen: sum(each.at_s - seen.primary[0].at_s < window_s for each in seen.primary) <= count,
    )


NO_TRUNCATION = Check("no truncated success", lambda seen: seen.outcome != "answer" or seen.is_whole)
ALIVE = Check("alive after", lambda seen: seen.is_alive_after)
USAGE = Check("usage present", lambda seen: seen.usage is not None, True)
GAP = Check(
    "gap ≥ 1.8 s", lambda s: len(s.primary) > 1 and s.primary[1].at_s - s.primary[0].at_s >= 1.8, True
)
IN_PLACE = Check("complete in place", lambda seen: seen.is_whole and not seen.fallback, True)
NAMES_FALLBACK = Check("model names the fallback", lambda seen: not seen.fallback or seen.model == "ok")
NO_MASKING = Check(
    "a refused prefill is not the final error",
    lambda seen: (
        seen.outcome != "error" or not any(each.outcome == "refuse prefill" for each in seen.fallback)
    ),
)

CASES = (
    Case("S01", "429 with Retry-After: 2, once", (at_least(2), GAP, no_hammer(2, 1.5)), 20),
    Case("S02", "429 without header, always", (no_hammer(4, 3), at_most(6)), 40),
    Case("S03", "500 once", (at_least(2),), 20),
    Case("S04", "503 always", (at_most(6),), 40),
    Case("S05", "TCP reset before headers, once", (), 20),
    Case("S06", "accepts, never answers", (within(100), at_most(1, is_advisory=True)), 130),
    Case("S07", "first token after 20 s", (within(15, is_advisory=True),), 60, stream_only=("≤ 15 s",)),
    Case("S08", "cut after 40 of 60 tokens", (NO_TRUNCATION,), 40),
    Case("S09", "silent after 20 tokens", (within(45), NO_TRUNCATION, ALIVE), 70),
    Case("S10", "10th event is no JSON", (ALIVE, NO_TRUNCATION, IN_PLACE), 30, stream_only=(IN_PLACE.name,)),
    Case("S11", "complete, no [DONE]", (within(8), USAGE), 30),
    Case("S12", "context_length_exceeded", (once(),), 20),
    Case("S13", "content_policy_violation", (once(),), 20, ideal="error"),
    Case(
        "S14", "cut; the fallback refuses a prefill", (NO_MASKING, NO_TRUNCATION), 40, fallback="ok-noprefill"
    ),
    Case("S15", "503 for 60 s, then healthy", (), 200),
    Case("S16", "503 always: what is reported", (NAMES_FALLBACK, USAGE, at_most(6)), 40),
)
FALLBACKS = {case.model: case.fallback for case in CASES}


@dataclass(frozen=True, slots=True)
class Verdict:
    case: Case
    word: Word
    why: str


def judge(case: Case, seen: Seen, *, is_stream: bool = True) -> Verdict:
    """The bench's rules: pass, partial (rescued, an advisory check failed), safe (a clean error), fail."""
    failed = [
        check
        for check in case.checks
        if (is_stream or check.name not in case.stream_only) and not check.holds(seen)
    ]
    required = [check.name for check in failed if not check.is_advisory]
    figures = f"{len(seen.primary)}p/{len(seen.fallback)}f · {seen.elapsed_s:.1f} s"
    if seen.outcome == "hang":
        return Verdict(case, "fail", f"hang · {figures}")
    if seen.outcome == "answer" and not seen.is_whole:
        return Verdict(case, "fail", f"a broken answer shown as success · {figures}")
    if required:
        return Verdict(case, "fail", f"{', '.join(required)} · {figures}")
    if seen.outcome != case.ideal:
        word: Word = "safe" if case.ideal == "answer" else "partial"
        return Verdict(case, word, f"{seen.error or 'answered'} · {figures}")
    if failed:
        return Verdict(case, "partial", f"{', '.join(check.name for check in failed)} · {figures}")
    return Verdict(case, "pass", figures)


# ------------------------------------------------------------------ calling


class Caller:
    """Calls through the gateway with the official client, which retries nothing by itself."""

    def __init__(self, url: str, key: str, **body: Any) -> None:
        self.client = openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=300)
        self.body = body

    async def __aenter__(self) -> "Caller":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    async def call(self, model: str, *, is_stream: bool, limit_s: float) -> Seen:
        seen = Seen()
        since_s = time.monotonic()
        try:
            async with asyncio.timeout(limit_s):
                await (self._stream(model, seen) if is_stream else self._whole(model, seen))
            seen.outcome = "answer"
        except TimeoutError:
            seen.error = "no end within the limit"
        except openai.APIError as error:
            seen.outcome, seen.error = "error", str(error.code or error.message)
        seen.elapsed_s = time.monotonic() - since_s
        return seen

    async def _stream(self, model: str, seen: Seen) -> None:
        chunks = await self.client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": PROMPT}],
            stream=True,
            stream_options={"include_usage": True},
            **self.body,
        )
        async for chunk in chunks:
            seen.model, seen.usage = chunk.model, chunk.usage or seen.usage
            for choice in chunk.choices:
                seen.text += choice.delta.content or ""

    async def _whole(self, model: str, seen: Seen) -> None:
        answer = await self.client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": PROMPT}], **self.body
        )
        seen.model, seen.usage = answer.model, answer.usage
        seen.text = answer.choices[0].message.content or ""


async def run_case(case: Case, caller: Caller, wall: FaultyProvider, *, is_stream: bool) -> Verdict:
    """One case from a clean log to its verdict."""
    if case.id == "S15":
        return await run_outage(case, caller, wall, is_stream=is_stream)
    wall.reset()
    seen = await caller.call(f"policy:{case.model}", is_stream=is_stream, limit_s=case.max_wall_s)
    seen.primary, seen.fallback = wall.tries_at(case.model), wall.tries_at(case.fallback)
    after = await caller.call("ok", is_stream=False, limit_s=10)
    seen.is_alive_after = after.is_whole
    return judge(case, seen, is_stream=is_stream)


BACK_WITHIN_S = 30.0
"""How soon after an outage the primary must serve again (S15)."""


async def run_outage(case: Case, caller: Caller, wall: FaultyProvider, *, is_stream: bool) -> Verdict:
    """S15: 20 calls, one every fifteenth of the outage; all served, none hung, and back on the primary in time.

    A shortened outage may end before a breaker's shortest opening does: then the calls go on until the time is up.
    """
    outage_s = wall.waits.outage_s
    wall.reset()
    since_s = time.monotonic()
    bad = number = 0
    while number < 20 or (
        time.monotonic() - since_s < outage_s + BACK_WITHIN_S
        and all(each.at_s < outage_s for each in wall.tries_at(case.model))
    ):
        await asyncio.sleep(since_s + number * outage_s / 15 - time.monotonic())
        seen = await caller.call(f"policy:{case.model}", is_stream=is_stream, limit_s=30)
        bad += not seen.is_whole
        number += 1
    tries = wall.tries_at(case.model)
    down = [each for each in tries if each.at_s < outage_s]
    back = [each.at_s - outage_s for each in tries if each.at_s >= outage_s]
    back_s = min(back, default=float("inf"))
    figures = f"{len(down)} primary attempts in the outage, back after {back_s:.0f} s"
    if bad:
        return Verdict(case, "fail", f"{bad} of {number} not served · {figures}")
    return Verdict(case, "pass" if back_s <= BACK_WITHIN_S else "fail", figures)


async def run_all(
    cases: Sequence[Case], gateway: Product, wall: FaultyProvider, *, is_stream: bool
) -> list[Verdict]:
    verdicts = []
    async with Caller(gateway.url, gateway.key) as caller:
        for case in cases:
            verdict = await run_case(case, caller, wall, is_stream=is_stream)
            print(f"{case.id} {verdict.word:8}{case.title}: {verdict.why}", flush=True)
            verdicts.append(verdict)
    return verdicts


# ------------------------------------------------------------------ telling


def table(verdicts: Sequence[Verdict], *, profile: str, is_stream: bool) -> str:
    counts = {
        word: sum(each.word == word for each in verdicts) for word in ("pass", "partial", "safe", "fail")
    }
    lines = [
        f"`make failover`, profile {profile}, {'streamed' if is_stream else 'whole answers'}, policy with "
        "`recovery: buffered`: " + " / ".join(f"{count} {word}" for word, count in counts.items()) + ".",
        "",
        "| case | fault | verdict | attempts at primary/fallback, time |",
        "|---|---|---|---|",
    ]
    lines += [f"| {each.case.id} | {each.case.title} | {each.word} | {each.why} |" for each in verdicts]
    return "\n".join(lines)


def write_between_marks(path: Path, text: str) -> None:
    """Put the table where the marks are. Raises ValueError without them."""
    begin, end = MARKS
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    document = path.read_text()
    if not pattern.search(document):
        msg = f"{path} has no marks for the table"
        raise ValueError(msg)
    path.write_text(pattern.sub(lambda _: f"{begin}\n{text}\n{end}", document))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", choices=("full", "fast"), default="full")
    parser.add_argument("--whole", action="store_true", help="whole answers instead of streams")
    parser.add_argument("--only", help="comma-separated cases, such as S06,S08")
    parser.add_argument("--readme", action="store_true", help="write the table into README.md")
    chosen = parser.parse_args()
    cases = [case for case in CASES if not chosen.only or case.id in chosen.only.split(",")]
    is_full = chosen.profile == "full"
    with faulty(FULL if is_full else FAST) as wall:

        def seed() -> str:
            from benchmarks.walls import open_tenant, seed_failover

            seed_failover(wall.url, FALLBACKS, **({} if is_full else FAST_LIMITS))
            return open_tenant()

        with product(seed) as gateway:
            verdicts = asyncio.run(run_all(cases, gateway, wall, is_stream=not chosen.whole))
    text = table(verdicts, profile=chosen.profile, is_stream=not chosen.whole)
    print("\n" + text)
    if chosen.readme:
        write_between_marks(Path(__file__).parents[1] / "README.md", text)
    if any(each.word != "pass" for each in verdicts):
        sys.exit(1)


if __name__ == "__main__":
    main()
