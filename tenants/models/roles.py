"""Roles of a tenant's own, and actors without a password. What a role may do is said in scopes alone."""

from django.contrib.postgres.fields import ArrayField
from django.db import models

from tenants.models.base import Stamped
from tenants.models.people import OwnedQuerySet, Tenant
from tenants.scopes import scopes_of_role


class CustomRole(Stamped):
    """A tenant's own named set of scopes, never more than a tenant may hold. The slug is set once."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="custom_roles")
    slug = models.SlugField(max_length=63)
    name = models.CharField(max_length=100)
    scopes = ArrayField(models.CharField(max_length=64))

    objects = OwnedQuerySet["CustomRole"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (models.UniqueConstraint(fields=("tenant", "slug"), name="role_once_per_tenant"),)

    def __str__(self) -> str:
        return self.slug


class ServiceAccount(Stamped):
    """An actor without a password in one tenant, which owns keys. Never deleted: its keys explain old rows.

    `role` is the slug of a built-in role, or of `custom_role`. `stopped_at` is set while it is not active.
    """

    class Status(models.TextChoices):
        ACTIVE = "active"
        SUSPENDED = "suspended"
        DEACTIVATED = "deactivated"

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="service_accounts")
    name = models.CharField(max_length=100)
    role = models.CharField(max_length=63)
    custom_role = models.ForeignKey(
        CustomRole, on_delete=models.PROTECT, null=True, blank=True, related_name="service_accounts"
    )
    status = models.CharField(max_length=16, choices=Status, default=Status.ACTIVE)
    stopped_at = models.DateTimeField(null=True, blank=True)
    created_by = models.CharField(max_length=254, blank=True)

    objects = OwnedQuerySet["ServiceAccount"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("tenant", "name"), name="service_account_once_per_tenant"),
            models.CheckConstraint(
                condition=models.Q(status="active", stopped_at__isnull=True)
                | (~models.Q(status="active") & models.Q(stopped_at__isnull=False)),
                name="service_account_stopped_has_instant",
            ),
            models.CheckConstraint(
                condition=models.Q(custom_role__isnull=False)
                | models.Q(role__in=("owner", "admin", "developer", "billing", "viewer")),
                name="service_account_has_a_known_role",
            ),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def scopes(self) -> frozenset[str]:
        """What its role allows. A query unless `custom_role` is loaded or the role is built in."""
        return scopes_of_role(self.role, self.custom_role.scopes if self.custom_role else None)
