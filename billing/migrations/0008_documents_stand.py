"""From finalization on a document is fixed: money, lines, number. Only its payment state moves; never back."""

from django.db import migrations

CREATE = """
CREATE FUNCTION tollhouse_invoice_stands() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    moving CONSTANT text[] := ARRAY['status', 'paid_minor', 'credited_minor', 'paid_at', 'payment_reference',
                                    'voided_at', 'status_reason', 'updated_at'];
    lines bigint;
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.status <> 'draft' THEN
            RAISE EXCEPTION 'an invoice begins as a draft' USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF TG_OP = 'DELETE' THEN
        IF OLD.status <> 'draft' THEN
            RAISE EXCEPTION 'invoice % is finalized: DELETE refused', OLD.number
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        RETURN OLD;
    END IF;
    IF OLD.status = 'draft' THEN
        IF NEW.status NOT IN ('draft', 'open', 'paid') THEN
            RAISE EXCEPTION 'a draft cannot become %', NEW.status
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        IF NEW.status <> 'draft' THEN
            SELECT coalesce(sum(net_minor), 0) INTO lines FROM billing_invoiceline WHERE invoice_id = NEW.id;
            IF lines <> NEW.net_minor THEN
                RAISE EXCEPTION 'lines of % sum to %, not to %', NEW.number, lines, NEW.net_minor
                    USING ERRCODE = 'integrity_constraint_violation';
            END IF;
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.status = 'draft' OR (OLD.status = 'void' AND NEW.status <> 'void')
        OR (to_jsonb(NEW) - moving) IS DISTINCT FROM (to_jsonb(OLD) - moving) THEN
        RAISE EXCEPTION 'invoice % is finalized: UPDATE refused', OLD.number
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER invoice_stands BEFORE INSERT OR UPDATE OR DELETE ON billing_invoice
    FOR EACH ROW EXECUTE FUNCTION tollhouse_invoice_stands();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON billing_invoice
    FOR EACH STATEMENT EXECUTE FUNCTION tollhouse_append_only();

CREATE FUNCTION tollhouse_invoice_part_stands() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    state text;
BEGIN
    -- The share lock waits for a finalization under way, so that no line slips in behind its check.
    IF TG_OP <> 'INSERT' THEN
        SELECT status INTO state FROM billing_invoice WHERE id = OLD.invoice_id FOR SHARE;
        IF state <> 'draft' THEN
            RAISE EXCEPTION '% of a finalized invoice: % refused', TG_TABLE_NAME, TG_OP
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
    END IF;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    SELECT status INTO state FROM billing_invoice WHERE id = NEW.invoice_id FOR SHARE;
    IF state <> 'draft' THEN
        RAISE EXCEPTION '% of a finalized invoice: % refused', TG_TABLE_NAME, TG_OP
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER invoice_line_stands BEFORE INSERT OR UPDATE OR DELETE ON billing_invoiceline
    FOR EACH ROW EXECUTE FUNCTION tollhouse_invoice_part_stands();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON billing_invoiceline
    FOR EACH STATEMENT EXECUTE FUNCTION tollhouse_append_only();
CREATE TRIGGER invoice_discount_stands BEFORE INSERT OR UPDATE OR DELETE ON billing_invoicediscount
    FOR EACH ROW EXECUTE FUNCTION tollhouse_invoice_part_stands();

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON billing_creditnote
    FOR EACH ROW EXECUTE FUNCTION tollhouse_append_only();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON billing_creditnote
    FOR EACH STATEMENT EXECUTE FUNCTION tollhouse_append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON billing_creditnoteline
    FOR EACH ROW EXECUTE FUNCTION tollhouse_append_only();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON billing_creditnoteline
    FOR EACH STATEMENT EXECUTE FUNCTION tollhouse_append_only();

CREATE FUNCTION tollhouse_credit_note_sums() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    note uuid := CASE TG_TABLE_NAME WHEN 'billing_creditnote' THEN to_jsonb(NEW) ->> 'id'
                                    ELSE to_jsonb(NEW) ->> 'credit_note_id' END;
BEGIN
    IF (SELECT net_minor FROM billing_creditnote WHERE id = note)
        <> (SELECT coalesce(sum(net_minor), 0) FROM billing_creditnoteline WHERE credit_note_id = note) THEN
        RAISE EXCEPTION 'the lines of a credit note do not sum to its net'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER credit_note_sums AFTER INSERT ON billing_creditnote
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tollhouse_credit_note_sums();
CREATE CONSTRAINT TRIGGER credit_note_sums AFTER INSERT ON billing_creditnoteline
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tollhouse_credit_note_sums();
"""
DROP = """
DROP TRIGGER credit_note_sums ON billing_creditnoteline;
DROP TRIGGER credit_note_sums ON billing_creditnote;
DROP FUNCTION tollhouse_credit_note_sums();
DROP TRIGGER append_only_truncate ON billing_creditnoteline;
DROP TRIGGER append_only ON billing_creditnoteline;
DROP TRIGGER append_only_truncate ON billing_creditnote;
DROP TRIGGER append_only ON billing_creditnote;
DROP TRIGGER invoice_discount_stands ON billing_invoicediscount;
DROP TRIGGER append_only_truncate ON billing_invoiceline;
DROP TRIGGER invoice_line_stands ON billing_invoiceline;
DROP FUNCTION tollhouse_invoice_part_stands();
DROP TRIGGER append_only_truncate ON billing_invoice;
DROP TRIGGER invoice_stands ON billing_invoice;
DROP FUNCTION tollhouse_invoice_stands();
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0007_invoices"), ("tenants", "0002_append_only")]

    operations = [migrations.RunSQL(CREATE, DROP)]
