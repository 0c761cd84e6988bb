//! The idempotency keys of one campaign's acceptances: records in the order of acceptance and an index of fixed size, 70.4
//! bytes a key. A campaign whose claims carry no keys takes the index only.

use crate::sale::{ClaimId, Durability, KeyHash, Money, Seq, Timestamp, Units};

use super::command::Replay;
use super::index::{ColdPages, Index};

type Record = [u64; 8];

const NO_AMOUNT: u64 = i64::MIN as u64;

/// The table.
#[derive(Debug, Default)]
pub struct Keys {
    tables: Vec<Table>,
}

#[derive(Debug)]
struct Table {
    index: Index,
    records: Vec<Record>,
    max: u64,
}

impl Keys {
    /// A table for `claims` acceptances.
    pub fn new(claims: Units) -> Self {
        let mut keys = Self::default();
        keys.grow(claims);
        keys
    }

    /// The bytes that a table for `claims` keys takes when it is full.
    pub fn bytes_for(claims: Units) -> u64 {
        Index::bytes_for(claims.0) + claims.0 * size_of::<Record>() as u64
    }

    /// Room for `claims` more.
    pub fn grow(&mut self, claims: Units) {
        let records = Vec::with_capacity(claims.0 as usize);
        self.tables.push(Table { index: Index::new(claims.0), records, max: claims.0 });
    }

    /// Whether another key fits.
    pub fn has_room(&self) -> bool {
        self.tables.iter().any(|t| (t.records.len() as u64) < t.max)
    }

    /// What was accepted under `key`.
    pub fn get(&self, key: KeyHash) -> Option<Replay> {
        self.tables.iter().find_map(|table| {
            let mut records = table.index.candidates(hash(key)).map(|place| &table.records[place]);
            records.find(|record| key_of(record) == key).map(replay)
        })
    }

    /// Remembers an acceptance.
    ///
    /// # Panics
    /// Where the table is full: whoever inserts sees to it that there is room.
    pub fn insert(&mut self, key: KeyHash, accepted: &Replay) {
        let room = self.tables.iter_mut().find(|t| (t.records.len() as u64) < t.max);
        let table = room.expect("no room for a key");
        let id = u128::from_le_bytes(accepted.claim_id.0);
        let memory = u64::from(accepted.durability == Durability::Memory);
        table.index.insert(hash(key), table.records.len());
        table.records.push([
            key.0 as u64,
            (key.0 >> 64) as u64,
            id as u64,
            (id >> 64) as u64,
            accepted.seq.0,
            accepted.at.0 as u64,
            accepted.amount.map_or(NO_AMOUNT, |a| a.0 as u64),
            memory << 62 | u64::from(accepted.receipt_key) << 32 | u64::from(accepted.quantity),
        ]);
    }

    /// Every acceptance with its key, for a snapshot.
    pub fn iter(&self) -> impl Iterator<Item = (KeyHash, Replay)> + '_ {
        self.tables.iter().flat_map(|table| table.records.iter().map(|record| (key_of(record), replay(record))))
    }

    /// The index's pages, of the table added last.
    pub fn cold_pages(&self) -> Option<ColdPages> {
        self.tables.last().map(|table| table.index.cold_pages())
    }
}

fn hash(key: KeyHash) -> u64 {
    (key.0 >> 64) as u64
}

fn key_of(record: &Record) -> KeyHash {
    KeyHash(u128::from(record[1]) << 64 | u128::from(record[0]))
}

fn replay(record: &Record) -> Replay {
    let amount = record[6];
    Replay {
        claim_id: ClaimId((u128::from(record[3]) << 64 | u128::from(record[2])).to_le_bytes()),
        quantity: record[7] as u32,
        amount: (amount != NO_AMOUNT).then_some(Money(amount as i64)),
        receipt_key: (record[7] >> 32) as u16,
        seq: Seq(record[4]),
        at: Timestamp(record[5] as i64),
        durability: if record[7] >> 62 & 1 == 1 { Durability::Memory } else { Durability::Disk },
    }
}
