-- A database and its journal are a pair. These tell one process of the pair from another, and what was done to it by hand.

-- Which start of the node writes here: each start takes the next number, and a batch of an earlier one is refused.
ALTER TABLE forebay_meta ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;

-- What `forebay recover` did to this database. `action` is `bound` (a new database got this journal), `accepted` (an older
-- copy goes on), `loss` (the entries from `first_seq` to `last_seq` are in neither side, and somebody accepted that) or
-- `rebuilt` (a new journal was made from these rows). `detail` is JSON.
CREATE TABLE recoveries (
    id        INTEGER PRIMARY KEY,
    at        TEXT    NOT NULL,
    action    TEXT    NOT NULL,
    journal   TEXT    NOT NULL,
    cursor    INTEGER NOT NULL,
    first_seq INTEGER,
    last_seq  INTEGER,
    detail    TEXT    NOT NULL
) STRICT;
