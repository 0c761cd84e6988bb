//! Whoever tells of something keeps it. What another gate had accepted may be told here before that gate has written it down, and
//! that gate may never come to it; the same goes for a call of this one whose answer was lost. And whoever is told that a claim is paid
//! is told that there is one: it is kept with its end, or the end of a claim that nobody has is all that is left where the other gate's
//! folder is lost with Redis.

use super::super::super::codec;
use super::super::super::command::{CartOutcome, Command, Look, MoveDone, Outcome, Refusal};
use super::super::super::sequencer::Submission;
use super::super::protocol::{self, LastCall};
use super::Lane;
use super::batch::Failed;
use crate::clock::Clock;
use crate::limits;
use crate::queue::redis::gate::GateClock;
use crate::queue::redis::kept::Block;
use crate::sale::{Claim, ClaimId, Entry, Event, Seq};

/// What an outcome tells of that may still wait for the database.
#[derive(Debug, Clone, Copy)]
enum Told {
    /// A claim, or its end.
    Claim(ClaimId),
    /// A claim that has come to its end here, and now: that is written down.
    Ended(ClaimId),
    /// The entry at a position.
    Entry(Seq),
}

impl Lane {
    /// Has what `outcomes` tell of be written down here as well. Each comes with the place of its command in `batch`. What can't be
    /// is not told.
    pub(super) fn vouch(&mut self, batch: &[Submission], mut outcomes: Vec<(usize, Outcome)>) -> Vec<(usize, Outcome)> {
        let told: Vec<Option<Told>> =
            outcomes.iter().map(|(at, outcome)| self.told(&batch[*at].command, outcome)).collect();
        let all: Vec<Told> = told.iter().copied().flatten().collect();
        if all.is_empty() {
            return outcomes;
        }
        if let Err(error) = self.keep_told(&all) {
            if let Failed::Call(error) = &error {
                self.failed(error);
            }
            for ((at, outcome), told) in outcomes.iter_mut().zip(&told) {
                match told {
                    None => {}
                    Some(Told::Ended(_)) => *outcome = Outcome::Unknown,
                    Some(Told::Claim(_) | Told::Entry(_)) => *outcome = batch[*at].command.not_durable(),
                }
            }
        }
        outcomes
    }

    fn told(&self, command: &Command, outcome: &Outcome) -> Option<Told> {
        let gate = &self.lanes.gate;
        let (retired, now) = (gate.retired(), GateClock(gate.clone()).now().0 / 1_000);
        let is_over = |id: ClaimId| gate.entries() == 0 && id.millis() as i64 + limits::VOUCH_MILLIS < now;
        match outcome {
            Outcome::Replayed(replay) if replay.seq > retired => Some(Told::Entry(replay.seq)),
            Outcome::Refused(Refusal::AlreadyClaimed(id)) if !is_over(*id) => Some(Told::Claim(*id)),
            Outcome::Moved(Ok(done)) => match (command, done) {
                (Command::Move(command), MoveDone::Repeated) => Some(Told::Claim(command.claim_id)),
                (Command::Move(command), MoveDone::Moved) if !is_over(command.claim_id) => {
                    Some(Told::Ended(command.claim_id))
                }
                _ => None,
            },
            Outcome::Cart(CartOutcome::Replayed(seq)) if *seq > retired => Some(Told::Entry(*seq)),
            _ => None,
        }
    }

    fn keep_told(&mut self, all: &[Told]) -> Result<(), Failed> {
        let looks: Vec<Vec<u8>> = all
            .iter()
            .map(|told| match told {
                Told::Claim(id) | Told::Ended(id) => self.encode(&Command::Look(Look::Waiting(id.tag()))),
                Told::Entry(seq) => protocol::look_entries(*seq, 1),
            })
            .collect();
        let is_it = |told: &Told, entry: &Entry| match told {
            Told::Claim(id) => claim_of(&entry.event) == Some(*id),
            Told::Ended(id) => matches!(&entry.event, Event::Claimed(claim) if claim.claim_id == *id),
            Told::Entry(_) => true,
        };
        let found = self.look(&looks)?;
        let its =
            |(told, entries): (&Told, Vec<Entry>)| entries.into_iter().filter(|e| is_it(told, e)).collect::<Vec<_>>();
        let entries: Vec<Entry> = all.iter().zip(found).flat_map(its).collect();
        self.keep_entries(&entries)
    }

    /// Makes looks whose answers are entries that wait.
    fn look(&mut self, looks: &[Vec<u8>]) -> Result<Vec<Vec<Entry>>, Failed> {
        let durability = self.lanes.durability;
        self.submit((&[], looks), |_, submitted| {
            submitted.answers.iter().map(|answer| protocol::looked_waiting(answer, durability)).collect()
        })
    }

    /// Writes entries down, wherever they stand.
    fn keep_entries(&self, entries: &[Entry]) -> Result<(), Failed> {
        if entries.is_empty() {
            return Ok(());
        }
        let epoch = self.link.as_ref().map_or(0, |link| link.epoch);
        let encoded = |entry: &Entry| {
            let mut bytes = Vec::new();
            codec::encode(&mut bytes, &entry.event);
            bytes
        };
        let bytes: Vec<Vec<u8>> = entries.iter().map(encoded).collect();
        let blocks = entries.iter().zip(&bytes);
        self.keep(blocks.map(|(e, bytes)| Block { epoch, first: e.seq, at: e.at, count: 1, entries: bytes }).collect())
    }

    /// What still waits of the entries that a call made, all of it written down here.
    pub(super) fn entries_of(&mut self, call: LastCall) -> Result<Vec<Entry>, Failed> {
        if call.count == 0 {
            return Ok(Vec::new());
        }
        let found = self.look(&[protocol::look_entries(call.first, call.count)])?.concat();
        self.keep_entries(&found)?;
        Ok(found)
    }

    /// Looks for claims among what waits; those that are there are written down here.
    pub(super) fn look_for(&mut self, ids: &[ClaimId]) -> Result<Vec<Claim>, Failed> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let looks: Vec<Vec<u8>> = ids.iter().map(|id| protocol::look_claim(id.tag())).collect();
        let (mut found, mut entries): (Vec<Claim>, Vec<Entry>) = Default::default();
        for entry in self.look(&looks)?.concat() {
            let Event::Claimed(claim) = &entry.event else { continue };
            if ids.contains(&claim.claim_id) && found.iter().all(|known| known.claim_id != claim.claim_id) {
                found.push(*claim);
                entries.push(entry);
            }
        }
        self.keep_entries(&entries)?;
        Ok(found)
    }
}

fn claim_of(event: &Event) -> Option<ClaimId> {
    match event {
        Event::Claimed(claim) => Some(claim.claim_id),
        Event::Moved(moved) => Some(moved.claim_id),
        _ => None,
    }
}
