"""Reads a LiteLLM proxy's configuration as what it would be here. PURE: file and environment in, a move out.

https://docs.litellm.ai/docs/proxy/configs. Secrets are read where the file points (`os.environ/NAME`) and stay out of
every message.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from re import sub
from typing import Any, Final
from urllib.parse import urlsplit

from routing.types import Operation, ProviderKind

MILLION: Final = 1_000_000
ENVIRONMENT: Final = "os.environ/"

KINDS: Final[Mapping[str, ProviderKind]] = {
    "openai": ProviderKind.OPENAI,
    "azure": ProviderKind.AZURE_OPENAI,
    "anthropic": ProviderKind.ANTHROPIC,
    "cohere": ProviderKind.COHERE,
    "cohere_chat": ProviderKind.COHERE,
    "gemini": ProviderKind.GEMINI,
    "mistral": ProviderKind.MISTRAL,
}
"""By the prefix of `litellm_params.model`."""

COMPATIBLE: Final[Mapping[str, str]] = {
    "deepseek": "https://api.deepseek.com/v1",
    "fireworks_ai": "https://api.fireworks.ai/inference/v1",
    "groq": "https://api.groq.com/openai/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "perplexity": "https://api.perplexity.ai",
    "together_ai": "https://api.together.xyz/v1",
    "xai": "https://api.x.ai/v1",
    "hosted_vllm": "",
    "lm_studio": "",
    "ollama": "",
    "ollama_chat": "",
    "openai_like": "",
    "text-completion-openai": "https://api.openai.com/v1",
}
"""Prefixes that stand for servers of OpenAI's dialect, with their public address; "": each has its own."""

OPERATIONS: Final[Mapping[str, tuple[Operation, ...]]] = {
    "": (Operation.CHAT,),
    "chat": (Operation.CHAT,),
    "completion": (Operation.COMPLETIONS,),
    "embedding": (Operation.EMBEDDINGS,),
}
"""By `model_info.mode`."""

RATES: Final[Mapping[str, str]] = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write",
}

CARRIED: Final = frozenset(
    {"model", "api_base", "api_key", "api_version", "rpm", "tpm", "weight", "organization", *RATES}
)
"""Of `litellm_params`; every other one is named as left out."""

STRATEGIES: Final[Mapping[str, str]] = {
    "simple-shuffle": "weighted",
    "latency-based-routing": "latency",
    "cost-based-routing": "cost",
    "least-busy": "latency",
    "usage-based-routing": "weighted",
    "usage-based-routing-v2": "weighted",
}
"""`router_settings.routing_strategy` as ours; rate limits are smoothed by every strategy here."""


FALLBACKS: Final = frozenset(("fallbacks", "context_window_fallbacks", "content_policy_fallbacks"))
KNOWN_ROUTER: Final = FALLBACKS | {"routing_strategy", "model_group_alias"}


class ConfigInvalid(ValueError):
    """The file is not a LiteLLM configuration; the message says where."""


@dataclass(frozen=True, slots=True)
class ProviderMove:
    """An account: one dialect, address and key. `slug` is ours."""

    slug: str
    kind: ProviderKind
    base_url: str
    options: Mapping[str, str]
    secret: str = field(repr=False)
    limit_rpm: int | None = None
    limit_tpm: int | None = None


@dataclass(frozen=True, slots=True)
class DeploymentMove:
    """One provider serving one of their model groups. `rates`: USD per million units, by component."""

    model: str
    operations: tuple[Operation, ...]
    provider: str
    provider_model: str
    weight: int
    rates: Mapping[str, Decimal]
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class PolicyMove:
    """A policy of ours for what their router did: an alias, or a model with its fallbacks."""

    slug: str
    name: str
    strategy: str
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """Everything the file asks for, and what of it stays behind."""

    providers: tuple[ProviderMove, ...]
    deployments: tuple[DeploymentMove, ...]
    policies: tuple[PolicyMove, ...]
    left_out: tuple[str, ...]


def read(document: Any, environ: Mapping[str, str]) -> Move:
    """The move that a parsed YAML document asks for. Raises ConfigInvalid."""
    if not isinstance(document, dict):
        raise ConfigInvalid("the file must hold an object with a model_list")
    reader = _Reader(environ)
    for number, row in enumerate(_list(document.get("model_list"), "model_list")):
        reader.deployment(_object(row, f"model_list[{number}]"), f"model_list[{number}]")
    router = _object(document.get("router_settings") or {}, "router_settings")
    settings = _object(document.get("litellm_settings") or {}, "litellm_settings")
    strategy = STRATEGIES.get(str(router.get("routing_strategy") or "simple-shuffle"), "weighted")
    policies = [*reader.aliases(router, strategy), *reader.fallbacks((settings, router))]
    reader.rest(document, router, settings)
    return Move(
        tuple(reader.providers.values()), tuple(reader.deployments), tuple(policies), tuple(reader.left_out)
    )


def slug_of(text: str) -> str:
    """A name as one of our slugs."""
    return sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:50] or "imported"


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigInvalid(f"{where} must be an object")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ConfigInvalid(f"{where} must be a list")
    return value


