//! Short ways to say what the tests talk about.

use forebay::queue::{AdminAction, AdminCommand, Book, ClaimCommand, HashKey, MoveCommand};
use forebay::sale::campaign::CampaignPatch;
use forebay::sale::red_packet::Seed;
use forebay::sale::{
    Asked, CampaignId, CampaignNo, CampaignSpec, Claim, ClaimId, Durability, Fate, KeyHash, Money, Seq, Span,
    Timestamp, Units, UserId,
};

pub const HASH: HashKey = HashKey([3; 16]);
/// An instant within every window that these tests make.
pub const NOON: Timestamp = Timestamp(1_800_000_000_000_000);
pub const MEMORY: u64 = 1 << 30;

pub fn user(n: u32) -> UserId {
    UserId::parse(&format!("u{n}")).unwrap()
}

pub fn id(text: &str) -> CampaignId {
    CampaignId::parse(text).unwrap()
}

/// A sale that is open a minute before and after [`NOON`].
pub fn sale(name: &str, stock: u64, limit: u64) -> CampaignSpec {
    let (opens, closes) = (NOON.plus_micros(-60_000_000), NOON.plus_micros(60_000_000));
    let json = format!(
        r#"{{"id":"{name}","kind":"flash_sale","opens_at":"{opens}","closes_at":"{closes}","stock":{stock},
            "per_user_limit":{limit},"currency":"CNY","price":250}}"#
    );
    CampaignSpec::parse(json.as_bytes()).unwrap()
}

/// A red packet in the same window.
pub fn packet(name: &str, shares: u64, limit: u64, (total, min, max): (i64, i64, Option<i64>)) -> CampaignSpec {
    let (opens, closes) = (NOON.plus_micros(-60_000_000), NOON.plus_micros(60_000_000));
    let max = max.map_or("null".to_owned(), |m| m.to_string());
    let json = format!(
        r#"{{"id":"{name}","kind":"red_packet","opens_at":"{opens}","closes_at":"{closes}","stock":{shares},
            "per_user_limit":{limit},"currency":"CNY","red_packet":{{"total":{total},"min":{min},"max":{max}}}}}"#
    );
    CampaignSpec::parse(json.as_bytes()).unwrap()
}

/// Units without a price, in the same window.
pub fn coupon(name: &str, stock: u64, limit: u64) -> CampaignSpec {
    let (opens, closes) = (NOON.plus_micros(-60_000_000), NOON.plus_micros(60_000_000));
    let json = format!(
        r#"{{"id":"{name}","kind":"coupon","opens_at":"{opens}","closes_at":"{closes}","stock":{stock},
            "per_user_limit":{limit}}}"#
    );
    CampaignSpec::parse(json.as_bytes()).unwrap()
}

/// A check-in of 10 points that is open from 2020 to 2040.
pub fn check_in(name: &str, zone: &str) -> CampaignSpec {
    let json = format!(
        r#"{{"id":"{name}","kind":"check_in","opens_at":"2020-01-01T00:00:00Z","closes_at":"2040-01-01T00:00:00Z",
            "check_in":{{"points":10,"time_zone":"{zone}"}}}}"#
    );
    CampaignSpec::parse(json.as_bytes()).unwrap()
}

/// The same campaign, but its claims must be settled within so many seconds.
pub fn expiring(spec: CampaignSpec, seconds: i64) -> CampaignSpec {
    CampaignSpec { reservation_ttl: Some(Span(seconds * 1_000_000)), ..spec }
}

/// A wish to end a claim of campaign `no`.
pub fn end(no: u32, claim_id: ClaimId, to: Fate) -> MoveCommand {
    MoveCommand { claim_id, campaign: CampaignNo(no), user: user(0), to, by: "orders".into(), reason: Box::default() }
}

pub fn key(no: u32, buyer: u32, key: u32) -> KeyHash {
    HASH.key(CampaignNo(no), &user(buyer), &format!("k{key}"))
}

/// `buyer` asks for `quantity` units of campaign `no`; `serial` makes the claim's id.
pub fn claim(no: u32, buyer: u32, quantity: u32, serial: u64) -> ClaimCommand {
    let name = user(buyer);
    let user_hash = HASH.user(&name);
    let claim_id = ClaimId::new(NOON.plus_micros(serial as i64), user_hash, serial);
    ClaimCommand { campaign: CampaignNo(no), quantity, receipt_key: 1, user: name, user_hash, claim_id, key: None }
}

pub fn create(spec: &CampaignSpec) -> AdminCommand {
    AdminCommand { asked: Asked::default(), action: AdminAction::Create(spec.clone(), Seed([5; 16])) }
}

pub fn change(name: &str, patch: CampaignPatch, key: Option<u32>) -> AdminCommand {
    let key = key.map(|k| HASH.admin_key(name, &format!("a{k}")));
    AdminCommand { asked: Asked { by: "test".to_owned(), key }, action: AdminAction::Change(id(name), patch) }
}

/// A claim as it stands in the journal.
pub fn decided(command: &ClaimCommand, seq: u64, amount: Option<i64>) -> Claim {
    Claim {
        claim_id: command.claim_id,
        campaign: command.campaign,
        user: command.user,
        quantity: Units(command.quantity.into()),
        amount: amount.map(Money),
        hold: 0,
        receipt_key: 1,
        key: command.key,
        seq: Seq(seq),
        accepted_at: NOON,
        durability: Durability::Disk,
    }
}

/// Whatever a book's image holds.
pub fn image(book: &Book) -> Vec<u8> {
    let mut bytes = Vec::new();
    book.save(&mut bytes).unwrap();
    bytes
}
