-- Claims come to an end: settled, cancelled or expired. Check-ins give points. Dead letters are dealt with.

-- NULL until the claim has come to its end. `ended_by` is empty where time ended it.
ALTER TABLE claims ADD COLUMN ended_seq INTEGER;
ALTER TABLE claims ADD COLUMN ended_at  TEXT;
ALTER TABLE claims ADD COLUMN ended_by  TEXT;

-- SQLite can't change a table's guards, so the table is made anew: a row a campaign, and nothing refers to it.
CREATE TABLE campaigns_anew (
    no              INTEGER PRIMARY KEY,
    -- From here to `definition`: NULL for a campaign whose creation is in the dead letters. A check-in has no stock.
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
    -- Of rows that are neither paid nor given back; of paid ones; of all that ever were given back or expired, dead letters
    -- included; of dead letters that were not given back.
    persisted_units INTEGER NOT NULL DEFAULT 0,
    persisted_money INTEGER NOT NULL DEFAULT 0,
    settled_units   INTEGER NOT NULL DEFAULT 0,
    settled_money   INTEGER NOT NULL DEFAULT 0,
    returned_units  INTEGER NOT NULL DEFAULT 0,
    returned_money  INTEGER NOT NULL DEFAULT 0,
    dead_units      INTEGER NOT NULL DEFAULT 0,
    dead_money      INTEGER NOT NULL DEFAULT 0,
    -- The last line of "no oversell". All of a batch's effects on a campaign arrive in one UPDATE, so that this holds
    -- between batches without depending on the order within one. Without a stock or a total it holds always: NULL passes.
    CONSTRAINT held_within_stock CHECK (persisted_units + settled_units <= stock),
    CONSTRAINT paid_within_total CHECK (persisted_money + settled_money <= total),
    CONSTRAINT units_of_claims CHECK (min(persisted_units, settled_units, returned_units, dead_units) >= 0),
    CONSTRAINT money_of_claims CHECK (min(persisted_money, settled_money, returned_money, dead_money) >= 0)
) STRICT;

INSERT INTO campaigns_anew (no, id, kind, title, state, opens_at, closes_at, per_user_limit, stock, currency, price, total,
    definition, seq, updated_at, persisted_units, persisted_money, dead_units, dead_money)
SELECT no, id, kind, title, state, opens_at, closes_at, per_user_limit, stock, currency, price, total,
    definition, seq, updated_at, persisted_units, persisted_money, dead_units, dead_money
FROM campaigns;

DROP TABLE campaigns;
ALTER TABLE campaigns_anew RENAME TO campaigns;

-- What check-ins gave. `seq` is the claim's, so that rows are appended, and that a claim's points are found by it.
CREATE TABLE points_ledger (
    seq         INTEGER PRIMARY KEY,
    user_id     TEXT    NOT NULL,
    campaign    TEXT    NOT NULL,
    campaign_no INTEGER NOT NULL,
    -- YYYY-MM-DD by the calendar of the campaign's time zone.
    local_day   TEXT    NOT NULL,
    points      INTEGER NOT NULL,
    claim_id    TEXT    NOT NULL
) STRICT;

-- The last line of "once a local day".
CREATE UNIQUE INDEX points_once_a_day ON points_ledger (user_id, campaign_no, local_day);

-- Where a dead claim stands (`accepted`, or what has become of it), and who ended it when, until it is a row.
ALTER TABLE dead_letters ADD COLUMN status    TEXT NOT NULL DEFAULT 'accepted';
ALTER TABLE dead_letters ADD COLUMN ended_seq INTEGER;
ALTER TABLE dead_letters ADD COLUMN ended_at  TEXT;
ALTER TABLE dead_letters ADD COLUMN ended_by  TEXT;

-- A letter is open until somebody has dealt with it: `requeued`, `discarded: …`, or, of a claim that was given back,
-- `cancelled` or `expired`, with the reason behind it if there was one.
ALTER TABLE dead_letters ADD COLUMN resolved_at TEXT;
ALTER TABLE dead_letters ADD COLUMN resolved_by TEXT;
ALTER TABLE dead_letters ADD COLUMN resolution  TEXT;

-- Letters that were dealt with stay; a list of the open ones must not pass over them.
CREATE INDEX dead_letters_open ON dead_letters (id) WHERE resolution IS NULL;
