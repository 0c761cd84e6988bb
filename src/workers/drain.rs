//! One step of the drain: lease, write, retire. No timer and no thread, so that a simulation can drive it.
//!
//! The lease in hand, and the dead rows it was last sent with, stay the same until the database says whether they are
//! there. An unknown commit is sent again unchanged: the cursor tells whether it had happened, and then the rows that
//! were dead are those of that attempt. A known failure lets go of the dead rows, because what was wrong with them may
//! be mended by the next attempt.
//!
//! The ledger's sums follow from the rows, except where an end met a dead letter, or a requeued one is not counted yet: then
//! the database's own are read, after the commit and before the entries leave the buffer.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::{self, Name, Unnamed};
use super::dead_letters::Search;
use super::retry::Backoff;
use crate::cache::LocalCache;
use crate::limits;
use crate::plant::{self, Bug};
use crate::queue::{Balance, Lease, Published};
use crate::sale::{CampaignKind, CampaignNo, ClaimId, ClaimStatus, Fate, Seq};
use crate::store::{Batch, DeadRow, Row, Store, StoreError, Totals, Written};

/// Is told what has just become rows, after the commit and before the buffer lets go of it: whoever does not find an
/// entry in the buffer any more finds the caches refreshed already.
pub trait Refresh: Send + Sync {
    /// `rows` are committed; a few of them may be in the dead letters.
    fn on_persisted(&self, rows: &[Row]);
}

impl Refresh for LocalCache {
    fn on_persisted(&self, rows: &[Row]) {
        LocalCache::on_persisted(self, rows);
    }
}

/// What a step did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing waits.
    Idle,
    /// A batch is in the database and retired: so many entries, of which so many are dead letters.
    Wrote { rows: usize, dead: usize },
    /// The database could not be used. Nothing is lost; step again after `wait`.
    Backoff { wait: Duration, error: StoreError },
    /// The database is not ours to write to any more. Every later step says the same.
    Fenced { error: StoreError },
}

struct Held {
    lease: Lease,
    batch: Batch,
    dead: Vec<DeadRow>,
    /// Whether an attempt with exactly these dead rows may have been committed.
    unsure: bool,
    /// When it was begun, if it is committed, and only the database's sums are still to be read.
    committed: Option<Instant>,
}

/// The drain.
pub struct Drain<S> {
    store: Arc<S>,
    published: Arc<Published>,
    refresh: Option<Arc<dyn Refresh>>,
    names: Box<dyn Fn(CampaignNo) -> Option<Name> + Send>,
    backoff: Backoff,
    batch_max: usize,
    /// Entries of the next lease: more than `batch_max` while a whole batch was refused row by row, so that a run of
    /// poison rows meets a good one, which tells it from a broken table.
    lease_max: usize,
    /// How many it may be at most.
    poison_max: usize,
    /// How often a batch of the largest size was refused row by row.
    refusals: u32,
    /// The journal's last entry before this process decided any: the database can't know more.
    pub(super) recovered: Seq,
    held: Option<Held>,
    fenced: Option<StoreError>,
    /// Whether dead letters may have come or gone since somebody counted them.
    pub(super) uncounted: bool,
    /// Whether the database's sums have changed without a batch of this drain's.
    pub(super) unsummed: bool,
}

impl<S: Store> Drain<S> {
    /// A drain that writes at most `batch_max` entries at a time; `seed` gives its waits. Make it before anything is
    /// submitted.
    ///
    /// # Panics
    /// Where `batch_max` is 0.
    pub fn new(store: Arc<S>, published: Arc<Published>, batch_max: usize, seed: u64) -> Self {
        assert!(batch_max > 0, "a batch of nothing");
        let pending = &published.pending;
        let recovered = pending.retired().plus(pending.entries());
        let shared = published.clone();
        let names = Box::new(move |no| {
            shared.views.load().number(no).map(|view| (view.id, view.currency, view.kind == CampaignKind::CheckIn))
        });
        Self {
            store,
            published,
            refresh: None,
            names,
            backoff: Backoff::new(seed),
            batch_max,
            lease_max: batch_max,
            poison_max: limits::POISON_LEASE_MAX.max(batch_max),
            refusals: 0,
            recovered,
            held: None,
            fenced: None,
            uncounted: true,
            unsummed: false,
        }
    }

