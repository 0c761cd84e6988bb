//! The audit: journal, rows, dead letters and receipts against each other, and the conservation equation over them.
//!
//! It reads only, beside a running server or after it. The order makes that sound: the database's cursor first, the rows
//! up to it, then the journal, which has at least as much. What lies behind the cursor is on its way, and no mismatch.

use std::collections::HashSet;
use std::io::BufRead;
use std::path::Path;

use serde::Serialize;

use crate::queue::journal::disk::RealDisk;
use crate::queue::journal::{self, FrameView, OpenError, SnapshotInfo, Visitor, Wanted};
use crate::queue::recover::{self, Follower, ReplayError};
use crate::queue::winners::Held;
use crate::queue::{Book, HashKey};
use crate::receipts::{KeyRing, fields_from_claim_json};
use crate::sale::{CampaignId, CampaignNo, Claim, ClaimId, Event, Money, Seq};
use crate::store::{Database, Store};

/// Rows read at a time.
const PAGE: u32 = 10_000;
/// Mismatches of one kind that are named; the rest are counted.
const NAMED: usize = 10;
/// A running server may trim what is being read; so often the audit begins anew.
const ATTEMPTS: usize = 4;

/// What was found of one campaign.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CampaignFinding {
    /// Its name.
    pub campaign: String,
    /// All units.
    pub stock: u64,
    /// Held by nobody, says the book.
    pub free: u64,
    /// On their way to the database.
    pub accepted: u64,
    /// In claim rows.
    pub persisted: u64,
    /// In dead letters.
    pub dead: u64,
    /// `stock − (free + accepted + persisted + dead)`.
    pub error: i64,
    /// The same for the money of a red packet or of a sale with a price, in minor units.
    pub money_error: i64,
    /// Claims acknowledged.
    pub claims: u64,
    /// Claim rows.
    pub rows: u64,
}

/// What the audit found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Findings {
    /// Whether everything matches.
    pub clean: bool,
    /// The last entry that is in the database.
    pub cursor: u64,
    /// The last entry of the journal.
    pub journal_end: u64,
    /// Campaign by campaign.
    pub campaigns: Vec<CampaignFinding>,
    /// Receipts checked.
    pub receipts: u64,
    /// How many mismatches there are.
    pub mismatches: u64,
    /// The first of them, in words.
    pub named: Vec<String>,
}

