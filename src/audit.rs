//! The audit: journal, rows, dead letters and receipts against each other, and the conservation equation over them.
//!
//! It reads only, beside a running server or after it. The order makes that sound: the database's cursor first, the rows
//! up to it, then the journal, which has at least as much. What lies behind the cursor is on its way, and no mismatch.

mod carts;
mod rows;
mod shared;

use std::collections::HashMap;
use std::io::BufRead;
use std::path::Path;

use serde::Serialize;

use crate::queue::HashKey;
use crate::queue::campaign::Campaign;
use crate::queue::journal::disk::RealDisk;
use crate::queue::journal::{self, FrameView, OpenError, SnapshotInfo, Visitor, Wanted};
use crate::queue::recover::{self, Follower, ReplayError};
use crate::queue::redis::client::Server;
use crate::receipts::{KeyRing, fields_from_claim_json};
use crate::sale::{CampaignId, CampaignNo, ClaimId, ClaimStatus, Entry, Event, Fate, Seq, Sku, UserId};
use crate::store::{Database, Store};
use rows::Sums;

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
    /// All units; none of a check-in, which has no stock.
    pub stock: Option<u64>,
    /// Held by nobody, says the book; none of a check-in.
    pub free: Option<u64>,
    /// On their way to the database.
    pub accepted: u64,
    /// In claim rows, neither paid nor given back.
    pub persisted: u64,
    /// Paid.
    pub settled: u64,
    /// Given back or expired.
    pub returned: u64,
    /// In dead letters, and not given back.
    pub dead: u64,
    /// `stock − (free + accepted + persisted + settled + dead)`; of a check-in what was acknowledged and is not accounted for.
    pub error: i64,
    /// The same for the money of a red packet or of a sale with a price, in minor units.
    pub money_error: i64,
    /// Claims that are held, wherever they are.
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
    /// Entries that `forebay recover` was told to go on without: the first and the last of each stretch.
    pub accepted_losses: Vec<(u64, u64)>,
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

/// Follows the journal into a book and notes what lies behind the cursor.
struct Auditor {
    follower: Follower<'static>,
    cursor: Seq,
    /// Claims behind the cursor.
    waiting: HashMap<ClaimId, Waiting>,
    /// Ends behind the cursor, of those claims and of older ones.
    ending: HashMap<ClaimId, Fate>,
    /// Operations on carts, all that the journal still holds behind its snapshot.
    carts: HashMap<UserId, Vec<(Seq, Sku, u32)>>,
}

/// A claim behind the cursor.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    campaign: CampaignNo,
    units: u64,
    money: i64,
}

impl Auditor {
    fn new(key: HashKey, cursor: Seq) -> Self {
        let follower = Follower::new(key, u64::MAX);
        Self { follower, cursor, waiting: HashMap::new(), ending: HashMap::new(), carts: HashMap::new() }
    }

    fn note(&mut self, frame: &FrameView<'_>) -> Result<(), ReplayError> {
        for entry in frame.entries() {
            self.note_entry(&entry.map_err(ReplayError::entry(frame))?.0);
        }
        Ok(())
    }

    fn note_entry(&mut self, entry: &Entry) {
        match &entry.event {
            Event::Carted(c) => self.carts.entry(c.user).or_default().push((entry.seq, c.sku, c.quantity)),
            _ if entry.seq <= self.cursor => {}
            Event::Claimed(claim) => {
                let (units, money) = (claim.quantity.0, claim.amount.map_or(0, |a| a.0));
                self.waiting.insert(claim.claim_id, Waiting { campaign: claim.campaign, units, money });
            }
            Event::Moved(moved) => drop(self.ending.insert(moved.claim_id, moved.to)),
            _ => {}
        }
    }

    /// What became of a claim, as far as the journal goes: an end that is in the database already, and is later, is none yet.
    fn fate(&self, id: ClaimId, status: ClaimStatus, ended: Option<Seq>) -> Option<Fate> {
        let in_row = [Fate::Settled, Fate::Cancelled, Fate::Expired].into_iter().find(|fate| fate.status() == status);
        let known = ended.is_none_or(|seq| seq <= self.follower.book.last_seq());
        in_row.filter(|_| known).or_else(|| self.ending.get(&id).copied())
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
        self.note(frame)
    }

    fn frame(&mut self, frame: &FrameView<'_>) -> Result<(), ReplayError> {
        self.note(frame)?;
        self.follower.frame(frame)
    }

