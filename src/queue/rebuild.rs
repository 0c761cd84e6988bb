//! A book made anew from what the database knows, for a journal that was lost.
//!
//! Claims are entered in the order of their positions, through what the live path uses for them. What only the lost journal
//! knew stays lost: shares that came back are free money again and drawn anew, from a new seed; keys are remembered only
//! where they were hashed with the same secret.

use super::book::{Book, HashKey};
use super::campaign::Campaign;
use super::command::Replay;
use crate::sale::campaign::AdminState;
use crate::sale::red_packet::Seed;
use crate::sale::{Asked, CampaignId, CampaignNo, CampaignSpec, Claim, Created, Fate, Money, Seq, Timestamp, Units};

/// What is known of a campaign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its definition, with window and stock as they stand.
    pub spec: CampaignSpec,
    /// What its shares are drawn from.
    pub seed: Seed,
    /// What the operator last asked.
    pub wish: AdminState,
    /// When it was closed.
    pub closed_at: Option<Timestamp>,
    /// Whether its claims have left memory.
    pub released: bool,
    /// Its version, and that of its stock: at least what anybody has seen, but for returns, which are counted here.
    pub versions: (u64, u64),
}

/// What was entered of a campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebuilt {
    /// The campaign.
    pub campaign: CampaignId,
    /// Claims that are held, paid ones among them; of a check-in all that were ever made.
    pub claims: u64,
    /// Their units.
    pub units: Units,
    /// Their money.
    pub money: Money,
    /// Claims that were given back or have expired.
    pub returned: u64,
}

/// Why the rows make no book.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// A claim of a campaign that is not there.
    #[error("claim {seq} is of campaign number {no}, which is not in the database")]
    NoCampaign { seq: Seq, no: u32 },
    /// More is held than there is.
    #[error("campaign {campaign}: the rows hold more than its {what} (seen at entry {seq})")]
    Oversold { campaign: CampaignId, what: &'static str, seq: Seq },
    /// What is left of a packet can't be shared out.
    #[error("campaign {campaign}: what is left of the packet can't be shared out: {what}")]
    Packet { campaign: CampaignId, what: String },
}

/// A book on its way.
pub struct Rebuilder {
    key: HashKey,
    keeps_keys: bool,
    campaigns: Vec<(Campaign, bool, Rebuilt)>,
}

impl Rebuilder {
    /// Nothing yet. Buyers are hashed with `key`; `keeps_keys` says whether idempotency keys were, too.
    pub fn new(key: HashKey, keeps_keys: bool) -> Self {
        Self { key, keeps_keys, campaigns: Vec::new() }
    }

    /// Adds the campaign that has the next number.
    pub fn campaign(&mut self, known: Known) {
        let no = CampaignNo(self.campaigns.len() as u32);
        let id = known.spec.id;
        let created = Created { no, spec: known.spec, seed: known.seed, asked: Asked::default() };
        let mut campaign = Campaign::new(&created, 0);
        (campaign.wish, campaign.closed_at) = (known.wish, known.closed_at);
        (campaign.version, campaign.stock_version) = known.versions;
        let rebuilt = Rebuilt { campaign: id, claims: 0, units: Units(0), money: Money(0), returned: 0 };
        self.campaigns.push((campaign, known.released, rebuilt));
    }

    /// Adds a claim and what became of it. In the order of their positions.
    ///
    /// # Errors
    /// It is of no campaign, or there is not so much.
    pub fn claim(&mut self, claim: &Claim, fate: Option<Fate>) -> Result<(), RebuildError> {
        let (seq, no) = (claim.seq, claim.campaign.0);
        let found = self.campaigns.get_mut(no as usize).ok_or(RebuildError::NoCampaign { seq, no })?;
        let (campaign, _, rebuilt) = found;
        let claim = Claim { key: claim.key.filter(|_| self.keeps_keys), ..*claim };
        campaign.last = campaign.last.max(seq);
        if fate.is_some_and(Fate::returns_units) {
            rebuilt.returned += 1;
            campaign.acknowledged += claim.quantity.0;
            campaign.stock_version += 1;
            if let Some(key) = claim.key {
                campaign.bytes += campaign.make_room_for_key();
                campaign.keys.insert(key, &Replay::from(&claim));
            }
            return Ok(());
        }
        rebuilt.claims += 1;
        rebuilt.units.0 += claim.quantity.0;
        rebuilt.money.0 += claim.amount.map_or(0, |amount| amount.0);
        if campaign.spec.check_in.is_some() {
            if campaign.today.is_some_and(|today| claim.hold < u32::from(today.0)) {
                // Of a day that is over, behind one of a later day: only its points still count.
                campaign.acknowledged += claim.quantity.0;
                return Ok(());
            }
        } else {
            let oversold = |what| RebuildError::Oversold { campaign: rebuilt.campaign, what, seq };
            campaign.free.minus(claim.quantity).ok_or_else(|| oversold("stock"))?;
            let share = claim.amount.filter(|_| campaign.spec.red_packet.is_some()).unwrap_or_default();
            if share > campaign.left {
                return Err(oversold("total"));
            }
        }
        drop(campaign.apply_claim(&claim, self.key.user(&claim.user)));
        if fate == Some(Fate::Settled) {
            campaign.winners.settle(claim.claim_id);
        }
        Ok(())
    }

    /// The book as it is after entry `last` at `time`, and what is in it.
    ///
    /// # Errors
    /// What is left of a red packet can't be shared out.
    pub fn finish(self, last: Seq, time: Timestamp) -> Result<(Book, Vec<Rebuilt>), RebuildError> {
        let mut book = Book::new(self.key, u64::MAX);
        let mut all = Vec::new();
        for (no, (mut campaign, released, rebuilt)) in self.campaigns.into_iter().enumerate() {
            if let Some(packet) = campaign.spec.red_packet.filter(|_| !released) {
                let checked = packet.check_feasible(campaign.left, campaign.free);
                let what = |error: crate::sale::FieldError| error.message;
                checked.map_err(|e| RebuildError::Packet { campaign: rebuilt.campaign, what: what(e) })?;
            }
            campaign.bytes += campaign.winners.stranger_bytes();
            if released {
                drop(campaign.release());
            }
            book.enter(CampaignNo(no as u32), campaign);
            all.push(rebuilt);
        }
        (book.last, book.time) = (last, time);
        Ok((book, all))
    }
}

#[cfg(test)]
mod tests;
