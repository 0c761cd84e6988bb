//! `forebay recover`: what can be done about a wrong pair. It says what it found and what it would do, and does it only when
//! told to. It deletes nothing: what it replaces gets another name.
//!
//! - The journal has every entry that the database lacks: the pair is accepted, and the next start drains them.
//! - Some entries are in neither: which, and what they held, is said; going on without them must be asked for.
//! - The database has what the journal lacks: a new journal is made from it.
//! - Each belongs to somebody else: which side is to stay must be said.
//!
//! Kill-safe: every step is one rename or one transaction, and a repeated run finds it done or not begun.

pub(super) mod note;
mod reading;
mod rebuild;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::pair::{LookError, Pair, Wrong};
use super::{folder, start};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::plant;
use crate::queue::drained::DrainedError;
use crate::queue::journal::disk::RealDisk;
use crate::queue::journal::{self, DataLock, JournalError};
use crate::queue::{HashKey, journal::OpenError};
use crate::sale::{Seq, Timestamp};
use crate::store::{Database, KnownCampaign, Position, Recovery};
use reading::{Lost, Reading, stretch};

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
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What was found and what was done, or would be.
    pub text: String,
    /// Whether the pair is right now.
    pub is_right: bool,
}

/// What can be done.
enum Plan {
    /// Nothing is wrong.
    Nothing,
    /// Only somebody else can help.
    Stuck(String),
    /// The journal has all that the database lacks.
    Accept { from: Option<Position>, cursor: Seq },
    /// It has not; these are in neither.
    Loss { from: Option<Position>, cursor: Seq, gaps: Vec<(Seq, Seq)> },
    /// A new journal is made.
    Rebuild { from: Position },
}

/// Looks, and does what was asked.
///
/// # Errors
/// What can't be looked at or done. What was begun is gone on with by the next run.
pub fn run(config: &Config, wish: &Wish) -> anyhow::Result<Told> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let store = start::database(config)?;
    let told = runtime.block_on(recover(&config.buffer.data_dir, &store, wish));
    runtime.block_on(store.close());
    told
}

async fn recover(data_dir: &Path, store: &Database, wish: &Wish) -> anyhow::Result<Told> {
    let _folder = folder::lock(data_dir, wish.yes)?;
    let _database = DataLock::beside(store.path())?;
    let mut aside = Aside::now();
    if let Some(note) = note::load(data_dir)? {
        aside.stamp.clone_from(&note.stamp);
        return resume(data_dir, store, &note, aside, wish).await;
    }
    let mut text = String::new();
    let (mut pair, is_forgotten) = look(data_dir, store).await?;
    let reading = read(&mut pair);
    let _ = writeln!(text, "journal:  {}\ndatabase: {}", pair.journal_words(), pair.database_words());
    if is_forgotten {
        let _ = writeln!(text, "what the folder remembers of the database is damaged");
    }
    let plan = plan(&pair, &reading, is_forgotten, wish);
    if let Some(wrong) = pair.wrong() {
        let _ = writeln!(text, "the wrong pair: {}", wrong.words());
    }
    let work = Work { data_dir, store, pair: &pair, wish, reading: reading.as_ref().ok().and_then(Option::as_ref) };
    let is_right = work.carry_out(plan, &mut text, &mut aside).await?;
    for (from, to) in &aside.moved {
        let _ = writeln!(text, "{} is now {}", from.display(), to.display());
    }
    Ok(Told { text, is_right })
}