    /// Tells `refresh` of every batch.
    pub fn with_refresh(mut self, refresh: Arc<dyn Refresh>) -> Self {
        self.refresh = Some(refresh);
        self
    }

    /// Knows campaigns' names from elsewhere than from the views.
    pub(super) fn with_names(mut self, names: impl Fn(CampaignNo) -> Option<Name> + Send + 'static) -> Self {
        self.names = Box::new(names);
        self
    }

    /// What the sequencer publishes, to keep.
    pub(super) fn shared(&self) -> Arc<Published> {
        self.published.clone()
    }

    /// The database.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// What the sequencer publishes.
    pub(super) fn published(&self) -> &Published {
        &self.published
    }

    /// Whether no batch may be in the database that the ledger does not know of yet.
    pub(super) fn is_between_batches(&self) -> bool {
        self.held.is_none() && self.fenced.is_none()
    }

    /// Ties the database to `journal` and takes over what it has already. Once, before the first step; again after a
    /// [`Step::Backoff`]. Gives [`Step::Idle`] when it is done.
    pub async fn bind(&mut self, journal: u128) -> Step {
        let bound = async {
            let position = self.store.bind(journal).await?;
            if position.cursor > self.recovered {
                // Entries that this journal has lost are rows. What it decides next would take their positions and be
                // taken for written, so nothing may go on.
                return Err(StoreError::Fenced(format!(
                    "the database stands at entry {}, the journal ended at {}: its folder was restored or has lost its \
                     end; put the matching one back, or give it a fresh database",
                    position.cursor, self.recovered
                )));
            }
            Ok((position.cursor, self.store.totals().await?))
        };
        match bound.await {
            Ok((cursor, totals)) => {
                self.published.pending.retire_to(cursor, &balances(&totals));
                self.backoff.reset();
                Step::Idle
            }
            Err(error) => self.failed(error),
        }
    }

    /// Writes one batch, if any entry waits.
    pub async fn step(&mut self) -> Step {
        if let Some(error) = &self.fenced {
            return Step::Fenced { error: error.clone() };
        }
        let mut held = match self.held.take().map_or_else(|| self.lease(), |held| Ok(Some(held))) {
            Ok(Some(held)) => held,
            Ok(None) => return Step::Idle,
            Err(unnamed) => return self.failed(StoreError::Outage(unnamed.to_string())),
        };
        if let Some(begun) = held.committed {
            return self.recount(held, begun).await;
        }
        let begun = crate::clock::tick();
        let mut written = self.store.write(&held.batch, &held.dead).await;
        if let Err(StoreError::Row(_)) = written {
            // A row was looked at, so the cursor stood where it should: no earlier attempt was committed.
            (held.unsure, held.dead) = (false, Vec::new());
            match self.search(&held.batch.rows).await {
                Ok(dead) => held.dead = dead,
                Err(AllFailed::Rows(error)) => {
                    self.lease_max = (self.lease_max * 2).min(self.poison_max);
                    return self.failed(error);
                }
                Err(AllFailed::Store(error)) => return self.keep(held, error),
            }
            written = self.store.write(&held.batch, &held.dead).await;
        }
        match written {
            // An end of a claim that was requeued, and that the ledger still has among the dead, can't be told from its row.
            Ok(Written::Committed { moved_dead, .. }) if moved_dead || self.unsummed => self.recount(held, begun).await,
            Ok(Written::Committed { .. }) => self.finish(held, begun),
            // What the ends met was in the reply that was lost.
            Ok(Written::AlreadyThere) if held.unsure && (held.has_ends() || self.unsummed) => {
                self.recount(held, begun).await
            }
            Ok(Written::AlreadyThere) if held.unsure => self.finish(held, begun),
            Ok(Written::AlreadyThere) => self.take_over(held).await,
            Err(StoreError::Unknown(_)) if plant::on(Bug::BlindCommitRetry) => self.finish(held, begun),
            Err(error) => self.keep(held, error),
        }
    }

