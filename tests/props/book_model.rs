//! A campaign as a person would keep it on paper: a list of claims, and sums over it.

use std::collections::HashMap;

use forebay::queue::Refusal;
use forebay::sale::campaign::{AdminState, CampaignPatch};
use forebay::sale::{CampaignSpec, ClaimId, Money, Timestamp, Units};

#[derive(Debug, Clone, PartialEq)]
pub struct Paper {
    pub buyer: u32,
    pub quantity: u32,
    pub hold: u32,
    pub amount: Option<i64>,
    pub id: ClaimId,
    pub seq: u64,
    pub at: Timestamp,
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
    pub claims: Vec<Paper>,
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
            claims: Vec::new(),
            keys: HashMap::new(),
            admin_keys: HashMap::new(),
        }
    }

    pub fn free(&self) -> i64 {
        self.stock - self.claims.iter().map(|c| i64::from(c.quantity)).sum::<i64>()
    }

    pub fn left(&self) -> i64 {
        match self.bounds {
            Some(_) => self.total - self.claims.iter().filter_map(|c| c.amount).sum::<i64>(),
            None => 0,
        }
    }

    /// What must become of a claim: the documented order, said again.
    pub fn claim(&self, now: Timestamp, buyer: u32, quantity: u32, key: Option<u32>) -> Expected {
        if let Some(&at) = key.and_then(|k| self.keys.get(&(buyer, k))) {
            let first = &self.claims[at];
            let same = first.quantity == quantity;
            return if same { Expected::Replay(first.clone()) } else { Expected::Refuse(Refusal::KeyReused) };
        }
        let one_share = self.bounds.is_some();
        if quantity == 0 || u64::from(quantity) > self.limit || (one_share && quantity > 1) {
            return Expected::Refuse(Refusal::OverLimit { limit: Units(self.limit) });
        }
        let mine: Vec<_> = self.claims.iter().filter(|c| c.buyer == buyer).collect();
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

    /// Whether this share can be given now: within its bounds, and the rest can still be shared out within them.
    pub fn share_is_possible(&self, share: i64) -> bool {
        let (min, max) = self.bounds.unwrap();
        let (left, shares) = (self.left() - share, self.free() - 1);
        (min..=max).contains(&share) && min * shares <= left && left <= max * shares
    }

    pub fn accept(&mut self, paper: Paper, key: Option<u32>) {
        if let Some(key) = key {
            self.keys.insert((paper.buyer, key), self.claims.len());
        }
        self.claims.push(paper);
    }

    pub fn change(&mut self, patch: &CampaignPatch, key: Option<u32>) -> ExpectedChange {
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
        let (free, left) = (self.free() + more, self.left() + money);
        let money_fits = match self.bounds {
            None => patch.add_total.is_none(),
            Some((min, max)) => {
                patch.add_total.is_some() == patch.add_stock.is_some()
                    && left >= 0
                    && min * free <= left
                    && left <= max.saturating_mul(free)
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
        if let Some(key) = key {
            self.admin_keys.insert(key, *patch);
        }
        ExpectedChange::Enter
    }

    pub fn amount_of(&self, id: ClaimId) -> Option<Money> {
        self.claims.iter().find(|c| c.id == id).and_then(|c| c.amount).map(Money)
    }
}
