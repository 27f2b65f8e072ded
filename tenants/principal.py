"""Who is asking, once authentication is done. Pure: no Django, no lookup."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from tenants.scopes import grants


@dataclass(frozen=True, slots=True)
class Principal:
    """A user or a key, with what it may do everywhere and in single tenants.

    `operator_scopes` hold in every tenant and on the platform's own objects; `tenant_scopes` hold in
    that tenant alone.
    """

    kind: Literal["user", "key", "system"]
    id: UUID | None
    label: str
    operator_scopes: frozenset[str] = frozenset()
    tenant_scopes: Mapping[UUID, frozenset[str]] = field(default_factory=dict)

    def can(self, scope: str, tenant_id: UUID | None = None) -> bool:
        """Whether it may do `scope` in that tenant, or on the platform when `tenant_id` is None."""
        if grants(self.operator_scopes, scope):
            return True
        return tenant_id is not None and grants(self.tenant_scopes.get(tenant_id, ()), scope)

    def tenants_with(self, scope: str) -> frozenset[UUID] | None:
        """Tenants in which it may do `scope`; None means all of them."""
        if grants(self.operator_scopes, scope):
            return None
        return frozenset(t for t, held in self.tenant_scopes.items() if grants(held, scope))

    @property
    def is_operator(self) -> bool:
        return bool(self.operator_scopes)


SYSTEM = Principal(kind="system", id=None, label="tollhouse", operator_scopes=frozenset(("*",)))
