//! The pieces of a claim's path on a front-end thread: what comes in, what is refused on the spot, what goes out.
//!
//! `cargo bench --bench claim_path`. Each group prints a hash of what it produced once, before it is timed.

mod support;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput};
use forebay::antiscalper::Antiscalper;
use forebay::ingest::reply::ClaimDocument;
use forebay::ingest::request::ClaimBody;
use forebay::queue::book::Verdict;
use forebay::queue::journal::disk::RealDisk;
use forebay::queue::journal::{Identity, Options};
use forebay::queue::recover::{Start, recover};
use forebay::queue::{Published, Sequencer, Settings};
use forebay::receipts::{KeyRing, ReceiptFields};
use forebay::sale::{CampaignState, Claim, ClaimStatus, Currency, Durability, Seq, UserId};
use support::{BATCH, HASH, NOW, book, claim, created, decide_batch, result_hash, spec};

fn decided(n: u64) -> Claim {
    let Verdict::Accept(claim) = book(1_000).decide(NOW, Durability::Disk, &claim(n)) else { panic!("refused") };
    claim
}

fn parsing(c: &mut Criterion) {
    let body = br#"{"user":"u00000001","quantity":1}"#;
    let parsed = ClaimBody::parse(body).unwrap_or_else(|_| panic!("a claim"));
    result_hash("claim_path.parse", crc32c::crc32c(format!("{parsed:?}").as_bytes()));
    c.bench_function("claim_path/parse a body", |b| b.iter(|| ClaimBody::parse(black_box(body)).is_ok()));
    c.bench_function("claim_path/hash a buyer", |b| b.iter(|| HASH.user(black_box(&parsed.user))));
}

fn answering(c: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let keys = KeyRing::open_or_create(folder.path()).expect("keys");
    let (claim, campaign, currency) = (decided(1), spec(1).id, Currency::parse("CNY"));
    let document =
        ClaimDocument { claim: &claim, campaign: &campaign, currency, status: ClaimStatus::Accepted, version: 1 };
    let mut out = Vec::with_capacity(512);
    document.write(&mut out, &keys);
    // The receipt comes last and depends on a key that is new in each run.
    let fixed = out.len() - 60;
    result_hash("claim_path.document", crc32c::crc32c(&out[..fixed]));
    c.bench_function("claim_path/sign a receipt", |b| {
        b.iter(|| {
            let promised = ReceiptFields::of(black_box(&claim), campaign, currency);
            keys.sign_with(claim.receipt_key, &promised)
        });
    });
    c.bench_function("claim_path/write a claim with its receipt", |b| {
        b.iter(|| {
            out.clear();
            black_box(&document).write(&mut out, &keys);
            out.len()
        });
    });
}

fn limiting(c: &mut Criterion) {
    let rate = |text: &str| text.parse().expect("a rate");
    let users: Vec<_> = (0..1_000_000u64).map(|n| format!("u{n:08}")).collect();
    let antiscalper = Antiscalper::new(rate("10/s"), rate("off"), 1 << 20);
    let address = Antiscalper::new(rate("10/s"), rate("100/s"), 1 << 20);
    let mut next = users.iter().zip(0u32..).cycle();
    let mut group = c.benchmark_group("claim_path");
    group.throughput(Throughput::Elements(1));
    group.bench_function("limit a buyer never seen", |b| {
        b.iter(|| antiscalper.check(next.next().map(|(u, _)| u.as_str()), None).is_ok());
    });
    group.bench_function("limit a buyer and an address never seen", |b| {
        b.iter(|| {
            let (user, n) = next.next().expect("a cycle has no end");
            address.check(Some(user), Some(std::net::Ipv4Addr::from(0x0a00_0000 | n).into())).is_ok()
        });
    });
    group.finish();
}

/// What a refusal on the spot costs before any of HTTP: the snapshot, the buyer's hash and the filter.
fn refusing(c: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let identity = Identity { journal: 7, hash_key: HASH.0 };
    let mut progress = |_, _| {};
    let start = Start {
        options: Options::default(),
        memory_max: u64::MAX,
        cursor: None,
        known: Seq(0),
        progress: &mut progress,
    };
    let mut live = recover(RealDisk::new(folder.path()), identity, start).expect("a journal");
    let stock = 256 * BATCH as u64;
    live.book.apply(&created(stock));
    let winners: Vec<_> = (0..stock).map(claim).collect();
    assert_eq!(u64::from(decide_batch(&mut live.book, &winners, &mut Vec::new())), stock);
    let published = Arc::new(Published::new(live.pending));
    let settings =
        Settings { durability: Durability::Disk, max_entries: 1_000, settle_grace: 0, release_after: i64::MAX };
    let _sequencer = Sequencer::new(live.book, live.journal.writer, published.clone(), settings);
    let id = spec(1).id;
    let refused = |user: &UserId| {
        let campaigns = published.views.load();
        let Some(view) = campaigns.get(&id) else { panic!("the campaign is published") };
        view.state(NOW) == CampaignState::Open && view.free().0 == 0 && !view.may_hold(HASH.user(user))
    };
    let strangers: Vec<_> = (stock..stock + 100_000).map(|n| claim(n).user).collect();
    assert!(!winners.iter().any(|w| refused(&w.user)), "no holder is refused on the spot");
    let count = strangers.iter().filter(|s| refused(s)).count();
    assert!(count > 99_000, "{count} of 100,000 strangers");
    result_hash("claim_path.refused", count as u32);
    let mut next = strangers.iter().cycle();
    c.bench_function("claim_path/refuse a stranger on the spot", |b| {
        b.iter(|| refused(next.next().expect("a cycle has no end")));
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    parsing(&mut criterion);
    answering(&mut criterion);
    limiting(&mut criterion);
    refusing(&mut criterion);
    criterion.final_summary();
}
