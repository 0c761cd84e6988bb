//! The book: the pure state machine that decides every claim.
//!
//! Contract: `decide` reads, `apply` changes, and nothing else does either. Recovery applies what was decided before and
//! never decides again, so that a live book and a recovered one are the same. No I/O, no clock, no logging, no async;
//! time is an argument. Invariants, asserted in every build: seqs are dense; units held never exceed the stock; a red
//! packet's remaining money can always be shared out within its bounds.

use std::collections::HashMap;
use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

pub use super::campaign::Campaign;
use super::campaign::{self, Garbage};
use super::carts::{CartBase, CartGarbage, CartVerdict, Carts};
use super::command::{
    AdminAction, AdminCommand, AdminDone, AdminRefusal, CartCommand, ClaimCommand, MoveCommand, MoveRefusal, Refusal,
    Replay,
};
use crate::limits;
use crate::plant::{self, Bug};
use crate::sale::campaign::{AdminState, CampaignPatch};
use crate::sale::red_packet::Seed;
use crate::sale::{
    CampaignId, CampaignKind, CampaignNo, CampaignSpec, CartKey, CartOp, Carted, Changed, Claim, Created, Durability,
    Entry, Event, Fate, KeyHash, Money, Moved, Seq, Sku, Timestamp, Units, UserHash, UserId,
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

    /// A sku's hash, for the lines of carts.
    pub fn sku(&self, sku: &Sku) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(sku.as_bytes());
        hasher.write_u8(2);
        hasher.finish128().h1
    }

    /// A cart operation's idempotency key, scoped to its buyer, with a digest of what is asked.
    pub fn cart_key(&self, user: &UserId, key: &str, sku: &Sku, op: CartOp) -> CartKey {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(user.as_bytes());
        hasher.write_u8(3);
        hasher.write(key.as_bytes());
        let hash = KeyHash(hasher.finish128().as_u128());
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(sku.as_bytes());
        hasher.write(op.as_str().as_bytes());
        hasher.write_u32(op.quantity());
        CartKey { hash, payload: hasher.finish128().h1 }
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
    Enter(Box<Event>, AdminDone),
    /// Nothing to do.
    Done(AdminDone),
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
    pub(super) memory_max: u64,
    /// Campaigns whose claims must be settled in time.
    pub(super) expiring: Vec<CampaignNo>,
    garbage: Vec<Garbage>,
    /// The carts in use.
    pub(super) carts: Carts,
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
            expiring: Vec::new(),
            garbage: Vec::new(),
            carts: Carts::default(),
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
        if let Some(replay) = command.key.and_then(|key| campaign.replay(key)) {
            return if replay.quantity == command.quantity {
                Verdict::Replay(replay)
            } else {
                Verdict::Refuse(Refusal::KeyReused)
            };
        }
        let (limit, quantity) = (campaign.spec.per_user_limit, u64::from(command.quantity));
        let one_each = matches!(campaign.spec.kind, CampaignKind::RedPacket | CampaignKind::CheckIn);
        if quantity == 0 || quantity > limit.0 || (one_each && quantity != 1) {
            return Verdict::Refuse(Refusal::OverLimit { limit });
        }
        let holds = campaign.holds(command.user_hash, now);
        if let Some(oldest) = holds.oldest.filter(|_| holds.units + quantity > limit.0) {
            return Verdict::Refuse(Refusal::AlreadyClaimed(oldest.claim_id));
        }
        if let Some(refusal) = campaign.refusal(now) {
            return Verdict::Refuse(refusal);
        }
        if quantity > campaign.free.0 {
            return Verdict::Refuse(Refusal::SoldOut { stock_version: campaign.stock_version });
        }
        if self.reserved + campaign.growth_for(command, now) > self.memory_max {
            return Verdict::Refuse(Refusal::BufferFull);
        }
        Verdict::Accept(Claim {
            claim_id: command.claim_id,
            campaign: command.campaign,
            user: command.user,
            quantity: Units(quantity),
            amount: campaign.amount(command.quantity),
            hold: campaign.next_hold(&holds, now),
            receipt_key: command.receipt_key,
            key: command.key,
            seq: self.next_seq(),
            accepted_at: now,
            durability,
        })
    }

    /// Decides an operation on a cart. It may load and forget carts, which are no state of the journal's.
    /// `base` is what is known of a cart that is not here.
    pub fn decide_cart(&mut self, now: Timestamp, command: &CartCommand, base: &CartBase) -> CartVerdict {
        let sku = self.hash_key.sku(&command.sku);
        self.carts.decide(now, command.user_hash, (sku, command.op), command.key, base)
    }

    /// Forgets a cart that was changed elsewhere.
    pub fn forget_cart(&mut self, buyer: UserHash) {
        self.carts.forget(buyer);
    }

    /// Decides what becomes of a claim: the entry to make of it, or none where it has come to this end already.
    ///
    /// # Errors
    /// Why it can't come to this end; nothing changes then.
    pub fn decide_move(&self, command: &MoveCommand) -> Result<Option<Moved>, MoveRefusal> {
        let campaign = self.campaign(command.campaign).ok_or(MoveRefusal::NotHeld)?;
        let kept = campaign.decide_move(command.claim_id, command.to)?;
        let (by, reason) = (command.by.clone(), command.reason.clone());
        Ok(kept.map(|kept| campaign.moved(command.campaign, &kept, command.to, by, reason)))
    }

    /// A claim that was due at `due` or earlier, as the entry that lets it expire; of the campaign at the place `from` of those
    /// that have such claims, or of one behind it, whose place `from` is then: each is looked at once a sweep.
    pub fn next_expiry(&self, due: Timestamp, from: &mut usize) -> Option<Moved> {
        let begun = *from;
        self.expiring.iter().enumerate().skip(begun).find_map(|(place, &no)| {
            *from = place;
            let campaign = &self.campaigns[no.0 as usize];
            let kept = campaign.winners.first_due().filter(|kept| kept.due.is_some_and(|at| at <= due))?;
            Some(campaign.moved(no, &kept, Fate::Expired, Box::default(), Box::default()))
        })
    }

    /// A campaign among those at `places` that may leave memory: closed, or over, `after` microseconds ago, and in the
    /// database, which has everything up to `retired`.
    pub fn next_release(
        &self,
        mut places: std::ops::Range<usize>,
        now: Timestamp,
        after: i64,
        retired: Seq,
    ) -> Option<CampaignNo> {
        let at = places.find(|&at| self.campaigns.get(at).is_some_and(|c| c.is_releasable(now, after, retired)))?;
        Some(CampaignNo(at as u32))
    }

    /// Whether claims of some campaign must be settled in time.
    pub fn has_expiring(&self) -> bool {
        !self.expiring.is_empty()
    }

    /// Whether there are tables of campaigns that are not used any more.
    pub fn has_garbage(&self) -> bool {
        !self.garbage.is_empty()
    }

    /// Memory that is not used any more, for whoever has the time to free it.
    pub fn take_garbage(&mut self) -> (Vec<Garbage>, CartGarbage) {
        (std::mem::take(&mut self.garbage), self.carts.take_garbage())
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
        self.check_memory(spec.stock, campaign::table_bytes(spec))?;
        let no = CampaignNo(self.campaigns.len() as u32);
        let created = Created { no, spec: spec.clone(), seed, asked: c.asked.clone() };
        Ok(AdminVerdict::Enter(Box::new(Event::Created(Box::new(created))), AdminDone::Created(no)))
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
            let claims = campaign::growth(campaign.capacity, more);
            self.check_memory(claims, campaign::more_bytes(&spec, claims))?;
        }
        debug_assert!(!spec.has_stock() || free <= spec.stock && left >= Money(0));
        let changed = Changed { no, patch: *p, asked: c.asked.clone() };
        Ok(AdminVerdict::Enter(Box::new(Event::Changed(Box::new(changed))), AdminDone::Changed(no)))
    }

    fn check_memory(&self, claims: Units, need: u64) -> Result<(), AdminRefusal> {
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
        let (grown, garbage) = self.campaigns[claim.campaign.0 as usize].apply_claim(claim, user);
        self.campaigns[claim.campaign.0 as usize].last = claim.seq;
        self.reserved += grown;
        self.garbage.extend(garbage);
        self.last = claim.seq;
        self.time = self.time.max(claim.accepted_at);
    }

    /// Enters any entry.
    ///
    /// # Panics
    /// As [`Self::apply_claim`].
    pub fn apply(&mut self, entry: &Entry) {
        let no = match &entry.event {
            Event::Claimed(claim) => return self.apply_claim(claim, self.hash_key.user(&claim.user)),
            Event::Carted(carted) => return self.apply_cart(entry.seq, entry.at, carted),
            Event::Created(created) => {
                self.apply_created(created);
                created.no
            }
            Event::Changed(changed) => {
                self.apply_changed(changed, entry.at);
                changed.no
            }
            Event::Moved(moved) => {
                self.campaigns[moved.campaign.0 as usize].apply_move(moved);
                moved.campaign
            }
            Event::Released(no) => {
                let (bytes, garbage) = self.campaigns[no.0 as usize].release();
                self.reserved -= bytes;
                self.expiring.retain(|expiring| expiring != no);
                self.garbage.push(garbage);
                *no
            }
            Event::Void => {
                assert_eq!(entry.seq, self.next_seq(), "entries are applied in order");
                (self.last, self.time) = (entry.seq, self.time.max(entry.at));
                return;
            }
        };
        assert_eq!(entry.seq, self.next_seq(), "entries are applied in order");
        self.campaigns[no.0 as usize].last = entry.seq;
        self.last = entry.seq;
        self.time = self.time.max(entry.at);
    }

    fn apply_cart(&mut self, seq: Seq, at: Timestamp, carted: &Carted) {
        assert_eq!(seq, self.next_seq(), "entries are applied in order");
        let (user, sku) = (self.hash_key.user(&carted.user), self.hash_key.sku(&carted.sku));
        self.carts.apply(at, seq, user, sku, carted);
        self.last = seq;
        self.time = self.time.max(at);
    }

    fn apply_created(&mut self, created: &Created) {
        assert_eq!(created.no.0 as usize, self.campaigns.len(), "campaigns are numbered in order");
        let campaign = Campaign::new(created, create_digest(&created.spec));
        self.enter(created.no, campaign);
    }

    /// Takes a campaign in under its number.
    pub(super) fn enter(&mut self, no: CampaignNo, campaign: Campaign) {
        self.reserved += campaign.bytes;
        self.by_id.insert(campaign.spec.id, no);
        if campaign.spec.reservation_ttl.is_some() && !campaign.released {
            self.expiring.push(no);
        }
        self.campaigns.push(campaign);
    }

    fn apply_changed(&mut self, changed: &Changed, at: Timestamp) {
        let campaign = &mut self.campaigns[changed.no.0 as usize];
        self.reserved += campaign.apply_change(&changed.patch, at);
        if let Some(key) = changed.asked.key {
            if campaign.admin_keys.len() == limits::ADMIN_KEYS_MAX {
                campaign.admin_keys.pop_front();
            }
            campaign.admin_keys.push_back((key, change_digest(&changed.patch)));
        }
    }
}

fn digest(text: &str) -> u64 {
    // Unkeyed on purpose: it is stored, and compared only under a key that the same operator chose.
    let mut hasher = SipHasher13::new();
    hasher.write(text.as_bytes());
    hasher.finish128().h1
}

/// What a creation is known by under an operator's idempotency key.
pub fn create_digest(spec: &CampaignSpec) -> u64 {
    digest(&spec.to_json().to_string())
}

/// What a change is known by under an operator's idempotency key.
pub fn change_digest(patch: &CampaignPatch) -> u64 {
    digest(&patch.to_json().to_string())
}
