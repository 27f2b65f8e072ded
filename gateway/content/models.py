"""What calls said (sealed), the keys it is sealed under, the proofs of its deletion, and requests to erase a person.

`gateway.models` imports them, so that Django finds them. Nothing here is readable without a tenant's day key.
"""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models

from tenants.ids import uuid7
from tenants.models import OwnedQuerySet, Stamped, Tenant


class StoredContent(models.Model):
    """One call's request and answer, sealed under its tenant's key of that day (UTC). Partitioned by day.

    `end_user` is a pseudonym, "" for nobody; `of_request_id` is set for a shadow's answer. Dropped with its day,
    and unreadable from the moment its day key is destroyed.
    """

    pk = models.CompositePrimaryKey("occurred_at", "request_id")
    occurred_at = models.DateTimeField()
    request_id = models.UUIDField()
    tenant = models.ForeignKey(Tenant, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+")
    kind = models.CharField(max_length=16)  # usage, shadow
    of_request_id = models.UUIDField(null=True)
    end_user = models.CharField(max_length=64)
    day_key_id = models.UUIDField()
    sealed = models.BinaryField()
    size_bytes = models.BigIntegerField()  # of both texts, before they were cut and compressed
    is_cut = models.BooleanField()
    kept_in = models.CharField(max_length=32)  # TOLLHOUSE_REGION
    stored_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "gateway_content"
        ordering: ClassVar = ("-occurred_at", "-request_id")

    def __str__(self) -> str:
        return f"content of {self.request_id}"


class ContentDayKey(Stamped):
    """A tenant's content key of one UTC day, sealed under the tenant's data key; empty once it is destroyed."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="+")
    day = models.DateField()
    sealed_key = models.BinaryField()
    destroyed_at = models.DateTimeField(null=True, blank=True)

    objects = OwnedQuerySet["ContentDayKey"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("tenant", "day"),
                condition=models.Q(destroyed_at__isnull=True),
                name="content_day_key_once",
            ),
            models.CheckConstraint(
                condition=models.Q(destroyed_at__isnull=True) | models.Q(sealed_key=b""),
                name="content_day_key_destroyed_is_empty",
            ),
        )
        indexes = (
            models.Index(
                fields=("day",), condition=models.Q(destroyed_at__isnull=True), name="content_day_key_alive"
            ),
        )

    def __str__(self) -> str:
        return f"content key of {self.tenant_id} for {self.day}"


class DeletionCertificate(models.Model):
    """That something was deleted: what, whose, how many rows, when, by which rule. Append-only, hash-chained.

    `chain` is the tenant's id, or the nil UUID for what concerns the whole installation.
    """

    class DataClass(models.TextChoices):
        CONTENT = "content"
        REQUEST_LOG = "request_log"
        ARTIFACTS = "artifacts"
        END_USER = "end_user"

    class Method(models.TextChoices):
        PARTITION_DROPPED = "partition_dropped"
        KEY_DESTROYED = "key_destroyed"
        ROWS_DELETED = "rows_deleted"
        COLUMNS_BLANKED = "columns_blanked"
        ERASED = "erased"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    chain = models.UUIDField()
    sequence = models.BigIntegerField()
    tenant = models.ForeignKey(
        Tenant, on_delete=models.PROTECT, null=True, related_name="deletion_certificates"
    )
    issued_at = models.DateTimeField()
    data_class = models.CharField(max_length=16, choices=DataClass)
    day = models.DateField(null=True)
    method = models.CharField(max_length=24, choices=Method)
    rows = models.BigIntegerField()
    rule = models.CharField(max_length=200)
    details = models.JSONField(default=dict)
    previous_hash = models.BinaryField(max_length=32)
    hash = models.BinaryField(max_length=32)

    objects = OwnedQuerySet["DeletionCertificate"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("chain", "sequence"), name="certificate_chain_position"),
        )

    def __str__(self) -> str:
        return f"certificate {self.sequence} of {self.chain}"


class Erasure(Stamped):
    """A request to erase one end user: how far it is. The clear name is sealed, and gone once it is done.

    The row stays, by pseudonym alone: what arrives late of this person's calls is recognised by it.
    """

    class Status(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        DONE = "done"

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="erasures")
    pseudonym = models.CharField(max_length=64)
    aliases = ArrayField(
        models.CharField(max_length=64),
        default=list,
        blank=True,
        help_text="Every pseudonym the person's calls may be found by.",
    )
    sealed_name = models.BinaryField(default=b"")
    before = models.DateTimeField(help_text="Calls up to this instant are erased.")
    status = models.CharField(max_length=16, choices=Status, default=Status.QUEUED)
    days_total = models.PositiveIntegerField(default=0)
    days_done = models.PositiveIntegerField(default=0)
    position = models.DateField(null=True, blank=True, help_text="The last day that is done.")
    counts = models.JSONField(default=dict, blank=True)
    leased_until = models.DateTimeField(null=True, blank=True)
    requested_by = models.CharField(max_length=254)
    finished_at = models.DateTimeField(null=True, blank=True)
    certificate = models.OneToOneField(
        DeletionCertificate, on_delete=models.PROTECT, null=True, blank=True, related_name="erasure"
    )

    objects = OwnedQuerySet["Erasure"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("tenant", "pseudonym"),
                condition=~models.Q(status="done"),
                name="erasure_once_at_a_time",
            ),
        )
        indexes = (models.Index(fields=("tenant", "pseudonym"), name="erasure_of_whom"),)

    def __str__(self) -> str:
        return f"erasure of {self.pseudonym}"
