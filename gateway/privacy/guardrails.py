"""What may not be asked, and what may not be answered: rules that judge the texts of a call. Pure.

Every rule takes time in proportion to the text (RE2; bounded schemas). It says what is wrong in the rule's own
words: never a piece of the text. What a webhook says is asked for by `gateway.pipeline.guard`.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import orjson
import re2

from gateway.pipeline import scoring
from tenants import egress
from tenants.errors import ApiError

MAX_GUARDRAILS: Final = 20
MAX_TOPICS: Final = 500
MAX_TOPIC: Final = 100
MAX_PATTERN: Final = 2000
MAX_CHARACTERS: Final = 10_000_000
TIMEOUT_MS: Final = range(50, 10_001)
DEFAULT_TIMEOUT_MS: Final = 1000
MAX_REGEX_MEMORY: Final = 8 * 1024 * 1024

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


class Kind(StrEnum):
    MAX_LENGTH = "max_length"
    BANNED_TOPICS = "banned_topics"
    REGEX = "regex"
    JSON_SCHEMA = "json_schema"
    WEBHOOK = "webhook"


class Stage(StrEnum):
    BEFORE = "before"
    AFTER = "after"


type Judge = Callable[[Sequence[str]], str]
"""Texts (for `after`: one per choice) to what is wrong with them, "" for nothing."""


@dataclass(frozen=True, slots=True)
class Guardrail:
    """A rule, ready to judge. `judge` is None for a webhook, which is asked at `url`."""

    name: str
    kind: Kind
    stage: Stage
    is_blocking: bool  # else it only flags
    timeout_ms: int
    fails_open: bool  # what no verdict in time means: for `block` rules pass, else block
    judge: Judge | None = field(repr=False)
    url: str = ""
    max_characters: int | None = None  # of a max_length rule, which can judge a stream as it comes


# ------------------------------------------------------------------ reading


def read(raw: object) -> list[dict[str, Any]]:
    """Guardrails as they are stored: checked, with nothing left out. Raises ApiError invalid_request about
    `guardrails.<number>.<field>`; url_not_allowed for a webhook's address that has not even the form of one."""
    if not isinstance(raw, list) or len(raw) > MAX_GUARDRAILS:
        raise _bad("", f"must be a list of up to {MAX_GUARDRAILS} guardrails")
    made = [_read_one(each, number) for number, each in enumerate(raw)]
    names = [each["name"] for each in made]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise _bad(f".{number}.name", "stands there twice")
    return made


def _read_one(raw: object, number: int) -> dict[str, Any]:
    at = f".{number}"
    if not isinstance(raw, dict):
        raise _bad(at, "must be an object")
    kind = _choice(raw, "kind", tuple(Kind), at)
    allowed = {*COMMON, *(name for name, _ in SETTINGS[Kind(kind)])}
    if unknown := raw.keys() - allowed:
        raise _bad(f"{at}.{min(map(str, unknown))}", "is unknown for this kind")
    name = raw.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _bad(f"{at}.name", "must be up to 40 lower-case letters, digits and dashes")
    timeout_ms = raw.get("timeout_ms", DEFAULT_TIMEOUT_MS)
    if type(timeout_ms) is not int or timeout_ms not in TIMEOUT_MS:
        raise _bad(f"{at}.timeout_ms", f"must be {TIMEOUT_MS.start} to {TIMEOUT_MS.stop - 1} milliseconds")
    stage = _choice(raw, "stage", tuple(Stage), at, default="after" if kind == Kind.JSON_SCHEMA else "before")
    if kind == Kind.JSON_SCHEMA and stage == Stage.BEFORE:
        raise _bad(f"{at}.stage", "must be after: a schema judges answers")
    made = {
        "name": name,
        "kind": kind,
        "stage": stage,
        "on_fail": _choice(raw, "on_fail", ("block", "flag"), at, default="block"),
        "on_error": _choice(raw, "on_error", ("fail_closed", "fail_open"), at, default="fail_closed"),
        "timeout_ms": timeout_ms,
    }
    for setting, check in SETTINGS[Kind(kind)]:
        made[setting] = check(raw.get(setting), f"{at}.{setting}")
    return made


def _choice(raw: Mapping[str, Any], name: str, known: Sequence[str], at: str, default: str = "") -> str:
    value = raw.get(name, default)
    if value not in known:
        raise _bad(f"{at}.{name}", f"must be one of {', '.join(known)}")
    return str(value)


def _bad(where: str, what: str) -> ApiError:
    return ApiError("invalid_request", f"guardrails{where} {what}.", param=f"guardrails{where}")


def _characters(value: object, at: str) -> int:
    if type(value) is not int or not 1 <= value <= MAX_CHARACTERS:
        raise _bad(at, f"must be a number of characters up to {MAX_CHARACTERS}")
    return value


