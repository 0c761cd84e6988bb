//! The canonical input of the benches, and how they print what they found.
//!
//! Buyers are `u00000000`, `u00000001` and so on, hashed with a fixed key; claim ids are made of the buyer and the same
//! number. Nothing is drawn at random, so that the hash that each section prints over its result depends on the code
//! alone: it changes when the behaviour does, and an optimiser can't drop the work.

#![allow(dead_code, reason = "each bench is a crate of its own and uses a part of this")]

use std::time::Duration;

use forebay::queue::book::AdminVerdict;
use forebay::queue::{AdminAction, AdminCommand, Book, ClaimCommand, HashKey, codec};
use forebay::sale::red_packet::Seed;
use forebay::sale::{Asked, CampaignNo, CampaignSpec, ClaimId, Durability, Entry, Seq, Timestamp, UserId};

/// Claims in a batch: what 256 connections have under way.
pub const BATCH: usize = 256;
pub const HASH: HashKey = HashKey([7; 16]);
/// 2027-01-15T08:00:00Z, within the campaign's window.
pub const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

/// Whether this is `cargo bench` proper, and not a run that only shows that the benches still work.
pub fn measuring() -> bool {
    let mut args = std::env::args();
    args.any(|a| a == "--bench") && std::env::args().all(|a| a != "--test")
}

/// Records of the large sections: `FOREBAY_BENCH_RECORDS`, 10 million where it isn't set, few where nothing is
/// measured.
pub fn records() -> u64 {
    if !measuring() {
        return 20_000;
    }
    std::env::var("FOREBAY_BENCH_RECORDS").ok().map_or(10_000_000, |text| {
        text.parse().unwrap_or_else(|_| panic!("FOREBAY_BENCH_RECORDS is {text:?}, expected a number"))
    })
}

/// One figure, on a line that a script finds.
pub fn figure(name: &str, value: f64, unit: &str) {
    println!("figure {name} = {value:.3} {unit}");
}

/// The hash of a section's result.
pub fn result_hash(name: &str, hash: u32) {
    println!("hash {name} = {hash:08x}");
}

/// Millions a second.
pub fn millions(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64() / 1e6
}

/// Bytes of memory that this process has in use.
pub fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|p| p.parse().ok()).unwrap_or(0);
    // Pages of 4 KiB on every machine that we measure on.
    pages * 4096
}

/// The `n`-th buyer's claim of one unit.
pub fn claim(n: u64) -> ClaimCommand {
    let user = UserId::parse(&format!("u{n:08}")).expect("an id");
    let user_hash = HASH.user(&user);
    // A thousand claims a millisecond, as ids are made in a burst.
    let claim_id = ClaimId::new(NOW.plus_micros(n as i64), user_hash, n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    ClaimCommand { campaign: CampaignNo(0), quantity: 1, receipt_key: 1, user, user_hash, claim_id, key: None }
}

/// An open sale of one unit a buyer.
pub fn spec(stock: u64) -> CampaignSpec {
    let (opens, closes) = (NOW.plus_micros(-1_000_000), NOW.plus_micros(3_600_000_000));
    let json = format!(
        r#"{{"id":"sale-2027","kind":"flash_sale","opens_at":"{opens}","closes_at":"{closes}","stock":{stock},
            "currency":"CNY","price":990}}"#
    );
    CampaignSpec::parse(json.as_bytes()).expect("a sound campaign")
}

/// The creation of that sale as it is entered into an empty book.
pub fn created(stock: u64) -> Entry {
    let action = AdminAction::Create(spec(stock), Seed([1; 16]));
    let verdict = Book::new(HASH, u64::MAX).decide_admin(&AdminCommand { asked: Asked::default(), action });
    let Ok(AdminVerdict::Enter(event, _)) = verdict else { panic!("a new campaign is created") };
    Entry { seq: Seq(1), at: NOW, event: *event }
}

/// A book with that sale.
pub fn book(stock: u64) -> Book {
    let mut book = Book::new(HASH, u64::MAX);
    book.apply(&created(stock));
    book
}

/// What the sequencer does with a batch between its queue and its disk: reads ahead, decides, encodes, applies.
/// Gives the claims that were accepted.
pub fn decide_batch(book: &mut Book, batch: &[ClaimCommand], frame: &mut Vec<u8>) -> u32 {
    let touched = batch.iter().map(|c| book.touch(c));
    std::hint::black_box(touched.fold(0, u64::wrapping_add));
    let mut accepted = 0;
    for command in batch {
        if let forebay::queue::book::Verdict::Accept(claim) = book.decide(NOW, Durability::Disk, command) {
            codec::encode_claim(frame, &claim);
            book.apply_claim(&claim, command.user_hash);
            accepted += 1;
        }
    }
    accepted
}
