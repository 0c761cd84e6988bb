//! Receipts: one holds for the claim that it was signed for, spelled as it was, and for nothing else.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::sync::OnceLock;

use forebay::receipts::{FOLDER, KeyRing, ReceiptFields, fields_from_claim_json};
use forebay::sale::{CampaignId, ClaimId, Currency, Durability, Money, Seq, Timestamp, Units, UserId};
use serde_json::{Value, json};

/// Two keys that are the same in every run.
pub fn keys() -> &'static KeyRing {
    static KEYS: OnceLock<KeyRing> = OnceLock::new();
    KEYS.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("forebay-fuzz-{}", std::process::id()));
        DirBuilder::new().mode(0o700).recursive(true).create(folder.join(FOLDER)).expect("a folder");
        for no in [1, 2] {
            let path = folder.join(FOLDER).join(format!("k{no}.key"));
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).expect("a file");
            writeln!(file, "{}", format!("0{no}").repeat(32)).expect("a key");
        }
        let keys = KeyRing::open(&folder).expect("keys");
        std::fs::remove_dir_all(&folder).expect("the folder is there");
        keys
    })
}

/// The claim of which the targets' receipts are.
pub fn claim() -> ReceiptFields {
    ReceiptFields {
        campaign: CampaignId::parse("sale").expect("an id"),
        user: UserId::parse("u1").expect("an id"),
        claim_id: ClaimId([7; 16]),
        quantity: Units(2),
        amount: Some(Money(1_980)),
        currency: Currency::parse("CNY"),
        seq: Seq(17),
        accepted_at: Timestamp(1_800_000_000_000_123),
        durability: Durability::Disk,
    }
}

/// A claim as an answer shows it.
pub fn shown(f: &ReceiptFields, receipt: &str) -> Value {
    json!({
        "claim_id": f.claim_id.to_string(), "campaign": f.campaign.as_str(), "user": f.user.as_str(),
        "quantity": f.quantity.0, "amount": f.amount.map(|m| m.0), "currency": f.currency.as_ref().map(|c| c.as_str()),
        "status": "accepted", "version": 1, "seq": f.seq.0, "accepted_at": f.accepted_at.to_string(),
        "durability": f.durability.as_str(), "receipt": receipt,
    })
}

/// The first byte says what the rest is: a receipt's text, changes to one, changes to its claim, or a claim's JSON.
pub fn run(data: &[u8]) {
    let Some((&what, rest)) = data.split_first() else { return };
    match what % 4 {
        0 => {
            if let Ok(text) = std::str::from_utf8(rest) {
                check(text, &claim());
            }
        }
        1 => {
            let mut text = keys().sign_with(1 + u16::from(what >> 7), &claim()).expect("a key").as_bytes().to_vec();
            for pair in rest.chunks_exact(2) {
                let at = usize::from(pair[0]) % text.len();
                text[at] = pair[1];
            }
            if let Ok(text) = std::str::from_utf8(&text) {
                check(text, &claim());
            }
        }
        2 => changed_claim(rest),
        _ => whole_claim(rest),
    }
}

/// A text holds exactly where it is what one of the keys signs.
fn check(text: &str, fields: &ReceiptFields) {
    let signed = [1, 2].iter().any(|&no| keys().sign_with(no, fields).is_some_and(|r| r.as_str() == text));
    let verdict = keys().verify(text, fields);
    assert_eq!(verdict.is_ok(), signed, "{text:?}");
    if let Err(error) = verdict {
        assert_eq!(error.to_string(), "the receipt does not hold for this claim", "which key is missing is not told");
        assert!(!error.detail().is_empty());
    }
}

/// Nine bytes each: which value is changed, and into what, or which bits of it.
fn changed_claim(changes: &[u8]) {
    let (own, mut other) = (claim(), claim());
    for change in changes.chunks_exact(9) {
        let number = u64::from_le_bytes(change[1..].try_into().expect("eight bytes"));
        let name = format!("u{number}");
        match change[0] % 9 {
            0 => other.campaign = CampaignId::parse(&name).expect("an id"),
            1 => other.user = UserId::parse(&name).expect("an id"),
            2 => other.claim_id.0[..8].copy_from_slice(&change[1..]),
            3 => other.quantity.0 ^= number,
            4 => other.amount = other.amount.filter(|_| number != 0).map(|m| Money(m.0 ^ number as i64)),
            5 => other.currency = (change[1] & 1 == 0).then(|| Currency::parse("EUR")).flatten(),
            6 => other.seq.0 ^= number,
            7 => other.accepted_at.0 ^= number as i64,
            _ => other.durability = if change[1] & 1 == 0 { Durability::Disk } else { Durability::Memory },
        }
    }
    let receipt = keys().sign(&own);
    assert_eq!(keys().verify(receipt.as_str(), &other).is_ok(), own == other, "{other:?}");
}

fn whole_claim(json: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(json) else { return };
    let Ok(fields) = fields_from_claim_json(&value) else { return };
    assert_eq!(value["campaign"], fields.campaign.as_str());
    assert_eq!(value["user"], fields.user.as_str());
    assert_eq!(value["claim_id"].as_str().map(str::to_ascii_lowercase), Some(fields.claim_id.to_string()));
    assert_eq!((value["quantity"].as_u64(), value["seq"].as_u64()), (Some(fields.quantity.0), Some(fields.seq.0)));
    assert_eq!(value["amount"].as_i64(), fields.amount.map(|m| m.0));
    assert_eq!(value["currency"].as_str(), fields.currency.as_ref().map(|c| c.as_str()));
    assert_eq!(value["durability"], fields.durability.as_str());
    let given = value["receipt"].as_str().unwrap_or_default();
    check(given, &fields);
    check(keys().sign(&fields).as_str(), &fields);
}
