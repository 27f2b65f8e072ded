"""Who may do what, read off the code: every route of the URL configuration with the scope that it declares.

The matrix test walks it, and docs/permissions.md is written from it. Decides nothing itself: the frames of
the API (tenants/rest.py), the console (tenants/console.py) and the data plane do. A route that declares
nothing, and is not named here as public, is an error.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

from django.urls import URLPattern, URLResolver, get_resolver

from gateway.edge import views as edge
from tenants.console import Access
from tenants.principal import Principal
from tenants.rest import Guarded
from tenants.scopes import OPERATOR_ROLES, SCOPES, TENANT_ROLES, TENANT_SCOPES, grants

type Reach = Literal["public", "signed in", "tenant", "owned", "open", "platform"]
"""In which places the scope counts: the tenant in the path, the tenant of the object (or any tenant, for a
list), any tenant at all, or the platform alone."""
type Door = Literal["API", "console", "data plane", "public"]

PUBLIC: Final[Mapping[str, str]] = {
    "healthz": "says only that the process lives",
    "readyz": "says which stores answer; nothing about tenants",
    "metrics": "totals without names; keep it from the outside at the proxy",
    "api/v1/schema/": "the shape of the API",
    "api/v1/docs/": "the shape of the API, to read",
    "api/v1/keys/leak-report/": "refuses the key whose whole text it is given; answers every text alike",
    "api/v1/payments/stripe/webhook/": "takes what Stripe has signed, and nothing else",
    "api/v1/^.*$": "the last 404",
    "v1/<path:anything>": "the last 404",
    "v1beta/<path:anything>": "the last 404",
}
"""Routes open to everybody, and why. `accounts/` (signing in and out) guards itself, by session."""
OUTSIDE: Final = ("accounts/", "admin/")
DATA_PLANE: Final[Mapping[type, str]] = {
    edge.ChatCompletions: "inference:chat",
    edge.Completions: "inference:completions",
    edge.Embeddings: "inference:embeddings",
    edge.Moderations: "inference:moderations",
    edge.Rerank: "inference:rerank",
    edge.Messages: "inference:chat",
    edge.Responses: "inference:chat",
    edge.GenerateContent: "inference:chat",
    edge.GiveFeedback: "inference:feedback",
    edge.Model: "",
    edge.Models: "",
    edge.Generation: "",
}
"""What a key needs there. Empty: any valid key, since it learns only what it may use or has done itself."""
OPERATOR_ONLY: Final = frozenset(
    {
        *(("platform-key-list", method) for method in ("GET", "POST")),
        *(("platform-key-detail", method) for method in ("GET", "PATCH")),
        *((f"platform-key-{verb}", "POST") for verb in ("rotate", "revoke", "bulk-rotate", "bulk-revoke")),
        *(
            (f"{kind}-{place}", method)
            for kind in ("feature", "policy-binding")
            for place, method in (("list", "POST"), ("detail", "PATCH"), ("detail", "DELETE"))
        ),
        ("credit-grant-list", "POST"),
        ("invoice-list", "POST"),
        ("payment-list", "POST"),
    }
)
"""Routes whose handler asks for the scope on the platform, whoever's the object is: the operator's own keys,
and what only an operator makes for a tenant.
"""


class UndeclaredRouteError(Exception):
    """A route that says for nobody who may enter."""


@dataclass(frozen=True, slots=True)
class Route:
    """One path and method. `scope` is None on a public route, empty where being known is enough."""

    path: str
    name: str
    method: str
    door: Door
    reach: Reach
    scope: str | None
    view: Any

    def admits(self, principal: Principal | None, tenant_id: UUID | None) -> bool:
        """Whether the declaration lets `principal` (None: nobody signed in) in, for an object of `tenant_id`
        (None: no object in particular).
        """
        if self.scope is None:
            return True
        if principal is None:
            return False
        if self.reach == "signed in":
            return principal.kind == "user"
        if self.reach == "platform" or (self.name, self.method) in OPERATOR_ONLY:
            return principal.can(self.scope)
        if self.reach == "tenant" and self.door == "console" and not principal.can("tenants:read", tenant_id):
            return False
        if self.reach == "open" or tenant_id is None:
            return principal.can(self.scope) or bool(principal.tenants_with(self.scope))
        return principal.can(self.scope, tenant_id)


def routes() -> tuple[Route, ...]:
    """Every route, by door and path. Raises UndeclaredRouteError naming those that declare nothing."""
    found: list[Route] = []
    undeclared: list[str] = []
    for path, pattern in _patterns(get_resolver().url_patterns):
        if path.startswith(OUTSIDE):
            continue
        made = list(_declared(path, pattern))
        if not made:
            undeclared.append(path)
        found += made
    if undeclared:
        raise UndeclaredRouteError(", ".join(sorted(set(undeclared))))
    unique = {(route.path, route.method): route for route in reversed(found)}  # Django takes the first match
    return tuple(sorted(unique.values(), key=lambda route: (route.door, route.path, route.method)))


def _patterns(patterns: list[Any], prefix: str = "") -> Iterator[tuple[str, URLPattern]]:
    for each in patterns:
        path = prefix + str(each.pattern)
        if isinstance(each, URLResolver):
            yield from _patterns(each.url_patterns, path)
        else:
            yield path, each


def _declared(path: str, pattern: URLPattern) -> Iterator[Route]:
    callback: Any = pattern.callback
    access: Access | None = getattr(callback, "console_access", None)
    view: Any = getattr(callback, "cls", None) or getattr(callback, "view_class", None)
    name = pattern.name or ""
    if path in PUBLIC:
        yield Route(f"/{path}", name, "GET", "public", "public", None, callback)
    elif access is not None:
        reach: Reach = "signed in" if access.place == "signed_in" else access.place
        for method, scope in (("GET", access.read), ("POST", access.write)):
            if scope is not None:
                yield Route(f"/{path}", name, method, "console", reach, scope, callback)
    elif view in DATA_PLANE:
        for method in ("get", "post"):
            if hasattr(view, method):
                scope = DATA_PLANE[view]
                yield Route(f"/{path}", name, method.upper(), "data plane", "open", scope, view)
    elif view is not None and issubclass(view, Guarded):
        yield from _guarded(path, name, view, callback)


def _guarded(path: str, name: str, view: type[Guarded], callback: Any) -> Iterator[Route]:
    actions: Mapping[str, str] = getattr(callback, "actions", None) or {}
    methods = actions or {each: "" for each in view.http_method_names if hasattr(view, each)}
    for method, action in sorted(methods.items()):
        if method not in view.http_method_names or method == "head":
            continue
        is_read = method == "get"
        scope = view.action_scopes.get(action) or (view.read_scope if is_read else view.write_scope)
        if scope is None:
            raise UndeclaredRouteError(f"{method.upper()} {path}")
        reach: Reach = "platform"
        if f":{view.tenant_kwarg}>" in path:
            reach = "tenant"
        elif view.is_open_to_tenants and is_read:
            reach = "open"
        elif hasattr(getattr(view, "queryset", None), "visible_to"):
            reach = "owned"
        yield Route(f"/{path}", name, method.upper(), "API", reach, scope, view)


# ------------------------------------------------------------------ in words

_WHERE: Final[Mapping[Reach, str]] = {
    "public": "everybody",
    "signed in": "whoever is signed in",
    "tenant": "in the tenant of the path",
    "owned": "in the object's tenant",
    "open": "in any tenant",
    "platform": "on the platform (operators)",
}
_INTRODUCTION: Final = """# Permissions

