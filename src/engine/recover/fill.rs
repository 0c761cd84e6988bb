//! What a database gets from the journal: the rest of the entries, and, where some are in neither side, what is still known of
//! what they did.

use std::collections::HashSet;
use std::sync::Arc;

use super::reading::Reading;
use super::rebuild;
use crate::engine::pair::JournalSide;
use crate::engine::start;
use crate::limits;
use crate::queue::Published;
use crate::queue::journal::disk::RealDisk;
use crate::queue::recover::{Start, recover};
use crate::sale::{ClaimId, ClaimStatus, Moved, Seq, Timestamp};
use crate::store::{ClaimRow, Database, EndRow, Store};
use crate::workers::drain::{Drain, Step};

/// What rows and dead letters say of claims: the ids of all, and the ends of those that the rows believe to be open, and the
/// journal's book does not.
#[derive(Default)]
pub(super) struct Survey {
    pub ids: HashSet<ClaimId>,
    pub ends: Vec<EndRow>,
}

/// Looks at every claim of the database. Ends are of entry `to`, at `at`.
///
/// # Errors
/// The database's.
pub(super) async fn survey(store: &Database, reading: &Reading, to: Seq, at: Timestamp) -> anyhow::Result<Survey> {
    let dead_ends = store.dead_ends().await?;
    let mut survey = Survey::default();
    let mut look = |row: &ClaimRow, status: ClaimStatus| {
        let claim = &row.claim;
        survey.ids.insert(claim.claim_id);
        if !matches!(status, ClaimStatus::Persisted | ClaimStatus::Accepted) {
            return;
        }
        let Some(fate) = reading.fate(claim) else { return };
        let fate = dead_ends.get(&claim.claim_id).copied().unwrap_or(fate);
        let moved = Moved {
            claim_id: claim.claim_id,
            campaign: claim.campaign,
            quantity: claim.quantity,
            amount: claim.amount,
            to: fate,
            by: BY.into(),
            reason: Box::default(),
        };
        survey.ends.push(EndRow { seq: to, at, campaign: row.campaign, moved });
    };
    let mut after = Seq(0);
    loop {
        let page = store.scan(None, after, limits::RECOVER_PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.row.claim.seq;
        page.iter().for_each(|stored| look(&stored.row, stored.status));
    }
    for (row, status) in rebuild::dead_claims(store).await?.values() {
        look(row, *status);
    }
    Ok(survey)
}

/// Who ended a claim whose end was lost.
const BY: &str = "forebay recover";

/// Writes every entry of the journal behind `cursor` into the database, as a server's drain would.
///
/// # Errors
/// The journal's, or the database's: it can be done again.
pub(super) async fn drain(
    data_dir: &std::path::Path,
    store: &Arc<Database>,
    side: &JournalSide,
    cursor: Seq,
) -> anyhow::Result<()> {
    let (options, mut progress) = (start::options(), |_, _| {});
    let begin = Start { options, memory_max: u64::MAX, cursor: Some(cursor), known: cursor, progress: &mut progress };
    let live = recover(RealDisk::new(data_dir.join("journal")), side.identity, begin)?;
    let published = Arc::new(Published::new(live.pending));
    published.views.publish_all(&live.book);
    let mut drain = Drain::new(store.clone(), published, limits::RECOVER_PAGE as usize, 0);
    let (mut failures, mut is_bound) = (0, false);
    loop {
        let step = if is_bound { drain.step().await } else { drain.bind(side.identity.journal).await };
        match step {
            Step::Fenced { error } => return Err(error.into()),
            Step::Backoff { error, .. } if failures >= limits::RECOVER_ATTEMPTS => return Err(error.into()),
            Step::Backoff { wait, .. } => {
                failures += 1;
                tokio::time::sleep(wait).await;
            }
            Step::Wrote { .. } => failures = 0,
            Step::Idle if is_bound => return Ok(()),
            Step::Idle => is_bound = true,
        }
    }
}
