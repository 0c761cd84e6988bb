//! The partitions of claims by day, where the operator asked for them: made ahead by whoever writes, best effort. A row whose
//! day has none goes to the partition for all other days, so that nothing here can hold a batch up or have a row refused.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, PgConnection};

use super::super::{Row, StoreError};
use super::error::before;
use crate::clock::tick;
use crate::limits;
use crate::sale::{ClaimId, LocalDay};

const DAY_MILLIS: u64 = 86_400_000;

/// Which days need no partition any more, as far as this process knows.
#[derive(Debug, Default)]
pub(super) struct Days {
    made: BTreeSet<u16>,
    /// Not before this is a failed attempt repeated.
    not_before: BTreeMap<u16, Instant>,
}

impl Days {
    /// The days of the claims in `rows` and the one after them, as far as their partitions are not known to be there.
    pub(super) fn missing(&self, rows: &[Row]) -> Vec<u16> {
        let mut days: BTreeSet<u16> = rows.iter().filter_map(day).collect();
        if let Some(next) = days.last().and_then(|last| last.checked_add(1)) {
            days.insert(next);
        }
        let may_try = |day: &u16| self.not_before.get(day).is_none_or(|from| tick() >= *from);
        days.into_iter().filter(|day| !self.made.contains(day) && may_try(day)).collect()
    }

    /// A day's partition is there, or will never be.
    pub(super) fn made(&mut self, day: u16) {
        self.made.insert(day);
        self.not_before.remove(&day);
    }

    pub(super) fn failed(&mut self, day: u16) {
        self.not_before.insert(day, tick() + Duration::from_secs(limits::STORE_PARTITION_PAUSE_SECS));
    }
}

/// The UTC day on which a claim's id was made; none for one that no calendar of ours knows.
fn day(row: &Row) -> Option<u16> {
    match row {
        Row::Claim(row) => u16::try_from(row.claim.claim_id.millis() / DAY_MILLIS).ok(),
        _ => None,
    }
}

/// The least text of an id that is made at or after the beginning of a day.
fn bound(day: u64) -> String {
    let millis = day * DAY_MILLIS;
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(millis << 16).to_be_bytes());
    // Of the whole id only the time counts: any id of that millisecond continues this text.
    ClaimId(bytes).to_string()[..13].to_owned()
}

/// Makes a day's partition, unless it is there. Waits only briefly for whoever reads the table: making it ahead leaves time.
///
/// # Errors
/// [`StoreError::Row`] where rows of that day stand with those of other days already: then it can't be made any more.
pub(super) async fn make(sql: &mut PgConnection, day: u16) -> Result<(), StoreError> {
    let name = LocalDay(day).to_string().replace('-', "");
    let (from, to) = (bound(day.into()), bound(u64::from(day) + 1));
    let text = format!(
        "BEGIN; SET LOCAL lock_timeout = {lock}; \
         CREATE TABLE IF NOT EXISTS claims_{name} PARTITION OF claims FOR VALUES FROM ('{from}') TO ('{to}'); COMMIT",
        lock = limits::STORE_PARTITION_LOCK_MILLIS
    );
    let made = sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *sql).await.map(|_| ()).map_err(before);
    if made.is_err() {
        sqlx::raw_sql("ROLLBACK").execute(sql).await.map_err(before)?;
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sale::{Timestamp, UserHash};

    #[test]
    fn a_day_is_the_range_of_the_ids_that_were_made_on_it() {
        let at =
            |millis: u64| ClaimId::new(Timestamp((millis * 1_000) as i64), UserHash(u128::MAX), u64::MAX).to_string();
        for day in [0, 1, 20_412, 65_535] {
            let (first, next) = (day * DAY_MILLIS, (day + 1) * DAY_MILLIS);
            assert!(bound(day) < at(first) && at(next - 1) < bound(day + 1) && bound(day + 1) < at(next), "{day}");
        }
    }
}
