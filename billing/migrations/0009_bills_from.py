"""Since when a legal entity's periods are closed by the clock."""

import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0008_documents_stand'),
    ]

    operations = [
        migrations.AddField(
            model_name='legalentity',
            name='bills_from',
            field=models.DateTimeField(default=django.utils.timezone.now, help_text='Periods that ended before are not closed by the clock.'),
        ),
    ]
