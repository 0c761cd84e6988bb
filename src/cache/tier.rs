//! What may stand between the cache in this process and the database.

use std::future::Future;
use std::pin::Pin;

use crate::sale::Seq;

/// Under what a value is kept: which values go out of use together, whatever they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The epoch under which the partition is open.
    pub epoch: u64,
    /// The word that changes whenever rows were changed that no position tells of.
    pub era: u64,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It can't be asked now.
    Away,
    /// Nothing that is of use. What is read of the database from now on may be put there under this mark.
    Nothing(Mark),
    /// A value, as of this position.
    Value(Mark, Seq, Vec<u8>),
}

/// The same in a while.
pub type Finding<'a> = Pin<Box<dyn Future<Output = Found> + Send + 'a>>;

/// A cache that several processes share. It may lose whatever it is given, and be away: then the database answers.
pub trait Tier: Send + Sync {
    /// Looks for a value. Whatever it answers was so after it was asked.
    fn get(&self, name: String) -> Finding<'_>;

    /// Keeps a value that was read of the database after `mark` was found, as of this position. Does not wait for that.
    fn put(&self, name: String, mark: Mark, as_of: Seq, value: Vec<u8>);
}
