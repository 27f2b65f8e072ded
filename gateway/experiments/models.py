"""What became of calls: what callers thought of the answers, and what mirrored calls measured.

`gateway.models` imports them, so that Django finds them. Neither holds a prompt or an answer.
"""

from typing import ClassVar

from django.db import models

from tenants.models import ApiKey, OwnedQuerySet, Stamped, Tenant


class Feedback(Stamped):
    """A caller's verdict on one answer; `score` is in [-1, 1]. One per call, key and label: the last one counts."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="feedback")
    api_key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, related_name="+")
    request_id = models.UUIDField()
    occurred_at = models.DateTimeField(help_text="When the call began.")
    label = models.CharField(max_length=64, blank=True)
    score = models.FloatField()
    comment = models.CharField(max_length=2000, blank=True)
    experiment = models.CharField(max_length=80, blank=True)
    arm = models.CharField(max_length=40, blank=True)

    objects = OwnedQuerySet["Feedback"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("request_id", "api_key", "label"), name="feedback_once_per_call_key_and_label"
            ),
            models.CheckConstraint(
                condition=models.Q(score__gte=-1, score__lte=1), name="feedback_score_in_range"
            ),
        )
        indexes = (
            models.Index(
                fields=("experiment", "occurred_at"),
                condition=~models.Q(experiment=""),
                name="feedback_of_experiment",
            ),
        )

    def __str__(self) -> str:
        return f"{self.score} for {self.request_id}"


class ShadowSample(models.Model):
    """One mirrored call: how it went, beside how the real one (`of_…`) went. For operators alone."""

    request_id = models.UUIDField(primary_key=True)
    occurred_at = models.DateTimeField()
    tenant_id = models.UUIDField()
    of_request_id = models.UUIDField()
    policy = models.CharField(max_length=80)
    rollout = models.CharField(max_length=63)
    operation = models.CharField(max_length=32)
    provider = models.CharField(max_length=63)
    model = models.CharField(max_length=200)
    region = models.CharField(max_length=32)
    status = models.PositiveSmallIntegerField()  # HTTP
    error_code = models.CharField(max_length=64)
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    latency_ms = models.IntegerField()
    cost_pico = models.BigIntegerField(null=True)
    cost_currency = models.CharField(max_length=3)
    is_json_valid = models.BooleanField(null=True)  # None: the call did not ask for JSON
    scoring = models.CharField(max_length=16)  # exact_match, similarity, rubric, or none
    score = models.FloatField(null=True)  # in [0, 1]
    of_provider = models.CharField(max_length=63)
    of_model = models.CharField(max_length=200)
    of_status = models.PositiveSmallIntegerField()
    of_latency_ms = models.IntegerField()
    of_cost_pico = models.BigIntegerField(null=True)
    of_cost_currency = models.CharField(max_length=3)
    of_is_json_valid = models.BooleanField(null=True)

    class Meta:
        ordering: ClassVar = ("-occurred_at",)
        indexes = (
            models.Index(fields=("policy", "occurred_at"), name="shadow_of_policy"),
            models.Index(fields=("rollout", "occurred_at"), name="shadow_of_rollout"),
            models.Index(fields=("occurred_at",), name="shadow_by_time"),
        )

    def __str__(self) -> str:
        return f"shadow of {self.of_request_id}"
