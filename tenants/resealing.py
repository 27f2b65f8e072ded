"""Rotates an owner's data key: a new one seals from now on, and stored values move to it in the background.

Every column that holds sealed values is named in `sealed_columns` of its app's config, as "Model.column"; each is
bound to "table|row|column", which is all that moving a value takes. A value that does not open is left as it is.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.apps import apps
from django.db import models, transaction
from django.db.models import Max

from tenants import audit
from tenants.encryption import (
    SealBrokenError,
    Sealed,
    new_data_key,
    remaining_by_key,
    seal,
    unseal_all,
)
from tenants.kms import kms
from tenants.models import DataKey, Tenant
from tenants.principal import Principal

logger = logging.getLogger(__name__)

BATCH: Final = 200
SETTLED_AFTER: Final = timedelta(minutes=15)
"""Longer than any transaction that took the retired key before it was retired, and stores its value after."""


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A column of sealed values. Rows belong to `tenant`, or to the operator where the model has none."""

    model: type[models.Model]
    column: str

    @property
    def name(self) -> str:
        return f"{self.model._meta.db_table}.{self.column}"

    def rows(self, owner: UUID | None) -> models.QuerySet[Any]:
        """The owner's rows; none where the model cannot have any."""
        rows: models.QuerySet[Any] = self.model._base_manager.order_by()
        if any(field.name == "tenant" for field in self.model._meta.concrete_fields):
            rows = rows.filter(tenant_id=owner)
        elif owner is not None:
            rows = rows.none()
        return rows

    def under(self, key: DataKey) -> models.QuerySet[Any]:
        """The rows whose value this data key opens."""
        key_id = models.Func(
            models.F(self.column), 2, 16, function="substring", output_field=models.BinaryField()
        )
        rows: models.QuerySet[Any] = self.rows(key.tenant_id).annotate(sealed_under=key_id)
        return rows.filter(sealed_under=key.id.bytes)

    def place(self, row: models.Model) -> str:
        """What the row's value is bound to."""
        return f"{self.model._meta.db_table}|{row.pk}|{self.column}"


@dataclass(frozen=True, slots=True)
class Rotation:
    """One retired data key with values left under it, by column."""

    tenant: Tenant | None
    version: int
    retired_at: datetime
    remaining: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where rotations stand: data keys under each master key, and values under retired data keys."""

    newest_master_key: str
    data_keys: int
    under_older_master_keys: Mapping[str, int]
    rotations: tuple[Rotation, ...]


def sealed_columns() -> tuple[SealedColumn, ...]:
    """All of them. Raises LookupError for a name that is no model or column."""
    found = []
    for config in apps.get_app_configs():
        for name in getattr(config, "sealed_columns", ()):
            model_name, _, column = name.partition(".")
            model = config.get_model(model_name)
            model._meta.get_field(column)
            found.append(SealedColumn(model, column))
    return tuple(found)


def rotate_data_key(*, tenant: Tenant | None, actor: Principal, now: datetime) -> DataKey:
    """Seal the owner's values under a new data key from now on. Stored ones move with `reseal`.

    Raises KmsUnavailableError.
    """
    with transaction.atomic():
        held = DataKey.objects.select_for_update(of=("self",)).filter(tenant=tenant)
        list(held)
        last = held.aggregate(Max("version"))["version__max"] or 0
        fresh = new_data_key(tenant, version=last + 1)
        held.filter(retired_at__isnull=True).update(retired_at=now)
        fresh.save(force_insert=True)
        audit.record(
            principal=actor,
            action="data_key.rotate",
            object_type="data_key",
            object_id=fresh.id,
            tenant=tenant,
            before={"version": last},
            after={"version": fresh.version, "master_key_id": fresh.master_key_id},
        )
    return fresh


def reseal(*, now: datetime) -> Iterator[int]:
    """Seal anew what lies under retired data keys, batch by batch, reporting how many values each moved.

    May be stopped and started again at any point, and run beside itself. Raises KmsUnavailableError.
    """
    for key in DataKey.objects.filter(retired_at__isnull=False, resealed_at__isnull=True).select_related(
        "tenant"
    ):
        for column in sealed_columns():
            after: Any = None
            while True:
                moved, after = _move(column, key, after)
                if after is None:
                    break
                yield moved
        if key.retired_at is not None and now - key.retired_at >= SETTLED_AFTER and not _remaining(key):
            DataKey.objects.filter(pk=key.pk).update(resealed_at=now)


def progress() -> Progress:
    """Where rotations stand. Raises KmsUnavailableError."""
    newest = kms().newest_id()
    open_keys = (
        DataKey.objects.filter(retired_at__isnull=False, resealed_at__isnull=True)
        .select_related("tenant")
        .order_by("id")
    )
    return Progress(
        newest_master_key=newest,
        data_keys=DataKey.objects.count(),
        under_older_master_keys=remaining_by_key(newest),
        rotations=tuple(
            Rotation(key.tenant, key.version, key.retired_at, _remaining(key))
            for key in open_keys
            if key.retired_at is not None
        ),
    )


def _move(column: SealedColumn, key: DataKey, after: Any) -> tuple[int, Any]:
    """How many values of the next batch moved, and the last row looked at; None at the end."""
    with transaction.atomic():
        rows = column.under(key).select_for_update(of=("self",), skip_locked=True).order_by("pk")
        batch = list((rows if after is None else rows.filter(pk__gt=after))[:BATCH])
        moved = 0
        for row in batch:
            place = column.place(row)
            try:
                (text,) = unseal_all([Sealed(bytes(getattr(row, column.column)), key.tenant_id, place)])
            except SealBrokenError as error:
                logger.error("a value stays under its retired data key: %s", error)
                continue
            blob = seal(text, tenant=key.tenant, context=place)
            column.model._base_manager.filter(pk=row.pk).update(**{column.column: blob})
            moved += 1
    return moved, batch[-1].pk if batch else None


def _remaining(key: DataKey) -> dict[str, int]:
    counts = {column.name: column.under(key).count() for column in sealed_columns()}
    return {name: count for name, count in counts.items() if count}
