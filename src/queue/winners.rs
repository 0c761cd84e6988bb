//! Who holds what in one campaign: records in the order of acceptance, and an index of fixed size over them, both made
//! when the campaign is created.
//!
//! A claim's home in the index follows from its buyer's 40-bit address, which its id carries, so that one index serves
//! look-ups by buyer and by claim id. A restock that needs more room adds a second table behind the first.
//!
//! A record is 32 bytes (a claim id, 64 more bits of the buyer's hash, what is held) and the index takes 6.4 bytes more:
//! 38.4 bytes a winner. Two buyers share 104 bits of keyed hash with a chance below 2^−40 in a campaign of 2^32 winners,
//! and nobody without the key can look for such a pair.

use crate::sale::{ClaimId, Money, Units, UserHash};

use super::index::{ColdPages, Index};

/// What one claim holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The claim.
    pub claim_id: ClaimId,
    /// Units, from 1.
    pub quantity: u32,
    /// Which of the buyer's concurrent holds it is, from 0.
    pub hold: u32,
    /// The order of acceptance within the campaign.
    pub order: u32,
}

type Record = [u64; 4];

const QUANTITY_BITS: u32 = 12;
const _: () = assert!(crate::limits::PER_USER_LIMIT_MAX < 1 << QUANTITY_BITS);

/// The table.
#[derive(Debug, Default)]
pub struct Winners {
    tables: Vec<Table>,
    amounts: bool,
    len: u64,
}

#[derive(Debug)]
struct Table {
    index: Index,
    records: Vec<Record>,
    amounts: Vec<i64>,
    max: u64,
}

impl Winners {
    /// A table for `claims` claims; `amounts` says whether each carries one that has to be remembered.
    pub fn new(claims: Units, amounts: bool) -> Self {
        let mut winners = Self { tables: Vec::new(), amounts, len: 0 };
        winners.grow(claims);
        winners
    }

    /// The bytes that a table for `claims` claims takes when it is full.
    pub fn bytes_for(claims: Units, amounts: bool) -> u64 {
        Index::bytes_for(claims.0) + claims.0 * (size_of::<Record>() as u64 + if amounts { 8 } else { 0 })
    }

    /// Room for `claims` more, in a table of its own.
    pub fn grow(&mut self, claims: Units) {
        let room = claims.0 as usize;
        self.tables.push(Table {
            index: Index::new(claims.0),
            records: Vec::with_capacity(room),
            amounts: if self.amounts { Vec::with_capacity(room) } else { Vec::new() },
            max: claims.0,
        });
    }

    /// Claims held.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nobody holds anything.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A buyer's claims, oldest first.
    pub fn of(&self, user: UserHash) -> impl Iterator<Item = Held> + '_ {
        let (address, fingerprint) = (user.address(), user.fingerprint());
        self.tables.iter().flat_map(move |table| {
            let records = table.index.candidates(hash(address)).map(|place| &table.records[place]);
            records.filter(move |r| r[2] == fingerprint && id_of(r).address() == address).map(held)
        })
    }

    /// A claim by its id, with its amount where amounts are remembered.
    pub fn find(&self, id: ClaimId) -> Option<(Held, Option<Money>)> {
        self.tables.iter().find_map(|table| {
            let mut places = table.index.candidates(hash(id.address()));
            let place = places.find(|&place| id_of(&table.records[place]) == id)?;
            Some((held(&table.records[place]), table.amounts.get(place).map(|&a| Money(a))))
        })
    }

    /// Adds a claim.
    ///
    /// # Panics
    /// Where the table is full: the stock bounds the claims, so this is a bug.
    pub fn insert(&mut self, user: UserHash, claim: &Held, amount: Option<Money>) {
        let room = self.tables.iter_mut().find(|t| (t.records.len() as u64) < t.max);
        let table = room.expect("more claims than stock");
        let half = |from: usize| u64::from_le_bytes(std::array::from_fn(|i| claim.claim_id.0[from + i]));
        let meta = u64::from(claim.order) << 32 | u64::from(claim.hold) << QUANTITY_BITS | u64::from(claim.quantity);
        table.index.insert(hash(user.address()), table.records.len());
        table.records.push([half(0), half(8), user.fingerprint(), meta]);
        if self.amounts {
            table.amounts.push(amount.map_or(0, |a| a.0));
        }
        self.len += 1;
    }

    /// Reads a buyer's home slot without using it. Called for a whole batch first: the reads of independent slots
    /// overlap in the processor, so that a batch waits for memory once and not once a claim.
    pub fn touch(&self, user: UserHash) -> u64 {
        let words = self.tables.iter().map(|t| t.index.touch(hash(user.address())));
        words.map(u64::from).fold(0, u64::wrapping_add)
    }

    /// Every claim in the order of acceptance, for a snapshot: its fingerprint, what it holds and its amount.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Held, Option<Money>)> + '_ {
        self.tables.iter().flat_map(|table| {
            let records = table.records.iter().enumerate();
            records.map(|(place, r)| (r[2], held(r), table.amounts.get(place).map(|&a| Money(a))))
        })
    }

    /// The index's pages, of the table added last.
    pub fn cold_pages(&self) -> Option<ColdPages> {
        self.tables.last().map(|table| table.index.cold_pages())
    }
}

/// The 40-bit address as the high bits of a hash.
fn hash(address: u64) -> u64 {
    address << 24
}

fn id_of(record: &Record) -> ClaimId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&record[0].to_le_bytes());
    id[8..].copy_from_slice(&record[1].to_le_bytes());
    ClaimId(id)
}

fn held(record: &Record) -> Held {
    let mask = (1 << QUANTITY_BITS) - 1;
    Held {
        claim_id: id_of(record),
        quantity: (record[3] & mask) as u32,
        hold: ((record[3] >> QUANTITY_BITS) & mask) as u32,
        order: (record[3] >> 32) as u32,
    }
}
