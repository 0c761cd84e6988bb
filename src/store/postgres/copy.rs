//! Rows for `COPY … (FORMAT BINARY)`: the bytes are those of PostgreSQL's documentation, sql-copy, "Binary Format".
//!
//! Straight into the table, with no table in between and no `ON CONFLICT`: rows that are there already are the exception,
//! seen by the error and dealt with by a second attempt. docs/performance.md has what the other ways cost.

use sqlx::PgConnection;

/// The signature, no flags, no header extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// Rows on their way.
pub(super) struct Rows {
    bytes: Vec<u8>,
    columns: i16,
    count: u64,
}

impl Rows {
    /// Room for `rows` rows of so many columns.
    pub(super) fn new(columns: i16, rows: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEADER.len() + rows * 256 + 2);
        bytes.extend_from_slice(HEADER);
        Self { bytes, columns, count: 0 }
    }

    /// Begins a row: so many columns must follow.
    pub(super) fn row(&mut self) -> &mut Self {
        self.bytes.extend_from_slice(&self.columns.to_be_bytes());
        self.count += 1;
        self
    }

    /// A column of raw bytes: text, or bytea.
    pub(super) fn raw(&mut self, value: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(&(value.len() as i32).to_be_bytes());
        self.bytes.extend_from_slice(value);
        self
    }

    pub(super) fn text(&mut self, value: &str) -> &mut Self {
        self.raw(value.as_bytes())
    }

    pub(super) fn null(&mut self) -> &mut Self {
        self.bytes.extend_from_slice(&(-1_i32).to_be_bytes());
        self
    }

    /// A `bigint`, or a `timestamptz`.
    pub(super) fn long(&mut self, value: i64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// An `integer`, or a `date`.
    pub(super) fn int(&mut self, value: i32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// What `write` makes of it, or NULL.
    pub(super) fn or_null<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T) -> &mut Self) -> &mut Self {
        match value {
            Some(value) => write(self, value),
            None => self.null(),
        }
    }

    /// Sends them by `statement`; gives how many the server took.
    ///
    /// # Errors
    /// The server's; then the transaction can only be rolled back.
    pub(super) async fn send(mut self, sql: &mut PgConnection, statement: &str) -> Result<u64, sqlx::Error> {
        if self.count == 0 {
            return Ok(0);
        }
        self.bytes.extend_from_slice(&(-1_i16).to_be_bytes());
        let mut copy = sql.copy_in_raw(statement).await?;
        copy.send(self.bytes).await?;
        copy.finish().await
    }
}
