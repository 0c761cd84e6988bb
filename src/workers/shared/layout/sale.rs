//! One campaign as it is laid out: its numbers and who holds what, from rows and from entries.
//!
//! Unlike the book this never refuses what was decided, and asserts nothing of it: entries in between may be lost, so what is
//! left need not follow from each other. What was acknowledged is entered all the same; the numbers may then say that less than
//! nothing is free, and nobody is given anything until they do not.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::limits;
use crate::queue::Replay;
use crate::queue::book;
use crate::queue::redis::protocol::{
    self,
    layout::{FIELDS, Hold, due, first_answer, kind_code},
};
use crate::sale::campaign::{AdminState, CampaignPatch};
use crate::sale::red_packet::Seed;
use crate::sale::{
    CampaignNo, CampaignSpec, Changed, Claim, ClaimId, Created, Fate, KeyHash, Money, Moved, Seq, Timestamp, Units,
    UserId,
};
use crate::store::{CampaignRecord, Totals};

/// A claim that is held.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub user: UserId,
    pub seq: Seq,
    pub hold: Hold,
    pub due: Option<Timestamp>,
}

/// A campaign on its way.
#[derive(Debug)]
pub(super) struct Sale {
    pub no: CampaignNo,
    pub spec: CampaignSpec,
    seed: Seed,
    wish: AdminState,
    closed_at: Option<Timestamp>,
    pub released: bool,
    version: u64,
    stock_version: u64,
    pub free: i64,
    left: i64,
    drawn: u64,
    /// Shares that came back, the one that goes out next last.
    returned: Vec<i64>,
    acknowledged: u64,
    last: Seq,
    today: Option<u32>,
    /// By position.
    pub held: BTreeMap<Seq, Held>,
    by_id: HashMap<ClaimId, Seq>,
    pub by_user: HashMap<UserId, Vec<Seq>>,
    keys: HashMap<KeyHash, Replay>,
    old_keys: HashMap<KeyHash, Replay>,
    asked: VecDeque<(KeyHash, u64)>,
    /// Units and money of what waits: claims, ends that pay, ends that give back.
    waiting: [i64; 6],
    totals: Option<Totals>,
}

/// Takes a command: its name, its key behind the prefix, its other words.
type Put<'a> = dyn FnMut(&str, Vec<u8>, Vec<Vec<u8>>) + 'a;

fn money(amount: Option<Money>) -> i64 {
    amount.map_or(0, |amount| amount.0)
}

impl Sale {
    /// A campaign as the database tells it, before its claims; versions go on behind `skipped`.
    pub(super) fn known(record: CampaignRecord, seed: Seed, skipped: u64) -> Self {
        let CampaignRecord { no, spec, state, closed_at, released, changes, restocks } = record;
        let mut sale = Self::new(no, spec, seed, skipped);
        (sale.wish, sale.closed_at, sale.released) = (state, closed_at, released);
        if released {
            sale.wish = AdminState::Closed;
        }
        (sale.version, sale.stock_version) = (skipped + changes, skipped + restocks);
        sale
    }

    /// A campaign that an entry creates.
    pub(super) fn created(seq: Seq, created: &Created, skipped: u64) -> Self {
        let mut sale = Self::new(created.no, created.spec.clone(), created.seed, skipped);
        sale.last = seq;
        sale
    }

    fn new(no: CampaignNo, spec: CampaignSpec, seed: Seed, skipped: u64) -> Self {
        Self {
            no,
            seed,
            wish: AdminState::Open,
            closed_at: None,
            released: false,
            version: skipped,
            stock_version: skipped,
            free: if spec.has_stock() { spec.stock.0 as i64 } else { 0 },
            left: spec.red_packet.map_or(0, |packet| packet.total.0),
            drawn: 0,
            returned: Vec::new(),
            acknowledged: 0,
            last: Seq(0),
            today: None,
            held: BTreeMap::new(),
            by_id: HashMap::new(),
            by_user: HashMap::new(),
            keys: HashMap::new(),
            old_keys: HashMap::new(),
            asked: VecDeque::new(),
            waiting: [0; 6],
            totals: None,
            spec,
        }
    }

    /// Remembers what the database has of it.
    pub(super) fn stored(&mut self, totals: Totals) {
        self.totals = Some(totals);
    }

