//! `forebay recover`: what can be done about a wrong pair. It says what it found and what it would do, and does it only when
//! told to. It deletes nothing: what it replaces gets another name.
//!
//! - The journal has every entry that the database lacks: the pair is accepted, and the next start drains them.
//! - Some entries are in neither: which, and what they held, is said; going on without them must be asked for.
//! - The database has what the journal lacks: a new journal is made from it.
//! - Each belongs to somebody else, or they went on apart: which side is to stay must be said.
//!
//! Kill-safe: every step is one rename or one transaction, and a repeated run finds it done or not begun.

mod aside;
mod fill;
pub(super) mod note;
mod plan;
mod reading;
mod rebuild;
mod work;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use super::pair::{LookError, Pair};
use super::{folder, start};
use crate::config::{BufferKind, Config};
use crate::queue::drained::DrainedError;
use crate::queue::journal::disk::RealDisk;
use crate::queue::journal::{self, DataLock, JournalError};
use crate::queue::{HashKey, journal::OpenError};
use crate::sale::Seq;
use crate::store::Database;
use aside::Aside;
use reading::Reading;
use work::Work;

/// Which side is to stay, where they do not belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The journal: the database is set aside, or taken as the older copy that it is.
    Journal,
    /// The database: the journal is set aside, and a new one made.
    Database,
}

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wish {
    /// Do it.
    pub yes: bool,
    /// Even where entries are lost.
    pub accept_loss: bool,
    /// Which side is to stay.
    pub keep: Option<Keep>,
    /// A gate of shared mode that will never come back.
    pub dismiss_gate: Option<u128>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What was found and what was done, or would be.
    pub text: String,
    /// Whether the pair is right now.
    pub is_right: bool,
}

/// Looks, and does what was asked.
///
/// # Errors
/// What can't be looked at or done. What was begun is gone on with by the next run.
pub fn run(config: &Config, wish: &Wish) -> anyhow::Result<Told> {
    if config.buffer.kind == BufferKind::Redis {
        return super::shared::recover::run(config, wish);
    }
    anyhow::ensure!(wish.dismiss_gate.is_none(), "--dismiss-gate: only a buffer in Redis (buffer.kind) has gates");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let store = Arc::new(start::database(config)?);
    let told = runtime.block_on(recover(&config.buffer.data_dir, &store, wish));
    runtime.block_on(store.close());
    told
}

/// What was found.
struct Found {
    pair: Pair,
    /// The journal's content, if there is one that can be read.
    reading: Option<Reading>,
    /// What is wrong with one that can't.
    unreadable: Option<String>,
    /// Whether what the folder remembers can't be read; it is as good as nothing.
    is_forgotten: bool,
}

impl Found {
    /// The journal that is there, and its last entry where it could be read.
    fn journal(&self) -> Option<(u128, Option<Seq>)> {
        self.pair.journal.as_ref().map(|side| (side.identity.journal, side.last))
    }
}

async fn recover(data_dir: &Path, store: &Arc<Database>, wish: &Wish) -> anyhow::Result<Told> {
    let folder = store.file().and_then(Path::parent).filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.exists() && !data_dir.join("journal").exists() && note::load(data_dir)?.is_none() {
        // Before the very first start, which makes both.
        let text = format!("{} holds no journal, and {} is not there\n", data_dir.display(), store.name());
        return Ok(Told { text: text + work::RIGHT, is_right: true });
    }
    let _folder = folder::lock(data_dir, wish.yes)?;
    let _database = lock(store).await?;
    let mut aside = Aside::now();
    let note = note::load(data_dir)?;
    let found = look(data_dir, store).await?;
    if let Some(note) = note {
        aside.stamp.clone_from(&note.stamp);
        return resume(data_dir, store, &note, &found, aside, wish).await;
    }
    let pair = &found.pair;
    let mut text = match &found.unreadable {
        None => format!("journal:  {}\n", pair.journal_words()),
        Some(_) => format!("journal:  {} can't be read\n", data_dir.join("journal").display()),
    };
    let _ = writeln!(text, "database: {}", pair.database_words());
    if found.is_forgotten {
        let _ = writeln!(text, "what the folder remembers of the database is damaged");
    }
    let plan = plan::plan(pair, found.unreadable.as_deref(), found.is_forgotten, wish.keep);
    if let Some(wrong) = pair.wrong().filter(|_| found.unreadable.is_none()) {
        let _ = writeln!(text, "the wrong pair: {}", wrong.words());
    }
    let work = Work { data_dir, store, found: &found, wish };
    let is_right = work.carry_out(plan, &mut text, &mut aside).await?;
    Ok(Told { text: text + &moved(&aside), is_right })
}

