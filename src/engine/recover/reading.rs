//! What a journal that is still there knows: its end, its book, and what went with entries that are in neither side.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;

use crate::limits;
use crate::queue::journal::{FrameView, SnapshotInfo, Visitor, Wanted};
use crate::queue::recover::{Follower, ReplayError};
use crate::queue::{Book, HashKey};
use crate::sale::campaign::AdminState;
use crate::sale::{CampaignNo, Claim, ClaimId, Event, Fate, Money, Seq, Units};
use crate::store::KnownCampaign;

/// Follows the whole journal, and counts from its first kept entry on.
pub(super) struct Reading {
    follower: Follower<'static>,
    /// The book as the snapshot has it.
    snapshot: Option<Snapshot>,
    /// Claims that are kept as entries.
    kept: HashMap<ClaimId, Part>,
    /// Claims whose ends are.
    ended: HashSet<ClaimId>,
    /// Campaigns that entries covered by the snapshot create, and what others add to stock and total.
    created: HashSet<CampaignNo>,
    added: Vec<(CampaignNo, i64, i64)>,
}

/// A claim's campaign, units and money.
#[derive(Clone, Copy)]
struct Part {
    no: CampaignNo,
    units: Units,
    money: Money,
}

struct Snapshot {
    /// Each claim that is held, and whether it is paid.
    held: HashMap<ClaimId, (Part, bool)>,
    /// Campaigns with units that come back, whose claims are still in memory.
    live: HashSet<CampaignNo>,
    campaigns: Vec<KnownCampaign>,
}

/// Claims of a campaign that are in neither side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lost {
    /// Its name.
    pub campaign: String,
    /// Claims that are still held, says the book.
    pub claims: u64,
    /// Their units.
    pub units: u64,
    /// Their money, in minor units.
    pub money: i64,
}

impl Reading {
    /// Nothing read yet.
    pub(super) fn new(key: HashKey) -> Self {
        Self {
            follower: Follower::new(key, u64::MAX),
            snapshot: None,
            kept: HashMap::new(),
            ended: HashSet::new(),
            created: HashSet::new(),
            added: Vec::new(),
        }
    }

    /// The book at the journal's end.
    pub(super) fn book(&self) -> &Book {
        &self.follower.book
    }

    /// The claims that went with the entries before the first kept one, because they are not among `rows`: of each campaign
    /// those that the snapshot holds, and the ids of all whose ends are kept or still to come.
    pub(super) fn lost(&self, rows: &HashSet<ClaimId>) -> (Vec<Lost>, Vec<ClaimId>) {
        let Some(snapshot) = &self.snapshot else { return (Vec::new(), Vec::new()) };
        let is_lost = |id: &&ClaimId| !self.kept.contains_key(id) && !rows.contains(id);
        let held: Vec<_> = snapshot.held.keys().filter(is_lost).collect();
        let lost = self.by_campaign(held.iter().map(|id| snapshot.held[id].0));
        let ended = self.ended.iter().filter(is_lost).filter(|id| !snapshot.held.contains_key(id));
        (lost, held.into_iter().chain(ended).copied().collect())
    }

    /// The claims that are kept as entries and are not among `rows`.
    pub(super) fn unknown_to(&self, rows: &HashSet<ClaimId>) -> Vec<Lost> {
        self.by_campaign(self.kept.iter().filter(|(id, _)| !rows.contains(id)).map(|(_, part)| *part))
    }

    /// What became of a claim, a row from before the first kept entry that believes to be open, without any kept entry
    /// saying so; none where it is open. Of check-ins, and of campaigns whose claims have left memory, nothing is known.
    pub(super) fn fate(&self, claim: &Claim) -> Option<Fate> {
        let snapshot = self.snapshot.as_ref().filter(|snapshot| snapshot.live.contains(&claim.campaign))?;
        if self.ended.contains(&claim.claim_id) || self.created.contains(&claim.campaign) {
            return None;
        }
        match snapshot.held.get(&claim.claim_id) {
            Some((_, is_paid)) => is_paid.then_some(Fate::Settled),
            None => Some(Fate::Cancelled),
        }
    }