    /// Remembers under which key an operator asked, the oldest first.
    pub(super) fn asked(&mut self, key: Option<KeyHash>, digest: u64) {
        let Some(key) = key else { return };
        if self.asked.len() == limits::ADMIN_KEYS_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back((key, digest));
    }

    /// A claim that the database has, with what became of it. In the order of positions.
    pub(super) fn row(&mut self, claim: &Claim, fate: Option<Fate>) {
        self.last = self.last.max(claim.seq);
        if !fate.is_some_and(Fate::returns_units) {
            self.enter(claim, fate == Some(Fate::Settled));
            return;
        }
        self.acknowledged += claim.quantity.0;
        self.stock_version += 1;
        if let Some(key) = claim.key.filter(|_| !self.released) {
            self.keys.insert(key, Replay::from(claim));
        }
    }

    /// A claim that waits.
    pub(super) fn claim(&mut self, claim: &Claim) {
        self.last = claim.seq;
        self.wait(0, claim.quantity, claim.amount);
        self.enter(claim, false);
    }

    fn wait(&mut self, at: usize, units: Units, amount: Option<Money>) {
        self.waiting[at] += units.0 as i64;
        self.waiting[at + 1] += money(amount);
    }

    fn enter(&mut self, claim: &Claim, settled: bool) {
        self.acknowledged += claim.quantity.0;
        if self.spec.check_in.is_some() {
            if self.today.is_some_and(|today| claim.hold < today) {
                // Of a day that is over, behind one of a later day: only its points still count.
                return;
            }
            self.enter_day(claim.hold);
        } else {
            self.free -= claim.quantity.0 as i64;
        }
        if self.spec.red_packet.is_some() {
            self.take_share(money(claim.amount));
        }
        if self.released {
            return;
        }
        if let Some(key) = claim.key {
            self.keys.insert(key, Replay::from(claim));
        }
        let (quantity, amount) = (claim.quantity.0 as u32, claim.amount);
        let hold = Hold { claim_id: claim.claim_id, quantity, hold: claim.hold, settled, amount };
        let due = self.spec.reservation_ttl.map(|ttl| claim.accepted_at.plus_micros(ttl.0));
        self.held.insert(claim.seq, Held { user: claim.user, seq: claim.seq, hold, due });
        self.by_id.insert(claim.claim_id, claim.seq);
        self.by_user.entry(claim.user).or_default().push(claim.seq);
    }

    fn enter_day(&mut self, day: u32) {
        if self.today.replace(day).is_some_and(|before| before != day) {
            self.old_keys = std::mem::take(&mut self.keys);
            (self.held, self.by_id, self.by_user) = (BTreeMap::new(), HashMap::new(), HashMap::new());
        }
    }

    /// A share that came back goes out again with its amount. Which one it was is seen by that: what is lost may have brought back
    /// another one on top of it.
    fn take_share(&mut self, share: i64) {
        self.left -= share;
        match self.returned.iter().rposition(|returned| *returned == share) {
            Some(at) => drop(self.returned.remove(at)),
            None => self.drawn += 1,
        }
    }

    /// The end of a claim; false where nobody holds it.
    pub(super) fn end(&mut self, seq: Seq, moved: &Moved) -> bool {
        self.last = seq;
        self.wait(if moved.to == Fate::Settled { 2 } else { 4 }, moved.quantity, moved.amount);
        let Some(place) = self.by_id.get(&moved.claim_id).copied() else { return false };
        if moved.to == Fate::Settled {
            if let Some(held) = self.held.get_mut(&place) {
                held.hold.settled = true;
            }
            return true;
        }
        self.by_id.remove(&moved.claim_id);
        if let Some(held) = self.held.remove(&place) {
            let left = self.by_user.get_mut(&held.user).map(|places| {
                places.retain(|at| *at != place);
                places.len()
            });
            if left == Some(0) {
                self.by_user.remove(&held.user);
            }
        }
        self.free += moved.quantity.0 as i64;
        self.stock_version += 1;
        if self.spec.red_packet.is_some() {
            let share = money(moved.amount);
            self.left += share;
            self.returned.push(share);
        }
        true
    }

