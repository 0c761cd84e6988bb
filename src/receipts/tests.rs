//! What a receipt must and must not vouch for, and how its keys are kept.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::*;

fn fields() -> ReceiptFields {
    ReceiptFields {
        campaign: CampaignId::parse("sample-sale").unwrap(),
        user: UserId::parse("u1").unwrap(),
        claim_id: ClaimId([7; 16]),
        quantity: Units(1),
        amount: Some(Money(990)),
        currency: Currency::parse("CNY"),
        seq: Seq(17),
        accepted_at: Timestamp(1_795_176_000_000_123),
        durability: Durability::Disk,
    }
}

fn ring() -> (tempfile::TempDir, KeyRing) {
    let folder = tempfile::tempdir().unwrap();
    let ring = KeyRing::open_or_create(folder.path()).unwrap();
    (folder, ring)
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

#[test]
fn a_receipt_holds_for_its_claim_and_for_no_other() {
    let (_folder, ring) = ring();
    let receipt = ring.sign(&fields());
    assert_eq!(ring.verify(receipt.as_str(), &fields()), Ok(()));
    assert_eq!((&receipt.as_str()[..3], receipt.as_bytes().len()), ("k1.", 46));
    let other = fields();
    let tampered = [
        ReceiptFields { campaign: CampaignId::parse("sample-sal").unwrap(), ..other },
        ReceiptFields { user: UserId::parse("u2").unwrap(), ..other },
        ReceiptFields { claim_id: ClaimId([8; 16]), ..other },
        ReceiptFields { quantity: Units(2), ..other },
        ReceiptFields { amount: Some(Money(991)), ..other },
        ReceiptFields { amount: None, ..other },
        ReceiptFields { amount: Some(Money(0)), ..other },
        ReceiptFields { currency: Currency::parse("EUR"), ..other },
        ReceiptFields { currency: None, ..other },
        ReceiptFields { seq: Seq(18), ..other },
        ReceiptFields { accepted_at: Timestamp(1_795_176_000_000_124), ..other },
        ReceiptFields { durability: Durability::Memory, ..other },
    ];
    for changed in tampered {
        assert_eq!(ring.verify(receipt.as_str(), &changed), Err(ReceiptError::Mismatch(1)), "{changed:?}");
    }
}

#[test]
fn a_letter_that_moves_from_campaign_to_buyer_changes_the_receipt() {
    let (_folder, ring) = ring();
    let named = |campaign, user| ReceiptFields {
        campaign: CampaignId::parse(campaign).unwrap(),
        user: UserId::parse(user).unwrap(),
        ..fields()
    };
    assert_ne!(ring.sign(&named("sale1", "u1")), ring.sign(&named("sale", "1u1")));
    assert_ne!(
        ring.sign(&ReceiptFields { amount: None, ..fields() }),
        ring.sign(&ReceiptFields { amount: Some(Money(0)), ..fields() })
    );
}

#[test]
fn the_longest_names_fit() {
    let (_folder, ring) = ring();
    let long = ReceiptFields {
        campaign: CampaignId::parse(&"c".repeat(64)).unwrap(),
        user: UserId::parse(&"u".repeat(64)).unwrap(),
        ..fields()
    };
    assert_eq!(long.encode().1, MESSAGE_MAX);
    assert_eq!(ring.verify(ring.sign(&long).as_str(), &long), Ok(()));
}

#[test]
fn the_encoding_is_the_one_that_earlier_versions_signed() {
    let ring =
        KeyRing { folder: PathBuf::new(), keys: BTreeMap::from([(65_535, keyed(&[0x5a; 32]))]), current: 65_535 };
    // Computed apart from this code, with Python's hmac over the documented layout.
    assert_eq!(ring.sign(&fields()).as_str(), "k65535.EPG6UaDGAR7wCv8CRYR56_Aun6bcXL7S8r5AYbgHCy8");
}

#[test]
fn every_damaged_text_is_refused_without_saying_why() {
    let (_folder, ring) = ring();
    let good = ring.sign(&fields()).to_string();
    let mac = &good[3..];
    let cases = [
        "",
        "k",
        "k1",
        "k1.",
        "k.",
        ".",
        &format!("k01.{mac}"),
        &format!("k+1.{mac}"),
        &format!("1.{mac}"),
        &format!("k1.{mac}="),
        &format!("k1.{}", &mac[1..]),
        &format!("k1. {mac}"),
        &format!("k0.{mac}"),
        &format!("k65536.{mac}"),
        &format!("k2.{mac}"),
        &format!("k1.{}é", &mac[2..]),
    ];
    for text in cases {
        let error = ring.verify(text, &fields()).unwrap_err();
        assert_eq!(error.to_string(), ReceiptError::Mismatch(1).to_string(), "{text:?}");
    }
    assert_eq!(ring.verify(&format!("k2.{mac}"), &fields()), Err(ReceiptError::UnknownKey(Some(2))));
    for at in 3..good.len() {
        let mut text = good.clone().into_bytes();
        text[at] = if text[at] == b'A' { b'B' } else { b'A' };
        let text = String::from_utf8(text).unwrap();
        assert!(ring.verify(&text, &fields()).is_err(), "{text}");
    }
    assert_ne!(ReceiptError::UnknownKey(Some(2)).detail(), ReceiptError::Mismatch(2).detail());
}

#[test]
fn a_new_key_signs_and_the_old_one_still_verifies_after_a_restart() {
    let (folder, mut ring) = ring();
    let first = ring.sign(&fields());
    assert_eq!((ring.rotate().unwrap(), ring.current_key()), (2, 2));
    let second = ring.sign(&fields());
    assert!(second.as_str().starts_with("k2.") && second != first);
    for ring in [ring, KeyRing::open_or_create(folder.path()).unwrap(), KeyRing::open(folder.path()).unwrap()] {
        assert_eq!(ring.current_key(), 2);
        assert_eq!(ring.verify(first.as_str(), &fields()), Ok(()));
        assert_eq!(ring.verify(second.as_str(), &fields()), Ok(()));
        assert_eq!(ring.sign_with(1, &fields()), Some(first), "a repeated answer is the same byte for byte");
        assert_eq!(ring.sign_with(3, &fields()), None);
    }
}

#[test]
fn another_installation_cant_sign_for_this_one() {
    let ((_a, ours), (_b, theirs)) = (ring(), ring());
    assert_eq!(ours.verify(theirs.sign(&fields()).as_str(), &fields()), Err(ReceiptError::Mismatch(1)));
}

#[test]
fn keys_are_for_this_user_only() {
    let (folder, ring) = ring();
    let keys = folder.path().join(FOLDER);
    let key = keys.join("k1.key");
    assert_eq!((mode(&keys), mode(&key)), (0o700, 0o600));
    assert_eq!(std::fs::read_to_string(&key).unwrap().len(), 65);
    assert!(!format!("{ring:?}").contains(&std::fs::read_to_string(&key).unwrap()[..8]));
    std::fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    let error = KeyRing::open_or_create(folder.path()).unwrap_err().to_string();
    assert!(error.contains("mode 0640") && error.contains("chmod 600"), "{error}");
    std::fs::set_permissions(&key, Permissions::from_mode(0o400)).unwrap();
    assert!(KeyRing::open_or_create(folder.path()).is_ok());
    std::fs::set_permissions(&keys, Permissions::from_mode(0o770)).unwrap();
    let error = KeyRing::open_or_create(folder.path()).unwrap_err().to_string();
    assert!(error.contains("mode 0770") && error.contains("chmod 700"), "{error}");
}

#[test]
fn a_damaged_key_is_refused_and_never_replaced() {
    let (folder, _ring) = ring();
    let key = folder.path().join(FOLDER).join("k1.key");
    for damage in ["", "\n", &"0".repeat(63), &"g".repeat(64), &"0".repeat(66), "kurz"] {
        std::fs::write(&key, damage).unwrap();
        let error = KeyRing::open_or_create(folder.path()).unwrap_err();
        assert!(matches!(error, KeyError::Unreadable { .. }), "{damage:?}: {error}");
        assert_eq!(std::fs::read_to_string(&key).unwrap(), damage);
    }
}

#[test]
fn what_a_crash_left_of_a_new_key_is_not_a_key() {
    let (folder, mut ring) = ring();
    let left = folder.path().join(FOLDER).join("k2.key.tmp");
    std::fs::write(&left, "half").unwrap();
    assert_eq!(KeyRing::open_or_create(folder.path()).unwrap().current_key(), 1);
    assert_eq!(ring.rotate().unwrap(), 2);
    assert!(!left.exists());
    assert_eq!(KeyRing::open(folder.path()).unwrap().current_key(), 2);
}

#[test]
fn a_claim_as_a_client_received_it_can_be_checked() {
    let (_folder, ring) = ring();
    let body = json!({
        "claim_id": fields().claim_id.to_string(), "campaign": "sample-sale", "user": "u1", "quantity": 1,
        "amount": 990,
        "currency": "CNY", "status": "persisted", "version": 1, "seq": 17,
        "accepted_at": fields().accepted_at.to_string(), "durability": "disk", "receipt": "k1.…",
    });
    assert_eq!(fields_from_claim_json(&body), Ok(fields()));
    let mut free = body.clone();
    (free["amount"], free["currency"]) = (Value::Null, Value::Null);
    let without = ReceiptFields { amount: None, currency: None, ..fields() };
    assert_eq!(fields_from_claim_json(&free), Ok(without));
    assert_eq!(ring.verify(ring.sign(&without).as_str(), &fields_from_claim_json(&free).unwrap()), Ok(()));
    let table = [
        ("claim_id", json!("x")),
        ("campaign", json!("")),
        ("user", json!(1)),
        ("quantity", json!(-1)),
        ("quantity", json!(1.0)),
        ("amount", json!("990")),
        ("currency", json!("cny")),
        ("seq", json!(null)),
        ("accepted_at", json!("today")),
        ("durability", json!("tape")),
    ];
    for (field, value) in table {
        let mut body = body.clone();
        body[field] = value;
        assert_eq!(fields_from_claim_json(&body).unwrap_err().field, field);
    }
    for field in ["claim_id", "campaign", "user", "quantity", "seq", "accepted_at", "durability"] {
        let mut body = body.clone();
        body.as_object_mut().unwrap().remove(field);
        assert_eq!(fields_from_claim_json(&body).unwrap_err().field, field);
    }
}
