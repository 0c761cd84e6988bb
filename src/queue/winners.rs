//! Who holds what in one campaign: records, and an index of fixed size over them, both made when the campaign is created.
//!
//! A claim's home in the index follows from its buyer's 40-bit address, which its id carries, so that one index serves
//! look-ups by buyer and by claim id. A restock that needs more room adds a second table behind the first. A claim that is
//! given back leaves its place to the next one.
//!
//! A record is 32 bytes (a claim id, 64 more bits of the buyer's hash, what is held) and the index takes 6.4 bytes more:
//! 38.4 bytes a winner, and 16 more where claims expire. Two buyers share 104 bits of keyed hash with a chance below 2^−40
//! in a campaign of 2^32 winners, and nobody without the key can look for such a pair.
//!
//! A book that was made anew from the database, without the key that its claims' ids were made with, holds *strangers*:
//! claims whose ids carry another address than their buyers have now. They are kept under the buyer's address, and a map
//! beside the tables leads to it from the id.

use std::collections::HashMap;

use crate::plant::{self, Bug};
use crate::sale::{ClaimId, Money, Timestamp, Units, UserHash};

use super::dues::{Dues, Link};
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
    /// Whether it is paid, and can no more be given back.
    pub settled: bool,
}

/// A claim as it is kept: for a snapshot, and for whoever lets it expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// The 64 bits of its buyer's hash that an id does not carry.
    pub fingerprint: u64,
    /// The other 40: those of its id, unless it is a stranger.
    pub address: u64,
    /// What it holds.
    pub held: Held,
    /// Its amount, where amounts are remembered.
    pub amount: Option<Money>,
    /// When it must be settled; none where it need not, or is.
    pub due: Option<Timestamp>,
}

impl Kept {
    /// What is known of its buyer's hash.
    pub fn user(&self) -> UserHash {
        UserHash(u128::from(self.address) << 88 | u128::from(self.fingerprint))
    }

    /// Whether its id carries another address than its buyer has.
    pub fn is_stranger(&self) -> bool {
        self.address != self.held.claim_id.address()
    }
}

type Record = [u64; 4];

const QUANTITY_BITS: u32 = 12;
const MASK: u64 = (1 << QUANTITY_BITS) - 1;
/// The largest quantity and the largest hold that a record can hold.
pub(super) const FIELD_MAX: u32 = MASK as u32;
const SETTLED: u64 = 1 << (2 * QUANTITY_BITS);
const _: () = assert!(crate::limits::PER_USER_LIMIT_MAX < 1 << QUANTITY_BITS);

/// The table.
#[derive(Debug, Default)]
pub struct Winners {
    tables: Vec<Table>,
    amounts: bool,
    len: u64,
    dues: Option<Dues>,
    strangers: Strangers,
}

/// The addresses of the buyers of strangers.
#[derive(Debug, Default)]
struct Strangers(HashMap<ClaimId, u64>);

impl Strangers {
    /// The address under which a claim is kept.
    fn address(&self, id: ClaimId) -> u64 {
        if self.0.is_empty() { id.address() } else { self.0.get(&id).copied().unwrap_or_else(|| id.address()) }
    }
}

#[derive(Debug)]
struct Table {
    index: Index,
    records: Vec<Record>,
    amounts: Vec<i64>,
    /// One a record, where claims expire.
    links: Vec<Link>,
    max: u64,
    /// The places of the tables before this one.
    base: u32,
    /// The place, plus one, that was given back last; its record names the one before it. 0 for none.
    vacant: u32,
}

impl Winners {
    /// A table for `claims` claims; `amounts` says whether each carries one that has to be remembered, `dues` whether each
    /// must be settled in time.
    pub fn new(claims: Units, amounts: bool, dues: bool) -> Self {
        let dues = dues.then(Dues::default);
        let mut winners = Self { tables: Vec::new(), amounts, len: 0, dues, strangers: Strangers::default() };
        winners.grow(claims);
        winners
    }

