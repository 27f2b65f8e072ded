"""Tenants, people, and who is a member of what."""

from typing import Any, ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Lower

from tenants.models.base import Stamped
from tenants.principal import Principal
from tenants.scopes import scopes_of_role


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
    """A person's role in one tenant: `role` is the slug of a built-in one, or of `custom_role`."""

    class Role(models.TextChoices):
        OWNER = "owner"
        ADMIN = "admin"
        DEVELOPER = "developer"
        BILLING = "billing"
        VIEWER = "viewer"

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=63)
    custom_role = models.ForeignKey(
        "tenants.CustomRole", on_delete=models.PROTECT, null=True, blank=True, related_name="memberships"
    )

    objects = OwnedQuerySet["Membership"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("tenant", "user"), name="membership_once_per_tenant"),
            models.CheckConstraint(
                condition=models.Q(custom_role__isnull=False)
                | models.Q(role__in=("owner", "admin", "developer", "billing", "viewer")),
                name="membership_has_a_known_role",
            ),
        )

    def __str__(self) -> str:
        return f"{self.user} as {self.role} of {self.tenant}"

    @property
    def scopes(self) -> frozenset[str]:
        """What its role allows. A query unless `custom_role` is loaded or the role is built in."""
        return scopes_of_role(self.role, self.custom_role.scopes if self.custom_role else None)
