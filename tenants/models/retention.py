"""How long a tenant's data is kept, and what stops its deletion. Money and meters have no such limit."""

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from tenants.models.base import Stamped
from tenants.models.people import OwnedQuerySet, Tenant

MAX_CONTENT_DAYS = 365
MIN_AUDIT_DAYS = 365


class RetentionSetting(Stamped):
    """One tenant's choice per data class, in days. No row: content is not kept, the rest by the operator's rule.

    `pseudonym_key` is the key of the tenant's pseudonyms (tenants.pseudonyms), sealed.
    """

    tenant = models.OneToOneField(Tenant, on_delete=models.PROTECT, related_name="retention")
    content_days = models.PositiveSmallIntegerField(
        default=0,
        validators=(MaxValueValidator(MAX_CONTENT_DAYS),),
        help_text="What calls said, both ways. 0: never stored.",
    )
    zero_retention = models.BooleanField(
        default=False,
        help_text="Keep nothing a call said or who made it, and call only endpoints that keep nothing.",
    )
    pseudonymize_end_users = models.BooleanField(
        default=False, help_text="Replace end users by pseudonyms before anything is recorded."
    )
    request_log_days = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=(MinValueValidator(1),),
        help_text="End user, tags and error text of the request log. Empty: as long as the operator keeps it.",
    )
    audit_days = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=(MinValueValidator(MIN_AUDIT_DAYS),),
        help_text="At least 365. Empty: for good.",
    )
    artifacts_days = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=(MinValueValidator(1),),
        help_text="What was made out of calls: feedback and shadow samples. Empty: the operator's days.",
    )
    pseudonym_key = models.BinaryField(default=b"", editable=False)

    objects = OwnedQuerySet["RetentionSetting"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(
                condition=models.Q(content_days__lte=MAX_CONTENT_DAYS), name="retention_content_within_a_year"
            ),
            models.CheckConstraint(
                condition=models.Q(zero_retention=False) | models.Q(content_days=0),
                name="retention_zero_keeps_no_content",
            ),
            models.CheckConstraint(
                condition=models.Q(audit_days__isnull=True) | models.Q(audit_days__gte=MIN_AUDIT_DAYS),
                name="retention_audit_at_least_a_year",
            ),
        )

    def __str__(self) -> str:
        return f"retention of {self.tenant_id}"


class LegalHold(Stamped):
    """While it stands, nothing of the tenant's content, logs, artifacts or audit trail is deleted or erased."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="legal_holds")
    reason = models.CharField(max_length=500)
    since = models.DateTimeField()
    placed_by = models.CharField(max_length=254)
    is_operators = models.BooleanField(
        default=False, help_text="Placed by the operator, who alone may lift it."
    )
    released_at = models.DateTimeField(null=True, blank=True)
    released_by = models.CharField(max_length=254, blank=True)

    objects = OwnedQuerySet["LegalHold"].as_manager()

    class Meta:
        ordering = ("-id",)
        indexes = (
            models.Index(
                fields=("tenant",), condition=models.Q(released_at__isnull=True), name="legal_hold_standing"
            ),
        )

    def __str__(self) -> str:
        return f"hold on {self.tenant_id} since {self.since:%Y-%m-%d}"
