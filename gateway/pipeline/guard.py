"""Guardrails: what may not be asked (after admission, before any byte goes upstream) and may not be answered.

Each has its own time; what no verdict in time means is its own choice (fail open or closed). They judge what the
provider sees and says, tokens in place of personal data, and never tell a piece of it.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import orjson

from gateway.pipeline.attempt import StreamAnswer, WholeAnswer, is_whole
from gateway.pipeline.call import Call, Protection
from gateway.pipeline.recover import KEEP_ALIVE_S, MAX_HELD_BYTES
from gateway.privacy import vault
from gateway.privacy.snapshot import BoundGuardrail
from gateway.privacy.walk import texts_of
from gateway.state.clients import ClientError
from gateway.state.process import Process
from gateway.state.redis import RedisUnavailable
from routing.types import TEXTLESS, ErrorKind, Json, ProviderError, WireRequest
from tenants import webhooks
from tenants.errors import ApiError

logger = logging.getLogger(__name__)

INLINE_CHARACTERS: Final = 64 * 1024
"""Longer texts are judged in a thread, so that other calls do not wait for them."""
_REASON: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Blocked(ApiError):
    """A guardrail holds the request, or the answer, back."""


class Undecided(Exception):
    """A guardrail came to no verdict."""


async def before(call: Call, protection: Protection, process: Process) -> None:
    """Judge the request. Raises Blocked. Now that the call is admitted, what its tokens stand for is kept, too."""
    if protection.tokens and protection.rules.vault_days and call.caller is not None:
        tenant = call.caller.tenant
        if not tenant.zero_retention:
            process.in_background(asyncio.ensure_future(_keep(call, protection, tenant.id, process)))
    if protection.rules.before:
        texts = texts_of(call.operation, call.body)
        await _judge_all(call, protection, protection.rules.before, texts, process)


async def _keep(call: Call, protection: Protection, tenant_id: UUID, process: Process) -> None:
    """Keep the tokens' originals. Without Redis nothing is kept; the answer is restored all the same."""
    try:
        await vault.keep(
            tenant_id=tenant_id,
            key=process.vault_keys[tenant_id],
            tokens=protection.tokens,
            end_user=call.end_user,
            days=protection.rules.vault_days,
            pipe=process.pipe,
        )
    except RedisUnavailable as error:
        logger.warning("the vault has not kept what the tokens of %s stand for: %s", call.id_text, error)


async def after(call: Call, protection: Protection, answer: WholeAnswer, process: Process) -> None:
    """Judge a whole answer. Raises Blocked: the provider's work is done and stays on the bill."""
    if not protection.rules.after or call.operation in TEXTLESS:
        return
    said = Said()
    said.hear(orjson.loads(answer.reply.body))
    await _judge_all(call, protection, protection.rules.after, said.texts(), process)


async def watched(
    call: Call,
    protection: Protection,
    answer: StreamAnswer,
    pieces: AsyncGenerator[list[bytes]],
    process: Process,
) -> AsyncGenerator[list[bytes]]:
    """A stream's chunks as the guardrails let them pass. Raises Blocked; else what `pieces` raises.

    A blocking rule that can only judge the whole holds all of it back until its end (the client gets signs of
    life); a blocking max_length cuts the stream where it becomes too long; rules that flag judge at the end.
    """
    rules = protection.rules.after
    counting = [each for each in rules if each.rule.is_blocking and each.rule.max_characters is not None]
    judging = [each for each in rules if each not in counting]
    is_holding = any(each.rule.is_blocking for each in judging)
    said, held_bytes, shown_s = Said(), 0, time.monotonic()
    held: list[bytes] = []
    async with aclosing(pieces) as coming:
        async for chunks in coming:
            for chunk in chunks:
                said.hear(orjson.loads(chunk))
            for each in counting:
                if said.characters > (each.rule.max_characters or 0):
                    _fail(call, protection, each, f"is longer than {each.rule.max_characters} characters")
            if not is_holding:
                yield chunks
                continue
            held += chunks
            held_bytes += sum(map(len, chunks))
            if held_bytes > MAX_HELD_BYTES:
                raise ProviderError(
                    ErrorKind.INVALID_RESPONSE, "The provider's answer is too long to hold back."
                )
            answer.is_held = True
            if not chunks or time.monotonic() - shown_s > KEEP_ALIVE_S:
                shown_s = time.monotonic()
                yield []
    if not is_whole(answer.state):
        return  # a broken answer is no answer: the relay says so
    await _judge_all(call, protection, judging, said.texts(), process)
    answer.is_held = False
    if held:
        yield held


