//! The campaigns as the rows tell them, for a book that is made anew. Pure: each store reads its own tables.
//!
//! A row of `campaigns` has in it what the log says. What the tables would not take is in dead letters, and the book had
//! entered it all the same: open ones, and those that were given up. Log and letters are folded together by position: a
//! letter's restock counts, its window and state only where no later logged change had the last word.

use std::collections::BTreeMap;

use super::{CampaignRecord, CampaignRow, EndRow, StoreError, payload};
use crate::sale::campaign::{AdminState, CampaignPatch};
use crate::sale::{CampaignNo, CampaignSpec, ClaimId, Fate, Money, Seq, Timestamp, Units};

/// What the table `campaigns` has of a campaign that has a definition.
pub(super) struct CampaignColumns<'a> {
    pub(super) no: CampaignNo,
    pub(super) definition: &'a str,
    pub(super) state: &'a str,
    pub(super) opens_at: Timestamp,
    pub(super) closes_at: Timestamp,
    pub(super) stock: Option<u64>,
    pub(super) total: Option<i64>,
}

/// Something that was done to a campaign.
struct Done {
    no: u32,
    at: Timestamp,
    is_release: bool,
    patch: CampaignPatch,
    is_letter: bool,
}

/// The campaigns that are known so far.
#[derive(Default)]
pub(super) struct Campaigns {
    /// Each with whether it has a row, with everything in it that was logged.
    found: BTreeMap<u32, (CampaignRecord, bool)>,
    done: BTreeMap<Seq, Done>,
}

impl Campaigns {
    /// A row of `campaigns`; none where it can't be read.
    pub(super) fn row(&mut self, row: &CampaignColumns<'_>) -> Option<()> {
        let mut spec = CampaignSpec::restore(row.definition.as_bytes()).ok()?;
        (spec.opens_at, spec.closes_at) = (row.opens_at, row.closes_at);
        if spec.has_stock() {
            spec.stock = Units(row.stock?);
        }
        if let Some(packet) = &mut spec.red_packet {
            packet.total = Money(row.total?);
        }
        self.found.insert(row.no.0, (record(row.no, spec, state(row.state)?), true));
        Some(())
    }

    /// A line of `campaign_log`; none where it can't be read.
    pub(super) fn log(&mut self, row: &CampaignRow) -> Option<()> {
        self.enter(row, false)
    }

    /// A dead letter of a campaign that was not written again; after all rows.
    ///
    /// # Errors
    /// Where it can't be read.
    pub(super) fn letter(&mut self, row: &CampaignRow) -> Result<(), StoreError> {
        self.enter(row, true).ok_or_else(|| gone(row.no, &format!("entry {} can't be read", row.seq)))
    }

    fn enter(&mut self, row: &CampaignRow, is_letter: bool) -> Option<()> {
        if row.action == "created" {
            if is_letter {
                let spec = CampaignSpec::restore(row.detail.as_bytes()).ok()?;
                self.found.entry(row.no.0).or_insert_with(|| (record(row.no, spec, AdminState::Open), false));
            }
            return Some(());
        }
        let patch = CampaignPatch::parse(row.detail.as_bytes()).ok()?;
        let is_release = row.action == "released";
        self.done.insert(row.seq, Done { no: row.no.0, at: row.at, is_release, patch, is_letter });
        Some(())
    }

    /// Every campaign, by number; `bare` are the numbers of rows without a definition.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] where one is missing, or what was done to one makes no sense.
    pub(super) fn finish(mut self, bare: &[i64]) -> Result<Vec<CampaignRecord>, StoreError> {
        for (place, no) in self.found.keys().enumerate() {
            if place as u32 != *no {
                return Err(gone(CampaignNo(place as u32), "it is in no row and no dead letter"));
            }
        }
        if let Some(no) = bare.iter().filter_map(|no| u32::try_from(*no).ok()).find(|no| !self.found.contains_key(no)) {
            return Err(gone(CampaignNo(no), "its definition is in no dead letter"));
        }
        for (seq, done) in &self.done {
            let Some((record, has_row)) = self.found.get_mut(&done.no) else { continue };
            count(record, done);
            if *has_row && !done.is_letter {
                continue;
            }
            let later = self.done.range(seq.next()..).filter(|(_, later)| later.no == done.no && !later.is_letter);
            let logged: Vec<&CampaignPatch> =
                if *has_row { later.map(|(_, later)| &later.patch).collect() } else { Vec::new() };
            apply(record, &done.patch, &logged)
                .ok_or_else(|| gone(record.no, &format!("entry {seq} makes no stock of it")))?;
        }
        Ok(self.found.into_values().map(|(record, _)| record).collect())
    }
}

/// Ends of claims in open dead letters: the book has them, the rows do not.
pub(super) fn ends_of(letters: &[String]) -> Result<BTreeMap<ClaimId, Fate>, StoreError> {
    let end = |json: &String| payload::to_end(json).map(|EndRow { moved, .. }| (moved.claim_id, moved.to));
    letters.iter().map(end).collect()
}

