//! The book: the pure state machine that decides every claim.
//!
//! Contract: `decide` reads, `apply` changes, and nothing else does either. Recovery applies what was decided before and
//! never decides again, so that a live book and a recovered one are the same. No I/O, no clock, no logging, no async;
//! time is an argument. Invariants, asserted in every build: seqs are dense; units held never exceed the stock; a red
//! packet's remaining money can always be shared out within its bounds.

use std::collections::{HashMap, VecDeque};
use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

use super::command::{AdminAction, AdminCommand, AdminDone, AdminRefusal, ClaimCommand, Refusal, Replay};
use super::index::ColdPages;
use super::keys::Keys;
use super::winners::{Held, Winners};
use crate::limits;
use crate::plant::{self, Bug};
use crate::sale::campaign::{AdminState, CampaignPatch};
use crate::sale::red_packet::{self, Seed};
use crate::sale::{
    CampaignId, CampaignKind, CampaignNo, CampaignSpec, Changed, Claim, Created, Durability, Entry, Event, KeyHash,
    Money, Seq, Timestamp, Units, UserHash, UserId,
};

/// The data folder's secret, from which buyers and keys are hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub [u8; 16]);

impl HashKey {
    /// A buyer's hash.
    pub fn user(&self, user: &UserId) -> UserHash {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(user.as_bytes());
        UserHash(hasher.finish128().as_u128())
    }

    /// An idempotency key's hash, scoped to campaign and buyer.
    pub fn key(&self, campaign: CampaignNo, user: &UserId, key: &str) -> KeyHash {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write_u32(campaign.0);
        hasher.write(user.as_bytes());
        hasher.write_u8(0);
        hasher.write(key.as_bytes());
        KeyHash(hasher.finish128().as_u128())
    }

    /// An operator's idempotency key, scoped to the campaign it is for.
    pub fn admin_key(&self, campaign: &str, key: &str) -> KeyHash {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(campaign.as_bytes());
        hasher.write_u8(1);
        hasher.write(key.as_bytes());
        KeyHash(hasher.finish128().as_u128())
    }
}

/// What the book makes of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Held, once it is applied and durable.
    Accept(Claim),
    /// Accepted before under the same key.
    Replay(Replay),
    /// Refused; nothing changes.
    Refuse(Refusal),
}

/// What the book makes of an operator's wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminVerdict {
    /// To be applied and made durable, then answered with this.
    Enter(Event, AdminDone),
    /// Nothing to do.
    Done(AdminDone),
}

/// One campaign in the book.
#[derive(Debug)]
pub struct Campaign {
    /// Its definition as it stands: window and stock follow the changes.
    pub spec: CampaignSpec,
    /// What the operator last asked.
    pub wish: AdminState,
    /// Units nobody holds.
    pub free: Units,
    /// A red packet's money that nobody holds.
    pub left: Money,
    /// Counts the changes: 1 at creation.
    pub version: u64,
    /// Counts the changes of stock: 1 at creation.
    pub stock_version: u64,
    pub(super) seed: Seed,
    pub(super) drawn: u64,
    pub(super) order: u32,
    pub(super) capacity: Units,
    pub(super) winners: Winners,
    pub(super) keys: Keys,
    pub(super) admin_keys: VecDeque<(KeyHash, u64)>,
}

impl Campaign {
    /// Claims held.
    pub fn winners(&self) -> &Winners {
        &self.winners
    }

    /// All of its money, and what nobody holds of it: a red packet's total and rest, or price × stock and price × free.
    /// Zero where claims carry no amount.
    pub fn money(&self) -> (Money, Money) {
        // Creation and every restock see to it that price × stock fits (`check_turnover`).
        let worth = |units: Units| Money(self.spec.price.map_or(0, |price| price.0 * units.0 as i64));
        match &self.spec.red_packet {
            Some(packet) => (packet.total, self.left),
            None => (worth(self.spec.stock), worth(self.free)),
        }
    }

    /// The pages of its tables that are still to be written for the first time.
    pub(super) fn cold_pages(&self) -> impl Iterator<Item = ColdPages> {
        self.winners.cold_pages().into_iter().chain(self.keys.cold_pages())
    }

    fn refusal(&self, now: Timestamp) -> Option<Refusal> {
        let over = if plant::on(Bug::WindowOffByOne) { now > self.spec.closes_at } else { now >= self.spec.closes_at };
        match self.wish {
            AdminState::Closed => Some(Refusal::Ended),
            _ if over => Some(Refusal::Ended),
            AdminState::Paused => Some(Refusal::Paused),
            AdminState::Open if now < self.spec.opens_at => Some(Refusal::NotOpen { opens_at: self.spec.opens_at }),
            AdminState::Open => None,
        }
    }

