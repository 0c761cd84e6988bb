//! What a worker has read of Redis ahead of the database, and what it tells Redis once the database has it.
//!
//! Each entry is read once a term and kept until Redis knows that it is retired: its sums go with it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{PoisonError, RwLock};

use crate::cache::touched::Touched;
use crate::limits;
use crate::queue::codec::{self, FrameContext};
use crate::queue::redis::client::{CallError, Connection};
use crate::queue::redis::protocol::{self, Retiring, Taken};
use crate::queue::{Balance, Published};
use crate::sale::{CampaignNo, CampaignSpec, Durability, Event, Seq, UserId};
use crate::workers::batch::Name;

/// The campaigns' names, which rows need.
#[derive(Debug, Default)]
pub(super) struct Names(RwLock<Vec<Option<Name>>>);

impl Names {
    pub(super) fn get(&self, no: CampaignNo) -> Option<Name> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(no.0 as usize).copied().flatten()
    }

    fn put(&self, no: CampaignNo, spec: &CampaignSpec) {
        let name = (spec.id, spec.currency, spec.check_in.is_some());
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let at = no.0 as usize;
        if at >= known.len() {
            known.resize(at + 1, None);
        }
        known[at] = Some(name);
    }

    /// Reads all that an open partition has. Those that come later come as entries.
    pub(super) fn read(&self, connection: &mut Connection) -> Result<(), CallError> {
        let most = limits::WORK_NAMES_MAX.to_string();
        let mut since = Seq(0);
        loop {
            let answer = connection.call("changes", &[since.to_string().as_bytes(), most.as_bytes()])?;
            let changes = protocol::changes(&answer).map_err(|error| CallError::Protocol(error.0))?;
            changes.campaigns.iter().for_each(|campaign| self.put(campaign.no, &campaign.spec));
            since = changes.seq;
            if changes.campaigns.len() < limits::WORK_NAMES_MAX {
                return Ok(());
            }
        }
    }
}

/// An entry that can't be read: a newer binary's, or a damaged one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {0} of Redis can't be read: {1}")]
pub(super) struct Unreadable(Seq, String);

/// The entries that were read and that Redis does not know to be retired yet.
#[derive(Debug)]
pub(super) struct Ahead {
    /// The last one that was read.
    pub(super) fed: Seq,
    /// The last one that Redis knows to be retired.
    pub(super) told: Seq,
    durability: Durability,
    events: VecDeque<Event>,
    /// Sums of the database that Redis has not been told.
    unsent: BTreeMap<CampaignNo, Balance>,
    /// What was said last, until it is known to be heard: it is said again in the same words.
    saying: Option<Retiring>,
    sums: Vec<u8>,
    touched: Vec<Touched>,
}

/// What is to be told now.
pub(super) struct Saying<'a> {
    /// The argument `upto` of the library's `retire`.
    pub(super) upto: Seq,
    /// The argument `sums`.
    pub(super) sums: &'a [u8],
    /// What gates are to be told before.
    pub(super) touched: &'a [Touched],
}

impl Ahead {
    /// Nothing read yet; Redis has retired everything up to `retired`.
    pub(super) fn new(retired: Seq, durability: Durability) -> Self {
        let (events, unsent, sums, touched) = (VecDeque::new(), BTreeMap::new(), Vec::new(), Vec::new());
        Self { fed: retired, told: retired, durability, events, unsent, saying: None, sums, touched }
    }

    /// Takes what follows on what was read, and publishes it: entries of one time as one frame.
    pub(super) fn feed(&mut self, taken: &Taken, published: &Published, names: &Names) -> Result<(), Unreadable> {
        let mut rest = &taken.items[..];
        while let Some((at, _)) = rest.first() {
            let count = rest.iter().take_while(|(time, _)| time == at).count();
            let (frame, later) = rest.split_at(count);
            let context = FrameContext { first_seq: self.fed.next(), at: *at, durability: self.durability };
            let mut body = Vec::with_capacity(frame.iter().map(|(_, bytes)| bytes.len()).sum());
            for (index, (_, bytes)) in frame.iter().enumerate() {
                let unreadable = |why: String| Unreadable(context.first_seq.plus(index as u64), why);
                let (entry, len) =
                    codec::decode(bytes, &context, index as u64).map_err(|error| unreadable(error.to_string()))?;
                if len != bytes.len() {
                    return Err(unreadable(format!("it is {} bytes long, not {len}", bytes.len())));
                }
                if let Event::Created(created) = &entry.event {
                    names.put(created.no, &created.spec);
                }
                body.extend_from_slice(bytes);
                self.events.push_back(entry.event);
            }
            published.pending.publish(&body, count as u32, &context, &[]);
            self.fed = self.fed.plus(count as u64);
            rest = later;
        }
        Ok(())
    }

    /// What is to be told to Redis now, if anything.
    pub(super) fn say(&mut self, published: &Published) -> Option<Saying<'_>> {
        if self.saying.is_none() {
            let (retired, changed) = published.pending.take_stored();
            self.unsent.extend(changed);
            // What this worker has not read yet it can't tell of.
            let upto = retired.min(self.fed);
            if upto == self.told && (self.unsent.is_empty() || retired > self.fed) {
                return None;
            }
            let mut retiring = Retiring::new(self.told);
            let events = || self.events.iter().take((upto.0 - self.told.0) as usize);
            events().for_each(|event| retiring.add(event));
            self.touched = Touched::by(self.told, events());
            let stored: Vec<_> = if retired > self.fed { Vec::new() } else { Vec::from_iter(self.unsent.clone()) };
            self.sums = retiring.sums(&stored);
            if retired <= self.fed {
                self.unsent.clear();
            }
            self.saying = Some(retiring);
        }
        let (sums, touched) = (&self.sums, &self.touched);
        self.saying.as_ref().map(|retiring| Saying { upto: retiring.upto(), sums, touched })
    }

    /// It was heard. Gives the buyers whose carts' operations are retired by it.
    pub(super) fn heard(&mut self) -> Vec<UserId> {
        let Some(said) = self.saying.take() else { return Vec::new() };
        let count = (said.upto().0 - self.told.0) as usize;
        self.told = said.upto();
        let cart = |event: Event| match event {
            Event::Carted(carted) => Some(carted.user),
            _ => None,
        };
        self.events.drain(..count).filter_map(cart).collect()
    }
}
