-- Carts. Rows are set, never added to, and guarded by the position of the operation that set them: one that comes again,
-- or too late, changes nothing.

-- The last operation on each buyer's cart; it stays when the cart is empty, so that an old operation can't bring a line back.
CREATE TABLE carts (
    user_id TEXT    NOT NULL PRIMARY KEY,
    seq     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE cart_items (
    user_id  TEXT    NOT NULL,
    sku      TEXT    NOT NULL,
    quantity INTEGER NOT NULL CHECK (quantity > 0),
    seq      INTEGER NOT NULL,
    PRIMARY KEY (user_id, sku)
) STRICT, WITHOUT ROWID;