    fn amount(&self, quantity: u32) -> Option<Money> {
        match &self.spec.red_packet {
            Some(packet) => Some(red_packet::next_share(packet, &self.seed, self.left, self.free, self.drawn)),
            None => self.spec.price.map(|p| Money(p.0 * i64::from(quantity))),
        }
    }
}

/// All campaigns and what is held of them.
#[derive(Debug)]
pub struct Book {
    pub(super) hash_key: HashKey,
    pub(super) campaigns: Vec<Campaign>,
    pub(super) by_id: HashMap<CampaignId, CampaignNo>,
    pub(super) last: Seq,
    pub(super) time: Timestamp,
    pub(super) reserved: u64,
    memory_max: u64,
}

impl Book {
    /// An empty book whose tables may take `memory_max` bytes.
    pub fn new(hash_key: HashKey, memory_max: u64) -> Self {
        Self {
            hash_key,
            campaigns: Vec::new(),
            by_id: HashMap::new(),
            last: Seq(0),
            time: Timestamp(0),
            reserved: 0,
            memory_max,
        }
    }

    /// The last entry applied.
    pub fn last_seq(&self) -> Seq {
        self.last
    }

    /// The journal's time: the latest of all entries. Never runs backwards.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// The key that buyers are hashed with.
    pub fn hash_key(&self) -> HashKey {
        self.hash_key
    }

    /// Every campaign, by number.
    pub fn campaigns(&self) -> &[Campaign] {
        &self.campaigns
    }

    /// A campaign.
    pub fn campaign(&self, no: CampaignNo) -> Option<&Campaign> {
        self.campaigns.get(no.0 as usize)
    }

    /// A campaign's number.
    pub fn number(&self, id: &CampaignId) -> Option<CampaignNo> {
        self.by_id.get(id).copied()
    }

    /// Bytes that the tables take when every campaign is sold out.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Reads ahead what [`Self::decide`] will need; see [`Winners::touch`].
    pub fn touch(&self, command: &ClaimCommand) -> u64 {
        self.campaign(command.campaign).map_or(0, |c| c.winners.touch(command.user_hash))
    }

    /// Decides a claim at `now`. The order is the contract's: a repeated key first, then what the buyer already holds
    /// (a winner is told so whatever became of the sale), then the window, then the stock.
    pub fn decide(&self, now: Timestamp, durability: Durability, command: &ClaimCommand) -> Verdict {
        let Some(campaign) = self.campaign(command.campaign) else {
            return Verdict::Refuse(Refusal::UnknownCampaign);
        };
        if let Some(replay) = command.key.and_then(|key| campaign.keys.get(key)) {
            return if replay.quantity == command.quantity {
                Verdict::Replay(replay)
            } else {
                Verdict::Refuse(Refusal::KeyReused)
            };
        }
        let (limit, quantity) = (campaign.spec.per_user_limit, u64::from(command.quantity));
        let packet = campaign.spec.kind == CampaignKind::RedPacket;
        if quantity == 0 || quantity > limit.0 || (packet && quantity != 1) {
            return Verdict::Refuse(Refusal::OverLimit { limit });
        }
        let held = Holds::of(campaign, command.user_hash);
        if let Some(oldest) = held.oldest.filter(|_| held.units + quantity > limit.0) {
            return Verdict::Refuse(Refusal::AlreadyClaimed(oldest.claim_id));
        }
        if let Some(refusal) = campaign.refusal(now) {
            return Verdict::Refuse(refusal);
        }
        if quantity > campaign.free.0 {
            return Verdict::Refuse(Refusal::SoldOut { stock_version: campaign.stock_version });
        }
        Verdict::Accept(Claim {
            claim_id: command.claim_id,
            campaign: command.campaign,
            user: command.user,
            quantity: Units(quantity),
            amount: campaign.amount(command.quantity),
            hold: held.lowest_free_hold(),
            receipt_key: command.receipt_key,
            key: command.key,
            seq: self.next_seq(),
            accepted_at: now,
            durability,
        })
    }

    /// Decides an operator's wish.
    ///
    /// # Errors
    /// Why it can't be; nothing changes then.
    pub fn decide_admin(&self, command: &AdminCommand) -> Result<AdminVerdict, AdminRefusal> {
        match &command.action {
            AdminAction::Create(spec, seed) => self.decide_create(command, spec, *seed),
            AdminAction::Change(id, patch) => self.decide_change(command, id, patch),
        }
    }

