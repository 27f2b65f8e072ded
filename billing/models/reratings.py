"""A corrected cost rate over a window of the ledger: asked for, tried out, approved, applied."""

from django.db import models

from tenants.models import Stamped


class ReRating(Stamped):
    """One correction. The row carries the truth; whichever worker finds it takes it one step on.

    `rates` are the corrected rates; empty means the price book as it stands when the dry run begins.
    `frozen` are the complete cards that the dry run used, and that the appending uses too.
    """

    class Status(models.TextChoices):
        QUEUED = "queued"  # waits for its dry run
        RUNNING = "running"
        READY = "ready"  # the diff is there, somebody must approve it
        APPROVED = "approved"  # waits to be appended
        APPLYING = "applying"
        DONE = "done"
        FAILED = "failed"
        REJECTED = "rejected"

    reason = models.CharField(max_length=500)
    start = models.DateTimeField()
    end = models.DateTimeField()
    provider = models.CharField(max_length=63)
    provider_model = models.CharField(max_length=200, blank=True, help_text="Empty: all of the provider.")
    tenants = models.JSONField(default=list, blank=True, help_text="Slugs; empty: all.")
    rates = models.JSONField(default=list, blank=True)
    frozen = models.JSONField(null=True, blank=True)
    needs_two = models.BooleanField(default=False, help_text="Whoever asked for it may not approve it.")
    status = models.CharField(max_length=16, choices=Status, default=Status.QUEUED)
    report = models.JSONField(null=True, blank=True)
    digest = models.CharField(max_length=64, blank=True)
    created_by = models.CharField(max_length=254, blank=True)
    created_by_id = models.UUIDField(null=True, blank=True)
    approved_by = models.CharField(max_length=254, blank=True)
    approved_by_id = models.UUIDField(null=True, blank=True)
    approved_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    position = models.JSONField(null=True, blank=True)  # the last attempt that is through
    appended = models.BigIntegerField(default=0)
    tries = models.PositiveSmallIntegerField(default=0)
    leased_until = models.DateTimeField(null=True, blank=True)
    error = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(condition=models.Q(start__lt=models.F("end")), name="rerating_has_time"),
        )

    def __str__(self) -> str:
        return f"re-rating of {self.provider} {self.start:%Y-%m-%d} to {self.end:%Y-%m-%d}"

    @property
    def is_open(self) -> bool:
        return self.status not in (self.Status.DONE, self.Status.FAILED, self.Status.REJECTED)
