-- The tables. Every name is under the collation "C": bytes are compared, as the program that writes them compares, and
-- no library of the system's that changes its mind about an order can make an index wrong.

CREATE TABLE claims (
    seq             bigint      NOT NULL PRIMARY KEY,
    claim_id        text        COLLATE "C" NOT NULL,
    campaign        text        COLLATE "C" NOT NULL,
    campaign_no     bigint      NOT NULL,
    user_id         text        COLLATE "C" NOT NULL,
    quantity        bigint      NOT NULL CHECK (quantity > 0),
    amount          bigint,
    currency        text        COLLATE "C",
    status          text        COLLATE "C" NOT NULL,
    accepted_at     timestamptz NOT NULL,
    -- Which of the buyer's concurrent holds this is (of a check-in: which day); NULL once the claim was given back, so that
    -- the key below lets the buyer claim again.
    hold            bigint,
    receipt_key     integer     NOT NULL,
    durability      text        COLLATE "C" NOT NULL,
    idempotency_key bytea,
    -- NULL until the claim has come to its end. `ended_by` is empty where time ended it.
    ended_seq       bigint,
    ended_at        timestamptz,
    ended_by        text        COLLATE "C"
);

-- The last line against doubles.
CREATE UNIQUE INDEX claims_by_id ON claims (claim_id);
-- The last line of "one per buyer", and what a buyer's claims are found by.
CREATE UNIQUE INDEX claims_one_per_hold ON claims (user_id, campaign_no, hold);

-- The latest definition of every campaign, and the sums of its rows, moved in the same transactions as the rows.
CREATE TABLE campaigns (
    no              bigint      NOT NULL PRIMARY KEY,
    id              text        COLLATE "C" NOT NULL UNIQUE,
    -- From here to `definition`: NULL for a campaign whose creation is in the dead letters. A check-in has no stock.
    kind            text        COLLATE "C",
    title           text,
    state           text        COLLATE "C",
    opens_at        timestamptz,
    closes_at       timestamptz,
    per_user_limit  bigint,
    stock           bigint,
    currency        text        COLLATE "C",
    price           bigint,
    total           bigint,
    definition      json,
    seq             bigint      NOT NULL,
    updated_at      timestamptz NOT NULL,
    -- Of rows that are neither paid nor given back; of paid ones; of all that ever were given back or expired, dead letters
    -- included; of dead letters that were not given back.
    persisted_units bigint      NOT NULL DEFAULT 0,
    persisted_money bigint      NOT NULL DEFAULT 0,
    settled_units   bigint      NOT NULL DEFAULT 0,
    settled_money   bigint      NOT NULL DEFAULT 0,
    returned_units  bigint      NOT NULL DEFAULT 0,
    returned_money  bigint      NOT NULL DEFAULT 0,
    dead_units      bigint      NOT NULL DEFAULT 0,
    dead_money      bigint      NOT NULL DEFAULT 0,
    -- The last line of "no oversell". All of a batch's effects on a campaign arrive in one UPDATE, so that this holds
    -- between batches without depending on the order within one. Without a stock or a total it holds always: NULL passes.
    CONSTRAINT held_within_stock CHECK (persisted_units + settled_units <= stock),
    CONSTRAINT paid_within_total CHECK (persisted_money + settled_money <= total),
    CONSTRAINT units_of_claims CHECK (least(persisted_units, settled_units, returned_units, dead_units) >= 0),
    CONSTRAINT money_of_claims CHECK (least(persisted_money, settled_money, returned_money, dead_money) >= 0)
);

-- Who did what to a campaign, and when.
CREATE TABLE campaign_log (
    seq         bigint      NOT NULL PRIMARY KEY,
    campaign_no bigint      NOT NULL,
    campaign    text        COLLATE "C" NOT NULL,
    at          timestamptz NOT NULL,
    action      text        COLLATE "C" NOT NULL,
    by          text        NOT NULL,
    detail      json        NOT NULL
);
CREATE INDEX campaign_log_by_campaign ON campaign_log (campaign_no, seq);

