"""The ledger and its rollups. Ledger rows are only ever added (a trigger refuses all else).

Rollups are sums of the ledger, written in its transaction. The tables are partitioned by PostgreSQL;
migration 0003 creates them by hand.
"""

from django.db import models

NIL = "00000000-0000-0000-0000-000000000000"


class UsageEvent(models.Model):
    """One attempt at a provider, frozen: what was used, what it cost us, what the tenant owes.

    `occurred_at` is the time in the request's UUIDv7, so a repeated record meets the same partition and
    the primary key drops it. Amounts are pico-units of their currency; NULL means unpriced, which is not
    zero. `is_final` marks the attempt that answered the caller (or the last that failed to).
    """

    pk = models.CompositePrimaryKey("occurred_at", "request_id", "attempt", "kind")
    occurred_at = models.DateTimeField()
    request_id = models.UUIDField()
    attempt = models.PositiveSmallIntegerField()
    kind = models.CharField(max_length=16)  # usage, reversal, replacement, rerate, adjustment, shadow, eval
    recorded_at = models.DateTimeField()
    tenant_id = models.UUIDField()
    api_key_id = models.UUIDField()
    plan_version_id = models.UUIDField()
    feature = models.CharField(max_length=100)
    end_user = models.CharField(max_length=200)
    operation = models.CharField(max_length=32)
    request_model = models.CharField(max_length=200)
    model = models.CharField(max_length=200)
    provider = models.CharField(max_length=63)
    provider_model = models.CharField(max_length=200)
    endpoint_id = models.UUIDField()
    region = models.CharField(max_length=32)
    service_tier = models.CharField(max_length=32)
    policy = models.CharField(max_length=80)
    status = models.CharField(
        max_length=16
    )  # ok, error, cut (stream broke), cancelled (client left), unknown
    error_type = models.CharField(max_length=32)
    is_final = models.BooleanField()
    is_stream = models.BooleanField()
    is_byok = models.BooleanField()
    usage_source = models.CharField(max_length=16)  # provider, estimated, unknown
    input_tokens = models.BigIntegerField()  # plain
    cache_read_tokens = models.BigIntegerField()
    cache_write_tokens = models.BigIntegerField()  # both lifetimes; other_units has those of an hour
    output_tokens = models.BigIntegerField()  # visible
    reasoning_tokens = models.BigIntegerField()
    other_units = models.JSONField(null=True)  # component -> count, for audio, images, searches ...
    cost_pico = models.BigIntegerField(null=True)
    cost_currency = models.CharField(max_length=3)
    price_pico = models.BigIntegerField(null=True)
    price_currency = models.CharField(max_length=3)
    cost_components = models.JSONField(null=True)  # component -> pico
    latency_ms = models.IntegerField()
    first_byte_ms = models.IntegerField(null=True)
    tags = models.JSONField(null=True)  # X-Tollhouse-Tags, key -> value
    ref_request_id = models.UUIDField(null=True)  # of a rerate: the request whose attempt it corrects
    tenant_regions = models.TextField(null=True)  # noqa: DJ001 - "" is anywhere, NULL is not recorded

    class Meta:
        managed = False
        db_table = "billing_usage_event"

    def __str__(self) -> str:
        return f"{self.request_id}#{self.attempt} {self.kind}"


