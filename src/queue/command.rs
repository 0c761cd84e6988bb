//! What the front end submits, and what comes back.

use super::carts::CartBase;
use super::ledger::Balance;
use crate::sale::{
    Asked, CampaignId, CampaignNo, CampaignSpec, CartKey, CartOp, Claim, ClaimId, Entry, Fate, KeyHash, Money, Seq,
    Sku, Timestamp, Units, UserHash, UserId, campaign::CampaignPatch, red_packet::Seed,
};

/// A request to hold units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimCommand {
    /// The campaign, already looked up.
    pub campaign: CampaignNo,
    /// Units wanted, from 1 to the campaign's limit.
    pub quantity: u32,
    /// The receipt key in use.
    pub receipt_key: u16,
    /// The buyer.
    pub user: UserId,
    /// The buyer, hashed with the data folder's key.
    pub user_hash: UserHash,
    /// The id that the claim gets if it is accepted.
    pub claim_id: ClaimId,
    /// The idempotency key, hashed.
    pub key: Option<KeyHash>,
}

/// A request to change a line of a cart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CartCommand {
    /// The buyer.
    pub user: UserId,
    /// The buyer, hashed with the data folder's key.
    pub user_hash: UserHash,
    /// The line.
    pub sku: Sku,
    /// What is asked.
    pub op: CartOp,
    /// The idempotency key, hashed, with a digest of what is asked.
    pub key: Option<CartKey>,
    /// What the caller knows of the cart.
    pub base: CartBase,
}

/// What became of a request to change a cart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CartOutcome {
    /// It is changed, at this position.
    Done(Seq),
    /// The same key had changed it, at this position.
    Replayed(Seq),
    /// Load the cart and come again with this number.
    Load(u64),
    /// More than a cart may hold.
    Full,
    /// The key was used for something else.
    KeyReused,
    /// Too many entries wait for the database, too many keys are remembered, or the journal's disk is full.
    BufferFull,
    /// Durability can't be given any more.
    NotDurable,
}

/// A request to bring a claim to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveCommand {
    /// The claim.
    pub claim_id: ClaimId,
    /// Its campaign, already looked up.
    pub campaign: CampaignNo,
    /// Its buyer, likewise.
    pub user: UserId,
    /// What becomes of it.
    pub to: Fate,
    /// Who asks.
    pub by: Box<str>,
    /// Why; empty where nobody says.
    pub reason: Box<str>,
}

/// A request to create or change a campaign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminCommand {
    /// Who asks, and under which idempotency key.
    pub asked: Asked,
    /// What is asked.
    pub action: AdminAction,
}

/// What an operator may ask of the book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAction {
    /// A new campaign, and what its shares are drawn from.
    Create(CampaignSpec, Seed),
    /// A change of a campaign.
    Change(CampaignId, CampaignPatch),
}

/// What a front end wants to read of what waits, where that is kept for many of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Claims of the buyers with this tag, and their ends.
    Waiting([u8; 6]),
    /// A buyer's cart.
    Cart(UserId),
    /// A campaign's balance.
    Balance(CampaignNo),
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Looked {
    /// Entries, the oldest first.
    Waiting(Vec<Entry>),
    /// The position of its last operation, and its lines; none where the database's is the whole truth.
    Cart(Option<(Seq, Vec<(Sku, u32)>)>),
    /// The balance.
    Balance(Box<Balance>),
    /// Nobody can look now.
    Away,
}

/// What the front end submits.
#[derive(Debug, Clone)]
pub enum Command {
    /// A claim.
    Claim(ClaimCommand),
    /// A change of a cart.
    Cart(Box<CartCommand>),
    /// What becomes of a claim.
    Move(Box<MoveCommand>),
    /// An operator's wish; rare, so boxed.
    Admin(Box<AdminCommand>),
    /// A look at what waits.
    Look(Look),
}

/// Why a claim can't come to an end. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveRefusal {
    /// It is not held: it came to another end before, or never was. The caller's own look-up tells which.
    NotHeld,
    /// It is paid.
    Settled,
    /// A check-in is final.
    CheckIn,
    /// Its campaign is closed and has left memory.
    Released,
    /// Too many entries wait for the database, or the journal's disk is full.
    BufferFull,
    /// Durability can't be given any more.
    NotDurable,
}

/// What became of a request to bring a claim to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveDone {
    /// It has come to this end now.
    Moved,
    /// It had before; nothing was done.
    Repeated,
}

