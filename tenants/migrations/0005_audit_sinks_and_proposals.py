"""Audit checkpoints, sinks and their cursors; proposals. An event leaves its table by retention alone:

a year old at least, below a checkpoint of its chain, and by a session that says so.
"""

import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models

import tenants.ids

CREATE = """
CREATE FUNCTION tollhouse_audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE'
        AND current_setting('tollhouse.audit_retention', true) = OLD.chain::text
        AND OLD.at < now() - interval '365 days'
        AND EXISTS (
            SELECT FROM tenants_auditcheckpoint WHERE chain = OLD.chain AND sequence >= OLD.sequence
        )
    THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION '% is append only: % refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
DROP TRIGGER append_only ON tenants_auditevent;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON tenants_auditevent
    FOR EACH ROW EXECUTE FUNCTION tollhouse_audit_append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON tenants_auditcheckpoint
    FOR EACH ROW EXECUTE FUNCTION tollhouse_append_only();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON tenants_auditcheckpoint
    FOR EACH STATEMENT EXECUTE FUNCTION tollhouse_append_only();
"""
DROP = """
DROP TRIGGER append_only_truncate ON tenants_auditcheckpoint;
DROP TRIGGER append_only ON tenants_auditcheckpoint;
DROP TRIGGER append_only ON tenants_auditevent;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON tenants_auditevent
    FOR EACH ROW EXECUTE FUNCTION tollhouse_append_only();
DROP FUNCTION tollhouse_audit_append_only();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("tenants", "0004_roles_and_service_accounts"),
    ]

    operations = [
        migrations.CreateModel(
            name="AuditSink",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=tenants.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("name", models.CharField(max_length=100)),
                (
                    "kind",
                    models.CharField(choices=[("webhook", "Webhook"), ("syslog", "Syslog")], max_length=8),
                ),
                (
                    "target",
                    models.CharField(
                        help_text="https://…, or syslog+tls://host:port, or syslog+tcp://host:port",
                        max_length=2000,
                    ),
                ),
                (
                    "ca_certificate",
                    models.TextField(blank=True, help_text="PEM; empty trusts the system's authorities."),
                ),
                ("has_all_chains", models.BooleanField(default=False)),
                ("is_enabled", models.BooleanField(default=True)),
                ("sealed", models.BinaryField(null=True)),
                ("failures", models.PositiveIntegerField(default=0)),
                ("next_at", models.DateTimeField(db_index=True)),
                ("lease_until", models.DateTimeField(null=True)),
                ("delivered_at", models.DateTimeField(null=True)),
                ("last_error", models.CharField(blank=True, max_length=300)),
                (
                    "tenant",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="audit_sinks",
                        to="tenants.tenant",
                    ),
                ),
            ],
            options={
                "ordering": ("-id",),
            },
        ),
        migrations.CreateModel(
            name="AuditSinkCursor",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("chain", models.UUIDField()),
                ("sequence", models.BigIntegerField(default=0)),
                (
                    "sink",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="cursors",
                        to="tenants.auditsink",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="Proposal",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=tenants.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("kind", models.CharField(max_length=16)),
                ("operation", models.CharField(max_length=64)),
                ("payload", models.JSONField()),
                ("scope", models.CharField(max_length=64)),
                ("object_type", models.CharField(max_length=64)),
                ("object_id", models.CharField(max_length=128)),
                ("before", models.JSONField(null=True)),
                ("after", models.JSONField(null=True)),
                ("fingerprint", models.CharField(max_length=64)),
                ("reason", models.CharField(blank=True, max_length=500)),
                ("proposed_by_kind", models.CharField(max_length=8)),
                ("proposed_by_id", models.UUIDField(null=True)),
                ("proposed_by_label", models.CharField(max_length=254)),
                ("people", django.contrib.postgres.fields.ArrayField(base_field=models.UUIDField())),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("open", "Open"),
                            ("executed", "Approved and carried out"),
                            ("refused", "Refused"),
                            ("withdrawn", "Withdrawn"),
                            ("expired", "Expired"),
                        ],
                        db_index=True,
                        default="open",
                        max_length=10,
                    ),
                ),
                ("expires_at", models.DateTimeField()),
                ("decided_by_kind", models.CharField(blank=True, max_length=8)),
                ("decided_by_id", models.UUIDField(null=True)),
                ("decided_by_label", models.CharField(blank=True, max_length=254)),
                ("decided_reason", models.CharField(blank=True, max_length=500)),
                ("decided_at", models.DateTimeField(null=True)),
                ("notified_at", models.DateTimeField(null=True)),
                (
                    "tenant",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="proposals",
                        to="tenants.tenant",
                    ),
                ),
            ],
            options={
                "ordering": ("-id",),
            },
        ),
        migrations.CreateModel(
            name="AuditCheckpoint",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=tenants.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("chain", models.UUIDField()),
                ("sequence", models.BigIntegerField()),
                ("hash", models.BinaryField(max_length=32)),
                ("count", models.BigIntegerField()),
                ("first_at", models.DateTimeField()),
                ("last_at", models.DateTimeField()),
                ("kept_days", models.PositiveIntegerField()),
                ("removed_at", models.DateTimeField()),
                ("certificate", models.BinaryField(max_length=32)),
                (
                    "tenant",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="tenants.tenant",
                    ),
                ),
            ],
            options={
                "ordering": ("-id",),
                "constraints": [
                    models.UniqueConstraint(fields=("chain", "sequence"), name="audit_checkpoint_position")
                ],
            },
        ),
        migrations.AddConstraint(
            model_name="auditsink",
            constraint=models.CheckConstraint(
                condition=models.Q(("tenant__isnull", True), ("has_all_chains", False), _connector="OR"),
                name="audit_sink_own_chain",
            ),
        ),
        migrations.AddConstraint(
            model_name="auditsinkcursor",
            constraint=models.UniqueConstraint(fields=("sink", "chain"), name="audit_sink_cursor"),
        ),
        migrations.RunSQL(CREATE, DROP),
    ]
