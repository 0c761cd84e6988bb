//! A dead letter's payload: the entry as JSON, complete, so that it can be written again.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{CampaignRow, CartRow, ClaimRow, EndRow, StoreError};
use crate::sale::{
    CampaignId, CampaignNo, Claim, ClaimId, Currency, Durability, Fate, KeyHash, Money, Moved, Seq, Sku, Timestamp,
    Units, UserId,
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
    /// Letters of the first version have none: there were no check-ins.
    #[serde(default)]
    is_check_in: bool,
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
        is_check_in: row.is_check_in,
        receipt_key: claim.receipt_key,
        idempotency_key: claim.key.map(|k| format!("{:032x}", k.0)),
        seq: claim.seq.0,
        accepted_at: claim.accepted_at.to_string(),
        durability: claim.durability.as_str(),
    };
    serde_json::to_string(&payload).unwrap_or_default()
}

/// Reads [`of_claim`] back.
pub(super) fn to_claim(json: &str) -> Result<ClaimRow, StoreError> {
    let payload: ClaimPayload<'_> = serde_json::from_str(json).map_err(|_| unreadable(json))?;
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
        let campaign = CampaignId::parse(payload.campaign).ok()?;
        Some(ClaimRow { claim, campaign, currency, is_check_in: payload.is_check_in })
    };
    read().ok_or_else(|| unreadable(json))
}

#[derive(Serialize, Deserialize)]
struct EndPayload<'a> {
    claim_id: String,
    campaign: &'a str,
    campaign_no: u32,
    /// `settled`, `cancelled` or `expired`.
    to: &'a str,
    quantity: u64,
    amount: Option<i64>,
    seq: u64,
    at: String,
    // Free text may need escapes, and then it can't be borrowed.
    by: Cow<'a, str>,
    reason: Cow<'a, str>,
}

pub(super) fn of_end(row: &EndRow) -> String {
    let moved = &row.moved;
    let payload = EndPayload {
        claim_id: moved.claim_id.to_string(),
        campaign: row.campaign.as_str(),
        campaign_no: moved.campaign.0,
        to: moved.to.status().as_str(),
        quantity: moved.quantity.0,
        amount: moved.amount.map(|m| m.0),
        seq: row.seq.0,
        at: row.at.to_string(),
        by: (&*moved.by).into(),
        reason: (&*moved.reason).into(),
    };
    serde_json::to_string(&payload).unwrap_or_default()
}

/// Reads [`of_end`] back.
pub(super) fn to_end(json: &str) -> Result<EndRow, StoreError> {
    let payload: EndPayload<'_> = serde_json::from_str(json).map_err(|_| unreadable(json))?;
    let read = || {
        let moved = Moved {
            claim_id: ClaimId::parse(&payload.claim_id)?,
            campaign: CampaignNo(payload.campaign_no),
            quantity: Units(payload.quantity),
            amount: payload.amount.map(Money),
            to: fate(payload.to)?,
            by: (&*payload.by).into(),
            reason: (&*payload.reason).into(),
        };
        let campaign = CampaignId::parse(payload.campaign).ok()?;
        Some(EndRow { seq: Seq(payload.seq), at: Timestamp::parse(&payload.at).ok()?, campaign, moved })
    };
    read().ok_or_else(|| unreadable(json))
}

#[derive(Serialize, Deserialize)]
struct CartPayload<'a> {
    user: &'a str,
    // It may hold a quote, and then it can't be borrowed.
    sku: Cow<'a, str>,
    quantity: u32,
    address: u64,
    seq: u64,
    at: String,
}

pub(super) fn of_cart(row: &CartRow) -> String {
    let payload = CartPayload {
        user: row.user.as_str(),
        sku: row.sku.as_str().into(),
        quantity: row.quantity,
        address: row.address,
        seq: row.seq.0,
        at: row.at.to_string(),
    };
    serde_json::to_string(&payload).unwrap_or_default()
}

/// Reads [`of_cart`] back.
pub(super) fn to_cart(json: &str) -> Result<CartRow, StoreError> {
    let payload: CartPayload<'_> = serde_json::from_str(json).map_err(|_| unreadable(json))?;
    let read = || {
        Some(CartRow {
            seq: Seq(payload.seq),
            at: Timestamp::parse(&payload.at).ok()?,
            user: UserId::parse(payload.user).ok()?,
            sku: Sku::parse(&payload.sku).ok()?,
            quantity: payload.quantity,
            address: payload.address,
        })
    };
    read().ok_or_else(|| unreadable(json))
}

#[derive(Serialize, Deserialize)]
struct CampaignPayload<'a> {
    campaign: &'a str,
    campaign_no: u32,
    seq: u64,
    at: String,
    action: &'a str,
    by: Cow<'a, str>,
    detail: Cow<'a, str>,
}

pub(super) fn of_campaign(row: &CampaignRow) -> String {
    let payload = CampaignPayload {
        campaign: row.id.as_str(),
        campaign_no: row.no.0,
        seq: row.seq.0,
        at: row.at.to_string(),
        action: row.action,
        by: row.by.as_str().into(),
        detail: row.detail.as_str().into(),
    };
    serde_json::to_string(&payload).unwrap_or_default()
}

/// Reads [`of_campaign`] back.
pub(super) fn to_campaign(json: &str) -> Result<CampaignRow, StoreError> {
    let payload: CampaignPayload<'_> = serde_json::from_str(json).map_err(|_| unreadable(json))?;
    let read = || {
        Some(CampaignRow {
            no: CampaignNo(payload.campaign_no),
            id: CampaignId::parse(payload.campaign).ok()?,
            seq: Seq(payload.seq),
            at: Timestamp::parse(&payload.at).ok()?,
            action: action(payload.action)?,
            by: payload.by.to_string(),
            detail: payload.detail.to_string(),
        })
    };
    read().ok_or_else(|| unreadable(json))
}

fn unreadable(json: &str) -> StoreError {
    StoreError::Outage(format!("a dead letter can't be read: {json}"))
}

/// Reads the contract's word.
pub(super) fn durability(word: &str) -> Option<Durability> {
    [Durability::Disk, Durability::Memory].into_iter().find(|d| d.as_str() == word)
}

/// Reads the status of a claim that came to its end.
pub(super) fn fate(word: &str) -> Option<Fate> {
    [Fate::Settled, Fate::Cancelled, Fate::Expired].into_iter().find(|f| f.status().as_str() == word)
}

/// Reads what was done to a campaign.
pub(super) fn action(word: &str) -> Option<&'static str> {
    ["created", "changed", "released"].into_iter().find(|a| *a == word)
}
