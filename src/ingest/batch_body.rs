//! The JSON of a batch of claims, read without copying it.
//!
//! What is no such document is refused as a whole, before anything is submitted: a claim of the wrong shape may be a caller
//! who means something else by all of them. A value of the right shape that is out of range concerns its claim alone, and is
//! found by [`Member::check`].

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::reply::Problem;
use super::request::{ClaimBody, Text, check_key};
use crate::limits;

/// Claims that there is room for from the start.
const USUAL: usize = 128;

/// One claim of a batch, of the right shape.
#[derive(Debug, PartialEq, Eq)]
pub struct Member<'a> {
    user: Cow<'a, str>,
    /// Of what is beyond 64 bits, about so much.
    quantity: i128,
    key: Option<Cow<'a, str>>,
}

impl Member<'_> {
    /// The claim, and its idempotency key.
    ///
    /// # Errors
    /// [`Problem::Invalid`] that names the field as a single claim would, and what was expected of it.
    pub fn check(&self) -> Result<(ClaimBody, Option<&str>), Problem> {
        let wanted = ClaimBody::new(&self.user, self.quantity)?;
        Ok((wanted, self.key.as_deref().map(check_key).transpose()?))
    }
}

/// Reads `{"claims":[{"user":"u1","quantity":1,"idempotency_key":"k1"},…]}` with 1 to [`limits::BATCH_MAX`] claims;
/// `quantity` (1) and `idempotency_key` may be absent, nothing else may be there.
///
/// # Errors
/// [`Problem::Invalid`] with the path of the field, `claims[3].quantity`, and what was expected of it.
pub fn parse(json: &[u8]) -> Result<Vec<Member<'_>>, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let parsed = Batch::deserialize(&mut reader).and_then(|batch| reader.end().map(|()| batch));
    // The path that serde took costs time to follow, so it is followed only when something is wrong.
    match parsed {
        Ok(batch) => Ok(batch.0),
        Err(_) => Ok(crate::sale::campaign::from_json::<Batch<'_>>(json)?.0),
    }
}

struct Batch<'a>(Vec<Member<'a>>);

impl<'de> Deserialize<'de> for Batch<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(BatchVisitor)
    }
}

struct BatchVisitor;

impl<'de> Visitor<'de> for BatchVisitor {
    type Value = Batch<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with claims")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Batch<'de>, A::Error> {
        let mut claims = None;
        while let Some(name) = map.next_key::<Text<'de>>()? {
            match &*name.0 {
                "claims" if claims.is_none() => claims = Some(map.next_value::<Claims<'de>>()?.0),
                "claims" => return Err(de::Error::duplicate_field("claims")),
                other => return Err(de::Error::unknown_field(other, &["claims"])),
            }
        }
        claims.map(Batch).ok_or_else(|| de::Error::missing_field("claims"))
    }
}

struct Claims<'a>(Vec<Member<'a>>);

impl<'de> Deserialize<'de> for Claims<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(ClaimsVisitor)
    }
}

struct ClaimsVisitor;

impl<'de> Visitor<'de> for ClaimsVisitor {
    type Value = Claims<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of 1 to {} claims", limits::BATCH_MAX)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Claims<'de>, A::Error> {
        let mut claims = Vec::with_capacity(USUAL);
        while let Some(member) = list.next_element()? {
            if claims.len() == limits::BATCH_MAX {
                return Err(de::Error::custom(format_args!(
                    "more than {0} given; expected 1 to {0}",
                    limits::BATCH_MAX
                )));
            }
            claims.push(member);
        }
        if claims.is_empty() {
            return Err(de::Error::custom(format_args!("none given; expected 1 to {}", limits::BATCH_MAX)));
        }
        Ok(Claims(claims))
    }
}

impl<'de> Deserialize<'de> for Member<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(MemberVisitor)
    }
}

struct MemberVisitor;

