"""Asks a provider for its models, or for one token, and says how it answered: the test button.

Sends the operator's key only to the provider's own address, a tenant's own where the tenant says (if egress allows
it), and must never put either into what it reports.
"""

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Final

import orjson
from django.conf import settings
from django.core.cache import cache
from django.db import transaction
from django.utils import timezone
from redis.exceptions import RedisError

from routing.credentials import OperatorCredential, unseal_for, unseal_one
from routing.models import Credential, Endpoint, Provider
from routing.providers import azure_openai
from routing.providers.adapters import adapter_for
from routing.providers.anthropic import DEFAULT_VERSION
from routing.providers.sandbox_engine import answer
from routing.registry import base_url_of, dialect_of
from routing.snapshot import NO_RATES, target_of
from routing.types import Operation, ProviderError, ProviderKind, UnsupportedParameter, WireRequest
from tenants import audit, egress
from tenants.errors import ApiError
from tenants.principal import Principal

logger = logging.getLogger(__name__)

TIMEOUT_S: Final = 15.0
KEPT_FOR_S: Final = 7 * 24 * 3600
MODELS_SHOWN: Final = 500

type Headers = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Probe:
    """How a provider answered. `code`: "ok", an ErrorKind's value, or what is missing."""

    ok: bool
    code: str
    detail: str
    latency_ms: int
    at: datetime
    models: tuple[str, ...] = ()


class Untestable(Exception):
    """There is nothing to ask, or nothing to ask with."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class NoModelList(Untestable):
    """It can be called, but has no list of models."""


def probe(*, provider: Provider, actor: Principal) -> Probe:
    """Test a provider now, leave an audit event, and remember the result for `last_probe`. Raises nothing."""
    result = _probed(provider, unseal_for(provider), egress.ANY_HOST)
    _keep(provider, result)
    with transaction.atomic():
        audit.record(
            principal=actor,
            action="provider.test",
            object_type="provider",
            object_id=provider.slug,
            tenant=None,
            after={"code": result.code, "latency_ms": result.latency_ms},
        )
    return result


def probe_own(*, credential: Credential, actor: Principal) -> Probe:
    """Test a tenant's own key at its provider now; the trail says that the key was used. Raises nothing.

    An address of the tenant's own is judged as every tenant's URL; what it costs, the provider bills the tenant.
    """
    audit.record_access(
        principal=actor,
        object_type="credential",
        object_id=credential.id,
        tenant=credential.tenant,
        what="tested against the provider",
    )
    opened = unseal_one(credential)
    allowed = settings.TOLLHOUSE_EGRESS_ALLOWED_HOSTS if credential.base_url else egress.ANY_HOST
    if opened is None:
        result = Probe(False, "no_credential", "The stored key does not open: replace it.", 0, timezone.now())
    else:
        result = _probed(credential.provider, opened, allowed)
    _keep(credential, result)
    return result


def _probed(
    provider: Provider, credential: OperatorCredential | None, allowed_hosts: Collection[str]
) -> Probe:
    started_s = time.monotonic()
    try:
        models, detail = _ask(provider, credential, allowed_hosts)
        result = Probe(True, "ok", detail, 0, timezone.now(), models)
    except ProviderError as error:
        result = Probe(False, error.kind.value, error.message, 0, timezone.now())
    except egress.EgressError as error:
        result = Probe(False, error.kind, str(error), 0, timezone.now())
    except (ApiError, Untestable) as error:
        result = Probe(False, error.code, error.message, 0, timezone.now())
    except UnsupportedParameter as error:
        result = Probe(False, "unsupported_parameter", str(error), 0, timezone.now())
    return replace(result, latency_ms=round((time.monotonic() - started_s) * 1000))


def last_probe(tested: Provider | Credential) -> Probe | None:
    """The newest test of the last seven days, whoever asked for it; None without one, or without Redis."""
    try:
        kept: Mapping[str, Any] | None = cache.get(_cache_key(tested))
    except RedisError as error:
        logger.warning("the last test of %s cannot be read: %s", tested, error)
        return None
    return None if kept is None else Probe(**{**kept, "models": tuple(kept["models"])})


def _keep(tested: Provider | Credential, result: Probe) -> None:
    try:
        cache.set(_cache_key(tested), asdict(result), timeout=KEPT_FOR_S)
    except RedisError as error:
        # The test itself has an answer; that it is not remembered must not hide it.
        logger.warning("the test of %s is not remembered: %s", tested, error)


def _cache_key(tested: Provider | Credential) -> str:
    return f"routing:probe:{tested.pk}"


def list_models(
    provider: Provider,
    credential: OperatorCredential | None,
    *,
    timeout_s: float,
    allowed_hosts: Collection[str] = egress.ANY_HOST,
) -> tuple[str, ...]:
    """The provider's own names of the models it serves; costs nothing. Without a database.

    Raises Untestable, NoModelList, ProviderError, tenants.egress.EgressError, ApiError: url_not_allowed.
    """
    kind = ProviderKind(provider.kind)
    if credential is None and dialect_of(kind).needs_key:
        raise Untestable("no_credential", "This provider has no usable key.")
    base_url = base_url_of(kind, credential.base_url if credential else "", provider.base_url)
    if kind is ProviderKind.SANDBOX:
        raise NoModelList("no_list", "The sandbox lists no models.")
    if not base_url:
        raise Untestable("no_address", "This provider has no address.")
    url, headers = _models_request(kind, base_url, credential.api_key if credential else "", provider.options)
    reply = egress.fetch("GET", url, headers=headers, allow_private_hosts=allowed_hosts, timeout_s=timeout_s)
    if reply.status in (404, 405):
        raise NoModelList("no_list", "This provider lists no models.")
    if not 200 <= reply.status < 300:
        raise adapter_for(kind).classify_error(reply.status, reply.headers, reply.body)
    return _model_names(reply.body)


def _ask(
    provider: Provider, credential: OperatorCredential | None, allowed_hosts: Collection[str]
) -> tuple[tuple[str, ...], str]:
    try:
        models = list_models(provider, credential, timeout_s=TIMEOUT_S, allowed_hosts=allowed_hosts)
    except NoModelList:
        # Some compatible servers have no list of models; what they must have is the call itself.
        return _tiny_call(provider, credential, allowed_hosts)
    return models[:MODELS_SHOWN], f"{len(models)} models"


def _models_request(
    kind: ProviderKind, base_url: str, api_key: str, options: Mapping[str, Any]
) -> tuple[str, Headers]:
    match kind:
        case ProviderKind.ANTHROPIC:
            base = base_url if base_url.endswith("/v1") else f"{base_url}/v1"
            version = str(options.get("version", DEFAULT_VERSION))
            return f"{base}/models?limit=1000", [("x-api-key", api_key), ("anthropic-version", version)]
        case ProviderKind.GEMINI:
            return f"{base_url}/models?pageSize=1000", [("x-goog-api-key", api_key)]
        case ProviderKind.AZURE_OPENAI:
            version = str(options.get("api_version", azure_openai.DEFAULT_API_VERSION))
            path = "openai/v1/models" if version == "v1" else f"openai/models?api-version={version}"
            return f"{base_url}/{path}", [("api-key", api_key)]
        case ProviderKind.COHERE:
            url = f"{base_url.removesuffix('/v2')}/v1/models?page_size=1000"
            return url, [("authorization", f"Bearer {api_key}")]
        case _:
            return f"{base_url}/models", [("authorization", f"Bearer {api_key}")] if api_key else []


def _model_names(body: bytes) -> tuple[str, ...]:
    """Names in a list of models: `data[].id`, Gemini's `models[].name`, or a bare array."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise egress.EgressError("invalid_response", "The answer is not JSON.") from error
    rows = document.get("data", document.get("models")) if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise egress.EgressError("invalid_response", "The answer is not a list of models.")
    names = (str(row.get("id") or row.get("name") or "") for row in rows if isinstance(row, dict))
    return tuple(name.removeprefix("models/") for name in names if name)


