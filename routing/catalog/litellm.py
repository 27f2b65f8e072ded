"""Translates LiteLLM's model map (MIT) into our catalogue. Pure; used only when a new snapshot is built.

Prices are read as decimals, never as floats. What the map leaves out stays out: a price is never guessed,
apart from the two readings that `_implied` names.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from routing.catalog.book import CatalogueModel, CatalogueRate, Listing
from routing.types import Operation

type Entry = Mapping[str, Any]
type Key = tuple[str, int, str]
"""service tier, min_input_tokens, component."""

OPERATIONS: Mapping[str, tuple[str, ...]] = {
    "chat": (Operation.CHAT,),
    "completion": (Operation.COMPLETIONS,),
    "embedding": (Operation.EMBEDDINGS,),
}
"""By the map's `mode`; entries of other modes have no operation here yet and are left out."""

COMPONENTS: Mapping[str, str] = {
    "input_cost_per_token": "input",
    "input_cost_per_token_cache_hit": "cache_read",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "input_cost_per_audio_token": "input_audio",
    "input_cost_per_image_token": "input_image",
    "output_cost_per_token": "output",
    "output_cost_per_reasoning_token": "reasoning",
    "output_cost_per_audio_token": "output_audio",
    "output_cost_per_image_token": "output_image",
}

FIELD = re.compile(
    r"(?P<field>.+?)(?:_above_(?P<thousands>\d+)k_tokens)?(?:_(?P<tier>batches|flex|priority|balanced|ultrafast))?"
)
TIERS = {"batches": "batch"}

UNMETERED = ("input_cost_per_request", "citation_cost_per_token")
"""Parts of a bill that no usage object tells us; a model charged so stays unpriced, not too cheap."""

LOCAL_BOOKS = ("ollama", "lemonade")
"""Runners on one's own hardware, for which the map states a price of zero and means it."""

CAPABILITIES: Mapping[str, str] = {
    "supports_vision": "vision",
    "supports_function_calling": "tools",
    "supports_response_schema": "json_schema",
    "supports_native_structured_output": "json_schema",
    "supports_audio_input": "audio",
    "supports_audio_output": "audio_output",
    "supports_reasoning": "reasoning",
    "supports_pdf_input": "pdf",
    "supports_web_search": "web_search",
    "supports_prompt_caching": "prompt_caching",
}

BOOKS: Mapping[str, str] = {
    "text-completion-openai": "openai",
    "azure_text": "azure",
    "bedrock_converse": "bedrock",
    "cohere_chat": "cohere",
    "fireworks_ai-embedding-models": "fireworks-ai",
    "text-completion-codestral": "codestral",
    "text-completion-inception": "inception",
}
"""Providers that the map splits by wire format; all others keep their name, with hyphens."""

OWNERS: tuple[tuple[str, str], ...] = (
    (r"gpt|chatgpt|o[1345](-|$)|text-embedding-(3|ada)|davinci|babbage|whisper", "openai"),
    (r"claude", "anthropic"),
    (r"gemini|gemma|palm|text-bison|chat-bison|textembedding-gecko|text-embedding-00|learnlm", "google"),
    (r"[a-z]*mistral|mixtral|codestral|ministral|pixtral|devstral|magistral|open-mi|voxtral", "mistral"),
    (r"codellama|llama|meta-llama|muse-", "meta"),
    (r"qwen|qwq|qvq|text-embedding-v\d", "alibaba"),
    (r"deepseek", "deepseek"),
    (r"command|cohere|embed-|c4ai|aya", "cohere"),
    (r"grok", "xai"),
    (r"nova|titan|amazon", "amazon"),
    (r"phi-|mai-", "microsoft"),
    (r"kimi|moonshot", "moonshot"),
    (r"glm|zai", "zai"),
    (r"minimax", "minimax"),
    (r"jamba|j2-", "ai21"),
    (r"granite", "ibm"),
    (r"nemotron|nvidia", "nvidia"),
    (r"sonar|pplx", "perplexity"),
    (r"voyage", "voyage"),
)

HOME_BOOKS: Mapping[str, str] = {"google": "gemini", "alibaba": "dashscope"}
"""The book of a maker whose own API goes by another name: its facts about the model win."""


def translate(raw: bytes) -> tuple[tuple[CatalogueModel, ...], tuple[Listing, ...]]:
    """Models and offers in `model_prices_and_context_window_backup.json`, sorted by name."""
    source: dict[str, Entry] = json.loads(raw, parse_float=Decimal)
    source.pop("sample_spec", None)
    offers: dict[tuple[str, str], tuple[Entry, Listing]] = {}
    # A key without a provider prefix is the map's canonical spelling, so it comes first and stays.
    for key in sorted(source, key=lambda key: ("/" in key, key)):
        entry = source[key]
        provider = entry.get("litellm_provider")
        if not provider or not _operations(entry) or "-commitment/" in key:
            continue
        book = book_of(provider)
        name = _own_name(key, provider)
        listing = Listing(book, name, _slug(name), tuple(_rates(book, entry)))
        offers.setdefault((book, name), (entry, listing))
    by_model: dict[str, list[tuple[Entry, Listing]]] = defaultdict(list)
    for offer in offers.values():
        by_model[offer[1].model].append(offer)
    models = tuple(_model(slug, by_model[slug]) for slug in sorted(by_model))
    return models, tuple(offers[key][1] for key in sorted(offers))


def book_of(provider: str) -> str:
    """The price book for the map's `litellm_provider`."""
    if provider.startswith("vertex_ai"):
        return "vertex-ai"
    return BOOKS.get(provider, provider.replace("_", "-").lower())