impl<'de> Visitor<'de> for MemberVisitor {
    type Value = Member<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with user, quantity and idempotency_key")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Member<'de>, A::Error> {
        const FIELDS: &[&str] = &["user", "quantity", "idempotency_key"];
        let (mut user, mut quantity, mut key) = (None, None, None);
        while let Some(name) = map.next_key::<Text<'de>>()? {
            match &*name.0 {
                "user" if user.is_none() => user = Some(map.next_value::<Text<'de>>()?.0),
                "quantity" if quantity.is_none() => quantity = Some(map.next_value::<Whole>()?.0),
                "idempotency_key" if key.is_none() => key = Some(map.next_value::<Text<'de>>()?.0),
                "user" => return Err(de::Error::duplicate_field("user")),
                "quantity" => return Err(de::Error::duplicate_field("quantity")),
                "idempotency_key" => return Err(de::Error::duplicate_field("idempotency_key")),
                other => return Err(de::Error::unknown_field(other, FIELDS)),
            }
        }
        let user = user.ok_or_else(|| de::Error::missing_field("user"))?;
        Ok(Member { user, quantity: quantity.unwrap_or(1), key })
    }
}

/// A whole number of any size: one that is out of range is still of the right shape.
struct Whole(i128);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_u64(WholeVisitor)
    }
}

struct WholeVisitor;