-- What check-ins gave. `seq` is the claim's.
CREATE TABLE points_ledger (
    seq         bigint  NOT NULL PRIMARY KEY,
    user_id     text    COLLATE "C" NOT NULL,
    campaign    text    COLLATE "C" NOT NULL,
    campaign_no bigint  NOT NULL,
    -- By the calendar of the campaign's time zone.
    local_day   date    NOT NULL,
    points      bigint  NOT NULL,
    claim_id    text    COLLATE "C" NOT NULL
);
-- The last line of "once a local day".
CREATE UNIQUE INDEX points_ledger_once_a_day ON points_ledger (user_id, campaign_no, local_day);

-- The last operation on each buyer's cart; it stays when the cart is empty, so that an old operation can't bring a line back.
CREATE TABLE carts (
    user_id text   COLLATE "C" NOT NULL PRIMARY KEY,
    seq     bigint NOT NULL
);

-- Rows are set, never added to, and guarded by the position of the operation that set them.
CREATE TABLE cart_items (
    user_id  text   COLLATE "C" NOT NULL,
    sku      text   COLLATE "C" NOT NULL,
    quantity bigint NOT NULL CHECK (quantity > 0),
    seq      bigint NOT NULL,
    PRIMARY KEY (user_id, sku)
);

-- Entries that the tables above would not take. `payload` is the entry as JSON, complete and letter by letter, which is why
-- it is not jsonb. The id is given by the program, under the row lock of `forebay_meta`: without gaps, in the order of commits.
CREATE TABLE dead_letters (
    id          bigint      NOT NULL PRIMARY KEY,
    seq         bigint      NOT NULL UNIQUE,
    kind        text        COLLATE "C" NOT NULL,
    claim_id    text        COLLATE "C",
    campaign    text        COLLATE "C" NOT NULL,
    user_id     text        COLLATE "C",
    quantity    bigint,
    amount      bigint,
    at          timestamptz NOT NULL,
    reason      text        NOT NULL,
    payload     json        NOT NULL,
    -- Where a dead claim stands (`accepted`, or what has become of it), and who ended it when, until it is a row.
    status      text        COLLATE "C" NOT NULL DEFAULT 'accepted',
    ended_seq   bigint,
    ended_at    timestamptz,
    ended_by    text        COLLATE "C",
    -- A letter is open until somebody has dealt with it: `requeued`, `discarded: …`, or, of a claim that was given back,
    -- `cancelled` or `expired`, with the reason behind it if there was one.
    resolved_at timestamptz,
    resolved_by text,
    resolution  text
);
CREATE INDEX dead_letters_by_claim ON dead_letters (claim_id);
CREATE INDEX dead_letters_by_user ON dead_letters (user_id, seq);
CREATE INDEX dead_letters_open ON dead_letters (id) WHERE resolution IS NULL;

-- Which journal the database belongs to, the last of its entries that is here, and which start of the node writes. `changes`
-- counts the transactions that wrote: whoever reads a replica sees by it how far that one is. One row, once it is bound.
CREATE TABLE forebay_meta (
    one     smallint NOT NULL PRIMARY KEY CHECK (one = 1),
    journal text     COLLATE "C" NOT NULL,
    cursor  bigint   NOT NULL,
    format  integer  NOT NULL,
    epoch   bigint   NOT NULL DEFAULT 0,
    changes bigint   NOT NULL DEFAULT 0,
    -- What the entry at the cursor is known by, moved with it; NULL where nobody knows. Two copies of one journal that went
    -- on apart have the same id and the same positions: this tells them from each other.
    mark    bigint
) WITH (fillfactor = 10);

-- Claims that went with entries somebody accepted as lost; see migrations/sqlite/0005_mark.sql.
CREATE TABLE lost_claims (
    claim_id text COLLATE "C" NOT NULL PRIMARY KEY
);

-- What `forebay recover` did to this database; see migrations/sqlite/0004_pair.sql.
CREATE TABLE recoveries (
    id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL,
    action    text        NOT NULL,
    journal   text        NOT NULL,
    cursor    bigint      NOT NULL,
    first_seq bigint,
    last_seq  bigint,
    detail    json        NOT NULL
);

-- How many scripts have made these tables, and whether claims are partitioned by day: decided once, at the first start.
CREATE TABLE forebay_schema (
    one          smallint NOT NULL PRIMARY KEY CHECK (one = 1),
    version      integer  NOT NULL,
    partition_by text     NOT NULL
);
