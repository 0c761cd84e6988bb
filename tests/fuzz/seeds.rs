//! What the fuzzers begin with: bytes that the product's own encoders make, and the examples of the tests and of the
//! document.

use forebay::queue::{AdminAction, AdminCommand, Book, ClaimCommand, codec};
use forebay::sale::campaign::CampaignPatch;
use forebay::sale::{
    Asked, CampaignNo, CampaignSpec, CartKey, CartOp, Carted, Changed, Claim, ClaimId, Created, Durability, Entry,
    Event, Fate, KeyHash, Money, Moved, Seq, Sku, Timestamp, Units, UserId, red_packet::Seed,
};

use crate::targets::snapshot::KEY;
use crate::targets::{format, journal, receipt};

type Seeds = Vec<(String, Vec<u8>)>;

const NOON: Timestamp = Timestamp(1_800_000_000_000_000);

const SALE: &str = r#"{"id":"sample-sale","kind":"flash_sale","title":"Sample","opens_at":"2026-11-20T12:00:00Z",
"closes_at":"2036-11-20T20:00:00+08:00","per_user_limit":2,"stock":50,"currency":"CNY","price":990,
"red_packet":null,"check_in":null,"reservation_ttl":"15m"}"#;
const PACKET: &str = r#"{"id":"sample-packet","kind":"red_packet","opens_at":"2026-11-20T12:00:00Z",
"closes_at":"2036-11-21T12:00:00Z","stock":40,"currency":"CNY",
"red_packet":{"total":4000,"min":1,"max":300,"split":"random"}}"#;
const COUPON: &str = r#"{"id":"c","kind":"coupon","opens_at":"2026-11-20T12:00:00Z","closes_at":"2036-11-21T12:00:00Z",
"per_user_limit":1000,"stock":1000}"#;
const CHECK_IN: &str = r#"{"id":"sample-checkin","kind":"check_in","opens_at":"2026-11-20T12:00:00Z",
"closes_at":"2036-11-21T12:00:00Z","check_in":{"points":10,"time_zone":"Asia/Shanghai"},"stock":null}"#;
const PATCH: &str = r#"{"state":"paused","add_stock":-5,"add_total":100,"opens_at":"2026-11-20T12:00:00Z",
"closes_at":"2036-11-21T12:00:00Z"}"#;

/// A target's seeds by their names.
pub fn of(target: &str) -> Seeds {
    match target {
        "codec" => codec_seeds(),
        "config" => config_seeds(),
        "journal" => journal_seeds(),
        "receipt" => receipt_seeds(),
        "request" => request_seeds(),
        "snapshot" => snapshot_seeds(),
        "target" => target_seeds(),
        other => panic!("no target {other}"),
    }
}

fn named<'a>(seeds: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Seeds {
    seeds.into_iter().map(|(name, bytes)| (format!("seed-{name}"), bytes)).collect()
}

/// Behind the byte that chooses.
fn behind(first: u8, rest: &[u8]) -> Vec<u8> {
    std::iter::once(first).chain(rest.iter().copied()).collect()
}

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn spec(json: &str) -> CampaignSpec {
    CampaignSpec::parse(json.as_bytes()).unwrap()
}

fn claim(amount: Option<i64>, key: Option<u128>) -> Claim {
    let u1 = user("u1");
    Claim {
        claim_id: ClaimId::new(NOON, KEY.user(&u1), 1),
        campaign: CampaignNo(0),
        user: u1,
        quantity: Units(1),
        amount: amount.map(Money),
        hold: 0,
        receipt_key: 1,
        key: key.map(KeyHash),
        seq: Seq(1),
        accepted_at: NOON,
        durability: Durability::Disk,
    }
}

