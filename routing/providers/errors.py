"""What the dialects share in reading failures: safe messages, waiting times and the table of statuses.

A provider's text reaches callers through here, so markup and anything that looks like a key stays out.
"""

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

import orjson

from routing.types import ErrorKind, Headers, Json, ProviderError

MAX_MESSAGE_CHARS = 500
MAX_RETRY_AFTER_S = 86_400.0

_KEY_LIKE = re.compile(
    r"(?:\b(?:sk|rk|pk|gsk|xai|th)[-_][\w*.\-]{4,}"  # OpenAI, Anthropic, Groq, xAI and our own
    r"|\bAIza[\w\-*.]{4,}"  # Google
    r"|\b[Bb]earer\s+\S+"
    r"|\b\w{32,}\b"  # Azure: 32 hex digits or 84 letters and digits
    r"|\S*\*{3,}\S*)",  # half-masked keys: enough to tell whose they are
    re.ASCII,
)

KIND_BY_CODE: Mapping[str, ErrorKind] = {
    "context_length_exceeded": ErrorKind.CONTEXT_LENGTH,
    "content_policy_violation": ErrorKind.CONTENT_POLICY,
    "content_filter": ErrorKind.CONTENT_POLICY,
    "ResponsibleAIPolicyViolation": ErrorKind.CONTENT_POLICY,
    "invalid_prompt": ErrorKind.CONTENT_POLICY,
    "moderation_blocked": ErrorKind.CONTENT_POLICY,
    "model_not_found": ErrorKind.MODEL_NOT_FOUND,
    "DeploymentNotFound": ErrorKind.MODEL_NOT_FOUND,
    "insufficient_quota": ErrorKind.CREDENTIAL,
    "billing_hard_limit_reached": ErrorKind.CREDENTIAL,
    "billing_not_active": ErrorKind.CREDENTIAL,
    "account_deactivated": ErrorKind.CREDENTIAL,
    "invalid_api_key": ErrorKind.CREDENTIAL,
    "authentication_error": ErrorKind.CREDENTIAL,
    "rate_limit_exceeded": ErrorKind.RATE_LIMITED,
    "rate_limit_error": ErrorKind.RATE_LIMITED,
    "overloaded_error": ErrorKind.OVERLOADED,
    "engine_overloaded": ErrorKind.OVERLOADED,
}
"""OpenAI's codes and types, with the few Azure and compatible servers add to them."""

KIND_BY_PLAIN_TYPE: Mapping[str, ErrorKind] = {
    "server_error": ErrorKind.SERVER_ERROR,
    "internal_error": ErrorKind.SERVER_ERROR,
    "invalid_request_error": ErrorKind.INVALID_REQUEST,
}
"""Types that say less than a status does: only heard where no status came with them."""

_TOO_LONG = re.compile(
    r"maximum context length|context (?:length|window|size)|too many tokens", re.IGNORECASE
)


def kind_by_status(status: int) -> ErrorKind:
    """What a bare HTTP status means."""
    if status in (401, 402, 403):
        return ErrorKind.CREDENTIAL
    if status == 404:
        return ErrorKind.MODEL_NOT_FOUND
    if status in (408, 504):
        return ErrorKind.TIMEOUT
    if status == 429:
        return ErrorKind.RATE_LIMITED
    if status in (503, 529):
        return ErrorKind.OVERLOADED
    if status == 409 or status >= 500:
        return ErrorKind.SERVER_ERROR
    if 400 <= status < 500:
        return ErrorKind.INVALID_REQUEST
    return ErrorKind.INVALID_RESPONSE


def openai_error(status: int, headers: Headers, body: bytes) -> ProviderError:
    """A non-2xx answer in OpenAI's dialect or one of its looser relatives. Never raises."""
    error = error_object(body)
    return openai_error_from(error, status, headers) if error is not None else opaque_error(status, headers)