/// Both sides; a remembered position that can't be read is as good as none.
async fn look(data_dir: &Path, store: &Database) -> anyhow::Result<(Pair, bool)> {
    let looked = Some(store.look().await?);
    match Pair::look(data_dir, store.path(), looked) {
        Ok(pair) => Ok((pair, false)),
        Err(LookError::Drained { source: DrainedError::Damaged, .. }) => {
            Ok((Pair::without_memory(data_dir, store.path(), looked)?, true))
        }
        Err(error) => Err(error.into()),
    }
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

fn plan(pair: &Pair, reading: &Result<Option<Reading>, String>, is_forgotten: bool, wish: &Wish) -> Plan {
    let from = pair.looked.and_then(|looked| looked.position());
    if let Err(what) = reading {
        return match (wish.keep, from) {
            (Some(Keep::Database), Some(from)) => Plan::Rebuild { from },
            _ => Plan::Stuck(format!(
                "the journal can't be read: {what}. --keep database sets it aside and makes a new one from the database; \
                 what only the journal has is lost then"
            )),
        };
    }
    let keep = wish.keep;
    match (pair.wrong(), from) {
        (None, from) if is_forgotten && pair.journal.is_some() => {
            Plan::Accept { from, cursor: from.map_or(Seq(0), |from| from.cursor) }
        }
        (None, _) => Plan::Nothing,
        (Some(Wrong::NoJournal), Some(from)) => Plan::Rebuild { from },
        (Some(Wrong::Strangers), Some(from)) => match keep {
            Some(Keep::Database) => Plan::Rebuild { from },
            Some(Keep::Journal) => behind(pair, None),
            // Made by a start that was refused, or a slip of the hand: it holds nothing.
            None if pair.journal.is_some_and(|side| side.last == Some(Seq(0))) => Plan::Rebuild { from },
            None => Plan::Stuck(
                "each holds entries of its own, and they can't be mixed. If one of them was configured or copied by \
                 mistake, put the right one there. Otherwise say which is to stay: --keep journal sets the database aside \
                 and fills a new one from the journal; --keep database sets the journal aside and makes a new one from \
                 the database"
                    .to_owned(),
            ),
        },
        (Some(Wrong::OldDatabase), Some(from)) if keep == Some(Keep::Database) => Plan::Rebuild { from },
        (Some(Wrong::OldDatabase | Wrong::NoDatabase), from) if keep != Some(Keep::Database) => behind(pair, from),
        (Some(Wrong::OldJournal), Some(from)) if keep != Some(Keep::Journal) => Plan::Rebuild { from },
        _ => Plan::Stuck("the side that is to stay lacks what the other one has: leave --keep out".to_owned()),
    }
}

/// The database, or a new one, is behind the journal: what is missing between them?
fn behind(pair: &Pair, from: Option<Position>) -> Plan {
    let Some(side) = &pair.journal else { return Plan::Nothing };
    let cursor = from.map_or(Seq(0), |from| from.cursor);
    let last = side.last.unwrap_or_default();
    let mut gaps = Vec::new();
    if cursor.next() < side.first {
        gaps.push((cursor.next(), Seq(side.first.0 - 1)));
    }
    if let Some(known) = pair.remembered().filter(|known| *known > last) {
        // Both sides are older copies: the folder remembers entries that neither has.
        gaps.push((last.next(), known));
    }
    let cursor = cursor.max(Seq(side.first.0 - 1));
    if gaps.is_empty() { Plan::Accept { from, cursor } } else { Plan::Loss { from, cursor, gaps } }
}

/// Goes on with a recovery that was interrupted.
async fn resume(
    data_dir: &Path,
    store: &Database,
    note: &note::Note,
    mut aside: Aside,
    wish: &Wish,
) -> anyhow::Result<Told> {
    let what = format!("journal {:032x} takes the place of journal {:032x}", note.to.journal, note.from.journal);
    if !wish.yes {
        let text = format!("a recovery was interrupted: {what}. --yes goes on with it\n");
        return Ok(Told { text, is_right: false });
    }
    rebuild::finish(data_dir, store, note, &mut aside).await?;
    let text = format!("the interrupted recovery is finished: {what}; entries go on from {}\n", note.to.cursor.next());
    Ok(Told { text, is_right: true })
}

/// What a plan is carried out with.
struct Work<'a> {
    data_dir: &'a Path,
    store: &'a Database,
    pair: &'a Pair,
    wish: &'a Wish,
    reading: Option<&'a Reading>,
}

