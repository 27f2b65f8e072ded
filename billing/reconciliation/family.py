"""One name for a model on both sides of a bill: dates, regions, vendors and versions taken off. Pure."""

import re

_VENDORS = "amazon|anthropic|azure|cohere|deepseek|google|meta|mistral|openai|xai"
_REGION = re.compile(r"^(?:us|eu|apac|global|us-gov)\.(?=[a-z])")
_VENDOR = re.compile(rf"^(?:{_VENDORS})\.")
_REVISION = re.compile(r"-v\d+(?::\d+)?$")
_DATE = re.compile(r"[-@](?:\d{4}-\d{2}-\d{2}|\d{8})$")
_LATEST = re.compile(r"[-@:]latest$")


def family_of(name: str) -> str:
    """`gpt-4o-2024-08-06, cached input`, `openai/gpt-4o` and `ft:gpt-4o:org::id` are all `gpt-4o`.

    What names no model (`web search`) stays as it is, so that it meets nothing by accident; nothing is "".
    """
    text = name.strip().lower().partition(",")[0].strip()
    if text.startswith("ft:"):
        text = text.split(":")[1]
    text = text.rpartition("/")[2]
    for pattern in (_REGION, _VENDOR, _REVISION, _LATEST, _DATE):
        text = pattern.sub("", text)
    return text
