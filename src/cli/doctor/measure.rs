//! The measurements, with the code that the server runs: the journal's disk, its sequencer and its drain.
//!
//! Each takes its share of the time at most, ends early once it knows enough, and looks between two steps whether it was
//! interrupted.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use super::figures::{ClaimFigures, ClaimRate, RowFigures, SyncFigures, WinnerFigures};
use super::machine::resident;
use crate::clock::{Clock as _, SystemClock, processor_time, tick};
use crate::config::{Config, StoreUrl};
use crate::engine::folder::fresh_identity;
use crate::limits;
use crate::plant;
use crate::queue::book::{AdminVerdict, Verdict};
use crate::queue::journal::disk::{Disk as _, DiskFile as _, RealDisk};
use crate::queue::journal::{Options, frame};
use crate::queue::recover::{Start, recover};
use crate::queue::{
    AdminAction, AdminCommand, Book, ClaimCommand, Command, HashKey, Outcome, Published, Replies, Sequencer, Settings,
    Submission, Ticket,
};
use crate::sale::red_packet::Seed;
use crate::sale::{Asked, CampaignNo, CampaignSpec, ClaimId, Durability, Entry, Seq, Timestamp, UserId};
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::SqliteStore;
use crate::store::{Mode, Store};
use crate::workers::drain::{Drain, Step};

/// The time that all measurements share, and whether somebody wants to end them.
#[derive(Debug, Clone)]
pub struct Budget {
    /// All of it.
    pub whole: Duration,
    /// Set from outside.
    pub stop: Arc<AtomicBool>,
}

impl Budget {
    /// A share of it, beginning now.
    pub(super) fn part(&self, share: f64) -> impl Fn() -> bool + '_ {
        let end: Instant = tick() + self.whole.mul_f64(share);
        move || self.stop.load(Ordering::Relaxed) || tick() >= end
    }

    /// Fails where it was interrupted: what was measured until then is half a figure.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.stop.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }
}

/// Syncs pages of a zero-filled file in `folder`, as the journal does.
///
/// # Errors
/// The disk's, or an interruption.
pub fn syncs(folder: &Path, budget: &Budget) -> anyhow::Result<SyncFigures> {
    let disk = RealDisk::new(folder);
    let mut file = disk.create("sync")?;
    let zeros = vec![0; 1 << 20];
    for offset in (0..limits::DOCTOR_FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, offset)?;
    }
    file.sync_data()?;
    disk.sync_dir()?;
    let page = [0xa5; limits::DOCTOR_SYNC_BYTES];
    let mut times = Vec::with_capacity(limits::DOCTOR_SYNCS_MAX);
    let (is_over, used) = (budget.part(0.3), processor_time());
    while times.is_empty() || (times.len() < limits::DOCTOR_SYNCS_MAX && !is_over()) {
        file.write_all_at(&page, (times.len() * page.len()) as u64 % limits::DOCTOR_FILE_BYTES)?;
        let start = tick();
        file.sync_data()?;
        times.push(start.elapsed());
    }
    let used = processor_time() - used;
    drop(file);
    disk.remove("sync")?;
    budget.check()?;
    Ok(sync_figures(times, used))
}

fn sync_figures(mut times: Vec<Duration>, used: Duration) -> SyncFigures {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64();
    SyncFigures {
        count: times.len(),
        bytes: limits::DOCTOR_SYNC_BYTES,
        median_seconds: at(0.5),
        p99_seconds: at(0.99),
        max_seconds: at(1.0),
        processor_seconds: used.as_secs_f64() / times.len() as f64,
    }
}

/// Fills books with winners and looks how much memory that takes.
///
/// # Errors
/// An interruption.
pub fn winners(budget: &Budget) -> anyhow::Result<WinnerFigures> {
    let count = limits::DOCTOR_WINNERS;
    let each = |bytes: u64| bytes as f64 / count as f64;
    let (plain, resident_bytes) = filled(false)?;
    let (keyed, resident_bytes_with_key) = filled(true)?;
    let promised = plain.reserved();
    drop((plain, keyed));
    budget.check()?;
    Ok(WinnerFigures {
        winners: count,
        table_bytes: each(promised),
        resident_bytes: each(resident_bytes),
        resident_bytes_with_key: each(resident_bytes_with_key),
    })
}