    fn decide_create(&self, c: &AdminCommand, spec: &CampaignSpec, seed: Seed) -> Result<AdminVerdict, AdminRefusal> {
        if let Some(no) = self.number(&spec.id) {
            let campaign = &self.campaigns[no.0 as usize];
            let repeated = c.asked.key.and_then(|key| campaign.admin_keys.iter().find(|(k, _)| *k == key));
            return match repeated {
                Some((_, payload)) if *payload == create_digest(spec) => {
                    Ok(AdminVerdict::Done(AdminDone::Identical(no)))
                }
                Some(_) => Err(AdminRefusal::KeyReused),
                None if campaign.spec == *spec => Ok(AdminVerdict::Done(AdminDone::Identical(no))),
                None => Err(AdminRefusal::Exists(spec.id)),
            };
        }
        if self.campaigns.len() >= limits::CAMPAIGNS_MAX {
            return Err(AdminRefusal::TooLarge(format!("there are {} campaigns, the most", limits::CAMPAIGNS_MAX)));
        }
        self.check_memory(spec.stock, spec.kind)?;
        let no = CampaignNo(self.campaigns.len() as u32);
        let created = Created { no, spec: spec.clone(), seed, asked: c.asked.clone() };
        Ok(AdminVerdict::Enter(Event::Created(Box::new(created)), AdminDone::Created(no)))
    }

    fn decide_change(
        &self,
        c: &AdminCommand,
        id: &CampaignId,
        p: &CampaignPatch,
    ) -> Result<AdminVerdict, AdminRefusal> {
        let no = self.number(id).ok_or(AdminRefusal::Unknown(*id))?;
        let campaign = &self.campaigns[no.0 as usize];
        if let Some((_, payload)) = c.asked.key.and_then(|key| campaign.admin_keys.iter().find(|(k, _)| *k == key)) {
            return if *payload == change_digest(p) {
                Ok(AdminVerdict::Done(AdminDone::Replayed(no)))
            } else {
                Err(AdminRefusal::KeyReused)
            };
        }
        if campaign.wish == AdminState::Closed {
            let only_closes = CampaignPatch { state: Some(AdminState::Closed), ..CampaignPatch::default() };
            return if *p == only_closes {
                Ok(AdminVerdict::Done(AdminDone::Changed(no)))
            } else {
                Err(AdminRefusal::WrongState { state: "closed", why: "that is final" })
            };
        }
        let (spec, free, left) = super::change::changed(campaign, p).map_err(AdminRefusal::Field)?;
        let more = spec.stock.minus(campaign.capacity).filter(|more| more.0 > 0);
        if let Some(more) = more {
            self.check_memory(growth(campaign.capacity, more), spec.kind)?;
        }
        debug_assert!(free <= spec.stock && left >= Money(0));
        let changed = Changed { no, patch: *p, asked: c.asked.clone() };
        Ok(AdminVerdict::Enter(Event::Changed(Box::new(changed)), AdminDone::Changed(no)))
    }

    fn check_memory(&self, claims: Units, kind: CampaignKind) -> Result<(), AdminRefusal> {
        let need = table_bytes(claims, kind);
        if self.reserved + need <= self.memory_max {
            return Ok(());
        }
        Err(AdminRefusal::TooLarge(format!(
            "{claims} units need {} MiB of memory when sold; {} of {} MiB are promised to other campaigns",
            need >> 20,
            self.reserved >> 20,
            self.memory_max >> 20
        )))
    }

    /// The seq that the next entry gets.
    pub fn next_seq(&self) -> Seq {
        if plant::on(Bug::ReusedSeq) && self.last.0 % 53 == 52 { self.last } else { self.last.next() }
    }

    /// Enters a claim that was decided, now or in an earlier life.
    ///
    /// # Panics
    /// Where it does not follow from what is there: a gap in the seqs, more units than are free.
    pub fn apply_claim(&mut self, claim: &Claim, user: UserHash) {
        assert_eq!(claim.seq, self.next_seq(), "entries are applied in order");
        let campaign = &mut self.campaigns[claim.campaign.0 as usize];
        campaign.free = campaign.free.minus(claim.quantity).expect("units held exceed the stock");
        let packet = campaign.spec.red_packet.is_some();
        if packet {
            campaign.left.0 -= claim.amount.map_or(0, |a| a.0);
            campaign.drawn += 1;
            assert!(campaign.left.0 >= 0, "more money was given out than there is");
        }
        let held = Held {
            claim_id: claim.claim_id,
            quantity: claim.quantity.0 as u32,
            hold: claim.hold,
            order: campaign.order,
        };
        campaign.order += 1;
        campaign.winners.insert(user, &held, claim.amount);
        if let Some(key) = claim.key {
            campaign.keys.insert(key, &Replay::from(claim));
        }
        self.last = claim.seq;
        self.time = self.time.max(claim.accepted_at);
    }

