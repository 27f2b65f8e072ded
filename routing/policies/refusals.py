"""Why no target is left for a call: the filters in their order, and the error that each of them stands for. Pure."""

from enum import IntEnum

from routing.policies.request import Demands
from routing.types import Dropped, Operation
from tenants.errors import ApiError


class Stage(IntEnum):
    """The filters in their order. If nothing is left, the furthest one that a target reached is the error."""

    SERVED = 1
    ALLOWED = 2
    RULES = 3
    OPERATION = 4
    CAPABILITY = 5
    REGION = 6
    DATA = 7
    CREDENTIALS = 8
    PREFERENCE = 9
    CONTEXT = 10
    PRICED = 11
    PRICE_LIMIT = 12
    PREFERRED_PRICE = 13
    COST_LIMIT = 14
    SLOW = 15
    UNRELIABLE = 16


class NoTarget(ApiError):
    """No target is left for a call. `dropped` says why of each; the caller is told the one that came furthest."""

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(code, message, param=param)
        self.dropped: tuple[Dropped, ...] = ()


def refusal(
    stage: Stage, demands: Demands, *, input_tokens: int, policy: str, binding: str, param: str
) -> NoTarget:
    """The error that says why no target is left: by the furthest filter that one reached."""
    name = demands.name
    by = f"the policy {policy}" + (f" (bound to {binding})" if binding else "")
    match stage:
        case Stage.SERVED:
            return NoTarget(
                "model_not_found",
                f"The model {name!r} does not exist or is not available to you.",
                param="model",
            )
        case Stage.ALLOWED:
            return NoTarget("model_not_allowed", f"This key may not use {name!r}.", param="model")
        case Stage.RULES:
            return NoTarget("model_not_allowed", f"No target of {name!r} is allowed by {by}.", param="model")
        case Stage.OPERATION:
            return NoTarget("invalid_request", f"{name!r} does not serve {demands.operation}.", param="model")
        case Stage.CAPABILITY:
            needed = ", ".join(sorted(demands.capabilities))
            return NoTarget(
                "unsupported_parameter", f"No target of {name!r} supports {needed}.", param=needed
            )
        case Stage.REGION:
            regions = ", ".join(sorted(demands.regions or ())) or "none"
            return NoTarget(
                "region_unavailable", f"No target of {name!r} is in an allowed region ({regions})."
            )
        case Stage.DATA:
            return NoTarget(
                "model_not_allowed", f"No target of {name!r} meets the data rules of {by}.", param="model"
            )
        case Stage.CREDENTIALS:
            return NoTarget(
                "model_not_allowed",
                f"No target of {name!r} is reached with a credential of your own, as {by} asks.",
                param="model",
            )
        case Stage.PREFERENCE:
            return NoTarget("unsupported_parameter", f"No target of {name!r} meets {param}.", param=param)
        case Stage.CONTEXT:
            return NoTarget(
                "context_length_exceeded",
                f"About {input_tokens} input tokens do not fit any target of {name!r}.",
                param="messages" if demands.operation is Operation.CHAT else None,
            )
        case Stage.PRICED:
            return NoTarget("model_unpriced", f"No target of {name!r} has a known price.", param="model")
        case Stage.PRICE_LIMIT:
            return NoTarget(
                "model_not_allowed",
                f"Every target of {name!r} costs more than its policy allows.",
                param="model",
            )
        case Stage.PREFERRED_PRICE:
            return NoTarget(
                "unsupported_parameter",
                f"Every target of {name!r} costs more than provider.max_price.",
                param="provider.max_price",
            )
        case Stage.COST_LIMIT:
            return NoTarget(
                "model_not_allowed",
                f"A call of this size costs more than allowed at every target of {name!r}.",
                param="model",
            )
        case Stage.SLOW | Stage.UNRELIABLE:
            return NoTarget(
                "provider_unavailable",
                f"No target of {name!r} is now as {'fast' if stage is Stage.SLOW else 'reliable'} as {by} asks.",
            )
