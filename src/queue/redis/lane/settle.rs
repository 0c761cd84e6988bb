//! A call whose answer was lost: what became of it is found out, at once if that goes quickly, else later.
//!
//! Claims and ends can be told by their ids, whatever has become of the call. A change of a cart can be told by its key; one
//! without a key stays unknown to whoever asked for it.

use super::super::super::command::{ClaimCommand, Command, Looked, Outcome, Refusal};
use super::super::super::sequencer::Submission;
use super::super::client::CallError;
use super::super::protocol::LastCall;
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

/// A call whose answer was lost, and what is known of it.
#[derive(Debug)]
pub(super) struct Lost {
    nonce: u64,
    epoch: Option<u64>,
    /// It was carried out, or may have been before the partition was opened anew.
    was_done: bool,
    /// Which entries it made, where that is known.
    made: Option<LastCall>,
}

impl Lost {
    /// The call `nonce`, under the epoch of its connection.
    pub(super) fn call(nonce: u64, epoch: Option<u64>) -> Self {
        Self { nonce, epoch, was_done: false, made: None }
    }

    /// What the library has of the lane's last call, asked under `epoch`. Once it is known it stays so: whatever is asked later on
    /// the lane is its last call, then.
    fn learn(&mut self, last: Option<LastCall>, epoch: u64) {
        if self.was_done {
            return;
        }
        // A partition that was opened anew since may have forgotten the call.
        self.made = last.filter(|last| last.nonce == self.nonce && self.epoch == Some(epoch));
        self.was_done = self.made.is_some() || self.epoch != Some(epoch);
    }
}

impl Lane {
    /// Finds out what became of `batch`, which the lost call carried, and answers it; what can't be found out soon is
    /// answered as unknown, and looked for later.
    pub(super) fn settle(&mut self, batch: &[Submission], mut call: Lost) {
        let until = self.patience();
        loop {
            match self.try_settle(batch, &mut call) {
                Ok(()) => return,
                Err(Failed::NotKept) => break,
                Err(Failed::Call(error)) => self.failed(&error),
            }
            if tick() >= until {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(limits::LANE_RETRY_MILLIS));
        }
        let claims = claims_of(batch);
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

    fn try_settle(&mut self, batch: &[Submission], call: &mut Lost) -> Result<(), Failed> {
        let away = || Failed::Call(CallError::Lost("the partition is not open".to_owned()));
        let epoch = self.lanes.gate.epoch().ok_or_else(away)?;
        let last = self.hello(epoch).map_err(Failed::Call)?;
        call.learn(last, epoch);
        let found = self.found(batch, call)?;
        // What was not done is done now; what was done and is not found, is asked for again: it can't be done twice.
        let mut again: Vec<usize> = Vec::new();
        let mut outcomes: Vec<(usize, Outcome)> = Vec::with_capacity(batch.len());
        for (at, submission) in batch.iter().enumerate() {
            let known = match &submission.command {
                Command::Claim(claim) => found.iter().find(|c| c.claim_id == claim.claim_id).map(accepted),
                Command::Cart(cart) if call.was_done && cart.key.is_none() => Some(Outcome::Unknown),
                _ => None,
            };
            match known {
                Some(outcome) => outcomes.push((at, outcome)),
                None => again.push(at),
            }
        }
        if !again.is_empty() {
            let commands: Vec<Vec<u8>> = again.iter().map(|at| self.encode(&batch[*at].command)).collect();
            if !call.was_done {
                call.nonce = self.next_nonce();
            }
            let told = self.submit((&[], &commands), |lane, submitted| {
                let read = again.iter().zip(submitted.answers);
                read.map(|(at, answer)| Ok((*at, lane.outcome(&batch[*at].command, answer)?))).collect()
            })?;
            let told = self.vouch(batch, told);
            outcomes.extend(told.into_iter().map(|(at, outcome)| (at, own(&batch[at].command, outcome))));
        }
        self.answers.extend(outcomes.into_iter().map(|(at, outcome)| (batch[at].ticket, outcome)));
        // To vouch for what was told may have broken it again.
        self.ready(self.link.is_some());
        Ok(())
    }

    /// The claims among `batch` that were accepted and wait for the database. All that the call has made is written down here.
    fn found(&mut self, batch: &[Submission], call: &Lost) -> Result<Vec<Claim>, Failed> {
        let claimed = |entry: Entry| match entry.event {
            Event::Claimed(claim) => Some(claim),
            _ => None,
        };
        match call.made {
            Some(made) => Ok(self.entries_of(made)?.into_iter().filter_map(claimed).collect()),
            None if call.was_done => {
                let ids: Vec<ClaimId> = claims_of(batch).iter().map(|claim| claim.claim_id).collect();
                self.look_for(&ids)
            }
            None => Ok(Vec::new()),
        }
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

fn claims_of(batch: &[Submission]) -> Vec<ClaimCommand> {
    let claim = |submission: &Submission| match &submission.command {
        Command::Claim(claim) => Some(*claim),
        _ => None,
    };
    batch.iter().filter_map(claim).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sale::Seq;

    fn last(nonce: u64) -> Option<LastCall> {
        Some(LastCall { nonce, first: Seq(7), count: 2 })
    }

    #[test]
    fn what_is_known_of_a_lost_call_stays_known() {
        let mut call = Lost::call(10, Some(3));
        call.learn(last(9), 3);
        assert!(!call.was_done && call.made.is_none(), "it never arrived");
        call.learn(last(10), 3);
        assert_eq!((call.was_done, call.made), (true, last(10)));
        // The looks for it are the lane's last call now.
        call.learn(last(11), 3);
        assert_eq!((call.was_done, call.made), (true, last(10)));
    }

    #[test]
    fn a_partition_that_was_opened_anew_may_have_forgotten_a_call_that_it_has_carried_out() {
        let mut call = Lost::call(10, Some(3));
        call.learn(None, 4);
        assert!(call.was_done && call.made.is_none());
        call = Lost::call(10, Some(3));
        call.learn(last(10), 4);
        assert!(call.was_done && call.made.is_none(), "positions of another epoch say nothing");
    }
}
