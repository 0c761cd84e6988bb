//! A new journal made from the database, for one that was lost or is an older copy.
//!
//! The new folder is made whole beside the old one, then the note is written, and from there on each step is found done or
//! not begun by whoever comes after: the old folder goes aside, the new one takes its place, the database is bound to it in
//! one transaction, the position is remembered, the note goes.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rand::RngCore;

use super::aside::{Aside, check_replaceable};
use super::note::{self, Note};
use super::work::action;
use crate::clock::{Clock, SystemClock};
use crate::engine::{folder, start};
use crate::limits;
use crate::plant;
use crate::queue::drained::{self, Drained};
use crate::queue::journal::disk::RealDisk;
use crate::queue::journal::{self, Identity};
use crate::queue::rebuild::{Known, Rebuilder, Rebuilt};
use crate::queue::{Book, HashKey, recover};
use crate::sale::red_packet::Seed;
use crate::sale::{ClaimId, ClaimStatus, Fate, Seq, Timestamp};
use crate::store::{CampaignRecord, ClaimRow, Database, Mend, Position, Store};

/// Where the new journal is made.
const MAKING: &str = "journal.recovering";

/// A book from the database, and whose hashes it uses.
pub(super) struct Made {
    pub book: Book,
    pub campaigns: Vec<Rebuilt>,
    /// The journal that is to be.
    pub identity: Identity,
    /// Whether the old one's key was found, so that idempotency keys are still good.
    pub has_old_key: bool,
}

/// The key with which journal `of` hashed: in the folder itself, or in one that was set aside.
fn old_key(data_dir: &Path, of: u128) -> Option<[u8; 16]> {
    let mut folders = vec![data_dir.join("journal")];
    for entry in fs::read_dir(data_dir).ok()?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("journal.before-recover-") {
            folders.push(entry.path());
        }
    }
    let identity = |folder: &PathBuf| journal::identity::load(&RealDisk::new(folder)).ok().flatten();
    folders.iter().filter_map(identity).find(|identity| identity.journal == of).map(|identity| identity.hash_key)
}

/// Makes the book that follows entry `last_known` and everything that the database has. Reads only.
///
/// # Errors
/// The database's, or rows that make no book.
pub(super) async fn make(data_dir: &Path, store: &Database, from: Position, last_known: Seq) -> anyhow::Result<Made> {
    let fresh = folder::fresh_identity();
    let old = old_key(data_dir, from.journal);
    let identity = Identity { hash_key: old.unwrap_or(fresh.hash_key), ..fresh };
    let mut rebuilder = Rebuilder::new(HashKey(identity.hash_key), old.is_some());
    // Each journal that was made anew has gone on from versions of its own.
    let skipped = 1 + limits::RECOVER_VERSION_SKIP * (1 + store.rebuilds().await?);
    for record in store.campaign_records().await? {
        rebuilder.campaign(known(record, skipped));
    }
    enter_claims(store, &mut rebuilder).await?;
    let (latest, highest) = store.horizon().await?;
    let last = last_known.max(highest).plus(limits::RECOVER_SEQ_SKIP);
    let time = latest.max(SystemClock.now());
    let (book, campaigns) = rebuilder.finish(last, time)?;
    Ok(Made { book, campaigns, identity, has_old_key: old.is_some() })
}

fn known(record: CampaignRecord, skipped: u64) -> Known {
    let mut seed = [0; 16];
    rand::rng().fill_bytes(&mut seed);
    let versions = (skipped + record.changes, skipped + record.restocks);
    let CampaignRecord { spec, state, closed_at, released, .. } = record;
    Known { spec, seed: Seed(seed), wish: state, closed_at, released, versions }
}

/// Rows and dead letters, in the order of their positions, each with what became of it.
async fn enter_claims(store: &Database, rebuilder: &mut Rebuilder) -> anyhow::Result<()> {
    let ends = store.dead_ends().await?;
    let mut dead = dead_claims(store).await?;
    let mut after = Seq(0);
    let enter = |rebuilder: &mut Rebuilder, row: &ClaimRow, status: ClaimStatus| {
        let fate = fate(status).or_else(|| ends.get(&row.claim.claim_id).copied());
        rebuilder.claim(&row.claim, fate)
    };
    loop {
        let page = store.scan(None, after, limits::RECOVER_PAGE).await?;
        for stored in &page {
            after = stored.row.claim.seq;
            while let Some(letter) = dead.first_entry().filter(|letter| *letter.key() < after) {
                let (row, status) = letter.remove();
                enter(rebuilder, &row, status)?;
            }
            enter(rebuilder, &stored.row, stored.status)?;
        }
        if page.is_empty() {
            break;
        }
    }
    for (row, status) in dead.values() {
        enter(rebuilder, row, *status)?;
    }
    Ok(())
}

fn fate(status: ClaimStatus) -> Option<Fate> {
    [Fate::Settled, Fate::Cancelled, Fate::Expired].into_iter().find(|fate| fate.status() == status)
}

/// Claims in dead letters that are no rows, by position, each with what has become of it.
///
/// # Errors
/// The database's.
pub(super) async fn dead_claims(store: &Database) -> anyhow::Result<BTreeMap<Seq, (ClaimRow, ClaimStatus)>> {
    let (mut all, mut after) = (BTreeMap::new(), Seq(0));
    loop {
        let page = store.dead_claims_and_fates(after, limits::RECOVER_PAGE).await?;
        let Some((last, _)) = page.last() else { return Ok(all) };
        after = last.claim.seq;
        all.extend(page.into_iter().map(|(row, status)| (row.claim.seq, (row, status))));
    }
}