class UsageHour(models.Model):
    """Sums of the ledger per UTC hour and business dimensions."""

    pk = models.CompositePrimaryKey(
        "hour", "tenant_id", "feature", "plan_version_id", "operation", "provider", "model", "region",
        "status", "is_byok", "cost_currency", "price_currency",
    )  # fmt: skip
    hour = models.DateTimeField()
    tenant_id = models.UUIDField()
    feature = models.CharField(max_length=100)
    plan_version_id = models.UUIDField()
    operation = models.CharField(max_length=32)
    provider = models.CharField(max_length=63)
    model = models.CharField(max_length=200)
    region = models.CharField(max_length=32)
    status = models.CharField(max_length=16)
    is_byok = models.BooleanField()
    cost_currency = models.CharField(max_length=3)
    price_currency = models.CharField(max_length=3)
    attempts = models.BigIntegerField()
    requests = models.BigIntegerField()  # rows with is_final
    input_tokens = models.BigIntegerField()
    cache_read_tokens = models.BigIntegerField()
    cache_write_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    reasoning_tokens = models.BigIntegerField()
    cost_pico = models.DecimalField(max_digits=38, decimal_places=0)
    price_pico = models.DecimalField(max_digits=38, decimal_places=0)
    unpriced = models.BigIntegerField()  # rows whose cost or price is NULL
    latency_ms = models.BigIntegerField()  # sum over final rows
    input_cost_pico = models.DecimalField(max_digits=38, decimal_places=0)  # of cost, cache parts included
    output_cost_pico = models.DecimalField(max_digits=38, decimal_places=0)  # of cost, reasoning included
    failover_cost_pico = models.DecimalField(max_digits=38, decimal_places=0)  # of attempts beside the final
    cache_saved_pico = models.DecimalField(max_digits=38, decimal_places=0)  # against plain input

    class Meta:
        managed = False
        db_table = "billing_usage_hour"

    def __str__(self) -> str:
        return f"{self.hour} {self.tenant_id} {self.model}"


class UsageKeyHour(models.Model):
    """Sums of the ledger per UTC hour, key, model and currencies."""

    pk = models.CompositePrimaryKey(
        "hour", "tenant_id", "api_key_id", "model", "cost_currency", "price_currency"
    )
    hour = models.DateTimeField()
    tenant_id = models.UUIDField()
    api_key_id = models.UUIDField()
    model = models.CharField(max_length=200)
    cost_currency = models.CharField(max_length=3)
    price_currency = models.CharField(max_length=3)
    requests = models.BigIntegerField()
    tokens = models.BigIntegerField()
    cost_pico = models.DecimalField(max_digits=38, decimal_places=0)
    price_pico = models.DecimalField(max_digits=38, decimal_places=0)

    class Meta:
        managed = False
        db_table = "billing_usage_key_hour"

    def __str__(self) -> str:
        return f"{self.hour} {self.api_key_id} {self.model}"


class UsageLatencyHour(models.Model):
    """A mergeable latency histogram per UTC hour: `bucket` i counts final rows up to BOUNDS_MS[i].

    The bounds are usage.histogram's.
    """

    pk = models.CompositePrimaryKey("hour", "tenant_id", "provider", "model", "bucket")
    hour = models.DateTimeField()
    tenant_id = models.UUIDField()
    provider = models.CharField(max_length=63)
    model = models.CharField(max_length=200)
    bucket = models.PositiveSmallIntegerField()
    count = models.BigIntegerField()

    class Meta:
        managed = False
        db_table = "billing_usage_latency_hour"

    def __str__(self) -> str:
        return f"{self.hour} {self.model} [{self.bucket}]"


class OverheadHour(models.Model):
    """Sums of the operator's overhead per UTC hour: what shadows and evaluations cost, measured for whom."""

    pk = models.CompositePrimaryKey(
        "hour", "tenant_id", "kind", "policy", "provider", "model", "status", "cost_currency"
    )
    hour = models.DateTimeField()
    tenant_id = models.UUIDField()
    kind = models.CharField(max_length=16)  # shadow, eval
    policy = models.CharField(max_length=80)
    provider = models.CharField(max_length=63)
    model = models.CharField(max_length=200)
    status = models.CharField(max_length=16)
    cost_currency = models.CharField(max_length=3)
    attempts = models.BigIntegerField()
    tokens = models.BigIntegerField()
    cost_pico = models.DecimalField(max_digits=38, decimal_places=0)
    unpriced = models.BigIntegerField()

    class Meta:
        managed = False
        db_table = "billing_overhead_hour"

    def __str__(self) -> str:
        return f"{self.hour} {self.kind} {self.model}"
