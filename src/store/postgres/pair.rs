//! Which journal the database belongs to, which start of a node writes to it, and how `forebay recover` changes either.
//!
//! Everything that changes the pair is one transaction that demands the state it was decided on, so that a repeated run
//! finds it done or not begun.

use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::super::effect::{Effects, Place};
use super::super::fold::Took;
use super::super::letter::storable;
use super::super::{EndRow, KnownCampaign, Looked, Mend, Position, Recovery, StoreError};
use super::error::before;
use super::schema::{LOCK_CLASS, TABLES};
use super::types::At;
use super::write::Clean;
use super::{effect, ends, read, write};
use crate::sale::Timestamp;

/// Ties the database to `journal` if it belongs to none, and takes the next start's number if it belongs to it: with it, and
/// the number of the change that this is. None where it is another's.
pub(super) async fn bind(
    sql: &mut PgConnection,
    journal: u128,
) -> (Result<(Position, Option<(i64, i64)>), StoreError>, Clean) {
    let work = async {
        write::begin(sql).await?;
        let text =
            "INSERT INTO forebay_meta (one, journal, cursor, format) VALUES (1, $1, 0, 1) ON CONFLICT DO NOTHING";
        sqlx::query(text).bind(format!("{journal:032x}")).execute(&mut *sql).await.map_err(before)?;
        let position = read::position(sql).await?;
        let position = position.ok_or_else(|| StoreError::Outage("the binding did not stay".to_owned()))?;
        if position.journal != journal {
            return Ok((position, None));
        }
        let text = "UPDATE forebay_meta SET epoch = epoch + 1, changes = changes + 1 RETURNING cursor, epoch, changes";
        let row = sqlx::query(text).fetch_one(&mut *sql).await.map_err(before)?;
        // Under the row's lock: a batch of an earlier start that had not answered may have come in between.
        let position = Position { cursor: crate::sale::Seq(row.get::<i64, _>(0).unsigned_abs()), ..position };
        write::commit(sql).await?;
        Ok((position, Some((row.get(1), row.get(2)))))
    };
    match work.await {
        // Of another journal: the transaction, which changed nothing, ends with its connection.
        Ok((position, None)) => (Ok((position, None)), Clean::No),
        Ok(bound) => (Ok(bound), Clean::Yes),
        Err(error) => (Err(error), Clean::No),
    }
}

/// Whose the database is.
pub(super) async fn look(sql: &mut PgConnection) -> Result<Looked, StoreError> {
    let Some(position) = read::position(sql).await? else { return Ok(Looked::Unbound) };
    let mark = sqlx::query_scalar("SELECT mark FROM forebay_meta").fetch_optional(sql).await.map_err(before)?;
    let mark: Option<i64> = mark.flatten();
    Ok(Looked::Bound(position, mark.and_then(|mark| mark.try_into().ok())))
}

