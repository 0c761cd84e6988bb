//! Claims and carts as the contract shows them, written straight into bytes: nothing on the way of an answer builds a tree.

use crate::receipts::{KeyRing, ReceiptFields};
use crate::sale::{CampaignId, Claim, ClaimStatus, Currency, Durability, Seq, Sku, UserId};

/// A change of a cart as the contract shows it.
#[derive(Debug, Clone, Copy)]
pub struct CartDocument<'a> {
    /// The buyer.
    pub user: &'a UserId,
    /// The line.
    pub sku: &'a Sku,
    /// The operation's position.
    pub version: Seq,
    /// What the answer promises.
    pub durability: Durability,
}

impl CartDocument<'_> {
    /// Appends the JSON.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"user\":\"");
        out.extend_from_slice(self.user.as_bytes());
        out.push(b'"');
        text(out, "sku", self.sku.as_str());
        number(out, "version", self.version.0);
        plain(out, "durability", self.durability.as_str().as_bytes());
        out.push(b'}');
    }
}

/// A claim as the contract shows it.
#[derive(Debug, Clone, Copy)]
pub struct ClaimDocument<'a> {
    /// The claim.
    pub claim: &'a Claim,
    /// Its campaign's name.
    pub campaign: &'a CampaignId,
    /// Its currency.
    pub currency: Option<Currency>,
    /// Where it stands.
    pub status: ClaimStatus,
    /// Counts its changes: 1 accepted, 2 persisted, 3 settled, cancelled or expired.
    pub version: u64,
}

impl ClaimDocument<'_> {
    /// Appends the JSON. Ids hold no character that JSON escapes.
    pub fn write(&self, out: &mut Vec<u8>, keys: &KeyRing) {
        let claim = self.claim;
        out.extend_from_slice(b"{\"claim_id\":\"");
        out.extend_from_slice(&claim.claim_id.to_text());
        out.extend_from_slice(b"\",\"campaign\":\"");
        out.extend_from_slice(self.campaign.as_bytes());
        out.extend_from_slice(b"\",\"user\":\"");
        out.extend_from_slice(claim.user.as_bytes());
        out.extend_from_slice(b"\",\"quantity\":");
        integer(out, claim.quantity.0);
        out.extend_from_slice(b",\"amount\":");
        match claim.amount {
            Some(amount) => integer(out, amount.0),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"currency\":");
        match &self.currency {
            Some(currency) => {
                out.push(b'"');
                out.extend_from_slice(currency.as_str().as_bytes());
                out.push(b'"');
            }
            None => out.extend_from_slice(b"null"),
        }
        plain(out, "status", self.status.as_str().as_bytes());
        number(out, "version", self.version);
        number(out, "seq", claim.seq.0);
        plain(out, "accepted_at", &claim.accepted_at.to_text());
        plain(out, "durability", claim.durability.as_str().as_bytes());
        out.extend_from_slice(b",\"receipt\":\"");
        let promised = ReceiptFields::of(claim, *self.campaign, self.currency);
        if let Some(receipt) = keys.sign_with(claim.receipt_key, &promised) {
            out.extend_from_slice(receipt.as_bytes());
        }
        out.extend_from_slice(b"\"}");
    }
}

pub(super) fn integer(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

pub(super) fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    name_of(out, name);
    integer(out, value);
}

/// A member whose value holds no character that JSON escapes.
pub(super) fn plain(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    name_of(out, name);
    out.push(b'"');
    out.extend_from_slice(value);
    out.push(b'"');
}

/// A member with any text.
pub(super) fn text(out: &mut Vec<u8>, name: &str, value: &str) {
    name_of(out, name);
    let quoted = serde_json::to_string(value).unwrap_or_default();
    out.extend_from_slice(quoted.as_bytes());
}

pub(super) fn name_of(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}