/// The ids of all claims that the database has, dead letters included.
pub(super) async fn ids(store: &Database) -> anyhow::Result<HashSet<ClaimId>> {
    let (mut ids, mut after) = (HashSet::new(), Seq(0));
    loop {
        let page = store.scan(None, after, limits::RECOVER_PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.row.claim.seq;
        ids.extend(page.iter().map(|stored| stored.row.claim.claim_id));
    }
    ids.extend(dead_claims(store).await?.values().map(|(row, _)| row.claim.claim_id));
    Ok(ids)
}

/// What is noted beside the positions.
pub(super) struct Noted<'a> {
    pub found: Option<(u128, Option<Seq>)>,
    pub lost: Option<(Seq, Seq)>,
    pub stamp: &'a str,
    pub report: &'a str,
}

/// Makes the new journal whole beside the old one, and notes what is to be done with it.
///
/// # Errors
/// The system's, or a folder that nothing can take the place of; then nothing has changed yet.
pub(super) fn prepare(data_dir: &Path, made: &Made, from: Position, noted: Noted<'_>) -> anyhow::Result<Note> {
    check_replaceable(&data_dir.join("journal"))?;
    let folder = data_dir.join(MAKING);
    if folder.is_dir() {
        // Of a run that was interrupted before it had noted anything: nobody's journal yet.
        fs::remove_dir_all(&folder)?;
    }
    folder::make(&folder)?;
    plant::crash_point("recover.folder");
    let at = (made.book.last_seq(), made.book.time());
    journal::begin_from(&RealDisk::new(&folder), &start::options(), made.identity, at, |out| made.book.save(out))?;
    plant::crash_point("recover.folder");
    let to = Position { journal: made.identity.journal, cursor: made.book.last_seq() };
    let Noted { found, lost, stamp, report } = noted;
    let note = Note { from, to, found, lost, stamp: stamp.to_owned(), report: report.to_owned() };
    note::save(data_dir, &note)?;
    plant::crash_point("recover.noted");
    Ok(note)
}

/// Whether a folder holds this journal.
fn is_journal(folder: &Path, journal: u128) -> bool {
    let found = if folder.is_dir() { recover::identity(&RealDisk::new(folder)).ok().flatten() } else { None };
    found.is_some_and(|identity| identity.journal == journal)
}

/// Why what the note says can't be done any more: the database or the journal has been exchanged since. `found` is the
/// journal that is there now, and `at` where the database stands.
pub(super) fn overtaken(
    data_dir: &Path,
    note: &Note,
    found: Option<(u128, Option<Seq>)>,
    at: Option<Position>,
) -> Option<String> {
    let (journal, making) = (data_dir.join("journal"), data_dir.join(MAKING));
    if at != Some(note.from) && at != Some(note.to) {
        let is =
            at.map_or("nobody's".to_owned(), |at| format!("journal {:032x}'s, up to entry {}", at.journal, at.cursor));
        return Some(format!("the database was exchanged since: it is {is}"));
    }
    let is_new = is_journal(&journal, note.to.journal);
    // A start that was refused has made an empty folder, where there was none any more.
    if !is_new && found.is_some() && found != note.found {
        return Some(format!("{} was exchanged since", journal.display()));
    }
    (!is_new && !is_journal(&making, note.to.journal))
        .then(|| format!("neither {} nor {} is the journal that it has made", journal.display(), making.display()))
}

/// Drops the note, and what was made for it: nothing of it is anybody's yet.
///
/// # Errors
/// The system's.
pub(super) fn drop_note(data_dir: &Path, aside: &mut Aside) -> anyhow::Result<()> {
    aside.set(&data_dir.join(MAKING))?;
    aside.set(&data_dir.join(note::NOTE))
}

/// Does what the note says, from wherever it was left.
///
/// # Errors
/// The system's or the database's: run it again. Where database or journal are neither what they were nor what they are to
/// be, somebody has changed them, and that is said.
pub(super) async fn finish(data_dir: &Path, store: &Database, note: &Note, aside: &mut Aside) -> anyhow::Result<()> {
    let (journal, making) = (data_dir.join("journal"), data_dir.join(MAKING));
    if !is_journal(&journal, note.to.journal) {
        if journal.exists() {
            aside.set(&journal)?;
        }
        plant::crash_point("recover.old_away");
        fs::rename(&making, &journal)?;
        sync(data_dir)?;
    }
    plant::crash_point("recover.in_place");
    let detail = serde_json::json!({ "from": format!("{:032x}", note.from.journal), "cursor": note.from.cursor.0 });
    let at: Timestamp = SystemClock.now();
    store.rebind(Some(note.from), note.to, &Mend::default(), &action(at, "rebuilt", note.lost, detail)).await?;
    remember(data_dir, note.to, aside)?;
    plant::crash_point("recover.remembered");
    note::remove(data_dir)?;
    Ok(())
}

/// Remembers the position that is true from now on; what was remembered before is set aside.
///
/// # Errors
/// The system's.
pub(super) fn remember(data_dir: &Path, at: Position, aside: &mut Aside) -> anyhow::Result<()> {
    let now = Drained { journal: at.journal, cursor: at.cursor };
    if drained::load(data_dir).is_ok_and(|before| before == Some(now)) {
        return Ok(());
    }
    let path = data_dir.join(drained::DRAINED);
    if path.exists() {
        aside.set(&path)?;
    }
    drained::save(data_dir, &now)?;
    Ok(sync(data_dir)?)
}

/// Makes the names in a folder durable.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
