"""API keys and data keys. Digests and wrapped keys alone: never a text that opens anything."""

from django.contrib.postgres.fields import ArrayField
from django.db import models

from tenants.models.base import Stamped
from tenants.models.people import OwnedQuerySet, Tenant
from tenants.models.roles import ServiceAccount


class ApiKey(Stamped):
    """A secret that calls `/v1` and `/api/v1`. Only its keyed hash is kept; the text is shown once.

    `tenant` is empty for a platform key (the operator's own backend). A key of a service account may do no
    more than the account's role, and nothing while the account is stopped. Rows are never deleted: a revoked
    or expired key must go on explaining old ledger rows.
    """

    tenant = models.ForeignKey(
        Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="api_keys"
    )
    service_account = models.ForeignKey(
        ServiceAccount, on_delete=models.PROTECT, null=True, blank=True, related_name="api_keys"
    )
    public_id = models.CharField(max_length=32, unique=True)
    digest = models.BinaryField(max_length=32)
    pepper_id = models.CharField(max_length=16)
    last_four = models.CharField(max_length=4)
    name = models.CharField(max_length=100)
    scopes = ArrayField(models.CharField(max_length=64))
    allowed_models = ArrayField(
        models.CharField(max_length=200), default=list, blank=True, help_text="Empty means all."
    )
    allowed_ips = ArrayField(
        models.CharField(max_length=64), default=list, blank=True, help_text="CIDR ranges; empty means all."
    )
    limit_rpm = models.PositiveIntegerField(null=True, blank=True)
    limit_tpm = models.PositiveBigIntegerField(null=True, blank=True)
    max_concurrent = models.PositiveIntegerField(null=True, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    leaked_at = models.DateTimeField(null=True, blank=True, help_text="When somebody said it had leaked.")
    replaced_by = models.OneToOneField(
        "self", on_delete=models.PROTECT, null=True, blank=True, related_name="replaces"
    )
    last_used_at = models.DateTimeField(null=True, blank=True)
    created_by = models.CharField(max_length=254, blank=True)
    config_version = models.BigIntegerField(default=0, editable=False, db_index=True)

    objects = OwnedQuerySet["ApiKey"].as_manager()

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.name} (th_{self.public_id}_…{self.last_four})"


class DataKey(Stamped):
    """A tenant's data key (AES-256), wrapped by a master key. `tenant` empty: the operator's own.

    An owner has one that is current and may have older ones, which open what was sealed before a rotation.
    `resealed_at` is when nothing was left under it. Rows stay: backups may hold values sealed under them.
    """

    tenant = models.ForeignKey(
        Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="data_keys"
    )
    version = models.PositiveIntegerField(default=1)
    wrapped = models.BinaryField()
    master_key_id = models.CharField(max_length=32, db_index=True)
    retired_at = models.DateTimeField(null=True, blank=True)
    resealed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("tenant", "version"), name="data_key_version_once", nulls_distinct=False
            ),
            models.UniqueConstraint(
                fields=("tenant",),
                condition=models.Q(retired_at__isnull=True),
                name="one_current_data_key",
                nulls_distinct=False,
            ),
        )

    def __str__(self) -> str:
        return f"data key {self.version} of {self.tenant or 'operator'} under {self.master_key_id}"
