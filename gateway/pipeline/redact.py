"""Step three: personal data leaves the call before anything else sees it, and comes back into the answer alone.

From here on `call.body`, and what the call says about its end user, hold tokens: limits, log, shadow, provider and
stored content never see what they stand for. Originals stay in `call.privacy`, which nothing records.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import orjson

from gateway.pipeline.call import Call, Caller, Given, Protection
from gateway.privacy.bindings import END_USER
from gateway.privacy.kinds import Action, label
from gateway.privacy.restore import Restorer
from gateway.privacy.snapshot import CallRules
from gateway.privacy.tokens import Vault
from gateway.privacy.vault import open_key
from gateway.privacy.walk import redact_body, redact_text
from gateway.state.process import Process
from routing.types import Operation
from tenants.errors import ApiError

INLINE_BYTES: Final = 8 * 1024
"""Larger requests are searched in a thread, so that other calls do not wait for them."""
MAX_FEATURE: Final = 100
MAX_END_USER: Final = 200
MAX_TAG: Final = 100
DATA: Final = b"data: "
DONE: Final = b"[DONE]"
ERROR: Final = b'{"error":'
TEXTS_OF: Final = {
    Operation.CHAT: "messages",
    Operation.COMPLETIONS: "prompt",
    Operation.EMBEDDINGS: "input",
    Operation.MODERATIONS: "input",
    Operation.RERANK: "documents",
}
OWN_NAMES: Final = ("user", "safety_identifier")
"""Fields of a body that name the caller's end user."""


async def redact(call: Call, caller: Caller, process: Process) -> None:
    """Put tokens in the place of what the rules want hidden. Raises ApiError guardrail_blocked.

    May be called again when a throttle gave the call another policy: rules are only added then.
    """
    known = call.privacy
    feature = known.given.feature if known else call.feature
    policies = frozenset((call.plan.policy.partition("@")[0],) if call.plan else ())
    if known is not None:
        policies |= known.policies
    rules = process.snapshot.privacy.rules_for(caller.tenant.id, feature, policies)
    if rules is None or (known is not None and rules is known.rules):
        return
    given = known.given if known else Given(call.body, call.feature, call.end_user, call.tags)
    protection = Protection(rules, given, policies)
    if rules.finds or rules.end_user is not Action.ALLOW:
        vault = Vault(await _key(caller.tenant.id, process))
        size = len(orjson.dumps(call.body))
        await _apart(size, lambda: _replace(call, protection, vault))
        # The hold must bound what is sent: tokens may be longer than what they stand for.
        call.input_bytes = max(1, call.input_bytes + len(orjson.dumps(call.body)) - size)
    call.privacy = protection


async def redacted_texts(texts: Mapping[str, str], caller: Caller, process: Process) -> dict[str, str]:
    """Texts that belong to no call, by the names of their parameters. Raises ApiError guardrail_blocked."""
    rules = process.snapshot.privacy.rules_of(caller.tenant.id)
    if rules is None or not rules.finds:
        return dict(texts)
    words = Words(rules, Vault(await _key(caller.tenant.id, process)))
    return {name: words.within(text, len(text) + 1, param=name) for name, text in texts.items()}


async def _key(tenant_id: UUID, process: Process) -> bytes:
    key = process.vault_keys.get(tenant_id)
    if key is None:
        key = process.vault_keys[tenant_id] = await process.in_database(open_key, tenant_id)
    return key


async def _apart(size: int, work: Callable[[], None]) -> None:
    if size <= INLINE_BYTES:
        work()
    else:
        await asyncio.to_thread(work)


