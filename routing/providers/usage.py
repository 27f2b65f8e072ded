"""Turns each dialect's token counts into disjoint units, and units back into OpenAI's usage object.

Counts are never guessed or clamped here: what contradicts itself raises UsageInvalid.
"""

from collections.abc import Callable, Mapping

from routing.types import Json, StreamState, Usage, UsageInvalid

MAX_COUNT = 10**10
"""Above this a count is not believed; no model reads or writes ten thousand million tokens in one call."""


def openai_usage(raw: Json) -> Usage:
    """OpenAI's `usage` (chat, completions, embeddings), where details are parts of the totals.

    Raises UsageInvalid. https://platform.openai.com/docs/api-reference/chat/object
    """
    prompt, completion = _count(raw, "prompt_tokens"), _count(raw, "completion_tokens")
    details_in = _details(raw, "prompt_tokens_details")
    details_out = _details(raw, "completion_tokens_details")
    # DeepSeek documents prompt_cache_hit_tokens beside or instead of the details.
    hits = _count(raw, "prompt_cache_hit_tokens")
    total = _count(raw, "total_tokens")
    if not hits and total == prompt + completion and not any((*details_in.values(), *details_out.values())):
        return Usage(_plain(prompt, completion))
    cached = _count(details_in, "cached_tokens") or hits
    reasoning = _count(details_out, "reasoning_tokens")
    # xAI counts reasoning beside completion_tokens instead of inside; only its total tells.
    if reasoning and total == prompt + completion + reasoning:
        completion += reasoning
    if raw.get("total_tokens") is not None and total != prompt + completion:
        raise UsageInvalid(f"total_tokens {total} is not {prompt} + {completion}")
    return Usage(
        _disjoint(
            total_input=prompt,
            total_output=completion,
            cache_read=cached,
            cache_write=_count(details_in, "cache_write_tokens"),
            input_audio=_count(details_in, "audio_tokens"),
            input_image=_count(details_in, "image_tokens"),
            reasoning=reasoning,
            output_audio=_count(details_out, "audio_tokens"),
            output_image=_count(details_out, "image_tokens"),
        )
    )


def anthropic_usage(raw: Json) -> Usage:
    """Anthropic's `usage`, whose input counts exclude one another.

    Raises UsageInvalid. https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching
    """
    plain, cache_read = _count(raw, "input_tokens"), _count(raw, "cache_read_input_tokens")
    written = _count(raw, "cache_creation_input_tokens")
    by_ttl = _details(raw, "cache_creation")
    short, long = _count(by_ttl, "ephemeral_5m_input_tokens"), _count(by_ttl, "ephemeral_1h_input_tokens")
    if not short and not long:
        short = written
    if raw.get("cache_creation_input_tokens") is not None and short + long != written:
        raise UsageInvalid(f"cache writes by lifetime sum to {short + long}, not {written}")
    units = _disjoint(
        total_input=plain + cache_read + short + long,
        total_output=_count(raw, "output_tokens"),
        cache_read=cache_read,
        cache_write=short,
        cache_write_1h=long,
        reasoning=_count(_details(raw, "output_tokens_details"), "thinking_tokens"),
    )
    if searches := _count(_details(raw, "server_tool_use"), "web_search_requests"):
        units["web_searches"] = searches
    return Usage(units)


def gemini_usage(raw: Json) -> Usage:
    """Gemini's `usageMetadata`; the prompt includes cached tokens, candidates exclude thoughts.

    Raises UsageInvalid. https://ai.google.dev/api/generate-content#UsageMetadata
    """
    prompt, tool_use = _count(raw, "promptTokenCount"), _count(raw, "toolUsePromptTokenCount")
    candidates, thoughts = _count(raw, "candidatesTokenCount"), _count(raw, "thoughtsTokenCount")
    total = _count(raw, "totalTokenCount")
    if raw.get("totalTokenCount") is not None and total != prompt + tool_use + candidates + thoughts:
        raise UsageInvalid(f"totalTokenCount {total} is not {prompt + tool_use + candidates + thoughts}")
    asked, cached = _modalities(raw, "promptTokensDetails"), _modalities(raw, "cacheTokensDetails")
    tools, written = (
        _modalities(raw, "toolUsePromptTokensDetails"),
        _modalities(raw, "candidatesTokensDetails"),
    )
    for modality, count in cached.items():
        if count > asked.get(modality, count):
            raise UsageInvalid(f"more cached {modality} tokens than {modality} tokens")

    def fresh(modality: str) -> int:
        return (
            asked.get(modality, 0)
            - min(cached.get(modality, 0), asked.get(modality, 0))
            + tools.get(modality, 0)
        )

    return Usage(
        _disjoint(
            total_input=prompt + tool_use,
            total_output=candidates + thoughts,
            cache_read=_count(raw, "cachedContentTokenCount"),
            input_audio=fresh("AUDIO"),
            input_image=fresh("IMAGE"),
            reasoning=thoughts,
            output_audio=written.get("AUDIO", 0),
            output_image=written.get("IMAGE", 0),
        )
    )


