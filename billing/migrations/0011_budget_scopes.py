"""Budgets of any scope and window, their checks, exchange rates; the ledger keeps the tags of calls."""

import django.db.models.deletion
import tenants.ids
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0010_alert_attempt_index'),
        ('tenants', '0002_append_only'),
    ]

    operations = [
        migrations.RunSQL(
            "ALTER TABLE billing_usage_event ADD COLUMN tags jsonb",
            "ALTER TABLE billing_usage_event DROP COLUMN tags",
        ),
        migrations.CreateModel(
            name='BudgetCheck',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('checked_at', models.DateTimeField()),
                ('counters', models.PositiveIntegerField()),
                ('differences', models.JSONField(default=list)),
            ],
            options={
                'ordering': ('-checked_at',),
            },
        ),
        migrations.CreateModel(
            name='FxRate',
            fields=[
                ('id', models.UUIDField(default=tenants.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('base', models.CharField(max_length=3)),
                ('quote', models.CharField(max_length=3)),
                ('day', models.DateField()),
                ('rate', models.DecimalField(decimal_places=12, max_digits=24)),
                ('source', models.CharField(blank=True, max_length=100)),
            ],
            options={
                'ordering': ('-day', 'base', 'quote'),
            },
        ),
        migrations.AddField(
            model_name='budget',
            name='carry_max_amount',
            field=models.DecimalField(blank=True, decimal_places=6, help_text='In the unit of the limit.', max_digits=24, null=True),
        ),
        migrations.AddField(
            model_name='budget',
            name='carry_max_percent',
            field=models.PositiveSmallIntegerField(blank=True, help_text='Of the limit, at most this much unused is carried over.', null=True),
        ),
        migrations.AddField(
            model_name='budget',
            name='carry_over',
            field=models.CharField(choices=[('none', 'None'), ('unused', 'Unused'), ('debt', 'Debt')], default='none', max_length=16),
        ),
        migrations.AddField(
            model_name='budget',
            name='currency',
            field=models.CharField(blank=True, help_text="Of price: the tenant's unless given; of cost: USD unless given.", max_length=3),
        ),
        migrations.AddField(
            model_name='budget',
            name='include_byok',
            field=models.BooleanField(default=False, help_text="Whether cost, tokens and requests on a tenant's own provider keys count."),
        ),
        migrations.AddField(
            model_name='budget',
            name='include_failed',
            field=models.BooleanField(default=True, help_text='Whether the cost of failed attempts counts.'),
        ),
        migrations.AddField(
            model_name='budget',
            name='include_overhead',
            field=models.BooleanField(default=False, help_text='Whether the cost of shadow calls and evaluations counts; operators only.'),
        ),
        migrations.AddField(
            model_name='budget',
            name='plan',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='budgets', to='billing.plan'),
        ),
        migrations.AddField(
            model_name='budget',
            name='provider',
            field=models.CharField(blank=True, max_length=63),
        ),
        migrations.AddField(
            model_name='budget',
            name='rolling_s',
            field=models.PositiveIntegerField(blank=True, help_text='Length of a rolling window in seconds.', null=True),
        ),
        migrations.AddField(
            model_name='budget',
            name='tag',
            field=models.CharField(blank=True, help_text='key=value, as in X-Tollhouse-Tags.', max_length=141),
        ),
        migrations.AddField(
            model_name='budget',
            name='throttle_policy',
            field=models.CharField(blank=True, help_text='Where calls go once a throttle is used up.', max_length=63),
        ),
        migrations.AddField(
            model_name='budget',
            name='throttle_rpm',
            field=models.PositiveIntegerField(blank=True, help_text='Requests per minute once a throttle is used up.', null=True),
        ),
        migrations.AddField(
            model_name='budget',
            name='timezone',
            field=models.CharField(blank=True, help_text="IANA name; the tenant's own, else UTC, where empty.", max_length=64),
        ),
        migrations.AlterField(
            model_name='budget',
            name='mode',
            field=models.CharField(choices=[('hard', 'Hard'), ('soft', 'Soft'), ('throttle', 'Throttle')], default='hard', max_length=16),
        ),
        migrations.AlterField(
            model_name='budget',
            name='tenant',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='budgets', to='tenants.tenant'),
        ),
        migrations.AlterField(
            model_name='budget',
            name='window',
            field=models.CharField(choices=[('hour', 'Hour'), ('day', 'Day'), ('week', 'Week'), ('month', 'Month'), ('quarter', 'Quarter'), ('year', 'Year'), ('total', 'Total'), ('rolling', 'Rolling')], default='month', max_length=16),
        ),
        migrations.AddConstraint(
            model_name='budget',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('rolling_s__gte', 60), ('window', 'rolling')), models.Q(models.Q(('window', 'rolling'), _negated=True), ('rolling_s', None)), _connector='OR'), name='budget_rolling_has_length'),
        ),
        migrations.AddConstraint(
            model_name='budget',
            constraint=models.CheckConstraint(condition=models.Q(('include_overhead', False), models.Q(('measure', 'cost'), ('tenant', None)), _connector='OR'), name='budget_overhead_is_operators_cost'),
        ),
        migrations.AddIndex(
            model_name='budgetcheck',
            index=models.Index(fields=['-checked_at'], name='budget_check_newest'),
        ),
        migrations.AddConstraint(
            model_name='fxrate',
            constraint=models.UniqueConstraint(fields=('base', 'quote', 'day'), name='fx_rate_one_per_day'),
        ),
        migrations.AddConstraint(
            model_name='fxrate',
            constraint=models.CheckConstraint(condition=models.Q(('rate__gt', 0)), name='fx_rate_positive'),
        ),
    ]
