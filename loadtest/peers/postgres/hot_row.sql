-- The shop's usual way: one row that says how many units are free. Everybody who claims waits for that row, and whoever has it
-- holds it until the commit is on the disk.
--
-- As well tuned as it gets: one round trip a claim; the row is taken last, so that it is held for the update and the commit only;
-- a single index on claims; room in the stock row's page for its next versions, so that no index entry is made for them (HOT).

CREATE TABLE stock (campaign text PRIMARY KEY, free bigint NOT NULL CHECK (free >= 0)) WITH (fillfactor = 10);

CREATE TABLE claims (
    campaign text NOT NULL,
    user_id text NOT NULL,
    quantity integer NOT NULL,
    accepted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (campaign, user_id)
);

CREATE FUNCTION claim(wanted text, buyer text, units integer) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    -- Without waiting for anybody: after the sale this is all that a claim costs.
    PERFORM 1 FROM stock WHERE campaign = wanted AND free >= units;
    IF NOT FOUND THEN
        PERFORM 1 FROM claims WHERE campaign = wanted AND user_id = buyer;
        RETURN CASE WHEN FOUND THEN 'already-claimed' ELSE 'sold-out' END;
    END IF;
    INSERT INTO claims (campaign, user_id, quantity) VALUES (wanted, buyer, units) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN 'already-claimed';
    END IF;
    UPDATE stock SET free = free - units WHERE campaign = wanted AND free >= units;
    IF NOT FOUND THEN
        -- The last units went to somebody else meanwhile.
        DELETE FROM claims WHERE campaign = wanted AND user_id = buyer;
        RETURN 'sold-out';
    END IF;
    RETURN 'accepted';
END $$;

-- What is left, and what was sold: for the one who checks the run.
CREATE VIEW balance AS
    SELECT campaign, free, count(user_id) AS claims, coalesce(sum(quantity), 0) AS sold
    FROM stock LEFT JOIN claims USING (campaign) GROUP BY campaign, free;
