//! What a change makes of a campaign: pure, and used both to decide a change and to apply it.

use super::campaign::Campaign;
use crate::limits;
use crate::sale::campaign::{self, CampaignPatch};
use crate::sale::{CampaignSpec, FieldError, MAX_JSON_INT, Money, Units};

/// The definition, the free units and the free money after `patch`.
///
/// # Errors
/// The field that can't be taken, with the numbers.
pub fn changed(campaign: &Campaign, patch: &CampaignPatch) -> Result<(CampaignSpec, Units, Money), FieldError> {
    let mut spec = campaign.spec.clone();
    spec.opens_at = patch.opens_at.unwrap_or(spec.opens_at);
    spec.closes_at = patch.closes_at.unwrap_or(spec.closes_at);
    campaign::check_window(spec.opens_at, spec.closes_at)?;
    let free = restocked(campaign, &mut spec, patch.add_stock.unwrap_or(0))?;
    let left = refilled(campaign, &mut spec, patch)?;
    if let Some(packet) = &spec.red_packet {
        // Shares that came back go out again with the same amounts, so only the others can be drawn anew.
        let (before, shares_before) = campaign.undrawn();
        let shares = (shares_before.0 + free.0).checked_sub(campaign.free.0).ok_or_else(|| {
            let m = format!("only {shares_before} shares were never given out; returned ones keep their amounts");
            FieldError::new("add_stock", m)
        })?;
        let undrawn = Money(before.0 + left.0 - campaign.left.0);
        if undrawn.0 < 0 {
            let m = format!("only {} minor units are in no share yet", before.0);
            return Err(FieldError::new("add_total", m));
        }
        let feasible = packet.check_feasible(undrawn, Units(shares));
        feasible.map_err(|e| FieldError::new("add_total", format!("then {e}")))?;
    }
    if let Some(price) = spec.price {
        campaign::check_turnover(price, spec.stock).map_err(|e| FieldError::new("add_stock", e.message))?;
    }
    Ok((spec, free, left))
}

fn restocked(campaign: &Campaign, spec: &mut CampaignSpec, add: i64) -> Result<Units, FieldError> {
    if !spec.has_stock() {
        let m = || FieldError::new("add_stock", "given for a check_in, which has no stock; expected none");
        return if add == 0 { Ok(campaign.free) } else { Err(m()) };
    }
    let out_of = |value: u64, m: String| i64::try_from(value).ok().and_then(|v| v.checked_add(add)).ok_or(m);
    let overflow = || format!("{add} given; that overflows");
    let free = out_of(campaign.free.0, overflow()).map_err(|m| FieldError::new("add_stock", m))?;
    let stock = out_of(spec.stock.0, overflow()).map_err(|m| FieldError::new("add_stock", m))?;
    if free < 0 {
        let m = format!("{add} given; only {} units are free", campaign.free);
        return Err(FieldError::new("add_stock", m));
    }
    if stock as u64 > limits::STOCK_MAX {
        let m = format!("{add} given; stock would be {stock}, more than {}", limits::STOCK_MAX);
        return Err(FieldError::new("add_stock", m));
    }
    spec.stock = Units(stock as u64);
    Ok(Units(free as u64))
}

fn refilled(campaign: &Campaign, spec: &mut CampaignSpec, patch: &CampaignPatch) -> Result<Money, FieldError> {
    let Some(packet) = &mut spec.red_packet else {
        return match patch.add_total {
            Some(_) => {
                let m = format!("given for a {}; expected none", spec.kind.as_str());
                Err(FieldError::new("add_total", m))
            }
            None => Ok(campaign.left),
        };
    };
    if patch.add_stock.is_some() != patch.add_total.is_some() {
        let m = "a red packet's add_stock and add_total go together";
        return Err(FieldError::new(if patch.add_total.is_none() { "add_total" } else { "add_stock" }, m));
    }
    let add = patch.add_total.unwrap_or(0);
    let total = packet.total.0.checked_add(add).filter(|t| (0..=MAX_JSON_INT).contains(t));
    let total = total.ok_or_else(|| {
        FieldError::new("add_total", format!("{add} given; the total must stay within 0 and {MAX_JSON_INT}"))
    })?;
    let left = campaign.left.0 + add;
    if left < 0 {
        let m = format!("{add} given; only {} minor units are left", campaign.left.0);
        return Err(FieldError::new("add_total", m));
    }
    packet.total = Money(total);
    Ok(Money(left))
}
