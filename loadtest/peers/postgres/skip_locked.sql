-- A row a unit. Whoever claims takes any that nobody else is taking, so nobody waits for anybody, and commits share syncs.
--
-- Taken units are deleted, not marked: a marked row would be looked at again by every later claim, a deleted one is remembered as
-- dead by the index.

CREATE TABLE units (campaign text NOT NULL, unit bigint NOT NULL, PRIMARY KEY (campaign, unit));

CREATE TABLE claims (
    campaign text NOT NULL,
    user_id text NOT NULL,
    quantity integer NOT NULL,
    unit bigint NOT NULL,
    accepted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (campaign, user_id)
);

CREATE FUNCTION claim(wanted text, buyer text, units integer) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    taken bigint;
BEGIN
    IF units <> 1 THEN
        RAISE EXCEPTION 'one unit a claim, not %', units;
    END IF;
    DELETE FROM units u WHERE u.campaign = wanted AND u.unit = (
        SELECT unit FROM units WHERE campaign = wanted ORDER BY unit LIMIT 1 FOR UPDATE SKIP LOCKED
    ) RETURNING u.unit INTO taken;
    IF taken IS NULL THEN
        PERFORM 1 FROM claims WHERE campaign = wanted AND user_id = buyer;
        RETURN CASE WHEN FOUND THEN 'already-claimed' ELSE 'sold-out' END;
    END IF;
    INSERT INTO claims (campaign, user_id, quantity, unit) VALUES (wanted, buyer, units, taken) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        INSERT INTO units (campaign, unit) VALUES (wanted, taken);
        RETURN 'already-claimed';
    END IF;
    RETURN 'accepted';
END $$;

-- What is left, and what was sold: for the one who checks the run.
CREATE VIEW balance AS
    SELECT campaign, (SELECT count(*) FROM units u WHERE u.campaign = c.campaign) AS free, count(*) AS claims,
           sum(quantity) AS sold
    FROM claims c GROUP BY campaign;
