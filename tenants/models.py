"""Who: tenants, people, roles, keys; and the rows that every floor above leans on (audit, config versions).

Money, providers and routes are unknown here.
"""

from typing import Any, ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Lower

from tenants.ids import uuid7
from tenants.principal import Principal


class Stamped(models.Model):
    """A row with a time-sorted id and the two usual instants."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        abstract = True


# ------------------------------------------------------------------ tenants and people


class TenantQuerySet(models.QuerySet["Tenant"]):
    def visible_to(self, principal: Principal, scope: str) -> "TenantQuerySet":
        """Tenants in which the principal holds `scope`."""
        allowed = principal.tenants_with(scope)
        return self if allowed is None else self.filter(id__in=allowed)


class Tenant(Stamped):
    """A customer of the operator: the unit of isolation, of limits and of invoices."""

    class Status(models.TextChoices):
        ACTIVE = "active"
        SUSPENDED = "suspended"

    slug = models.SlugField(max_length=63, unique=True)
    name = models.CharField(max_length=200)
    status = models.CharField(max_length=16, choices=Status, default=Status.ACTIVE)
    timezone = models.CharField(max_length=64, default="UTC")
    currency = models.CharField(max_length=3, default="USD")
    region_policy = ArrayField(
        models.CharField(max_length=32),
        default=list,
        blank=True,
        help_text="Regions its data may go to; empty means all.",
    )
    config_version = models.BigIntegerField(default=0, editable=False, db_index=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return self.slug


class OwnedQuerySet[M: models.Model](models.QuerySet[M]):
    """Rows that belong to a tenant; the only way the console and the API read them."""

    def for_tenant(self, tenant: Tenant) -> "OwnedQuerySet[M]":
        return self.filter(tenant=tenant)

    def visible_to(self, principal: Principal, scope: str) -> "OwnedQuerySet[M]":
        """Rows of the tenants in which the principal holds `scope` (platform rows only for operators)."""
        allowed = principal.tenants_with(scope)
        return self if allowed is None else self.filter(tenant_id__in=allowed)


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> "User":
        user = self.model(email=self.normalize_email(email).lower(), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> "User":
        return self.create_user(
            email,
            password,
            **{"is_staff": True, "is_superuser": True, "operator_role": User.OperatorRole.OWNER, **fields},
        )


class User(Stamped, AbstractBaseUser, PermissionsMixin):
    """A person. `operator_role` makes them staff of the operator; tenants are reached by Membership."""

    class OperatorRole(models.TextChoices):
        NONE = "", "none"
        OWNER = "owner"
        ADMIN = "admin"
        BILLING = "billing"
        SUPPORT = "support"

    email = models.EmailField(unique=True)
    name = models.CharField(max_length=200, blank=True)
    operator_role = models.CharField(
        max_length=16, choices=OperatorRole, default=OperatorRole.NONE, blank=True
    )
    timezone = models.CharField(max_length=64, default="UTC")
    is_active = models.BooleanField(default=True)
    is_staff = models.BooleanField(default=False, help_text="May enter the break-glass admin.")

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    objects = UserManager()

    class Meta:
        ordering = ("email",)
        constraints = (models.UniqueConstraint(Lower("email"), name="user_email_case_insensitive"),)

    def __str__(self) -> str:
        return self.email


class Membership(Stamped):
    """A person's role in one tenant."""

    class Role(models.TextChoices):
        OWNER = "owner"
        ADMIN = "admin"
        DEVELOPER = "developer"
        BILLING = "billing"
        VIEWER = "viewer"

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role)

    objects = OwnedQuerySet["Membership"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (models.UniqueConstraint(fields=("tenant", "user"), name="membership_once_per_tenant"),)

    def __str__(self) -> str:
        return f"{self.user} as {self.role} of {self.tenant}"


# ------------------------------------------------------------------ keys


class ApiKey(Stamped):
    """A secret that calls `/v1` and `/api/v1`. Only its keyed hash is kept; the text is shown once.

    `tenant` is empty for a platform key (the operator's own backend). Rows are never deleted: a revoked
    or expired key must go on explaining old ledger rows.
    """

    tenant = models.ForeignKey(
        Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="api_keys"
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
    """A tenant's data key (AES-256), wrapped by a master key. `tenant` empty: the operator's own."""

    tenant = models.OneToOneField(
        Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="data_key"
    )
    wrapped = models.BinaryField()
    master_key_id = models.CharField(max_length=32, db_index=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                models.Value(1), condition=models.Q(tenant__isnull=True), name="one_operator_data_key"
            ),
        )

    def __str__(self) -> str:
        return f"data key of {self.tenant or 'operator'} under {self.master_key_id}"


# ------------------------------------------------------------------ config versions, audit, idempotency


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
