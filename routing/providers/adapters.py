"""Which module speaks which dialect. Nothing else may choose an adapter."""

from routing.providers import anthropic, azure_openai, cohere, gemini, mistral, openai, sandbox
from routing.types import Adapter, ProviderKind

_MODULES: dict[ProviderKind, Adapter] = {
    ProviderKind.OPENAI: openai,
    ProviderKind.OPENAI_COMPATIBLE: openai,
    ProviderKind.ANTHROPIC: anthropic,
    ProviderKind.GEMINI: gemini,
    ProviderKind.AZURE_OPENAI: azure_openai,
    ProviderKind.MISTRAL: mistral,
    ProviderKind.COHERE: cohere,
    ProviderKind.SANDBOX: sandbox,
}


def adapter_for(kind: ProviderKind) -> Adapter:
    """The adapter of a provider kind; every kind has one."""
    return _MODULES[kind]
