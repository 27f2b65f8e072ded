"""The request log: one row per call, for people to read. Money lives in the ledger, content is not stored here."""

from django.db import models

from tenants.models import Stamped, Tenant


class RequestLog(models.Model):
    """What was asked, where it went and why. Partitioned by day; old days are dropped, not deleted from."""

    pk = models.CompositePrimaryKey("occurred_at", "request_id")
    occurred_at = models.DateTimeField()
    request_id = models.UUIDField()
    tenant = models.ForeignKey(Tenant, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+")
    api_key_id = models.UUIDField()
    operation = models.CharField(max_length=32)
    request_model = models.CharField(max_length=200)
    model = models.CharField(max_length=200)
    provider = models.CharField(max_length=63)
    region = models.CharField(max_length=32)
    policy = models.CharField(max_length=80)
    status = models.PositiveSmallIntegerField()  # HTTP; 499 when the client left
    error_code = models.CharField(max_length=64)
    error_message = models.CharField(max_length=500)
    finish_reason = models.CharField(max_length=32)
    is_stream = models.BooleanField()
    feature = models.CharField(max_length=100)
    end_user = models.CharField(max_length=200)
    tags = models.JSONField(default=dict)
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    usage_source = models.CharField(max_length=16)
    cost_pico = models.BigIntegerField(null=True)
    price_pico = models.BigIntegerField(null=True)
    cost_currency = models.CharField(max_length=3)
    price_currency = models.CharField(max_length=3)
    latency_ms = models.IntegerField()
    first_byte_ms = models.IntegerField(null=True)
    attempts = models.JSONField(
        default=list
    )  # [{provider, model, region, status, error, latency_ms, first_byte_ms}]
    route = models.JSONField(
        default=dict
    )  # {strategy, needs, kept: [{provider, model, score, reason}], dropped: [...]}
    experiment = models.CharField(max_length=80)  # or "rollout:<slug>"
    arm = models.CharField(max_length=40)
    tenant_regions = models.TextField(null=True)  # noqa: DJ001 - "" is anywhere, NULL is not recorded
    kept_in = models.CharField(max_length=32)  # TOLLHOUSE_REGION of the installation that wrote the row

    class Meta:
        managed = False
        db_table = "gateway_request_log"
        ordering = ("-occurred_at", "-request_id")

    def __str__(self) -> str:
        return str(self.request_id)


class Replay(Stamped):
    """A what-if over recorded traffic: the question, how far it is, and the report. Celery finds it by its state."""

    class Status(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        DONE = "done"
        FAILED = "failed"

    candidate = models.JSONField(
        help_text='{"policy", "wording", "rates", "plan", "charges"}: what is tried out.'
    )
    start = models.DateTimeField()
    end = models.DateTimeField()
    tenants = models.JSONField(default=list, blank=True, help_text="Slugs; empty: all.")
    is_whole = models.BooleanField(
        default=False, help_text="All calls of the window, not only those the policy ruled."
    )
    status = models.CharField(max_length=16, choices=Status, default=Status.QUEUED)
    calls = models.BigIntegerField(default=0, help_text="How many there are to replay.")
    done = models.BigIntegerField(default=0)
    tries = models.PositiveSmallIntegerField(default=0)
    leased_until = models.DateTimeField(null=True, blank=True)
    report = models.JSONField(null=True, blank=True)
    error = models.CharField(max_length=500, blank=True)
    created_by = models.CharField(max_length=254, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    promoted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"replay {self.id}"


from gateway.content.models import (  # noqa: E402, F401 - of this app
    ContentDayKey,
    DeletionCertificate,
    Erasure,
    StoredContent,
)
from gateway.experiments.models import Feedback, ShadowSample  # noqa: E402, F401 - of this app
from gateway.privacy.models import PrivacyBinding, PrivacyProfile  # noqa: E402, F401 - of this app
