//! Operators' wishes. What a change makes of a campaign is worked out here, from the campaign as it is in Redis; the library
//! makes the change where it still is so, and says to look again where it is not.

use redis::{Value, cmd};

use super::super::super::command::{AdminAction, AdminCommand, AdminDone, AdminRefusal, Outcome};
use super::super::client::CallError;
use super::super::protocol::{self, Restocked};
use super::Lane;
use super::batch::Failed;
use crate::limits;
use crate::queue::book::{change_digest, create_digest};
use crate::sale::campaign::CampaignPatch;
use crate::sale::{CampaignId, CampaignNo, Money};

/// What became of a wish; none where it has to be looked at again.
type Told = Option<Result<AdminDone, AdminRefusal>>;

impl Lane {
    /// Has a wish decided.
    pub(super) fn admin(&mut self, command: &AdminCommand) -> Outcome {
        let refused = |refusal| Outcome::Admin(Box::new(Err(refusal)));
        let mut margin = 0;
        for _ in 0..limits::LANE_LOOKS_MAX {
            let told = match &command.action {
                AdminAction::Create(spec, seed) => self.create(command, spec, *seed),
                AdminAction::Change(id, patch) => self.change(command, (id, patch), margin),
            };
            match told {
                Ok(Some(told)) => {
                    // Whoever is told of a change sees it.
                    if told.is_ok()
                        && let Some(link) = &mut self.link
                        && let Err(error) = self.lanes.feed.refresh(&mut link.connection)
                    {
                        self.failed(&error);
                    }
                    return Outcome::Admin(Box::new(told));
                }
                // Others claim meanwhile: so many of its shares are left as they are.
                Ok(None) => margin = (margin * 4).max(16),
                Err(Failed::NotKept) => return Outcome::Unknown,
                Err(Failed::Call(CallError::Full)) => return refused(AdminRefusal::BufferFull),
                Err(Failed::Call(error)) => {
                    self.failed(&error);
                    return if error.is_unknown() { Outcome::Unknown } else { refused(AdminRefusal::NotDurable) };
                }
            }
        }
        let why = "it sells so fast that its shares can't be counted: pause it first";
        refused(AdminRefusal::WrongState { state: "open", why })
    }

    fn create(
        &mut self,
        command: &AdminCommand,
        spec: &crate::sale::CampaignSpec,
        seed: crate::sale::red_packet::Seed,
    ) -> Result<Told, Failed> {
        let total = spec.red_packet.map_or(Money(0), |packet| packet.total);
        let shares = self.lay(&protocol::shares(spec, &seed, total, spec.stock, 0))?;
        let bytes = protocol::create(command, spec, seed, create_digest(spec), &shares);
        self.wish(command, bytes)
    }

    fn change(
        &mut self,
        command: &AdminCommand,
        (id, patch): (&CampaignId, &CampaignPatch),
        margin: u32,
    ) -> Result<Told, Failed> {
        let Some(no) = self.number(id)? else { return Ok(Some(Err(AdminRefusal::Unknown(*id)))) };
        let seen =
            self.submit((&[], &[protocol::look_campaign(no, margin)]), |_, submitted| match submitted.answers {
                [only] => protocol::looked_campaign(only, margin),
                other => Err(protocol::ProtocolError(format!("{} answers to one look", other.len()))),
            })?;
        let Some(seen) = seen else { return Ok(Some(Err(AdminRefusal::Unknown(*id)))) };
        let digest = change_digest(patch);
        match seen.changed(patch) {
            Ok(Restocked { spec, shares }) => {
                let shares = if shares.is_empty() { String::new() } else { self.lay(&shares)? };
                self.wish(command, protocol::change(command, &seen, (patch, &spec), digest, &shares))
            }
            // A repeated key, or that it is closed, counts more. What the library would otherwise make of it changes nothing,
            // for it is told of a state that never was.
            Err(error) => {
                let mut nowhere = seen;
                nowhere.campaign.version = 0;
                let spec = nowhere.campaign.spec.clone();
                let told = self.wish(command, protocol::change(command, &nowhere, (patch, &spec), digest, ""))?;
                Ok(Some(told.unwrap_or(Err(AdminRefusal::Field(error)))))
            }
        }
    }

    /// A campaign's number. One that another gate has just made may not have been read yet.
    fn number(&mut self, id: &CampaignId) -> Result<Option<CampaignNo>, Failed> {
        let known = |lane: &Self| lane.lanes.gate.published().views.load().get(id).map(|view| view.no);
        if let Some(no) = known(self) {
            return Ok(Some(no));
        }
        let lost = || Failed::Call(CallError::Lost("not connected".to_owned()));
        let link = self.link.as_mut().ok_or_else(lost)?;
        self.lanes.feed.refresh(&mut link.connection).map_err(Failed::Call)?;
        Ok(known(self))
    }

    fn wish(&mut self, command: &AdminCommand, bytes: Vec<u8>) -> Result<Told, Failed> {
        self.submit((&[], &[bytes]), |_, submitted| match submitted.answers {
            [only] => protocol::admin_outcome(protocol::bytes(only)?, command),
            other => Err(protocol::ProtocolError(format!("{} answers to one wish", other.len()))),
        })
    }

    /// Lays a packet's shares ready; gives the list's name behind the prefix. One that nobody takes leaves by itself.
    fn lay(&mut self, shares: &[Money]) -> Result<String, Failed> {
        let name = format!("new:{:016x}", rand::random::<u64>());
        let lost = || Failed::Call(CallError::Lost("not connected".to_owned()));
        let connection = &mut self.link.as_mut().ok_or_else(lost)?.connection;
        let key = connection.key(&name);
        for some in shares.chunks(limits::LANE_SHARES) {
            let mut push = cmd("RPUSH");
            push.arg(&key);
            some.iter().for_each(|share| {
                push.arg(share.0);
            });
            connection.command(&push).map_err(Failed::Call)?;
            let expire: Result<Value, _> = connection.command(cmd("EXPIRE").arg(&key).arg(limits::LANE_SHARES_SECS));
            expire.map_err(Failed::Call)?;
        }
        Ok(name)
    }
}
