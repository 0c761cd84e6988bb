//! A campaign as a person would keep it on paper: a list of claims, and sums over it.

use std::collections::HashMap;

use forebay::queue::{MoveDone, MoveRefusal, Refusal};
use forebay::sale::campaign::{AdminState, CampaignPatch};
use forebay::sale::{CampaignSpec, ClaimId, Fate, Timestamp, Units};

#[derive(Debug, Clone, PartialEq)]
pub struct Paper {
    pub buyer: u32,
    pub quantity: u32,
    pub hold: u32,
    pub amount: Option<i64>,
    pub id: ClaimId,
    pub seq: u64,
    pub at: Timestamp,
    /// What became of it.
    pub fate: Option<Fate>,
}

impl Paper {
    /// Whether its units are its buyer's.
    pub fn is_held(&self) -> bool {
        matches!(self.fate, None | Some(Fate::Settled))
    }
}

#[derive(Debug, PartialEq)]
pub enum Expected {
    Accept { hold: u32, amount: Option<i64> },
    Replay(Paper),
    Refuse(Refusal),
}

#[derive(Debug, PartialEq)]
pub enum ExpectedChange {
    Enter,
    Nothing,
    Replayed,
    KeyReused,
    Closed,
    Field,
}

#[derive(Debug)]
pub struct Sheet {
    pub name: String,
    pub limit: u64,
    pub price: Option<i64>,
    pub bounds: Option<(i64, i64)>,
    pub stock: i64,
    pub total: i64,
    pub opens: i64,
    pub closes: i64,
    pub wish: AdminState,
    pub stock_version: u64,
    pub version: u64,
    /// Microseconds in which a claim must be settled.
    pub ttl: Option<i64>,
    pub closed_at: Option<i64>,
    pub released: bool,
    /// The last entry that was about it.
    pub last: u64,
    /// All claims that ever were.
    pub claims: Vec<Paper>,
    /// Amounts of shares that were given back and are to go out again.
    pub returned: Vec<i64>,
    pub keys: HashMap<(u32, u32), usize>,
    pub admin_keys: HashMap<u32, CampaignPatch>,
}

impl Sheet {
    pub fn new(spec: &CampaignSpec) -> Self {
        Self {
            name: spec.id.to_string(),
            limit: spec.per_user_limit.0,
            price: spec.price.map(|p| p.0),
            bounds: spec.red_packet.map(|p| (p.min.0, p.max.map_or(i64::MAX / 1_000_000, |m| m.0))),
            stock: spec.stock.0 as i64,
            total: spec.red_packet.map_or(0, |p| p.total.0),
            opens: spec.opens_at.0,
            closes: spec.closes_at.0,
            wish: AdminState::Open,
            stock_version: 1,
            version: 1,
            ttl: spec.reservation_ttl.map(|ttl| ttl.0),
            closed_at: None,
            released: false,
            last: 0,
            claims: Vec::new(),
            returned: Vec::new(),
            keys: HashMap::new(),
            admin_keys: HashMap::new(),
        }
    }

    pub fn held(&self) -> impl Iterator<Item = &Paper> {
        self.claims.iter().filter(|claim| claim.is_held())
    }

    pub fn free(&self) -> i64 {
        self.stock - self.held().map(|c| i64::from(c.quantity)).sum::<i64>()
    }

    pub fn left(&self) -> i64 {
        match self.bounds {
            Some(_) => self.total - self.held().filter_map(|c| c.amount).sum::<i64>(),
            None => 0,
        }
    }

    /// The money and the number of shares that nobody was ever given.
    fn undrawn(&self) -> (i64, i64) {
        (self.left() - self.returned.iter().sum::<i64>(), self.free() - self.returned.len() as i64)
    }

    /// What must become of a claim: the documented order, said again.
    pub fn claim(&self, now: Timestamp, buyer: u32, quantity: u32, key: Option<u32>) -> Expected {
        if let Some(&at) = key.and_then(|k| self.keys.get(&(buyer, k))).filter(|_| !self.released) {
            let first = &self.claims[at];
            let same = first.quantity == quantity;
            return if same { Expected::Replay(first.clone()) } else { Expected::Refuse(Refusal::KeyReused) };
        }
        let one_share = self.bounds.is_some();
        if quantity == 0 || u64::from(quantity) > self.limit || (one_share && quantity > 1) {
            return Expected::Refuse(Refusal::OverLimit { limit: Units(self.limit) });
        }
        let mine: Vec<_> = self.held().filter(|c| c.buyer == buyer && !self.released).collect();
        let held: u64 = mine.iter().map(|c| u64::from(c.quantity)).sum();
        if held + u64::from(quantity) > self.limit {
            return Expected::Refuse(Refusal::AlreadyClaimed(mine[0].id));
        }
        let refusal = if self.wish == AdminState::Closed || now.0 >= self.closes {
            Some(Refusal::Ended)
        } else if self.wish == AdminState::Paused {
            Some(Refusal::Paused)
        } else if now.0 < self.opens {
            Some(Refusal::NotOpen { opens_at: Timestamp(self.opens) })
        } else if self.free() < i64::from(quantity) {
            Some(Refusal::SoldOut { stock_version: self.stock_version })
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return Expected::Refuse(refusal);
        }
        let hold = (0..).find(|n| mine.iter().all(|c| c.hold != *n)).unwrap();
        Expected::Accept { hold, amount: self.price.map(|p| p * i64::from(quantity)) }
    }

