"""The one table of scopes and of the roles that bundle them. Pure.

A scope is `area:verb`. A grant may be exact, `area:*`, or `*`. Everything is denied unless granted.
"""

from collections.abc import Collection, Mapping

SCOPES: Mapping[str, str] = {
    "inference:chat": "Call chat models",
    "inference:completions": "Call text completion models",
    "inference:embeddings": "Call embedding models",
    "inference:moderations": "Have texts and pictures moderated",
    "inference:rerank": "Rank documents",
    "inference:feedback": "Rate answers",
    "models:read": "List models and their prices",
    "usage:read": "Read usage reports",
    "cost:read": "See what providers charge the operator",
    "requests:read": "Read the request log",
    "keys:read": "List API keys",
    "keys:write": "Create, rotate and revoke API keys",
    "members:read": "List members",
    "members:write": "Invite, change and remove members",
    "credentials:read": "List provider credentials (never the secret)",
    "credentials:write": "Add and remove provider credentials",
    "budgets:read": "Read budgets",
    "budgets:write": "Change budgets",
    "plans:read": "Read plans and subscriptions",
    "plans:write": "Change plans and subscriptions",
    "invoices:read": "Read invoices and credit notes",
    "invoices:write": "Make, issue, void and credit invoices; change sellers, buyers, taxes and coupons",
    "wallet:read": "Read the wallet, its grants and entries",
    "wallet:write": "Top up the wallet and set automatic top-ups; as operator, grant credit",
    "payments:read": "Read payments, refunds and statements of account",
    "payments:write": "Pay invoices; as operator, book payments, refund and manage reminders",
    "policies:read": "Read routing policies",
    "policies:write": "Change routing policies",
    "tenants:read": "Read tenant settings",
    "tenants:write": "Create and change tenants",
    "tenants:act": "Act for a tenant with X-Tollhouse-Tenant",
    "providers:read": "Read providers, models and endpoints",
    "providers:write": "Change providers, models and endpoints",
    "prices:read": "Read cost rates",
    "prices:write": "Change cost rates",
    "ledger:read": "Run the ledger proof",
    "audit:read": "Read, verify and export the audit trail",
    "audit:write": "Stream the audit trail to other systems",
    "roles:read": "Read roles",
    "roles:write": "Make and change roles of one's own",
    "sso:read": "Read single sign-on settings (never the secret)",
    "sso:write": "Change single sign-on settings",
    "privacy:read": "Read the rules for personal data and the guardrails",
    "privacy:write": "Change the rules for personal data and the guardrails",
    "privacy:reveal": "See what a token of the vault stands for",
    "content:read": "Read stored requests and answers",
    "retention:read": "Read retention, legal holds and deletion certificates",
    "retention:write": "Change retention, hold data, erase an end user's data",
    "residency:read": "Read where data went",
    "approvals:read": "Read what waits for a second person",
    "approvals:write": "Approve or refuse what another person asked for",
}

INFERENCE = ("inference:*", "models:read")
TENANT_READ = (
    "models:read",
    "usage:read",
    "requests:read",
    "keys:read",
    "members:read",
    "budgets:read",
    "plans:read",
    "policies:read",
    "tenants:read",
    "credentials:read",
    "wallet:read",
    "roles:read",
    "sso:read",
    "privacy:read",
    "retention:read",
    "residency:read",
)
_TENANT_WRITE = (
    "keys:write",
    "members:write",
    "credentials:write",
    "budgets:write",
    "audit:read",
    "invoices:read",
    "wallet:write",
    "payments:read",
    "payments:write",
    "audit:write",
    "approvals:read",
    "approvals:write",
    "roles:write",
    "sso:write",
    "privacy:write",
    "privacy:reveal",
    "content:read",
    "retention:write",
)
_TENANT_BILLING = (
    "models:read",
    "usage:read",
    "budgets:read",
    "budgets:write",
    "plans:read",
    "tenants:read",
    "invoices:read",
    "wallet:read",
    "wallet:write",
    "payments:read",
    "payments:write",
)

TENANT_ROLES: Mapping[str, frozenset[str]] = {
    "owner": frozenset((*INFERENCE, *TENANT_READ, *_TENANT_WRITE)),
    "admin": frozenset((*INFERENCE, *TENANT_READ, *_TENANT_WRITE)),
    "developer": frozenset((*INFERENCE, *TENANT_READ, "keys:write")),
    "billing": frozenset(_TENANT_BILLING),
    "viewer": frozenset(TENANT_READ),
}

_OPERATOR_BILLING = (
    "usage:read",
    "cost:read",
    "requests:read",
    "budgets:*",
    "plans:*",
    "invoices:*",
    "wallet:*",
    "payments:*",
    "prices:*",
    "tenants:read",
    "providers:read",
    "models:read",
    "ledger:read",
    "approvals:*",
)
_OPERATOR_SUPPORT = (
    "providers:read",
    "prices:read",
    "cost:read",
    "ledger:read",
    "audit:read",
    "approvals:read",
)

OPERATOR_ROLES: Mapping[str, frozenset[str]] = {
    "owner": frozenset(("*",)),
    "admin": frozenset(("*",)),
    "billing": frozenset(_OPERATOR_BILLING),
    "support": frozenset((*TENANT_READ, *_OPERATOR_SUPPORT)),
}


def grants(held: Collection[str], scope: str) -> bool:
    """Whether `held` (exact scopes and wildcards) covers `scope`."""
    return scope in held or "*" in held or f"{scope.partition(':')[0]}:*" in held


TENANT_SCOPES: frozenset[str] = frozenset(
    scope for scope in SCOPES if any(grants(held, scope) for held in TENANT_ROLES.values())
)
"""What a tenant's own roles may be made of; everything else is the operator's."""
RESERVED_ROLES: frozenset[str] = frozenset((*TENANT_ROLES, *OPERATOR_ROLES))
"""Names no role of a tenant's own may take."""


def scopes_of_role(role: str, custom: Collection[str] | None) -> frozenset[str]:
    """What a role allows in its tenant. `custom`: the scopes of a role of the tenant's own, None if built in."""
    return TENANT_ROLES[role] if custom is None else TENANT_SCOPES.intersection(custom)


def capped(held: Collection[str], by: Collection[str]) -> frozenset[str]:
    """The single scopes that `held` and `by` both cover."""
    return frozenset(scope for scope in SCOPES if grants(held, scope) and grants(by, scope))


def is_scope(value: str) -> bool:
    """Whether `value` may stand on a key: a scope, an `area:*` of one, or `*`."""
    return (
        value in SCOPES
        or value == "*"
        or (value.endswith(":*") and any(s.startswith(value[:-1]) for s in SCOPES))
    )
