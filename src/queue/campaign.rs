//! One campaign in the book: what is free, who holds what, and what becomes of a claim.
//!
//! The same contract as the book's: what decides reads, what applies changes. What was applied is never decided again, so
//! nothing here may depend on anything but the campaign's own state and the arguments.

use std::cell::Cell;
use std::collections::VecDeque;

use super::change;
use super::command::{ClaimCommand, MoveRefusal, Refusal, Replay};
use super::index::ColdPages;
use super::keys::Keys;
use super::winners::{Held, Kept, Winners};
use crate::limits;
use crate::plant::{self, Bug};
use crate::sale::campaign::AdminState;
use crate::sale::check_in::Day;
use crate::sale::red_packet::{self, Seed};
use crate::sale::{
    CampaignNo, CampaignSpec, Claim, Created, Fate, KeyHash, LocalDay, Money, Moved, Seq, Timestamp, Units, UserHash,
};

/// One campaign in the book.
#[derive(Debug)]
pub struct Campaign {
    /// Its definition as it stands: window and stock follow the changes.
    pub spec: CampaignSpec,
    /// What the operator last asked.
    pub wish: AdminState,
    /// Units nobody holds; of a check-in, more than anybody can ask for.
    pub free: Units,
    /// A red packet's money that nobody holds, returned shares included.
    pub left: Money,
    /// Counts the changes: 1 at creation.
    pub version: u64,
    /// Counts the changes of stock, and the returns that may turn a sold-out into a yes: 1 at creation.
    pub stock_version: u64,
    /// Units ever accepted: what a check-in, which has no stock, is held to account for.
    pub acknowledged: u64,
    /// When the operator closed it.
    pub closed_at: Option<Timestamp>,
    /// Whether its claims have left memory, for good.
    pub released: bool,
    /// The last entry that was about it or its claims.
    pub(super) last: Seq,
    pub seed: Seed,
    /// Shares drawn so far; those that were returned and went out again are counted once.
    pub drawn: u64,
    /// A red packet's shares that were given back, to go out again with the same amounts, the last one first.
    pub(super) returned: Vec<Money>,
    pub(super) order: u32,
    pub(super) capacity: Units,
    pub(super) key_capacity: Units,
    /// The bytes that are promised to its tables: what its release gives back.
    pub(super) bytes: u64,
    pub(super) winners: Winners,
    pub(super) keys: Keys,
    /// A check-in's keys of the day before: a retry may come after midnight.
    pub(super) old_keys: Keys,
    /// A check-in's day, whose buyers are in `winners`.
    pub(super) today: Option<LocalDay>,
    /// The local day that was looked up last. A memory, not state: it only spares the look-up.
    pub(super) looked_up: Cell<Option<Day>>,
    pub(super) admin_keys: VecDeque<(KeyHash, u64)>,
}

/// Memory that is not used any more: freeing it can take longer than a claim may wait.
pub type Garbage = (Winners, Keys);

/// More units than anybody can ask for: what is free of a campaign without a stock.
pub const UNLIMITED: Units = Units(u32::MAX as u64);

impl Campaign {
    pub(super) fn new(created: &Created, payload: u64) -> Self {
        let spec = &created.spec;
        let capacity = capacity_of(spec);
        Self {
            wish: AdminState::Open,
            free: if spec.has_stock() { spec.stock } else { UNLIMITED },
            left: spec.red_packet.map_or(Money(0), |p| p.total),
            version: 1,
            stock_version: 1,
            acknowledged: 0,
            closed_at: None,
            released: false,
            last: Seq(0),
            seed: created.seed,
            drawn: 0,
            returned: Vec::with_capacity(if spec.red_packet.is_some() { capacity.0 as usize } else { 0 }),
            order: 0,
            capacity,
            key_capacity: capacity,
            bytes: table_bytes(spec),
            winners: new_winners(spec, capacity),
            keys: Keys::new(capacity),
            old_keys: Keys::default(),
            today: None,
            looked_up: Cell::new(None),
            admin_keys: created.asked.key.iter().map(|&key| (key, payload)).collect(),
            spec: spec.clone(),
        }
    }

