"""Where a tenant's data was allowed to go, and where this row is kept, on each row of the request log."""

from django.db import migrations, models

ADD = """
ALTER TABLE gateway_request_log
    ADD COLUMN tenant_regions text,
    ADD COLUMN kept_in varchar(32) NOT NULL DEFAULT '';
"""
REMOVE = "ALTER TABLE gateway_request_log DROP COLUMN tenant_regions, DROP COLUMN kept_in"


class Migration(migrations.Migration):
    dependencies = [("gateway", "0005_feedback_and_shadow_samples")]

    operations = [
        migrations.RunSQL(ADD, REMOVE),
        migrations.AddField("requestlog", "tenant_regions", models.TextField(null=True)),
        migrations.AddField("requestlog", "kept_in", models.CharField(max_length=32), preserve_default=False),
    ]