    fn lease(&self) -> Result<Option<Held>, Unnamed> {
        let Some(lease) = self.published.pending.lease(self.lease_max) else { return Ok(None) };
        let batch = batch::of(&lease, &self.names)?;
        Ok(Some(Held { lease, batch, dead: Vec::new(), unsure: false, committed: None }))
    }

    /// The rows of a refused batch that are at fault.
    async fn search(&mut self, rows: &[Row]) -> Result<Vec<DeadRow>, AllFailed> {
        self.trial(&batch::canary())
            .await?
            .map_err(|reason| AllFailed::Store(StoreError::Outage(format!("even a trial row is refused: {reason}"))))?;
        let mut alive = rows.to_vec();
        let mut convicted = BTreeMap::new();
        let mut search = Search::new(rows.len());
        while let Some(len) = search.ask() {
            let outcome = self.trial(&on_their_own(&alive[..len], &convicted)).await?;
            if let Some(gone) = search.answer(len, outcome)
                && let Row::Claim(row) = alive.remove(gone)
            {
                let id = row.claim.claim_id;
                convicted.extend(alive.iter().filter_map(end).find(|(of, _)| *of == id));
            }
        }
        let all_failed = search.all_failed(on_their_own(&alive, &convicted).len());
        if all_failed && rows.len() >= self.poison_max {
            self.refusals += 1;
        }
        if all_failed && self.refusals < limits::POISON_PATIENCE && !self.are_all_stray(rows, search.dead()).await? {
            let reason = &search.dead()[0].reason;
            let text = format!("every row of a batch of {} is refused, the first with: {reason}", rows.len());
            return Err(AllFailed::Rows(StoreError::Outage(text)));
        }
        Ok(search.into_dead())
    }