    /// A change.
    pub(super) fn change(&mut self, (seq, at): (Seq, Timestamp), changed: &Changed, remembers: bool) {
        let patch: &CampaignPatch = &changed.patch;
        let (more, total) = (patch.add_stock.unwrap_or(0), patch.add_total.unwrap_or(0));
        let spec = &mut self.spec;
        spec.opens_at = patch.opens_at.unwrap_or(spec.opens_at);
        spec.closes_at = patch.closes_at.unwrap_or(spec.closes_at);
        if spec.has_stock() {
            spec.stock = Units(spec.stock.0.saturating_add_signed(more));
            self.free += more;
        }
        if let Some(packet) = &mut spec.red_packet {
            packet.total.0 += total;
            self.left += total;
        }
        self.stock_version += u64::from(more != 0);
        self.wish = patch.state.unwrap_or(self.wish);
        if self.wish == AdminState::Closed {
            self.closed_at.get_or_insert(at);
        }
        self.version += 1;
        self.last = seq;
        self.asked(changed.asked.key.filter(|_| remembers), book::change_digest(patch));
    }

    /// Its claims leave memory.
    pub(super) fn release(&mut self, seq: Seq) {
        (self.wish, self.released, self.last) = (AdminState::Closed, true, seq);
        self.version += 1;
        (self.held, self.by_id, self.by_user) = (BTreeMap::new(), HashMap::new(), HashMap::new());
        (self.keys, self.old_keys, self.asked) = (HashMap::new(), HashMap::new(), VecDeque::new());
        self.returned = Vec::new();
    }

    /// Why a claim can't have been accepted as things stand, if so: something between them is missing.
    pub(super) fn misfits(&self, claim: &Claim) -> Option<Misfit> {
        if self.spec.check_in.is_some() {
            return None;
        }
        let mine = self.by_user.get(&claim.user).into_iter().flatten().filter_map(|at| self.held.get(at));
        let (mut units, mut is_taken) = (claim.quantity.0, false);
        for held in mine {
            units += u64::from(held.hold.quantity);
            is_taken |= held.hold.hold == claim.hold;
        }
        if is_taken || units > self.spec.per_user_limit.0 {
            return Some(Misfit::Holder);
        }
        (self.free < claim.quantity.0 as i64).then_some(Misfit::Stock)
    }

    fn numbers(&self) -> [i64; FIELDS.len()] {
        let (spec, none) = (&self.spec, -1);
        let packet = spec.red_packet.as_ref();
        let head = [
            kind_code(spec.kind).into(),
            match self.wish {
                AdminState::Open => 0,
                AdminState::Paused => 1,
                AdminState::Closed => 2,
            },
            spec.opens_at.0,
            spec.closes_at.0,
            spec.per_user_limit.0 as i64,
            spec.stock.0 as i64,
            self.free,
            self.left,
            spec.price.map_or(none, |price| price.0),
            spec.check_in.as_ref().map_or(0, |check_in| check_in.points.0),
            spec.reservation_ttl.map_or(none, |ttl| ttl.0),
            self.version as i64,
            self.stock_version as i64,
            self.drawn as i64,
            self.returned.len() as i64,
            self.acknowledged as i64,
            self.closed_at.map_or(none, |at| at.0),
            self.released.into(),
            self.last.0 as i64,
            self.today.map_or(none, i64::from),
            packet.map_or(0, |packet| packet.total.0),
            packet.map_or(0, |packet| packet.min.0),
            packet.and_then(|packet| packet.max).map_or(none, |max| max.0),
        ];
        let mut values = [0; FIELDS.len()];
        for (value, known) in values.iter_mut().zip(head.into_iter().chain(self.waiting)) {
            *value = known;
        }
        values
    }

    /// The shares that were never given out, the next one first.
    fn shares(&self) -> Vec<i64> {
        let Some(packet) = self.spec.red_packet.filter(|_| !self.released) else { return Vec::new() };
        let left = self.left - self.returned.iter().sum::<i64>();
        let shares = u64::try_from(self.free - self.returned.len() as i64).unwrap_or(0);
        if packet.check_feasible(Money(left), Units(shares)).is_ok() {
            let shares = protocol::shares(&self.spec, &self.seed, Money(left), Units(shares), self.drawn);
            return shares.into_iter().map(|share| share.0).collect();
        }
        // What is missing took shares, or brought some back: what is left goes out all the same, none of it twice.
        let left = left.max(0);
        (0..shares).map(|at| left / shares as i64 + i64::from((at as i64) < left % shares as i64)).collect()
    }