    fn restart(&mut self) {
        self.follower.restart();
        self.waiting.clear();
        self.ending.clear();
        self.carts.clear();
    }
}

/// What to look at.
pub struct Scope<'a> {
    /// The folder of journal and receipt keys.
    pub data_dir: &'a Path,
    /// The Redis that many gates share; none for a journal.
    pub redis: Option<&'a Server>,
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
    if let Some(server) = scope.redis {
        return shared::audit(scope, server, store).await;
    }
    let disk = RealDisk::new(scope.data_dir.join("journal"));
    let identity = recover::identity(&disk)?;
    let identity = identity.ok_or_else(|| anyhow::anyhow!("{} holds no journal", scope.data_dir.display()))?;
    let (mut last, mut found) = (None, None);
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
        let mut auditor = Auditor::new(HashKey(identity.hash_key), cursor);
        match journal::read(&disk, &mut auditor) {
            Ok(_) => {
                let findings = compare(scope, store, &auditor).await?;
                let moved = store.position().await?.is_some_and(|now| now.cursor > cursor);
                if findings.clean || !moved {
                    return Ok(findings);
                }
                // Rows and letters that changed while they were read prove nothing: begin anew.
                found = Some(findings);
            }
            Err(OpenError::Visitor(error)) => return Err(error.into()),
            // The server has drained and trimmed beyond the cursor that was read: begin anew from where it is now.
            Err(error) => last = Some(error),
        }
    }
    if let Some(findings) = found {
        return Ok(findings);
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
    findings.accepted_losses = store.losses().await?;
    let sums = rows::sum_up(store, auditor, &mut findings).await?;
    for (no, campaign) in book.campaigns().iter().enumerate() {
        if scope.campaign.is_none_or(|id| id == campaign.spec.id) {
            let finding = of_campaign(campaign, sums.get(no).copied().unwrap_or_default(), &mut findings);
            findings.campaigns.push(finding);
        }
    }
    carts::check(store, auditor, &mut findings).await?;
    if let Some(id) = scope.campaign.filter(|id| book.number(id).is_none()) {
        anyhow::bail!("there is no campaign {id} in the journal");
    }
    if let Some(file) = scope.receipts {
        check_receipts(scope, file, store, auditor, &mut findings).await?;
    }
    findings.clean = findings.mismatches == 0;
    Ok(findings)
}

/// The conservation equation over what the book, the journal and the rows say of a campaign.
fn of_campaign(campaign: &Campaign, sums: Sums, findings: &mut Findings) -> CampaignFinding {
    let (stock, free) = campaign.units();
    let (total, left) = campaign.money();
    let held = [sums.accepted, sums.persisted, sums.settled, sums.dead];
    let units: u64 = held.iter().map(|sum| sum.units).sum();
    let money: i64 = held.iter().map(|sum| sum.money).sum();
    let claims: u64 = held.iter().map(|sum| sum.claims).sum();
    let finding = CampaignFinding {
        campaign: campaign.spec.id.to_string(),
        stock: campaign.spec.has_stock().then_some(stock.0),
        free: campaign.spec.has_stock().then_some(free.0),
        accepted: sums.accepted.units,
        persisted: sums.persisted.units,
        settled: sums.settled.units,
        returned: sums.returned.units,
        dead: sums.dead.units,
        error: stock.0 as i64 - (units + free.0) as i64,
        money_error: total.0 - (money + left.0),
        claims,
        rows: sums.rows,
    };
    let id = &finding.campaign;
    if finding.error != 0 || finding.money_error != 0 {
        let (units, money) = (finding.error, finding.money_error);
        findings.mismatch(format!("campaign {id}: {units} units and {money} minor units unaccounted for"));
    }
    // A check-in remembers the buyers of a day, a campaign that is long over none.
    let held = campaign.winners().len();
    if campaign.spec.has_stock() && !campaign.released && held != claims {
        findings.mismatch(format!("campaign {id}: {held} claims are held, {claims} are accounted for"));
    }
    finding
}

async fn check_receipts(
    scope: &Scope<'_>,
    file: &Path,
    store: &Database,
    auditor: &Auditor,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let keys = KeyRing::open(scope.data_dir)?;
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
        if fields.seq > auditor.cursor {
            if !auditor.waiting.contains_key(&id) {
                let user = fields.user;
                findings.mismatch(format!("line {at}: {id} was acknowledged to {user}, but the journal lacks it"));
            }
        } else {
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
