"""Short words for tests that plan: one call asked, and what came of it."""

from typing import Any
from uuid import UUID

import pytest

from routing.entries import OwnCredential, RoutingSnapshot
from routing.policies.plan import PlanRequest, plan
from routing.types import EndpointHealth, Health, Operation, RoutePlan
from tenants.errors import ApiError
from tests.routing.targets import NOW

TENANT, STRANGER, KEY = UUID(int=1), UUID(int=2), UUID(int=3)


def asked(
    routes: RoutingSnapshot,
    model: str,
    *,
    latency: dict[str, float] | None = None,
    health: Health | dict[str, EndpointHealth] | None = None,
    draw: float = 0.5,
    now: float = NOW,
    explain: bool = False,
    **fields: Any,
) -> RoutePlan:
    """The plan of a chat call of 1000 input and 500 output tokens. `latency` is a median first byte in ms."""
    if health is None:
        health = health_of(latency or {})
    elif isinstance(health, dict):
        health = Health(endpoints=health)
    return plan(request(model, **fields), routes, health=health, now=now, draw=draw, explain=explain)


def request(model: str, **fields: Any) -> PlanRequest:
    return PlanRequest(
        **{
            "model": model,
            "operation": Operation.CHAT,
            "tenant_id": TENANT,
            "input_tokens": 1000,
            "output_tokens": 500,
            "tenant": "acme",
            "api_key_id": KEY,
            **fields,
        }
    )


def health_of(latency: dict[str, float]) -> Health:
    return Health(
        endpoints={
            endpoint_id: EndpointHealth(first_byte_p50_ms=first_byte_ms)
            for endpoint_id, first_byte_ms in latency.items()
        }
    )


def order(answer: RoutePlan) -> list[str]:
    return [ranked.target.endpoint_id for ranked in answer.targets]


def whys(answer: RoutePlan) -> list[str]:
    return [ranked.reason for ranked in answer.targets]


def reasons(answer: RoutePlan) -> dict[str, str]:
    return {dropped.endpoint_id: dropped.reason for dropped in answer.dropped}


def refused(routes: RoutingSnapshot, model: str, **fields: Any) -> ApiError:
    with pytest.raises(ApiError) as refusal:
        asked(routes, model, **fields)
    return refusal.value


def own(credential_id: str, base_url: str = "") -> OwnCredential:
    return OwnCredential(credential_id, base_url, f"sk-{credential_id}")