def cohere_usage(raw: Json) -> Usage:
    """Cohere's `usage`, or the `meta` of embeddings: what it bills, else what the model read and wrote.

    Raises UsageInvalid. https://docs.cohere.com/reference/chat
    """
    counts = _details(raw, "billed_units") or _details(raw, "tokens")
    # The specification has them as numbers; a whole one is a count whichever way it is written.
    whole = {
        name: int(count) if isinstance(count, float) and count.is_integer() else count
        for name, count in counts.items()
    }
    return Usage(
        _disjoint(total_input=_count(whole, "input_tokens"), total_output=_count(whole, "output_tokens"))
    )


def usage_json(usage: Usage) -> Json:
    """OpenAI's `usage` object for units, with every detail its clients read."""
    units = usage.units
    details_in: Json = {
        "cached_tokens": units.get("cache_read", 0),
        "audio_tokens": units.get("input_audio", 0),
    }
    if written := units.get("cache_write", 0) + units.get("cache_write_1h", 0):
        details_in["cache_write_tokens"] = written
    if images := units.get("input_image", 0):
        details_in["image_tokens"] = images
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": details_in,
        "completion_tokens_details": {
            "reasoning_tokens": units.get("reasoning", 0),
            "audio_tokens": units.get("output_audio", 0),
        },
    }


def record_usage(state: StreamState, raw: Json, read: Callable[[Json], Usage]) -> None:
    """Keep the newest count of a stream. Contradictory counts leave usage unknown and say so in scratch."""
    try:
        state.usage = read(raw)
    except UsageInvalid:
        state.usage = None
        state.scratch["usage_invalid"] = True
    else:
        state.scratch.pop("usage_invalid", None)


def reply_usage(raw: object, read: Callable[[Json], Usage]) -> tuple[Usage | None, bool]:
    """The usage of a whole reply and whether the provider's counts contradicted themselves."""
    if not isinstance(raw, dict):
        return None, False
    try:
        return read(raw), False
    except UsageInvalid:
        return None, True


def _disjoint(
    *,
    total_input: int,
    total_output: int,
    cache_read: int = 0,
    cache_write: int = 0,
    cache_write_1h: int = 0,
    input_audio: int = 0,
    input_image: int = 0,
    reasoning: int = 0,
    output_audio: int = 0,
    output_image: int = 0,
) -> dict[str, int]:
    """Each token in one component, summing exactly to both totals; zero counts left out.

    Caching and modality are two ways to cut the same prompt, so their parts may overlap: a cached image
    is reported in both. Overlap that must exist is taken from the modality (the token was read from cache).
    """
    cache = cache_read + cache_write + cache_write_1h
    modal = input_audio + input_image
    if cache > total_input or modal > total_input:
        raise UsageInvalid(f"parts of the prompt exceed its {total_input} tokens")
    overlap = max(0, cache + modal - total_input)
    from_image = min(overlap, input_image)
    input_image -= from_image
    input_audio -= overlap - from_image
    plain_output = total_output - reasoning - output_audio - output_image
    if plain_output < 0:
        raise UsageInvalid(f"parts of the output exceed its {total_output} tokens")
    units = {
        "input": total_input - cache - input_audio - input_image,
        "cache_read": cache_read,
        "cache_write": cache_write,
        "cache_write_1h": cache_write_1h,
        "input_audio": input_audio,
        "input_image": input_image,
        "output": plain_output,
        "reasoning": reasoning,
        "output_audio": output_audio,
        "output_image": output_image,
    }
    return {name: count for name, count in units.items() if count}


def _plain(total_input: int, total_output: int) -> dict[str, int]:
    """Totals without parts, as most answers have them."""
    if total_input and total_output:
        return {"input": total_input, "output": total_output}
    return {name: count for name, count in (("input", total_input), ("output", total_output)) if count}


def _count(raw: Mapping[str, object], name: str) -> int:
    value = raw.get(name)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_COUNT:
        raise UsageInvalid(f"{name} is not a count")
    return value


def _details(raw: Json, name: str) -> Json:
    value = raw.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageInvalid(f"{name} is not an object")
    return value


def _modalities(raw: Json, name: str) -> dict[str, int]:
    rows = raw.get(name)
    if rows is None:
        return {}
    if not isinstance(rows, list):
        raise UsageInvalid(f"{name} is not a list")
    counts: dict[str, int] = {}
    for row in rows:
        if not isinstance(row, dict):
            raise UsageInvalid(f"{name} holds something that is not an object")
        modality = str(row.get("modality"))
        counts[modality] = counts.get(modality, 0) + _count(row, "tokenCount")
    return counts
