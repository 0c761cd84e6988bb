//! Which journal the file belongs to, which start of a node writes to it, and how `forebay recover` changes either.
//!
//! Everything that changes the pair is one transaction that demands the state it was decided on, so that a repeated run
//! finds it done or not begun.

use sqlx::{Row as _, SqliteConnection};

use super::super::effect::{Effects, Place};
use super::super::fold::Took;
use super::super::letter::storable;
use super::super::{EndRow, KnownCampaign, Looked, Mend, Position, Recovery, StoreError};
use super::connection::Clean;
use super::error::before;
use super::{effect, ends, read, write};
use crate::sale::Timestamp;

/// Ties the file to `journal` if it belongs to none, and takes the next start's number if it belongs to it. The number is
/// none where it is another's.
pub(super) async fn bind(
    sql: &mut SqliteConnection,
    journal: u128,
) -> (Result<(Position, Option<i64>), StoreError>, Clean) {
    let work = async {
        write::begin(sql).await?;
        let text = "INSERT INTO forebay_meta (one, journal, cursor, format) VALUES (1, ?, 0, 1) ON CONFLICT DO NOTHING";
        sqlx::query(text).bind(format!("{journal:032x}")).execute(&mut *sql).await.map_err(before)?;
        let position = read::position(sql).await?;
        let position = position.ok_or_else(|| StoreError::Outage("the binding did not stay".to_owned()))?;
        if position.journal != journal {
            return Ok((position, None));
        }
        let text = "UPDATE forebay_meta SET epoch = epoch + 1 RETURNING epoch";
        let epoch = sqlx::query_scalar(text).fetch_one(&mut *sql).await.map_err(before)?;
        write::commit(sql).await?;
        Ok((position, Some(epoch)))
    };
    match work.await {
        // Of another journal: the transaction, which changed nothing, ends with its connection.
        Ok((position, None)) => (Ok((position, None)), Clean::No),
        Ok(bound) => (Ok(bound), Clean::Yes),
        Err(error) => (Err(error), Clean::No),
    }
}

/// Whose the file is, whatever its version.
pub(super) async fn look(sql: &mut SqliteConnection) -> Result<Looked, StoreError> {
    let Some(position) = read::position(sql).await? else { return Ok(Looked::Unbound) };
    let known = "SELECT count(*) FROM pragma_table_info('forebay_meta') WHERE name = 'mark'";
    let known: i64 = sqlx::query_scalar(known).fetch_one(&mut *sql).await.map_err(before)?;
    let mark: Option<i64> = match known {
        0 => None,
        _ => sqlx::query_scalar("SELECT mark FROM forebay_meta").fetch_one(sql).await.map_err(before)?,
    };
    Ok(Looked::Bound(position, mark.and_then(|mark| mark.try_into().ok())))
}

/// Moves the file from `from` (none: it belongs to no journal) to `to`, with the campaigns that it lacks, and writes down
/// what was done. True where it stands at `to` already.
pub(super) async fn rebind(
    sql: &mut SqliteConnection,
    from: Option<Position>,
    to: Position,
    mend: &Mend,
    recovery: &Recovery,
) -> (Result<bool, StoreError>, Clean) {
    let work = async {
        write::begin(sql).await?;
        let now = read::position(sql).await?;
        if now == Some(to) && from != Some(to) {
            write::commit(sql).await?;
            return Ok(true);
        }
        if now != from {
            let text = "the database was changed meanwhile: run `forebay recover` again".to_owned();
            return Err(StoreError::Fenced(text));
        }
        let text = "INSERT INTO forebay_meta (one, journal, cursor, format, epoch) VALUES (1, ?, ?, 1, 1) \
                    ON CONFLICT (one) DO UPDATE SET journal = excluded.journal, cursor = excluded.cursor, \
                    epoch = epoch + 1, mark = CASE WHEN journal = excluded.journal AND cursor = excluded.cursor \
                    THEN mark END";
        let (journal, cursor) = (format!("{:032x}", to.journal), to.cursor.0 as i64);
        sqlx::query(text).bind(&journal).bind(cursor).execute(&mut *sql).await.map_err(before)?;
        // First what was given back: then the campaigns' guards see what is held.
        put_ends(sql, &mend.ends).await?;
        for campaign in &mend.campaigns {
            put_campaign(sql, campaign, to, recovery.at).await?;
        }
        for id in &mend.lost {
            let text = "INSERT OR IGNORE INTO lost_claims (claim_id) VALUES (?)";
            sqlx::query(text).bind(id.to_string()).execute(&mut *sql).await.map_err(before)?;
        }
        let text = "INSERT INTO recoveries (at, action, journal, cursor, first_seq, last_seq, detail) \
                    VALUES (?,?,?,?,?,?,?)";
        sqlx::query(text)
            .bind(recovery.at.to_string())
            .bind(recovery.action)
            .bind(&journal)
            .bind(cursor)
            .bind(recovery.lost.map(|(first, _)| first.0 as i64))
            .bind(recovery.lost.map(|(_, last)| last.0 as i64))
            .bind(recovery.detail.to_string())
            .execute(&mut *sql)
            .await
            .map_err(before)?;
        crate::plant::crash_point("recover.before_commit");
        write::commit(sql).await?;
        crate::plant::crash_point("recover.after_commit");
        Ok(false)
    };
    match work.await {
        Ok(done) => (Ok(done), Clean::Yes),
        Err(error) => (Err(error), Clean::No),
    }
}

