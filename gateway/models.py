"""The request log: one row per call, for people to read. Money lives in the ledger, content is not stored here."""

from django.db import models

from tenants.models import Tenant


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
    )  # {strategy, kept: [{provider, model, score, reason}], dropped: [...]}

    class Meta:
        managed = False
        db_table = "gateway_request_log"
        ordering = ("-occurred_at", "-request_id")

    def __str__(self) -> str:
        return str(self.request_id)