/// Why a claim was refused. Nothing was held, and nothing will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The buyer holds what one may hold; this is the oldest live claim.
    AlreadyClaimed(ClaimId),
    /// Fewer units are free than were asked for.
    SoldOut { stock_version: u64 },
    /// The window has not begun.
    NotOpen { opens_at: Timestamp },
    /// The window is over, or the campaign is closed.
    Ended,
    /// The operator holds it.
    Paused,
    /// The key was used with another quantity.
    KeyReused,
    /// More than the campaign lets one buyer hold.
    OverLimit { limit: Units },
    /// No such campaign.
    UnknownCampaign,
    /// Too many entries wait for the database, or the journal's disk is full.
    BufferFull,
    /// Durability can't be given any more: fail stop.
    NotDurable,
}

/// Why an operator's wish was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminRefusal {
    /// A campaign of that name with another definition is there.
    #[error("campaign {0} exists with a different definition")]
    Exists(CampaignId),
    /// No such campaign.
    #[error("there is no campaign {0}")]
    Unknown(CampaignId),
    /// The change does not fit the state it is in.
    #[error("the campaign is {state}: {why}")]
    WrongState { state: &'static str, why: &'static str },
    /// A value that can't be taken.
    #[error("{0}")]
    Field(crate::sale::FieldError),
    /// The key was used for something else.
    #[error("the idempotency key was used with another payload")]
    KeyReused,
    /// No room: memory, or the number of campaigns.
    #[error("{0}")]
    TooLarge(String),
    /// The journal's disk is full.
    #[error("the journal's disk is full")]
    BufferFull,
    /// Durability can't be given any more.
    #[error("nothing can be made durable any more; restart the node")]
    NotDurable,
}

/// What became of an operator's wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminDone {
    /// The campaign is new.
    Created(CampaignNo),
    /// It was there already, just so; or this key had created it.
    Identical(CampaignNo),
    /// The change is made.
    Changed(CampaignNo),
    /// This key had made the change before: nothing was done now.
    Replayed(CampaignNo),
}

/// What the book decided, once that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The claim is held, under the id that the command gave.
    Accepted { seq: Seq, at: Timestamp, amount: Option<Money> },
    /// The same key was accepted before: that claim's first answer, again. Its user is the command's.
    Replayed(Replay),
    /// Refused.
    Refused(Refusal),
    /// Decided, but whether it is durable is unknown: it resolves after a restart.
    Unknown,
    /// What became of a request to change a cart.
    Cart(CartOutcome),
    /// What became of a request to bring a claim to its end.
    Moved(Result<MoveDone, MoveRefusal>),
    /// An operator's wish.
    Admin(Box<Result<AdminDone, AdminRefusal>>),
    /// What was found.
    Looked(Looked),
}

impl Command {
    /// The outcome of a command that nothing was done about, because nothing can be made durable now.
    pub fn not_durable(&self) -> Outcome {
        match self {
            Self::Claim(_) => Outcome::Refused(Refusal::NotDurable),
            Self::Cart(_) => Outcome::Cart(CartOutcome::NotDurable),
            Self::Move(_) => Outcome::Moved(Err(MoveRefusal::NotDurable)),
            Self::Admin(_) => Outcome::Admin(Box::new(Err(AdminRefusal::NotDurable))),
            Self::Look(_) => Outcome::Looked(Looked::Away),
        }
    }

    /// The same where there is no room for more that waits.
    pub fn buffer_full(&self) -> Outcome {
        match self {
            Self::Claim(_) => Outcome::Refused(Refusal::BufferFull),
            Self::Cart(_) => Outcome::Cart(CartOutcome::BufferFull),
            Self::Move(_) => Outcome::Moved(Err(MoveRefusal::BufferFull)),
            Self::Admin(_) => Outcome::Admin(Box::new(Err(AdminRefusal::BufferFull))),
            Self::Look(_) => Outcome::Looked(Looked::Away),
        }
    }
}

/// What is remembered of an acceptance under its idempotency key: enough to give its answer again, byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replay {
    /// The claim's id.
    pub claim_id: ClaimId,
    /// Units.
    pub quantity: u32,
    /// Its amount.
    pub amount: Option<Money>,
    /// Its receipt's key.
    pub receipt_key: u16,
    /// Its position.
    pub seq: Seq,
    /// When it was decided.
    pub at: Timestamp,
    /// What its acceptance promised.
    pub durability: crate::sale::Durability,
}

impl From<&Claim> for Replay {
    fn from(claim: &Claim) -> Self {
        Self {
            claim_id: claim.claim_id,
            quantity: claim.quantity.0 as u32,
            amount: claim.amount,
            receipt_key: claim.receipt_key,
            seq: claim.seq,
            at: claim.accepted_at,
            durability: claim.durability,
        }
    }
}
