"""The ledger names what a rerate corrects; hours know which part of the cost was input, output, failover, cache.

The new sums of hours are filled from the ledger: its rows are in the database, whole, at this moment.
"""

from django.db import migrations

# What billing.usage.rollups says on the day of this migration.
SUMS = """
ALTER TABLE billing_usage_hour
    ADD COLUMN input_cost_pico numeric(38,0) NOT NULL DEFAULT 0,
    ADD COLUMN output_cost_pico numeric(38,0) NOT NULL DEFAULT 0,
    ADD COLUMN failover_cost_pico numeric(38,0) NOT NULL DEFAULT 0,
    ADD COLUMN cache_saved_pico numeric(38,0) NOT NULL DEFAULT 0;
WITH part AS (
    SELECT *,
        coalesce((cost_components ->> 'input')::bigint, 0) AS plain,
        coalesce((cost_components ->> 'cache_read')::bigint, 0)
            + coalesce((cost_components ->> 'cache_write')::bigint, 0)
            + coalesce((cost_components ->> 'cache_write_1h')::bigint, 0) AS cached,
        coalesce((cost_components ->> 'output')::bigint, 0)
            + coalesce((cost_components ->> 'reasoning')::bigint, 0) AS written
    FROM billing_usage_event WHERE kind NOT IN ('shadow', 'eval')
), hours AS (
    SELECT date_trunc('hour', occurred_at, 'UTC') AS hour, tenant_id, feature, plan_version_id, operation,
        provider, model, region, status, is_byok, cost_currency, price_currency,
        sum(plain + cached) AS input_cost,
        sum(written) AS output_cost,
        sum(CASE WHEN is_final OR kind = 'adjustment' THEN 0 ELSE coalesce(cost_pico, 0) END) AS failover_cost,
        sum(CASE
            WHEN cache_read_tokens + cache_write_tokens <> 0 AND input_tokens <> 0
                AND cost_components ? 'input'
            THEN round((cache_read_tokens + cache_write_tokens)::numeric * plain / input_tokens) - cached
            ELSE 0
        END) AS cache_saved
    FROM part GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12
)
UPDATE billing_usage_hour h
SET input_cost_pico = l.input_cost, output_cost_pico = l.output_cost,
    failover_cost_pico = l.failover_cost, cache_saved_pico = l.cache_saved
FROM hours l
WHERE (h.hour, h.tenant_id, h.feature, h.plan_version_id, h.operation, h.provider, h.model, h.region, h.status,
       h.is_byok, h.cost_currency, h.price_currency)
    = (l.hour, l.tenant_id, l.feature, l.plan_version_id, l.operation, l.provider, l.model, l.region, l.status,
       l.is_byok, l.cost_currency, l.price_currency);
"""
SUMS_BEFORE = """
ALTER TABLE billing_usage_hour
    DROP COLUMN input_cost_pico,
    DROP COLUMN output_cost_pico,
    DROP COLUMN failover_cost_pico,
    DROP COLUMN cache_saved_pico;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0013_wallet_books"),
        ("tenants", "0002_append_only"),
    ]

    operations = [
        migrations.RunSQL(
            "ALTER TABLE billing_usage_event ADD COLUMN ref_request_id uuid",
            "ALTER TABLE billing_usage_event DROP COLUMN ref_request_id",
        ),
        migrations.RunSQL(SUMS, SUMS_BEFORE),
    ]