    /// Whether this share can be given now: one that was given back, while there are some; else within its bounds, and the
    /// rest can still be shared out within them.
    pub fn share_is_possible(&self, share: i64) -> bool {
        if !self.returned.is_empty() {
            return self.returned.contains(&share);
        }
        let (min, max) = self.bounds.unwrap();
        let (before, shares) = self.undrawn();
        let (left, shares) = (before - share, shares - 1);
        (min..=max).contains(&share) && min * shares <= left && left <= max.saturating_mul(shares)
    }

    pub fn accept(&mut self, paper: Paper, key: Option<u32>) {
        if let Some(key) = key {
            self.keys.insert((paper.buyer, key), self.claims.len());
        }
        if let Some(at) = paper.amount.and_then(|share| self.returned.iter().position(|r| *r == share)) {
            self.returned.swap_remove(at);
        }
        self.last = paper.seq;
        self.claims.push(paper);
    }

    /// What must become of a wish to end a claim; `at` is its place.
    pub fn end(&self, at: Option<usize>, to: Fate) -> Result<MoveDone, MoveRefusal> {
        let fate = at.map(|at| self.claims[at].fate);
        match (self.released, fate, to) {
            (true, ..) => Err(MoveRefusal::Released),
            (_, None, _) | (_, Some(Some(Fate::Cancelled | Fate::Expired)), _) => Err(MoveRefusal::NotHeld),
            (_, Some(Some(Fate::Settled)), Fate::Settled) => Ok(MoveDone::Repeated),
            (_, Some(Some(Fate::Settled)), _) => Err(MoveRefusal::Settled),
            (_, Some(None), _) => Ok(MoveDone::Moved),
        }
    }

    pub fn enter_end(&mut self, at: usize, to: Fate, seq: u64) {
        self.last = seq;
        self.claims[at].fate = Some(to);
        if to != Fate::Settled {
            self.stock_version += 1;
            if self.bounds.is_some() {
                self.returned.extend(self.claims[at].amount);
            }
        }
    }

    /// When a claim must be settled.
    pub fn due(&self, claim: &Paper) -> Option<i64> {
        let is_open = claim.fate.is_none() && !self.released;
        self.ttl.filter(|_| is_open).map(|ttl| claim.at.0 + ttl)
    }

    /// The place of the claim that is to expire next.
    pub fn expires(&self, upto: i64) -> Option<usize> {
        self.claims.iter().position(|claim| self.due(claim).is_some_and(|due| due <= upto))
    }

    /// Whether it may leave memory.
    pub fn may_go(&self, now: i64, after: i64, retired: u64) -> bool {
        let over = self.closed_at.map_or(self.closes, |at| at.min(self.closes));
        let is_settled = self.claims.iter().all(|claim| self.due(claim).is_none());
        !self.released && over + after <= now && self.last <= retired && is_settled
    }

    pub fn release(&mut self, seq: u64) {
        (self.released, self.wish, self.last) = (true, AdminState::Closed, seq);
        self.version += 1;
        self.admin_keys.clear();
    }

    pub fn change(&mut self, now: i64, patch: &CampaignPatch, key: Option<u32>) -> ExpectedChange {
        if let Some(first) = key.and_then(|k| self.admin_keys.get(&k)) {
            return if first == patch { ExpectedChange::Replayed } else { ExpectedChange::KeyReused };
        }
        if self.wish == AdminState::Closed {
            let only = CampaignPatch { state: Some(AdminState::Closed), ..CampaignPatch::default() };
            return if *patch == only { ExpectedChange::Nothing } else { ExpectedChange::Closed };
        }
        let (opens, closes) =
            (patch.opens_at.map_or(self.opens, |t| t.0), patch.closes_at.map_or(self.closes, |t| t.0));
        let (more, money) = (patch.add_stock.unwrap_or(0), patch.add_total.unwrap_or(0));
        let free = self.free() + more;
        let (undrawn, shares) = self.undrawn();
        let (left, shares) = (undrawn + money, shares + more);
        let money_fits = match self.bounds {
            None => patch.add_total.is_none(),
            Some((min, max)) => {
                patch.add_total.is_some() == patch.add_stock.is_some()
                    && left >= 0
                    && shares >= 0
                    && min * shares <= left
                    && left <= max.saturating_mul(shares)
            }
        };
        if closes <= opens || free < 0 || !money_fits {
            return ExpectedChange::Field;
        }
        (self.opens, self.closes) = (opens, closes);
        self.stock += more;
        self.total += money;
        self.stock_version += u64::from(more != 0);
        self.version += 1;
        self.wish = patch.state.unwrap_or(self.wish);
        if self.wish == AdminState::Closed {
            self.closed_at = Some(now);
        }
        if let Some(key) = key {
            self.admin_keys.insert(key, *patch);
        }
        ExpectedChange::Enter
    }
}
