"""Takes secrets out of every log record before any handler sees it, and out of uncaught tracebacks.

Works in the record factory, so it holds for every handler of every process: ours, uvicorn's, Celery's. No
Django in here: the settings install it. Must never raise, and never let a record through unread.
"""

import logging
import re
import sys
import threading
import traceback
from collections.abc import Collection
from types import TracebackType
from typing import Any, Final

MASK: Final = "***"
MIN_LITERAL_CHARACTERS: Final = 8
_ACCESS_LOGGER: Final = "uvicorn.access"  # its formatter takes the arguments apart

# The kept part, if any, is group 1: it says which secret this was.
_SHAPES: Final = tuple(
    re.compile(pattern, re.IGNORECASE | re.ASCII)
    for pattern in (
        r"(-----BEGIN [A-Z ]*PRIVATE KEY-----)(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        r"\b(th_[0-9A-Za-z]{12}_)[0-9A-Za-z]+",
        r"\b((?:sk|pk|rk)[-_])[0-9A-Za-z_-]{12,}",  # OpenAI, Anthropic, OpenRouter, Stripe
        r"\b(whsec_|gsk_|hf_|r8_|xai-|pplx-|nvapi-|glpat-|gh[pousr]_|github_pat_)[0-9A-Za-z_/+=-]{12,}",
        r"\b(xox[abeprs]-)[0-9A-Za-z-]{8,}",
        r"\b(xapp-)[0-9A-Za-z-]{8,}",
        r"\b(AIza)[0-9A-Za-z_-]{20,}",
        r"\b(ya29\.)[0-9A-Za-z_-]{16,}",
        r"\b(A[KS]IA)[0-9A-Z]{16}\b",
        r"\beyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}(?:\.[0-9A-Za-z_-]*)?",
        r"(https?://hooks\.slack\.com/)[^\s\"'<>]+",
        r"\b([a-z][a-z0-9+.-]{0,30}://)[^\s/@\"'<>]+(?=@)",  # user and password of a URL or DSN
        # password=…, "api_key": "…", 'X-Api-Key': b'…', ?key=…
        (
            r"((?:\b|_|x-)(?:api[-_ ]?key|password|passwd|pwd|secret(?:[-_]key)?|client[-_]secret|token"
            r"|access[-_]token|refresh[-_]token|credentials?|otp|totp|authorization|cookie|sessionid|csrftoken"
            r"|goog-api-key)\\?[\"']?\s*(?:[:=]|=>|,\s*b?(?=[\"']))\s*(?:b?\\?[\"'])?)"
            r"(?!\*\*\*)(?:(?:bearer|basic)\s+)?[^\s\"',;&)}\]\\]{4,}"
        ),
        r"\b((?:bearer|basic|apikey)\s+)[0-9a-z._~+/=-]{6,}",
        r"([?&](?:key|sig|signature|code|state)=)[^\s&\"'<>]+",
        r"\b([a-z0-9-]{1,20}:)[0-9A-Za-z+/]{43}=",  # a master key or pepper, id:base64(32 bytes)
    )
)


class Scrubber:
    """Masks what looks like a secret, and the given values wherever they stand."""

    def __init__(self, literals: Collection[str] = ()) -> None:
        long_first = sorted({each for each in literals if len(each) >= MIN_LITERAL_CHARACTERS}, key=len)[::-1]
        self._literals = re.compile("|".join(map(re.escape, long_first))) if long_first else None

    def text(self, text: str) -> str:
        if self._literals is not None:
            text = self._literals.sub(MASK, text)
        for shape in _SHAPES:
            text = shape.sub(_masked, text)
        return text

    def record(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        """A log record with nothing secret in its message, arguments or traceback. logging's record factory."""
        record = logging.LogRecord(*args, **kwargs)
        if record.name == _ACCESS_LOGGER and isinstance(record.args, tuple):
            record.args = tuple(self.text(each) if isinstance(each, str) else each for each in record.args)
        else:
            try:
                message = record.getMessage()
            except (TypeError, ValueError, KeyError):  # a broken call would be printed with its arguments
                message = f"{record.msg} {record.args!r}"
            record.msg, record.args = self.text(message), ()
        if record.exc_info and record.exc_info[0] is not None:
            # Formatters take the text that is there, and make none of their own.
            record.exc_text = self.traceback(*record.exc_info)
        if record.stack_info:
            record.stack_info = self.text(record.stack_info)
        return record

    def traceback(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> str:
        return self.text("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))


def _masked(match: re.Match[str]) -> str:
    kept = match.group(1) if match.re.groups else ""
    return f"{kept}{MASK}"


def install(literals: Collection[str]) -> None:
    """Scrub every log record and every uncaught exception of this process, from now on."""
    scrubber = Scrubber(literals)
    logging.setLogRecordFactory(scrubber.record)

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.stderr.write(scrubber.traceback(kind, error, trace) + "\n")

    def uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:
            uncaught(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback)

    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = uncaught
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = uncaught_in_thread
