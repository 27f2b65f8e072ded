"""The providers' state now and over 90 days, put together once for the API and the console.

Reads only. Without Redis the history still stands, and what is now is said to be unknown, never to be well.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from redis.exceptions import RedisError

from routing.health import history, store
from routing.health.breaker import CLOSED, Breaker
from routing.health.exchange import Mark
from routing.health.history import Day
from routing.health.models import Incident
from routing.health.tracker import Tracker
from routing.models import Credential, Endpoint, Provider
from routing.probe import Probe, last_probe
from routing.types import Circuit, EndpointHealth

logger = logging.getLogger(__name__)

type State = Literal["ok", "degraded", "failing", "unknown", "disabled"]

INCIDENTS_SHOWN: Final = 50
_UNKNOWN: Final = EndpointHealth()


@dataclass(frozen=True, slots=True)
class EndpointReport:
    """An endpoint as all workers see it now."""

    endpoint: Endpoint
    health: EndpointHealth
    breaker: Breaker

    @property
    def circuit(self) -> Circuit:
        return self.health.circuit

    @property
    def region(self) -> str:
        return self.endpoint.region or self.endpoint.provider.region

    @property
    def open_until(self) -> datetime | None:
        return _instant(self.health.open_until) if self.circuit is Circuit.OPEN else None

    @property
    def reason(self) -> str:
        return "" if self.circuit is Circuit.CLOSED else self.breaker.reason


@dataclass(frozen=True, slots=True)
class Rest:
    """A quota that nobody calls on until then. `refusal` if the provider refuses the credential itself."""

    credential: Credential | None
    provider_model: str
    until: datetime
    refusal: Mark | None

    @property
    def refused_since(self) -> datetime | None:
        return _instant(self.refusal.since) if self.refusal else None


@dataclass(frozen=True, slots=True)
class ProviderReport:
    """One provider. `uptime` is the mean of the days that have one; `is_live` is False without Redis."""

    provider: Provider
    state: State
    is_live: bool
    endpoints: Sequence[EndpointReport]
    rests: Sequence[Rest]
    last_test: Probe | None
    uptime: float | None
    days: Sequence[Day]
    incidents: Sequence[Incident]

    @property
    def broken(self) -> int:
        """How many endpoints are left alone now."""
        return sum(each.circuit is not Circuit.CLOSED for each in self.endpoints)


def of_provider(provider: Provider, *, now: datetime) -> ProviderReport:
    """Everything about one provider."""
    return _reports([provider], now=now)[0]


def of_endpoint(endpoint: Endpoint) -> EndpointReport:
    """One endpoint as it is now."""
    return _endpoint(endpoint, _tracker())


def of_all(*, now: datetime) -> Sequence[ProviderReport]:
    """Every provider, by its slug. A fixed number of queries."""
    return _reports(list(Provider.objects.order_by("slug")), now=now)


def _reports(providers: Sequence[Provider], *, now: datetime) -> list[ProviderReport]:
    endpoints = list(
        Endpoint.objects.filter(provider__in=providers, is_enabled=True)
        .select_related("provider", "model")
        .order_by("model__slug", "id")
    )
    credentials = list(Credential.objects.filter(provider__in=providers, tenant=None))
    tracker = _tracker()
    days = history.uptime(endpoints, now=now)
    incidents = history.incidents_of(endpoints, limit=INCIDENTS_SHOWN)
    reports = []
    for provider in providers:
        mine = [_endpoint(each, tracker) for each in endpoints if each.provider_id == provider.pk]
        last_test = last_probe(provider)
        its_days = days.get(provider.slug, ())
        reports.append(
            ProviderReport(
                provider=provider,
                state=_state(provider, mine, last_test),
                is_live=tracker is not None,
                endpoints=mine,
                rests=_rests(provider, [c for c in credentials if c.provider_id == provider.pk], tracker),
                last_test=last_test,
                uptime=history.mean_uptime(its_days),
                days=its_days,
                incidents=[each for each in incidents if each.endpoint.provider_id == provider.pk],
            )
        )
    return reports


def _tracker() -> Tracker | None:
    try:
        return store.current()
    except RedisError as error:
        logger.warning("the providers' present state cannot be read: %s", error)
        return None


def _endpoint(endpoint: Endpoint, tracker: Tracker | None) -> EndpointReport:
    key = str(endpoint.pk)
    if tracker is None:
        return EndpointReport(endpoint, _UNKNOWN, CLOSED)
    return EndpointReport(
        endpoint, tracker.view.endpoints.get(key, _UNKNOWN), tracker.circuits.get(key, CLOSED)
    )


def _state(provider: Provider, endpoints: Sequence[EndpointReport], last_test: Probe | None) -> State:
    if not provider.is_enabled:
        return "disabled"
    broken = sum(each.circuit is not Circuit.CLOSED for each in endpoints)
    if broken:
        return "failing" if broken == len(endpoints) else "degraded"
    if any(each.health.samples for each in endpoints):
        return "ok"
    if last_test is None:
        return "unknown"
    return "ok" if last_test.ok else "failing"


def _rests(provider: Provider, credentials: Sequence[Credential], tracker: Tracker | None) -> list[Rest]:
    """The provider's quotas that rest; a quota key is its credential's id (or its slug) and a model's name there."""
    if tracker is None:
        return []
    owners: dict[str, Credential | None] = {str(each.pk): each for each in credentials}
    owners[provider.slug] = None
    rests = []
    for quota_key, until in sorted(tracker.pauses.items(), key=lambda item: item[1]):
        owner, _, provider_model = quota_key.partition("/")
        if owner in owners and until > tracker.now():
            rests.append(Rest(owners[owner], provider_model, _instant(until), tracker.marks.get(quota_key)))
    return rests


def _instant(unix_s: float) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)
