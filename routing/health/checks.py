"""Active checks of endpoints that no call tells anything about: the provider is asked for its list of models.

Must never spend money: no token is asked for, and a provider without such a list is not checked at all. Its
result is weaker than a call's; what it may do to a breaker stands in `breaker.checked`.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson
import redis

from routing.credentials import OperatorCredential, unseal_for
from routing.health import store
from routing.health.breaker import CLOSED, circuit_of
from routing.health.exchange import CHECKED, USED
from routing.health.tracker import Tracker
from routing.models import Endpoint, Provider
from routing.probe import Untestable, list_models
from routing.registry import dialect_of
from routing.types import Circuit, ErrorKind, ProviderError, ProviderKind
from tenants import egress
from tenants.errors import ApiError

logger = logging.getLogger(__name__)

TIMEOUT_S: Final = 5.0
AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Checked:
    """One provider was asked, on behalf of its idle endpoints. `error` is None if it answered."""

    provider: str
    endpoints: int
    error: ErrorKind | None


def check_idle(*, now: datetime, idle_s: float) -> Sequence[Checked]:
    """Check every endpoint without traffic or check for `idle_s` seconds.

    Those without traffic whose last check failed, or whose breaker waits for a probe, at once.

    One request per provider. Raises redis.RedisError.
    """
    tracker = store.current("checks")
    due = _due(tracker, now=now, idle_s=idle_s)
    asked = [(provider, unseal_for(provider)) for provider in due]
    askable = [
        (provider, credential)
        for provider, credential in asked
        if credential is not None or not dialect_of(provider.kind).needs_key
    ]
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="check") as pool:
        outcomes = list(pool.map(lambda pair: _ask(*pair), askable))
    results = []
    for (provider, _), outcome in zip(askable, outcomes, strict=True):
        if isinstance(outcome, Untestable):
            continue
        for endpoint in due[provider]:
            tracker.checked(str(endpoint.pk), provider=provider.slug, name=_name(endpoint), error=outcome)
        results.append(Checked(provider.slug, len(due[provider]), outcome))
    store.exchange(tracker)
    _remember(store.connection(), [each for endpoints in due.values() for each in endpoints], now)
    return results


def _due(tracker: Tracker, *, now: datetime, idle_s: float) -> Mapping[Provider, Sequence[Endpoint]]:
    client = store.connection()
    used: Any = client.hgetall(USED)
    checked: Any = client.hgetall(CHECKED)
    now_s = now.timestamp()
    rows = (
        Endpoint.objects.routable()
        .exclude(provider__kind=ProviderKind.SANDBOX)
        .select_related("provider", "model")
        .order_by("provider__slug", "id")
    )
    due: dict[Provider, list[Endpoint]] = defaultdict(list)
    for endpoint in rows:
        key = str(endpoint.pk)
        seen_s = max(int(used.get(key.encode(), 0)), int(checked.get(key.encode(), 0)))
        circuit = circuit_of(tracker.circuits.get(key, CLOSED), now_s)
        is_urgent = circuit is Circuit.HALF_OPEN or (
            circuit is Circuit.CLOSED and tracker.failing_checks(key) > 0
        )
        is_idle = now_s - int(used.get(key.encode(), 0)) >= idle_s
        if now_s - seen_s >= idle_s or (is_idle and is_urgent):
            due[endpoint.provider].append(endpoint)
    return due


def _ask(provider: Provider, credential: OperatorCredential | None) -> ErrorKind | Untestable | None:
    """None if it answered. No database in here: it runs in a thread of its own."""
    try:
        list_models(provider, credential, timeout_s=TIMEOUT_S)
    except ProviderError as error:
        return error.kind
    except egress.EgressError as error:
        return ErrorKind(error.kind)
    except ApiError as error:
        logger.warning("the provider %s cannot be checked: %s", provider.slug, error.message)
        return Untestable(error.code, error.message)
    except Untestable as error:
        return error
    return None


def _name(endpoint: Endpoint) -> str:
    region = endpoint.region or endpoint.provider.region
    return orjson.dumps(
        [endpoint.provider.slug, endpoint.model.slug, endpoint.provider_model, region]
    ).decode()


def _remember(client: redis.Redis, endpoints: Sequence[Endpoint], now: datetime) -> None:
    if endpoints:
        client.hset(CHECKED, mapping={str(endpoint.pk): int(now.timestamp()) for endpoint in endpoints})