    /// Enters any entry.
    ///
    /// # Panics
    /// As [`Self::apply_claim`].
    pub fn apply(&mut self, entry: &Entry) {
        match &entry.event {
            Event::Claimed(claim) => return self.apply_claim(claim, self.hash_key.user(&claim.user)),
            Event::Created(created) => self.apply_created(created),
            Event::Changed(changed) => self.apply_changed(changed),
        }
        assert_eq!(entry.seq, self.next_seq(), "entries are applied in order");
        self.last = entry.seq;
        self.time = self.time.max(entry.at);
    }

    fn apply_created(&mut self, created: &Created) {
        assert_eq!(created.no.0 as usize, self.campaigns.len(), "campaigns are numbered in order");
        let (spec, claims) = (&created.spec, created.spec.stock);
        let packet = spec.kind == CampaignKind::RedPacket;
        self.reserved += table_bytes(claims, spec.kind);
        self.by_id.insert(spec.id, created.no);
        self.campaigns.push(Campaign {
            wish: AdminState::Open,
            free: claims,
            left: spec.red_packet.map_or(Money(0), |p| p.total),
            version: 1,
            stock_version: 1,
            seed: created.seed,
            drawn: 0,
            order: 0,
            capacity: claims,
            winners: Winners::new(claims, packet),
            keys: Keys::new(claims),
            admin_keys: created.asked.key.iter().map(|&key| (key, create_digest(spec))).collect(),
            spec: spec.clone(),
        });
    }

    fn apply_changed(&mut self, changed: &Changed) {
        let campaign = &mut self.campaigns[changed.no.0 as usize];
        let patch = &changed.patch;
        let (spec, free, left) = super::change::changed(campaign, patch).expect("a change that was decided is sound");
        if spec.stock != campaign.spec.stock {
            campaign.stock_version += 1;
        }
        (campaign.spec, campaign.free, campaign.left) = (spec, free, left);
        campaign.wish = patch.state.unwrap_or(campaign.wish);
        campaign.version += 1;
        if let Some(more) = campaign.spec.stock.minus(campaign.capacity).filter(|more| more.0 > 0) {
            let claims = growth(campaign.capacity, more);
            campaign.winners.grow(claims);
            campaign.keys.grow(claims);
            campaign.capacity.0 += claims.0;
            self.reserved += table_bytes(claims, campaign.spec.kind);
        }
        if let Some(key) = changed.asked.key {
            if campaign.admin_keys.len() == limits::ADMIN_KEYS_MAX {
                campaign.admin_keys.pop_front();
            }
            campaign.admin_keys.push_back((key, change_digest(patch)));
        }
    }
}

/// What a buyer holds in a campaign.
struct Holds {
    units: u64,
    oldest: Option<Held>,
    claims: u32,
    taken: u128,
}

impl Holds {
    fn of(campaign: &Campaign, user: UserHash) -> Self {
        let mut holds = Self { units: 0, oldest: None, claims: 0, taken: 0 };
        for held in campaign.winners.of(user) {
            holds.units += u64::from(held.quantity);
            holds.claims += 1;
            holds.taken |= 1u128.checked_shl(held.hold).unwrap_or(0);
            holds.oldest = holds.oldest.filter(|o| o.order < held.order).or(Some(held));
        }
        holds
    }

    /// The lowest hold nobody has; beyond 128 holds simply the next number, which is free because holds are given back
    /// only by commands that this version does not have.
    fn lowest_free_hold(&self) -> u32 {
        let lowest = (!self.taken).trailing_zeros();
        if lowest < 128 { lowest } else { self.claims }
    }
}

/// A restock makes a table at least half the size of what is there, so that many small ones make few tables.
fn growth(capacity: Units, more: Units) -> Units {
    Units(more.0.max(capacity.0 / 2))
}

/// Bytes that the tables of a campaign of `claims` units take when it is sold out, each claim with an idempotency key: the
/// winners, the keys and the filter of holders. What is promised when the campaign is created.
pub fn table_bytes(claims: Units, kind: CampaignKind) -> u64 {
    let filter = claims.0 * 2;
    Winners::bytes_for(claims, kind == CampaignKind::RedPacket) + Keys::bytes_for(claims) + filter
}

fn digest(text: &str) -> u64 {
    // Unkeyed on purpose: it is stored, and compared only under a key that the same operator chose.
    let mut hasher = SipHasher13::new();
    hasher.write(text.as_bytes());
    hasher.finish128().h1
}

fn create_digest(spec: &CampaignSpec) -> u64 {
    digest(&spec.to_json().to_string())
}

fn change_digest(patch: &CampaignPatch) -> u64 {
    digest(&patch.to_json().to_string())
}
