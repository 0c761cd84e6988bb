//! Many claims of one campaign as one command: see `library/bundle.lua`.

use std::collections::HashSet;

use redis::Value;

use super::layout::{self, Hold};
use super::{ProtocolError, bytes, claim_outcome, list};
use crate::queue::codec;
use crate::queue::command::{ClaimCommand, Outcome, Refusal};
use crate::sale::{CampaignKind, CampaignNo, CampaignSpec, Claim, Durability, Money, Seq, Timestamp, Units, UserHash};

/// Claims of one campaign for one unit each, without keys, each of another buyer.
#[derive(Debug)]
pub struct Bundle {
    no: CampaignNo,
    price: Option<Money>,
    buyers: HashSet<UserHash>,
    /// A letter, campaign (4), claims (4), price (8), then each claim's tag.
    head: Vec<u8>,
    /// Buyer and record of each claim one behind the other, and where each of them ends.
    holds: Vec<u8>,
    ends: Vec<(usize, usize)>,
    /// The claims' entries as they are in a journal, and where each of them ends.
    entries: Vec<u8>,
    entry_ends: Vec<usize>,
}

/// What became of a bundle.
#[derive(Debug)]
pub struct Unbundled {
    /// An outcome a claim.
    pub outcomes: Vec<Outcome>,
    /// How many were accepted.
    pub accepted: u32,
}

impl Bundle {
    /// Whether claims of a campaign can be in one.
    pub fn takes(spec: &CampaignSpec) -> bool {
        let is_plain = matches!(spec.kind, CampaignKind::FlashSale | CampaignKind::Coupon);
        is_plain && spec.per_user_limit == Units(1) && spec.reservation_ttl.is_none()
    }

    /// An empty one, of a campaign that it [takes](Self::takes).
    pub fn new(no: CampaignNo, price: Option<Money>) -> Self {
        let mut head = vec![b'C'];
        head.extend_from_slice(&no.0.to_le_bytes());
        head.extend_from_slice(&0u32.to_le_bytes());
        head.extend_from_slice(&layout::amount(price));
        Self {
            no,
            price,
            buyers: HashSet::new(),
            head,
            holds: Vec::new(),
            ends: Vec::new(),
            entries: Vec::new(),
            entry_ends: Vec::new(),
        }
    }

    /// Its campaign.
    pub fn campaign(&self) -> CampaignNo {
        self.no
    }

    /// How many claims are in it.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whether a claim can be in one of its campaign.
    pub fn is_plain(command: &ClaimCommand) -> bool {
        command.quantity == 1 && command.key.is_none()
    }

    /// Adds a claim of its campaign that is [plain](Self::is_plain); false where its buyer is in it already.
    pub fn push(&mut self, command: &ClaimCommand) -> bool {
        if !self.buyers.insert(command.user_hash) {
            return false;
        }
        let hold = Hold { claim_id: command.claim_id, quantity: 1, hold: 0, settled: false, amount: self.price };
        self.holds.extend_from_slice(command.user.as_bytes());
        let user_ends = self.holds.len();
        hold.put(&mut self.holds);
        self.ends.push((user_ends, self.holds.len()));
        // Position and time are the list's.
        codec::encode_claim(
            &mut self.entries,
            &Claim {
                claim_id: command.claim_id,
                campaign: self.no,
                user: command.user,
                quantity: Units(1),
                amount: self.price,
                hold: 0,
                receipt_key: command.receipt_key,
                key: None,
                seq: Seq(0),
                accepted_at: Timestamp(0),
                durability: Durability::Disk,
            },
        );
        self.entry_ends.push(self.entries.len());
        self.head.extend_from_slice(&command.claim_id.tag());
        let count = self.ends.len() as u32;
        self.head[5..9].copy_from_slice(&count.to_le_bytes());
        true
    }

    /// Its words: the head, buyer and record of each claim, then each one's entry.
    pub fn words(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = 0;
        let holds = self.ends.iter().flat_map(move |(user, record)| {
            let start = std::mem::replace(&mut at, *record);
            [&self.holds[start..*user], &self.holds[*user..*record]]
        });
        let entries = (0..self.len()).map(|i| self.entry(i));
        std::iter::once(&self.head[..]).chain(holds).chain(entries)
    }

    fn entry(&self, i: usize) -> &[u8] {
        let start = i.checked_sub(1).map_or(0, |before| self.entry_ends[before]);
        &self.entries[start..self.entry_ends[i]]
    }

    /// Reads what became of it, and adds the entries of what was accepted, which begin at `first`, to `entries`.
    ///
    /// # Errors
    /// What is no answer to it.
    pub fn unbundle(
        &self,
        answer: &Value,
        (first, at): (Seq, Timestamp),
        entries: &mut Vec<u8>,
    ) -> Result<Unbundled, ProtocolError> {
        let accepted = |n: u32| Outcome::Accepted { seq: first.plus(n.into()), at, amount: self.price };
        let all = |refusal: Refusal| {
            Ok(Unbundled { outcomes: self.ends.iter().map(|_| Outcome::Refused(refusal)).collect(), accepted: 0 })
        };
        match answer {
            Value::BulkString(word) if word == b"A" => {
                entries.extend_from_slice(&self.entries);
                let count = self.len() as u32;
                Ok(Unbundled { outcomes: (0..count).map(accepted).collect(), accepted: count })
            }
            Value::BulkString(word) if word == b"?" => all(Refusal::UnknownCampaign),
            // What never changes of a campaign is another one's here. The gate hears so when it looks at campaigns next.
            Value::BulkString(word) if word == b"@" => all(Refusal::NotDurable),
            other => self.one_by_one(list(other)?, accepted, entries),
        }
    }

    fn one_by_one(
        &self,
        answer: &[Value],
        accepted: impl Fn(u32) -> Outcome,
        entries: &mut Vec<u8>,
    ) -> Result<Unbundled, ProtocolError> {
        let wrong = || ProtocolError(format!("{answer:?} is no answer to {} claims", self.len()));
        let (letters, mut details) = answer.split_first().ok_or_else(wrong)?;
        let letters = bytes(letters)?;
        if letters.len() != self.len() {
            return Err(wrong());
        }
        let (mut outcomes, mut count) = (Vec::with_capacity(letters.len()), 0);
        for (i, letter) in letters.iter().enumerate() {
            if *letter == b'A' {
                outcomes.push(accepted(count));
                entries.extend_from_slice(self.entry(i));
                count += 1;
                continue;
            }
            let mut words = vec![*letter];
            if matches!(letter, b'H' | b'N' | b'S') {
                let (detail, rest) = details.split_first().ok_or_else(wrong)?;
                words.extend_from_slice(bytes(detail)?);
                details = rest;
            }
            match claim_outcome(&words)? {
                Some(refused @ Outcome::Refused(_)) => outcomes.push(refused),
                _ => return Err(wrong()),
            }
        }
        if details.is_empty() { Ok(Unbundled { outcomes, accepted: count }) } else { Err(wrong()) }
    }
}
