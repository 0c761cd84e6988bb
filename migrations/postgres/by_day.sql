-- Applied once, to empty tables, where the operator has claims partitioned by day. A day's claims are those whose id was made on
-- it, by UTC: an id begins with its millisecond, so that a partition is a range of ids, and an id is unique in the whole table
-- because it is in its partition.

CREATE TABLE claims_by_day (LIKE claims INCLUDING DEFAULTS INCLUDING CONSTRAINTS) PARTITION BY RANGE (claim_id);
DROP TABLE claims;
ALTER TABLE claims_by_day RENAME TO claims;
ALTER TABLE claims ADD CONSTRAINT claims_by_id PRIMARY KEY (claim_id);
CREATE INDEX claims_by_seq ON claims (seq);
CREATE INDEX claims_by_user ON claims (user_id, seq);

-- For ids of days that have no partition (yet): a row is never refused for want of one.
CREATE TABLE claims_of_other_days PARTITION OF claims DEFAULT;

-- The last line of "one per buyer". It spans the days, so it can't be a key of the partitions: a table of the holds that are
-- taken, which follows the claims whoever changes them. The holds of a partition that is dropped stay taken.
CREATE TABLE claim_holds (
    user_id     text   COLLATE "C" NOT NULL,
    campaign_no bigint NOT NULL,
    hold        bigint NOT NULL,
    claim_id    text   COLLATE "C" NOT NULL,
    CONSTRAINT claims_one_per_hold PRIMARY KEY (user_id, campaign_no, hold)
);

-- The table is named with its schema, for whoever changes claims with another search path.
CREATE OR REPLACE FUNCTION forebay_claims_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('INSERT INTO %I.claim_holds (user_id, campaign_no, hold, claim_id)
        SELECT user_id, campaign_no, hold, claim_id FROM new_claims WHERE hold IS NOT NULL', TG_TABLE_SCHEMA);
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION forebay_claims_updated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('DELETE FROM %I.claim_holds h USING old_claims o JOIN new_claims n ON n.claim_id = o.claim_id
        WHERE h.user_id = o.user_id AND h.campaign_no = o.campaign_no AND h.hold = o.hold
        AND n.hold IS DISTINCT FROM o.hold', TG_TABLE_SCHEMA);
    EXECUTE format('INSERT INTO %I.claim_holds (user_id, campaign_no, hold, claim_id)
        SELECT n.user_id, n.campaign_no, n.hold, n.claim_id FROM new_claims n JOIN old_claims o
        ON n.claim_id = o.claim_id WHERE n.hold IS NOT NULL AND n.hold IS DISTINCT FROM o.hold', TG_TABLE_SCHEMA);
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION forebay_claims_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('DELETE FROM %I.claim_holds h USING old_claims o
        WHERE h.user_id = o.user_id AND h.campaign_no = o.campaign_no AND h.hold = o.hold', TG_TABLE_SCHEMA);
    RETURN NULL;
END $$;

CREATE TRIGGER claims_inserted AFTER INSERT ON claims REFERENCING NEW TABLE AS new_claims
    FOR EACH STATEMENT EXECUTE FUNCTION forebay_claims_inserted();
CREATE TRIGGER claims_updated AFTER UPDATE ON claims REFERENCING OLD TABLE AS old_claims NEW TABLE AS new_claims
    FOR EACH STATEMENT EXECUTE FUNCTION forebay_claims_updated();
CREATE TRIGGER claims_deleted AFTER DELETE ON claims REFERENCING OLD TABLE AS old_claims
    FOR EACH STATEMENT EXECUTE FUNCTION forebay_claims_deleted();
