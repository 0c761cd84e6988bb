//! What a batch does to a campaign's row, folded into one change. Pure.
//!
//! Sums, restocks, window and state arrive together, so that the table's guards (`persisted_units <= stock`) are
//! checked once, against what is true after the batch.

use std::collections::BTreeMap;

use super::letter::storable;
use super::{CampaignRow, ClaimRow, EndRow, StoreError};
use crate::sale::campaign::{AdminState, CampaignPatch};
use crate::sale::{CampaignId, CampaignNo, CampaignSpec, Fate, Money, Seq, Timestamp, Units};

/// Which of a campaign's sums a claim is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A row that is neither paid nor given back.
    Persisted,
    /// Paid.
    Settled,
    /// Given back or expired.
    Returned,
    /// A dead letter that was not given back.
    Dead,
}

impl Place {
    /// Where a row belongs after its end.
    pub(super) fn of(fate: Fate) -> Self {
        if fate.returns_units() { Self::Returned } else { Self::Settled }
    }
}

/// One effect a campaign, applied in the campaigns' order.
#[derive(Default)]
pub(super) struct Effects<'a>(BTreeMap<CampaignNo, Effect<'a>>);

impl<'a> Effects<'a> {
    /// A claim came to `place`.
    pub(super) fn claim(&mut self, row: &ClaimRow, place: Place) {
        let claim = &row.claim;
        let last = (claim.seq, claim.accepted_at);
        self.entry(claim.campaign, row.campaign, last).add(place, 1, claim.quantity, claim.amount);
    }

    /// A claim that was in the dead letters became a row in `place`.
    pub(super) fn revived(&mut self, row: &ClaimRow, place: Place) {
        self.claim(row, place);
        let claim = &row.claim;
        let last = (claim.seq, claim.accepted_at);
        self.entry(claim.campaign, row.campaign, last).add(Place::Dead, -1, claim.quantity, claim.amount);
    }

    /// A claim that was counted in `from` came to its end. One that was paid and is in the dead letters stays counted there.
    pub(super) fn end(&mut self, row: &EndRow, from: Place) {
        let moved = &row.moved;
        let to = Place::of(moved.to);
        if from == Place::Dead && to == Place::Settled {
            return;
        }
        let effect = self.entry(moved.campaign, row.campaign, (row.seq, row.at));
        effect.add(from, -1, moved.quantity, moved.amount);
        effect.add(to, 1, moved.quantity, moved.amount);
    }

    /// A campaign was created or changed.
    pub(super) fn log(&mut self, row: &'a CampaignRow) -> Result<(), StoreError> {
        self.entry(row.no, row.id, (row.seq, row.at)).fold(row)
    }

    /// One a campaign, in their order.
    pub(super) fn all(&self) -> impl Iterator<Item = &Effect<'a>> {
        self.0.values()
    }

    fn entry(&mut self, no: CampaignNo, id: CampaignId, last: (Seq, Timestamp)) -> &mut Effect<'a> {
        let patch = CampaignPatch::default();
        let new = || Effect { no, id, created: None, patch, changed: None, last, sums: [Sum::default(); 4] };
        let effect = self.0.entry(no).or_insert_with(new);
        effect.last = effect.last.max(last);
        effect
    }
}

/// A campaign's part in a batch.
pub(super) struct Effect<'a> {
    pub(super) no: CampaignNo,
    pub(super) id: CampaignId,
    /// Its creation, and its definition as it was written.
    pub(super) created: Option<(CampaignSpec, &'a str)>,
    pub(super) patch: CampaignPatch,
    /// The last entry here that was about the campaign itself.
    pub(super) changed: Option<(Seq, Timestamp)>,
    /// The last entry here of any kind: what a row begins with where there is none yet.
    pub(super) last: (Seq, Timestamp),
    /// By [`Place`].
    pub(super) sums: [Sum; 4],
}

/// Units and money that come to a place, or leave it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) units: i64,
    pub(super) money: i64,
}

/// A campaign's row at its creation.
pub(super) struct NewCampaign<'a> {
    pub(super) kind: &'static str,
    pub(super) title: String,
    pub(super) state: AdminState,
    pub(super) opens_at: Timestamp,
    pub(super) closes_at: Timestamp,
    pub(super) per_user_limit: i64,
    pub(super) stock: Option<i64>,
    pub(super) currency: Option<String>,
    pub(super) price: Option<i64>,
    pub(super) total: Option<i64>,
    pub(super) definition: &'a str,
    pub(super) seq: Seq,
    pub(super) at: Timestamp,
}

impl<'a> Effect<'a> {
    fn add(&mut self, place: Place, sign: i64, units: Units, money: Option<Money>) {
        let sum = &mut self.sums[place as usize];
        sum.units += sign * units.0 as i64;
        sum.money += sign * money.map_or(0, |m| m.0);
    }

    fn fold(&mut self, row: &'a CampaignRow) -> Result<(), StoreError> {
        let wrong = |e: String| StoreError::Row(format!("campaign {} (entry {}): {e}", row.id, row.seq));
        self.changed = Some((row.seq, row.at));
        if row.action == "created" {
            let spec = CampaignSpec::restore(row.detail.as_bytes()).map_err(|e| wrong(e.to_string()))?;
            spec.check().map_err(|e| wrong(e.to_string()))?;
            self.created = Some((spec, row.detail.as_str()));
            return Ok(());
        }
        let next = CampaignPatch::parse(row.detail.as_bytes()).map_err(|e| wrong(e.to_string()))?;
        let sum = |a: Option<i64>, b: Option<i64>| match (a, b) {
            (Some(a), Some(b)) => a.checked_add(b).map(Some).ok_or_else(|| wrong("the sum overflows".to_owned())),
            (a, b) => Ok(a.or(b)),
        };
        self.patch = CampaignPatch {
            state: next.state.or(self.patch.state),
            add_stock: sum(self.patch.add_stock, next.add_stock)?,
            add_total: sum(self.patch.add_total, next.add_total)?,
            opens_at: next.opens_at.or(self.patch.opens_at),
            closes_at: next.closes_at.or(self.patch.closes_at),
        };
        Ok(())
    }

    /// The row that the creation makes, with the changes in the same batch.
    pub(super) fn row<'b>(&'b self, spec: &'b CampaignSpec, definition: &'b str) -> NewCampaign<'b> {
        let (seq, at) = self.changed.unwrap_or(self.last);
        NewCampaign {
            kind: spec.kind.as_str(),
            title: storable(&spec.title),
            state: self.patch.state.unwrap_or(AdminState::Open),
            opens_at: self.patch.opens_at.unwrap_or(spec.opens_at),
            closes_at: self.patch.closes_at.unwrap_or(spec.closes_at),
            per_user_limit: spec.per_user_limit.0 as i64,
            stock: spec.has_stock().then(|| spec.stock.0 as i64 + self.patch.add_stock.unwrap_or(0)),
            currency: spec.currency.map(|c| c.as_str().to_owned()),
            price: spec.price.map(|p| p.0),
            total: spec.red_packet.map(|p| p.total.0 + self.patch.add_total.unwrap_or(0)),
            definition,
            seq,
            at,
        }
    }

    /// Another one has its number or its name.
    pub(super) fn is_there(&self) -> StoreError {
        StoreError::Row(format!("campaign {} (number {}) is there already", self.id, self.no.0))
    }
}
