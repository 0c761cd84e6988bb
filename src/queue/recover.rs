//! From a journal's folder to a live book: what was decided is applied again, never decided again.

use std::io;
use std::io::Read;

use super::book::{Book, HashKey};
use super::codec::CodecError;
use super::journal::disk::Disk;
use super::journal::{self, FrameView, Identity, JournalError, OpenError, Options, Recovered, SnapshotInfo, Wanted};
use super::pending::Pending;
use crate::sale::{Event, Seq};

/// Why a journal's content is not a book.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The snapshot's payload.
    #[error("the snapshot can't be read: {0}")]
    Snapshot(#[from] io::Error),
    /// An entry's bytes; the checksum was right, so another binary wrote them.
    #[error("{file} at offset {offset}: {source}")]
    Entry { file: String, offset: u64, source: CodecError },
    /// Entries that do not follow from each other.
    #[error("{file} at offset {offset}: entry {seq} does not follow: {what}")]
    Order { file: String, offset: u64, seq: Seq, what: String },
}

impl ReplayError {
    /// What makes an entry's error one of `frame`'s; costs nothing where there is none.
    pub fn entry<'a>(frame: &'a FrameView<'_>) -> impl FnOnce(CodecError) -> Self + 'a {
        |source| Self::Entry { file: frame.file.to_string(), offset: frame.offset, source }
    }
}

/// A book that follows a journal, with the entries that wait for the database.
pub struct Follower<'a> {
    /// The book.
    pub book: Book,
    pending: Option<&'a Pending>,
    wanted: Wanted,
    empty: (HashKey, u64),
    progress: Option<&'a mut dyn FnMut(u64, u64)>,
}

impl<'a> Follower<'a> {
    /// Follows into an empty book that hashes with `key` and may take `memory_max` bytes.
    pub fn new(key: HashKey, memory_max: u64) -> Self {
        let book = Book::new(key, memory_max);
        Self { book, pending: None, wanted: Wanted::AfterSnapshot, empty: (key, memory_max), progress: None }
    }

    /// Publishes to `pending` what the database may not have: all that comes after `cursor`, or where that is not known all that is
    /// kept; of that what comes after `known`, which the database was known to have, must not be missing.
    pub fn with_pending(mut self, pending: &'a Pending, cursor: Option<Seq>, known: Seq) -> Self {
        let kept = Wanted::Kept { needed_after: known };
        (self.pending, self.wanted) = (Some(pending), cursor.map_or(kept, Wanted::After));
        self
    }

    /// Tells `progress` how many bytes of how many are read.
    pub fn with_progress(mut self, progress: &'a mut dyn FnMut(u64, u64)) -> Self {
        self.progress = Some(progress);
        self
    }

    fn publish(&self, frame: &FrameView<'_>) {
        if let Some(pending) = self.pending {
            pending.publish(frame.body, frame.count, &frame.context(), &[]);
        }
    }

    fn check(&self, frame: &FrameView<'_>, entry: &crate::sale::Entry) -> Result<(), ReplayError> {
        let wrong = |what: &str| ReplayError::Order {
            file: frame.file.to_string(),
            offset: frame.offset,
            seq: entry.seq,
            what: what.to_owned(),
        };
        if entry.seq != self.book.next_seq() {
            return Err(wrong(&format!("the one before it was {}", self.book.last_seq())));
        }
        match &entry.event {
            Event::Claimed(claim) => match self.book.campaign(claim.campaign) {
                None => Err(wrong("it claims from a campaign that was never created")),
                Some(campaign) if campaign.released => Err(wrong("it claims from a campaign that is over")),
                Some(campaign) if campaign.free < claim.quantity => Err(wrong("it claims more units than are free")),
                Some(_) => Ok(()),
            },
            Event::Created(created) if created.no.0 as usize != self.book.campaigns().len() => {
                Err(wrong("its campaign's number is not the next one"))
            }
            Event::Changed(changed) if self.book.campaign(changed.no).is_none() => {
                Err(wrong("it changes a campaign that was never created"))
            }
            Event::Released(no) if self.book.campaign(*no).is_none_or(|campaign| campaign.released) => {
                Err(wrong("it releases a campaign that is not there"))
            }
            Event::Moved(moved) => match self.book.campaign(moved.campaign) {
                None => Err(wrong("it ends a claim of a campaign that was never created")),
                Some(campaign) if campaign.winners().find(moved.claim_id).is_none() => {
                    Err(wrong("it ends a claim that nobody holds"))
                }
                Some(_) => Ok(()),
            },
            Event::Created(_) | Event::Changed(_) | Event::Released(_) | Event::Carted(_) | Event::Void => Ok(()),
        }
    }
}

