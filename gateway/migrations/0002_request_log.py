"""The request log, partitioned by day. gateway.logs.partitions makes and drops its days."""

from django.db import migrations

CREATE = """
CREATE TABLE gateway_request_log (
    occurred_at timestamptz NOT NULL,
    request_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    api_key_id uuid NOT NULL,
    operation varchar(32) NOT NULL,
    request_model varchar(200) NOT NULL,
    model varchar(200) NOT NULL,
    provider varchar(63) NOT NULL,
    region varchar(32) NOT NULL,
    policy varchar(80) NOT NULL,
    status smallint NOT NULL,
    error_code varchar(64) NOT NULL,
    error_message varchar(500) NOT NULL,
    finish_reason varchar(32) NOT NULL,
    is_stream boolean NOT NULL,
    feature varchar(100) NOT NULL,
    end_user varchar(200) NOT NULL,
    tags jsonb NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    usage_source varchar(16) NOT NULL,
    cost_pico bigint,
    price_pico bigint,
    cost_currency varchar(3) NOT NULL,
    price_currency varchar(3) NOT NULL,
    latency_ms integer NOT NULL,
    first_byte_ms integer,
    attempts jsonb NOT NULL,
    route jsonb NOT NULL,
    PRIMARY KEY (occurred_at, request_id)
) PARTITION BY RANGE (occurred_at);
CREATE INDEX gateway_request_log_tenant ON gateway_request_log (tenant_id, occurred_at, request_id);
CREATE INDEX gateway_request_log_request ON gateway_request_log (request_id);
CREATE TABLE gateway_request_log_default PARTITION OF gateway_request_log DEFAULT;
"""


class Migration(migrations.Migration):
    dependencies = [("gateway", "0001_initial")]

    operations = [migrations.RunSQL(CREATE, "DROP TABLE gateway_request_log")]