    fn by_campaign(&self, parts: impl Iterator<Item = Part>) -> Vec<Lost> {
        let mut sums: BTreeMap<CampaignNo, Lost> = BTreeMap::new();
        for Part { no, units, money } in parts {
            let name = || self.book().campaign(no).map(|c| c.spec.id.to_string()).unwrap_or_default();
            let lost = sums.entry(no).or_insert_with(|| Lost { campaign: name(), claims: 0, units: 0, money: 0 });
            lost.claims += 1;
            lost.units += units.0;
            lost.money += money.0;
        }
        sums.into_values().collect()
    }

    /// The campaigns as a database must know them that begins with the first kept entry.
    pub(super) fn campaigns(&self) -> Vec<KnownCampaign> {
        let all = self.snapshot.iter().flat_map(|snapshot| &snapshot.campaigns);
        let before = all.filter(|campaign| !self.created.contains(&campaign.no)).cloned();
        let taken_back = before.map(|mut campaign| {
            for (_, stock, total) in self.added.iter().filter(|(no, ..)| *no == campaign.no) {
                campaign.stock = campaign.stock.map(|units| Units(units.0.saturating_add_signed(-stock)));
                campaign.total = campaign.total.map(|money| Money(money.0 - total));
            }
            campaign
        });
        taken_back.collect()
    }

    fn keep(&mut self, frame: &FrameView<'_>, covered: bool) -> Result<(), ReplayError> {
        for entry in frame.entries() {
            let (entry, _) = entry.map_err(ReplayError::entry(frame))?;
            match entry.event {
                Event::Claimed(claim) => {
                    let (units, money) = (claim.quantity, claim.amount.unwrap_or_default());
                    self.kept.insert(claim.claim_id, Part { no: claim.campaign, units, money });
                }
                Event::Moved(moved) => drop(self.ended.insert(moved.claim_id)),
                Event::Created(created) if covered => drop(self.created.insert(created.no)),
                Event::Changed(changed) if covered => {
                    let (stock, total) = (changed.patch.add_stock, changed.patch.add_total);
                    self.added.push((changed.no, stock.unwrap_or(0), total.unwrap_or(0)));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Visitor for Reading {
    type Error = ReplayError;

    fn snapshot(&mut self, at: &SnapshotInfo, payload: &mut dyn Read) -> Result<(), ReplayError> {
        self.follower.snapshot(at, payload)?;
        let mut found = Snapshot { held: HashMap::new(), live: HashSet::new(), campaigns: Vec::new() };
        for (no, campaign) in self.book().campaigns().iter().enumerate() {
            let no = CampaignNo(no as u32);
            let price = campaign.spec.price.map_or(0, |price| price.0);
            for kept in campaign.winners().iter() {
                let units = Units(kept.held.quantity.into());
                let money = kept.amount.unwrap_or(Money(price * units.0 as i64));
                found.held.insert(kept.held.claim_id, (Part { no, units, money }, kept.held.settled));
            }
            if campaign.spec.has_stock() && !campaign.released {
                found.live.insert(no);
            }
            let spec = campaign.spec.clone();
            let (stock, total) = (spec.has_stock().then_some(spec.stock), spec.red_packet.map(|p| p.total));
            let state = if campaign.released { AdminState::Closed } else { campaign.wish };
            found.campaigns.push(KnownCampaign { no, spec, state, stock, total });
        }
        self.snapshot = Some(found);
        Ok(())
    }

    fn wanted(&self) -> Wanted {
        Wanted::Kept { needed_after: Seq(u64::MAX) }
    }

    fn covered(&mut self, frame: &FrameView<'_>) -> Result<(), ReplayError> {
        self.keep(frame, true)
    }

    fn frame(&mut self, frame: &FrameView<'_>) -> Result<(), ReplayError> {
        self.keep(frame, false)?;
        self.follower.frame(frame)
    }

    fn restart(&mut self) {
        *self = Self::new(self.follower.book.hash_key());
    }
}

/// A stretch of entries in words.
pub(super) fn stretch((first, last): (Seq, Seq)) -> String {
    match last.0 + 1 - first.0 {
        1 => format!("entry {first}"),
        // No journal has so many: an earlier recovery left positions out.
        n if n >= limits::RECOVER_SEQ_SKIP => format!("the entries {first} to {last}, not all of which there are"),
        n => format!("the entries {first} to {last} ({n})"),
    }
}
