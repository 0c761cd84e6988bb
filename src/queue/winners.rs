//! Who holds what in one campaign: a table of fixed size, made when the campaign is created.
//!
//! Open addressing with linear probing; a claim's home follows from its buyer's 40-bit address, which its id carries, so
//! that one table serves look-ups by buyer and by claim id. All of a buyer's claims lie in one run.
//!
//! No rehash, ever: the table is made for `stock` claims at creation and a restock adds a second table behind the
//! first. Its pages are zeroed lazily by the system, so that an unsold campaign costs address space only.
//!
//! A slot is 32 bytes (a claim id, 64 more bits of the buyer's hash, what is held) and at most three quarters of the
//! slots are used: 42.7 bytes a winner. Two buyers share 104 bits of keyed hash with a chance below 2^−70 in a campaign
//! of 2^32 winners; a chance far below that of a flipped memory bit is taken for none.

use crate::sale::{ClaimId, Money, Units, UserHash};

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

type Slot = [u64; 4];

const QUANTITY_BITS: u32 = 12;
const _: () = assert!(crate::limits::PER_USER_LIMIT_MAX < 1 << QUANTITY_BITS);
const LIVE: u64 = 1 << 24;

/// The table.
#[derive(Debug, Default)]
pub struct Winners {
    tables: Vec<Table>,
    amounts: bool,
    len: u64,
}

#[derive(Debug)]
struct Table {
    slots: Vec<Slot>,
    amounts: Vec<i64>,
    len: u64,
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
        slots_for(claims.0) * (size_of::<Slot>() as u64 + if amounts { 8 } else { 0 })
    }

    /// Room for `claims` more, in a table of its own.
    pub fn grow(&mut self, claims: Units) {
        let slots = slots_for(claims.0) as usize;
        let amounts = if self.amounts { vec![0; slots] } else { Vec::new() };
        self.tables.push(Table { slots: vec![[0; 4]; slots], amounts, len: 0, max: claims.0 });
    }

    /// Claims held.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nobody holds anything.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A buyer's claims, in no particular order.
    pub fn of(&self, user: UserHash) -> impl Iterator<Item = Held> + '_ {
        self.tables.iter().flat_map(move |table| {
            table
                .run(user.address())
                .map(|at| &table.slots[at])
                .filter(move |slot| slot[2] == user.fingerprint() && ClaimId(id_of(slot)).address() == user.address())
                .map(held)
        })
    }

    /// A claim by its id, with its amount where amounts are remembered.
    pub fn find(&self, id: ClaimId) -> Option<(Held, Option<Money>)> {
        self.tables.iter().find_map(|table| {
            let at = table.run(id.address()).find(|&at| id_of(&table.slots[at]) == id.0)?;
            Some((held(&table.slots[at]), table.amounts.get(at).map(|&a| Money(a))))
        })
    }

    /// Adds a claim.
    ///
    /// # Panics
    /// Where the table is full: the stock bounds the claims, so this is a bug.
    pub fn insert(&mut self, user: UserHash, claim: &Held, amount: Option<Money>) {
        let table = self.tables.iter_mut().find(|t| t.len < t.max).expect("more claims than stock");
        let at = table.free(user.address());
        let (high, low) = claim.claim_id.0.split_at(8);
        let word = |b: &[u8]| u64::from_le_bytes(std::array::from_fn(|i| b[i]));
        let meta =
            u64::from(claim.order) << 32 | LIVE | u64::from(claim.hold) << QUANTITY_BITS | u64::from(claim.quantity);
        table.slots[at] = [word(high), word(low), user.fingerprint(), meta];
        if let Some(place) = table.amounts.get_mut(at) {
            *place = amount.map_or(0, |a| a.0);
        }
        table.len += 1;
        self.len += 1;
    }

    /// Reads the home slot of a buyer without using it. Called for a whole batch first: the reads of independent slots
    /// overlap in the processor, so that a batch waits for memory once and not once a claim.
    pub fn touch(&self, user: UserHash) -> u64 {
        self.tables.iter().map(|t| t.slots[t.home(user.address())][3]).fold(0, u64::wrapping_add)
    }

    /// Every claim, for a snapshot: its fingerprint, what it holds and its amount.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Held, Option<Money>)> + '_ {
        self.tables.iter().flat_map(|table| {
            table
                .slots
                .iter()
                .enumerate()
                .filter(|(_, slot)| slot[3] != 0)
                .map(|(at, slot)| (slot[2], held(slot), table.amounts.get(at).map(|&a| Money(a))))
        })
    }
}

impl Table {
    fn home(&self, address: u64) -> usize {
        // Lemire's range reduction: the 40-bit address scaled to the number of slots, without a division.
        ((u128::from(address) * self.slots.len() as u128) >> 40) as usize
    }

    /// The used slots from `address`'s home up to the next free one.
    fn run(&self, address: u64) -> impl Iterator<Item = usize> + '_ {
        let home = self.home(address);
        (home..self.slots.len()).chain(0..home).take_while(|&at| self.slots[at][3] != 0)
    }

    fn free(&self, address: u64) -> usize {
        let home = self.home(address);
        let mut places = (home..self.slots.len()).chain(0..home);
        places.find(|&at| self.slots[at][3] == 0).expect("a quarter of the slots is always free")
    }
}

fn slots_for(claims: u64) -> u64 {
    claims + claims / 3 + 2
}

fn id_of(slot: &Slot) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&slot[0].to_le_bytes());
    id[8..].copy_from_slice(&slot[1].to_le_bytes());
    id
}

fn held(slot: &Slot) -> Held {
    let mask = (1 << QUANTITY_BITS) - 1;
    Held {
        claim_id: ClaimId(id_of(slot)),
        quantity: (slot[3] & mask) as u32,
        hold: ((slot[3] >> QUANTITY_BITS) & mask) as u32,
        order: (slot[3] >> 32) as u32,
    }
}