fn codec_seeds() -> Seeds {
    let asked = Asked { by: "ann".to_owned(), key: Some(KeyHash(7)) };
    let created = |json| {
        let (no, seed, asked) = (CampaignNo(0), Seed([5; 16]), asked.clone());
        Event::Created(Box::new(Created { no, spec: spec(json), seed, asked }))
    };
    let patch = CampaignPatch::parse(PATCH.as_bytes()).unwrap();
    let moved = |to, amount: Option<i64>| {
        let (claim_id, campaign, quantity) = (claim(None, None).claim_id, CampaignNo(0), Units(1));
        let (by, reason, amount) = ("orders".into(), "gone".into(), amount.map(Money));
        Event::Moved(Moved { claim_id, campaign, quantity, amount, to, by, reason })
    };
    let carted = |op, key| {
        let (user, sku) = (user("u1"), Sku::parse("sku-1").unwrap());
        Event::Carted(Carted { user, sku, op, quantity: 3, key, address: 9 })
    };
    let key = Some(CartKey { hash: KeyHash(7), payload: 8 });
    let events = [
        ("claim", vec![Event::Claimed(claim(None, None))]),
        ("claim-with-all", vec![Event::Claimed(claim(Some(990), Some(7)))]),
        ("sale", vec![created(SALE)]),
        ("packet", vec![created(PACKET)]),
        ("check-in", vec![created(CHECK_IN)]),
        ("change", vec![Event::Changed(Box::new(Changed { no: CampaignNo(0), patch, asked: asked.clone() }))]),
        ("settled", vec![moved(Fate::Settled, Some(990))]),
        ("cancelled", vec![moved(Fate::Cancelled, None), moved(Fate::Expired, None)]),
        ("released", vec![Event::Released(CampaignNo(3))]),
        ("void", vec![Event::Void, Event::Void]),
        ("carts", vec![carted(CartOp::Add(2), None), carted(CartOp::Set(3), key), carted(CartOp::Remove, None)]),
    ];
    let bytes = |events: &[Event]| {
        let mut out = vec![2];
        events.iter().for_each(|event| codec::encode(&mut out, event));
        out
    };
    named(events.iter().map(|(name, events)| (*name, bytes(events))))
}

/// A book in which something of everything has happened.
fn book() -> Book {
    let mut book = Book::new(KEY, 1 << 24);
    let enter = |book: &mut Book, event| {
        let (seq, at) = (book.next_seq(), NOON);
        book.apply(&Entry { seq, at, event });
    };
    for (no, json) in (0..).zip([SALE, PACKET, CHECK_IN, COUPON]) {
        let asked = Asked { by: "ann".to_owned(), key: Some(KeyHash(no.into())) };
        let created = Created { no: CampaignNo(no), spec: spec(json), seed: Seed([5; 16]), asked };
        enter(&mut book, Event::Created(Box::new(created)));
    }
    for (n, campaign) in [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 3), (7, 3)] {
        let (user, campaign) = (user(&format!("u{n}")), CampaignNo(campaign));
        let user_hash = KEY.user(&user);
        let claim_id = ClaimId::new(NOON, user_hash, n);
        let key = (n % 2 == 0).then_some(KeyHash(u128::from(n)));
        let command = ClaimCommand { campaign, quantity: 1, receipt_key: 1, user, user_hash, claim_id, key };
        let verdict = book.decide(NOON, Durability::Disk, &command);
        let forebay::queue::book::Verdict::Accept(claim) = verdict else { panic!("{verdict:?}") };
        enter(&mut book, Event::Claimed(claim));
        if matches!(n, 2 | 4) {
            let to = if n == 2 { Fate::Settled } else { Fate::Cancelled };
            let (campaign, quantity, amount) = (claim.campaign, claim.quantity, claim.amount);
            let (by, reason) = ("orders".into(), "".into());
            enter(&mut book, Event::Moved(Moved { claim_id, campaign, quantity, amount, to, by, reason }));
        }
    }
    let key = Some(CartKey { hash: KeyHash(70), payload: 8 });
    let (user, sku, op) = (user("u1"), Sku::parse("sku-1").unwrap(), CartOp::Add(2));
    enter(&mut book, Event::Carted(Carted { user, sku, op, quantity: 2, key, address: 9 }));
    enter(&mut book, Event::Released(CampaignNo(3)));
    book
}

