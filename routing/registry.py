"""What we know of each wire dialect without asking the database: addresses, price books, needs.

Facts only; which module speaks a dialect is the business of routing.providers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from routing.types import Operation, ProviderKind


@dataclass(frozen=True, slots=True)
class Dialect:
    """`base_url` is the provider's public address, "" where each server has its own."""

    name: str
    base_url: str
    price_book: str
    operations: frozenset[Operation]
    needs_key: bool = True
    are_names_deployments: bool = False  # provider_model is the operator's own word, not the model's name


ALL = frozenset(Operation)
TEXTS = frozenset((Operation.CHAT, Operation.COMPLETIONS, Operation.EMBEDDINGS))

DIALECTS: Mapping[ProviderKind, Dialect] = {
    ProviderKind.OPENAI: Dialect(
        "OpenAI", "https://api.openai.com/v1", "openai", TEXTS | {Operation.MODERATIONS}
    ),
    ProviderKind.OPENAI_COMPATIBLE: Dialect("OpenAI-compatible", "", "", ALL, needs_key=False),
    ProviderKind.ANTHROPIC: Dialect(
        "Anthropic", "https://api.anthropic.com", "anthropic", frozenset({Operation.CHAT})
    ),
    ProviderKind.GEMINI: Dialect(
        "Google Gemini",
        "https://generativelanguage.googleapis.com/v1beta",
        "gemini",
        frozenset({Operation.CHAT, Operation.EMBEDDINGS}),
    ),
    ProviderKind.AZURE_OPENAI: Dialect("Azure OpenAI", "", "azure", TEXTS, are_names_deployments=True),
    ProviderKind.MISTRAL: Dialect(
        "Mistral",
        "https://api.mistral.ai/v1",
        "mistral",
        frozenset({Operation.CHAT, Operation.EMBEDDINGS}),
    ),
    ProviderKind.COHERE: Dialect(
        "Cohere", "https://api.cohere.com/v2", "cohere", frozenset({Operation.CHAT, Operation.EMBEDDINGS})
    ),
    ProviderKind.SANDBOX: Dialect("Sandbox", "sandbox://local", "", ALL, needs_key=False),
}
"""https://platform.openai.com/docs/api-reference, https://docs.anthropic.com/en/api, https://ai.google.dev/api,
https://docs.mistral.ai/api, https://docs.cohere.com/reference"""


def dialect_of(kind: str) -> Dialect:
    """The dialect of a Provider row's kind. Raises ValueError for a kind nobody speaks."""
    return DIALECTS[ProviderKind(kind)]


def base_url_of(kind: str, *configured: str) -> str:
    """The first address configured (credential's, then provider's), else the dialect's. No trailing slash."""
    return next((url for url in configured if url), dialect_of(kind).base_url).rstrip("/")
