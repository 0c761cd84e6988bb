-- What many gates that share a buffer have to agree on. A database of one node alone has both tables empty.

-- Which gates there are: whoever opens the buffer anew waits for what those of them have kept that are `active`. One that
-- `left` ended cleanly and owes nothing; one that an operator `dismissed` is not waited for, and never serves again.
CREATE TABLE gates (
    id         TEXT NOT NULL PRIMARY KEY,
    state      TEXT NOT NULL CHECK (state IN ('active', 'left', 'dismissed')),
    first_seen TEXT NOT NULL,
    changed_at TEXT NOT NULL,
    by         TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- `hash_key`, `receipt_keys` and `identity`: made by whoever came first, and the same for all.
CREATE TABLE shared_secrets (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