def _tiny_call(
    provider: Provider, credential: OperatorCredential | None, allowed_hosts: Collection[str]
) -> tuple[tuple[str, ...], str]:
    """One token from the provider's first chat endpoint, through its adapter."""
    endpoint = (
        Endpoint.objects.filter(provider=provider, is_enabled=True, model__operations__contains=["chat"])
        .select_related("model", "provider")
        .order_by("provider_model")
        .first()
    )
    if endpoint is None:
        raise Untestable("no_endpoint", "It lists no models and has no chat endpoint to try: add one.")
    kind = ProviderKind(provider.kind)
    adapter = adapter_for(kind)
    body: dict[str, Any] = {
        "model": endpoint.model.slug,
        "messages": [{"role": "user", "content": "Say hi."}],
        "max_tokens": 1,
    }
    target = target_of(endpoint, credential, NO_RATES)
    wire = adapter.build_request(Operation.CHAT, body, target, stream=False)
    status, headers, content = _send(wire, kind, allowed_hosts)
    if not 200 <= status < 300:
        raise adapter.classify_error(status, headers, content)
    reply = adapter.parse_reply(Operation.CHAT, body, content, target)
    return (), f"{reply.model or endpoint.provider_model} answered"


def _send(
    wire: WireRequest, kind: ProviderKind, allowed_hosts: Collection[str]
) -> tuple[int, Mapping[str, str], bytes]:
    if kind is ProviderKind.SANDBOX:
        script = answer(wire)
        return script.status, dict(script.headers), b"".join(step.data for step in script.steps)
    reply = egress.fetch(
        wire.method,
        wire.url,
        headers=wire.headers,
        body=wire.body,
        allow_private_hosts=allowed_hosts,
        timeout_s=TIMEOUT_S,
    )
    return reply.status, reply.headers, reply.body
