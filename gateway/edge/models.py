"""`GET /v1/models`: what this key may use, in OpenAI's shape with the fields Mistral's client insists on."""

from typing import Any

from gateway.pipeline.call import Caller
from gateway.state.snapshot import Snapshot
from routing.snapshot import ModelEntry, RoutingSnapshot
from tenants.errors import ApiError

PREFIX = "/v1/models/"


def answer(path: str, caller: Caller, snapshot: Snapshot) -> dict[str, Any]:
    """The list, or one model. Raises ApiError model_not_found also for a model this key may not use."""
    if path.startswith(PREFIX):
        name = path[len(PREFIX) :]
        if name in (known := _aliases(caller, snapshot)):
            return known[name]
        model = snapshot.routing.models.get(name)
        if model is None or not _is_usable(model, caller, snapshot.routing):
            raise ApiError("model_not_found", f"The model {name} does not exist or is not available to you.")
        return _shown(model)
    routes = snapshot.routing
    usable = [_shown(model) for model in routes.models.values() if _is_usable(model, caller, routes)]
    return {"object": "list", "data": [*usable, *_aliases(caller, snapshot).values()]}


def _aliases(caller: Caller, snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    """The policies this tenant may name as a model, its own and everybody's, by name."""
    names = [
        f"policy:{slug}" for owner, slug in snapshot.routing.policies if owner in (None, caller.tenant.id)
    ]
    return {
        name: {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "tollhouse",
            "type": "base",
            "capabilities": {},
        }
        for name in names
    }


def _is_usable(model: ModelEntry, caller: Caller, routes: RoutingSnapshot) -> bool:
    own = routes.own
    targets = [
        target
        for target in model.targets
        if not target.needs_own or (caller.tenant.id, target.provider) in own
    ]
    if not targets:
        return False
    for allowed in (caller.key.allowed_models, caller.terms.allowed_models):
        if allowed is not None and model.slug not in allowed:
            return False
    regions = caller.tenant.regions
    return regions is None or any(target.region in regions for target in targets)


def _shown(model: ModelEntry) -> dict[str, Any]:
    return {
        "id": model.slug,
        "object": "model",
        "created": model.created,
        "owned_by": model.owned_by or "tollhouse",
        "type": "base",
        "name": model.name,
        "operations": sorted(model.operations),
        "context_window": model.context_window,
        "max_output_tokens": model.max_output_tokens,
        "capabilities": {
            "completion_chat": "chat" in model.operations,
            "function_calling": "tools" in model.capabilities,
            "vision": "vision" in model.capabilities,
            **dict.fromkeys(sorted(model.capabilities), True),
        },
    }
