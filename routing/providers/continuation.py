"""Asks another model to go on from the text that a broken stream has shown. Pure.

Two ways: prefill (the text stands as the assistant's unfinished turn, which the model completes) and
instruction (the text, then a request to go on). Must never build a request that would repeat the text.
"""

from dataclasses import dataclass, field
from typing import Literal

from routing.types import Json, Operation, ProviderKind, Target

type Way = Literal["prefill", "instruction"]

PREFILLING = frozenset((ProviderKind.ANTHROPIC, ProviderKind.GEMINI))
"""Dialects that complete an assistant turn at the end. OpenAI's answers it with a new one, unless a server says
otherwise (option `continuation` = prefill). https://docs.anthropic.com/en/docs/build-with-claude/prefill"""

SPACELESS = frozenset((ProviderKind.ANTHROPIC,))
"""Dialects that refuse a last assistant turn which ends in white space."""

GO_ON = (
    "Your last message was cut off in transmission. Go on exactly where it stops, even in the middle of a word, "
    "with nothing before or after: no repetition, no comment, no greeting."
)


@dataclass(slots=True)
class Continuation:
    """A text to go on from. `tokens` is its size as far as known; `refused` are endpoints without prefill."""

    operation: Operation
    text: str
    tokens: int
    refused: set[str] = field(default_factory=set)

    def way(self, target: Target) -> Way:
        asked = target.options.get("continuation")
        prefills = asked == "prefill" or (asked is None and target.kind in PREFILLING)
        return "prefill" if prefills and target.endpoint_id not in self.refused else "instruction"

    def refuse(self, target: Target) -> bool:
        """The target has refused the request. True if there is another way to ask it."""
        if self.operation is not Operation.CHAT or self.way(target) != "prefill":
            return False
        self.refused.add(target.endpoint_id)
        return True

    def doubles_space(self, target: Target) -> bool:
        """Whether the model will begin with the white space in which the text ends already."""
        return target.kind in SPACELESS and self.way(target) == "prefill" and self.text[-1:].isspace()

    def body_for(self, body: Json, target: Target) -> Json:
        """The caller's body, asking for the rest. `body` is not changed."""
        rest = dict(body)
        for name in ("max_tokens", "max_completion_tokens"):
            if rest.get(name) is not None:
                rest[name] = max(1, rest[name] - self.tokens)
        if self.operation is Operation.COMPLETIONS:
            prompt = body["prompt"]
            rest["prompt"] = (prompt[0] if isinstance(prompt, list) else prompt) + self.text
            return rest
        prefill = self.text.rstrip() if target.kind in SPACELESS else self.text
        rest["messages"] = [*body["messages"], {"role": "assistant", "content": prefill}]
        if self.way(target) == "instruction":
            rest["messages"].append({"role": "user", "content": GO_ON})
        return rest


def can_continue(operation: Operation, body: Json) -> bool:
    """Whether a text answer to this request could be carried on by another model.

    Not several choices (which one?), not a forced shape (half an object is none), not token prompts.
    """
    if (body.get("n") or 1) != 1 or (body.get("best_of") or 1) != 1:
        return False
    if operation is Operation.COMPLETIONS:
        prompt = body.get("prompt")
        is_text = isinstance(prompt, str) or (
            isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str)
        )
        return is_text and not body.get("echo") and not body.get("suffix")
    shape = body.get("response_format") or {"type": "text"}
    return operation is Operation.CHAT and shape.get("type") == "text"
