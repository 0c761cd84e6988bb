//! The idempotency keys of one campaign's acceptances: a table of fixed size, 64 bytes a slot, at most three quarters
//! used, its pages zeroed lazily, so that a campaign whose claims carry no keys costs address space only.

use crate::sale::{ClaimId, Durability, KeyHash, Money, Seq, Timestamp, Units};

use super::command::Replay;

type Slot = [u64; 8];

const NO_AMOUNT: u64 = i64::MIN as u64;

/// The table.
#[derive(Debug, Default)]
pub struct Keys {
    tables: Vec<Vec<Slot>>,
    room: Vec<u64>,
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
        slots_for(claims.0) * size_of::<Slot>() as u64
    }

    /// Room for `claims` more.
    pub fn grow(&mut self, claims: Units) {
        self.tables.push(vec![[0; 8]; slots_for(claims.0) as usize]);
        self.room.push(claims.0);
    }

    /// What was accepted under `key`.
    pub fn get(&self, key: KeyHash) -> Option<Replay> {
        self.tables
            .iter()
            .find_map(|table| {
                run(table, key).map(|at| &table[at]).take_while(|slot| slot[7] != 0).find(|slot| key_of(slot) == key.0)
            })
            .map(replay)
    }

    /// Remembers an acceptance.
    ///
    /// # Panics
    /// Where the table is full: the stock bounds the acceptances, so this is a bug.
    pub fn insert(&mut self, key: KeyHash, accepted: &Replay) {
        let no = self.room.iter().position(|&room| room > 0).expect("more keys than stock");
        self.room[no] -= 1;
        let table = &mut self.tables[no];
        let at = run(table, key).find(|&at| table[at][7] == 0).expect("a quarter of the slots is always free");
        let id = u128::from_le_bytes(accepted.claim_id.0);
        let memory = u64::from(accepted.durability == Durability::Memory);
        table[at] = [
            key.0 as u64,
            (key.0 >> 64) as u64,
            id as u64,
            (id >> 64) as u64,
            accepted.seq.0,
            accepted.at.0 as u64,
            accepted.amount.map_or(NO_AMOUNT, |a| a.0 as u64),
            1 << 63 | memory << 62 | u64::from(accepted.receipt_key) << 32 | u64::from(accepted.quantity),
        ];
    }

    /// Every acceptance with its key, for a snapshot.
    pub fn iter(&self) -> impl Iterator<Item = (KeyHash, Replay)> + '_ {
        self.tables.iter().flatten().filter(|slot| slot[7] != 0).map(|slot| (KeyHash(key_of(slot)), replay(slot)))
    }
}

fn run(table: &[Slot], key: KeyHash) -> impl Iterator<Item = usize> + use<> {
    let home = (((key.0 >> 64) * table.len() as u128) >> 64) as usize;
    (home..table.len()).chain(0..home)
}

fn slots_for(claims: u64) -> u64 {
    claims + claims / 3 + 2
}

fn key_of(slot: &Slot) -> u128 {
    u128::from(slot[1]) << 64 | u128::from(slot[0])
}

fn replay(slot: &Slot) -> Replay {
    let amount = slot[6];
    Replay {
        claim_id: ClaimId((u128::from(slot[3]) << 64 | u128::from(slot[2])).to_le_bytes()),
        quantity: slot[7] as u32,
        amount: (amount != NO_AMOUNT).then_some(Money(amount as i64)),
        receipt_key: (slot[7] >> 32) as u16,
        seq: Seq(slot[4]),
        at: Timestamp(slot[5] as i64),
        durability: if slot[7] >> 62 & 1 == 1 { Durability::Memory } else { Durability::Disk },
    }
}
