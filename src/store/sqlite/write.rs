//! Writing a batch: cursor, rows, dead letters and sums in one transaction.
//!
//! The cursor moves first. It is the cheapest statement, and the one that tells whether the rest has been done already
//! or must not be done at all. A campaign's sums, restocks and new window arrive in one UPDATE, so that the tables'
//! own guards against oversell see what is true between batches, whatever the order within one.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use sqlx::sqlite::SqliteArguments;
use sqlx::{Row as _, Sqlite, SqliteConnection, query::Query};

use super::super::{Batch, CampaignRow, ClaimRow, DeadRow, Row, StoreError, Written};
use super::connection::Clean;
use super::effect;
use super::error::{Moment, before, from_sqlx};
use crate::limits;
use crate::sale::{CampaignId, Currency, Durability};

const COLUMNS: &str = "INSERT OR ROLLBACK INTO claims (seq, claim_id, campaign, campaign_no, user_id, quantity, amount, currency, \
    status, accepted_at, hold, receipt_key, durability, idempotency_key) VALUES ";
const TUPLE: &str = "(?,?,?,?,?,?,?,?,'persisted',?,?,?,?,?)";

// `OR ROLLBACK`: a failure ends the whole transaction, as we would do anyway. Otherwise SQLite keeps a copy of every
// page that a statement of many rows changes, so as to take that one statement back.
/// The bulk statements, largest first: few texts, so that each stays prepared, whatever the batches' sizes.
static INSERTS: LazyLock<Vec<(usize, String)>> = LazyLock::new(|| {
    let sizes = std::iter::successors(Some(limits::STORE_INSERT_ROWS), |n| (*n > 1).then_some(n / 4));
    sizes.map(|n| (n, format!("{COLUMNS}{} ON CONFLICT (claim_id) DO NOTHING", vec![TUPLE; n].join(",")))).collect()
});

/// SQLite's own bound on parameters in a statement.
const PARAMETERS_MAX: usize = 32_766;
const PARAMETERS_PER_CLAIM: usize = 13;
const _: () = assert!(limits::STORE_INSERT_ROWS * PARAMETERS_PER_CLAIM <= PARAMETERS_MAX);
const _: () =
    assert!(limits::STORE_INSERT_ROWS.is_power_of_two() && limits::STORE_INSERT_ROWS.ilog2().is_multiple_of(2));

/// A batch, sorted by what is to be done with it.
#[derive(Default)]
pub(super) struct Work<'a> {
    pub(super) claims: Vec<&'a ClaimRow>,
    pub(super) log: Vec<&'a CampaignRow>,
    pub(super) dead: Vec<(&'a Row, &'a str)>,
    /// Each claim is looked up before it is inserted: some are there already.
    looked_up: bool,
}

impl<'a> Work<'a> {
    pub(super) fn new(rows: &'a [Row], dead: &'a [DeadRow]) -> Self {
        let reasons: BTreeMap<usize, &str> = dead.iter().map(|d| (d.index, d.reason.as_str())).collect();
        assert!(reasons.last_key_value().is_none_or(|(&last, _)| last < rows.len()), "a dead row outside its batch");
        let mut work = Self::default();
        for (index, row) in rows.iter().enumerate() {
            match (reasons.get(&index), row) {
                (Some(&reason), _) => work.dead.push((row, reason)),
                (None, Row::Claim(claim)) => work.claims.push(claim),
                (None, Row::Campaign(campaign)) => work.log.push(campaign),
            }
        }
        work
    }
}

