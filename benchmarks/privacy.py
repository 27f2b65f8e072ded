"""What looking for personal data costs, and how well it is found: `uv run python -m benchmarks.privacy`.

Times are the median of rounds in one thread of this process; no network, no database. Texts are the project's own
pages (clean prose), generated German prose, and the labelled set (dense). It must never print a text of the set.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from gateway.privacy.detect import Rules, compiled
from gateway.privacy.kinds import CARD, EMAIL, IBAN, IP_ADDRESS, NATIONAL_ID, PHONE, SECRET, Action
from gateway.privacy.restore import Restorer
from gateway.privacy.tokens import Vault
from gateway.privacy.walk import redact_body
from routing.types import Operation
from tests.gateway.privacy.labelled import labelled, scores

KINDS = (EMAIL, PHONE, CARD, IBAN, NATIONAL_ID, IP_ADDRESS, SECRET)
RULES = Rules(dict.fromkeys(KINDS, Action.TOKENIZE))
ROUNDS = 40
KIB = 1024

ENGLISH = (
    "The committee met on Tuesday to discuss the plans for the coming year, and after some debate it was agreed that "
    "the library should stay open on Sundays. Nobody objected, although two members asked for the costs in writing. "
    "In 2024 there had been 1,250 visitors a week; by 2026 the figure was closer to 1,900, most of them students. "
)
GERMAN = (
    "Der Ausschuss beriet am Dienstag über die Pläne für das kommende Jahr, und nach längerer Aussprache wurde "
    "beschlossen, dass die Bücherei auch sonntags geöffnet bleibt. Es gab keine Einwände, höchstens Rückfragen. "
)
RUSSIAN = (
    "Комитет собрался во вторник, чтобы обсудить планы на будущий год, и после спора решил, что библиотека "
    "будет открыта и по воскресеньям. Никто не возражал. "
)


def microseconds(work: Callable[[], object]) -> float:
    """Median time of one run, each round long enough for the clock."""
    started = time.perf_counter()
    work()
    repeats = max(1, int(0.005 / max(1e-7, time.perf_counter() - started)))
    rounds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        rounds.append((time.perf_counter() - started) / repeats)
    return statistics.median(rounds) * 1e6


def filled(text: str, size: int) -> str:
    return (text * (size // len(text) + 1))[:size]


def detection() -> None:
    detector = compiled(RULES)
    dense = "\n".join(each.text for each in labelled("held_out") if each.spans)
    code = "\n".join(path.read_text() for path in sorted(Path("gateway/pipeline").glob("*.py")))
    print("find, 8 KiB of                      us   us/KiB  findings")
    for name, text in (
        ("English prose, clean", filled(ENGLISH, 8 * KIB)),
        ("German prose, clean", filled(GERMAN, 8 * KIB)),
        ("Russian prose, clean", filled(RUSSIAN, 8 * KIB)),
        ("Python code", code[: 8 * KIB]),
        ("the held-out set, dense", dense[: 8 * KIB]),
    ):
        took_us = microseconds(lambda text=text: detector.find(text))
        print(f"  {name:28} {took_us:9.1f} {took_us / 8:8.1f} {len(detector.find(text)):9}")


def chat(text: str) -> dict[str, object]:
    """A conversation of six messages, together as long as the text."""
    step = len(text) // 6
    roles = ("system", "user", "assistant", "user", "assistant", "user")
    messages = [{"role": role, "content": text[at * step : (at + 1) * step]} for at, role in enumerate(roles)]
    return {
        "model": "m",
        "messages": messages,
        "temperature": 0.5,
        "user": "u_1",
        "metadata": {"team": "blue"},
    }


def replacing() -> None:
    detector, vault = compiled(RULES), Vault(b"k" * 32)
    clean = chat(filled(ENGLISH, 4 * KIB))
    few = chat(filled(ENGLISH, 4 * KIB - 60) + " Write to max@example.com or call +1 202-555-0147, please. ")
    for name, body in (("clean", clean), ("two findings", few)):
        took_us = microseconds(lambda body=body: redact_body(Operation.CHAT, body, detector, RULES, vault))
        print(f"redact_body, chat of 4 KiB, {name:14} {took_us:9.1f} us")


def streaming() -> None:
    vault = Vault(b"k" * 32)
    tokens = {vault.token(EMAIL, f"{at}@example.com"): f"{at}@example.com" for at in range(5)}
    token = next(iter(tokens))
    words = filled(ENGLISH, KIB)
    plain = [words[at : at + 5] for at in range(0, KIB, 5)]
    held = [piece for word in plain[::8] for piece in (*[word] * 6, token[:7], token[7:])]

    def payloads(pieces: list[str]) -> list[bytes]:
        return [
            orjson.dumps(
                {
                    "id": "chatcmpl-1",
                    "object": "chat.completion.chunk",
                    "created": 1,
                    "model": "m",
                    "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}],
                }
            )
            for piece in pieces
        ]

    def run(restorer: Restorer, chunks: list[bytes]) -> None:
        stream = restorer.stream()
        for each in chunks:
            stream.feed([each])
        stream.flush()

    for name, restorer, pieces in (
        ("no tokens in the call", Restorer({}), plain),
        ("none in the answer", Restorer(tokens), plain),
        ("one in eight chunks", Restorer(tokens), held),
    ):
        chunks = payloads(pieces)
        took_us = microseconds(lambda r=restorer, c=chunks: run(r, c)) / len(chunks)
        print(f"StreamRestorer, a chunk, {name:24} {took_us:7.2f} us")


def quality() -> None:
    print("labelled set   kind           spans  precision  recall")
    for name in ("tuning", "held_out"):
        for kind, score in sorted(scores(labelled(name), compiled(RULES)).items()):
            spans = score.right + score.missed
            print(f"  {name:12} {kind:14} {spans:5} {score.precision:10.3f} {score.recall:7.3f}")


if __name__ == "__main__":
    detection()
    replacing()
    streaming()
    quality()
