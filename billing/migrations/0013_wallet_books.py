"""Wallet entries are only ever added; what wallets and grants hold is written by the entry itself, here."""

from django.db import migrations

CREATE = """
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON billing_walletentry
    FOR EACH ROW EXECUTE FUNCTION tollhouse_append_only();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON billing_walletentry
    FOR EACH STATEMENT EXECUTE FUNCTION tollhouse_append_only();

-- In one order everywhere: the wallet's row first, then the grant's. Both refuse to fall below zero.
CREATE FUNCTION tollhouse_wallet_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE billing_wallet SET balance_pico = balance_pico + NEW.amount_pico
        WHERE id = NEW.wallet_id AND tenant_id = NEW.tenant_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the wallet is another tenant''s' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    UPDATE billing_creditgrant SET remaining_pico = remaining_pico + NEW.amount_pico
        WHERE id = NEW.grant_id AND wallet_id = NEW.wallet_id AND tenant_id = NEW.tenant_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the grant is of another wallet' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER wallet_entry AFTER INSERT ON billing_walletentry
    FOR EACH ROW EXECUTE FUNCTION tollhouse_wallet_entry();

CREATE FUNCTION tollhouse_wallet_stands() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.balance_pico <> 0 THEN
            RAISE EXCEPTION 'a wallet begins empty' USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        RETURN NEW;
    END IF;
    -- Depth 1 is this trigger for a statement of a client; an entry's trigger makes it 2.
    IF NEW.balance_pico <> OLD.balance_pico AND pg_trigger_depth() < 2 THEN
        RAISE EXCEPTION 'a balance moves by entries alone' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF NEW.tenant_id <> OLD.tenant_id OR NEW.currency <> OLD.currency THEN
        RAISE EXCEPTION 'a wallet stays what it is' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER wallet_stands BEFORE INSERT OR UPDATE ON billing_wallet
    FOR EACH ROW EXECUTE FUNCTION tollhouse_wallet_stands();

CREATE FUNCTION tollhouse_grant_stands() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.remaining_pico <> 0 THEN
            RAISE EXCEPTION 'a grant is filled by its entry' USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF TG_OP = 'DELETE' OR pg_trigger_depth() < 2
        OR (to_jsonb(NEW) - 'remaining_pico') IS DISTINCT FROM (to_jsonb(OLD) - 'remaining_pico') THEN
        RAISE EXCEPTION 'a grant never changes: % refused', TG_OP USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER grant_stands BEFORE INSERT OR UPDATE OR DELETE ON billing_creditgrant
    FOR EACH ROW EXECUTE FUNCTION tollhouse_grant_stands();
"""
DROP = """
DROP TRIGGER grant_stands ON billing_creditgrant;
DROP FUNCTION tollhouse_grant_stands();
DROP TRIGGER wallet_stands ON billing_wallet;
DROP FUNCTION tollhouse_wallet_stands();
DROP TRIGGER wallet_entry ON billing_walletentry;
DROP FUNCTION tollhouse_wallet_entry();
DROP TRIGGER append_only_truncate ON billing_walletentry;
DROP TRIGGER append_only ON billing_walletentry;
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0012_wallets_payments_dunning"), ("tenants", "0002_append_only")]

    operations = [migrations.RunSQL(CREATE, DROP)]
