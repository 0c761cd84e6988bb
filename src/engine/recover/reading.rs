//! What a journal that is still there knows: its end, its book, and what went with entries that are in neither side.

use std::collections::HashSet;
use std::io::Read;

use crate::queue::journal::{FrameView, SnapshotInfo, Visitor, Wanted};
use crate::queue::recover::{Follower, ReplayError};
use crate::queue::{Book, HashKey};
use crate::sale::campaign::AdminState;
use crate::sale::{CampaignNo, ClaimId, Event, Money, Seq, Units};
use crate::store::KnownCampaign;

/// Follows the whole journal, and counts from its first kept entry on.
pub(super) struct Reading {
    follower: Follower<'static>,
    /// The book as the snapshot has it.
    snapshot: Option<Snapshot>,
    /// Claims that are kept as entries.
    kept: HashSet<ClaimId>,
    /// Campaigns that entries covered by the snapshot create, and what others add to stock and total.
    created: HashSet<CampaignNo>,
    added: Vec<(CampaignNo, i64, i64)>,
}

struct Snapshot {
    held: Vec<(CampaignNo, ClaimId, Units, Money)>,
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
        let follower = Follower::new(key, u64::MAX);
        Self { follower, snapshot: None, kept: HashSet::new(), created: HashSet::new(), added: Vec::new() }
    }

    /// The book at the journal's end.
    pub(super) fn book(&self) -> &Book {
        &self.follower.book
    }

    /// The claims that the snapshot holds, that no kept entry brings, and that are not among `rows`: those that went with the
    /// entries before the first kept one.
    pub(super) fn lost(&self, rows: &HashSet<ClaimId>) -> Vec<Lost> {
        let mut lost: Vec<Lost> = Vec::new();
        let Some(snapshot) = &self.snapshot else { return lost };
        let name = |no: CampaignNo| self.book().campaign(no).map(|c| c.spec.id.to_string()).unwrap_or_default();
        for (no, id, units, money) in &snapshot.held {
            if self.kept.contains(id) || rows.contains(id) {
                continue;
            }
            let campaign = name(*no);
            let at = lost.iter().position(|l| l.campaign == campaign).unwrap_or_else(|| {
                lost.push(Lost { campaign, claims: 0, units: 0, money: 0 });
                lost.len() - 1
            });
            lost[at].claims += 1;
            lost[at].units += units.0;
            lost[at].money += money.0;
        }
        lost
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
                Event::Claimed(claim) if covered => drop(self.kept.insert(claim.claim_id)),
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
        let mut found = Snapshot { held: Vec::new(), campaigns: Vec::new() };
        for (no, campaign) in self.book().campaigns().iter().enumerate() {
            let no = CampaignNo(no as u32);
            let price = campaign.spec.price.map_or(0, |price| price.0);
            for kept in campaign.winners().iter() {
                let units = Units(kept.held.quantity.into());
                let money = kept.amount.unwrap_or(Money(price * units.0 as i64));
                found.held.push((no, kept.held.claim_id, units, money));
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
        Wanted::All
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
        n => format!("the entries {first} to {last} ({n})"),
    }
}
