//! A dead letter's payload: the entry as JSON, complete, so that it can be written again.

use serde::{Deserialize, Serialize};

use super::super::{CampaignRow, ClaimRow, StoreError};
use crate::sale::{
    CampaignId, CampaignNo, Claim, ClaimId, Currency, Durability, KeyHash, Money, Seq, Timestamp, Units, UserId,
};

#[derive(Serialize, Deserialize)]
struct ClaimPayload<'a> {
    claim_id: String,
    campaign: &'a str,
    campaign_no: u32,
    user: &'a str,
    quantity: u64,
    amount: Option<i64>,
    currency: Option<&'a str>,
    hold: u32,
    receipt_key: u16,
    /// 32 hexadecimal digits.
    idempotency_key: Option<String>,
    seq: u64,
    accepted_at: String,
    durability: &'a str,
}

pub(super) fn of_claim(row: &ClaimRow) -> String {
    let claim = &row.claim;
    let payload = ClaimPayload {
        claim_id: claim.claim_id.to_string(),
        campaign: row.campaign.as_str(),
        campaign_no: claim.campaign.0,
        user: claim.user.as_str(),
        quantity: claim.quantity.0,
        amount: claim.amount.map(|m| m.0),
        currency: row.currency.as_ref().map(Currency::as_str),
        hold: claim.hold,
        receipt_key: claim.receipt_key,
        idempotency_key: claim.key.map(|k| format!("{:032x}", k.0)),
        seq: claim.seq.0,
        accepted_at: claim.accepted_at.to_string(),
        durability: claim.durability.as_str(),
    };
    serde_json::to_string(&payload).unwrap_or_default()
}

pub(super) fn of_campaign(row: &CampaignRow) -> String {
    serde_json::json!({
        "campaign": row.id.as_str(), "campaign_no": row.no.0, "seq": row.seq.0, "at": row.at.to_string(),
        "action": row.action, "by": row.by, "detail": row.detail,
    })
    .to_string()
}

/// Reads [`of_claim`] back.
pub(super) fn to_claim(json: &str) -> Result<ClaimRow, StoreError> {
    let unreadable = || StoreError::Outage(format!("a dead letter can't be read: {json}"));
    let payload: ClaimPayload<'_> = serde_json::from_str(json).map_err(|_| unreadable())?;
    let read = || {
        let key = match &payload.idempotency_key {
            None => None,
            Some(hex) => Some(KeyHash(u128::from_str_radix(hex, 16).ok()?)),
        };
        let claim = Claim {
            claim_id: ClaimId::parse(&payload.claim_id)?,
            campaign: CampaignNo(payload.campaign_no),
            user: UserId::parse(payload.user).ok()?,
            quantity: Units(payload.quantity),
            amount: payload.amount.map(Money),
            hold: payload.hold,
            receipt_key: payload.receipt_key,
            key,
            seq: Seq(payload.seq),
            accepted_at: Timestamp::parse(&payload.accepted_at).ok()?,
            durability: durability(payload.durability)?,
        };
        let currency = match payload.currency {
            None => None,
            Some(code) => Some(Currency::parse(code)?),
        };
        Some(ClaimRow { claim, campaign: CampaignId::parse(payload.campaign).ok()?, currency })
    };
    read().ok_or_else(unreadable)
}

/// Reads the contract's word.
pub(super) fn durability(word: &str) -> Option<Durability> {
    [Durability::Disk, Durability::Memory].into_iter().find(|d| d.as_str() == word)
}
