//! What a book holds in memory, counted: for tests that run for a year, and for whoever wonders where it goes.

use super::book::Book;

/// What is held, in entries and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InMemory {
    /// Campaigns, released ones included: their definitions and sums stay.
    pub campaigns: u64,
    /// Those that are not released.
    pub live: u64,
    /// Bytes that are promised to the tables of those when they are full.
    pub reserved: u64,
    /// Claims that are held.
    pub winners: u64,
    /// Idempotency keys of claims.
    pub keys: u64,
    /// Idempotency keys of operators.
    pub admin_keys: u64,
    /// Shares that came back and wait to go out again.
    pub returned: u64,
    /// Carts in use, or being loaded.
    pub carts: u64,
    /// Their lines.
    pub cart_lines: u64,
    /// Idempotency keys of operations on carts.
    pub cart_keys: u64,
}

impl Book {
    /// Counts what is held. It looks at every key: not for the sequencer's thread in mid-sale.
    pub fn in_memory(&self) -> InMemory {
        let (carts, cart_lines, cart_keys) = self.carts.counts();
        let mut held = InMemory { reserved: self.reserved(), carts, cart_lines, cart_keys, ..InMemory::default() };
        for campaign in self.campaigns() {
            held.campaigns += 1;
            held.live += u64::from(!campaign.released);
            held.winners += campaign.winners.len();
            held.keys += (campaign.keys.iter().count() + campaign.old_keys.iter().count()) as u64;
            held.admin_keys += campaign.admin_keys.len() as u64;
            held.returned += campaign.returned.len() as u64;
        }
        held
    }
}
