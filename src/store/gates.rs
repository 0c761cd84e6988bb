//! What many gates that share a buffer have to agree on, as the database keeps it: which gates there are, and the secrets
//! that are the same for all.

use std::fmt;

use super::StoreError;
use crate::sale::Timestamp;

/// What is wanted of a gate's journal when the buffer is opened anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateState {
    /// It may have acknowledged what only its journal knows: it is waited for.
    Active,
    /// It ended cleanly and owes nothing; it may come back.
    Left,
    /// An operator has given it up: it is not waited for, and never serves again.
    Dismissed,
}

impl GateState {
    /// The table's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Left => "left",
            Self::Dismissed => "dismissed",
        }
    }

    /// From the table's word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Active, Self::Left, Self::Dismissed].into_iter().find(|state| state.as_str() == text)
    }
}

/// A gate that was registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateRecord {
    /// Its journal's identity.
    pub id: u128,
    /// Whether it is waited for.
    pub state: GateState,
    /// When it was registered.
    pub first_seen: Timestamp,
    /// When its state last changed.
    pub changed_at: Timestamp,
    /// Who changed it.
    pub by: String,
}

/// Secrets that every gate of a shared buffer has.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedSecrets {
    /// From which buyers and idempotency keys are hashed.
    pub hash_key: [u8; 16],
    /// The receipt key ring, as bytes that only its owner reads.
    pub receipt_keys: Vec<u8>,
    /// The partition's identity: the journal to which the database is bound.
    pub identity: u128,
}

impl fmt::Debug for SharedSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedSecrets(of {:032x})", self.identity)
    }
}

/// A gate's state from its row.
pub(super) fn state(id: &str, word: &str) -> Result<GateState, StoreError> {
    GateState::parse(word).ok_or_else(|| changed_by_hand(id))
}

fn changed_by_hand(id: &str) -> StoreError {
    StoreError::Outage(format!("gate {id} in the table gates was changed by hand"))
}

/// A gate's row: id, state, by; the two instants are read by the kind of database.
pub(super) fn record(
    (id, state, by): (&str, &str, String),
    (first_seen, changed_at): (Option<Timestamp>, Option<Timestamp>),
) -> Result<GateRecord, StoreError> {
    let read = || {
        let (id, state) = (u128::from_str_radix(id, 16).ok()?, GateState::parse(state)?);
        Some(GateRecord { id, state, first_seen: first_seen?, changed_at: changed_at?, by })
    };
    read().ok_or_else(|| changed_by_hand(id))
}

/// The secrets as rows.
pub(super) fn rows(secrets: &SharedSecrets) -> [(&'static str, Vec<u8>); 3] {
    [
        ("hash_key", secrets.hash_key.to_vec()),
        ("identity", secrets.identity.to_be_bytes().to_vec()),
        ("receipt_keys", secrets.receipt_keys.clone()),
    ]
}

/// The secrets from their rows; none where there are no rows.
pub(super) fn secrets(rows: &[(String, Vec<u8>)]) -> Result<Option<SharedSecrets>, StoreError> {
    if rows.is_empty() {
        return Ok(None);
    }
    let of = |name: &str| rows.iter().find(|row| row.0 == name).map(|row| &row.1[..]);
    let read = || {
        Some(SharedSecrets {
            hash_key: of("hash_key")?.try_into().ok()?,
            receipt_keys: of("receipt_keys")?.to_vec(),
            identity: u128::from_be_bytes(of("identity")?.try_into().ok()?),
        })
    };
    let all = read();
    all.map(Some).ok_or_else(|| StoreError::Outage("the table shared_secrets was changed by hand".to_owned()))
}
