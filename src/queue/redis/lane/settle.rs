//! A call whose answer was lost: what became of it is found out, at once if that goes quickly, else later.
//!
//! Claims and ends can be told by their ids, whatever has become of the call. A change of a cart can be told by its key; one
//! without a key stays unknown to whoever asked for it.

use super::super::super::codec;
use super::super::super::command::{ClaimCommand, Command, Look, Looked, Outcome, Refusal};
use super::super::super::sequencer::Submission;
use super::super::client::CallError;
use super::super::protocol::{self, ProtocolError};
use super::Lane;
use super::batch::Failed;
use crate::clock::tick;
use crate::limits;
use crate::sale::{Claim, ClaimId, Entry, Event};

/// Claims whose callers were told that nobody knows.
#[derive(Debug)]
pub(super) struct Unsure {
    claims: Vec<ClaimCommand>,
}

impl Lane {
    /// Finds out what became of `batch`, which the call `nonce` carried, and answers it; what can't be found out soon is
    /// answered as unknown, and looked for later.
    pub(super) fn settle(&mut self, batch: &[Submission], (nonce, epoch): (u64, Option<u64>)) {
        let until = self.patience();
        loop {
            match self.try_settle(batch, (nonce, epoch)) {
                Ok(()) => return,
                Err(Failed::NotKept) => break,
                Err(Failed::Call(error)) => self.failed(&error),
            }
            if tick() >= until {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(limits::LANE_RETRY_MILLIS));
        }
        let claims = batch.iter().filter_map(|submission| match &submission.command {
            Command::Claim(claim) => Some(*claim),
            _ => None,
        });
        let claims: Vec<_> = claims.collect();
        if !claims.is_empty() {
            self.unsure.push(Unsure { claims });
        }
        self.answers.extend(batch.iter().map(|submission| {
            let outcome = match submission.command {
                Command::Look(_) => Outcome::Looked(Looked::Away),
                _ => Outcome::Unknown,
            };
            (submission.ticket, outcome)
        }));
    }

    fn try_settle(&mut self, batch: &[Submission], (nonce, of): (u64, Option<u64>)) -> Result<(), Failed> {
        let away = || Failed::Call(CallError::Lost("the partition is not open".to_owned()));
        let epoch = self.lanes.gate.epoch().ok_or_else(away)?;
        let last = self.hello(epoch).map_err(Failed::Call)?;
        // A partition that was opened anew since may have forgotten the call.
        let was_done = last.is_some_and(|last| last.nonce == nonce) || of != Some(epoch);
        let found = if was_done { self.found(batch)? } else { Vec::new() };
        // What was not done is done now; what was done and is not found, is asked for again: it can't be done twice.
        let mut again = Vec::new();
        let mut outcomes: Vec<Option<Outcome>> = Vec::with_capacity(batch.len());
        for submission in batch {
            let known = match &submission.command {
                Command::Claim(claim) => found.iter().find(|c| c.claim_id == claim.claim_id).map(accepted),
                Command::Cart(cart) if was_done && cart.key.is_none() => Some(Outcome::Unknown),
                _ => None,
            };
            if known.is_none() {
                again.push(self.encode(&submission.command));
            }
            outcomes.push(known);
        }
        let answers = self.submit((&[], &again), |lane, submitted| {
            let open = batch.iter().zip(&outcomes).filter(|(_, known)| known.is_none()).map(|(s, _)| s);
            let read = open.zip(submitted.answers).map(|(s, answer)| lane.outcome(&s.command, answer));
            read.collect::<Result<Vec<_>, ProtocolError>>()
        })?;
        let mut answers = answers.into_iter();
        for (submission, known) in batch.iter().zip(outcomes) {
            let outcome = known.or_else(|| answers.next().map(|outcome| own(&submission.command, outcome)));
            self.answers.push((submission.ticket, outcome.unwrap_or(Outcome::Unknown)));
        }
        self.ready(true);
        Ok(())
    }

    /// The claims among `batch` that wait for the database, written down here.
    fn found(&mut self, batch: &[Submission]) -> Result<Vec<Claim>, Failed> {
        let claims = batch.iter().filter_map(|submission| match &submission.command {
            Command::Claim(claim) => Some(*claim),
            _ => None,
        });
        let ids: Vec<ClaimId> = claims.map(|claim: ClaimCommand| claim.claim_id).collect();
        self.look_for(&ids)
    }

    /// Looks for claims among what waits; those that are there are written down here.
    pub(super) fn look_for(&mut self, ids: &[ClaimId]) -> Result<Vec<Claim>, Failed> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let looks: Vec<Look> = ids.iter().map(|id| Look::Waiting(id.tag())).collect();
        let commands: Vec<Vec<u8>> = looks.iter().map(|look| self.encode(&Command::Look(*look))).collect();
        let durability = self.lanes.durability;
        let entries = self.submit((&[], &commands), |_, submitted| {
            let each = submitted.answers.iter().map(|answer| protocol::looked_waiting(answer, durability));
            Ok(each.collect::<Result<Vec<_>, _>>()?.concat())
        })?;
        let epoch = self.link.as_ref().map_or(0, |link| link.epoch);
        let mut found: Vec<Claim> = Vec::new();
        for Entry { seq, at, event } in entries {
            let Event::Claimed(claim) = &event else { continue };
            if ids.contains(&claim.claim_id) && found.iter().all(|known| known.claim_id != claim.claim_id) {
                let mut bytes = Vec::new();
                codec::encode(&mut bytes, &event);
                self.keep(epoch, seq, at, 1, &bytes)?;
                found.push(*claim);
            }
        }
        Ok(found)
    }

    /// Looks for claims whose callers were told that nobody knows. What is not among what waits is in the database, where a
    /// reader looks before it believes that it was refused, or was never accepted: no call of an older session is taken any
    /// more.
    pub(super) fn settle_unsure(&mut self) {
        while let Some(unsure) = self.unsure.pop() {
            let ids: Vec<ClaimId> = unsure.claims.iter().map(|claim| claim.claim_id).collect();
            match self.look_for(&ids) {
                Ok(found) => {
                    for claim in &unsure.claims {
                        let held = found.iter().find(|known| known.claim_id == claim.claim_id);
                        let outcome = held.map_or(Outcome::Refused(Refusal::NotDurable), accepted);
                        self.shared.unknowns.resolve(claim.claim_id, &outcome);
                    }
                }
                Err(error) => {
                    if let Failed::Call(error) = &error {
                        self.failed(error);
                    }
                    self.unsure.push(unsure);
                    return;
                }
            }
        }
    }
}

fn accepted(claim: &Claim) -> Outcome {
    Outcome::Accepted { seq: claim.seq, at: claim.accepted_at, amount: claim.amount }
}

/// The outcome of a command that may have been carried out before: a claim that finds itself was accepted.
fn own(command: &Command, outcome: Outcome) -> Outcome {
    let Command::Claim(claim) = command else { return outcome };
    match outcome {
        Outcome::Replayed(replay) if replay.claim_id == claim.claim_id => {
            Outcome::Accepted { seq: replay.seq, at: replay.at, amount: replay.amount }
        }
        // It is in the database by now, or it would have been found among what waits: whoever asks for it finds it there.
        Outcome::Refused(Refusal::AlreadyClaimed(id)) if id == claim.claim_id => Outcome::Unknown,
        other => other,
    }
}
