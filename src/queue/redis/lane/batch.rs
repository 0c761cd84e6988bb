//! One call: many commands in, their outcomes out.

use super::super::super::command::{Command, Look, Looked, Outcome};
use super::super::super::sequencer::{Replies, Submission};
use super::super::client::CallError;
use super::super::protocol::{self, Bundle, LoadedCart, ProtocolError, Submitted};
use super::mail::Mail;
use super::settle::Lost;
use super::{Lane, Postman};
use crate::clock::Clock;
use crate::queue::carts::CartBase;
use crate::queue::redis::gate::GateClock;
use crate::queue::redis::kept::Block;
use crate::sale::CampaignNo;
use crate::sale::check_in::Day;

/// Why a call has no outcomes.
pub(super) enum Failed {
    /// Nothing was done, or nobody knows whether.
    Call(CallError),
    /// It was done, and can't be written down here, or was too late: it must not be acknowledged.
    NotKept,
}

impl Lane {
    /// Has commands decided, and answers them. `batch` is empty afterwards.
    pub(super) fn carry_out(&mut self, batch: &mut Vec<Submission>, postman: &mut Postman<'_>) {
        let wishes: Vec<Submission> = batch.extract_if(.., |s| matches!(s.command, Command::Admin(_))).collect();
        if !batch.is_empty() {
            self.call_for(batch);
            postman.deliver(&mut self.answers);
        }
        for wish in wishes {
            let Command::Admin(command) = &wish.command else { continue };
            let outcome = self.admin(command);
            self.answers.push((wish.ticket, outcome));
            postman.deliver(&mut self.answers);
        }
    }

    /// Fills in the answers of a batch without operators' wishes.
    fn call_for(&mut self, batch: &mut Vec<Submission>) {
        if !self.lanes.kept.has_room() {
            // What Redis accepted could not be written down here.
            self.answer_all(batch, Command::buffer_full);
            return batch.clear();
        }
        let mail = self.pack(batch);
        let call = Lost::call(self.next_nonce(), self.link.as_ref().map(|link| link.epoch));
        match self.submit((&mail.bundles, &mail.commands), |lane, submitted| lane.outcomes(batch, &mail, submitted)) {
            Ok(outcomes) => {
                let outcomes = self.vouch(batch, outcomes);
                self.answers.extend(outcomes.into_iter().map(|(at, outcome)| (batch[at].ticket, outcome)));
            }
            Err(Failed::NotKept) => self.answer_all(batch, |command| match command {
                // What Redis has accepted it has; here nobody can vouch for it.
                Command::Look(_) => Outcome::Looked(Looked::Away),
                _ => Outcome::Unknown,
            }),
            Err(Failed::Call(error)) if error.is_unknown() => {
                self.failed(&error);
                self.settle(batch, call);
            }
            Err(Failed::Call(CallError::Full)) => self.answer_all(batch, Command::buffer_full),
            Err(Failed::Call(error)) => {
                self.failed(&error);
                self.answer_all(batch, Command::not_durable);
            }
        }
        batch.clear();
    }

    fn answer_all(&mut self, batch: &[Submission], outcome: impl Fn(&Command) -> Outcome) {
        self.answers.extend(batch.iter().map(|submission| (submission.ticket, outcome(&submission.command))));
    }

    /// The nonce that the next call will carry.
    pub(super) fn next_nonce(&self) -> u64 {
        self.link.as_ref().map(|link| link.connection.next_nonce()).unwrap_or_default()
    }

