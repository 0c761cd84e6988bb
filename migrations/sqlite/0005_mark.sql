-- Two copies of one journal that went on apart have the same id and the same positions. What tells them from each other is
-- the entry at the cursor: its mark is written with the cursor, and NULL where nobody knows it.
ALTER TABLE forebay_meta ADD COLUMN mark INTEGER;

-- Claims that went with entries somebody accepted as lost. The journal's book still holds them: when one of them comes to
-- its end, there is nothing here to end.
CREATE TABLE lost_claims (
    claim_id TEXT NOT NULL PRIMARY KEY
) STRICT, WITHOUT ROWID;