impl Visitor<'_> for WholeVisitor {
    type Value = Whole;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Whole, E> {
        Ok(Whole(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Whole, E> {
        Ok(Whole(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Whole, E> {
        // serde_json has no other type for whole numbers beyond 64 bits.
        if value.abs() >= i64::MAX as f64 {
            return Ok(Whole(value as i128));
        }
        Err(de::Error::invalid_type(de::Unexpected::Float(value), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(problem: Problem) -> (String, String) {
        let Problem::Invalid { field, expected } = problem else { panic!("{problem:?}") };
        (field, expected)
    }

    #[test]
    fn a_batch_is_a_list_of_claims_each_with_its_user_quantity_and_key() {
        let json = br#" { "claims" : [ {"user":"u1"}, {"quantity":7,"user":"\u0075\u0032"},
            {"idempotency_key":"order-\u0031","user":"u3","quantity":2} ] } "#;
        let members = parse(json).unwrap();
        let seen: Vec<_> = members.iter().map(|m| m.check().unwrap()).collect();
        let seen: Vec<_> = seen.iter().map(|(claim, key)| (claim.user.as_str(), claim.quantity, *key)).collect();
        assert_eq!(seen, [("u1", 1, None), ("u2", 7, None), ("u3", 2, Some("order-1"))]);
    }

    #[test]
    fn texts_without_escapes_are_borrowed() {
        let json = br#"{"claims":[{"user":"u1","idempotency_key":"k"}]}"#;
        let members = parse(json).unwrap();
        assert!(matches!((&members[0].user, &members[0].key), (Cow::Borrowed("u1"), Some(Cow::Borrowed("k")))));
    }

    #[test]
    fn what_is_no_batch_is_refused_as_a_whole_with_the_path_of_what_is_wrong() {
        for (json, field) in [
            ("", ""),
            ("[]", ""),
            ("null", ""),
            ("{", ""),
            ("{}", "claims"),
            (r#"{"claims":null}"#, "claims"),
            (r#"{"claims":{}}"#, "claims"),
            (r#"{"claims":[]}"#, "claims"),
            (r#"{"claims":[{"user":"u"}],"claims":[{"user":"u"}]}"#, "claims"),
            (r#"{"claims":[{"user":"u"}],"campaign":"c"}"#, "campaign"),
            (r#"{"claims":[{"user":"u"}]} x"#, ""),
            (r#"{"claims":[{"user":"u"},]}"#, "claims"),
            (r#"{"claims":[{"user":"u"},17]}"#, "claims[1]"),
            (r#"{"claims":[{"user":"u"},null]}"#, "claims[1]"),
            (r#"{"claims":[{"user":"u"},{}]}"#, "claims[1].user"),
            (r#"{"claims":[{"user":"u"},{"quantity":1}]}"#, "claims[1].user"),
            (r#"{"claims":[{"user":null}]}"#, "claims[0].user"),
            (r#"{"claims":[{"user":1}]}"#, "claims[0].user"),
            (r#"{"claims":[{"user":"u","user":"v"}]}"#, "claims[0].user"),
            (r#"{"claims":[{"user":"u","amount":1}]}"#, "claims[0].amount"),
            (r#"{"claims":[{"user":"u","quantity":null}]}"#, "claims[0].quantity"),
            (r#"{"claims":[{"user":"u","quantity":1.0}]}"#, "claims[0].quantity"),
            (r#"{"claims":[{"user":"u","quantity":1e3}]}"#, "claims[0].quantity"),
            (r#"{"claims":[{"user":"u","quantity":"1"}]}"#, "claims[0].quantity"),
            (r#"{"claims":[{"user":"u","quantity":1,"quantity":1}]}"#, "claims[0].quantity"),
            (r#"{"claims":[{"user":"u","idempotency_key":null}]}"#, "claims[0].idempotency_key"),
            (r#"{"claims":[{"user":"u","idempotency_key":7}]}"#, "claims[0].idempotency_key"),
            (r#"{"claims":[{"user":"u","idempotency_key":"a","idempotency_key":"a"}]}"#, "claims[0].idempotency_key"),
        ] {
            let (seen, expected) = fault(parse(json.as_bytes()).expect_err(json));
            assert_eq!(seen, field, "{json}: {expected}");
            assert!(!expected.is_empty());
        }
    }

    #[test]
    fn a_value_out_of_range_is_its_claims_alone() {
        let long = "k".repeat(limits::IDEMPOTENCY_KEY_MAX + 1);
        for (members, field) in [
            (r#"{"user":""}"#.to_owned(), "user"),
            (r#"{"user":"a b"}"#.to_owned(), "user"),
            (format!(r#"{{"user":"{}"}}"#, "u".repeat(65)), "user"),
            (r#"{"user":"u","quantity":0}"#.to_owned(), "quantity"),
            (r#"{"user":"u","quantity":-1}"#.to_owned(), "quantity"),
            (r#"{"user":"u","quantity":4294967296}"#.to_owned(), "quantity"),
            (r#"{"user":"u","quantity":18446744073709551616}"#.to_owned(), "quantity"),
            (r#"{"user":"u","quantity":-99999999999999999999}"#.to_owned(), "quantity"),
            (r#"{"user":"u","idempotency_key":""}"#.to_owned(), "Idempotency-Key"),
            (r#"{"user":"u","idempotency_key":"a b"}"#.to_owned(), "Idempotency-Key"),
            (r#"{"user":"u","idempotency_key":"\u00e9"}"#.to_owned(), "Idempotency-Key"),
            (format!(r#"{{"user":"u","idempotency_key":"{long}"}}"#), "Idempotency-Key"),
        ] {
            let json = format!(r#"{{"claims":[{{"user":"before"}},{members},{{"user":"behind"}}]}}"#);
            let read = parse(json.as_bytes()).unwrap_or_else(|e| panic!("{members}: {e:?}"));
            let verdicts: Vec<_> = read.iter().map(|m| m.check().map_err(fault)).collect();
            assert!(verdicts[0].is_ok() && verdicts[2].is_ok(), "{members}");
            assert_eq!(verdicts[1].as_ref().unwrap_err().0, field, "{members}");
        }
    }

    #[test]
    fn a_thousand_claims_are_read_and_one_more_is_refused() {
        let of = |count: usize| format!("{{\"claims\":[{}]}}", vec![r#"{"user":"u"}"#; count].join(","));
        assert_eq!(parse(of(limits::BATCH_MAX).as_bytes()).unwrap().len(), limits::BATCH_MAX);
        let (field, expected) = fault(parse(of(limits::BATCH_MAX + 1).as_bytes()).unwrap_err());
        assert_eq!(field, "claims");
        assert!(expected.contains("expected 1 to 1000"), "{expected}");
    }

    #[test]
    fn a_thousand_of_the_longest_claims_have_room_in_a_body() {
        let (user, key) = ("u".repeat(64), "k".repeat(limits::IDEMPOTENCY_KEY_MAX));
        let member = format!(r#"{{"user":"{user}","quantity":1000,"idempotency_key":"{key}"}}"#);
        let json = format!("{{\"claims\":[{}]}}", vec![member; limits::BATCH_MAX].join(","));
        assert!(json.len() <= limits::BATCH_BODY_MAX, "{}", json.len());
        assert!(parse(json.as_bytes()).unwrap().iter().all(|m| m.check().is_ok()));
    }
}
