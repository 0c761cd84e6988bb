-- What many gates that share a buffer have to agree on; see migrations/sqlite/0006_gates.sql.

CREATE TABLE gates (
    id         text        COLLATE "C" NOT NULL PRIMARY KEY,
    state      text        COLLATE "C" NOT NULL CHECK (state IN ('active', 'left', 'dismissed')),
    first_seen timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    by         text        NOT NULL
);

CREATE TABLE shared_secrets (
    name  text  COLLATE "C" NOT NULL PRIMARY KEY,
    value bytea NOT NULL
);
