//! The partition as a book, for the audit: who holds what, says Redis, and which entries wait.

use redis::{Value, cmd};

use super::super::book::{Book, HashKey};
use super::super::campaign::Campaign;
use super::client::{CallError, Connection};
use super::protocol::{self, CampaignNow, ProtocolError, Status};
use crate::limits;
use crate::sale::red_packet::Seed;
use crate::sale::{Asked, CampaignNo, Claim, Created, Durability, Entry, Seq, Timestamp, Units, UserId};

/// What was read.
#[derive(Debug)]
pub struct Snapshot {
    /// The campaigns with the claims that are held.
    pub book: Book,
    /// The last entry that Redis knows to be in the database.
    pub retired: Seq,
    /// The entries after it.
    pub waiting: Vec<Entry>,
}

fn unreadable(error: ProtocolError) -> CallError {
    CallError::Protocol(error.0)
}

fn status(connection: &mut Connection) -> Result<Status, CallError> {
    protocol::status(&connection.call("status", &[b""])?).map_err(unreadable)
}

/// Reads all of it; none where something came or went meanwhile. Buyers are hashed with `key`.
///
/// # Errors
/// Redis', or what no library writes.
pub fn read(connection: &mut Connection, key: HashKey) -> Result<Option<Snapshot>, CallError> {
    let before = status(connection)?;
    let mut all: Vec<CampaignNow> = Vec::new();
    let mut from = Seq(0);
    loop {
        if !before.is_open {
            return Ok(None);
        }
        let (after, most) = (from.0.to_string(), limits::POLL_CAMPAIGNS_MAX.to_string());
        let changes = connection.call("changes", &[after.as_bytes(), most.as_bytes()])?;
        let changes = protocol::changes(&changes).map_err(unreadable)?;
        let count = changes.campaigns.len();
        (from, all) = (changes.seq, [all, changes.campaigns].concat());
        if count < limits::POLL_CAMPAIGNS_MAX {
            break;
        }
    }
    all.sort_by_key(|campaign| campaign.no);
    let mut book = Book::new(key, u64::MAX);
    for now in all {
        let campaign = campaign(connection, now, key)?;
        book.enter(CampaignNo(book.campaigns().len() as u32), campaign);
    }
    let waiting = waiting(connection, before.retired, before.entries)?;
    let after = status(connection)?;
    let is_same = (before.epoch, before.seq, before.retired) == (after.epoch, after.seq, after.retired);
    book.last = after.seq;
    Ok((is_same && after.is_open).then_some(Snapshot { book, retired: after.retired, waiting }))
}

fn waiting(connection: &mut Connection, retired: Seq, entries: u64) -> Result<Vec<Entry>, CallError> {
    let key = connection.key("list");
    let mut all = Vec::new();
    while (all.len() as u64) < entries {
        let (first, last) = (all.len(), all.len() + limits::SNAPSHOT_ENTRIES - 1);
        let some = connection.command(cmd("LRANGE").arg(&key).arg(first).arg(last))?;
        let Value::Array(items) = some else { return Err(CallError::Protocol("the list".to_owned())) };
        if items.is_empty() {
            break;
        }
        for item in &items {
            let seq = retired.plus(all.len() as u64 + 1);
            let bytes = protocol::bytes(item).map_err(unreadable)?;
            all.push(protocol::entry(bytes, seq, Durability::Disk).map_err(unreadable)?);
        }
    }
    Ok(all)
}

/// A campaign with the claims that are held.
fn campaign(connection: &mut Connection, now: CampaignNow, key: HashKey) -> Result<Campaign, CallError> {
    let created = Created { no: now.no, spec: now.spec.clone(), seed: Seed([0; 16]), asked: Asked::default() };
    let mut campaign = Campaign::new(&created, 0);
    if now.is_released {
        drop(campaign.release());
    } else {
        let mut claims = holds(connection, now.no)?;
        // Ids are made in the order of time, or nearly: all that is asked here is that two looks see the same.
        claims.sort_by_key(|(claim, _)| claim.claim_id);
        for (claim, is_settled) in claims {
            let held = campaign.free.minus(claim.quantity).is_some() || campaign.spec.check_in.is_some();
            let share = claim.amount.filter(|_| campaign.spec.red_packet.is_some()).unwrap_or_default();
            if !held || share > campaign.left {
                return Err(CallError::Protocol(format!(
                    "more is held of campaign {} than there is",
                    campaign.spec.id
                )));
            }
            drop(campaign.apply_claim(&claim, key.user(&claim.user)));
            if is_settled {
                campaign.winners.settle(claim.claim_id);
            }
        }
    }
    campaign.wish = now.wish;
    (campaign.free, campaign.left) = (now.free, now.left);
    (campaign.version, campaign.stock_version) = (now.version, now.stock_version);
    (campaign.acknowledged, campaign.closed_at) = (now.acknowledged, now.closed_at);
    campaign.today = now.today;
    Ok(campaign)
}

/// What is held of a campaign, and whether it is paid.
fn holds(connection: &mut Connection, no: CampaignNo) -> Result<Vec<(Claim, bool)>, CallError> {
    let key = connection.key(&format!("h:{}", no.0));
    let (mut all, mut cursor) = (Vec::new(), "0".to_owned());
    loop {
        let scan = connection.command(cmd("HSCAN").arg(&key).arg(&cursor).arg("COUNT").arg(limits::HOLDERS_SCAN))?;
        let wrong = || CallError::Protocol("who holds claims".to_owned());
        let Value::Array(parts) = scan else { return Err(wrong()) };
        let [Value::BulkString(next), Value::Array(pairs)] = &parts[..] else { return Err(wrong()) };
        for pair in pairs.chunks(2) {
            let [user, records] = pair else { return Err(wrong()) };
            let user = protocol::bytes(user).ok().and_then(|bytes| std::str::from_utf8(bytes).ok());
            let user = user.and_then(|user| UserId::parse(user).ok()).ok_or_else(wrong)?;
            for hold in protocol::layout::holds(protocol::bytes(records).map_err(unreadable)?).map_err(unreadable)? {
                let claim = Claim {
                    claim_id: hold.claim_id,
                    campaign: no,
                    user,
                    quantity: Units(hold.quantity.into()),
                    amount: hold.amount,
                    hold: hold.hold,
                    receipt_key: 0,
                    key: None,
                    seq: Seq(0),
                    accepted_at: Timestamp(0),
                    durability: Durability::Disk,
                };
                all.push((claim, hold.settled));
            }
        }
        cursor = String::from_utf8_lossy(next).into_owned();
        if cursor == "0" {
            return Ok(all);
        }
    }
}
