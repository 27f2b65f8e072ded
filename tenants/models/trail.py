"""Rows that every floor leans on: config versions, the audit trail, first answers to repeated writes."""

from django.db import models

from tenants.ids import uuid7
from tenants.models.base import Stamped
from tenants.models.people import OwnedQuerySet, Tenant


class ConfigVersion(models.Model):
    """How often a floor's configuration has changed; workers poll it and reload what moved."""

    section = models.CharField(max_length=16, primary_key=True)
    version = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.section}@{self.version}"


class AuditEvent(models.Model):
    """One write, by whom and what changed. Append-only by trigger, hash-chained per tenant.

    `chain` is the tenant's id, or the nil UUID for the operator's own objects.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    chain = models.UUIDField()
    sequence = models.BigIntegerField()
    at = models.DateTimeField()
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, null=True, related_name="audit_events")
    actor_kind = models.CharField(max_length=8)
    actor_id = models.UUIDField(null=True)
    actor_label = models.CharField(max_length=254)
    action = models.CharField(max_length=64)
    object_type = models.CharField(max_length=64)
    object_id = models.CharField(max_length=128)
    before = models.JSONField(null=True)
    after = models.JSONField(null=True)
    ip = models.GenericIPAddressField(null=True)
    request_id = models.CharField(max_length=64, blank=True)
    reason = models.CharField(max_length=500, blank=True, default="")
    previous_hash = models.BinaryField(max_length=32)
    hash = models.BinaryField(max_length=32)

    objects = OwnedQuerySet["AuditEvent"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (models.UniqueConstraint(fields=("chain", "sequence"), name="audit_chain_position"),)

    def __str__(self) -> str:
        return f"{self.actor_label} {self.action} {self.object_type} {self.object_id}"


class AuditHead(models.Model):
    """The end of one audit chain; its row lock puts the chain's writers in line."""

    chain = models.UUIDField(primary_key=True)
    sequence = models.BigIntegerField(default=0)
    hash = models.BinaryField(max_length=32, default=bytes(32))

    def __str__(self) -> str:
        return f"{self.chain}#{self.sequence}"


class AuditCheckpoint(models.Model):
    """Where a chain begins since retention removed its older events. Append-only by trigger.

    `sequence` and `hash` are those of the last event removed; the deletion trigger lets events go only below a
    checkpoint, and only a year after they were written. `certificate` covers this row and the one before it.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    chain = models.UUIDField()
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, null=True, related_name="+")
    sequence = models.BigIntegerField()
    hash = models.BinaryField(max_length=32)
    count = models.BigIntegerField()
    first_at = models.DateTimeField()
    last_at = models.DateTimeField()
    kept_days = models.PositiveIntegerField()
    removed_at = models.DateTimeField()
    certificate = models.BinaryField(max_length=32)

    objects = OwnedQuerySet["AuditCheckpoint"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("chain", "sequence"), name="audit_checkpoint_position"),
        )

    def __str__(self) -> str:
        return f"{self.chain} from {self.sequence + 1}"


class AuditSink(Stamped):
    """Another system that is sent a chain's events in order, at least once: a webhook or a syslog server.

    Without a tenant it is the operator's: of the operator's own chain, or of all chains. `sealed` holds the
    signing secrets of a webhook. What was delivered stands in its cursors.
    """

    class Kind(models.TextChoices):
        WEBHOOK = "webhook", "Webhook"
        SYSLOG = "syslog", "Syslog"

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, null=True, related_name="audit_sinks")
    name = models.CharField(max_length=100)
    kind = models.CharField(max_length=8, choices=Kind)
    target = models.CharField(
        max_length=2000, help_text="https://…, or syslog+tls://host:port, or syslog+tcp://host:port"
    )
    ca_certificate = models.TextField(blank=True, help_text="PEM; empty trusts the system's authorities.")
    has_all_chains = models.BooleanField(default=False)
    is_enabled = models.BooleanField(default=True)
    sealed = models.BinaryField(null=True)
    failures = models.PositiveIntegerField(default=0)
    next_at = models.DateTimeField(db_index=True)
    lease_until = models.DateTimeField(null=True)
    delivered_at = models.DateTimeField(null=True)
    last_error = models.CharField(max_length=300, blank=True)

    objects = OwnedQuerySet["AuditSink"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(
                condition=models.Q(tenant__isnull=True) | models.Q(has_all_chains=False),
                name="audit_sink_own_chain",
            ),
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.kind})"


class AuditSinkCursor(models.Model):
    """The last event of one chain that a sink has taken."""

    sink = models.ForeignKey(AuditSink, on_delete=models.CASCADE, related_name="cursors")
    chain = models.UUIDField()
    sequence = models.BigIntegerField(default=0)

    class Meta:
        constraints = (models.UniqueConstraint(fields=("sink", "chain"), name="audit_sink_cursor"),)

    def __str__(self) -> str:
        return f"{self.sink_id} {self.chain}#{self.sequence}"


class IdempotencyRecord(models.Model):
    """The first answer to a write that carried an Idempotency-Key, kept for 24 hours."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    owner = models.CharField(max_length=64)
    key = models.CharField(max_length=255)
    fingerprint = models.BinaryField(max_length=32)
    status = models.PositiveSmallIntegerField(null=True)
    body = models.JSONField(null=True)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=("owner", "key"), name="idempotency_key_once"),)

    def __str__(self) -> str:
        return self.key
