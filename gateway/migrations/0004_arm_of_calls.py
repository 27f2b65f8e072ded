"""The arm of each call in the request log: the table is made by SQL, so is its column."""

from django.db import migrations, models

ARM = """
ALTER TABLE gateway_request_log
    ADD COLUMN experiment varchar(80) NOT NULL DEFAULT '',
    ADD COLUMN arm varchar(40) NOT NULL DEFAULT '';
CREATE INDEX gateway_request_log_experiment ON gateway_request_log (experiment, arm, occurred_at)
    WHERE experiment <> '';
"""
ARM_BEFORE = """
DROP INDEX gateway_request_log_experiment;
ALTER TABLE gateway_request_log DROP COLUMN experiment, DROP COLUMN arm;
"""


class Migration(migrations.Migration):
    dependencies = [("gateway", "0003_replays"), ("tenants", "0002_append_only")]

    operations = [
        migrations.RunSQL(ARM, ARM_BEFORE),
        migrations.AddField(
            "requestlog", "experiment", models.CharField(max_length=80), preserve_default=False
        ),
        migrations.AddField("requestlog", "arm", models.CharField(max_length=40), preserve_default=False),
    ]