    /// A campaign without claims and with hardly room for any, for whoever has its numbers from elsewhere and fills them in.
    pub(super) fn outline(spec: CampaignSpec, seed: Seed) -> Self {
        let without = CampaignSpec { stock: Units(0), ..spec.clone() };
        let created = Created { no: CampaignNo(0), spec: without, seed, asked: Default::default() };
        Self { spec, ..Self::new(&created, 0) }
    }

    /// Claims held.
    pub fn winners(&self) -> &Winners {
        &self.winners
    }

    /// Claims for which there is room; what the front end's filter is made for.
    pub fn capacity(&self) -> Units {
        self.capacity
    }

    /// A check-in's day, whose buyers it holds.
    pub fn today(&self) -> Option<LocalDay> {
        self.today
    }

    /// All of its money, and what nobody holds of it: a red packet's total and rest, or price × stock and price × free, or
    /// all points given and none. Zero where claims carry no amount.
    pub fn money(&self) -> (Money, Money) {
        // Creation and every restock see to it that price × stock fits (`check_turnover`).
        let worth = |units: Units| Money(self.spec.price.map_or(0, |price| price.0 * units.0 as i64));
        match (&self.spec.red_packet, &self.spec.check_in) {
            (Some(packet), _) => (packet.total, self.left),
            (_, Some(check_in)) => (Money(check_in.points.0.saturating_mul(self.acknowledged as i64)), Money(0)),
            _ => (worth(self.spec.stock), worth(self.free)),
        }
    }

    /// All of its units, and those nobody holds. A check-in's are those it ever gave, and none: so its equation holds when
    /// everything acknowledged is accounted for.
    pub fn units(&self) -> (Units, Units) {
        if self.spec.has_stock() { (self.spec.stock, self.free) } else { (Units(self.acknowledged), Units(0)) }
    }

    /// Whether claims of it are not held any more whose keys are remembered.
    pub(super) fn has_former_holders(&self) -> bool {
        let held = self.spec.stock.minus(self.free);
        !self.released && held.is_none_or(|held| held.0 != self.acknowledged)
    }

    /// The money and the number of a red packet's shares that were never given out.
    pub fn undrawn(&self) -> (Money, Units) {
        let returned: i64 = self.returned.iter().map(|share| share.0).sum();
        (Money(self.left.0 - returned), Units(self.free.0 - self.returned.len() as u64))
    }

    /// The pages of its tables that are still to be written for the first time.
    pub(super) fn cold_pages(&self) -> impl Iterator<Item = ColdPages> {
        self.winners.cold_pages().into_iter().chain(self.keys.cold_pages())
    }

    /// Why nothing can be claimed at `now`, if so.
    pub(super) fn refusal(&self, now: Timestamp) -> Option<Refusal> {
        let over = if plant::on(Bug::WindowOffByOne) { now > self.spec.closes_at } else { now >= self.spec.closes_at };
        match self.wish {
            AdminState::Closed => Some(Refusal::Ended),
            _ if over => Some(Refusal::Ended),
            AdminState::Paused => Some(Refusal::Paused),
            AdminState::Open if now < self.spec.opens_at => Some(Refusal::NotOpen { opens_at: self.spec.opens_at }),
            AdminState::Open => None,
        }
    }

    /// What was accepted under `key`.
    pub(super) fn replay(&self, key: KeyHash) -> Option<Replay> {
        self.keys.get(key).or_else(|| self.old_keys.get(key))
    }

    /// A check-in's local day at `now`.
    pub(super) fn day(&self, now: Timestamp) -> Option<LocalDay> {
        let zone = &self.spec.check_in.as_ref()?.zone;
        let day = self.looked_up.get().filter(|day| day.contains(now)).unwrap_or_else(|| {
            let day = zone.day(now);
            self.looked_up.set(Some(day));
            day
        });
        if plant::on(Bug::CheckInTwoDays) {
            // The calendar of whoever keeps the server, not the buyer's.
            return Some(LocalDay((now.0 / 86_400_000_000) as u16));
        }
        Some(day.no)
    }