/// A sold-out book and the memory that it took; `keyed` says whether each claim comes with an idempotency key.
fn filled(keyed: bool) -> anyhow::Result<(Book, u64)> {
    let (key, now) = (HashKey(fresh_identity().hash_key), SystemClock.now());
    let before = resident();
    let mut book = Book::new(key, u64::MAX);
    let Ok(AdminVerdict::Enter(event, _)) = book.decide_admin(&creation("doctor", limits::DOCTOR_WINNERS)?) else {
        bail!("the book takes no campaign");
    };
    book.apply(&Entry { seq: book.next_seq(), at: now, event: *event });
    for n in 0..limits::DOCTOR_WINNERS {
        let mut command = claim(key, n, now)?;
        command.key = keyed.then(|| key.key(command.campaign, &command.user, "doctor"));
        let Verdict::Accept(claim) = book.decide(now, Durability::Disk, &command) else {
            bail!("the book refuses a buyer that it has not seen");
        };
        book.apply_claim(&claim, command.user_hash);
    }
    Ok((book, resident().saturating_sub(before)))
}

/// The `n`-th buyer's claim of one unit.
pub(super) fn claim(key: HashKey, n: u64, now: Timestamp) -> anyhow::Result<ClaimCommand> {
    let user = UserId::parse(&format!("u{n:015}"))?;
    let user_hash = key.user(&user);
    let claim_id = ClaimId::new(now, user_hash, n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    Ok(ClaimCommand { campaign: CampaignNo(0), quantity: 1, receipt_key: 1, user, user_hash, claim_id, key: None })
}

/// An open sale `id` of one unit a buyer.
pub(super) fn creation(id: &str, stock: u64) -> anyhow::Result<AdminCommand> {
    let spec = serde_json::json!({
        "id": id, "kind": "flash_sale", "opens_at": "2000-01-01T00:00:00Z", "closes_at": "9999-01-01T00:00:00Z",
        "stock": stock, "currency": "CNY", "price": 990,
    });
    let spec = CampaignSpec::parse(spec.to_string().as_bytes())?;
    Ok(AdminCommand { asked: Asked::default(), action: AdminAction::Create(spec, Seed([1; 16])) })
}

/// Claims that were decided and wait for a database.
pub struct Waiting {
    published: Arc<Published>,
    journal: u128,
}

/// Counts what was accepted, and whether anything was not.
#[derive(Default)]
struct Count {
    accepted: u64,
    refused: Option<Outcome>,
}

impl Replies for Count {
    fn deliver(&mut self, answers: &mut Vec<(Ticket, Outcome)>) {
        for (_, outcome) in answers.drain(..) {
            match outcome {
                Outcome::Accepted { .. } => self.accepted += 1,
                Outcome::Admin(done) if done.is_ok() => {}
                other => self.refused = Some(other),
            }
        }
    }
}

/// Has claims decided and made durable in a journal in `folder`, batch after batch on this thread, each batch one write
/// and one sync, as those arrive that came in during the sync before.
///
/// # Errors
/// The journal's, or an interruption.
pub fn claims(folder: &Path, budget: &Budget) -> anyhow::Result<(ClaimFigures, Waiting)> {
    let identity = fresh_identity();
    let segment_bytes = plant::segment_bytes(limits::SEGMENT_BYTES);
    // The segment is zeroed in large slices: nobody's sync waits behind them here.
    let options = Options { segment_bytes, prepare_slice: 16 << 20, urgent_slice: 16 << 20, ..Options::default() };
    let mut progress = |_, _| {};
    let start = Start { options, memory_max: u64::MAX, cursor: Some(Seq(0)), known: Seq(0), progress: &mut progress };
    let live = recover(RealDisk::new(folder), identity, start)?;
    let published = Arc::new(Published::new(live.pending));
    // The promise is always the disk's, whatever is configured: that is what is measured here.
    let settings =
        Settings { durability: Durability::Disk, max_entries: u64::MAX, settle_grace: 0, release_after: i64::MAX };
    let mut sequencer = Sequencer::new(live.book, live.journal.writer, published.clone(), settings);
    let (key, mut next) = (HashKey(identity.hash_key), 0);
    let stock = limits::DOCTOR_CLAIMS_MAX * limits::DOCTOR_BATCHES.len() as u64 + limits::SEQUENCER_BATCH_MAX as u64;
    let mut count = Count::default();
    let create = Command::Admin(Box::new(creation("doctor", stock)?));
    sequencer.step(SystemClock.now(), &mut vec![Submission { ticket: ticket(0), command: create }], &mut count);
    ensure!(count.refused.is_none(), "no campaign could be made in a fresh journal: {:?}", count.refused);
    // What all sizes together may fill of the segment; an entry here takes less than 64 bytes.
    let room = segment_bytes.saturating_sub(4 * limits::FRAME_MAX as u64) / 64;
    let most = limits::DOCTOR_CLAIMS_MAX.min(room / limits::DOCTOR_BATCHES.len() as u64);
    let (mut rates, mut journal_bytes) = (Vec::new(), 0.0);
    for batch in limits::DOCTOR_BATCHES {
        let mut fresh = || claims_of(key, &mut next, batch);
        let (rate, bytes) = rate(&mut sequencer, &published, batch, most, &mut fresh, budget)?;
        journal_bytes = bytes as f64 / rate.claims as f64;
        rates.push(rate);
    }
    let waiting_bytes = published.pending.bytes() as f64 / published.pending.entries().max(1) as f64;
    Ok((ClaimFigures { rates, journal_bytes, waiting_bytes }, Waiting { published, journal: identity.journal }))
}

fn ticket(slot: usize) -> Ticket {
    Ticket { front: 0, slot: slot as u32, generation: 0 }
}

/// Claims of the next `size` buyers; `next` counts them.
fn claims_of(key: HashKey, next: &mut u64, size: usize) -> anyhow::Result<Vec<Submission>> {
    let now = SystemClock.now();
    let first = *next;
    *next += size as u64;
    let claims = (0..size).map(|slot| {
        let command = Command::Claim(claim(key, first + slot as u64, now)?);
        Ok(Submission { ticket: ticket(slot), command })
    });
    claims.collect()
}

/// The rate of at most `most` claims in batches of one size, and the bytes of the journal that they took.
fn rate(
    sequencer: &mut Sequencer<RealDisk>,
    published: &Published,
    size: usize,
    most: u64,
    fresh: &mut impl FnMut() -> anyhow::Result<Vec<Submission>>,
    budget: &Budget,
) -> anyhow::Result<(ClaimRate, u64)> {
    let (mut time, mut used, mut bytes) = (Duration::ZERO, Duration::ZERO, 0);
    let mut count = Count::default();
    let is_over = budget.part(0.15);
    while count.accepted == 0 || (count.accepted < most && !is_over()) {
        let mut batch = fresh()?;
        let before = published.metrics.journal_bytes.get();
        let (start, used_before) = (tick(), processor_time());
        sequencer.step(SystemClock.now(), &mut batch, &mut count);
        (time, used) = (time + start.elapsed(), used + (processor_time() - used_before));
        ensure!(count.refused.is_none(), "a claim was not accepted: {:?}", count.refused);
        bytes += frame::total((published.metrics.journal_bytes.get() - before) as usize);
    }
    budget.check()?;
    let claims = count.accepted;
    let (per_second, processor_seconds) = (claims as f64 / time.as_secs_f64(), used.as_secs_f64() / claims as f64);
    Ok((ClaimRate { batch: size, claims, per_second, processor_seconds }, bytes))
}

/// Drains what waits into a fresh database in `folder`.
///
/// # Errors
/// The database's, or an interruption.
pub async fn rows(folder: &Path, batch: usize, waiting: Waiting, budget: &Budget) -> anyhow::Result<RowFigures> {
    let path = folder.join("rows.db");
    let url = format!("sqlite:{}", path.display());
    let store = Arc::new(SqliteStore::open(&url, Mode::ReadWrite)?);
    store.migrate().await?;
    let size = || std::fs::metadata(&path).map(|found| found.len()).with_context(|| path.display().to_string());
    let empty = size()?;
    let times = drained(store.clone(), batch, waiting, budget).await?;
    store.close().await;
    // A lone connection that may write moves what is left in the write-ahead log into the file when it closes.
    SqliteStore::open(&url, Mode::ReadWrite)?.migrate().await?;
    Ok(times.figures(batch, size()?.saturating_sub(empty)))
}

/// Drains what waits into tables of their own on the configured server, which are dropped again.
///
/// # Errors
/// The database's, or an interruption.
pub async fn rows_of_server(
    config: &Config,
    batch: usize,
    waiting: Waiting,
    budget: &Budget,
) -> anyhow::Result<RowFigures> {
    let StoreUrl::Postgres(url) = &config.store.url else { bail!("store.url names no server") };
    let server = PostgresStore::open(url.expose(), None, config.store.partition_by, Mode::ReadWrite)?;
    let schema = format!("forebay_doctor_{:016x}", rand::random::<u64>());
    let store = Arc::new(server.in_scratch_schema(&schema).await?);
    let measured = async {
        store.migrate().await?;
        let empty = store.size().await?;
        let times = drained(store.clone(), batch, waiting, budget).await?;
        anyhow::Ok(times.figures(batch, store.size().await?.saturating_sub(empty)))
    };
    let measured = measured.await;
    store.close().await;
    server.drop_scratch_schema(&schema).await?;
    measured
}

/// Rows that were drained, and the time of each transaction.
struct Drained {
    rows: u64,
    times: Vec<Duration>,
}

impl Drained {
    /// `bytes` are what the database has grown by.
    fn figures(mut self, batch: usize, bytes: u64) -> RowFigures {
        self.times.sort_unstable();
        let whole: Duration = self.times.iter().sum();
        RowFigures {
            batch,
            rows: self.rows,
            per_second: self.rows as f64 / whole.as_secs_f64(),
            transaction_median_seconds: self.times[self.times.len() / 2].as_secs_f64(),
            transaction_max_seconds: self.times[self.times.len() - 1].as_secs_f64(),
            bytes: bytes as f64 / self.rows as f64,
        }
    }
}

/// Drains what waits; at least one transaction.
async fn drained<S: Store>(store: Arc<S>, batch: usize, waiting: Waiting, budget: &Budget) -> anyhow::Result<Drained> {
    let mut drain = Drain::new(store, waiting.published, batch, 0);
    let (mut rows, mut times) = (0, Vec::new());
    let mut step = drain.bind(waiting.journal).await;
    let is_over = budget.part(0.3);
    while rows == 0 || !is_over() {
        match step {
            Step::Backoff { error, .. } | Step::Fenced { error } => return Err(error.into()),
            Step::Wrote { dead, .. } if dead > 0 => bail!("the database refused {dead} rows"),
            Step::Wrote { .. } | Step::Idle => {}
        }
        let start = tick();
        step = drain.step().await;
        if let Step::Wrote { rows: written, .. } = step {
            rows += written as u64;
            times.push(start.elapsed());
        } else if step == Step::Idle {
            break;
        }
    }
    budget.check()?;
    ensure!(rows > 0, "no claim waited for the database");
    Ok(Drained { rows, times })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_times() {
        let times = (1..=101).rev().map(Duration::from_millis).collect();
        let figures = sync_figures(times, Duration::from_millis(202));
        assert_eq!((figures.count, figures.bytes), (101, 4_096));
        assert_eq!((figures.median_seconds, figures.p99_seconds, figures.max_seconds), (0.051, 0.1, 0.101));
        assert_eq!(figures.processor_seconds, 0.002);
    }

    #[test]
    fn an_interruption_is_no_figure() {
        let folder = tempfile::tempdir().unwrap();
        let stop = Arc::new(AtomicBool::new(true));
        let budget = Budget { whole: Duration::from_secs(1), stop };
        assert!(syncs(folder.path(), &budget).unwrap_err().to_string().contains("interrupted"));
        assert!(winners(&budget).is_err());
    }

    #[test]
    fn every_figure_is_measured_even_where_there_is_no_time() {
        let folder = tempfile::tempdir().unwrap();
        let budget = Budget { whole: Duration::ZERO, stop: Arc::default() };
        assert_eq!(syncs(folder.path(), &budget).unwrap().count, 1);
        let journal = folder.path().join("journal");
        std::fs::create_dir(&journal).unwrap();
        let (claims, waiting) = claims(&journal, &budget).unwrap();
        assert_eq!(claims.rates.iter().map(|r| (r.batch, r.claims)).collect::<Vec<_>>(), [(64, 64), (256, 256)]);
        assert!(claims.journal_bytes > 48.0 && claims.journal_bytes < 64.0, "{}", claims.journal_bytes);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let rows = runtime.block_on(rows(folder.path(), 100, waiting, &budget)).unwrap();
        assert_eq!((rows.batch, rows.rows), (100, 100));
        assert!(rows.transaction_max_seconds >= rows.transaction_median_seconds);
        assert!((rows.per_second * rows.transaction_max_seconds - 100.0).abs() < 1e-6, "one transaction: {rows:?}");
    }
}
