"""Cost rates are never changed, only closed; a policy's version is never changed at all. Neither is deleted."""

from django.db import migrations

CREATE = """
CREATE FUNCTION tollhouse_cost_rate_closes_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.effective_to IS NOT NULL
        AND (OLD.effective_to IS NULL OR NEW.effective_to <= OLD.effective_to)
        AND to_jsonb(NEW) - 'effective_to' = to_jsonb(OLD) - 'effective_to'
    THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'a cost rate is only ever closed: % refused', TG_OP
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER closes_only BEFORE UPDATE OR DELETE ON routing_costrate
    FOR EACH ROW EXECUTE FUNCTION tollhouse_cost_rate_closes_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON routing_routingpolicyversion
    FOR EACH ROW EXECUTE FUNCTION tollhouse_append_only();
"""
DROP = """
DROP TRIGGER closes_only ON routing_costrate;
DROP FUNCTION tollhouse_cost_rate_closes_only();
DROP TRIGGER append_only ON routing_routingpolicyversion;
"""


class Migration(migrations.Migration):
    dependencies = [("routing", "0002_initial"), ("tenants", "0002_append_only")]

    operations = [migrations.RunSQL(CREATE, DROP)]
