//! Claims whose callers were told that the outcome is unknown, until it is known: bounded, the oldest gives way.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use super::command::Outcome;
use crate::limits;
use crate::sale::{ClaimId, UserId};

/// What became of a claim that was told to be unknown, as long as no entry says more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsettled {
    /// Not known yet.
    Unknown,
    /// It was refused after all; nothing is held.
    Rejected,
}

/// The claims.
#[derive(Debug, Default)]
pub struct Unknowns(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    claims: HashMap<ClaimId, (UserId, Unsettled)>,
    order: VecDeque<ClaimId>,
}

impl Unknowns {
    /// A caller is told that this claim's outcome is unknown.
    pub fn add(&self, id: ClaimId, user: UserId) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.claims.insert(id, (user, Unsettled::Unknown)).is_none() {
            inner.order.push_back(id);
        }
        if inner.order.len() > limits::UNKNOWN_MAX
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.claims.remove(&oldest);
        }
    }

    /// The outcome arrived. An accepted claim is found among the entries from now on.
    pub fn resolve(&self, id: ClaimId, outcome: &Outcome) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Outcome::Unknown => {}
            Outcome::Accepted { .. } => {
                inner.claims.remove(&id);
            }
            _ => {
                if let Some((_, state)) = inner.claims.get_mut(&id) {
                    *state = Unsettled::Rejected;
                }
            }
        }
    }

    /// What is known of a claim.
    pub fn get(&self, id: ClaimId) -> Option<(UserId, Unsettled)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).claims.get(&id).copied()
    }
}
