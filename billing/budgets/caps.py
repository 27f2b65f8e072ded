"""Loosening a budget under the two-person rule: what counts as loosening, and the verbs that carry it out.

Tightening needs nobody. Must never judge whether a budget is well formed: the resource has, before it asks here.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from django.db import models, transaction

from billing.models import Budget
from tenants import approvals, audit, versions
from tenants.approvals import Draft
from tenants.errors import ApiError
from tenants.principal import Principal

_HARMLESS: Final = ("name", "thresholds")
_STAMPS: Final = ("id", "created_at", "updated_at")


def gate_change(*, budget: Budget, changes: Mapping[str, Any], actor: Principal) -> None:
    """Stop a change that lets more through, where two are needed. `changes` are values by the model's field names.

    Raises as `approvals.gate`.
    """
    moved = {name: value for name, value in changes.items() if getattr(budget, name) != value}
    if any(_loosens(budget, name, value) for name, value in moved.items()):
        texts = _columns(Budget(**moved), [_field(name).attname for name in moved])
        _gate("update", budget, texts, actor)


def gate_removal(*, budget: Budget, actor: Principal) -> None:
    """Stop the removal of a budget in force, where two are needed. Raises as `approvals.gate`."""
    if budget.is_enabled:
        _gate("remove", budget, None, actor)


def _loosens(budget: Budget, name: str, value: Any) -> bool:
    if name in _HARMLESS:
        return False
    if name == "limit":
        return bool(Decimal(value) > budget.limit)
    if name == "is_enabled":
        return not value
    return True  # what is counted, when and how: nobody can say in general that it only tightens


def _gate(verb: str, budget: Budget, changes: Mapping[str, str | None] | None, actor: Principal) -> None:
    names = [field.attname for field in Budget._meta.concrete_fields if field.name not in _STAMPS]
    before = _columns(budget, names)
    approvals.gate(
        Draft(
            kind="caps",
            operation=f"budget.{verb}",
            payload={"budget": str(budget.pk), "changes": changes},
            scope="budgets:write",
            object_type="budget",
            object_id=str(budget.pk),
            tenant=budget.tenant,
            before=before,
            after=None if changes is None else {**before, **changes},
        ),
        actor,
    )


def _columns(budget: Budget, names: Any) -> dict[str, str | None]:
    """The columns as text that `to_python` reads back."""
    shown: dict[str, str | None] = {}
    for name in names:
        field = _field(name)
        is_empty = getattr(budget, field.attname) is None
        shown[name] = None if is_empty else str(field.value_to_string(budget))
    return shown


def _field(name: str) -> "models.Field[Any, Any]":
    field = Budget._meta.get_field(name)
    if not isinstance(field, models.Field):
        raise ApiError("conflict", f"A budget has no field {name!r}.")
    return field


# ------------------------------------------------------------------ carrying it out


@approvals.executor("budget.update")
def _update(payload: Mapping[str, Any], actor: Principal) -> None:
    with transaction.atomic():
        versions.bump("billing")
        budget = _held(payload)
        changes: Mapping[str, str | None] = payload["changes"]
        _gate("update", budget, changes, actor)
        before = _columns(budget, changes)
        for name, text in changes.items():
            field = _field(name)
            target = field.target_field if isinstance(field, models.ForeignKey) else field
            setattr(budget, field.attname, None if text is None else target.to_python(text))
        budget.save()
        audit.record(
            principal=actor, action="budget.update", object_type="budget", object_id=budget.pk,
            tenant=budget.tenant, before=before, after=changes,
        )  # fmt: skip


@approvals.executor("budget.remove")
def _remove(payload: Mapping[str, Any], actor: Principal) -> None:
    with transaction.atomic():
        versions.bump("billing")
        budget = _held(payload)
        _gate("remove", budget, None, actor)
        names = [field.attname for field in Budget._meta.concrete_fields if field.name not in _STAMPS]
        audit.record(
            principal=actor, action="budget.delete", object_type="budget", object_id=budget.pk,
            tenant=budget.tenant, before=_columns(budget, names),
        )  # fmt: skip
        budget.delete()


def _held(payload: Mapping[str, Any]) -> Budget:
    rows = Budget.objects.select_for_update(of=("self",)).select_related("tenant")
    budget = rows.filter(pk=UUID(payload["budget"])).first()
    if budget is None:
        raise ApiError("conflict", "The budget has been removed meanwhile.")
    return budget
