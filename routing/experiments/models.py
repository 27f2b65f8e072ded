"""Experiments, shadows and gated rollouts of policies. Who is in which arm is worked out, never stored.

`routing.models` imports them, so that Django finds them.
"""

from typing import Any, ClassVar

from django.db import models

from tenants.ids import uuid7
from tenants.models import Stamped


class Experiment(Stamped):
    """An A/B test on a policy. Its wording is fixed once it has started; the first arm is the control.

    `is_in_force` while it splits calls: running, or promoted with something that a policy's wording cannot
    hold (parameters, a system prompt).
    """

    class Status(models.TextChoices):
        DRAFT = "draft"
        RUNNING = "running"
        STOPPED = "stopped"
        PROMOTED = "promoted"

    policy = models.ForeignKey("routing.RoutingPolicy", on_delete=models.PROTECT, related_name="experiments")
    slug = models.SlugField(max_length=63, unique=True)
    name = models.CharField(max_length=200, blank=True)
    unit = models.CharField(max_length=48, default="tenant", help_text='"tenant", "user" or "tag:<name>".')
    salt = models.CharField(max_length=64)
    arms: "models.JSONField[Any, Any]" = models.JSONField(
        help_text='[{"name", "weight", "targets", "parameters", "system_prompt"}], the control first.'
    )
    status = models.CharField(max_length=16, choices=Status, default=Status.DRAFT)
    is_in_force = models.BooleanField(default=False)
    started_at = models.DateTimeField(null=True, blank=True)
    stopped_at = models.DateTimeField(null=True, blank=True)
    promoted_arm = models.CharField(max_length=40, blank=True)
    created_by = models.CharField(max_length=254, blank=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("policy",), condition=models.Q(is_in_force=True), name="experiment_one_in_force"
            ),
            models.CheckConstraint(
                condition=models.Q(is_in_force=False) | models.Q(status__in=("running", "promoted")),
                name="experiment_in_force_is_running",
            ),
        )

    def __str__(self) -> str:
        return self.slug


class PolicyShadow(Stamped):
    """A share of a policy's calls is sent to other targets too; the answers are measured, never shown or kept."""

    policy = models.OneToOneField("routing.RoutingPolicy", on_delete=models.PROTECT, related_name="shadow")
    share = models.DecimalField(max_digits=5, decimal_places=4, help_text="Of the policy's calls, up to 0.5.")
    targets = models.JSONField(help_text='Model slugs or {"model", "provider", "weight"}.')
    per_minute = models.PositiveIntegerField(default=60, help_text="Mirrored calls at most, per worker.")
    scoring = models.JSONField(default=dict, blank=True, help_text='{"kind", "target", "rubric"}.')
    is_enabled = models.BooleanField(default=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(
                condition=models.Q(share__gt=0, share__lte=0.5), name="shadow_share_up_to_half"
            ),
        )

    def __str__(self) -> str:
        return f"shadow of {self.policy}"


class Rollout(Stamped):
    """A candidate wording of a policy on its way to all calls: first beside them, then for a growing share.

    `candidate` is a wording as `policies.wordings.Wording`; it becomes the policy's next version at the end.
    """

    class Status(models.TextChoices):
        RUNNING = "running"
        COMPLETED = "completed"
        ROLLED_BACK = "rolled_back"

    policy = models.ForeignKey("routing.RoutingPolicy", on_delete=models.PROTECT, related_name="rollouts")
    slug = models.SlugField(max_length=63, unique=True)
    name = models.CharField(max_length=200, blank=True)
    candidate: "models.JSONField[Any, Any]" = models.JSONField()
    base_version = models.PositiveIntegerField(help_text="The policy's version when the rollout began.")
    unit = models.CharField(max_length=48, default="call", help_text='"call", or as an experiment\'s.')
    salt = models.CharField(max_length=64)
    stages: "models.JSONField[Any, Any]" = models.JSONField(help_text='[{"kind": "shadow"|"live", "share"}].')
    gates: "models.JSONField[Any, Any]" = models.JSONField(help_text="routing.experiments.gates.Gates.")
    scoring = models.JSONField(default=dict, blank=True, help_text='{"kind", "target", "rubric"}.')
    min_samples = models.PositiveIntegerField(default=100, help_text="Calls of the candidate, per stage.")
    min_stage_s = models.PositiveIntegerField(default=300, help_text="The shortest time a stage lasts.")
    per_minute = models.PositiveIntegerField(default=60, help_text="Mirrored calls at most, per worker.")
    status = models.CharField(max_length=16, choices=Status, default=Status.RUNNING)
    stage = models.PositiveSmallIntegerField(default=0)
    started_at = models.DateTimeField()
    stage_started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    evaluated_at = models.DateTimeField(null=True, blank=True)
    evaluation = models.JSONField(default=dict, blank=True, help_text="What the last evaluation found.")
    created_by = models.CharField(max_length=254, blank=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("policy",), condition=models.Q(status="running"), name="rollout_one_running"
            ),
        )

    def __str__(self) -> str:
        return self.slug


class RolloutDecision(models.Model):
    """One step of a rollout: who or what took it, why, and the figures it was taken on. Never changed."""

    class Verdict(models.TextChoices):
        START = "start"
        ADVANCE = "advance"
        COMPLETE = "complete"
        ROLL_BACK = "roll_back"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    rollout = models.ForeignKey(Rollout, on_delete=models.PROTECT, related_name="decisions")
    at = models.DateTimeField()
    verdict = models.CharField(max_length=16, choices=Verdict)
    from_stage = models.PositiveSmallIntegerField()
    to_stage = models.PositiveSmallIntegerField()
    reason = models.CharField(max_length=500)
    figures = models.JSONField(default=dict)
    actor = models.CharField(max_length=254)

    class Meta:
        ordering: ClassVar = ("id",)

    def __str__(self) -> str:
        return f"{self.rollout_id} {self.verdict} at {self.at}"
