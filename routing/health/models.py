"""What is kept of the providers' health for 90 days: five-minute samples, and the times a breaker was open.

`routing.models` imports them, so that Django finds them. Derived from Redis, never read by the data plane.
"""

from typing import Any

from django.db import models

from routing.types import Circuit
from tenants.ids import uuid7


class HealthSample(models.Model):
    """Five minutes of one endpoint, all workers together. Without calls and trouble there is none.

    `attempts` counts those that tell of the endpoint: answers, and failures that are its fault.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    endpoint = models.ForeignKey("routing.Endpoint", on_delete=models.CASCADE, related_name="health_samples")
    at = models.DateTimeField(help_text="The beginning of the five minutes.")
    attempts = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0, help_text="Attempts that were the endpoint's fault.")
    errors: "models.JSONField[Any, Any]" = models.JSONField(
        default=dict, help_text="Kind of error -> how many, those that are not its fault too."
    )
    first_byte_p50_ms = models.FloatField(null=True)
    first_byte_p95_ms = models.FloatField(null=True)
    latency_p95_ms = models.FloatField(null=True)
    circuit = models.CharField(
        max_length=16,
        choices=[(circuit.value, circuit.value) for circuit in Circuit],
        help_text="Open if the breaker was, at any time in these minutes.",
    )

    class Meta:
        ordering = ("-at",)
        constraints = (
            models.UniqueConstraint(fields=("endpoint", "at"), name="health_sample_once"),
            models.CheckConstraint(
                condition=models.Q(failed__lte=models.F("attempts")), name="health_sample_failed_of_attempts"
            ),
        )
        indexes = (models.Index(fields=("at",), name="health_sample_at"),)

    def __str__(self) -> str:
        return f"{self.endpoint_id} {self.at:%Y-%m-%d %H:%M}"


class Incident(models.Model):
    """A time in which an endpoint's breaker was open, half-open probes included."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    endpoint = models.ForeignKey("routing.Endpoint", on_delete=models.CASCADE, related_name="incidents")
    opened_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=200)
    opened_by = models.CharField(max_length=16, help_text="calls or check.")
    closed_by = models.CharField(
        max_length=16, blank=True, help_text="calls, check, operator, or lost: nobody knows its breaker now."
    )

    class Meta:
        ordering = ("-opened_at",)
        constraints = (
            models.UniqueConstraint(fields=("endpoint", "opened_at"), name="incident_once"),
            models.CheckConstraint(
                condition=models.Q(closed_at__isnull=True) | models.Q(closed_at__gte=models.F("opened_at")),
                name="incident_closed_after_opened",
            ),
        )
        indexes = (models.Index(fields=("opened_at",), name="incident_opened_at"),)

    def __str__(self) -> str:
        return f"{self.endpoint_id} since {self.opened_at:%Y-%m-%d %H:%M:%S}"