    /// Makes the call, writes down what it has accepted, and reads what else it says.
    pub(super) fn submit<T>(
        &mut self,
        (bundles, commands): (&[Bundle], &[Vec<u8>]),
        read: impl FnOnce(&Self, &Submitted<'_>) -> Result<T, ProtocolError>,
    ) -> Result<T, Failed> {
        let room = self.lanes.max_entries.to_string();
        let lost = || Failed::Call(CallError::Lost("not connected".to_owned()));
        let link = self.link.as_mut().ok_or_else(lost)?;
        let epoch = link.epoch;
        let text = epoch.to_string();
        let head: [&[u8]; 5] = [text.as_bytes(), self.name.as_bytes(), link.session.as_bytes(), b"", room.as_bytes()];
        let words = bundles.iter().flat_map(Bundle::words).chain(commands.iter().map(|command| &command[..]));
        let args: Vec<&[u8]> = head.into_iter().chain(words).collect();
        let answer = link.connection.call("submit", &args).map_err(Failed::Call)?;
        let unreadable = |error: ProtocolError| Failed::Call(CallError::Protocol(error.0));
        let submitted = protocol::submitted(&answer, bundles).map_err(unreadable)?;
        self.lanes.gate.saw_retired(submitted.retired);
        // Acknowledge after durable: Redis may come back with less than it said, and then this is what it gets again.
        if submitted.count > 0 {
            let (first, at, count) = (submitted.first, submitted.at, submitted.count);
            self.keep(vec![Block { epoch, first, at, count, entries: &submitted.entries }])?;
            // While it was written the partition may have been closed, and this gate asked for what it has kept: then nobody was
            // told of this.
            if self.lanes.gate.epoch() != Some(epoch) {
                return Err(Failed::NotKept);
            }
        }
        read(self, &submitted).map_err(unreadable)
    }

    /// Writes down what Redis has accepted.
    pub(super) fn keep(&self, blocks: Vec<Block<'_>>) -> Result<(), Failed> {
        let metrics = &self.lanes.gate.published().metrics;
        let (count, bytes) = blocks.iter().fold((0, 0), |(n, all), b| (n + u64::from(b.count), all + b.entries.len()));
        let begun = crate::clock::tick();
        self.lanes.kept.keep_all(blocks).map_err(|error| {
            tracing::error!(%error, "the gate's journal failed: nothing is acknowledged here any more until a restart");
            self.lanes.gate.fail();
            Failed::NotKept
        })?;
        metrics.journal_sync.observe_time(begun.elapsed());
        metrics.commit_entries.observe(count);
        metrics.journal_bytes.add(bytes as u64);
        Ok(())
    }

    /// What became of each, with its place in the batch.
    fn outcomes(
        &self,
        batch: &[Submission],
        mail: &Mail,
        submitted: &Submitted<'_>,
    ) -> Result<Vec<(usize, Outcome)>, ProtocolError> {
        let answers = submitted.answers;
        if answers.len() != mail.others.len() {
            return Err(ProtocolError(format!("{} answers to {} commands", answers.len(), mail.others.len())));
        }
        let views = self.lanes.gate.published().views.load();
        let told = |at: usize, outcome: Outcome| {
            if let (Command::Claim(claim), Outcome::Accepted { .. }) = (&batch[at].command, &outcome)
                && let Some(view) = views.number(claim.campaign)
            {
                view.add_holder(claim.user_hash);
            }
            (at, outcome)
        };
        let bundled = mail.bundled.iter().flatten().zip(&submitted.bundled);
        let mut all: Vec<_> = bundled.map(|(at, outcome)| told(*at, outcome.clone())).collect();
        for (at, answer) in mail.others.iter().zip(answers) {
            all.push(told(*at, self.outcome(&batch[*at].command, answer)?));
        }
        Ok(all)
    }

    /// What an answer says.
    pub(super) fn outcome(&self, command: &Command, answer: &redis::Value) -> Result<Outcome, ProtocolError> {
        let bytes = || protocol::bytes(answer);
        Ok(match command {
            // A day that none of those around the gate's time is: its clock is days off.
            Command::Claim(_) => protocol::claim_outcome(bytes()?)?.unwrap_or_else(|| command.not_durable()),
            Command::Move(_) => Outcome::Moved(protocol::end_outcome(bytes()?)?),
            Command::Cart(_) => Outcome::Cart(protocol::cart_outcome(bytes()?)?),
            Command::Look(look) => Outcome::Looked(match look {
                Look::Waiting(_) => Looked::Waiting(protocol::looked_waiting(answer, self.lanes.durability)?),
                Look::Cart(_) => Looked::Cart(protocol::looked_cart(answer)?),
                Look::Balance(_) => Looked::Balance(Box::new(protocol::looked_balance(answer)?)),
            }),
            Command::Admin(_) => return Err(ProtocolError("an operator's wish in a batch".to_owned())),
        })
    }

    /// A command's bytes. An operator's wish has none: it goes another way.
    pub(super) fn encode(&self, command: &Command) -> Vec<u8> {
        match command {
            Command::Claim(claim) => protocol::claim(claim, self.lanes.durability, &self.days(claim.campaign)),
            Command::Move(command) => protocol::end(command, &command.user),
            Command::Cart(command) => {
                let loaded = match &command.base {
                    CartBase::Stored { number, version, lines } => {
                        Some(LoadedCart { number: *number, version: *version, lines: lines.clone() })
                    }
                    CartBase::Unknown | CartBase::Empty | CartBase::Loaded { .. } => None,
                };
                protocol::cart(command, loaded.as_ref())
            }
            Command::Look(Look::Waiting(tag)) => protocol::look_claim(*tag),
            Command::Look(Look::Cart(user)) => protocol::look_cart(user),
            Command::Look(Look::Balance(no)) => protocol::look_balance(*no),
            Command::Admin(_) => Vec::new(),
        }
    }

    /// The local days around now, of a check-in: the library knows no calendars.
    fn days(&self, no: CampaignNo) -> Vec<Day> {
        let views = self.lanes.gate.published().views.load();
        let Some(view) = views.number(no).filter(|view| view.kind == crate::sale::CampaignKind::CheckIn) else {
            return Vec::new();
        };
        let spec = view.spec.load();
        let Some(check_in) = &spec.check_in else { return Vec::new() };
        let today = check_in.zone.day(GateClock(self.lanes.gate.clone()).now());
        vec![check_in.zone.day(today.from.plus_micros(-1)), today, check_in.zone.day(today.until)]
    }
}