/// What was set aside, in words.
fn moved(aside: &Aside) -> String {
    let mut text = String::new();
    for (from, to) in &aside.moved {
        let _ = writeln!(text, "{} is now {}", from.display(), to.display());
    }
    text
}

/// Takes the database for this process.
async fn lock(store: &Database) -> anyhow::Result<Option<DataLock>> {
    match store {
        Database::Sqlite(store) => Ok(Some(DataLock::beside(store.path())?)),
        Database::Postgres(store) => {
            store.lock().await?;
            Ok(None)
        }
    }
}

/// Both sides.
async fn look(data_dir: &Path, store: &Database) -> anyhow::Result<Found> {
    let looked = Some(store.look().await?);
    let (mut unreadable, mut is_forgotten) = (None, false);
    let mut pair = match Pair::look(data_dir, &store.name(), looked) {
        Ok(pair) => pair,
        Err(LookError::Drained { source: DrainedError::Damaged, .. }) => {
            is_forgotten = true;
            Pair::without_memory(data_dir, &store.name(), looked)?
        }
        Err(LookError::Journal(error @ JournalError::Damaged { .. })) => {
            unreadable = Some(error.to_string());
            Pair::without_journal(data_dir, &store.name(), looked)
        }
        Err(error) => return Err(error.into()),
    };
    let reading = match read(&mut pair) {
        Ok(reading) => reading,
        Err(what) => {
            unreadable = Some(what);
            None
        }
    };
    let broken = pair.unread.clone().filter(|_| pair.wrong() == Some(super::pair::Wrong::Broken));
    Ok(Found { pair, reading, unreadable: unreadable.or(broken), is_forgotten })
}

/// Reads the whole journal, if there is one.
fn read(pair: &mut Pair) -> Result<Option<Reading>, String> {
    let Some(side) = &pair.journal else { return Ok(None) };
    let mut reading = Reading::new(HashKey(side.identity.hash_key));
    match journal::read(&RealDisk::new(pair.data_dir.join("journal")), &mut reading) {
        Ok(report) => {
            pair.end(report.last_seq);
            Ok(Some(reading))
        }
        Err(OpenError::Journal(JournalError::Absent)) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Goes on with a recovery that was interrupted, unless one of the sides was exchanged since.
async fn resume(
    data_dir: &Path,
    store: &Database,
    note: &note::Note,
    found: &Found,
    mut aside: Aside,
    wish: &Wish,
) -> anyhow::Result<Told> {
    let what = format!("journal {:032x} takes the place of journal {:032x}", note.to.journal, note.from.journal);
    let at = found.pair.looked.and_then(|looked| looked.position());
    if let Some(why) = rebuild::overtaken(data_dir, note, found.journal(), at) {
        let set_aside = data_dir.join(format!("journal.before-recover-{}", note.stamp));
        let mut text = format!("a recovery was interrupted: {what}. It can't be gone on with: {why}\n");
        if set_aside.exists() {
            let _ = writeln!(text, "the journal that was there before is {}", set_aside.display());
        }
        if wish.yes {
            rebuild::drop_note(data_dir, &mut aside)?;
            text.push_str("it is given up: `forebay recover` says what can be done now\n");
        } else {
            text.push_str("--yes gives it up; then `forebay recover` says what can be done\n");
        }
        return Ok(Told { text: text + &moved(&aside), is_right: false });
    }
    let mut text = note.report.clone();
    if !wish.yes {
        let _ = writeln!(text, "this recovery was interrupted: {what}. --yes goes on with it");
        return Ok(Told { text, is_right: false });
    }
    rebuild::finish(data_dir, store, note, &mut aside).await?;
    let _ =
        writeln!(text, "the interrupted recovery is finished: {what}; entries go on from {}", note.to.cursor.next());
    Ok(Told { text: text + &moved(&aside), is_right: true })
}
