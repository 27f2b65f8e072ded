"""How people get in: invitations, a tenant's own identity provider, what a tenant demands of a sign-in."""

from datetime import datetime

from django.db import models
from django.db.models.functions import Lower

from tenants.models.base import Stamped
from tenants.models.people import OwnedQuerySet, Tenant


class SignInSetting(Stamped):
    """What a tenant demands of its members' sign-ins; no row: nothing beyond a password."""

    tenant = models.OneToOneField(Tenant, on_delete=models.CASCADE, related_name="sign_in")
    require_mfa = models.BooleanField(default=False)

    objects = OwnedQuerySet["SignInSetting"].as_manager()

    def __str__(self) -> str:
        return f"sign-in of {self.tenant}"


class SsoConnection(Stamped):
    """A tenant's OpenID Connect provider. `client_secret` is sealed; who may come in say its confirmed domains.

    `default_role` is the slug of a role for people who come for the first time; empty: invited people alone.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="sso_connections")
    name = models.CharField(max_length=100)
    issuer = models.CharField(max_length=500)
    client_id = models.CharField(max_length=255)
    client_secret = models.BinaryField()
    default_role = models.CharField(max_length=63, blank=True)
    counts_as_mfa = models.BooleanField(default=False)
    is_enabled = models.BooleanField(default=True)
    is_enforced = models.BooleanField(
        default=False, help_text="People of its domains sign in here alone; owners may still use a password."
    )

    objects = OwnedQuerySet["SsoConnection"].as_manager()

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return self.name


class SsoDomain(Stamped):
    """A mail domain that a connection claims. It means nothing until the operator has confirmed it."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="sso_domains")
    connection = models.ForeignKey(SsoConnection, on_delete=models.CASCADE, related_name="domains")
    domain = models.CharField(max_length=253)
    confirmed_at = models.DateTimeField(null=True)

    objects = OwnedQuerySet["SsoDomain"].as_manager()

    class Meta:
        ordering = ("domain",)
        constraints = (
            models.UniqueConstraint(fields=("connection", "domain"), name="sso_domain_once_per_connection"),
            models.UniqueConstraint(
                fields=("domain",),
                condition=models.Q(confirmed_at__isnull=False),
                name="sso_domain_of_one_connection",
            ),
        )

    def __str__(self) -> str:
        return self.domain


class Invitation(Stamped):
    """An offer of a membership to an address. Its token was mailed, works once, and is kept as a digest."""

    class State(models.TextChoices):
        PENDING = "pending"
        ACCEPTED = "accepted"
        EXPIRED = "expired"
        WITHDRAWN = "withdrawn"

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="invitations")
    email = models.EmailField()
    role = models.CharField(max_length=63)
    token_digest = models.BinaryField(max_length=32, unique=True)
    invited_by = models.CharField(max_length=254)
    sent_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True)
    withdrawn_at = models.DateTimeField(null=True)

    objects = OwnedQuerySet["Invitation"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                "tenant",
                Lower("email"),
                condition=models.Q(accepted_at__isnull=True, withdrawn_at__isnull=True),
                name="invitation_open_once",
            ),
        )

    def __str__(self) -> str:
        return f"{self.email} to {self.tenant}"

    def state(self, now: datetime) -> str:
        """One of `State`."""
        if self.accepted_at is not None:
            return self.State.ACCEPTED
        if self.withdrawn_at is not None:
            return self.State.WITHDRAWN
        return self.State.EXPIRED if self.expires_at <= now else self.State.PENDING