def _topics(value: object, at: str) -> list[str]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_TOPICS:
        raise _bad(at, f"must be a list of 1 to {MAX_TOPICS} words or phrases")
    for topic in value:
        if not isinstance(topic, str) or len(topic) > MAX_TOPIC or not folded(topic).strip():
            raise _bad(at, f"must hold words or phrases of up to {MAX_TOPIC} characters")
    return list(dict.fromkeys(value))


def _pattern(value: object, at: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_PATTERN:
        raise _bad(at, f"must be a regular expression of up to {MAX_PATTERN} characters")
    try:
        _compile(value)
    except re2.error as error:
        raise _bad(at, f"is not one of RE2's regular expressions ({_said(error)})") from None
    return value


def _said(error: Exception) -> str:
    text = error.args[0] if error.args else ""
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)


def _mode(value: object, at: str) -> str:
    if value is None:
        return "forbid"
    if value not in ("forbid", "require"):
        raise _bad(at, "must be forbid or require")
    return str(value)


def _schema(value: object, at: str) -> dict[str, Any]:
    if not isinstance(value, dict) or len(orjson.dumps(value)) > scoring.MAX_SCHEMA_BYTES:
        raise _bad(at, f"must be a JSON schema of up to {scoring.MAX_SCHEMA_BYTES} bytes")
    if scoring.is_valid_json("null", _form(value)) is None:
        raise _bad(at, "cannot be applied here")
    return value


def _url(value: object, at: str) -> str:
    if not isinstance(value, str):
        raise _bad(at, "must be the URL to ask")
    egress.check_form(value, param=f"guardrails{at}")
    return value


COMMON: Final = ("name", "kind", "stage", "on_fail", "on_error", "timeout_ms")
SETTINGS: Final[Mapping[Kind, tuple[tuple[str, Callable[[object, str], Any]], ...]]] = {
    Kind.MAX_LENGTH: (("max_characters", _characters),),
    Kind.BANNED_TOPICS: (("topics", _topics),),
    Kind.REGEX: (("pattern", _pattern), ("mode", _mode)),
    Kind.JSON_SCHEMA: (("schema", _schema),),
    Kind.WEBHOOK: (("url", _url),),
}
"""What each kind needs beside what all have. Another kind is a line here and one in JUDGES."""


# ------------------------------------------------------------------ judging


def prepared(stored: Mapping[str, Any]) -> Guardrail:
    """A guardrail as `read` made it, ready to judge. Raises ValueError for one that cannot be used."""
    kind = Kind(stored["kind"])
    make = JUDGES.get(kind)
    try:
        judge = make(stored) if make is not None else None
    except re2.error as error:
        raise ValueError(_said(error)) from error
    return Guardrail(
        name=stored["name"],
        kind=kind,
        stage=Stage(stored["stage"]),
        is_blocking=stored["on_fail"] == "block",
        timeout_ms=stored["timeout_ms"],
        fails_open=stored["on_error"] == "fail_open",
        judge=judge,
        url=stored.get("url", ""),
        max_characters=stored.get("max_characters"),
    )


def _max_length(stored: Mapping[str, Any]) -> Judge:
    most = stored["max_characters"]

    def judge(texts: Sequence[str]) -> str:
        return f"is longer than {most} characters" if sum(map(len, texts)) > most else ""

    return judge


def folded(text: str) -> str:
    """Without case and diacritics: "Élan" and "elan" are one."""
    return "".join(
        each for each in unicodedata.normalize("NFKD", text.casefold()) if unicodedata.category(each) != "Mn"
    )


def _banned_topics(stored: Mapping[str, Any]) -> Judge:
    phrases = (r"\s+".join(re2.escape(word) for word in folded(topic).split()) for topic in stored["topics"])
    # RE2's own \b knows ASCII alone.
    found = _compile(rf"(?:^|[^\pL\pN])(?:{'|'.join(phrases)})(?:$|[^\pL\pN])")

    def judge(texts: Sequence[str]) -> str:
        return "is about a banned topic" if any(found.search(folded(text)) for text in texts) else ""

    return judge


def _regex(stored: Mapping[str, Any]) -> Judge:
    found, must = _compile(stored["pattern"]), stored["mode"] == "require"

    def judge(texts: Sequence[str]) -> str:
        if any(found.search(text) for text in texts) is must:
            return ""
        return "lacks a required pattern" if must else "holds a forbidden pattern"

    return judge


def _form(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"schema": schema}}


def _json_schema(stored: Mapping[str, Any]) -> Judge:
    form = _form(stored["schema"])

    def judge(texts: Sequence[str]) -> str:
        verdicts = {scoring.is_valid_json(text, form) for text in texts}
        return "" if verdicts == {True} else "is not valid by its JSON schema"

    return judge


JUDGES: Final[Mapping[Kind, Callable[[Mapping[str, Any]], Judge]]] = {
    Kind.MAX_LENGTH: _max_length,
    Kind.BANNED_TOPICS: _banned_topics,
    Kind.REGEX: _regex,
    Kind.JSON_SCHEMA: _json_schema,
}


def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.max_mem, options.log_errors = MAX_REGEX_MEMORY, False
    return re2.compile(pattern, options)