impl journal::Visitor for Follower<'_> {
    type Error = ReplayError;

    fn snapshot(&mut self, _at: &SnapshotInfo, payload: &mut dyn Read) -> Result<(), ReplayError> {
        self.book.load(payload)?;
        Ok(())
    }

    fn wanted(&self) -> Wanted {
        self.wanted
    }

    fn covered(&mut self, frame: &FrameView<'_>) -> Result<(), ReplayError> {
        self.publish(frame);
        Ok(())
    }

    fn frame(&mut self, frame: &FrameView<'_>) -> Result<(), ReplayError> {
        for entry in frame.entries() {
            let (entry, _) = entry.map_err(ReplayError::entry(frame))?;
            self.check(frame, &entry)?;
            self.book.apply(&entry);
        }
        drop(self.book.take_garbage());
        self.publish(frame);
        Ok(())
    }

    fn restart(&mut self) {
        self.book = Book::new(self.empty.0, self.empty.1);
    }

    fn progress(&mut self, done: u64, total: u64) {
        if let Some(progress) = &mut self.progress {
            progress(done, total);
        }
    }
}

/// What a start needs to know.
pub struct Start<'a> {
    /// How the journal is laid out.
    pub options: Options,
    /// Bytes that the book's tables may take.
    pub memory_max: u64,
    /// The last entry that the database has; none where it can't be asked now.
    pub cursor: Option<Seq>,
    /// The last entry that it is remembered to have; 0 where nothing is.
    pub known: Seq,
    /// Told how many bytes of how many are read.
    pub progress: &'a mut dyn FnMut(u64, u64),
}

/// A live book and the journal behind it.
pub struct Live<D: Disk> {
    /// The book.
    pub book: Book,
    /// The entries that wait for the database.
    pub pending: Pending,
    /// The journal, ready to be written.
    pub journal: Recovered<D>,
}

/// Why a start is refused.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The journal itself.
    #[error(transparent)]
    Journal(#[from] OpenError<ReplayError>),
    /// The database has entries that the journal never wrote.
    #[error(
        "the database has the entries up to {cursor}, but the journal ends at {last}: the journal is an older copy, or \
         lost its end in durability \"memory\"; put the newer one back. Going on would hand out positions that the \
         database takes for repetitions"
    )]
    DatabaseAhead { cursor: Seq, last: Seq },
}

/// Reads the journal in `disk`, or begins one with `identity`.
///
/// # Errors
/// [`RecoverError`]: what is wrong, where, and what to do. Nothing that was acknowledged was changed then.
pub fn recover<D: Disk>(disk: D, identity: Identity, start: Start<'_>) -> Result<Live<D>, RecoverError> {
    let pending = Pending::new(start.cursor.unwrap_or_default());
    let mut follower = Follower::new(HashKey(identity.hash_key), start.memory_max)
        .with_pending(&pending, start.cursor, start.known)
        .with_progress(start.progress);
    let journal = journal::open(disk, start.options, || identity, &mut follower)?;
    let (book, last) = (follower.book, journal.last_seq);
    if let Some(cursor) = start.cursor.filter(|cursor| *cursor > last) {
        return Err(RecoverError::DatabaseAhead { cursor, last });
    }
    Ok(Live { book, pending, journal })
}

/// The identity of the journal in `disk`; none where there is no journal yet.
///
/// # Errors
/// Damage, a newer format, the disk's own, or segments without an identity.
pub fn identity<D: Disk>(disk: &D) -> Result<Option<Identity>, JournalError> {
    journal::known_identity(disk)
}
