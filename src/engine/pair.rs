//! The pair: a data folder with its journal, and the database that the journal is drained into. Each names the other by the
//! journal's id, and each knows a position of the other; here they are held against each other, before anything is changed.
//!
//! | what is found | what it is |
//! |---|---|
//! | neither belongs to anybody, or the database is new and the journal still has everything | a first start, killed or not |
//! | the same id, the database between what the journal has left out and the journal's end, and the same entry where it stands | a pair |
//! | the database can't be reached now | an outage: claims are taken, and this is looked at again before the first batch |
//! | anything else | the wrong pair, and nothing starts |

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::queue::drained::{self, Drained, DrainedError};
use crate::queue::journal::disk::RealDisk;
use crate::queue::journal::{self, DataLock, Identity, JournalError, LockError};
use crate::queue::mark::mark;
use crate::queue::recover;
use crate::sale::Seq;
use crate::store::{Database, Looked, StoreError};

/// What the journal's side is.
#[derive(Debug, Clone, Copy)]
pub struct JournalSide {
    /// Who it is.
    pub identity: Identity,
    /// The first entry that is on disk as one; what is before it is in the database, or lost.
    pub first: Seq,
    /// The last entry, where the journal has been read.
    pub last: Option<Seq>,
}

/// Both sides.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The data folder.
    pub data_dir: PathBuf,
    /// What the database is called in messages.
    pub database: String,
    /// The journal in the folder; none where there is none yet.
    pub journal: Option<JournalSide>,
    /// What the folder remembers of the database.
    pub remembered: Option<Drained>,
    /// What stands where the database should be; none where it can't be reached now.
    pub looked: Option<Looked>,
    /// What is wrong with a file of the journal that lies before its first entry as far as that can be told.
    pub unread: Option<String>,
    /// The mark of the journal's own entry where the database stands; none where it is not kept.
    pub mark: Option<u32>,
}

/// How a pair is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// A database that belongs to a journal, and no journal.
    NoJournal,
    /// Each belongs to somebody else.
    Strangers,
    /// A journal that has been drained, and a database that is not there or new.
    NoDatabase,
    /// The database has less than it was known to have.
    OldDatabase,
    /// The database needs entries of which nobody can tell whether the journal has them: a file is damaged.
    Broken,
    /// The database has more than the journal ever wrote.
    OldJournal,
    /// Both come from one pair, and went on apart: where the database stands, the journal has another entry.
    Forked,
}

/// Why the sides can't be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The remembered position.
    #[error("{data_dir}/{source}. `forebay recover` writes it anew", data_dir = data_dir.display())]
    Drained {
        /// The data folder.
        data_dir: PathBuf,
        /// What is wrong with it.
        source: DrainedError,
    },
}

impl Pair {
    /// Looks at the data folder, which may not be there; `looked` is what was found of the database.
    ///
    /// # Errors
    /// What can't be read.
    pub fn look(data_dir: &Path, database: &str, looked: Option<Looked>) -> Result<Self, LookError> {
        let pair = Self::without_memory(data_dir, database, looked)?;
        let remembered =
            drained::load(data_dir).map_err(|source| LookError::Drained { data_dir: data_dir.to_owned(), source })?;
        Ok(Self { remembered, ..pair })
    }

    /// The same for a folder whose journal can't be looked at.
    pub fn without_journal(data_dir: &Path, database: &str, looked: Option<Looked>) -> Self {
        let remembered = drained::load(data_dir).ok().flatten();
        let (data_dir, database) = (data_dir.to_owned(), database.to_owned());
        Self { data_dir, database, journal: None, remembered, looked, unread: None, mark: None }
    }

    /// The folder's side as it was, with what stands there now instead of the database.
    #[must_use]
    pub fn with(&self, looked: Looked) -> Self {
        let mut pair = Self { looked: Some(looked), ..self.clone() };
        pair.mark = pair.own_mark();
        pair
    }

    /// The same with a database that can't be reached.
    #[must_use]
    pub fn without_database(self) -> Self {
        Self { looked: None, mark: None, ..self }
    }

    fn own_mark(&self) -> Option<u32> {
        let journal = self.journal.as_ref()?.identity.journal;
        let at = self.looked?.position().filter(|at| at.journal == journal)?;
        // Nothing to compare it with: the file need not be searched.
        self.looked?.mark()?;
        journal::entry_at(&RealDisk::new(self.data_dir.join("journal")), journal, at.cursor).map(|entry| mark(&entry))
    }

