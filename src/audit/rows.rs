//! Rows and dead letters against the book: each claim's holder, units and money, and what became of it.

use std::collections::HashSet;

use super::{Auditor, Findings, PAGE};
use crate::queue::Book;
use crate::queue::campaign::Campaign;
use crate::queue::winners::Kept;
use crate::sale::{CampaignNo, ClaimStatus, Fate, Money, Seq};
use crate::store::{ClaimRow, Database, Store};

/// Claims, units and money in one place.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    pub claims: u64,
    pub units: u64,
    pub money: i64,
}

impl Sum {
    fn add(&mut self, units: u64, money: i64) {
        self.claims += 1;
        self.units += units;
        self.money += money;
    }
}

/// Where one campaign's claims are.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    pub accepted: Sum,
    pub persisted: Sum,
    pub settled: Sum,
    pub returned: Sum,
    pub dead: Sum,
    /// Rows, whatever became of them.
    pub rows: u64,
}

/// Sums up rows, dead letters and waiting claims by campaign, and names what does not match.
pub(super) async fn sum_up(store: &Database, auditor: &Auditor, findings: &mut Findings) -> anyhow::Result<Vec<Sums>> {
    let book = &auditor.follower.book;
    let mut sums = vec![Sums::default(); book.campaigns().len()];
    sum_rows(store, auditor, &mut sums, findings).await?;
    sum_dead(store, auditor, &mut sums, findings).await?;
    for (id, waiting) in &auditor.waiting {
        let Some(sums) = sums.get_mut(waiting.campaign.0 as usize) else { continue };
        let place = match auditor.ending.get(id) {
            None => &mut sums.accepted,
            Some(Fate::Settled) => &mut sums.settled,
            Some(Fate::Cancelled | Fate::Expired) => &mut sums.returned,
        };
        place.add(waiting.units, waiting.money);
    }
    Ok(sums)
}

async fn sum_rows(
    store: &Database,
    auditor: &Auditor,
    sums: &mut [Sums],
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let book = &auditor.follower.book;
    let (mut seen, mut after) = (HashSet::new(), Seq(0));
    loop {
        let page = store.scan(None, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.row.claim.seq;
        for stored in page.iter().filter(|s| s.row.claim.seq <= auditor.cursor) {
            let claim = &stored.row.claim;
            if !seen.insert(claim.claim_id) {
                findings.mismatch(format!("row {} is there twice", claim.claim_id));
            }
            let Some((no, campaign)) = campaign_of(book, &stored.row) else {
                findings.mismatch(format!("row {} of {} was never acknowledged", claim.claim_id, claim.user));
                continue;
            };
            let fate = auditor.fate(claim.claim_id, stored.status, stored.ended);
            check_row(book, campaign, &stored.row, fate, findings);
            let sums = &mut sums[no.0 as usize];
            sums.rows += 1;
            let place = match fate {
                None => &mut sums.persisted,
                Some(Fate::Settled) => &mut sums.settled,
                Some(Fate::Cancelled | Fate::Expired) => &mut sums.returned,
            };
            place.add(claim.quantity.0, claim.amount.map_or(0, |a| a.0));
        }
        if after >= auditor.cursor {
            break;
        }
    }
    Ok(())
}

fn campaign_of<'b>(book: &'b Book, row: &ClaimRow) -> Option<(CampaignNo, &'b Campaign)> {
    let no = book.number(&row.campaign)?;
    Some((no, book.campaign(no)?))
}

/// Holds a row against what the book knows of its claim: whose it is, how much, for what, and what became of it.
fn check_row(book: &Book, campaign: &Campaign, row: &ClaimRow, fate: Option<Fate>, findings: &mut Findings) {
    let (claim, id) = (&row.claim, row.claim.claim_id);
    let price = campaign.spec.price;
    if price.is_some_and(|price| claim.amount != Some(Money(price.0 * claim.quantity.0 as i64))) {
        findings.mismatch(format!("row {id}: the amount is not price × quantity"));
    }
    if campaign.spec.check_in.is_some() != row.is_check_in {
        findings.mismatch(format!("row {id}: a check-in has points, and nothing else has"));
    }
    // The buyers of a day that is over, and of a campaign that is long over, have left the book.
    let day_is_over = !campaign.spec.has_stock() && campaign.today().is_some_and(|day| u32::from(day.0) != claim.hold);
    if campaign.released || day_is_over {
        return;
    }
    let held = campaign.winners().find(id);
    match (held, fate) {
        (None, Some(Fate::Cancelled | Fate::Expired)) => {}
        (None, _) => findings.mismatch(format!("row {id} of {} was never acknowledged", claim.user)),
        (Some(_), Some(Fate::Cancelled | Fate::Expired)) => {
            findings.mismatch(format!("row {id} says that it was given back, but {} still holds it", claim.user));
        }
        (Some(kept), fate) => check_held(book, row, &kept, fate, findings),
    }
}

fn check_held(book: &Book, row: &ClaimRow, kept: &Kept, fate: Option<Fate>, findings: &mut Findings) {
    let (claim, id) = (&row.claim, row.claim.claim_id);
    let amount_differs = kept.amount.is_some_and(|amount| Some(amount) != claim.amount);
    if u64::from(kept.held.quantity) != claim.quantity.0 || amount_differs {
        findings.mismatch(format!("row {id}: quantity or amount differs from the journal"));
    }
    if kept.held.settled != (fate == Some(Fate::Settled)) {
        findings.mismatch(format!("row {id}: the journal and the row differ on whether it is paid"));
    }
    let user = book.hash_key().user(&claim.user);
    if (kept.fingerprint, kept.address) != (user.fingerprint(), user.address()) {
        findings.mismatch(format!("row {id}: the journal has another buyer than {}", claim.user));
    }
}

async fn sum_dead(
    store: &Database,
    auditor: &Auditor,
    sums: &mut [Sums],
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let book = &auditor.follower.book;
    let mut after = Seq(0);
    loop {
        let page = store.dead_claims(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.claim.seq;
        for row in page.iter().filter(|row| row.claim.seq <= auditor.cursor) {
            let claim = &row.claim;
            let Some((no, _)) = campaign_of(book, row) else {
                findings.mismatch(format!("dead letter {} is of no known campaign", claim.claim_id));
                continue;
            };
            let sums = &mut sums[no.0 as usize];
            let fate = auditor.fate(claim.claim_id, ClaimStatus::Accepted, None);
            let place = if fate.is_some_and(Fate::returns_units) { &mut sums.returned } else { &mut sums.dead };
            place.add(claim.quantity.0, claim.amount.map_or(0, |a| a.0));
        }
    }
}
