"""The ledger and its rollups: partitioned by day, append-only by trigger. Django only reads and describes them."""

from django.db import migrations

TOKEN_COLUMNS = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
NOT_NEGATIVE = " AND ".join(f"{column} >= 0" for column in TOKEN_COLUMNS)
# usage and replacement state what was; reversal, rerate and adjustment are differences and may be negative.

LEDGER = f"""
CREATE TABLE billing_usage_event (
    occurred_at timestamptz NOT NULL,
    request_id uuid NOT NULL,
    attempt smallint NOT NULL CHECK (attempt >= 0),
    kind varchar(16) NOT NULL CHECK (kind IN ('usage', 'reversal', 'replacement', 'rerate', 'adjustment')),
    recorded_at timestamptz NOT NULL,
    tenant_id uuid NOT NULL,
    api_key_id uuid NOT NULL,
    plan_version_id uuid NOT NULL,
    feature varchar(100) NOT NULL,
    end_user varchar(200) NOT NULL,
    operation varchar(32) NOT NULL,
    request_model varchar(200) NOT NULL,
    model varchar(200) NOT NULL,
    provider varchar(63) NOT NULL,
    provider_model varchar(200) NOT NULL,
    endpoint_id uuid NOT NULL,
    region varchar(32) NOT NULL,
    service_tier varchar(32) NOT NULL,
    policy varchar(80) NOT NULL,
    status varchar(16) NOT NULL CHECK (status IN ('ok', 'error', 'cut', 'cancelled', 'unknown')),
    error_type varchar(32) NOT NULL,
    is_final boolean NOT NULL,
    is_stream boolean NOT NULL,
    is_byok boolean NOT NULL,
    usage_source varchar(16) NOT NULL CHECK (usage_source IN ('provider', 'estimated', 'unknown')),
    input_tokens bigint NOT NULL,
    cache_read_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    other_units jsonb,
    cost_pico bigint,
    cost_currency varchar(3) NOT NULL,
    price_pico bigint,
    price_currency varchar(3) NOT NULL,
    cost_components jsonb,
    latency_ms integer NOT NULL CHECK (latency_ms >= 0),
    first_byte_ms integer CHECK (first_byte_ms >= 0),
    PRIMARY KEY (occurred_at, request_id, attempt, kind),
    CONSTRAINT usage_not_negative CHECK (
        kind NOT IN ('usage', 'replacement')
        OR ({NOT_NEGATIVE} AND coalesce(cost_pico, 0) >= 0)
    )
) PARTITION BY RANGE (occurred_at);
CREATE INDEX billing_usage_event_tenant ON billing_usage_event (tenant_id, occurred_at);
CREATE INDEX billing_usage_event_request ON billing_usage_event (request_id);
CREATE INDEX billing_usage_event_recorded ON billing_usage_event USING brin (recorded_at);
CREATE TABLE billing_usage_event_default PARTITION OF billing_usage_event DEFAULT;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON billing_usage_event
    FOR EACH ROW EXECUTE FUNCTION tollhouse_append_only();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON billing_usage_event
    FOR EACH STATEMENT EXECUTE FUNCTION tollhouse_append_only();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON billing_usage_event_default
    FOR EACH STATEMENT EXECUTE FUNCTION tollhouse_append_only();
"""

# Rows of the running hour are updated with every batch: room in the page keeps those updates off the indexes.
ROLLUPS = """
CREATE TABLE billing_usage_hour (
    hour timestamptz NOT NULL,
    tenant_id uuid NOT NULL,
    feature varchar(100) NOT NULL,
    plan_version_id uuid NOT NULL,
    operation varchar(32) NOT NULL,
    provider varchar(63) NOT NULL,
    model varchar(200) NOT NULL,
    region varchar(32) NOT NULL,
    status varchar(16) NOT NULL,
    is_byok boolean NOT NULL,
    cost_currency varchar(3) NOT NULL,
    price_currency varchar(3) NOT NULL,
    attempts bigint NOT NULL,
    requests bigint NOT NULL,
    input_tokens bigint NOT NULL,
    cache_read_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    cost_pico numeric(38,0) NOT NULL,
    price_pico numeric(38,0) NOT NULL,
    unpriced bigint NOT NULL,
    latency_ms bigint NOT NULL,
    PRIMARY KEY (hour, tenant_id, feature, plan_version_id, operation, provider, model, region, status,
                 is_byok, cost_currency, price_currency)
) WITH (fillfactor = 70);
CREATE INDEX billing_usage_hour_tenant ON billing_usage_hour (tenant_id, hour);
CREATE TABLE billing_usage_key_hour (
    hour timestamptz NOT NULL,
    tenant_id uuid NOT NULL,
    api_key_id uuid NOT NULL,
    model varchar(200) NOT NULL,
    cost_currency varchar(3) NOT NULL,
    price_currency varchar(3) NOT NULL,
    requests bigint NOT NULL,
    tokens bigint NOT NULL,
    cost_pico numeric(38,0) NOT NULL,
    price_pico numeric(38,0) NOT NULL,
    PRIMARY KEY (hour, tenant_id, api_key_id, model, cost_currency, price_currency)
) WITH (fillfactor = 70);
CREATE INDEX billing_usage_key_hour_tenant ON billing_usage_key_hour (tenant_id, hour);
CREATE TABLE billing_usage_latency_hour (
    hour timestamptz NOT NULL,
    tenant_id uuid NOT NULL,
    provider varchar(63) NOT NULL,
    model varchar(200) NOT NULL,
    bucket smallint NOT NULL,
    count bigint NOT NULL,
    PRIMARY KEY (hour, tenant_id, provider, model, bucket)
) WITH (fillfactor = 70);
CREATE INDEX billing_usage_latency_hour_tenant ON billing_usage_latency_hour (tenant_id, hour);
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0002_initial"), ("tenants", "0002_append_only")]

    operations = [
        migrations.RunSQL(LEDGER, "DROP TABLE billing_usage_event"),
        migrations.RunSQL(
            ROLLUPS, "DROP TABLE billing_usage_hour, billing_usage_key_hour, billing_usage_latency_hour"
        ),
    ]
