"""Where a tenant's data was allowed to go, on each ledger row: the table is made by SQL, so is its column."""

from django.db import migrations, models

ADD = "ALTER TABLE billing_usage_event ADD COLUMN tenant_regions text"
REMOVE = "ALTER TABLE billing_usage_event DROP COLUMN tenant_regions"


class Migration(migrations.Migration):
    dependencies = [("billing", "0014_unit_costs_and_references")]

    operations = [
        migrations.RunSQL(ADD, REMOVE),
        migrations.AddField("usageevent", "tenant_regions", models.TextField(null=True)),
    ]