fn snapshot_seeds() -> Seeds {
    let image = |book: &Book| {
        let mut bytes = Vec::new();
        book.save(&mut bytes).unwrap();
        bytes
    };
    let (full, empty) = (image(&book()), image(&Book::new(KEY, 1 << 20)));
    let one = |json: &str| {
        let mut book = Book::new(KEY, 1 << 24);
        let action = AdminAction::Create(spec(json), Seed([5; 16]));
        let made = book.decide_admin(&AdminCommand { asked: Asked::default(), action });
        let Ok(forebay::queue::book::AdminVerdict::Enter(event, _)) = made else { panic!("{made:?}") };
        book.apply(&Entry { seq: Seq(1), at: NOON, event: *event });
        image(&book)
    };
    named([
        ("full", behind(0, &full)),
        ("empty", behind(0, &empty)),
        ("sale", behind(0, &one(SALE))),
        ("packet", behind(0, &one(PACKET))),
        ("check-in", behind(0, &one(CHECK_IN))),
        ("file", behind(1, &full)),
        ("file-flipped", behind(3 + (9 << 2), &full)),
        ("file-flipped-first", behind(3, &full)),
    ])
}

fn journal_seeds() -> Seeds {
    use journal::operation;
    let frames = |base: usize| journal::bases()[base].files[format::FIRST][format::HEADER..].to_vec();
    let used = |base: usize| {
        let frames = frames(base);
        let end = frames.iter().rposition(|&b| b != 0).map_or(0, |at| at + 1);
        frames[..end].to_vec()
    };
    let raw = |recycled: u8, frames: &[u8]| [&[0, recycled][..], frames].concat();
    let places = journal::places();
    let place = |end: &str| places.iter().find(|(name, _)| name.ends_with(end)).map_or(0, |(_, at)| *at as u8);
    let with = |how: u8, base: u8, operations: &[Vec<u8>]| [&[how, base][..], &operations.concat()].concat();
    let half = used(0).len() as u16 / 2;
    let inside = 4_096 + half;
    let mut seeds = named([
        ("raw", raw(0, &used(0))),
        ("raw-marked", raw(0, &used(1))),
        ("raw-recycled", raw(1, &frames(2))),
        ("raw-torn", raw(0, &used(0)[..used(0).len() - 20])),
        ("raw-nothing", raw(0, &[])),
        ("snapshot-flipped", with(1, 4, &[operation(0, place(".snap"), 5_000, 0, 0x300)])),
        ("snapshot-gone", with(1, 4, &[operation(7, place(".snap"), 0, 0, 0)])),
        ("snapshot-resealed", with(2, 4, &[operation(1, place(".snap"), 4_200, 0, 0x4100)])),
    ]);
    for base in 0..journal::bases().len() as u8 {
        for (name, how, operations) in [
            ("whole", 1, vec![]),
            ("flipped", 1, vec![operation(0, 0, inside, 0, 0x0300)]),
            ("zeroed", 1, vec![operation(2, 0, inside, 0, 40)]),
            ("short", 1, vec![operation(3, 0, inside, 0, 0)]),
            ("spliced", 1, vec![operation(4, 0, inside, 4_096, 200)]),
            ("doubled", 1, vec![operation(5, 0, 4_096, inside, 104)]),
            ("cut", 1, vec![operation(6, 0, inside, 0, 8)]),
            ("gone", 1, vec![operation(7, 0, 0, 0, 0)]),
            ("copied", 1, vec![operation(8, 0, 0, 0, 0x0200)]),
            ("resealed", 2, vec![operation(1, 0, inside, 0, 0x4100)]),
            ("resealed-header", 2, vec![operation(1, 0, 4_096 + 12, 0, 0x0500)]),
        ] {
            seeds.push((format!("seed-{name}-{base}"), with(how, base, &operations)));
        }
    }
    seeds
}

