//! Writing a batch: cursor, rows, dead letters and sums in one transaction.
//!
//! The cursor moves first. It is the cheapest statement, and the one that tells whether the rest has been done already
//! or must not be done at all. A campaign's sums, restocks and new window arrive in one UPDATE, so that the tables'
//! own guards against oversell see what is true between batches, whatever the order within one.

use sqlx::{Row as _, SqliteConnection};

use super::super::effect::{Effects, Place};
use super::super::fold::{Folded, Owner, Took, Work, unbound};
use super::super::{Batch, CampaignRow, DeadRow, Row, StoreError, Written};
use super::connection::Clean;
use super::error::{Moment, before, from_sqlx};
use super::{carts, claims, effect, ends, letters};

/// Writes `batch`; the connection is clean afterwards unless told otherwise.
pub(super) async fn batch(
    sql: &mut SqliteConnection,
    owner: &Owner,
    batch: &Batch,
    dead: &[DeadRow],
) -> (Result<Written, StoreError>, Clean) {
    let mut work = Work::new(&batch.rows, dead);
    loop {
        if let Err(error) = begin(sql).await {
            return (Err(error), Clean::No);
        }
        let applied = match move_cursor(sql, owner, batch).await {
            Ok(true) => apply(sql, &mut work).await,
            Ok(false) => return rolled_back(sql, Ok(Written::AlreadyThere)).await,
            Err(error) => Err(error),
        };
        match applied {
            Ok(Applied::All(written)) => {
                crate::plant::crash_point("store.before_commit");
                return match commit(sql).await {
                    Ok(()) => {
                        crate::plant::crash_point("store.after_commit");
                        (Ok(written), Clean::Yes)
                    }
                    Err(error) => (Err(error), Clean::No),
                };
            }
            Ok(Applied::Again) => match rolled_back(sql, Ok(())).await {
                (Ok(()), Clean::Yes) => {}
                (_, clean) => return (Err(StoreError::Outage("a rollback failed".to_owned())), clean),
            },
            Err(error) => return rolled_back(sql, Err(error)).await,
        }
    }
}

/// Does everything that [`batch`] does but for the cursor, and takes it back.
pub(super) async fn probe(sql: &mut SqliteConnection, rows: &[Row]) -> (Result<(), StoreError>, Clean) {
    let mut work = Work::new(rows, &[]);
    loop {
        if let Err(error) = begin(sql).await {
            return (Err(error), Clean::No);
        }
        let applied = apply(sql, &mut work).await;
        let again = matches!(applied, Ok(Applied::Again));
        let (result, clean) = rolled_back(sql, applied.map(|_| ())).await;
        if !again || clean == Clean::No {
            return (result, clean);
        }
    }
}

pub(super) async fn begin(sql: &mut SqliteConnection) -> Result<(), StoreError> {
    // IMMEDIATE takes the write lock here, where waiting for it is harmless, and not at the first change.
    sqlx::query("BEGIN IMMEDIATE").execute(sql).await.map(|_| ()).map_err(before)
}

pub(super) async fn commit(sql: &mut SqliteConnection) -> Result<(), StoreError> {
    sqlx::query("COMMIT").execute(sql).await.map(|_| ()).map_err(|e| from_sqlx(&e, Moment::Commit))
}

pub(super) async fn rolled_back<T>(
    sql: &mut SqliteConnection,
    result: Result<T, StoreError>,
) -> (Result<T, StoreError>, Clean) {
    /// SQLITE_ERROR: no transaction is active. A failed `INSERT OR ROLLBACK` has ended it.
    const NONE_ACTIVE: &str = "1";
    let ended = match sqlx::query("ROLLBACK").execute(sql).await {
        Ok(_) => true,
        Err(sqlx::Error::Database(e)) => e.code().as_deref() == Some(NONE_ACTIVE),
        Err(_) => false,
    };
    let clean = if ended && !matches!(result, Err(StoreError::Outage(_))) { Clean::Yes } else { Clean::No };
    (result, clean)
}

/// Whether the batch is to be written: false where it is there already.
async fn move_cursor(sql: &mut SqliteConnection, owner: &Owner, batch: &Batch) -> Result<bool, StoreError> {
    let (after, upto) = (batch.after.0 as i64, batch.upto.0 as i64);
    let moved =
        sqlx::query("UPDATE forebay_meta SET cursor = ?, mark = ? WHERE cursor = ? AND journal = ? AND epoch = ?")
            .bind(upto)
            .bind(i64::from(batch.mark))
            .bind(after)
            .bind(&owner.journal)
            .bind(owner.epoch)
            .execute(&mut *sql)
            .await
            .map_err(before)?;
    if moved.rows_affected() == 1 {
        return Ok(true);
    }
    let found =
        sqlx::query("SELECT journal, cursor, epoch FROM forebay_meta").fetch_optional(sql).await.map_err(before)?;
    let Some(found) = found else { return Err(unbound()) };
    let (theirs, cursor, epoch): (String, i64, i64) = (found.get(0), found.get(1), found.get(2));
    owner.judge((&theirs, epoch), cursor, (after, upto)).map(|()| false)
}

