"""Calls made for the operator's own ends (shadows, evaluations) in the ledger: cost alone, never a tenant's usage."""

from django.db import migrations, models

TOKENS = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
NOT_NEGATIVE = " AND ".join(f"{column} >= 0" for column in TOKENS)

KINDS = f"""
ALTER TABLE billing_usage_event
    DROP CONSTRAINT billing_usage_event_kind_check,
    ADD CONSTRAINT billing_usage_event_kind_check CHECK (
        kind IN ('usage', 'reversal', 'replacement', 'rerate', 'adjustment', 'shadow', 'eval')
    ),
    DROP CONSTRAINT usage_not_negative,
    ADD CONSTRAINT usage_not_negative CHECK (
        kind NOT IN ('usage', 'replacement', 'shadow', 'eval')
        OR ({NOT_NEGATIVE} AND coalesce(cost_pico, 0) >= 0)
    ),
    ADD CONSTRAINT overhead_is_free CHECK (
        kind NOT IN ('shadow', 'eval') OR (price_pico IS NOT DISTINCT FROM 0 AND NOT is_final)
    );
"""
KINDS_BEFORE = f"""
ALTER TABLE billing_usage_event
    DROP CONSTRAINT overhead_is_free,
    DROP CONSTRAINT usage_not_negative,
    ADD CONSTRAINT usage_not_negative CHECK (
        kind NOT IN ('usage', 'replacement') OR ({NOT_NEGATIVE} AND coalesce(cost_pico, 0) >= 0)
    ),
    DROP CONSTRAINT billing_usage_event_kind_check,
    ADD CONSTRAINT billing_usage_event_kind_check CHECK (
        kind IN ('usage', 'reversal', 'replacement', 'rerate', 'adjustment')
    );
"""
ROLLUP = """
CREATE TABLE billing_overhead_hour (
    hour timestamptz NOT NULL,
    tenant_id uuid NOT NULL,
    kind varchar(16) NOT NULL,
    policy varchar(80) NOT NULL,
    provider varchar(63) NOT NULL,
    model varchar(200) NOT NULL,
    status varchar(16) NOT NULL,
    cost_currency varchar(3) NOT NULL,
    attempts bigint NOT NULL,
    tokens bigint NOT NULL,
    cost_pico numeric(38,0) NOT NULL,
    unpriced bigint NOT NULL,
    PRIMARY KEY (hour, tenant_id, kind, policy, provider, model, status, cost_currency)
) WITH (fillfactor = 70);
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0005_alerts")]

    operations = [
        migrations.RunSQL(KINDS, KINDS_BEFORE),
        migrations.RunSQL(ROLLUP, "DROP TABLE billing_overhead_hour"),
        migrations.CreateModel(
            name="OverheadHour",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "hour",
                        "tenant_id",
                        "kind",
                        "policy",
                        "provider",
                        "model",
                        "status",
                        "cost_currency",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("hour", models.DateTimeField()),
                ("tenant_id", models.UUIDField()),
                ("kind", models.CharField(max_length=16)),
                ("policy", models.CharField(max_length=80)),
                ("provider", models.CharField(max_length=63)),
                ("model", models.CharField(max_length=200)),
                ("status", models.CharField(max_length=16)),
                ("cost_currency", models.CharField(max_length=3)),
                ("attempts", models.BigIntegerField()),
                ("tokens", models.BigIntegerField()),
                ("cost_pico", models.DecimalField(decimal_places=0, max_digits=38)),
                ("unpriced", models.BigIntegerField()),
            ],
            options={"db_table": "billing_overhead_hour", "managed": False},
        ),
    ]
