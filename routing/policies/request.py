"""What a call asks of its route, and what its policy and its caller's preferences demand with it. Plain data, pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from routing.policies.constraints import Constraints
from routing.policies.preferences import Preferences
from routing.types import Operation


@dataclass(slots=True)  # not frozen: it is made for every call, and freezing costs 2 us
class PlanRequest:
    """What a call asks of its route. Sets that are None do not restrict; token counts are estimates.

    `input_tokens` of an operation in `PRICED_BY` are its units, exactly.
    """

    model: str
    operation: Operation
    tenant_id: UUID
    regions: frozenset[str] | None = None
    allowed_models: frozenset[str] | None = None
    capabilities: frozenset[str] = frozenset()
    input_tokens: int = 0
    output_tokens: int = 0
    service_tier: str = ""
    allow_unpriced: bool = False
    tenant: str = ""  # slug
    api_key_id: UUID | None = None
    feature: str = ""
    plan: str = ""  # slug of the tenant's plan
    end_user: str = ""
    tags: Mapping[str, str] | None = None
    preferences: Preferences | None = None


@dataclass(frozen=True, slots=True)
class Demands:
    """What the call, its policy and the caller's preferences demand together."""

    name: str  # the model as the caller named it
    operation: Operation
    allowed_models: frozenset[str] | None  # None: all
    is_allowed_by_name: bool  # the allowlist names what the caller named: its targets need not be listed
    regions: frozenset[str] | None  # None: all
    capabilities: frozenset[str]
    constraints: Constraints
    preferences: Preferences