    /// What a buyer holds at `now`.
    pub(super) fn holds(&self, user: UserHash, now: Timestamp) -> Holds {
        // Those of a day that is over count no more.
        if self.spec.check_in.is_some() && self.day(now) != self.today {
            return Holds::default();
        }
        Holds::of(&self.winners, user)
    }

    /// The hold that a buyer's next claim takes: a check-in's is its day, so that the database's unique key is one a buyer
    /// and day.
    pub(super) fn next_hold(&self, holds: &Holds, now: Timestamp) -> u32 {
        match self.day(now) {
            Some(day) => day.0.into(),
            None => holds.lowest_free_hold(),
        }
    }

    /// What a claim of `quantity` units is worth.
    pub(super) fn amount(&self, quantity: u32) -> Option<Money> {
        match (&self.spec.red_packet, &self.spec.check_in) {
            (Some(packet), _) => Some(self.returned.last().copied().unwrap_or_else(|| {
                let (left, shares) = self.undrawn();
                red_packet::next_share(packet, &self.seed, left, shares, self.drawn)
            })),
            (_, Some(check_in)) => Some(check_in.points),
            _ => self.spec.price.map(|p| Money(p.0 * i64::from(quantity))),
        }
    }

    /// The bytes by which its tables must grow before `command` is applied at `now`; 0 where there is room.
    pub(super) fn growth_for(&self, command: &ClaimCommand, now: Timestamp) -> u64 {
        let new_day = self.spec.check_in.is_some() && self.day(now) != self.today;
        let winners = if new_day || self.winners.has_room() { 0 } else { self.bytes_for_winners(self.capacity) };
        let needs_key = command.key.is_some() && !new_day && !self.keys.has_room();
        winners + if needs_key { key_bytes(&self.spec, key_growth(self.key_capacity)) } else { 0 }
    }

    fn bytes_for_winners(&self, claims: Units) -> u64 {
        winner_bytes(&self.spec, claims)
    }

    /// Enters a claim; gives the bytes by which its tables grew, and memory that is not used any more.
    ///
    /// # Panics
    /// Where it does not follow from what is there: more units than are free, a share that was not to be given out.
    pub(super) fn apply_claim(&mut self, claim: &Claim, user: UserHash) -> (u64, Option<Garbage>) {
        let (mut grown, mut garbage) = (0, None);
        self.acknowledged += claim.quantity.0;
        if self.spec.has_stock() {
            self.free = self.free.minus(claim.quantity).expect("units held exceed the stock");
        } else {
            garbage = self.enter_day(LocalDay(claim.hold as u16));
        }
        if self.spec.red_packet.is_some() {
            self.left.0 -= claim.amount.map_or(0, |a| a.0);
            match self.returned.pop() {
                Some(share) => assert_eq!(claim.amount, Some(share), "a returned share goes out with its amount"),
                None => self.drawn += 1,
            }
            assert!(self.left.0 >= 0, "more money was given out than there is");
        }
        if !self.winners.has_room() {
            grown += self.bytes_for_winners(self.capacity);
            self.winners.grow(self.capacity);
            self.capacity.0 *= 2;
        }
        let held = Held {
            claim_id: claim.claim_id,
            quantity: claim.quantity.0 as u32,
            // A day's number is the whole table's.
            hold: if self.spec.has_stock() { claim.hold } else { 0 },
            order: self.order,
            settled: false,
        };
        self.order = self.order.saturating_add(1);
        let due = self.spec.reservation_ttl.map(|ttl| claim.accepted_at.plus_micros(ttl.0));
        self.winners.insert(user, &held, claim.amount, due);
        if let Some(key) = claim.key {
            grown += self.make_room_for_key();
            self.keys.insert(key, &Replay::from(claim));
        }
        self.bytes += grown;
        (grown, garbage)
    }

    pub(super) fn make_room_for_key(&mut self) -> u64 {
        if self.keys.has_room() {
            return 0;
        }
        let more = key_growth(self.key_capacity);
        self.keys.grow(more);
        self.key_capacity.0 += more.0;
        key_bytes(&self.spec, more)
    }

