//! The first half of a start: the folder, the pair, and the way back to a live book. Nothing is served yet, and what is
//! refused here has changed nothing but the folder's lock file.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::LocalRuntime;

use super::folder::{self, Folder};
use super::pair::{Gate, Pair};
use super::recover::note;
use super::service::Service;
use crate::config::Config;
use crate::limits;
use crate::plant;
use crate::queue::Book;
use crate::queue::journal::disk::RealDisk;
use crate::queue::journal::{Identity, Options, Recovered};
use crate::queue::pending::Pending;
use crate::queue::recover::{self, RecoverError, Start};
use crate::queue::sequencer::Published;
use crate::receipts::KeyRing;
use crate::sale::Seq;
use crate::store::{Database, Mode, Store, StoreError, Totals};
use crate::workers::drain::balances;

/// What the second half goes on with.
pub(super) struct Started {
    /// The data folder, locked.
    pub folder: Folder,
    /// The keys of receipts.
    pub receipts: KeyRing,
    /// The database.
    pub store: Arc<Database>,
    /// Who lets the drain in.
    pub gate: Arc<Gate>,
    /// The folder's side.
    pub pair: Pair,
    /// Who the journal is.
    pub identity: Identity,
    /// Book and journal.
    pub live: Replayed,
    /// What the sequencer publishes.
    pub published: Arc<Published>,
}

/// A live book and the journal behind it.
pub(super) struct Replayed {
    /// The book.
    pub book: Book,
    /// The journal, ready to be written.
    pub journal: Recovered<RealDisk>,
}

/// Looks at both sides, refuses a wrong pair, and reads the journal.
///
/// # Errors
/// Why nothing may start.
pub(super) fn begin(
    config: &Config,
    control: &LocalRuntime,
    memory_max: u64,
    service: &Service,
) -> anyhow::Result<Started> {
    let data_dir = &config.buffer.data_dir;
    let folder = folder::open(data_dir)?;
    note::refuse(data_dir)?;
    let store = Arc::new(database(config)?);
    let gate = Arc::new(Gate::new(store.clone()));
    let (looked, is_ours) = control.block_on(look(&gate, &store))?;
    let mut pair = Pair::look(data_dir, &store.name(), looked)?;
    pair.check().map_err(anyhow::Error::msg)?;
    if !is_ours {
        // It can be read and not be locked: nothing may be written to it yet.
        pair = pair.without_database();
    }
    let receipts = KeyRing::open_or_create(data_dir)?;
    let identity = pair.journal.map_or_else(folder::fresh_identity, |side| side.identity);
    let known = match pair.looked {
        Some(_) => control.block_on(position(&store))?,
        None => None,
    };
    // A database that can't be asked has at least what it was known to have. Its sums are not known then, so whatever the
    // journal holds is taken to wait, as long as that is only what it needs.
    let at_least = Some(pair.floor()).filter(|floor| *floor > Seq(0) && !config.buffer.keep_journal.is_zero());
    let cursor = known.as_ref().map(|(cursor, _)| *cursor).or(at_least);
    let (live, pending) = replay(&folder.journal, identity, cursor, (memory_max, service), &mut pair)?;
    pair.check().map_err(anyhow::Error::msg)?;
    let published = Arc::new(Published::new(pending));
    if let Some((cursor, totals)) = known {
        // Before anyone can ask for a balance: the drain would tell it, but later than the first request.
        published.pending.retire_to(cursor, &balances(&totals));
    }
    Ok(Started { folder, receipts, store, gate, pair, identity, live, published })
}

/// The database that the configuration names; not touched yet.
pub(super) fn database(config: &Config) -> anyhow::Result<Database> {
    Ok(Database::of(&config.store, Mode::ReadWrite)?)
}

/// Takes the database, and looks whose it is; none where it can't be reached now, for then claims are taken all the same. Also
/// whether it was taken: one that can only be read is looked at, too.
async fn look(gate: &Gate, store: &Database) -> anyhow::Result<(Option<crate::store::Looked>, bool)> {
    let is_ours = match gate.lock().await {
        Ok(()) => true,
        Err(StoreError::Fenced(why)) => anyhow::bail!("{why}"),
        Err(error) => outage(&error).unwrap_or(false),
    };
    match store.look().await {
        Ok(looked) => Ok((Some(looked), is_ours)),
        Err(StoreError::Fenced(why)) => anyhow::bail!("{why}"),
        Err(error) => Ok((outage(&error), false)),
    }
}

/// What the database has of the journal, and its sums; none where it can't be used now.
async fn position(store: &Database) -> anyhow::Result<Option<(Seq, Vec<Totals>)>> {
    let asked = async {
        // A database that is locked for writing can still be read.
        let migrated = store.migrate().await;
        if let Err(StoreError::Fenced(_)) = &migrated {
            migrated?;
        }
        Ok((store.position().await?, store.totals().await?))
    };
    match asked.await {
        Ok((position, totals)) => Ok(Some((position.map_or(Seq(0), |p| p.cursor), totals))),
        Err(StoreError::Fenced(why)) => anyhow::bail!("{why}"),
        Err(error) => Ok(outage(&error)),
    }
}

fn outage<T>(error: &StoreError) -> Option<T> {
    tracing::error!(%error, "the database can't be used now; claims are taken, and drained once it can");
    None
}

/// Sizes of the journal of a server.
pub(super) fn options() -> Options {
    Options { segment_bytes: crate::plant::segment_bytes(limits::SEGMENT_BYTES), ..Options::default() }
}

fn replay(
    folder: &Path,
    identity: Identity,
    cursor: Option<Seq>,
    (memory_max, service): (u64, &Service),
    pair: &mut Pair,
) -> anyhow::Result<(Replayed, Pending)> {
    let bar = ProgressBar::new(0);
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("recovering {wide_bar} {bytes}/{total_bytes} {eta}") {
        bar.set_style(style);
    }
    let start = crate::clock::tick();
    let mut progress = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
        service.step(|| format!("recovering the journal: {done} of {total} bytes"));
        plant::crash_point("start.recovering");
    };
    service.step(|| "recovering the journal".to_owned());
    let known = pair.floor();
    let start_of = Start { options: options(), memory_max, cursor, known, progress: &mut progress };
    let live = match recover::recover(RealDisk::new(folder), identity, start_of) {
        Ok(live) => live,
        Err(RecoverError::DatabaseAhead { last, .. }) if pair.journal.is_some() => {
            pair.end(last);
            return Err(pair.check().map_or_else(anyhow::Error::msg, |()| anyhow::anyhow!("the journal ends early")));
        }
        Err(error) => return Err(error.into()),
    };
    bar.finish_and_clear();
    let report = live.journal.report;
    pair.begun(identity, report.last_seq);
    let waiting = live.pending.entries();
    tracing::info!(entries = report.entries, waiting, took = ?start.elapsed(), "the journal is recovered");
    if report.torn_bytes > 0 {
        tracing::warn!(
            bytes = report.torn_bytes,
            "a write that had not been acknowledged was interrupted; it is cut off"
        );
    }
    if let Some(lost) = report.memory_lost {
        let last = report.last_seq;
        tracing::error!(%last, %lost, "entries of durability \"memory\" did not survive a power cut");
    }
    Ok((Replayed { book: live.book, journal: live.journal }, live.pending))
}