impl Findings {
    fn mismatch(&mut self, what: String) {
        self.mismatches += 1;
        if self.named.len() < NAMED {
            self.named.push(what);
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    claims: u64,
    units: u64,
    money: i64,
}

impl Sums {
    fn add(&mut self, quantity: u64, money: i64) {
        self.claims += 1;
        self.units += quantity;
        self.money += money;
    }
}

/// Follows the journal into a book and sums up what lies behind the cursor.
struct Auditor {
    follower: Follower<'static>,
    cursor: Seq,
    waiting: Vec<Sums>,
}

impl Auditor {
    fn wait(&mut self, frame: &FrameView<'_>) -> Result<(), ReplayError> {
        for entry in frame.entries() {
            let (entry, _) = entry.map_err(ReplayError::entry(frame))?;
            if let (Event::Claimed(claim), true) = (&entry.event, entry.seq > self.cursor) {
                let at = claim.campaign.0 as usize;
                if self.waiting.len() <= at {
                    self.waiting.resize(at + 1, Sums::default());
                }
                self.waiting[at].add(claim.quantity.0, claim.amount.map_or(0, |a| a.0));
            }
        }
        Ok(())
    }
}

impl Visitor for Auditor {
    type Error = ReplayError;

    fn snapshot(&mut self, at: &SnapshotInfo, payload: &mut dyn std::io::Read) -> Result<(), ReplayError> {
        self.follower.snapshot(at, payload)
    }

    fn wanted(&self) -> Wanted {
        Wanted::After(self.cursor)
    }

    fn covered(&mut self, frame: &FrameView<'_>) -> Result<(), ReplayError> {
        self.wait(frame)
    }

    fn frame(&mut self, frame: &FrameView<'_>) -> Result<(), ReplayError> {
        self.wait(frame)?;
        self.follower.frame(frame)
    }

    fn restart(&mut self) {
        self.follower.restart();
        self.waiting.clear();
    }
}

/// What to look at.
pub struct Scope<'a> {
    /// The folder of journal and receipt keys.
    pub data_dir: &'a Path,
    /// One campaign; all for none.
    pub campaign: Option<CampaignId>,
    /// A file with one claim a line, as clients received them.
    pub receipts: Option<&'a Path>,
}

/// Audits.
///
/// # Errors
/// Why it could not be done; that is no mismatch.
pub async fn audit(scope: &Scope<'_>, store: &Database) -> anyhow::Result<Findings> {
    let disk = RealDisk::new(scope.data_dir.join("journal"));
    let identity = recover::identity(&disk)?;
    let identity = identity.ok_or_else(|| anyhow::anyhow!("{} holds no journal", scope.data_dir.display()))?;
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let position = store.position().await?;
        let cursor = position.map_or(Seq(0), |p| p.cursor);
        if let Some(position) = position.filter(|p| p.journal != identity.journal) {
            anyhow::bail!(
                "the database belongs to journal {:032x}, the data folder holds {:032x}",
                position.journal,
                identity.journal
            );
        }
        let follower = Follower::new(HashKey(identity.hash_key), u64::MAX);
        let mut auditor = Auditor { follower, cursor, waiting: Vec::new() };
        match journal::read(&disk, &mut auditor) {
            Ok(_) => return compare(scope, store, &auditor).await,
            Err(OpenError::Visitor(error)) => return Err(error.into()),
            // The server has drained and trimmed beyond the cursor that was read: begin anew from where it is now.
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(|| anyhow::anyhow!("the journal could not be read"), Into::into))
}

async fn compare(scope: &Scope<'_>, store: &Database, auditor: &Auditor) -> anyhow::Result<Findings> {
    let book = &auditor.follower.book;
    let mut findings = Findings { cursor: auditor.cursor.0, journal_end: book.last_seq().0, ..Findings::default() };
    if auditor.cursor > book.last_seq() {
        findings.mismatch(format!(
            "the database has entries up to {}, the journal ends at {}",
            auditor.cursor,
            book.last_seq()
        ));
    }
    let rows = sum_rows(store, auditor, &mut findings).await?;
    let dead = sum_dead(store, auditor, &mut findings).await?;
    for (no, campaign) in book.campaigns().iter().enumerate() {
        if scope.campaign.is_some_and(|id| id != campaign.spec.id) {
            continue;
        }
        let at = |sums: &[Sums]| sums.get(no).copied().unwrap_or_default();
        let (rows, dead, waiting) = (at(&rows), at(&dead), at(&auditor.waiting));
        let known = rows.units + dead.units + waiting.units + campaign.free.0;
        let (total, left) = campaign.money();
        let money = left.0 + rows.money + dead.money + waiting.money;
        let finding = CampaignFinding {
            campaign: campaign.spec.id.to_string(),
            stock: campaign.spec.stock.0,
            free: campaign.free.0,
            accepted: waiting.units,
            persisted: rows.units,
            dead: dead.units,
            error: campaign.spec.stock.0 as i64 - known as i64,
            money_error: total.0 - money,
            claims: campaign.winners().len(),
            rows: rows.claims,
        };
        if finding.error != 0 || finding.money_error != 0 {
            let (units, money) = (finding.error, finding.money_error);
            findings.mismatch(format!(
                "campaign {}: {units} units and {money} minor units unaccounted for",
                finding.campaign
            ));
        }
        let accounted = rows.claims + dead.claims + waiting.claims;
        if accounted != finding.claims {
            let (claims, id) = (finding.claims, &finding.campaign);
            findings
                .mismatch(format!("campaign {id}: {claims} claims were acknowledged, {accounted} are accounted for"));
        }
        findings.campaigns.push(finding);
    }
    if let Some(id) = scope.campaign.filter(|id| book.number(id).is_none()) {
        anyhow::bail!("there is no campaign {id} in the journal");
    }
    if let Some(file) = scope.receipts {
        check_receipts(scope, file, store, auditor, &mut findings).await?;
    }
    findings.clean = findings.mismatches == 0;
    Ok(findings)
}

async fn sum_rows(store: &Database, auditor: &Auditor, findings: &mut Findings) -> anyhow::Result<Vec<Sums>> {
    let book = &auditor.follower.book;
    let mut sums = vec![Sums::default(); book.campaigns().len()];
    let mut seen = HashSet::new();
    let mut after = Seq(0);
    loop {
        let page = store.scan(None, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.row.claim.seq;
        for stored in page.iter().filter(|s| s.row.claim.seq <= auditor.cursor) {
            let claim = &stored.row.claim;
            let no = book.number(&stored.row.campaign);
            let held = no.and_then(|no| book.campaign(no)?.winners().find(claim.claim_id));
            match held {
                None => findings.mismatch(format!("row {} of {} was never acknowledged", claim.claim_id, claim.user)),
                Some((held, amount)) => check_row(book, claim, no, &held, amount, findings),
            }
            if !seen.insert(claim.claim_id) {
                findings.mismatch(format!("row {} is there twice", claim.claim_id));
            }
            if let Some(no) = no {
                sums[no.0 as usize].add(claim.quantity.0, claim.amount.map_or(0, |a| a.0));
            }
        }
        if after >= auditor.cursor {
            break;
        }
    }
    Ok(sums)
}

/// Holds a row against what the book knows of its claim: whose it is, how much, for what.
fn check_row(
    book: &Book,
    claim: &Claim,
    no: Option<CampaignNo>,
    held: &Held,
    amount: Option<Money>,
    findings: &mut Findings,
) {
    let id = claim.claim_id;
    if u64::from(held.quantity) != claim.quantity.0 || amount.is_some_and(|amount| Some(amount) != claim.amount) {
        findings.mismatch(format!("row {id}: quantity or amount differs from the journal"));
    }
    let user = book.hash_key().user(&claim.user);
    let campaign = no.and_then(|no| book.campaign(no));
    if !campaign.is_some_and(|campaign| campaign.winners().of(user).any(|held| held.claim_id == id)) {
        findings.mismatch(format!("row {id}: the journal has another buyer than {}", claim.user));
    }
    let price = campaign.and_then(|campaign| campaign.spec.price);
    if price.is_some_and(|price| claim.amount != Some(Money(price.0 * i64::from(held.quantity)))) {
        findings.mismatch(format!("row {id}: the amount is not price × quantity"));
    }
}

async fn sum_dead(store: &Database, auditor: &Auditor, findings: &mut Findings) -> anyhow::Result<Vec<Sums>> {
    let book = &auditor.follower.book;
    let mut sums = vec![Sums::default(); book.campaigns().len()];
    let mut after = Seq(0);
    loop {
        let page = store.dead_claims(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.claim.seq;
        for row in page.iter().filter(|row| row.claim.seq <= auditor.cursor) {
            match book.number(&row.campaign) {
                Some(no) => sums[no.0 as usize].add(row.claim.quantity.0, row.claim.amount.map_or(0, |a| a.0)),
                None => findings.mismatch(format!("dead letter {} is of no known campaign", row.claim.claim_id)),
            }
        }
    }
    Ok(sums)
}

async fn check_receipts(
    scope: &Scope<'_>,
    file: &Path,
    store: &Database,
    auditor: &Auditor,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let keys = KeyRing::open(scope.data_dir)?;
    let book = &auditor.follower.book;
    let dead = dead_ids(store).await?;
    let open = std::fs::File::open(file).map_err(|e| anyhow::anyhow!("{}: {e}", file.display()))?;
    for (at, line) in std::io::BufReader::new(open).lines().enumerate() {
        let (line, at) = (line?, at + 1);
        if line.trim().is_empty() {
            continue;
        }
        findings.receipts += 1;
        let claim: serde_json::Value = match serde_json::from_str(&line) {
            Ok(claim) => claim,
            Err(error) => {
                findings.mismatch(format!("{} line {at}: {error}", file.display()));
                continue;
            }
        };
        let text = claim.get("receipt").and_then(serde_json::Value::as_str).unwrap_or_default();
        let fields = match fields_from_claim_json(&claim) {
            Ok(fields) => fields,
            Err(error) => {
                findings.mismatch(format!("{} line {at}: {error}", file.display()));
                continue;
            }
        };
        let id = fields.claim_id;
        if let Err(error) = keys.verify(text, &fields) {
            findings.mismatch(format!("{} line {at}: receipt of {id}: {}", file.display(), error.detail()));
            continue;
        }
        let no = book.number(&fields.campaign);
        if no.and_then(|no| book.campaign(no)?.winners().find(id)).is_none() {
            findings.mismatch(format!("line {at}: {id} was acknowledged to {}, but the journal lacks it", fields.user));
        } else if fields.seq <= auditor.cursor && !dead.contains(&id) {
            match store.claim(id).await?.map(|stored| stored.row.claim) {
                None => {
                    findings.mismatch(format!("line {at}: {id} was acknowledged to {}, but has no row", fields.user));
                }
                Some(row) => {
                    let promised = (fields.user, fields.quantity, fields.amount, fields.seq);
                    if (row.user, row.quantity, row.amount, row.seq) != promised {
                        findings.mismatch(format!("line {at}: the row of {id} differs from what was acknowledged"));
                    }
                }
            }
        }
    }
    Ok(())
}

async fn dead_ids(store: &Database) -> anyhow::Result<HashSet<ClaimId>> {
    let (mut ids, mut after) = (HashSet::new(), Seq(0));
    loop {
        let page = store.dead_claims(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(ids) };
        after = last.claim.seq;
        ids.extend(page.iter().map(|row| row.claim.claim_id));
    }
}
