"""What callers think of answers: `POST /v1/feedback`. A stranger's request id does not exist.

The last verdict of a key under a label counts. Runs beside the hot path: it reads the request log.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.db import transaction

from gateway.experiments.models import Feedback
from gateway.logs.search import find
from tenants.errors import ApiError
from tenants.ids import instant_of

MAX_COMMENT: Final = 2000
MAX_LABEL: Final = 64
SCALES: Final = {"unit": (-1.0, 1.0), "stars": (1.0, 5.0)}
LATE_S: Final = 900.0
"""A call lasts so long at most; later its record must be there."""
FIELDS: Final = ("request_id", "score", "scale", "label", "comment")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A checked body. `score` is in [-1, 1]."""

    request_id: UUID
    score: float
    label: str
    comment: str


def read(body: Any) -> Verdict:
    """The body of a feedback call. Raises ApiError invalid_request with the parameter at fault."""
    if not isinstance(body, dict):
        raise ApiError("invalid_request", "The body must be a JSON object.")
    if unknown := body.keys() - set(FIELDS):
        raise _bad(min(unknown), "is unknown")
    try:
        request_id = UUID(body.get("request_id"))
    except (ValueError, TypeError, AttributeError) as error:
        raise _bad("request_id", "must be the id of a request (x-request-id)") from error
    scale = body.get("scale", "unit")
    if scale not in SCALES:
        raise _bad("scale", f"must be one of {', '.join(SCALES)}")
    low, high = SCALES[scale]
    score = body.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not low <= score <= high:
        hint = ' (for 1 to 5 say "scale": "stars")' if scale == "unit" else ""
        raise _bad("score", f"must be a number between {low:g} and {high:g}{hint}")
    return Verdict(
        request_id=request_id,
        score=(score - low) / (high - low) * 2 - 1,
        label=_text(body, "label", MAX_LABEL),
        comment=_text(body, "comment", MAX_COMMENT),
    )


def give(*, verdict: Verdict, tenant_id: UUID, api_key_id: UUID) -> tuple[Feedback, bool]:
    """Store it; True when it is new, False when it takes the place of an earlier one. Raises ApiError not_found."""
    row = find(verdict.request_id, tenant_ids=frozenset((tenant_id,)))
    if row is None:
        raise ApiError("not_found", "No such request.", param="request_id")
    with transaction.atomic():
        return Feedback.objects.update_or_create(
            request_id=verdict.request_id,
            api_key_id=api_key_id,
            label=verdict.label,
            defaults={
                "tenant_id": tenant_id,
                "occurred_at": row.occurred_at,
                "score": verdict.score,
                "comment": verdict.comment,
                "experiment": row.experiment,
                "arm": row.arm,
            },
        )


def may_come(request_id: UUID, *, now: float) -> bool:
    """Whether a call of this id may be on its way to the log still. `now` is in unix seconds."""
    return request_id.version == 7 and 0 <= now - instant_of(request_id).timestamp() < LATE_S


def shown(feedback: Feedback) -> dict[str, Any]:
    return {
        "id": str(feedback.pk),
        "object": "feedback",
        "created": _unix(feedback.created_at),
        "request_id": str(feedback.request_id),
        "score": feedback.score,
        "label": feedback.label,
        "comment": feedback.comment,
    }


def _unix(moment: datetime) -> int:
    return int(moment.timestamp())


def _text(body: dict[str, Any], name: str, most: int) -> str:
    value = body.get(name) or ""
    if not isinstance(value, str) or len(value) > most or "\x00" in value:
        raise _bad(name, f"must be a text of up to {most} characters")
    return value


def _bad(param: str, what: str) -> ApiError:
    return ApiError("invalid_request", f"{param} {what}.", param=param)
