//! The pair: a data folder with its journal, and the database that the journal is drained into. Each names the other by the
//! journal's id, and each knows a position of the other; here they are held against each other, before anything is changed.
//!
//! | what is found | what it is |
//! |---|---|
//! | neither belongs to anybody, or the database is new and the journal still has everything | a first start, killed or not |
//! | the same id, the database between what the journal has left out and the journal's end | a pair |
//! | the database can't be reached now | an outage: claims are taken, and this is looked at again before the first batch |
//! | anything else | the wrong pair, and nothing starts |

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::queue::drained::{self, Drained, DrainedError};
use crate::queue::journal::disk::RealDisk;
use crate::queue::journal::{self, DataLock, Identity, JournalError, LockError};
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
    /// The database's file.
    pub database: PathBuf,
    /// The journal in the folder; none where there is none yet.
    pub journal: Option<JournalSide>,
    /// What the folder remembers of the database.
    pub remembered: Option<Drained>,
    /// What stands where the database should be; none where it can't be reached now.
    pub looked: Option<Looked>,
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
    /// The database has more than the journal ever wrote.
    OldJournal,
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
    pub fn look(data_dir: &Path, database: &Path, looked: Option<Looked>) -> Result<Self, LookError> {
        let pair = Self::without_memory(data_dir, database, looked)?;
        let remembered =
            drained::load(data_dir).map_err(|source| LookError::Drained { data_dir: data_dir.to_owned(), source })?;
        Ok(Self { remembered, ..pair })
    }

    /// The same without what the folder remembers.
    ///
    /// # Errors
    /// The journal's.
    pub fn without_memory(data_dir: &Path, database: &Path, looked: Option<Looked>) -> Result<Self, JournalError> {
        let folder = data_dir.join("journal");
        let journal = if folder.is_dir() { side(&RealDisk::new(folder))? } else { None };
        let (data_dir, database) = (data_dir.to_owned(), database.to_owned());
        Ok(Self { data_dir, database, journal, remembered: None, looked })
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
    /// out was in the database then, or it would still be there.
    pub fn floor(&self) -> Seq {
        let Some(journal) = &self.journal else { return Seq(0) };
        let left_out = Seq(journal.first.0 - 1);
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
        match position {
            None => is_beyond(floor).then_some(Wrong::OldJournal),
            Some(None) => (floor > Seq(0)).then_some(Wrong::NoDatabase),
            Some(Some(at)) if at.journal != journal.identity.journal => Some(Wrong::Strangers),
            Some(Some(at)) if at.cursor < floor => Some(Wrong::OldDatabase),
            Some(Some(at)) => is_beyond(at.cursor).then_some(Wrong::OldJournal),
        }
    }

    /// Refuses a wrong pair.
    ///
    /// # Errors
    /// Both sides, and what to do, in one line.
    pub fn check(&self) -> Result<(), String> {
        match self.wrong() {
            None => Ok(()),
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
        let path = self.database.display();
        match self.looked {
            None => format!("{path} can't be reached now"),
            Some(Looked::Missing) => format!("{path} is not there"),
            Some(Looked::Empty | Looked::Unbound) => format!("{path} is new and belongs to no journal yet"),
            Some(Looked::Bound(at)) => {
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
            Self::OldJournal => "the journal is an older copy, or lost its end in durability \"memory\"",
        }
    }
}

fn side(disk: &RealDisk) -> Result<Option<JournalSide>, JournalError> {
    let Some(identity) = recover::identity(disk)? else { return Ok(None) };
    let first = journal::kept_from(disk, identity.journal)?;
    Ok(Some(JournalSide { identity, first, last: None }))
}

/// What stands between a start and its database, at the start and whenever the database comes back before the first batch:
/// the lock of one process, the tables' version, and whether the two belong together.
pub struct Gate {
    store: Arc<Database>,
    lock: Mutex<Option<DataLock>>,
}

impl Gate {
    /// Of this database.
    pub fn new(store: Arc<Database>) -> Self {
        Self { store, lock: Mutex::new(None) }
    }

    /// Takes the database for this process. A database that can't be reached can't be locked either: that is an outage.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] where another process has it, else [`StoreError::Outage`].
    pub fn lock(&self) -> Result<(), StoreError> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_none() {
            *lock = Some(DataLock::beside(self.store.path()).map_err(|error| match error {
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
        self.lock()?;
        let looked = Some(self.store.look().await?);
        Pair { looked, ..pair.clone() }.check().map_err(StoreError::Fenced)?;
        self.store.migrate().await.map(|_| ())
    }
}

#[cfg(test)]
mod tests;