    /// A new local day: yesterday's buyers leave memory.
    fn enter_day(&mut self, day: LocalDay) -> Option<Garbage> {
        let before = self.today.replace(day);
        if before.is_none() || before == Some(day) {
            return None;
        }
        let winners = std::mem::replace(&mut self.winners, new_winners(&self.spec, self.capacity));
        let keys = std::mem::replace(&mut self.keys, Keys::new(self.key_capacity));
        Some((winners, std::mem::replace(&mut self.old_keys, keys)))
    }

    /// Whether a claim may come to this end. None where that has happened already.
    ///
    /// # Errors
    /// Why it may not.
    pub(super) fn decide_move(&self, id: crate::sale::ClaimId, to: Fate) -> Result<Option<Kept>, MoveRefusal> {
        if self.spec.check_in.is_some() {
            return Err(MoveRefusal::CheckIn);
        }
        if self.released {
            return Err(MoveRefusal::Released);
        }
        let kept = self.winners.find(id).ok_or(MoveRefusal::NotHeld)?;
        match to {
            Fate::Settled if kept.held.settled => Ok(None),
            Fate::Cancelled | Fate::Expired if kept.held.settled => Err(MoveRefusal::Settled),
            _ => Ok(Some(kept)),
        }
    }

    /// The entry that a claim's end makes. A sale's amounts follow from the price, which never changes; shares are kept.
    pub(super) fn moved(&self, no: CampaignNo, kept: &Kept, to: Fate, by: Box<str>, reason: Box<str>) -> Moved {
        let quantity = kept.held.quantity;
        let amount = kept.amount.or_else(|| self.spec.price.map(|price| Money(price.0 * i64::from(quantity))));
        let (claim_id, quantity) = (kept.held.claim_id, Units(quantity.into()));
        Moved { claim_id, campaign: no, quantity, amount, to, by, reason }
    }

    /// Enters what became of a claim.
    ///
    /// # Panics
    /// Where the claim is not held.
    pub(super) fn apply_move(&mut self, moved: &Moved) {
        if moved.to == Fate::Settled {
            self.winners.settle(moved.claim_id).expect("a claim that is settled is held");
            return;
        }
        let kept = self.winners.remove(moved.claim_id).expect("a claim that is given back is held");
        assert_eq!(u64::from(kept.held.quantity), moved.quantity.0, "a claim is given back whole");
        self.free.0 += moved.quantity.0;
        assert!(self.free <= self.spec.stock, "more units were given back than there are");
        if self.spec.red_packet.is_some() {
            let share = kept.amount.unwrap_or_default();
            self.left.0 += share.0;
            self.returned.push(share);
        }
        self.stock_version += 1;
        if plant::on(Bug::DoubleReturn) && self.free.0 + moved.quantity.0 <= self.spec.stock.0 {
            self.free.0 += moved.quantity.0;
        }
    }

    /// Whether it may leave memory: it was closed, or its window was over, `after` microseconds ago, nothing of it must
    /// still be settled, and the database has all of it, which is everything up to `retired`.
    pub(super) fn is_releasable(&self, now: Timestamp, after: i64, retired: Seq) -> bool {
        let over = self.closed_at.unwrap_or(Timestamp(i64::MAX)).min(self.spec.closes_at);
        let is_over = !self.released && over.plus_micros(after) <= now;
        is_over && self.last <= retired && self.winners.first_due().is_none()
    }

    /// Closes it for good and forgets who holds what; gives the memory, and the bytes that are promised to nobody now.
    pub(super) fn release(&mut self) -> (u64, Garbage) {
        let bytes = std::mem::take(&mut self.bytes);
        self.wish = AdminState::Closed;
        self.released = true;
        self.version += 1;
        (self.capacity, self.key_capacity) = (Units(0), Units(0));
        self.returned = Vec::new();
        self.old_keys = Keys::default();
        self.admin_keys = VecDeque::new();
        (bytes, (std::mem::take(&mut self.winners), std::mem::take(&mut self.keys)))
    }

    /// Makes room for a restock; gives the bytes by which the tables grew.
    pub(super) fn grow_to_stock(&mut self) -> u64 {
        let Some(more) = self.spec.stock.minus(self.capacity).filter(|more| more.0 > 0) else { return 0 };
        let claims = growth(self.capacity, more);
        self.winners.grow(claims);
        self.keys.grow(claims);
        self.capacity.0 += claims.0;
        self.key_capacity.0 += claims.0;
        self.returned.reserve_exact(if self.spec.red_packet.is_some() { claims.0 as usize } else { 0 });
        let bytes = more_bytes(&self.spec, claims);
        self.bytes += bytes;
        bytes
    }

