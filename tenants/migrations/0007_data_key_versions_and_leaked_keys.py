import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("tenants", "0006_retention_and_legal_holds"),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name="datakey",
            name="one_operator_data_key",
        ),
        migrations.AddField(
            model_name="apikey",
            name="leaked_at",
            field=models.DateTimeField(blank=True, help_text="When somebody said it had leaked.", null=True),
        ),
        migrations.AddField(
            model_name="datakey",
            name="resealed_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="datakey",
            name="retired_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="datakey",
            name="version",
            field=models.PositiveIntegerField(default=1),
        ),
        migrations.AlterField(
            model_name="datakey",
            name="tenant",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="data_keys",
                to="tenants.tenant",
            ),
        ),
        migrations.AddConstraint(
            model_name="datakey",
            constraint=models.UniqueConstraint(
                fields=("tenant", "version"), name="data_key_version_once", nulls_distinct=False
            ),
        ),
        migrations.AddConstraint(
            model_name="datakey",
            constraint=models.UniqueConstraint(
                condition=models.Q(("retired_at__isnull", True)),
                fields=("tenant",),
                name="one_current_data_key",
                nulls_distinct=False,
            ),
        ),
    ]