def openai_error_from(error: Json, status: int, headers: Headers) -> ProviderError:
    """An `error` object already parsed. `status` 0 or 2xx: it came inside a good answer or a stream."""
    code, type_ = _text(error.get("code")), _text(error.get("type"))
    if status < 400:
        # OpenRouter, vLLM and Azure put the HTTP status they could no longer send into `code`.
        inner = int(code) if code is not None and code.isdecimal() and len(code) == 3 else 0
        status = inner if inner >= 400 else status
    innermost = error.get("innererror")
    inner_code = _text(innermost.get("code")) if isinstance(innermost, dict) else None
    message = _text(error.get("message")) or ""
    kind = next((KIND_BY_CODE[c] for c in (inner_code, code, type_) if c and c in KIND_BY_CODE), None)
    if kind is None and status < 400:
        kind = KIND_BY_PLAIN_TYPE.get(type_ or "")
    if kind is None:
        kind = kind_by_status(status)
        if kind is ErrorKind.INVALID_REQUEST and _TOO_LONG.search(message):
            kind = ErrorKind.CONTEXT_LENGTH
    return ProviderError(
        kind,
        safe_message(message) or default_message(status),
        status=status,
        code=code or type_,
        param=_text(error.get("param")),
        retry_after_s=retry_after(headers),
    )


def opaque_error(status: int, headers: Headers) -> ProviderError:
    """A failure whose body says nothing we may repeat (HTML, plain text, nothing)."""
    return ProviderError(
        kind_by_status(status), default_message(status), status=status, retry_after_s=retry_after(headers)
    )


def invalid_response(message: str, *, status: int = 200) -> ProviderError:
    """A good status with a body that is not the promised shape."""
    return ProviderError(ErrorKind.INVALID_RESPONSE, message, status=status)


def default_message(status: int) -> str:
    return (
        f"The provider answered with HTTP status {status}." if status else "The provider reported an error."
    )


def error_object(body: bytes) -> Json | None:
    """The error object in a body, in any of the shapes seen: nested, flat, a string, FastAPI's detail."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if isinstance(document, list) and document:
        document = document[0]  # Gemini wraps the error of a stream in a list
    if not isinstance(document, dict):
        return None
    error = document.get("error")
    if isinstance(error, dict):
        return error
    if isinstance(error, str):
        return {"message": error}
    if isinstance(document.get("message"), str):
        return document
    if isinstance(document.get("detail"), str):
        return {"message": document["detail"]}
    return None


def retry_after(headers: Headers, *, now: float | None = None) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `retry-after` (seconds or an HTTP date, RFC 9110 10.2.3).

    A date counts from the reply's own Date, so that neither clock matters, else from `now` (unix seconds);
    without either it says nothing. More than MAX_RETRY_AFTER_S is not believed.
    """
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            wait_s = float(headers.get(name, "")) / divisor
        except ValueError:
            continue
        if 0 <= wait_s <= MAX_RETRY_AFTER_S:
            return wait_s
    until = date_of(headers.get("retry-after", ""))
    since = date_of(headers.get("date", ""))
    if since is None:
        since = now
    if until is None or since is None:
        return None
    wait_s = max(0.0, until - since)
    return wait_s if wait_s <= MAX_RETRY_AFTER_S else None


def date_of(text: str) -> float | None:
    """An HTTP date (RFC 9110 5.6.7, obsolete forms included) in unix seconds."""
    if not 24 <= len(text) <= 40:
        return None
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp()


def safe_message(text: str) -> str:
    """The provider's words without markup and keys, at most MAX_MESSAGE_CHARS long."""
    if "<" in text and re.search(r"<(?:!doctype|html|head|body|div|p|h1|script)\b", text, re.IGNORECASE):
        return ""
    # Cut twice: first so that a huge body costs nothing, then because a redaction may be longer than a key.
    cut = _KEY_LIKE.sub("[redacted]", text[: MAX_MESSAGE_CHARS * 4])
    return " ".join(cut.split())[:MAX_MESSAGE_CHARS]


def _text(value: object) -> str | None:
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None