    /// Enters a change.
    pub(super) fn apply_change(&mut self, patch: &crate::sale::campaign::CampaignPatch, at: Timestamp) -> u64 {
        let (spec, free, left) = change::changed(self, patch).expect("a change that was decided is sound");
        if spec.stock != self.spec.stock {
            self.stock_version += 1;
        }
        (self.spec, self.free, self.left) = (spec, free, left);
        self.wish = patch.state.unwrap_or(self.wish);
        if self.wish == AdminState::Closed && self.closed_at.is_none() {
            self.closed_at = Some(at);
        }
        self.version += 1;
        self.grow_to_stock()
    }
}

/// What a buyer holds in a campaign.
#[derive(Debug, Default)]
pub(super) struct Holds {
    pub(super) units: u64,
    pub(super) oldest: Option<Held>,
    taken: Vec<u32>,
}

impl Holds {
    fn of(winners: &Winners, user: UserHash) -> Self {
        let mut holds = Self::default();
        for held in winners.of(user) {
            holds.units += u64::from(held.quantity);
            holds.taken.push(held.hold);
            holds.oldest = holds.oldest.filter(|o| o.order < held.order).or(Some(held));
        }
        holds
    }

    /// The lowest hold that none of the buyer's claims has.
    fn lowest_free_hold(&self) -> u32 {
        let mut taken = self.taken.clone();
        taken.sort_unstable();
        let gap = taken.iter().zip(0..).find(|(hold, place)| **hold != *place);
        gap.map_or(taken.len() as u32, |(_, place)| place)
    }
}

/// The claims that a new campaign has room for.
fn capacity_of(spec: &CampaignSpec) -> Units {
    if spec.has_stock() { spec.stock } else { Units(limits::CHECK_IN_BUYERS) }
}

pub(super) fn new_winners(spec: &CampaignSpec, capacity: Units) -> Winners {
    Winners::new(capacity, spec.red_packet.is_some(), spec.reservation_ttl.is_some())
}

/// A restock makes a table at least half the size of what is there, so that many small ones make few tables; but no more than
/// there can ever be stock for.
pub(super) fn growth(capacity: Units, more: Units) -> Units {
    Units(more.0.max((capacity.0 / 2).min(limits::STOCK_MAX.saturating_sub(capacity.0))))
}

/// Keys outnumber the units where claims are given back and made again.
fn key_growth(capacity: Units) -> Units {
    Units((capacity.0 / 2).max(1_024))
}

/// The bytes that the tables of a campaign take when it is sold out, each claim with an idempotency key: the winners, the keys
/// and the filter of holders. What is promised when the campaign is created.
pub(super) fn table_bytes(spec: &CampaignSpec) -> u64 {
    more_bytes(spec, capacity_of(spec))
}

/// The bytes that room for `claims` more takes, the front end's filter and the shares that may come back included.
pub(super) fn more_bytes(spec: &CampaignSpec, claims: Units) -> u64 {
    let returned = if spec.red_packet.is_some() { claims.0 * size_of::<Money>() as u64 } else { 0 };
    winner_bytes(spec, claims) + key_bytes(spec, claims) + returned
}

/// The bytes that a loaded campaign's tables take when they are full.
pub(super) fn loaded_bytes(spec: &CampaignSpec, claims: Units, keys: Units) -> u64 {
    more_bytes(spec, claims) - key_bytes(spec, claims) + key_bytes(spec, keys)
}

fn winner_bytes(spec: &CampaignSpec, claims: Units) -> u64 {
    Winners::bytes_for(claims, spec.red_packet.is_some(), spec.reservation_ttl.is_some()) + claims.0 * 2
}

/// A check-in keeps the keys of the day before, too.
fn key_bytes(spec: &CampaignSpec, keys: Units) -> u64 {
    Keys::bytes_for(keys) * if spec.check_in.is_some() { 2 } else { 1 }
}