    /// Whether each of the refused rows is the end of a claim that is not there, or has come to its end: that is no table's
    /// fault, and no attempt will ever find it otherwise.
    async fn are_all_stray(&self, rows: &[Row], dead: &[DeadRow]) -> Result<bool, AllFailed> {
        for row in dead.iter().map(|dead| &rows[dead.index]) {
            let Row::End(end) = row else { return Ok(false) };
            let found = self.store.claim(end.moved.claim_id).await.map_err(AllFailed::Store)?;
            let waits = |status| matches!(status, ClaimStatus::Persisted | ClaimStatus::Accepted);
            if found.is_some_and(|stored| waits(stored.status)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the database would take `rows`, or why not; anything else than a row's fault ends the search.
    async fn trial(&self, rows: &[Row]) -> Result<Result<(), String>, AllFailed> {
        match self.store.probe(rows).await {
            Ok(()) => Ok(Ok(())),
            Err(StoreError::Row(reason)) => Ok(Err(reason)),
            // A trial commits nothing, so nothing about it can be unknown.
            Err(StoreError::Unknown(text)) => Err(AllFailed::Store(StoreError::Outage(text))),
            Err(error) => Err(AllFailed::Store(error)),
        }
    }

    /// The batch is there, and the ledger's sums follow from its rows.
    fn finish(&mut self, held: Held, begun: Instant) -> Step {
        self.refresh(&held);
        let places: Vec<usize> = held.dead.iter().map(|d| d.index).collect();
        self.published.pending.retire(&held.lease, &places);
        self.wrote(&held, begun)
    }

    /// The batch is there, and only the database knows what its sums are now.
    async fn recount(&mut self, mut held: Held, begun: Instant) -> Step {
        held.committed = Some(begun);
        let totals = match self.store.totals().await {
            Ok(totals) => totals,
            Err(error) => return self.keep(held, error),
        };
        self.refresh(&held);
        self.published.pending.retire_to(held.batch.upto, &balances(&totals));
        (self.unsummed, self.uncounted) = (false, true);
        self.wrote(&held, begun)
    }

    /// Counts what was written, and tells of the dead rows.
    fn wrote(&mut self, held: &Held, begun: Instant) -> Step {
        let (rows, dead) = (held.lease.entries.len(), held.dead.len());
        if let Some(first) = held.dead.first() {
            let seq = held.batch.rows[first.index].seq();
            tracing::error!(
                rows = dead,
                entry = seq.0,
                reason = %first.reason,
                "the database refused rows: they are in the table dead_letters, the others went on"
            );
        }
        let metrics = &self.published.metrics;
        metrics.drain_rows.add((rows - dead) as u64);
        metrics.drain_batch.observe_time(crate::clock::tick().saturating_duration_since(begun));
        self.uncounted |= dead > 0;
        self.succeeded();
        Step::Wrote { rows, dead }
    }

    /// The batch is there and this drain did not send it: only the database knows which of its rows are dead.
    async fn take_over(&mut self, held: Held) -> Step {
        match self.store.totals().await {
            Ok(totals) => {
                self.refresh(&held);
                self.published.pending.retire_to(held.batch.upto, &balances(&totals));
                (self.unsummed, self.uncounted) = (false, true);
                self.succeeded();
                Step::Wrote { rows: held.lease.entries.len(), dead: 0 }
            }
            Err(error) => self.keep(held, error),
        }
    }

    fn refresh(&self, held: &Held) {
        if let Some(refresh) = &self.refresh {
            refresh.on_persisted(&held.batch.rows);
        }
    }

    fn succeeded(&mut self) {
        self.backoff.reset();
        (self.lease_max, self.refusals) = (self.batch_max, 0);
    }

    fn keep(&mut self, mut held: Held, error: StoreError) -> Step {
        match &error {
            StoreError::Unknown(_) => held.unsure = true,
            _ if !held.unsure && held.committed.is_none() => held.dead.clear(),
            _ => {}
        }
        self.held = Some(held);
        self.failed(error)
    }

    /// What follows from an attempt that failed.
    pub(super) fn failed(&mut self, error: StoreError) -> Step {
        if let StoreError::Fenced(_) = error {
            self.fenced = Some(error.clone());
            return Step::Fenced { error };
        }
        self.published.metrics.drain_retries.add(1);
        Step::Backoff { wait: self.backoff.next_wait(), error }
    }
}

impl Held {
    fn has_ends(&self) -> bool {
        self.batch.rows.iter().any(|row| matches!(row, Row::End(_)))
    }
}

/// Which claim a row ends, and how.
fn end(row: &Row) -> Option<(ClaimId, Fate)> {
    match row {
        Row::End(end) => Some((end.moved.claim_id, end.moved.to)),
        Row::Claim(_) | Row::Cart(_) | Row::Campaign(_) | Row::Void(_) => None,
    }
}

/// `rows` without those that go where a convicted claim goes: its end, which `convicted` has. A trial knows of no dead
/// letter that is still to be written, so it would convict the end with its claim. And without positions that nobody has:
/// that those pass says nothing of the table.
fn on_their_own<'r>(rows: &'r [Row], convicted: &BTreeMap<ClaimId, Fate>) -> Cow<'r, [Row]> {
    let is_void = |row: &Row| matches!(row, Row::Void(_));
    if convicted.is_empty() && !rows.iter().any(is_void) {
        return rows.into();
    }
    let goes_with = |row: &Row| end(row).is_some_and(|(id, to)| convicted.get(&id) == Some(&to));
    rows.iter().filter(|row| !goes_with(row) && !is_void(row)).cloned().collect()
}

/// Why a search named no rows.
enum AllFailed {
    /// Every row was refused, while a trial row passes.
    Rows(StoreError),
    /// The database could not be asked.
    Store(StoreError),
}

/// The database's sums as the ledger takes them.
pub fn balances(totals: &[Totals]) -> Vec<(CampaignNo, Balance)> {
    let balance = |t: &Totals| Balance {
        persisted: t.persisted.0,
        settled: t.settled.0,
        returned: t.returned.0,
        dead: t.dead.0,
        money_persisted: t.persisted_money.0,
        money_settled: t.settled_money.0,
        money_returned: t.returned_money.0,
        money_dead: t.dead_money.0,
        ..Balance::default()
    };
    totals.iter().map(|t| (t.no, balance(t))).collect()
}

#[cfg(test)]
mod tests;
