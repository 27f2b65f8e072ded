"""Reminding of what is owed: the schedule of a seller, the reminders of an invoice, and where none is sent."""

from datetime import time

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from billing.models.invoices import Invoice, LegalEntity
from tenants.models import OwnedQuerySet, Stamped, Tenant


def default_schedule() -> list[int]:
    return [3, 10, 20]


class DunningSchedule(Stamped):
    """When a seller's buyers are reminded (R27): so many local days after the due date. None, no reminders."""

    legal_entity = models.OneToOneField(LegalEntity, on_delete=models.PROTECT, related_name="dunning")
    days = ArrayField(
        models.SmallIntegerField(validators=(MinValueValidator(-60), MaxValueValidator(365))),
        default=default_schedule,
        size=12,
        help_text="After the due date; before it, if negative.",
    )
    local_time = models.TimeField(default=time(9))
    is_enabled = models.BooleanField(default=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"reminders of {self.legal_entity}"


class DunningHold(Stamped):
    """An invoice that nobody is reminded of: until an instant, or for good."""

    invoice = models.OneToOneField(Invoice, on_delete=models.PROTECT, related_name="dunning_hold")
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="dunning_holds")
    until = models.DateTimeField(null=True, blank=True, help_text="Empty: for good.")
    reason = models.CharField(max_length=300)

    objects = OwnedQuerySet["DunningHold"].as_manager()

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"no reminders of {self.invoice}"


class DunningReminder(Stamped):
    """One step of one invoice. `next_at`: when it is due, or when a sender that died with it is given up."""

    class State(models.TextChoices):
        PENDING = "pending"
        SENT = "sent"
        SKIPPED = "skipped"
        FAILED = "failed"

    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="reminders")
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="reminders")
    day = models.SmallIntegerField()
    due_at = models.DateTimeField()
    next_at = models.DateTimeField()
    state = models.CharField(max_length=8, choices=State, default=State.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    sent_at = models.DateTimeField(null=True, blank=True)
    recipients = ArrayField(models.EmailField(), default=list, blank=True)
    detail = models.CharField(max_length=300, blank=True)

    objects = OwnedQuerySet["DunningReminder"].as_manager()

    class Meta:
        ordering = ("-due_at", "-id")
        indexes = (models.Index(fields=("next_at",), condition=Q(state="pending"), name="reminder_due"),)
        constraints = (models.UniqueConstraint(fields=("invoice", "day"), name="reminder_once_per_step"),)

    def __str__(self) -> str:
        return f"{self.invoice} day {self.day}"