impl Work<'_> {
    /// Says what is done, and does it where that was asked. Whether the pair is right afterwards.
    async fn carry_out(&self, plan: Plan, text: &mut String, aside: &mut Aside) -> anyhow::Result<bool> {
        match plan {
            Plan::Nothing => {
                text.push_str("the pair is right: there is nothing to recover\n");
                Ok(true)
            }
            Plan::Stuck(why) => {
                let _ = writeln!(text, "nothing was done: {why}");
                Ok(false)
            }
            Plan::Accept { from, cursor } => self.accept(from, cursor, text, aside).await,
            Plan::Loss { from, cursor, gaps } => self.lose(from, cursor, &gaps, text, aside).await,
            Plan::Rebuild { from } => self.rebuild(from, text, aside).await,
        }
    }

    async fn accept(
        &self,
        from: Option<Position>,
        cursor: Seq,
        text: &mut String,
        aside: &mut Aside,
    ) -> anyhow::Result<bool> {
        let last = self.last();
        let waiting = last.0.saturating_sub(cursor.0);
        let _ = writeln!(
            text,
            "the journal has every entry that the database lacks: {waiting}, up to {last}; the next start writes them into it"
        );
        let action = if from.is_some() { "accepted" } else { "bound" };
        let recovery = action_now(action, None, serde_json::json!({ "waiting": waiting }));
        self.bind(from, cursor, &[], &recovery, text, aside).await
    }

    async fn lose(
        &self,
        from: Option<Position>,
        cursor: Seq,
        gaps: &[(Seq, Seq)],
        text: &mut String,
        aside: &mut Aside,
    ) -> anyhow::Result<bool> {
        let gone: Vec<_> = gaps.iter().map(|gap| stretch(*gap)).collect();
        let _ = writeln!(text, "{} are in neither side", gone.join(" and "));
        let (mut lost, mut campaigns): (Vec<Lost>, Vec<KnownCampaign>) = (Vec::new(), Vec::new());
        if let Some(reading) = self.reading.filter(|_| gaps[0].0 == from.map_or(Seq(0), |f| f.cursor).next()) {
            let ids = if from.is_some() { rebuild::ids(self.store).await? } else { Default::default() };
            (lost, campaigns) = (reading.lost(&ids), reading.campaigns());
        }
        for Lost { campaign, claims, units, money } in &lost {
            let _ =
                writeln!(text, "  campaign {campaign}: {claims} claims, {units} units, {money} minor units are lost");
        }
        text.push_str("  what became of other claims within them is lost, too: their rows stay as they are\n");
        if !self.wish.accept_loss {
            text.push_str(
                "put a newer copy of the database back if there is one. With --accept-loss the journal goes on without them, \
                 and the balance shows what is missing as an error for good\n",
            );
            return Ok(false);
        }
        let entries: Vec<_> = lost
            .iter()
            .map(|l| serde_json::json!({ "campaign": l.campaign, "claims": l.claims, "units": l.units, "money": l.money }))
            .collect();
        let whole = gaps.first().zip(gaps.last()).map(|(first, last)| (first.0, last.1));
        let recovery = action_now("loss", whole, serde_json::json!({ "lost": entries }));
        self.bind(from, cursor, &campaigns, &recovery, text, aside).await
    }

    /// Makes the database the journal's, up to `cursor`.
    async fn bind(
        &self,
        from: Option<Position>,
        cursor: Seq,
        campaigns: &[KnownCampaign],
        recovery: &Recovery,
        text: &mut String,
        aside: &mut Aside,
    ) -> anyhow::Result<bool> {
        let journal = self.pair.journal.as_ref().map(|side| side.identity.journal);
        let Some(journal) = journal.filter(|_| self.wish.yes) else {
            text.push_str("nothing was changed; --yes does it\n");
            return Ok(false);
        };
        let to = Position { journal, cursor };
        let is_foreign = self.pair.wrong() == Some(Wrong::Strangers);
        let mut store = self.store;
        let fresh;
        if is_foreign {
            self.store.fold().await?;
            self.store.close().await;
            aside.database(self.store.path())?;
            plant::crash_point("recover.database_away");
            fresh = self.store.again();
            store = &fresh;
        }
        store.migrate().await?;
        plant::crash_point("recover.migrated");
        let done = store.rebind(from, to, campaigns, recovery).await;
        if is_foreign {
            store.close().await;
        }
        done?;
        rebuild::remember(self.data_dir, to, aside)?;
        let _ = writeln!(text, "done: the database is journal {journal:032x}'s, up to entry {cursor}");
        Ok(true)
    }

    async fn rebuild(&self, from: Position, text: &mut String, aside: &mut Aside) -> anyhow::Result<bool> {
        if self.wish.yes {
            self.store.migrate().await?;
        }
        let known = self.pair.remembered.map_or(Seq(0), |drained| drained.cursor);
        let last_known = from.cursor.max(self.last()).max(known);
        let made = rebuild::make(self.data_dir, self.store, from, last_known).await?;
        let (mut claims, mut units, mut money) = (0, 0, 0);
        for campaign in &made.campaigns {
            let _ = writeln!(
                text,
                "  campaign {}: {} claims, {} units, {} minor units; {} claims were given back",
                campaign.campaign, campaign.claims, campaign.units, campaign.money.0, campaign.returned
            );
            claims += campaign.claims;
            units += campaign.units.0;
            money += campaign.money.0;
        }
        let count = made.campaigns.len();
        let _ = writeln!(
            text,
            "a new journal is made from the database: {count} campaigns, {claims} claims, {units} units, {money} minor units"
        );
        self.say_what_is_lost(&made, from, text);
        if !self.wish.yes {
            text.push_str("nothing was changed; --yes does it\n");
            return Ok(false);
        }
        let note = rebuild::prepare(self.data_dir, &made, from, &aside.stamp)?;
        rebuild::finish(self.data_dir, self.store, &note, aside).await?;
        let (journal, next) = (note.to.journal, note.to.cursor.next());
        let _ = writeln!(text, "done: the database is now journal {journal:032x}'s, whose entries go on from {next}");
        Ok(true)
    }

    fn say_what_is_lost(&self, made: &rebuild::Made, from: Position, text: &mut String) {
        text.push_str(
            "it can't know: acknowledgements that were in the lost journal only, and keys of campaigns' changes\n",
        );
        if !made.has_old_key {
            text.push_str(
                "  nor idempotency keys: the secret that they were hashed with went with the journal's identity\n",
            );
        }
        if !self.data_dir.join("receipt-keys").exists() {
            text.push_str("  nor the keys of receipts: those that were given out can't be verified any more\n");
        }
        let side = self.pair.journal.as_ref().filter(|side| side.identity.journal == from.journal);
        let last = side.and_then(|side| side.last).filter(|last| *last > from.cursor);
        if let Some(last) = last {
            let gone = stretch((from.cursor.next(), last));
            let _ = writeln!(text, "  nor {gone}, which only the journal has that is set aside");
        }
    }

    fn last(&self) -> Seq {
        self.pair.journal.as_ref().and_then(|side| side.last).unwrap_or_default()
    }
}

