"""Sealed content by day, its day keys, certificates that are only ever added, erasures. Partitions: gateway.content."""

import django.db.models.deletion
from django.db import migrations, models

import tenants.ids

CONTENT = """
CREATE TABLE gateway_content (
    occurred_at timestamptz NOT NULL,
    request_id uuid NOT NULL,
    tenant_id uuid NOT NULL,
    kind varchar(16) NOT NULL CHECK (kind IN ('usage', 'shadow')),
    of_request_id uuid,
    end_user varchar(64) NOT NULL,
    day_key_id uuid NOT NULL,
    sealed bytea NOT NULL,
    size_bytes bigint NOT NULL,
    is_cut boolean NOT NULL,
    kept_in varchar(32) NOT NULL,
    stored_at timestamptz NOT NULL,
    PRIMARY KEY (occurred_at, request_id)
) PARTITION BY RANGE (occurred_at);
ALTER TABLE gateway_content ALTER COLUMN sealed SET STORAGE EXTERNAL;
CREATE INDEX gateway_content_tenant ON gateway_content (tenant_id, occurred_at);
CREATE INDEX gateway_content_of ON gateway_content (of_request_id) WHERE of_request_id IS NOT NULL;
CREATE INDEX gateway_content_end_user ON gateway_content (tenant_id, end_user) WHERE end_user <> '';
CREATE TABLE gateway_content_default PARTITION OF gateway_content DEFAULT;
"""
CERTIFICATES = """
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON gateway_deletioncertificate
    FOR EACH ROW EXECUTE FUNCTION tollhouse_append_only();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON gateway_deletioncertificate
    FOR EACH STATEMENT EXECUTE FUNCTION tollhouse_append_only();
"""
CERTIFICATES_BEFORE = """
DROP TRIGGER append_only ON gateway_deletioncertificate;
DROP TRIGGER append_only_truncate ON gateway_deletioncertificate;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("gateway", "0006_regions_in_the_request_log"),
        ("tenants", "0006_retention_and_legal_holds"),
    ]

    operations = [
        migrations.CreateModel(
            name="StoredContent",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "occurred_at",
                        "request_id",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("occurred_at", models.DateTimeField()),
                ("request_id", models.UUIDField()),
                ("kind", models.CharField(max_length=16)),
                ("of_request_id", models.UUIDField(null=True)),
                ("end_user", models.CharField(max_length=64)),
                ("day_key_id", models.UUIDField()),
                ("sealed", models.BinaryField()),
                ("size_bytes", models.BigIntegerField()),
                ("is_cut", models.BooleanField()),
                ("kept_in", models.CharField(max_length=32)),
                ("stored_at", models.DateTimeField()),
            ],
            options={
                "db_table": "gateway_content",
                "ordering": ("-occurred_at", "-request_id"),
                "managed": False,
            },
        ),
        migrations.CreateModel(
            name="DeletionCertificate",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=tenants.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("chain", models.UUIDField()),
                ("sequence", models.BigIntegerField()),
                ("issued_at", models.DateTimeField()),
                (
                    "data_class",
                    models.CharField(
                        choices=[
                            ("content", "Content"),
                            ("request_log", "Request Log"),
                            ("artifacts", "Artifacts"),
                            ("end_user", "End User"),
                        ],
                        max_length=16,
                    ),
                ),
                ("day", models.DateField(null=True)),
                (
                    "method",
                    models.CharField(
                        choices=[
                            ("partition_dropped", "Partition Dropped"),
                            ("key_destroyed", "Key Destroyed"),
                            ("rows_deleted", "Rows Deleted"),
                            ("columns_blanked", "Columns Blanked"),
                            ("erased", "Erased"),
                        ],
                        max_length=24,
                    ),
                ),
                ("rows", models.BigIntegerField()),
                ("rule", models.CharField(max_length=200)),
                ("details", models.JSONField(default=dict)),
                ("previous_hash", models.BinaryField(max_length=32)),
                ("hash", models.BinaryField(max_length=32)),
                (
                    "tenant",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="deletion_certificates",
                        to="tenants.tenant",
                    ),
                ),
            ],
            options={
                "ordering": ("-id",),
            },
        ),
        migrations.CreateModel(
            name="Erasure",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=tenants.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("pseudonym", models.CharField(max_length=64)),
                ("sealed_name", models.BinaryField(default=b"")),
                ("before", models.DateTimeField(help_text="Calls up to this instant are erased.")),
                (
                    "status",
                    models.CharField(
                        choices=[("queued", "Queued"), ("running", "Running"), ("done", "Done")],
                        default="queued",
                        max_length=16,
                    ),
                ),
                ("days_total", models.PositiveIntegerField(default=0)),
                ("days_done", models.PositiveIntegerField(default=0)),
                ("position", models.DateField(blank=True, help_text="The last day that is done.", null=True)),
                ("counts", models.JSONField(blank=True, default=dict)),
                ("leased_until", models.DateTimeField(blank=True, null=True)),
                ("requested_by", models.CharField(max_length=254)),
                ("finished_at", models.DateTimeField(blank=True, null=True)),
                (
                    "certificate",
                    models.OneToOneField(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="erasure",
                        to="gateway.deletioncertificate",
                    ),
                ),
                (
                    "tenant",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="erasures",
                        to="tenants.tenant",
                    ),
                ),
            ],
            options={
                "ordering": ("-id",),
            },
        ),
        migrations.CreateModel(
            name="ContentDayKey",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=tenants.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("day", models.DateField()),
                ("sealed_key", models.BinaryField()),
                ("destroyed_at", models.DateTimeField(blank=True, null=True)),
                (
                    "tenant",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="tenants.tenant"
                    ),
                ),
            ],
            options={
                "ordering": ("-id",),
                "indexes": [
                    models.Index(
                        condition=models.Q(("destroyed_at__isnull", True)),
                        fields=["day"],
                        name="content_day_key_alive",
                    )
                ],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("destroyed_at__isnull", True)),
                        fields=("tenant", "day"),
                        name="content_day_key_once",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("destroyed_at__isnull", True), ("sealed_key", b""), _connector="OR"
                        ),
                        name="content_day_key_destroyed_is_empty",
                    ),
                ],
            },
        ),
        migrations.AddConstraint(
            model_name="deletioncertificate",
            constraint=models.UniqueConstraint(
                fields=("chain", "sequence"), name="certificate_chain_position"
            ),
        ),
        migrations.AddIndex(
            model_name="erasure",
            index=models.Index(fields=["tenant", "pseudonym"], name="erasure_of_whom"),
        ),
        migrations.AddConstraint(
            model_name="erasure",
            constraint=models.UniqueConstraint(
                condition=models.Q(("status", "done"), _negated=True),
                fields=("tenant", "pseudonym"),
                name="erasure_once_at_a_time",
            ),
        ),
        migrations.RunSQL(CONTENT, "DROP TABLE gateway_content"),
        migrations.RunSQL(CERTIFICATES, CERTIFICATES_BEFORE),
    ]
