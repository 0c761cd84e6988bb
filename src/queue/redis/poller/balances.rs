//! The campaigns' balances, for the metrics: some of them each second, so that a scrape of thousands costs Redis nothing.

use std::time::{Duration, Instant};

use super::super::client::{CallError, Connection};
use super::super::gate::Gate;
use super::super::protocol;
use crate::clock::tick;
use crate::limits;
use crate::sale::CampaignNo;

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Balances {
    next: usize,
    last: Option<Instant>,
    /// The lane's session, and the epoch that it is of.
    session: Option<(String, u64)>,
}

impl Balances {
    /// Reads the next ones, if it is time.
    ///
    /// # Errors
    /// As every call.
    pub(super) fn read(&mut self, connection: &mut Connection, gate: &Gate) -> Result<(), CallError> {
        let pause = Duration::from_millis(limits::BALANCES_MILLIS);
        if self.last.is_some_and(|last| tick().saturating_duration_since(last) < pause) {
            return Ok(());
        }
        self.last = Some(tick());
        let (campaigns, Some(epoch)) = (gate.published().views.load().all().len(), gate.epoch()) else { return Ok(()) };
        if campaigns == 0 {
            return Ok(());
        }
        let (name, text) = (format!("{}.look", gate.name()), epoch.to_string());
        let session = match self.session.take() {
            Some((session, of)) if of == epoch => session,
            _ => {
                let session = format!("{:016x}", rand::random::<u64>());
                connection.call("hello", &[text.as_bytes(), name.as_bytes(), session.as_bytes(), b""])?;
                session
            }
        };
        let numbers: Vec<CampaignNo> = (0..campaigns.min(limits::BALANCES_AT_ONCE))
            .map(|i| CampaignNo(((self.next + i) % campaigns) as u32))
            .collect();
        self.next = (self.next + numbers.len()) % campaigns;
        let looks: Vec<Vec<u8>> = numbers.iter().map(|no| protocol::look_balance(*no)).collect();
        let head: [&[u8]; 5] = [text.as_bytes(), name.as_bytes(), session.as_bytes(), b"", b"0"];
        let args: Vec<&[u8]> = head.into_iter().chain(looks.iter().map(|look| &look[..])).collect();
        let answer = connection.call("submit", &args)?;
        let unreadable = |error: protocol::ProtocolError| CallError::Protocol(error.0);
        let read = protocol::submitted(&answer, &[]).map_err(unreadable)?;
        let each = numbers.iter().zip(read.answers).map(|(no, answer)| Ok((*no, protocol::looked_balance(answer)?)));
        gate.saw_balances(each.collect::<Result<Vec<_>, _>>().map_err(unreadable)?);
        self.session = Some((session, epoch));
        Ok(())
    }
}