/// Moves the database from `from` (none: it belongs to no journal) to `to`, with what it lacks, and writes down
/// what was done. True where it stands at `to` already.
pub(super) async fn rebind(
    sql: &mut PgConnection,
    from: Option<Position>,
    to: Position,
    mend: &Mend,
    recovery: &Recovery,
) -> (Result<bool, StoreError>, Clean) {
    let work = async {
        write::begin(sql).await?;
        // As many rows as were mended, and a recovery is not hurried.
        sqlx::raw_sql("SET LOCAL statement_timeout = 0").execute(&mut *sql).await.map_err(before)?;
        // Nobody else moves it between the look and the change.
        sqlx::query("LOCK TABLE forebay_meta IN SHARE ROW EXCLUSIVE MODE").execute(&mut *sql).await.map_err(before)?;
        let now = read::position(sql).await?;
        if now == Some(to) && from != Some(to) {
            write::commit(sql).await?;
            return Ok(true);
        }
        if now != from {
            let text = "the database was changed meanwhile: run `forebay recover` again".to_owned();
            return Err(StoreError::Fenced(text));
        }
        let text = "INSERT INTO forebay_meta AS m (one, journal, cursor, format, epoch, changes) \
                    VALUES (1, $1, $2, 1, 1, 1) ON CONFLICT (one) DO UPDATE SET journal = excluded.journal, \
                    cursor = excluded.cursor, epoch = m.epoch + 1, changes = m.changes + 1, \
                    mark = CASE WHEN m.journal = excluded.journal AND m.cursor = excluded.cursor THEN m.mark END";
        let (journal, cursor) = (format!("{:032x}", to.journal), to.cursor.0 as i64);
        sqlx::query(text).bind(&journal).bind(cursor).execute(&mut *sql).await.map_err(before)?;
        // First what was given back: then the campaigns' guards see what is held.
        put_ends(sql, &mend.ends).await?;
        for campaign in &mend.campaigns {
            put_campaign(sql, campaign, to, recovery.at).await?;
        }
        let lost: Vec<String> = mend.lost.iter().map(ToString::to_string).collect();
        let text = "INSERT INTO lost_claims (claim_id) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING";
        sqlx::query(text).bind(lost).execute(&mut *sql).await.map_err(before)?;
        let text = "INSERT INTO recoveries (at, action, journal, cursor, first_seq, last_seq, detail) \
                    VALUES ($1,$2,$3,$4,$5,$6,$7::json)";
        sqlx::query(text)
            .bind(At(recovery.at))
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
async fn put_ends(sql: &mut PgConnection, known: &[EndRow]) -> Result<(), StoreError> {
    let (mut effects, known) = (Effects::default(), Vec::from_iter(known));
    for (end, took) in known.iter().zip(ends::apply(sql, &known).await?) {
        match took {
            Took::Row => effects.end(end, Place::Persisted),
            Took::Letter => effects.end(end, Place::Dead),
            Took::Nothing => {}
        }
    }
    effect::apply(&effects, sql).await
}

/// Makes a campaign's row what it is at the recovered position. Its sums stay: they are those of the rows.
async fn put_campaign(
    sql: &mut PgConnection,
    campaign: &KnownCampaign,
    to: Position,
    at: Timestamp,
) -> Result<(), StoreError> {
    // Ends that were lost may leave more rows open than the stock has units: the guard is for batches, not for this.
    let text = "INSERT INTO campaigns AS c (no, id, kind, title, state, opens_at, closes_at, per_user_limit, stock, \
                currency, price, total, definition, seq, updated_at) \
                VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13::json,$14,$15) \
                ON CONFLICT (no) DO UPDATE SET id = excluded.id, kind = excluded.kind, title = excluded.title, \
                state = excluded.state, opens_at = excluded.opens_at, closes_at = excluded.closes_at, \
                per_user_limit = excluded.per_user_limit, currency = excluded.currency, price = excluded.price, \
                stock = CASE WHEN excluded.stock IS NULL THEN NULL \
                ELSE greatest(excluded.stock, c.persisted_units + c.settled_units) END, \
                total = CASE WHEN excluded.total IS NULL THEN NULL \
                ELSE greatest(excluded.total, c.persisted_money + c.settled_money) END, \
                definition = coalesce(c.definition, excluded.definition), seq = excluded.seq, \
                updated_at = excluded.updated_at";
    let spec = &campaign.spec;
    sqlx::query(text)
        .bind(i64::from(campaign.no.0))
        .bind(spec.id.as_str())
        .bind(spec.kind.as_str())
        .bind(storable(&spec.title))
        .bind(campaign.state.as_str())
        .bind(At(spec.opens_at))
        .bind(At(spec.closes_at))
        .bind(spec.per_user_limit.0 as i64)
        .bind(campaign.stock.map(|units| units.0 as i64))
        .bind(spec.currency.map(|c| c.as_str().to_owned()))
        .bind(spec.price.map(|p| p.0))
        .bind(campaign.total.map(|total| total.0))
        .bind(spec.to_json().to_string())
        .bind(to.cursor.0 as i64)
        .bind(At(at))
        .execute(sql)
        .await
        .map(|_| ())
        .map_err(before)
}

/// The losses that were accepted, oldest first, as `first to last`: of older copies, and of journals made anew.
pub(super) async fn losses(sql: &mut PgConnection) -> Result<Vec<(u64, u64)>, StoreError> {
    let text = "SELECT first_seq, last_seq FROM recoveries WHERE first_seq IS NOT NULL ORDER BY id";
    let rows = sqlx::query(text).fetch_all(sql).await.map_err(before)?;
    Ok(rows.iter().map(|row| (row.get::<i64, _>(0) as u64, row.get::<i64, _>(1) as u64)).collect())
}

/// How often a journal was made anew from this database.
pub(super) async fn rebuilds(sql: &mut PgConnection) -> Result<u64, StoreError> {
    let text = "SELECT count(*) FROM recoveries WHERE action = 'rebuilt'";
    let count: i64 = sqlx::query_scalar(text).fetch_one(sql).await.map_err(before)?;
    Ok(count.unsigned_abs())
}

/// Moves all our tables into a schema of this name, made for them: one transaction. They are all there under their names, for
/// whoever wants them back.
pub(super) async fn set_aside(sql: &mut PgConnection, schema: &str) -> (Result<(), StoreError>, Clean) {
    let work = async {
        write::begin(sql).await?;
        // Made of letters, digits and underscores by the caller.
        let name = schema.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        let run = async |sql: &mut PgConnection, text: String| {
            sqlx::raw_sql(AssertSqlSafe(text)).execute(sql).await.map(|_| ()).map_err(before)
        };
        run(sql, format!("CREATE SCHEMA {name}")).await?;
        // Partitions of claims do not follow their table by themselves, nor do its triggers' functions.
        let text = "SELECT 'TABLE ' || inhrelid::regclass FROM pg_inherits WHERE inhparent = to_regclass('claims') \
                    UNION ALL SELECT 'TABLE claim_holds' WHERE to_regclass('claim_holds') IS NOT NULL \
                    UNION ALL SELECT 'FUNCTION ' || tgfoid::regprocedure FROM pg_trigger JOIN pg_proc \
                    ON pg_proc.oid = tgfoid WHERE tgrelid = to_regclass('claims') AND proname LIKE 'forebay%'";
        let more: Vec<String> = sqlx::query_scalar(text).fetch_all(&mut *sql).await.map_err(before)?;
        let tables = TABLES.into_iter().map(|table| format!("TABLE {table}"));
        for thing in tables.chain(more) {
            run(sql, format!("ALTER {thing} SET SCHEMA {name}")).await?;
        }
        write::commit(sql).await
    };
    match work.await {
        Ok(()) => (Ok(()), Clean::Yes),
        Err(error) => (Err(error), Clean::No),
    }
}

/// Takes the database for this session, as long as it lives. Otherwise whose it is: the session's name, address and number.
pub(super) async fn lock(sql: &mut PgConnection) -> Result<Option<Holder>, StoreError> {
    let text = "SELECT pg_try_advisory_lock($1, hashtext(current_schema()))";
    let taken: bool = sqlx::query_scalar(text).bind(LOCK_CLASS).fetch_one(&mut *sql).await.map_err(before)?;
    if taken {
        return Ok(None);
    }
    let text = "SELECT a.pid, coalesce(a.application_name, ''), coalesce(host(a.client_addr), 'its own machine') \
                FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.granted \
                AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                AND l.classid = $1::bigint::oid AND l.objid::bigint = hashtext(current_schema())::bigint & 4294967295";
    let found = sqlx::query(text).bind(i64::from(LOCK_CLASS)).fetch_optional(&mut *sql).await.map_err(before)?;
    Ok(Some(match found {
        Some(row) => Holder { pid: row.get(0), name: row.get(1), address: row.get(2) },
        None => Holder { pid: 0, name: "a session that is just ending".to_owned(), address: String::new() },
    }))
}

/// Who holds the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) pid: i32,
    pub(super) name: String,
    pub(super) address: String,
}

/// Ends a session of our own that does not answer any more. Whether that succeeds is seen at the next attempt.
pub(super) async fn terminate(sql: &mut PgConnection, holder: &Holder) {
    let _ = sqlx::query("SELECT pg_terminate_backend($1)").bind(holder.pid).execute(sql).await;
}
