//! What time brings about: claims that were not settled in time expire, campaigns that are long over leave Redis.
//!
//! A gate does it and no worker, because what Redis accepts must be written down outside of it: a unit that expired is sold
//! again, and a Redis that comes back without the expiry would have sold it twice. Every gate looks, whoever comes first
//! finds what is due.

use super::super::client::{CallError, Connection};
use super::super::gate::Gate;
use super::super::kept::Kept;
use super::super::protocol;
use crate::clock::steady_micros;
use crate::limits;
use crate::queue::sweep::{Look, Sweep};
use crate::sale::Timestamp;

/// How long after its time what happens.
#[derive(Debug, Clone, Copy)]
pub struct Sweeping {
    /// For how long after its time a claim may still be settled, in microseconds.
    pub settle_grace: i64,
    /// How long after its end a campaign leaves Redis, in microseconds.
    pub release_after: i64,
}

/// Where the sweeps stand.
#[derive(Debug, Default)]
pub(super) struct Sweeps {
    sweep: Sweep,
    /// Looks since campaigns were last looked at for their release, and the campaign to go on with.
    rounds: u32,
    next: usize,
}

impl Sweeps {
    /// Looks at the clocks, `now` being Redis', and lets time do its work.
    ///
    /// # Errors
    /// As every call; what was done and could not be written down closes the gate for good.
    pub(super) fn look(
        &mut self,
        connection: &mut Connection,
        (gate, kept): (&Gate, &Kept),
        settings: Sweeping,
        now: Timestamp,
    ) -> Result<(), CallError> {
        let metrics = &gate.published().metrics;
        match self.sweep.look(now, steady_micros()) {
            Look::NotYet => Ok(()),
            Look::Due => {
                metrics.clock_leapt.set(0);
                self.sweep_all(connection, (gate, kept), settings, now)
            }
            Look::Leapt(micros) => {
                let seconds = micros.unsigned_abs() / 1_000_000;
                if metrics.clock_leapt.get() == 0 {
                    tracing::error!(
                        seconds,
                        "Redis' clock has leapt: nothing expires until it is set back, or this restarts"
                    );
                }
                metrics.clock_leapt.set(seconds.max(1));
                Ok(())
            }
        }
    }

    fn sweep_all(
        &mut self,
        connection: &mut Connection,
        (gate, kept): (&Gate, &Kept),
        settings: Sweeping,
        now: Timestamp,
    ) -> Result<(), CallError> {
        let Some(epoch) = gate.epoch() else { return Ok(()) };
        let views = gate.published().views.load().all().to_vec();
        let expires = views.iter().any(|view| view.spec.load().reservation_ttl.is_some());
        self.rounds += 1;
        let releases = self.rounds >= limits::RELEASE_ROUNDS;
        if !expires && !releases {
            return Ok(());
        }
        let (mut from, mut to) = (0, 0);
        if releases {
            self.rounds = 0;
            from = if self.next >= views.len() { 0 } else { self.next };
            to = (from + limits::RELEASE_CAMPAIGNS).min(views.len());
            self.next = to;
        }
        loop {
            let numbers = [
                now.0,
                settings.settle_grace,
                limits::EXPIRE_AT_ONCE as i64,
                settings.release_after,
                from as i64,
                to as i64,
            ];
            let numbers = numbers.map(|number| number.to_string());
            let text = epoch.to_string();
            let args = [&[text.as_bytes(), b""], &numbers.each_ref().map(String::as_bytes)[..]].concat();
            let answer = connection.call("sweep", &args)?;
            let swept = protocol::swept(&answer).map_err(|error| CallError::Protocol(error.0))?;
            if swept.count > 0
                && let Err(error) = kept.keep(epoch, swept.first, swept.at, swept.count, &swept.entries)
            {
                tracing::error!(%error, "the gate's journal failed: nothing is acknowledged here any more until a restart");
                gate.fail();
                return Ok(());
            }
            // One campaign a call is released, and the next ones when these are looked at again.
            if !swept.more && !swept.released {
                return Ok(());
            }
            if !swept.released {
                (from, to) = (0, 0);
            }
        }
    }
}