/// Brings claims to the ends that are known of them, with their sums.
async fn put_ends(sql: &mut SqliteConnection, ends: &[EndRow]) -> Result<(), StoreError> {
    let mut effects = Effects::default();
    for end in ends {
        match ends::apply(sql, end).await? {
            Took::Row => effects.end(end, Place::Persisted),
            Took::Letter => effects.end(end, Place::Dead),
            Took::Nothing => {}
        }
    }
    effect::apply(&effects, sql).await
}

/// Makes a campaign's row what it is at the recovered position. Its sums stay: they are those of the rows.
async fn put_campaign(
    sql: &mut SqliteConnection,
    campaign: &KnownCampaign,
    to: Position,
    at: Timestamp,
) -> Result<(), StoreError> {
    // Ends that were lost may leave more rows open than the stock has units: the guard is for batches, not for this.
    let text = "INSERT INTO campaigns (no, id, kind, title, state, opens_at, closes_at, per_user_limit, stock, currency, \
                price, total, definition, seq, updated_at) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) \
                ON CONFLICT (no) DO UPDATE SET id = excluded.id, kind = excluded.kind, title = excluded.title, \
                state = excluded.state, opens_at = excluded.opens_at, closes_at = excluded.closes_at, \
                per_user_limit = excluded.per_user_limit, currency = excluded.currency, price = excluded.price, \
                stock = max(excluded.stock, persisted_units + settled_units), \
                total = max(excluded.total, persisted_money + settled_money), \
                definition = coalesce(definition, excluded.definition), seq = excluded.seq, \
                updated_at = excluded.updated_at";
    let spec = &campaign.spec;
    sqlx::query(text)
        .bind(i64::from(campaign.no.0))
        .bind(spec.id.as_str())
        .bind(spec.kind.as_str())
        .bind(storable(&spec.title))
        .bind(campaign.state.as_str())
        .bind(spec.opens_at.to_string())
        .bind(spec.closes_at.to_string())
        .bind(spec.per_user_limit.0 as i64)
        .bind(campaign.stock.map(|units| units.0 as i64))
        .bind(spec.currency.map(|c| c.as_str().to_owned()))
        .bind(spec.price.map(|p| p.0))
        .bind(campaign.total.map(|total| total.0))
        .bind(spec.to_json().to_string())
        .bind(to.cursor.0 as i64)
        .bind(at.to_string())
        .execute(sql)
        .await
        .map(|_| ())
        .map_err(before)
}

/// The losses that were accepted, oldest first, as `first to last`: of older copies, and of journals made anew.
pub(super) async fn losses(sql: &mut SqliteConnection) -> Result<Vec<(u64, u64)>, StoreError> {
    let text = "SELECT first_seq, last_seq FROM recoveries WHERE first_seq IS NOT NULL ORDER BY id";
    let rows = sqlx::query(text).fetch_all(sql).await.map_err(before)?;
    Ok(rows.iter().map(|row| (row.get::<i64, _>(0) as u64, row.get::<i64, _>(1) as u64)).collect())
}

/// How often a journal was made anew from this database.
pub(super) async fn rebuilds(sql: &mut SqliteConnection) -> Result<u64, StoreError> {
    let text = "SELECT count(*) FROM recoveries WHERE action = 'rebuilt'";
    let count: i64 = sqlx::query_scalar(text).fetch_one(sql).await.map_err(before)?;
    Ok(count.unsigned_abs())
}

/// Moves the whole write-ahead log into the file.
pub(super) async fn fold(sql: &mut SqliteConnection) -> Result<(), StoreError> {
    let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(sql).await.map_err(before)?;
    match row.get::<i64, _>(0) {
        0 => Ok(()),
        _ => {
            Err(StoreError::Outage("another program is reading it, and keeps its log: close that one first".to_owned()))
        }
    }
}