    /// Whether the entry where the database stands is another one in the journal. Where either is not known, it is not.
    fn is_forked(&self) -> bool {
        let theirs = self.looked.and_then(|looked| looked.mark());
        theirs.zip(self.mark).is_some_and(|(theirs, own)| theirs != own)
    }

    /// The same without what the folder remembers.
    ///
    /// # Errors
    /// The journal's.
    pub fn without_memory(data_dir: &Path, database: &str, looked: Option<Looked>) -> Result<Self, JournalError> {
        let folder = data_dir.join("journal");
        let found = if folder.is_dir() { side(&RealDisk::new(folder))? } else { None };
        let (journal, unread) = found.map_or((None, None), |(journal, unread)| (Some(journal), unread));
        let (data_dir, database) = (data_dir.to_owned(), database.to_owned());
        let mut pair = Self { data_dir, database, journal, remembered: None, looked, unread, mark: None };
        pair.mark = pair.own_mark();
        Ok(pair)
    }

    /// The journal has been read, and ends at `last`.
    pub fn end(&mut self, last: Seq) {
        if let Some(journal) = &mut self.journal {
            journal.last = Some(last);
        }
    }

    /// The journal is there now, if it was not before, and ends at `last`.
    pub fn begun(&mut self, identity: Identity, last: Seq) {
        self.journal.get_or_insert(JournalSide { identity, first: Seq(1), last: None });
        self.end(last);
    }

    /// The entry up to which the database is known to have been once; 0 where nothing is known. What the journal has left
    /// out was in the database then, or it would still be there; what can't be read is not left out.
    pub fn floor(&self) -> Seq {
        let Some(journal) = &self.journal else { return Seq(0) };
        let left_out = if self.unread.is_some() { Seq(0) } else { Seq(journal.first.0 - 1) };
        self.remembered().map_or(left_out, |cursor| cursor.max(left_out))
    }

    /// What the folder remembers of this journal's database.
    pub fn remembered(&self) -> Option<Seq> {
        let journal = self.journal.as_ref()?.identity.journal;
        self.remembered.filter(|drained| drained.journal == journal).map(|drained| drained.cursor)
    }

    /// What is wrong with the pair, if anything is, as far as it can be told.
    pub fn wrong(&self) -> Option<Wrong> {
        let floor = self.floor();
        let position = self.looked.map(|looked| looked.position());
        let Some(journal) = &self.journal else {
            return position.flatten().map(|_| Wrong::NoJournal);
        };
        let is_beyond = |cursor: Seq| journal.last.is_some_and(|last| cursor > last);
        let is_unsure = |cursor: Seq| self.unread.is_some() && cursor.next() < journal.first;
        match position {
            None => is_beyond(floor).then_some(Wrong::OldJournal),
            Some(None) if is_unsure(Seq(0)) => Some(Wrong::Broken),
            Some(None) => (floor > Seq(0)).then_some(Wrong::NoDatabase),
            Some(Some(at)) if at.journal != journal.identity.journal => Some(Wrong::Strangers),
            Some(Some(at)) if is_beyond(at.cursor) => Some(Wrong::OldJournal),
            Some(Some(_)) if self.is_forked() => Some(Wrong::Forked),
            Some(Some(at)) if is_unsure(at.cursor) => Some(Wrong::Broken),
            Some(Some(at)) => (at.cursor < floor).then_some(Wrong::OldDatabase),
        }
    }

    /// Refuses a wrong pair.
    ///
    /// # Errors
    /// Both sides, and what to do, in one line.
    pub fn check(&self) -> Result<(), String> {
        match self.wrong() {
            None => Ok(()),
            Some(Wrong::Broken) => Err(format!(
                "the journal is damaged: {}; {}. Put a whole copy of the journal or a newer one of the database there, or run \
                 `forebay recover`, which says what it can do; nothing was changed",
                self.unread.as_deref().unwrap_or_default(),
                self.database_words()
            )),
            Some(wrong) => Err(format!(
                "the wrong pair: {}. {}; {}. Put the matching one back, or run `forebay recover`, which says what it can \
                 do; nothing was changed",
                wrong.words(),
                self.journal_words(),
                self.database_words()
            )),
        }
    }

