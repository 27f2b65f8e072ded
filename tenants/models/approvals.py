"""What one person asked for and another decides: the rows of the two-person rule."""

from django.contrib.postgres.fields import ArrayField
from django.db import models

from tenants.models.base import Stamped
from tenants.models.people import OwnedQuerySet, Tenant


class Proposal(Stamped):
    """A change that waits for a second person, with all that is needed to carry it out exactly as asked.

    `fingerprint` covers the object as it was: a proposal about something that has changed since is refused.
    `people` are all who stand behind whoever proposed it (a key's maker too); none of them may decide.
    """

    class State(models.TextChoices):
        OPEN = "open", "Open"
        EXECUTED = "executed", "Approved and carried out"
        REFUSED = "refused", "Refused"
        WITHDRAWN = "withdrawn", "Withdrawn"
        EXPIRED = "expired", "Expired"

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, null=True, related_name="proposals")
    kind = models.CharField(max_length=16)
    operation = models.CharField(max_length=64)
    payload = models.JSONField()
    scope = models.CharField(max_length=64)
    object_type = models.CharField(max_length=64)
    object_id = models.CharField(max_length=128)
    before = models.JSONField(null=True)
    after = models.JSONField(null=True)
    fingerprint = models.CharField(max_length=64)
    reason = models.CharField(max_length=500, blank=True)
    proposed_by_kind = models.CharField(max_length=8)
    proposed_by_id = models.UUIDField(null=True)
    proposed_by_label = models.CharField(max_length=254)
    people = ArrayField(models.UUIDField())
    state = models.CharField(max_length=10, choices=State, default=State.OPEN, db_index=True)
    expires_at = models.DateTimeField()
    decided_by_kind = models.CharField(max_length=8, blank=True)
    decided_by_id = models.UUIDField(null=True)
    decided_by_label = models.CharField(max_length=254, blank=True)
    decided_reason = models.CharField(max_length=500, blank=True)
    decided_at = models.DateTimeField(null=True)
    notified_at = models.DateTimeField(null=True)

    objects = OwnedQuerySet["Proposal"].as_manager()

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.operation} {self.object_id} ({self.state})"