@dataclass(slots=True)
class Said:
    """What an answer says, choice by choice: contents, refusals, tool calls."""

    characters: int = 0
    _parts: dict[int, list[str]] = field(default_factory=dict)

    def hear(self, document: Json) -> None:
        """A whole answer, or a chunk of one."""
        for choice in document.get("choices") or ():
            message = choice.get("message") or choice.get("delta") or {}
            self._add(choice, choice.get("text"), message.get("content"), message.get("refusal"))
            for call in message.get("tool_calls") or ():
                function = call.get("function") or {}
                self._add(choice, function.get("name"), function.get("arguments"))

    def _add(self, choice: Json, *said: object) -> None:
        for text in said:
            if isinstance(text, str) and text:
                self._parts.setdefault(choice.get("index", 0), []).append(text)
                self.characters += len(text)

    def texts(self) -> list[str]:
        return ["".join(parts) for _, parts in sorted(self._parts.items())] or [""]


# ------------------------------------------------------------------ verdicts


async def _judge_all(
    call: Call,
    protection: Protection,
    rules: Sequence[BoundGuardrail],
    texts: Sequence[str],
    process: Process,
) -> None:
    for each in rules:
        rule = each.rule
        left_s = call.started_s + call.timeout_s - time.monotonic()
        try:
            async with asyncio.timeout(min(rule.timeout_ms / 1000, left_s)):
                wrong = await _verdict(call, each, texts, process)
        except (TimeoutError, Undecided):
            if rule.fails_open:
                protection.flag(rule.name, rule.stage, "came to no verdict")
                continue
            wrong = "could not be judged"
        if wrong:
            _fail(call, protection, each, wrong)


def _fail(call: Call, protection: Protection, each: BoundGuardrail, wrong: str) -> None:
    rule = each.rule
    protection.flag(rule.name, rule.stage, wrong)
    if not rule.is_blocking:
        return
    what = "answer" if rule.stage == "after" else "request"
    tail = " The answer was made, and is charged." if rule.stage == "after" else ""
    raise Blocked(
        "guardrail_blocked",
        f"The guardrail {rule.name} holds the {what} back: it {wrong}.{tail}",
        param=rule.name,
    )


async def _verdict(call: Call, each: BoundGuardrail, texts: Sequence[str], process: Process) -> str:
    """What is wrong, "" for nothing. Raises Undecided."""
    judge = each.rule.judge
    if judge is None:
        return await _asked(call, each, texts, process)
    if sum(map(len, texts)) <= INLINE_CHARACTERS:
        return judge(texts)
    return await asyncio.to_thread(judge, texts)


async def _asked(call: Call, each: BoundGuardrail, texts: Sequence[str], process: Process) -> str:
    """A webhook's verdict (docs/privacy.md). Raises Undecided for any answer but one."""
    rule = each.rule
    body = orjson.dumps(
        {
            "type": "guardrail.check",
            "guardrail": rule.name,
            "stage": rule.stage,
            "request_id": call.id_text,
            "tenant": call.caller.tenant.slug if call.caller else "",
            "operation": call.operation,
            "model": call.request_model,
            "feature": call.feature,
            "texts": list(texts),
        }
    )
    now = datetime.now(UTC)
    secrets = webhooks.in_force(each.secrets, now)
    if not secrets:
        raise Undecided("nothing to sign with")
    headers = webhooks.sign(
        message_id=f"{call.id_text}-{rule.stage}-{rule.name}",
        at=now,
        body=body,
        secrets=secrets,
    )
    request = WireRequest(rule.url, (("content-type", "application/json"), *headers), body)
    client = process.http if each.is_operators else process.guarded
    limit_s = rule.timeout_ms / 1000
    try:
        answer = await client.send(request, first_byte_timeout_s=limit_s, total_timeout_s=limit_s)
    except ClientError as error:
        raise Undecided(type(error).__name__) from error
    if answer.status != 200:
        raise Undecided(str(answer.status))
    try:
        said: Any = orjson.loads(answer.body)
    except orjson.JSONDecodeError as error:
        raise Undecided("no JSON") from error
    match said:
        case {"allow": True}:
            return ""
        case {"allow": False, "reason": str(reason)} if _REASON.fullmatch(reason):
            return f"is refused ({reason})"
        case {"allow": False}:
            return "is refused"
    raise Undecided("no verdict")
