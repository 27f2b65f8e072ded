"""Reads the parts of OpenAI chat messages for dialects that have to translate them.

What a dialect cannot express raises UnsupportedParameter; nothing is dropped in silence.
"""

import re
from collections.abc import Sequence

import orjson

from routing.types import Json, UnsupportedParameter

_DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+)(?:;[\w.+-]+=[^;,]*)*;base64,(.*)", re.DOTALL)


def inexpressible(message: str, param: str = "messages") -> UnsupportedParameter:
    return UnsupportedParameter(param, message)


def parts_of(content: object) -> Sequence[Json]:
    """A message's content as parts; a plain string is one text part, null is none."""
    if content is None:
        return ()
    if isinstance(content, str):
        return ({"type": "text", "text": content},)
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return content
    raise inexpressible("A message's content is neither a string nor a list of parts.")


def text_of(content: object, *, role: str) -> str:
    """The text of a message that may hold nothing but text."""
    texts = []
    for part in parts_of(content):
        if part.get("type") not in ("text", "refusal"):
            raise inexpressible(f"A {role} message can only hold text here, not '{part.get('type')}'.")
        texts.append(str(part.get("text", part.get("refusal", ""))))
    return "".join(texts)


def data_uri(url: str) -> tuple[str, str] | None:
    """Media type and base64 data of a `data:` address, None for any other address."""
    match = _DATA_URI.fullmatch(url)
    if match:
        return match[1], match[2]
    if url.startswith("data:"):
        raise inexpressible("A data: address must name its media type and be base64.")
    return None


def image_url(part: Json, *, provider: str) -> str:
    """The address in an image part. `detail: low` buys a cheaper reading that others do not offer."""
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str) or not url:
        raise inexpressible("An image part has no url.")
    if isinstance(image, dict) and image.get("detail") == "low":
        raise inexpressible(f"{provider} cannot express the image detail 'low'.")
    return url


def tool_arguments(call: Json) -> Json:
    """The arguments of a function call as an object. An empty string counts as no arguments."""
    function = call.get("function")
    if not isinstance(function, dict):
        raise inexpressible("Only function calls can be expressed here.")
    try:
        arguments = orjson.loads(function.get("arguments") or "{}")
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        raise inexpressible("The arguments of a tool call must be a JSON object here.")
    return arguments


def refuse_name(message: Json, *, provider: str) -> None:
    """A participant's name would be lost. Tool messages may carry one: their call id says the same."""
    if message.get("name"):
        raise inexpressible(f"{provider} cannot express the 'name' of a message.")


def function_tools(body: Json, *, provider: str) -> list[Json]:
    """The `function` objects of `tools`."""
    functions = []
    for tool in body.get("tools") or ():
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or tool.get("type") != "function":
            raise inexpressible(f"{provider} only takes tools of type 'function'.", "tools")
        functions.append(function)
    return functions


def chosen_function(choice: Json, *, provider: str) -> str:
    """The name in a `tool_choice` that forces one function."""
    function = choice.get("function")
    if choice.get("type") != "function" or not isinstance(function, dict):
        raise inexpressible(f"{provider} cannot express this tool_choice.", "tool_choice")
    return str(function.get("name"))


def objects(value: object) -> list[Json]:
    """The objects in what should be a list of them; a provider's oddities are left out."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def stop_list(body: Json) -> list[str]:
    """`stop` as a list, empty when absent."""
    stop = body.get("stop")
    if stop is None:
        return []
    return [stop] if isinstance(stop, str) else list(stop)
