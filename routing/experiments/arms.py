"""What an experiment may be: its unit and its arms, checked when they are written. Knows the catalogue by slug.

What an arm sets is put into other people's requests: only what cannot show, spend or keep more than was asked.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from routing.policies.split import PARAMETERS, TAG_PREFIX
from routing.policies.wordings import check_targets
from tenants.errors import ApiError

ARM_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_TAG_UNIT: Final = re.compile(re.escape(TAG_PREFIX) + r"[A-Za-z0-9._-]{1,40}")
ARM_FIELDS: Final = ("name", "weight", "targets", "parameters", "system_prompt")
RESERVED: Final = ("new", "rollouts")
MAX_ARMS: Final = 10
MAX_WEIGHT: Final = 1_000_000
MAX_PROMPT: Final = 20_000
EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def check_slug(slug: str) -> None:
    """Raise ApiError invalid_request for a name that is a page of the console's own."""
    if slug in RESERVED:
        raise bad("slug", f"must not be one of {', '.join(RESERVED)}")


def check_unit(unit: object, *, by_call: bool = False) -> str:
    """The unit, if it is one. Raises ApiError invalid_request."""
    if unit in ("tenant", "user") or (by_call and unit == "call"):
        return str(unit)
    if isinstance(unit, str) and _TAG_UNIT.fullmatch(unit):
        return unit
    known = "tenant, user or tag:<name>" + (", or call" if by_call else "")
    raise bad("unit", f"must be {known}")


def checked_arms(arms: object) -> list[dict[str, Any]]:
    """The arms in full, the control first. Raises ApiError invalid_request with the path of the fault."""
    if not isinstance(arms, Sequence) or isinstance(arms, str) or not 2 <= len(arms) <= MAX_ARMS:
        raise bad("arms", f"must be 2 to {MAX_ARMS}, the control first")
    made = [_checked_arm(f"arms.{number}", arm) for number, arm in enumerate(arms)]
    if len({arm["name"] for arm in made}) < len(made):
        raise bad("arms", "must have names of their own")
    if sum(arm["weight"] > 0 for arm in made) < 2:
        raise bad("arms", "must have a weight above 0, two of them at least")
    return made


def _checked_arm(param: str, arm: object) -> dict[str, Any]:
    if not isinstance(arm, Mapping):
        raise bad(param, "must be an object")
    if unknown := arm.keys() - set(ARM_FIELDS):
        raise bad(f"{param}.{min(unknown)}", "is unknown")
    name, weight = arm.get("name"), arm.get("weight", 1)
    if not isinstance(name, str) or ARM_NAME.fullmatch(name) is None:
        raise bad(f"{param}.name", "must be up to 40 of a-z, 0-9, - and _")
    if type(weight) is not int or not 0 <= weight <= MAX_WEIGHT:
        raise bad(f"{param}.weight", f"must be a whole number between 0 and {MAX_WEIGHT}")
    targets = arm.get("targets") or []
    if not isinstance(targets, list):
        raise bad(f"{param}.targets", "must be a list")
    check_targets(f"{param}.targets", targets)
    prompt = arm.get("system_prompt") or ""
    if not isinstance(prompt, str) or len(prompt) > MAX_PROMPT:
        raise bad(f"{param}.system_prompt", f"must be a text of at most {MAX_PROMPT} characters")
    return {
        "name": name,
        "weight": weight,
        "targets": targets,
        "parameters": checked_parameters(f"{param}.parameters", arm.get("parameters") or {}),
        "system_prompt": prompt,
    }


# ------------------------------------------------------------------ parameters


def _number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and low <= value <= high


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _stop(value: Any) -> bool:
    texts = [value] if isinstance(value, str) else value
    return (
        isinstance(texts, list)
        and 1 <= len(texts) <= 4
        and all(isinstance(text, str) and 0 < len(text) <= 200 for text in texts)
    )


def _form(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    if value.get("type") in ("text", "json_object"):
        return value.keys() == {"type"}
    described = value.get("json_schema")
    return (
        value.get("type") == "json_schema"
        and value.keys() == {"type", "json_schema"}
        and isinstance(described, dict)
        and isinstance(described.get("name"), str)
        and isinstance(described.get("schema"), dict)
    )


_CHECKS: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "temperature": (_number(0, 2), "a number between 0 and 2"),
    "top_p": (_number(0, 1), "a number between 0 and 1"),
    "top_k": (_whole(1, 1000), "a whole number between 1 and 1000"),
    "presence_penalty": (_number(-2, 2), "a number between -2 and 2"),
    "frequency_penalty": (_number(-2, 2), "a number between -2 and 2"),
    "seed": (_whole(-(2**63), 2**63 - 1), "a whole number"),
    "stop": (_stop, "a text or up to four"),
    "max_completion_tokens": (_whole(1, 1_000_000), "a whole number above 0"),
    "reasoning_effort": (lambda value: value in EFFORTS, f"one of {', '.join(EFFORTS)}"),
    "verbosity": (lambda value: value in ("low", "medium", "high"), "low, medium or high"),
    "parallel_tool_calls": (lambda value: type(value) is bool, "true or false"),
    "response_format": (_form, "OpenAI's response_format"),
}


def checked_parameters(param: str, parameters: object) -> dict[str, Any]:
    """Body fields that an arm may set. Raises ApiError invalid_request."""
    if not isinstance(parameters, Mapping):
        raise bad(param, "must be an object")
    for name, value in parameters.items():
        if name not in PARAMETERS:
            raise bad(f"{param}.{name}", f"cannot be set: only {', '.join(sorted(PARAMETERS))} can")
        check, words = _CHECKS[name]
        if not check(value):
            raise bad(f"{param}.{name}", f"must be {words}")
    return dict(parameters)


def bad(param: str, what: str) -> ApiError:
    return ApiError("invalid_request", f"{param} {what}.", param=param)