class _Reader:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.providers: dict[tuple[str, str, str], ProviderMove] = {}
        self.deployments: list[DeploymentMove] = []
        self.left_out: list[str] = []

    # -- deployments

    def deployment(self, row: dict[str, Any], where: str) -> None:
        name = row.get("model_name")
        params = _object(row.get("litellm_params"), f"{where}.litellm_params")
        info = _object(row.get("model_info") or {}, f"{where}.model_info")
        if not isinstance(name, str) or not isinstance(params.get("model"), str):
            raise ConfigInvalid(f"{where} needs model_name and litellm_params.model")
        prefix, _, rest = params["model"].partition("/")
        if not rest:
            prefix, rest = "openai", params["model"]
        operations = OPERATIONS.get(str(info.get("mode") or ""))
        kind = KINDS.get(prefix, ProviderKind.OPENAI_COMPATIBLE if prefix in COMPATIBLE else None)
        if "*" in name or "*" in rest:
            self._leave(
                where, f"the wildcard {params['model']!r}: import the provider's models in the console"
            )
        elif kind is None:
            self._leave(where, f"the provider {prefix!r} is not spoken here")
        elif operations is None:
            self._leave(where, f"the mode {info['mode']!r} is not offered here")
        else:
            provider = self._provider(prefix, kind, params, where)
            if provider is not None:
                for name_, value in params.items():
                    if name_ not in CARRIED and value is not None:
                        self._leave(where, f"litellm_params.{name_}")
                self.deployments.append(
                    DeploymentMove(
                        model=name,
                        operations=operations,
                        provider=provider.slug,
                        provider_model=rest,
                        weight=_count(params.get("weight"), f"{where}.litellm_params.weight") or 1,
                        rates=dict(self._rates(params, info, where)),
                        max_input_tokens=_count(info.get("max_input_tokens"), f"{where}.model_info"),
                        max_output_tokens=_count(info.get("max_output_tokens"), f"{where}.model_info"),
                    )
                )

    def _provider(
        self, prefix: str, kind: ProviderKind, params: Mapping[str, Any], where: str
    ) -> ProviderMove | None:
        base_url = self._resolved(
            params.get("api_base"), f"{where}.litellm_params.api_base"
        ) or COMPATIBLE.get(prefix, "")
        if base_url and kind is ProviderKind.OPENAI:
            kind = ProviderKind.OPENAI_COMPATIBLE
        if kind in (ProviderKind.OPENAI_COMPATIBLE, ProviderKind.AZURE_OPENAI) and not base_url:
            self._leave(where, "no api_base says where the server is")
            return None
        secret = self._resolved(params.get("api_key"), f"{where}.litellm_params.api_key")
        key = (prefix, base_url, secret)
        if key not in self.providers:
            options = {
                ours: str(self._resolved(params[theirs], f"{where}.litellm_params.{theirs}"))
                for theirs, ours in (("api_version", "api_version"), ("organization", "organization"))
                if params.get(theirs)
            }
            host = urlsplit(base_url).hostname or "" if params.get("api_base") else ""
            stem = slug_of(f"{prefix} {host}")
            taken = {provider.slug for provider in self.providers.values()}
            slug = stem if stem not in taken else f"{stem}-{len(taken) + 1}"
            self.providers[key] = ProviderMove(
                slug=slug,
                kind=kind,
                base_url=base_url.rstrip("/"),
                options=options,
                secret=secret,
                limit_rpm=_count(params.get("rpm"), f"{where}.litellm_params.rpm"),
                limit_tpm=_count(params.get("tpm"), f"{where}.litellm_params.tpm"),
            )
        return self.providers[key]

    def _resolved(self, value: Any, where: str) -> str:
        """A value, or what the environment holds under the name it points to."""
        if value is None:
            return ""
        text = str(value)
        if not text.startswith(ENVIRONMENT):
            return text
        name = text.removeprefix(ENVIRONMENT)
        if name not in self._environ:
            self._leave(where, f"the environment has no {name}")
        return self._environ.get(name, "")

    def _rates(
        self, params: Mapping[str, Any], info: Mapping[str, Any], where: str
    ) -> Iterable[tuple[str, Decimal]]:
        for theirs, component in RATES.items():
            value = params.get(theirs, info.get(theirs))
            if value is None:
                continue
            try:
                price = Decimal(str(value)) * MILLION
            except InvalidOperation:
                raise ConfigInvalid(f"{where}: {theirs} is not a number") from None
            if not price.is_finite() or price < 0:
                raise ConfigInvalid(f"{where}: {theirs} is not a price")
            yield component, price

    # -- policies

    def aliases(self, router: Mapping[str, Any], strategy: str) -> Iterable[PolicyMove]:
        aliases = _object(router.get("model_group_alias") or {}, "router_settings.model_group_alias")
        for alias, target in aliases.items():
            model = target.get("model") if isinstance(target, dict) else target
            yield PolicyMove(slug_of(str(alias)), f"Alias {alias}", strategy, (str(model),))

    def fallbacks(self, places: Sequence[Mapping[str, Any]]) -> Iterable[PolicyMove]:
        for place in places:
            for kind in sorted(FALLBACKS):
                for row in place.get(kind) or ():
                    for model, others in _object(row, kind).items():
                        if kind != "fallbacks":
                            self._leave(
                                kind, f"{model}: a policy's targets are its fallbacks for every reason"
                            )
                            continue
                        targets = (str(model), *map(str, _list(others, f"fallbacks of {model}")))
                        slug = slug_of(f"{model} with fallback")
                        yield PolicyMove(slug, f"{model}, then its fallbacks", "ordered", targets)

    # -- what stays behind

    def rest(
        self, document: Mapping[str, Any], router: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> None:
        for section, held, known in (
            ("router_settings", router, KNOWN_ROUTER),
            ("litellm_settings", settings, FALLBACKS | {"drop_params"}),
            ("general_settings", document.get("general_settings") or {}, frozenset()),
            ("environment_variables", document.get("environment_variables") or {}, frozenset()),
        ):
            for name in held:
                if name not in known:
                    self._leave(section, str(name))
        if settings.get("drop_params"):
            self._leave("litellm_settings", "drop_params: here nothing is dropped in silence")

    def _leave(self, where: str, what: str) -> None:
        self.left_out.append(f"{where}: {what}")


def _count(value: Any, where: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigInvalid(f"{where} must be a whole number from 1")
    return value