def clean(price: Decimal) -> Decimal:
    """A price without float debris.

    More than 15 significant digits are the tail of a binary float (1.5000000000000002e-07); such a price is
    rounded to 12. The book then keeps 10 decimals per million units, as CostRate does.
    """
    if len(price.normalize().as_tuple().digits) > 15:
        price = price.quantize(Decimal(1).scaleb(price.adjusted() - 11))
    exact = price.quantize(Decimal("1e-10")).normalize()
    return exact.quantize(Decimal(1)) if exact == exact.to_integral() else exact


def _rates(book: str, entry: Entry) -> Iterator[CatalogueRate]:
    if any(entry.get(field) for field in UNMETERED):
        return
    prices = _prices(entry)
    if book not in LOCAL_BOOKS:
        # Zero is how the map says "not known", "not applicable" or "a free trial": none of them is a price.
        prices = {key: price for key, price in prices.items() if price}
    prices |= _implied(entry, prices)
    for (tier, minimum, component), price in sorted(prices.items()):
        if component == "reasoning" and price == prices.get((tier, minimum, "output")):
            continue  # The same as output, which it falls back to, also in the tiers that do not repeat it.
        yield CatalogueRate(component, clean(price * 1_000_000), 1_000_000, tier, minimum)
    yield from _web_searches(entry, sorted({tier for tier, _, _ in prices}))


def _prices(entry: Entry) -> dict[Key, Decimal]:
    """USD per token, by service tier, context tier and component, as the map states them."""
    prices: dict[Key, Decimal] = {}
    for field, value in entry.items():
        match = FIELD.fullmatch(field)
        component = COMPONENTS.get(match["field"]) if match else None
        if match is None or component is None or not isinstance(value, int | Decimal):
            continue
        tier = TIERS.get(match["tier"], match["tier"] or "")
        key = (tier, int(match["thousands"] or 0) * 1000, component)
        if field != "input_cost_per_token_cache_hit" or key not in prices:
            prices[key] = Decimal(value)
    for band in entry.get("tiered_pricing", ()):
        for field, component in COMPONENTS.items():
            if field in band and "range" in band:
                prices["", int(band["range"][0]), component] = Decimal(band[field])
    return prices


def _implied(entry: Entry, prices: Mapping[Key, Decimal]) -> dict[Key, Decimal]:
    """Image and audio input at the plain input price, where a model takes it and states no price apart.

    That is how providers bill it: such tokens are counted, and charged, among the prompt's.
    """
    implied: dict[Key, Decimal] = {}
    for capability, component in (
        ("supports_vision", "input_image"),
        ("supports_audio_input", "input_audio"),
    ):
        if entry.get(capability) and not any(name == component for _, _, name in prices):
            for (tier, minimum, name), price in prices.items():
                if name == "input":
                    implied[tier, minimum, component] = price
    return implied


def _web_searches(entry: Entry, tiers: list[str]) -> Iterator[CatalogueRate]:
    """One price per search, where it does not depend on how much context was asked for."""
    by_size = entry.get("search_context_cost_per_query") or {}
    stated = {Decimal(price) for price in by_size.values()}
    if len(stated) == 1 and (price := stated.pop()):
        for tier in tiers:
            yield CatalogueRate("web_searches", clean(price), 1, tier, 0)


def _operations(entry: Entry) -> tuple[str, ...]:
    mode = entry.get("mode", "")
    if mode == "responses" and "/v1/chat/completions" in entry.get("supported_endpoints", ()):
        mode = "chat"
    return OPERATIONS.get(mode, ())


def _own_name(key: str, provider: str) -> str:
    """The provider's own name of the model: the map's key without the routing prefix."""
    prefix, _, rest = key.partition("/")
    route = provider.partition("-")[0] if provider.startswith("vertex_ai") else provider
    routes = {route, route.replace("_", "-"), route.replace("-", "_")} | {
        "azure_text": {"azure"},
        "fireworks_ai-embedding-models": {"fireworks_ai"},
    }.get(provider, set())
    return rest if rest and prefix in routes else key


def _slug(name: str) -> str:
    return name.rsplit("/", 1)[-1].lower().replace(" ", "-")


def _owner(slug: str, books: list[str]) -> str:
    stem = re.sub(
        r"^((us|eu|apac|au|jp|global)\.)?(anthropic|meta|amazon|cohere|mistral|ai21|deepseek|openai)\.",
        "",
        slug,
    )
    for pattern, owner in OWNERS:
        if re.match(pattern, stem) or re.match(pattern, slug):
            return owner
    return books[0]


def _model(slug: str, offers: list[tuple[Entry, Listing]]) -> CatalogueModel:
    """One model's facts, from its maker's own book if it is in the map."""
    books = sorted(listing.book for _, listing in offers)
    owner = _owner(slug, books)
    home = HOME_BOOKS.get(owner, owner)
    entry, _ = min(offers, key=lambda offer: (offer[1].book != home, offer[1].book, offer[1].provider_model))
    model = CatalogueModel(
        slug=slug,
        owned_by=owner,
        operations=tuple(sorted({str(name) for other, _ in offers for name in _operations(other)})),
        capabilities=tuple(sorted({name for flag, name in CAPABILITIES.items() if entry.get(flag) is True})),
        context_window=_count(entry.get("max_input_tokens")),
        max_output_tokens=_count(entry.get("max_output_tokens")),
    )
    # The map gives an embedding model's output limit as its vector's; it writes no tokens.
    return model if model.operations != (Operation.EMBEDDINGS,) else replace(model, max_output_tokens=None)


def _count(value: object) -> int | None:
    return int(value) if isinstance(value, int | Decimal) and value > 0 else None
