"""The plan of tenants that nobody has put on one: cost, passed on without a markup."""

from django.db import migrations


def create(apps, schema_editor):
    plans = apps.get_model("billing", "Plan").objects
    if plans.filter(is_default=True).exists():  # migrated back and forth: the ledger may name it, so it stayed
        return
    plan = plans.create(slug="pass-through", name="Pass-through", is_default=True)
    apps.get_model("billing", "PlanVersion").objects.create(
        plan=plan,
        number=1,
        charges=[{"model": "cost_plus", "markup_percent": "0", "fixed_per_request": "0"}],
    )


class Migration(migrations.Migration):
    dependencies = [("billing", "0003_ledger")]
    operations = [migrations.RunPython(create, migrations.RunPython.noop)]