    /// The journal's side in words.
    pub fn journal_words(&self) -> String {
        let folder = self.data_dir.join("journal");
        let Some(side) = &self.journal else {
            return format!("{} holds no journal", self.data_dir.display());
        };
        let mut words = format!("{} is journal {:032x}", folder.display(), side.identity.journal);
        let _ = match side.last {
            Some(last) if last < side.first => write!(words, ", ends at entry {last} and has no entries of its own"),
            Some(last) => write!(words, ", has the entries {} to {last}", side.first),
            None => write!(words, ", has entries from {} on", side.first),
        };
        if let Some(cursor) = self.remembered() {
            let _ = write!(words, ", and knew its database to have everything up to entry {cursor}");
        }
        words
    }

    /// The database's side in words.
    pub fn database_words(&self) -> String {
        let path = &self.database;
        match self.looked {
            None => format!("{path} can't be reached now"),
            Some(Looked::Missing) => format!("{path} is not there"),
            Some(Looked::Empty | Looked::Unbound) => format!("{path} is new and belongs to no journal yet"),
            Some(Looked::Bound(at, _)) => {
                format!("{path} belongs to journal {:032x} and has everything up to entry {}", at.journal, at.cursor)
            }
        }
    }
}

impl Wrong {
    /// What it is, in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::NoJournal => "the database is without its journal",
            Self::Strangers => "journal and database belong to others",
            Self::NoDatabase => "the journal is without its database",
            Self::OldDatabase => "the database is an older copy",
            Self::Broken => "the journal is damaged, and the database may need what can't be read",
            Self::Forked => {
                "journal and database went on apart: two copies of one of them were in use, and where the database stands, \
                 the journal has another entry"
            }
            Self::OldJournal => "the journal is an older copy, or lost its end in durability \"memory\"",
        }
    }
}

fn side(disk: &RealDisk) -> Result<Option<(JournalSide, Option<String>)>, JournalError> {
    let Some(identity) = recover::identity(disk)? else { return Ok(None) };
    let (first, unread) = journal::kept_from(disk, identity.journal)?;
    Ok(Some((JournalSide { identity, first, last: None }, unread.map(|error| error.to_string()))))
}

/// What stands between a start and its database, at the start and whenever the database comes back before the first batch:
/// the lock of one process, the tables' version, and whether the two belong together.
pub struct Gate {
    store: Arc<Database>,
    lock: Mutex<Option<DataLock>>,
    /// Whether it was said how well the server keeps what it is given.
    is_told: AtomicBool,
}

impl Gate {
    /// Of this database.
    pub fn new(store: Arc<Database>) -> Self {
        Self { store, lock: Mutex::new(None), is_told: AtomicBool::new(false) }
    }

    /// Takes the database for this process. A database that can't be reached can't be locked either: that is an outage.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] where another process has it, else [`StoreError::Outage`].
    pub async fn lock(&self) -> Result<(), StoreError> {
        let file = match &*self.store {
            Database::Sqlite(store) => store.path(),
            Database::Postgres(store) => return store.lock().await,
        };
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_none() {
            *lock = Some(DataLock::beside(file).map_err(|error| match error {
                LockError::Held { .. } => StoreError::Fenced(error.to_string()),
                LockError::Io { .. } => StoreError::Outage(error.to_string()),
            })?);
        }
        Ok(())
    }

    /// Lets the drain in: the database is locked, is the journal's, and has this version's tables. `pair` is the folder's side
    /// as it was when this process began.
    ///
    /// # Errors
    /// As [`Self::lock`]; the wrong pair is [`StoreError::Fenced`].
    pub async fn open(&self, pair: &Pair) -> Result<(), StoreError> {
        self.lock().await?;
        let looked = self.store.look().await?;
        pair.with(looked).check().map_err(StoreError::Fenced)?;
        self.store.migrate().await?;
        self.tell_facts().await
    }

    /// Names, once, what of the server's settings lets a crash take commits. It is no reason not to start: the journal keeps
    /// what it has not drained, and `forebay recover` mends the pair, but that must not come as a surprise.
    async fn tell_facts(&self) -> Result<(), StoreError> {
        let Database::Postgres(store) = &*self.store else { return Ok(()) };
        if self.is_told.load(Ordering::SeqCst) {
            return Ok(());
        }
        let facts = store.facts().await?;
        for weak in &facts.weak {
            tracing::warn!(
                name = store.name(),
                setting = weak.setting,
                "the database is set up to lose: {}",
                weak.what
            );
        }
        let (version, is_encrypted) = (facts.version, facts.is_encrypted);
        tracing::info!(name = store.name(), version, is_encrypted, "the database is a PostgreSQL server");
        self.is_told.store(true, Ordering::SeqCst);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
