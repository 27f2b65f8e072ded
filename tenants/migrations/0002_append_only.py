"""Audit events are only ever added. The function serves every append-only table of the floors above too."""

from django.db import migrations

CREATE = """
CREATE FUNCTION tollhouse_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON tenants_auditevent
    FOR EACH ROW EXECUTE FUNCTION tollhouse_append_only();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON tenants_auditevent
    FOR EACH STATEMENT EXECUTE FUNCTION tollhouse_append_only();
"""
DROP = """
DROP TRIGGER append_only ON tenants_auditevent;
DROP TRIGGER append_only_truncate ON tenants_auditevent;
DROP FUNCTION tollhouse_append_only();
"""


class Migration(migrations.Migration):
    dependencies = [("tenants", "0001_initial")]

    operations = [migrations.RunSQL(CREATE, DROP)]