    /// The bytes that a table for `claims` claims takes when it is full.
    pub fn bytes_for(claims: Units, amounts: bool, dues: bool) -> u64 {
        let beside = if amounts { 8 } else { 0 } + if dues { size_of::<Link>() as u64 } else { 0 };
        Index::bytes_for(claims.0) + claims.0 * (size_of::<Record>() as u64 + beside)
    }

    /// Room for `claims` more, in a table of its own.
    pub fn grow(&mut self, claims: Units) {
        let room = claims.0 as usize;
        let base = self.tables.last().map_or(0, |t| t.base + t.max as u32);
        self.tables.push(Table {
            index: Index::new(claims.0),
            records: Vec::with_capacity(room),
            amounts: if self.amounts { Vec::with_capacity(room) } else { Vec::new() },
            links: if self.dues.is_some() { Vec::with_capacity(room) } else { Vec::new() },
            max: claims.0,
            base,
            vacant: 0,
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

    /// Whether another claim fits.
    pub fn has_room(&self) -> bool {
        self.tables.iter().any(Table::has_room)
    }

    /// A buyer's claims, in no order.
    pub fn of(&self, user: UserHash) -> impl Iterator<Item = Held> + '_ {
        let (address, fingerprint) = (user.address(), user.fingerprint());
        self.tables.iter().flat_map(move |table| {
            let records = table.index.candidates(hash(address)).map(|place| &table.records[place]);
            records.filter(move |r| r[2] == fingerprint && self.strangers.address(id_of(r)) == address).map(held)
        })
    }

    /// A claim by its id, with its amount where amounts are remembered.
    pub fn find(&self, id: ClaimId) -> Option<Kept> {
        let address = self.strangers.address(id);
        self.tables.iter().find_map(|table| Some(self.kept(table, table.place(id, address)?)))
    }

    /// Adds a claim; `due` is when it must be settled, where claims expire.
    ///
    /// # Panics
    /// Where the table is full: the stock bounds the claims, so this is a bug.
    pub fn insert(&mut self, user: UserHash, claim: &Held, amount: Option<Money>, due: Option<Timestamp>) {
        let table = self.tables.iter_mut().find(|table| table.has_room()).expect("more claims than stock");
        let half = |from: usize| u64::from_le_bytes(std::array::from_fn(|i| claim.claim_id.0[from + i]));
        let flags = if claim.settled { SETTLED } else { 0 };
        let held = u64::from(claim.hold) << QUANTITY_BITS | u64::from(claim.quantity);
        let place = table.take([half(0), half(8), user.fingerprint(), u64::from(claim.order) << 32 | flags | held]);
        table.index.insert(hash(user.address()), place);
        if self.amounts {
            table.amounts[place] = amount.map_or(0, |a| a.0);
        }
        let at = table.base + place as u32;
        if user.address() != claim.claim_id.address() {
            self.strangers.0.insert(claim.claim_id, user.address());
        }
        self.len += 1;
        if let (Some(dues), Some(due)) = (&mut self.dues, due) {
            dues.push(at, due, &mut Places(&mut self.tables));
        }
    }

    /// Takes a claim out. None where it is not there.
    pub fn remove(&mut self, id: ClaimId) -> Option<Kept> {
        let (no, place) = self.locate(id)?;
        self.unlink(no, place);
        let kept = self.kept(&self.tables[no], place);
        let (table, strangers) = (&mut self.tables[no], &self.strangers);
        let records = &table.records;
        table.index.remove(hash(kept.address), place, |place| hash(strangers.address(id_of(&records[place]))));
        table.records[place] = [u64::from(table.vacant), 0, 0, 0];
        table.vacant = place as u32 + 1;
        if kept.is_stranger() {
            self.strangers.0.remove(&id);
        }
        self.len -= 1;
        Some(kept)
    }

    /// Marks a claim as paid: it expires no more. None where it is not there.
    pub fn settle(&mut self, id: ClaimId) -> Option<Kept> {
        let (no, place) = self.locate(id)?;
        if !plant::on(Bug::ExpireAfterSettle) {
            self.unlink(no, place);
        }
        self.tables[no].records[place][3] |= SETTLED;
        Some(self.kept(&self.tables[no], place))
    }

    fn locate(&self, id: ClaimId) -> Option<(usize, usize)> {
        let address = self.strangers.address(id);
        self.tables.iter().enumerate().find_map(|(no, table)| Some((no, table.place(id, address)?)))
    }

    fn unlink(&mut self, no: usize, place: usize) {
        let at = self.tables[no].base + place as u32;
        if let Some(dues) = &mut self.dues {
            dues.unlink(at, &mut Places(&mut self.tables));
        }
    }

    /// The claim that is due first.
    pub fn first_due(&self) -> Option<Kept> {
        let at = self.dues.as_ref()?.first()?;
        let table = self.tables.iter().rfind(|table| table.base <= at)?;
        Some(self.kept(table, (at - table.base) as usize))
    }

    /// Reads a buyer's home slot without using it. Called for a whole batch first: the reads of independent slots
    /// overlap in the processor, so that a batch waits for memory once and not once a claim.
    pub fn touch(&self, user: UserHash) -> u64 {
        let words = self.tables.iter().map(|t| t.index.touch(hash(user.address())));
        words.map(u64::from).fold(0, u64::wrapping_add)
    }

    /// Every claim, for a snapshot.
    pub fn iter(&self) -> impl Iterator<Item = Kept> + '_ {
        self.tables.iter().flat_map(|table| {
            let taken = table.records.iter().enumerate().filter(|(_, record)| record[3] != 0);
            taken.map(|(place, _)| self.kept(table, place))
        })
    }

    /// The bytes that strangers take beside the tables.
    pub fn stranger_bytes(&self) -> u64 {
        (self.strangers.0.capacity() * (size_of::<(ClaimId, u64)>() + 1)) as u64
    }

    fn kept(&self, table: &Table, place: usize) -> Kept {
        let record = &table.records[place];
        let held = held(record);
        Kept {
            fingerprint: record[2],
            address: self.strangers.address(held.claim_id),
            held,
            amount: table.amounts.get(place).map(|&a| Money(a)),
            due: table.links.get(place).and_then(Link::due),
        }
    }

    /// The index's pages, of the table added last.
    pub fn cold_pages(&self) -> Option<ColdPages> {
        self.tables.last().map(|table| table.index.cold_pages())
    }
}

impl Table {
    fn has_room(&self) -> bool {
        self.vacant != 0 || (self.records.len() as u64) < self.max
    }

