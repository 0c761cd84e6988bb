//! Dead letters, as far as every SQL store treats them alike: their columns, and what is done with the entry when one is
//! written again. Pure.

use super::{CampaignRow, ClaimRow, EndRow, LetterEnd, Row, StoreError, payload};
use crate::sale::campaign::CampaignPatch;
use crate::sale::{Moved, Seq, Timestamp, Units, UserId};

pub(super) const CLAIM: &str = "claim";
pub(super) const END: &str = "end";
pub(super) const CAMPAIGN: &str = "campaign";
pub(super) const CART: &str = "cart";
pub(super) const ACCEPTED: &str = "accepted";
pub(super) const REQUEUED: &str = "requeued";
const EXPIRED: &str = "expired";

/// The columns of a letter that is written.
pub(super) struct Letter<'a> {
    pub(super) seq: Seq,
    pub(super) kind: &'static str,
    pub(super) claim_id: Option<String>,
    /// Empty where it is of no campaign.
    pub(super) campaign: &'a str,
    pub(super) user: Option<&'a str>,
    pub(super) quantity: Option<i64>,
    pub(super) amount: Option<i64>,
    pub(super) at: Timestamp,
    /// The entry as JSON, complete.
    pub(super) payload: String,
}

impl<'a> Letter<'a> {
    /// A row's letter.
    pub(super) fn of(row: &'a Row) -> Self {
        match row {
            Row::Claim(row) => Self {
                seq: row.claim.seq,
                kind: CLAIM,
                claim_id: Some(row.claim.claim_id.to_string()),
                campaign: row.campaign.as_str(),
                user: Some(row.claim.user.as_str()),
                quantity: Some(row.claim.quantity.0 as i64),
                amount: row.claim.amount.map(|m| m.0),
                at: row.claim.accepted_at,
                payload: payload::of_claim(row),
            },
            Row::End(row) => Self {
                seq: row.seq,
                kind: END,
                claim_id: Some(row.moved.claim_id.to_string()),
                campaign: row.campaign.as_str(),
                user: None,
                quantity: Some(row.moved.quantity.0 as i64),
                amount: row.moved.amount.map(|m| m.0),
                at: row.at,
                payload: payload::of_end(row),
            },
            Row::Cart(row) => Self {
                kind: CART,
                user: Some(row.user.as_str()),
                ..Self::plain(row.seq, "", row.at, payload::of_cart(row))
            },
            Row::Campaign(row) => Self::plain(row.seq, row.id.as_str(), row.at, payload::of_campaign(row)),
            Row::Void(seq) => unreachable!("position {seq} has no row that could be refused"),
        }
    }

    fn plain(seq: Seq, campaign: &'a str, at: Timestamp, payload: String) -> Self {
        let (claim_id, user, quantity, amount) = (None, None, None, None);
        Self { seq, kind: CAMPAIGN, claim_id, campaign, user, quantity, amount, at, payload }
    }
}

/// What is written down when a dead claim comes to this end: none where it stays open.
pub(super) fn resolution(moved: &Moved) -> Option<String> {
    let status = moved.to.status().as_str();
    moved.to.returns_units().then(|| match &*moved.reason {
        "" => status.to_owned(),
        reason => format!("{status}: {}", storable(reason)),
    })
}

/// A text as every database takes it: PostgreSQL has no place for the character NUL, and an older journal may.
pub(super) fn storable(text: &str) -> String {
    text.replace('\0', "\u{2400}")
}

/// What is written down when somebody discards a letter.
pub(super) fn discarded(reason: &str) -> String {
    if reason.is_empty() { "discarded".to_owned() } else { format!("discarded: {}", storable(reason)) }
}

/// How a letter was dealt with, from what is written down; none for an open one.
pub(super) fn closed_as(resolution: Option<&str>) -> Option<LetterEnd> {
    // In front of a colon; behind it is the reason.
    Some(match resolution?.split(':').next() {
        Some(REQUEUED) => LetterEnd::Requeued,
        Some(EXPIRED) => LetterEnd::Expired,
        _ => LetterEnd::Dropped,
    })
}

/// What a letter's columns say of its claim's end.
pub(super) struct EndColumns<'a> {
    pub(super) status: &'a str,
    pub(super) seq: Option<u64>,
    pub(super) at: Option<Timestamp>,
    pub(super) by: Option<&'a str>,
}

impl EndColumns<'_> {
    /// What has become of the dead claim `row`: an open letter's may have been paid.
    ///
    /// # Errors
    /// Where somebody changed it by hand.
    pub(super) fn of(&self, row: &ClaimRow) -> Result<Option<EndRow>, StoreError> {
        if self.status == ACCEPTED {
            return Ok(None);
        }
        let claim = &row.claim;
        let read = || {
            let moved = Moved {
                claim_id: claim.claim_id,
                campaign: claim.campaign,
                quantity: claim.quantity,
                amount: claim.amount,
                to: payload::fate(self.status)?,
                by: self.by?.into(),
                reason: Box::default(),
            };
            Some(EndRow { seq: Seq(self.seq?), at: self.at?, campaign: row.campaign, moved })
        };
        read().map(Some).ok_or_else(|| {
            let (id, status) = (claim.claim_id, self.status);
            StoreError::Outage(format!("the dead letter of claim {id} was changed by hand: {status:?}"))
        })
    }
}

/// The campaign's entry `row`, which is written only now, and those that came after it, as they are to be folded once more:
/// they stay the last word. A later restock has counted, unless there was no stock yet to add to.
pub(super) fn fold_again(row: &CampaignRow, later: Vec<CampaignRow>) -> Result<Vec<CampaignRow>, StoreError> {
    let mut folded = vec![row.clone()];
    for mut later in later {
        if row.action != "created" {
            let wrong = |e: crate::sale::FieldError| StoreError::Row(format!("entry {}: {e}", later.seq));
            let patch = CampaignPatch::parse(later.detail.as_bytes()).map_err(wrong)?;
            let patch = CampaignPatch { add_stock: None, add_total: None, ..patch };
            if patch == CampaignPatch::default() {
                continue;
            }
            later.detail = patch.to_json().to_string();
        }
        folded.push(later);
    }
    Ok(folded)
}

/// The claim of a letter is a row already.
pub(super) fn is_a_row(row: &ClaimRow) -> StoreError {
    let id = row.claim.claim_id;
    StoreError::Row(format!("claim {id} is a row already, which nobody has counted: remove it first"))
}

/// An end's claim is nowhere.
pub(super) fn is_nowhere(end: &EndRow) -> StoreError {
    let (seq, id) = (end.seq, end.moved.claim_id);
    StoreError::Row(format!("entry {seq} ends claim {id}, which is neither a row nor a dead letter"))
}

/// The cart of a letter has gone on to entry `stands`.
pub(super) fn has_gone_on(user: &UserId, sku: &str, quantity: u32, stands: Seq) -> StoreError {
    StoreError::Row(format!(
        "the cart of {user} has gone on to entry {stands}: have the buyer set {sku} to {quantity} again, then drop this \
         letter"
    ))
}

/// A letter's units, from its column.
pub(super) fn units(column: Option<i64>) -> Option<Option<Units>> {
    match column {
        None => Some(None),
        Some(units) => Some(Some(Units(u64::try_from(units).ok()?))),
    }
}