Written by `manage.py permissions_doc` from the code; a test holds this page equal to it. Do not edit.

Everything is denied unless a scope below grants it. A person's scopes come from their operator role (they hold
everywhere) and from their role in each tenant (they hold there alone); a key has its own scopes, and a service
account's key no more than the account's role. Under every query of a tenant's person or key stands a second
wall, PostgreSQL's row-level security (`tenants/isolation.py`). What a stranger asks for does not exist (404).
Console pages of a tenant also need `tenants:read` in it.

A tenant's own roles are made of the scopes marked *own roles*. `owner` and `admin` hold the same scopes; only an
owner makes, changes or removes owners, and nobody gives a role or a scope they do not hold.
"""


def document() -> str:
    """docs/permissions.md."""
    known = routes()
    return "\n".join(
        (
            _INTRODUCTION,
            "## Roles and scopes\n",
            *_role_table(),
            "\n## API\n",
            *_route_table(known, "API"),
            "\n## Data plane\n",
            "Keys alone, in the tenant they belong to or act for.\n",
            *_route_table(known, "data plane"),
            "\n## Console\n",
            *_route_table(known, "console"),
            "\n## Open to everybody\n",
            *_table(("Route", "Why"), [(f"`/{path}`", why) for path, why in PUBLIC.items()]),
            "",
        )
    )


def _role_table() -> Iterator[str]:
    columns: list[tuple[str, Callable[[str], bool]]] = [
        *((f"operator {role}", _holds(held)) for role, held in OPERATOR_ROLES.items()),
        *((role, _holds(held)) for role, held in TENANT_ROLES.items()),
        ("*own roles*", TENANT_SCOPES.__contains__),
    ]
    rows = [
        (f"`{scope}`", words, *("●" if holds(scope) else "" for _, holds in columns))
        for scope, words in SCOPES.items()
    ]
    return _table(("Scope", "Allows", *(head for head, _ in columns)), rows)


def _holds(held: frozenset[str]) -> Callable[[str], bool]:
    return lambda scope: grants(held, scope)


def _route_table(known: tuple[Route, ...], door: Door) -> Iterator[str]:
    rows = [
        (
            f"{route.method} `{route.path}`",
            f"`{route.scope}`" if route.scope else "",
            _WHERE["platform"] if (route.name, route.method) in OPERATOR_ONLY else _WHERE[route.reach],
        )
        for route in known
        if route.door == door
    ]
    return _table(("Route", "Scope", "Held"), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |"