/// Writes `batch`; the connection is clean afterwards unless told otherwise.
pub(super) async fn batch(
    sql: &mut SqliteConnection,
    journal: &str,
    batch: &Batch,
    dead: &[DeadRow],
) -> (Result<Written, StoreError>, Clean) {
    let mut work = Work::new(&batch.rows, dead);
    loop {
        if let Err(error) = begin(sql).await {
            return (Err(error), Clean::No);
        }
        let applied = match move_cursor(sql, journal, batch).await {
            Ok(true) => apply(sql, &mut work).await,
            Ok(false) => return rolled_back(sql, Ok(Written::AlreadyThere)).await,
            Err(error) => Err(error),
        };
        match applied {
            Ok(Applied::All(new_claims)) => {
                crate::plant::crash_point("store.before_commit");
                return match commit(sql).await {
                    Ok(()) => {
                        crate::plant::crash_point("store.after_commit");
                        (Ok(Written::Committed { new_claims }), Clean::Yes)
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

async fn rolled_back<T>(sql: &mut SqliteConnection, result: Result<T, StoreError>) -> (Result<T, StoreError>, Clean) {
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
async fn move_cursor(sql: &mut SqliteConnection, journal: &str, batch: &Batch) -> Result<bool, StoreError> {
    let (after, upto) = (batch.after.0 as i64, batch.upto.0 as i64);
    let moved = sqlx::query("UPDATE forebay_meta SET cursor = ? WHERE cursor = ? AND journal = ?")
        .bind(upto)
        .bind(after)
        .bind(journal)
        .execute(&mut *sql)
        .await
        .map_err(before)?;
    if moved.rows_affected() == 1 {
        return Ok(true);
    }
    let found = sqlx::query("SELECT journal, cursor FROM forebay_meta").fetch_optional(sql).await.map_err(before)?;
    let Some(found) = found else {
        return Err(StoreError::Outage("it is bound to no journal: was it replaced by an empty one?".to_owned()));
    };
    let (theirs, cursor): (String, i64) = (found.get(0), found.get(1));
    if theirs != journal {
        let text = format!("the database belongs to journal {theirs}, this one is {journal}");
        return Err(StoreError::Fenced(text));
    }
    if cursor >= upto {
        return Ok(false);
    }
    Err(StoreError::Fenced(format!(
        "the database stands at entry {cursor}, the batch goes from {after} to {upto}: someone else moved it, or it was \
         restored from a backup"
    )))
}

/// How far [`apply`] came.
enum Applied {
    /// Everything is in; so many claims were new.
    All(u64),
    /// Some claims were there already, which is seen only afterwards. Roll back and apply
    /// it again, looking first. (A savepoint would spare the second BEGIN, at the price of a copy of every changed page.)
    Again,
}

/// Inserts the rows and moves the sums.
async fn apply(sql: &mut SqliteConnection, work: &mut Work<'_>) -> Result<Applied, StoreError> {
    if work.looked_up {
        work.claims = without_known(sql, std::mem::take(&mut work.claims)).await?;
    }
    if insert(sql, &work.claims).await? != work.claims.len() as u64 {
        if work.looked_up {
            return Err(StoreError::Row("one claim id names two rows of the batch".to_owned()));
        }
        work.looked_up = true;
        return Ok(Applied::Again);
    }
    for (row, reason) in &work.dead {
        insert_dead(sql, row, reason).await?;
    }
    for row in &work.log {
        insert_log(sql, row).await?;
    }
    for effect in effect::of(work)? {
        effect.apply(sql).await?;
    }
    Ok(Applied::All(work.claims.len() as u64))
}

async fn insert(sql: &mut SqliteConnection, mut claims: &[&ClaimRow]) -> Result<u64, StoreError> {
    let mut shared = Shared::default();
    let mut inserted = 0;
    for (rows, text) in INSERTS.iter() {
        while let Some((chunk, rest)) = claims.split_at_checked(*rows) {
            let mut query = sqlx::query(text.as_str());
            for row in chunk {
                query = bind(query, row, &mut shared);
            }
            inserted += query.execute(&mut *sql).await.map_err(before)?.rows_affected();
            claims = rest;
        }
    }
    Ok(inserted)
}

/// Texts that neighbouring rows have in common: bound by reference count instead of one copy a row.
#[derive(Default)]
struct Shared {
    campaign: Option<(CampaignId, Arc<str>)>,
    currency: Option<(Currency, Arc<str>)>,
}

fn shared<K: Copy + PartialEq>(last: &mut Option<(K, Arc<str>)>, key: K, text: &str) -> Arc<str> {
    match last {
        Some((known, text)) if *known == key => Arc::clone(text),
        _ => {
            let text: Arc<str> = text.into();
            *last = Some((key, Arc::clone(&text)));
            text
        }
    }
}

type Bound<'q> = Query<'q, Sqlite, SqliteArguments>;

fn bind<'q>(query: Bound<'q>, row: &ClaimRow, texts: &mut Shared) -> Bound<'q> {
    let claim = &row.claim;
    query
        .bind(claim.seq.0 as i64)
        .bind(claim.claim_id.to_string())
        .bind(shared(&mut texts.campaign, row.campaign, row.campaign.as_str()))
        .bind(i64::from(claim.campaign.0))
        .bind(claim.user.as_str().to_owned())
        .bind(claim.quantity.0 as i64)
        .bind(claim.amount.map(|m| m.0))
        .bind(row.currency.map(|c| shared(&mut texts.currency, c, c.as_str())))
        .bind(claim.accepted_at.to_string())
        .bind(i64::from(claim.hold))
        .bind(i64::from(claim.receipt_key))
        .bind(durability(claim.durability))
        .bind(claim.key.map(|k| k.0.to_be_bytes().to_vec()))
}

fn durability(durability: Durability) -> Arc<str> {
    static WORDS: LazyLock<[Arc<str>; 2]> =
        LazyLock::new(|| [Durability::Disk, Durability::Memory].map(|d| d.as_str().into()));
    Arc::clone(&WORDS[usize::from(durability == Durability::Memory)])
}

/// The claims that are not there yet.
async fn without_known<'a>(
    sql: &mut SqliteConnection,
    claims: Vec<&'a ClaimRow>,
) -> Result<Vec<&'a ClaimRow>, StoreError> {
    // Only what never changes is compared: status and hold move on in the database.
    let same = "SELECT seq IS ? AND campaign IS ? AND user_id IS ? AND quantity IS ? AND amount IS ? AND currency IS ? \
                AND accepted_at IS ? AND receipt_key IS ? AND durability IS ? AND idempotency_key IS ? AND (hold IS \
                NULL OR hold IS ?) FROM claims WHERE claim_id = ?";
    let mut new = Vec::with_capacity(claims.len());
    for row in claims {
        let claim = &row.claim;
        let found: Option<bool> = sqlx::query_scalar(same)
            .bind(claim.seq.0 as i64)
            .bind(row.campaign.as_str())
            .bind(claim.user.as_str())
            .bind(claim.quantity.0 as i64)
            .bind(claim.amount.map(|m| m.0))
            .bind(row.currency.map(|c| c.as_str().to_owned()))
            .bind(claim.accepted_at.to_string())
            .bind(i64::from(claim.receipt_key))
            .bind(claim.durability.as_str())
            .bind(claim.key.map(|k| k.0.to_be_bytes().to_vec()))
            .bind(i64::from(claim.hold))
            .bind(claim.claim_id.to_string())
            .fetch_optional(&mut *sql)
            .await
            .map_err(before)?;
        match found {
            None => new.push(row),
            Some(true) => {}
            Some(false) => {
                let text =
                    format!("claim {} (entry {}) is there already, with other content", claim.claim_id, claim.seq);
                return Err(StoreError::Row(text));
            }
        }
    }
    Ok(new)
}

async fn insert_dead(sql: &mut SqliteConnection, row: &Row, reason: &str) -> Result<(), StoreError> {
    let query = "INSERT INTO dead_letters (seq, kind, claim_id, campaign, user_id, quantity, amount, at, reason, \
                 payload) VALUES (?,?,?,?,?,?,?,?,?,?)";
    let query = sqlx::query(query).bind(row.seq().0 as i64);
    let query = match row {
        Row::Claim(row) => query
            .bind("claim")
            .bind(row.claim.claim_id.to_string())
            .bind(row.campaign.as_str())
            .bind(row.claim.user.as_str())
            .bind(row.claim.quantity.0 as i64)
            .bind(row.claim.amount.map(|m| m.0))
            .bind(row.claim.accepted_at.to_string())
            .bind(reason)
            .bind(super::payload::of_claim(row)),
        Row::Campaign(row) => query
            .bind("campaign")
            .bind(None::<String>)
            .bind(row.id.as_str())
            .bind(None::<String>)
            .bind(None::<i64>)
            .bind(None::<i64>)
            .bind(row.at.to_string())
            .bind(reason)
            .bind(super::payload::of_campaign(row)),
    };
    query.execute(sql).await.map(|_| ()).map_err(before)
}

async fn insert_log(sql: &mut SqliteConnection, row: &CampaignRow) -> Result<(), StoreError> {
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