def _replace(call: Call, protection: Protection, vault: Vault) -> None:
    """Fill the call and its protection in, or leave both as they are. Raises ApiError guardrail_blocked."""
    rules, given = protection.rules, protection.given
    made = redact_body(call.operation, given.body, rules.finder, rules.rules, vault)
    if made.blocked is not None:
        raise _blocked(made.blocked, TEXTS_OF[call.operation])
    body, words = made.body, Words(rules, vault, dict(made.tokens), Counter(made.counts))
    if rules.end_user is not Action.ALLOW:
        for name in OWN_NAMES:
            if isinstance(own := given.body.get(name), str) and own:
                body = {**body, name: words.name(own, param=name)}
    if given.end_user and given.end_user == given.body.get("user"):
        end_user = str(body["user"])
    elif rules.end_user is not Action.ALLOW:
        end_user = words.name(given.end_user, param="X-Tollhouse-User")
    else:
        end_user = words.within(given.end_user, MAX_END_USER, param="X-Tollhouse-User")
    feature = words.within(given.feature, MAX_FEATURE, param="X-Tollhouse-Feature")
    tags = {key: words.within(value, MAX_TAG, param="X-Tollhouse-Tags") for key, value in given.tags.items()}
    protection.tokens, protection.counts, protection.unscanned = words.tokens, words.counts, made.unscanned
    call.body, call.end_user, call.feature, call.tags = body, end_user, feature, tags


@dataclass(slots=True)
class Words:
    """Short texts beside the body, and the tokens and counts that they share with it."""

    rules: CallRules
    vault: Vault
    tokens: dict[str, str] = field(default_factory=dict, repr=False)
    counts: Counter[str] = field(default_factory=Counter)

    def within(self, text: str, most: int, *, param: str) -> str:
        """The text with what it holds replaced; all of it one token where it would not fit into `most` characters."""
        if not text:
            return text
        rules = self.rules
        made = redact_text(text, rules.finder, rules.rules, self.vault, self.tokens)
        if made.blocked is not None:
            raise _blocked(made.blocked, param)
        self.counts.update(made.counts)
        if len(made.body) > most:
            return self._token(next(iter(made.counts)), text)
        self.tokens.update(made.tokens)
        return str(made.body)

    def name(self, text: str, *, param: str) -> str:
        """An end user's name, which is personal data as a whole."""
        if not text:
            return text
        self.counts[END_USER] += 1
        match self.rules.end_user:
            case Action.BLOCK:
                raise _blocked(END_USER, param)
            case Action.REDACT:
                return f"[{label(END_USER)}]"
            case _:
                return self._token(END_USER, text)

    def _token(self, kind: str, text: str) -> str:
        attempt = 0
        while self.tokens.setdefault(token := self.vault.token(kind, text, attempt), text) != text:
            attempt += 1
        return token


def _blocked(kind: str, param: str) -> ApiError:
    return ApiError(
        "guardrail_blocked", f"Personal data of the kind {kind} must not be sent from here.", param=param
    )


# ------------------------------------------------------------------ on the way back


def restored_body(call: Call, body: bytes) -> bytes:
    """A whole answer as the client gets it."""
    tokens = call.privacy.tokens if call.privacy is not None else None
    return Restorer(tokens).whole(body) if tokens else body


def restored_error(call: Call, error: ApiError) -> ApiError:
    """A refusal in a provider's words, which may repeat tokens of the request."""
    tokens = call.privacy.tokens if call.privacy is not None else None
    if not tokens:
        return error
    message = Restorer(tokens).text(error.message)
    return ApiError(error.code, message, param=error.param, retry_after_s=error.retry_after_s)


def restored(call: Call, stream: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """A relayed stream as the client gets it; the same where there is nothing to restore."""
    tokens = call.privacy.tokens if call.privacy is not None else None
    return _restored(Restorer(tokens), stream) if tokens else stream


async def _restored(restorer: Restorer, stream: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Closes `stream` with itself. A piece may be held back for as long as it may be half a token."""
    texts = restorer.stream()
    async with aclosing(stream) as pieces:
        async for piece in pieces:
            if not piece.startswith(DATA):  # a sign of life
                yield piece
                continue
            payloads: list[bytes] = []
            for payload in piece.removeprefix(DATA).removesuffix(b"\n\n").split(b"\n\n" + DATA):
                if payload == DONE:
                    payloads += (*texts.flush(), payload)
                elif payload.startswith(ERROR):
                    payloads += (*texts.flush(), _restored_event(restorer, payload))
                else:
                    payloads += texts.feed((payload,))
            if payloads:
                yield DATA + (b"\n\n" + DATA).join(payloads) + b"\n\n"


def _restored_event(restorer: Restorer, payload: bytes) -> bytes:
    document = orjson.loads(payload)
    document["error"]["message"] = restorer.text(document["error"]["message"])
    return orjson.dumps(document)