fn request_seeds() -> Seeds {
    let text = |first, body: &str| behind(first, body.as_bytes());
    named([
        ("claim", text(0, r#"{"user":"u1","quantity":1}"#)),
        ("claim-escaped", text(0, r#" { "quantity" : 7 , "user" : "\u0075\u0031" } "#)),
        ("claim-twice", text(0, r#"{"user":"u1","user":"u2"}"#)),
        ("batch", text(1, r#"{"claims":[{"user":"u1","quantity":1,"idempotency_key":"k1"},{"user":"u2"}]}"#)),
        ("batch-vast", text(1, r#"{"claims":[{"user":"u1","quantity":18446744073709551616}]}"#)),
        ("batch-negative", text(1, r#"{"claims":[{"user":"u1","quantity":-1},{"user":"a b"}]}"#)),
        ("cart-add", text(2, r#"{"sku":"s1","op":"add","quantity":3}"#)),
        ("cart-set", text(2, r#"{"sku":"s1","op":"set","quantity":0}"#)),
        ("cart-remove", text(2, r#"{"sku":"s1","op":"remove"}"#)),
        ("cart-list", text(2, r#"["s1","add",3]"#)),
        ("sale", text(3, SALE)),
        ("packet", text(3, PACKET)),
        ("coupon", text(3, COUPON)),
        ("check-in", text(3, CHECK_IN)),
        (
            "packet-list",
            text(
                3,
                &PACKET.replace(r#"{"total":4000,"min":1,"max":300,"split":"random"}"#, r#"[4000,1,300,"random"]"#),
            ),
        ),
        ("patch", text(4, PATCH)),
        ("patch-state", text(4, r#"{"state":"closed"}"#)),
        ("patch-state-object", text(4, r#"{"state":{"open":null}}"#)),
        ("drop", text(5, r#"{"reason":"the buyer's account is gone"}"#)),
        ("drop-white", text(5, r#"{"reason":" \t"}"#)),
    ])
}

fn target_seeds() -> Seeds {
    let text = |first, rest: &str| behind(first, rest.as_bytes());
    let id = "0192f0c1-7d2e-7c3a-8f00-3a6b1c2d4e5f";
    named([
        ("claims", text(0, "/v1/campaigns/sample-sale/claims")),
        ("batch", text(0, "/v1/campaigns/sale/claims:batch")),
        ("campaign", text(0, "/v1/campaigns/s%61le")),
        ("campaigns", text(0, "/v1/campaigns")),
        ("slash", text(0, "/v1/campaigns/a%2Fb")),
        ("not-text", text(0, "/v1/claims/%ff")),
        ("settle", text(0, &format!("/v1/claims/{id}/settle"))),
        ("items", text(0, "/v1/carts/u1/items")),
        ("of-user", text(0, "/v1/users/u%40x/claims")),
        ("query", text(1, "wait=3&utm_source=x&cursor=AAAAAAAAAAE&limit=40")),
        ("query-twice", text(1, "wait=3&w%61it=3")),
        ("query-odd", text(1, "wait=+3&&=&limit=%zz%4&cursor")),
        ("names", text(2, &format!("u1\nA.b_c:d@e|f+g=h-i\n{id}\nAAAAAAAAAAE\ns/1"))),
        ("etag", text(3, "W/\"17\"")),
        ("etags", text(3, "\"1\", \"17\"\n*")),
        ("key", text(4, "0b7d-retry-1")),
        ("keys", text(4, "a\nb")),
        ("forwarded-for", text(5, "6.6.6.6, 198.51.100.7, 10.0.0.2")),
        ("forwarded", text(5, ";for=198.51.100.7;proto=https, for=10.0.0.2")),
        ("forwarded-quoted", text(5, ";host=\"a, for=6.6.6.6\";for=\"[2001:db8::7]:4711\"")),
        ("forwarded-both", text(5, "198.51.100.7:4711\n;For=198.51.100.7")),
        ("bearer", text(6, "Bearer fuzz-token-0123")),
        ("bearer-spaces", text(6, "bEARER   fuzz-token-0123 ")),
        (
            "lengths",
            text(7, "\x06POST / HTTP/1.1\r\nContent-Length: 5\r\ncontent-type: a\r\n\r\nx\r\nCONTENT-LENGTH: 1"),
        ),
    ])
}

fn receipt_seeds() -> Seeds {
    let own = receipt::claim();
    let signed = receipt::keys().sign(&own);
    let old = receipt::keys().sign_with(1, &own).unwrap();
    let json = receipt::shown(&own, signed.as_str()).to_string();
    let bare = forebay::receipts::ReceiptFields { amount: None, currency: None, ..own };
    named([
        ("whole", behind(0, signed.as_bytes())),
        ("older-key", behind(0, old.as_bytes())),
        ("strange-key", behind(0, signed.as_str().replace("k2", "k65535").as_bytes())),
        ("padded", behind(0, format!("{signed}=").as_bytes())),
        ("changed", vec![1, 9, b'A']),
        ("unchanged", vec![1]),
        ("other-user", behind(2, &[1, 9, 0, 0, 0, 0, 0, 0, 0])),
        ("other-amount", behind(2, &[4, 2, 0, 0, 0, 0, 0, 0, 0])),
        ("other-quantity", behind(2, &[3, 1, 0, 0, 0, 0, 0, 0, 0])),
        ("other-seq", behind(2, &[6, 1, 0, 0, 0, 0, 0, 0, 0])),
        ("other-time", behind(2, &[7, 1, 0, 0, 0, 0, 0, 0, 0])),
        ("json", behind(3, json.as_bytes())),
        ("json-bare", behind(3, receipt::shown(&bare, receipt::keys().sign(&bare).as_str()).to_string().as_bytes())),
        ("json-changed", behind(3, json.replace("\"quantity\":2", "\"quantity\":3").as_bytes())),
    ])
}

fn config_seeds() -> Seeds {
    let keys = "[[service_keys]]\nname = \"orders\"\nscopes = [\"claims:write\", \"read\"]\nsha256 = \
                \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"\n";
    named([
        ("nothing", b"\n".to_vec()),
        ("some", b"[ingest]\nlisten = \"127.0.0.1:8080\"\nthreads = 2\nauth = \"service\"\n[cache]\nlocal_ttl = \"2s\"\n".to_vec()),
        ("keys", format!("[ingest]\nauth = \"service\"\n{keys}").into_bytes()),
        ("buffer", b"[buffer]\ndurability = \"memory\"\nmax_entries = 10_000_000\nkeep_journal = \"24h\"\n".to_vec()),
        ("lists", b"[ingest]\ntrusted_proxies = [\"10.0.0.0/8\", \"::1\"]\ncors_origins = [\"https://shop.example\"]\n".to_vec()),
        ("rates", b"[antiscalper]\nuser_rate = \"10/s\"\naddress_rate = \"off\"\nmax_keys = 1_000_000\n".to_vec()),
        ("world", b"[ingest]\nlisten = \"0.0.0.0:80\"\nadmin_listen = \"unix:/run/f.sock\"\n".to_vec()),
        ("token", b"[ingest]\nadmin_listen = \"0.0.0.0:81\"\nadmin_token = \"0123456789012345678\"\nthreads = -1\n".to_vec()),
        ("token-open", b"[ingest]\nadmin_token = \"0123456789012345678\n".to_vec()),
        ("typo", b"[ingest]\nlisen = \"127.0.0.1:8080\"\n[stor]\nurl = 3\n".to_vec()),
        ("environment", b"[workers]\ncount = 1\n\0FOREBAY_WORKERS__BATCH_MAX=500\0FOREBAY_INGEST__TRUSTED_PROXIES=::1, 10.0.0.1".to_vec()),
        ("store", b"[store]\nurl = \"sqlite:data/f.db\"\nreplica_url = \"postgres://u:p@h/d\"\n[redis]\nurl = \"redis://h\"\n".to_vec()),
    ])
}