    /// Puts a record where there is room.
    fn take(&mut self, record: Record) -> usize {
        if self.vacant != 0 {
            let place = self.vacant as usize - 1;
            self.vacant = self.records[place][0] as u32;
            self.records[place] = record;
            return place;
        }
        self.records.push(record);
        if self.amounts.capacity() > 0 {
            self.amounts.push(0);
        }
        if self.links.capacity() > 0 {
            self.links.push(Link::default());
        }
        self.records.len() - 1
    }

    fn place(&self, id: ClaimId, address: u64) -> Option<usize> {
        self.index.candidates(hash(address)).find(|&place| id_of(&self.records[place]) == id)
    }
}

/// All tables' links, by place over all tables.
struct Places<'a>(&'a mut [Table]);

impl super::dues::Links for Places<'_> {
    fn link(&mut self, at: u32) -> &mut Link {
        let table = self.0.iter_mut().rfind(|table| table.base <= at).expect("a place of a table");
        &mut table.links[(at - table.base) as usize]
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
    Held {
        claim_id: id_of(record),
        quantity: (record[3] & MASK) as u32,
        hold: ((record[3] >> QUANTITY_BITS) & MASK) as u32,
        order: (record[3] >> 32) as u32,
        settled: record[3] & SETTLED != 0,
    }
}