/// A line for the database's own record.
fn action(at: Timestamp, action: &'static str, lost: Option<(Seq, Seq)>, detail: serde_json::Value) -> Recovery {
    Recovery { at, action, lost, detail }
}

fn action_now(what: &'static str, lost: Option<(Seq, Seq)>, detail: serde_json::Value) -> Recovery {
    action(SystemClock.now(), what, lost, detail)
}

/// What is replaced goes aside under the name that it had, followed by the time of the recovery.
struct Aside {
    stamp: String,
    moved: Vec<(PathBuf, PathBuf)>,
}

impl Aside {
    fn now() -> Self {
        let now: String = SystemClock.now().to_string().chars().filter(char::is_ascii_alphanumeric).collect();
        // Without the fraction of the second: 20261120T120000Z.
        Self { stamp: format!("{}Z", &now[..15]), moved: Vec::new() }
    }

    fn set(&mut self, path: &Path) -> anyhow::Result<()> {
        let name = |no: u32| {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".before-recover-{}", self.stamp));
            if no > 0 {
                name.push(format!("-{no}"));
            }
            PathBuf::from(name)
        };
        // Never over anything: a run that is repeated within the second may have set something aside already.
        let to = (0..).map(name).find(|to| !to.exists()).unwrap_or_default();
        fs::rename(path, &to)?;
        rebuild::sync(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
        self.moved.push((path.to_owned(), to));
        Ok(())
    }

    /// A database's file. What SQLite keeps beside it, where that could not be moved into it, goes first: under a file of the
    /// same name it would be taken for that one's.
    fn database(&mut self, path: &Path) -> anyhow::Result<()> {
        for end in ["-wal", "-shm", ""] {
            let mut name = path.as_os_str().to_owned();
            name.push(end);
            if Path::new(&name).exists() {
                self.set(Path::new(&name))?;
            }
        }
        Ok(())
    }
}
