-- The first schema. STRICT, so that a column never holds what its type does not say.

-- `seq` is the rowid: entries arrive in its order, so that every insert appends to the table's tree, and reading the
-- claims in the journal's order needs no index. Claim ids begin with the time, so that their index nearly appends too.
CREATE TABLE claims (
    seq             INTEGER PRIMARY KEY,
    claim_id        TEXT    NOT NULL UNIQUE,
    campaign        TEXT    NOT NULL,
    campaign_no     INTEGER NOT NULL,
    user_id         TEXT    NOT NULL,
    quantity        INTEGER NOT NULL CHECK (quantity > 0),
    amount          INTEGER,
    currency        TEXT,
    status          TEXT    NOT NULL,
    accepted_at     TEXT    NOT NULL,
    -- Which of the buyer's concurrent holds this is; NULL once the claim was given back, so that the key below lets the
    -- buyer claim again.
    hold            INTEGER,
    receipt_key     INTEGER NOT NULL,
    durability      TEXT    NOT NULL,
    idempotency_key BLOB
) STRICT;

-- The last line of "one per buyer", and, as the buyer comes first and a SQLite index carries the rowid, also what a
-- buyer's claims are found by: one random tree less to write a claim.
CREATE UNIQUE INDEX claims_one_per_hold ON claims (user_id, campaign_no, hold);

-- The latest definition of every campaign, and the sums of its rows, moved in the same transactions as the rows.
CREATE TABLE campaigns (
    no              INTEGER PRIMARY KEY,
    -- From here to `definition`: NULL for a campaign whose creation is in the dead letters.
    id              TEXT    NOT NULL UNIQUE,
    kind            TEXT,
    title           TEXT,
    state           TEXT,
    opens_at        TEXT,
    closes_at       TEXT,
    per_user_limit  INTEGER,
    stock           INTEGER,
    currency        TEXT,
    price           INTEGER,
    total           INTEGER,
    definition      TEXT,
    seq             INTEGER NOT NULL,
    updated_at      TEXT    NOT NULL,
    persisted_units INTEGER NOT NULL DEFAULT 0,
    persisted_money INTEGER NOT NULL DEFAULT 0,
    dead_units      INTEGER NOT NULL DEFAULT 0,
    dead_money      INTEGER NOT NULL DEFAULT 0,
    -- The last line of "no oversell". All of a batch's effects on a campaign arrive in one UPDATE, so that this holds
    -- between batches without depending on the order within one.
    CONSTRAINT persisted_within_stock CHECK (persisted_units <= stock),
    CONSTRAINT paid_within_total CHECK (persisted_money <= total)
) STRICT;

-- Who did what to a campaign, and when.
CREATE TABLE campaign_log (
    seq         INTEGER PRIMARY KEY,
    campaign_no INTEGER NOT NULL,
    campaign    TEXT    NOT NULL,
    at          TEXT    NOT NULL,
    action      TEXT    NOT NULL,
    by          TEXT    NOT NULL,
    detail      TEXT    NOT NULL
) STRICT;

-- Entries that the tables above would not take. `payload` is the entry as JSON, complete.
CREATE TABLE dead_letters (
    id          INTEGER PRIMARY KEY,
    seq         INTEGER NOT NULL UNIQUE,
    kind        TEXT    NOT NULL,
    claim_id    TEXT,
    campaign    TEXT    NOT NULL,
    user_id     TEXT,
    quantity    INTEGER,
    amount      INTEGER,
    at          TEXT    NOT NULL,
    reason      TEXT    NOT NULL,
    payload     TEXT    NOT NULL
) STRICT;

-- A dead claim is still its buyer's: whoever asks for a claim that is no row is looked up here, and must not cost a
-- pass over all dead letters.
CREATE INDEX dead_letters_by_claim ON dead_letters (claim_id);
CREATE INDEX dead_letters_by_user ON dead_letters (user_id, seq);

-- Which journal the database belongs to, and the last of its entries that is here. One row, once it is bound.
CREATE TABLE forebay_meta (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    journal TEXT    NOT NULL,
    cursor  INTEGER NOT NULL,
    format  INTEGER NOT NULL
) STRICT;