/// Whether the database is still `owner`'s, for a transaction that moves no cursor.
pub(super) async fn check_owner(sql: &mut SqliteConnection, owner: &Owner) -> Result<(), StoreError> {
    let found = sqlx::query("SELECT journal, cursor, epoch FROM forebay_meta").fetch_optional(sql).await;
    let Some(found) = found.map_err(before)? else { return Err(unbound()) };
    let (theirs, cursor, epoch): (String, i64, i64) = (found.get(0), found.get(1), found.get(2));
    owner.judge_start((&theirs, epoch), cursor)
}

/// How far [`apply`] came.
enum Applied {
    /// Everything is in.
    All(Written),
    /// Some claims were there already, which is seen only afterwards. Roll back and apply
    /// it again, looking first. (A savepoint would spare the second BEGIN, at the price of a copy of every changed page.)
    Again,
}

/// Inserts the rows and moves the sums.
async fn apply(sql: &mut SqliteConnection, work: &mut Work<'_>) -> Result<Applied, StoreError> {
    if work.looked_up {
        work.claims = claims::without_known(sql, std::mem::take(&mut work.claims)).await?;
    }
    let folded = Folded::of(work)?;
    let mut effects = Effects::default();
    // Before the inserts: a hold must be free before it is taken again.
    let mut ends_of_rows = folded.ended.len();
    for end in &folded.older {
        match ends::apply(sql, end).await? {
            Took::Row => {
                ends_of_rows += 1;
                effects.end(end, Place::Persisted);
            }
            Took::Letter => effects.end(end, Place::Dead),
            Took::Nothing => {}
        }
    }
    // First those that ended: one that is there already, and held, is ended by the second attempt, and only then is its hold
    // free for another.
    let mut new = claims::insert_ended(sql, &folded.ended).await?;
    if new == folded.ended.len() as u64 {
        new += claims::insert(sql, &folded.held).await?;
    }
    if new != work.claims.len() as u64 {
        if work.looked_up {
            return Err(StoreError::Row("one claim id names two rows of the batch".to_owned()));
        }
        work.looked_up = true;
        return Ok(Applied::Again);
    }
    claims::insert_points(sql, &work.claims).await?;
    carts::write(sql, &work.carts).await?;
    write_rest(sql, work, &folded, &mut effects).await?;
    let moved_dead = ends_of_rows != work.ends.len();
    Ok(Applied::All(Written::Committed { new_claims: new, moved_dead }))
}

/// Dead letters, the campaigns' log, and the sums.
async fn write_rest<'a>(
    sql: &mut SqliteConnection,
    work: &Work<'a>,
    folded: &Folded<'a>,
    effects: &mut Effects<'a>,
) -> Result<(), StoreError> {
    folded.held.iter().for_each(|row| effects.claim(row, Place::Persisted));
    folded.ended.iter().for_each(|(row, end)| effects.claim(row, Place::of(end.moved.to)));
    for &(row, reason, end) in &folded.dead {
        letters::insert(sql, row, reason, end).await?;
        if let Row::Claim(row) = row {
            let returned = end.is_some_and(|end| end.moved.to.returns_units());
            effects.claim(row, if returned { Place::Returned } else { Place::Dead });
        }
    }
    for row in &work.log {
        insert_log(sql, row).await?;
        effects.log(row)?;
    }
    effect::apply(effects, sql).await
}

pub(super) async fn insert_log(sql: &mut SqliteConnection, row: &CampaignRow) -> Result<(), StoreError> {
    let text = "INSERT INTO campaign_log (seq, campaign_no, campaign, at, action, by, detail) VALUES (?,?,?,?,?,?,?)";
    sqlx::query(text)
        .bind(row.seq.0 as i64)
        .bind(i64::from(row.no.0))
        .bind(row.id.as_str())
        .bind(row.at.to_string())
        .bind(row.action)
        .bind(row.by.as_str())
        .bind(row.detail.as_str())
        .execute(sql)
        .await
        .map(|_| ())
        .map_err(before)
}