fn gone(no: CampaignNo, what: &str) -> StoreError {
    StoreError::Fenced(format!("campaign number {} can't be rebuilt: {what}", no.0))
}

fn record(no: CampaignNo, spec: CampaignSpec, state: AdminState) -> CampaignRecord {
    CampaignRecord { no, spec, state, closed_at: None, released: false, changes: 0, restocks: 0 }
}

fn state(word: &str) -> Option<AdminState> {
    [AdminState::Open, AdminState::Paused, AdminState::Closed].into_iter().find(|state| state.as_str() == word)
}

fn count(record: &mut CampaignRecord, done: &Done) {
    record.changes += 1;
    if done.is_release {
        record.released = true;
        return;
    }
    record.restocks += u64::from(done.patch.add_stock.is_some());
    if done.patch.state == Some(AdminState::Closed) {
        record.closed_at.get_or_insert(done.at);
    }
}

/// Enters a change that is not in the row, as the book has entered it; `later` are those that came after it and are.
fn apply(record: &mut CampaignRecord, patch: &CampaignPatch, later: &[&CampaignPatch]) -> Option<()> {
    let spec = &mut record.spec;
    if spec.has_stock() {
        spec.stock = Units(spec.stock.0.checked_add_signed(patch.add_stock.unwrap_or(0))?);
    }
    if let Some(packet) = &mut spec.red_packet {
        packet.total = Money(packet.total.0.checked_add(patch.add_total.unwrap_or(0))?);
    }
    if later.iter().all(|later| later.opens_at.is_none()) {
        spec.opens_at = patch.opens_at.unwrap_or(spec.opens_at);
    }
    if later.iter().all(|later| later.closes_at.is_none()) {
        spec.closes_at = patch.closes_at.unwrap_or(spec.closes_at);
    }
    if later.iter().all(|later| later.state.is_none()) {
        record.state = patch.state.unwrap_or(record.state);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sale::CampaignId;

    const DEFINITION: &str = r#"{"id":"c","kind":"flash_sale","opens_at":"2026-01-01T00:00:00Z",
        "closes_at":"2026-01-02T00:00:00Z","stock":100,"price":1,"currency":"CNY"}"#;

    fn done(seq: u64, action: &'static str, detail: &str) -> CampaignRow {
        let (id, at, by) = (CampaignId::parse("c").unwrap(), Timestamp(seq as i64), String::new());
        CampaignRow { no: CampaignNo(0), id, seq: Seq(seq), at, action, by, detail: detail.to_owned() }
    }

    /// The row after what was logged: open, with 110 of stock.
    fn rows() -> Campaigns {
        let mut all = Campaigns::default();
        let spec = CampaignSpec::restore(DEFINITION.as_bytes()).unwrap();
        all.row(&CampaignColumns {
            no: CampaignNo(0),
            definition: DEFINITION,
            state: "open",
            opens_at: spec.opens_at,
            closes_at: spec.closes_at,
            stock: Some(110),
            total: None,
        })
        .unwrap();
        all
    }

    fn one(all: Campaigns) -> CampaignRecord {
        all.finish(&[]).unwrap().remove(0)
    }

    #[test]
    fn a_dead_change_counts_and_a_later_logged_one_has_the_last_word() {
        let mut all = rows();
        all.log(&done(5, "changed", r#"{"add_stock":10}"#)).unwrap();
        all.log(&done(9, "changed", r#"{"state":"open"}"#)).unwrap();
        all.letter(&done(7, "changed", r#"{"state":"paused","add_stock":3}"#)).unwrap();
        let record = one(all);
        assert_eq!((record.state, record.spec.stock), (AdminState::Open, Units(113)));
        assert_eq!((record.changes, record.restocks), (3, 2));
        let mut all = rows();
        all.log(&done(5, "changed", r#"{"add_stock":10}"#)).unwrap();
        all.letter(&done(7, "changed", r#"{"state":"paused"}"#)).unwrap();
        assert_eq!(one(all).state, AdminState::Paused, "it was the last");
    }

    #[test]
    fn a_dead_creation_is_followed_by_everything_that_was_logged() {
        let mut all = Campaigns::default();
        all.log(&done(5, "changed", r#"{"add_stock":10}"#)).unwrap();
        all.log(&done(8, "changed", r#"{"state":"closed"}"#)).unwrap();
        all.log(&done(9, "released", r#"{"state":"closed"}"#)).unwrap();
        all.letter(&done(1, "created", DEFINITION)).unwrap();
        let record = one(all);
        assert_eq!((record.state, record.spec.stock, record.released), (AdminState::Closed, Units(110), true));
        assert_eq!((record.changes, record.closed_at), (3, Some(Timestamp(8))));
    }

    #[test]
    fn a_campaign_that_is_nowhere_is_named() {
        let mut all = Campaigns::default();
        all.log(&done(5, "changed", r#"{"add_stock":10}"#)).unwrap();
        assert!(matches!(all.finish(&[0]), Err(StoreError::Fenced(why)) if why.contains("number 0")));
    }
}
