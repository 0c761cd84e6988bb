//! Writing a batch: cursor, rows, dead letters and sums in one transaction.
//!
//! The cursor moves first. It is the cheapest statement, the one that tells whether the rest has been done already or must
//! not be done at all, and its row's lock keeps any other writer out until the transaction ends: also a session of our own
//! whose answer never came, and which may still commit.

use sqlx::{PgConnection, Row as _};

use super::super::effect::{Effects, Place};
use super::super::fold::{Folded, Owner, Took, Work, unbound};
use super::super::{Batch, CampaignRow, DeadRow, Row, StoreError, Written};
use super::claims::Inserted;
use super::error::{Moment, before, from_sqlx};
use super::types::At;
use super::{carts, claims, effect, ends, letters};

/// Whether a connection may serve the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clean {
    /// No transaction is open and nothing is in doubt.
    Yes,
    /// Close it.
    No,
}

/// What is told of a transaction before it commits: the number of its change.
pub(super) type Tell<'a> = &'a (dyn Fn(i64) + Send + Sync);

/// Writes `batch`; the connection is clean afterwards unless told otherwise.
pub(super) async fn batch(
    sql: &mut PgConnection,
    owner: &Owner,
    batch: &Batch,
    dead: &[DeadRow],
    tell: Tell<'_>,
) -> (Result<Written, StoreError>, Clean) {
    let mut work = Work::new(&batch.rows, dead);
    loop {
        if let Err(error) = begin(sql).await {
            return (Err(error), Clean::No);
        }
        let applied = match move_cursor(sql, owner, batch).await {
            Ok((true, change)) => {
                let applied = apply(sql, &mut work).await;
                tell(change);
                applied
            }
            Ok((false, change)) => {
                tell(change);
                return rolled_back(sql, Ok(Written::AlreadyThere)).await;
            }
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
pub(super) async fn probe(sql: &mut PgConnection, rows: &[Row]) -> (Result<(), StoreError>, Clean) {
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

pub(super) async fn begin(sql: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::raw_sql("BEGIN").execute(sql).await.map(|_| ()).map_err(before)
}

pub(super) async fn commit(sql: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::raw_sql("COMMIT").execute(sql).await.map(|_| ()).map_err(|e| from_sqlx(&e, Moment::Commit))
}

/// Ends a transaction that is not to be committed. After an outage the connection is closed all the same: what ailed it may
/// be the connection.
pub(super) async fn rolled_back<T>(
    sql: &mut PgConnection,
    result: Result<T, StoreError>,
) -> (Result<T, StoreError>, Clean) {
    let ended = sqlx::raw_sql("ROLLBACK").execute(sql).await.is_ok();
    let clean = if ended && !matches!(result, Err(StoreError::Outage(_))) { Clean::Yes } else { Clean::No };
    (result, clean)
}

/// Whether the batch is to be written (false where it is there already), and the number of the last change.
async fn move_cursor(sql: &mut PgConnection, owner: &Owner, batch: &Batch) -> Result<(bool, i64), StoreError> {
    let (after, upto) = (batch.after.0 as i64, batch.upto.0 as i64);
    let text = "UPDATE forebay_meta SET cursor = $1, mark = $5, changes = changes + 1 \
                WHERE cursor = $2 AND journal = $3 AND epoch = $4 RETURNING changes";
    let moved = sqlx::query_scalar(text)
        .bind(upto)
        .bind(after)
        .bind(&owner.journal)
        .bind(owner.epoch)
        .bind(i64::from(batch.mark))
        .fetch_optional(&mut *sql)
        .await
        .map_err(before)?;
    if let Some(changes) = moved {
        return Ok((true, changes));
    }
    let text = "SELECT journal, cursor, epoch, changes FROM forebay_meta";
    let found = sqlx::query(text).fetch_optional(sql).await.map_err(before)?;
    let Some(found) = found else { return Err(unbound()) };
    let (theirs, cursor, epoch): (String, i64, i64) = (found.get(0), found.get(1), found.get(2));
    owner.judge((&theirs, epoch), cursor, (after, upto)).map(|()| (false, found.get(3)))
}

/// Counts a transaction of `owner`'s that moves no cursor; gives its number. It takes the lock of the row that every writer
/// takes.
pub(super) async fn change(sql: &mut PgConnection, owner: &Owner) -> Result<i64, StoreError> {
    let text = "UPDATE forebay_meta SET changes = changes + 1 WHERE journal = $1 AND epoch = $2 RETURNING changes";
    let query = sqlx::query_scalar(text).bind(&owner.journal).bind(owner.epoch);
    if let Some(change) = query.fetch_optional(&mut *sql).await.map_err(before)? {
        return Ok(change);
    }
    let found = sqlx::query("SELECT journal, cursor, epoch FROM forebay_meta").fetch_optional(sql).await;
    let Some(found) = found.map_err(before)? else { return Err(unbound()) };
    let (theirs, cursor, epoch): (String, i64, i64) = (found.get(0), found.get(1), found.get(2));
    owner.judge_start((&theirs, epoch), cursor)?;
    Err(StoreError::Outage("its binding was changed just now".to_owned()))
}

/// Has the tables check now what they would check at COMMIT: only then is a row's fault seen where its row is known.
pub(super) async fn check_deferred(sql: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::raw_sql("SET CONSTRAINTS ALL IMMEDIATE").execute(sql).await.map(|_| ()).map_err(before)
}

/// How far [`apply`] came.
enum Applied {
    /// Everything is in.
    All(Written),
    /// Some claims may be there already, which is seen only afterwards. Roll back and apply it again, looking first.
    Again,
}

/// Inserts the rows and moves the sums.
async fn apply(sql: &mut PgConnection, work: &mut Work<'_>) -> Result<Applied, StoreError> {
    if work.looked_up {
        work.claims = claims::without_known(sql, std::mem::take(&mut work.claims)).await?;
    }
    let folded = Folded::of(work)?;
    let mut effects = Effects::default();
    // Before the inserts: a hold must be free before it is taken again.
    let mut ends_of_rows = folded.ended.len();
    for (end, took) in folded.older.iter().zip(ends::apply(sql, &folded.older).await?) {
        match took {
            Took::Row => {
                ends_of_rows += 1;
                effects.end(end, Place::Persisted);
            }
            Took::Letter => effects.end(end, Place::Dead),
            Took::Nothing => {}
        }
    }
    let new = match claims::insert(sql, &folded.held, &folded.ended).await? {
        Inserted::All(new) => new,
        Inserted::Double(error) if work.looked_up => return Err(error),
        Inserted::Double(_) => {
            work.looked_up = true;
            return Ok(Applied::Again);
        }
    };
    claims::insert_points(sql, &work.claims).await?;
    carts::write(sql, &work.carts).await?;
    write_rest(sql, work, &folded, &mut effects).await?;
    check_deferred(sql).await?;
    let moved_dead = ends_of_rows != work.ends.len();
    Ok(Applied::All(Written::Committed { new_claims: new, moved_dead }))
}

/// Dead letters, the campaigns' log, and the sums.
async fn write_rest<'a>(
    sql: &mut PgConnection,
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

pub(super) async fn insert_log(sql: &mut PgConnection, row: &CampaignRow) -> Result<(), StoreError> {
    let text = "INSERT INTO campaign_log (seq, campaign_no, campaign, at, action, by, detail) \
                VALUES ($1,$2,$3,$4,$5,$6,$7::json)";
    sqlx::query(text)
        .bind(row.seq.0 as i64)
        .bind(i64::from(row.no.0))
        .bind(row.id.as_str())
        .bind(At(row.at))
        .bind(row.action)
        .bind(row.by.as_str())
        .bind(row.detail.as_str())
        .execute(sql)
        .await
        .map(|_| ())
        .map_err(before)
}