    /// Has each of all campaigns changed at a position of its own, none of them 0: readers come by these, page by page, and behind a
    /// position. The database tells no position of a campaign without claims; there are at least as many as campaigns.
    pub(super) fn spread(sales: &mut [Self]) {
        let mut taken = BTreeSet::new();
        let lost: Vec<usize> =
            (0..sales.len()).filter(|at| sales[*at].last == Seq(0) || !taken.insert(sales[*at].last)).collect();
        let mut free = (1..).map(Seq).filter(|seq| !taken.contains(seq));
        for at in lost {
            sales[at].last = free.next().unwrap_or_default();
        }
    }

    /// Gives the commands that lay it out.
    pub(super) fn commands(&self, put: &mut Put<'_>) {
        let name = self.no.0.to_string();
        let key = |kind: &str| format!("{kind}:{name}").into_bytes();
        let text = |n: i64| n.to_string().into_bytes();
        let mut fields: Vec<Vec<u8>> = [b"id".to_vec(), self.spec.id.as_str().into()].into();
        fields.extend([b"spec".to_vec(), self.spec.to_json().to_string().into_bytes()]);
        fields.extend([b"seed".to_vec(), self.seed.0.to_vec()]);
        let numbers = FIELDS.iter().zip(self.numbers());
        fields.extend(numbers.flat_map(|(field, value)| [field.as_bytes().to_vec(), text(value)]));
        put("HSET", key("c"), fields);
        put("HSET", b"ids".to_vec(), vec![self.spec.id.as_str().into(), name.clone().into_bytes()]);
        put("ZADD", b"v".to_vec(), vec![self.last.to_string().into_bytes(), name.clone().into_bytes()]);
        if let Some(t) = &self.totals {
            let values = [
                ("persisted", t.persisted.0 as i64),
                ("persisted_money", t.persisted_money.0),
                ("settled", t.settled.0 as i64),
                ("settled_money", t.settled_money.0),
                ("returned", t.returned.0 as i64),
                ("returned_money", t.returned_money.0),
                ("dead", t.dead.0 as i64),
                ("dead_money", t.dead_money.0),
            ];
            put("HSET", key("z"), values.iter().flat_map(|(f, v)| [f.as_bytes().to_vec(), text(*v)]).collect());
        }
        if self.spec.reservation_ttl.is_some() && !self.released {
            put("HSET", b"x".to_vec(), vec![name.clone().into_bytes(), b"1".to_vec()]);
        }
        put("RPUSH", key("s"), self.shares().into_iter().map(text).collect());
        put("RPUSH", key("r"), self.returned.iter().rev().copied().map(text).collect());
        self.holders(&key, put);
    }

    fn holders(&self, key: &dyn Fn(&str) -> Vec<u8>, put: &mut Put<'_>) {
        let page = limits::LAY_COMMAND_WORDS / 2;
        let holders: Vec<_> = self.by_user.iter().collect();
        for some in holders.chunks(page) {
            let fields = some.iter().flat_map(|(user, places)| {
                let records = places.iter().filter_map(|at| self.held.get(at));
                let packed: Vec<u8> = records.flat_map(|held| held.hold.pack()).collect();
                [user.as_bytes().to_vec(), packed]
            });
            put("HSET", key("h"), fields.collect());
        }
        for (kind, keys) in [("k", &self.keys), ("o", &self.old_keys)] {
            let all: Vec<_> = keys.iter().collect();
            for some in all.chunks(page) {
                let fields = some.iter().flat_map(|(key, first)| [key.0.to_le_bytes().to_vec(), first_answer(first)]);
                put("HSET", key(kind), fields.collect());
            }
        }
        for (asked, digest) in &self.asked {
            let asked = asked.0.to_le_bytes().to_vec();
            put("HSET", key("a"), vec![asked.clone(), digest.to_le_bytes().to_vec()]);
            put("RPUSH", key("b"), vec![asked]);
        }
        let open = self.held.values().filter(|held| !held.hold.settled);
        let dues = open.filter_map(|held| held.due.map(|at| due(at, held.hold.claim_id, &held.user)));
        put("RPUSH", key("d"), dues.collect());
    }
}

/// Why a claim does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misfit {
    /// Its buyer holds what it takes.
    Holder,
    /// There are not so many units.
    Stock,
}
