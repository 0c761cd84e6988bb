//! How a partition stands, and what an opening is answered.

use std::collections::HashMap;

use redis::Value;

use super::{ProtocolError, number, short, text};
use crate::sale::{Seq, Timestamp};

/// What Redis knows of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateState {
    /// Nothing, or nobody asked.
    Unknown,
    /// It has been here, and the database does not know it yet: it must acknowledge nothing.
    New,
    /// The database knows it, and an opening waits for it.
    Known,
    /// It has left, or was dismissed: no opening waits for it, so it must acknowledge nothing.
    Left,
}

impl GateState {
    /// The word in `gates`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::New => "new",
            Self::Known => "known",
            Self::Left => "left",
        }
    }
}

/// How a partition stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Whether there is one.
    pub exists: bool,
    /// The layout of its keys; empty where there is none.
    pub layout: String,
    /// The epoch that it was opened under last; 0 for never.
    pub epoch: u64,
    /// Whether it is open under that, here and now.
    pub is_open: bool,
    /// The last entry.
    pub seq: Seq,
    /// The last entry that is in the database.
    pub retired: Seq,
    /// How many campaigns there are.
    pub campaigns: u32,
    /// Entries in the list; `seq − retired`, or something is missing.
    pub entries: u64,
    /// Why it is fenced, after a fault.
    pub fenced: Option<String>,
    /// The token of an opening under way.
    pub recovery: Option<String>,
    /// What gates are to offer lies after this; none while it is not known.
    pub recovery_base: Option<Seq>,
    /// The token of the last opening; empty for none.
    pub opened_by: String,
    /// The database that it belongs to.
    pub identity: Option<u128>,
    /// Openings that laid the partition out anew, oldest first: the epoch, the position after which gates were asked for what
    /// they had, and the token. What was accepted after that under an earlier epoch, and not offered then, is lost.
    pub rebuilds: Vec<(u64, Seq, String)>,
    /// Redis' time.
    pub at: Timestamp,
    /// The gate that asks.
    pub gate: GateState,
    /// Which worker had the lease last.
    pub worker: Option<String>,
    /// To when.
    pub until: Timestamp,
}

/// Reads the answer of `status`, and of `recover`, which tells how it was before.
///
/// # Errors
/// What is no answer to that.
pub fn status(answer: &[Value]) -> Result<Status, ProtocolError> {
    let mut found = HashMap::new();
    for pair in answer.chunks(2) {
        let [name, value] = pair else { return Err(short("status")) };
        found.insert(text(name)?, value);
    }
    let word = |name: &str| found.get(name).map_or(Ok(""), |value| text(value));
    let numeric = |name: &str| match found.get(name) {
        Some(value) if !word(name)?.is_empty() => number::<i64>(value).map(Some),
        _ => Ok(None),
    };
    let some = |name: &str| Ok(Some(word(name)?.to_owned()).filter(|text| !text.is_empty()));
    let seq = |name: &str| Ok(numeric(name)?.map(|seq| Seq(seq as u64)));
    let identity = match word("identity")? {
        "" => None,
        text => Some(u128::from_str_radix(text, 16).map_err(|_| ProtocolError(format!("identity {text:?}")))?),
    };
    Ok(Status {
        exists: word("exists")? == "1",
        layout: word("layout")?.to_owned(),
        epoch: numeric("epoch")?.unwrap_or_default() as u64,
        is_open: word("opened")? == "1",
        seq: seq("seq")?.unwrap_or_default(),
        retired: seq("retired")?.unwrap_or_default(),
        campaigns: numeric("campaigns")?.unwrap_or_default() as u32,
        entries: numeric("entries")?.unwrap_or_default() as u64,
        fenced: some("fenced")?,
        recovery: some("recovery")?,
        recovery_base: seq("recovery_base")?,
        opened_by: word("opened_by")?.to_owned(),
        identity,
        rebuilds: rebuilds(word("rebuilds")?)?,
        at: Timestamp(numeric("time")?.unwrap_or_default()),
        gate: match word("gate")? {
            "" => GateState::Unknown,
            "new" => GateState::New,
            "known" => GateState::Known,
            "left" => GateState::Left,
            other => return Err(ProtocolError(format!("a gate that is {other:?}"))),
        },
        worker: some("worker")?,
        until: Timestamp(numeric("until")?.unwrap_or_default()),
    })
}

/// Reads meta's field of that name: `epoch:base:token` and a blank, again and again.
fn rebuilds(text: &str) -> Result<Vec<(u64, Seq, String)>, ProtocolError> {
    let one = |word: &str| {
        let (epoch, rest) = word.split_once(':')?;
        let (base, token) = rest.split_once(':')?;
        Some((epoch.parse().ok()?, Seq(base.parse().ok()?), token.to_owned()))
    };
    let wrong = || ProtocolError(format!("rebuilds {text:?}"));
    text.split_whitespace().map(|word| one(word).ok_or_else(wrong)).collect()
}

/// What a function answers that is done or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// It is done.
    Ok,
    /// The lease, or the opening, is not the caller's any more.
    Lost,
    /// A part of it is done: call again. Only `open` says so, of a long list.
    More,
    /// Another gate has offered something else for the same position.
    Conflict,
}

/// Reads the answer of `retire`, `offer`, `offered`, `lay` and `open`.
///
/// # Errors
/// What is no such answer.
pub fn word(answer: &[Value]) -> Result<Word, ProtocolError> {
    match text(answer.first().ok_or_else(|| short("a call"))?)? {
        "OK" => Ok(Word::Ok),
        "LOST" => Ok(Word::Lost),
        "MORE" => Ok(Word::More),
        "CONFLICT" => Ok(Word::Conflict),
        other => Err(ProtocolError(format!("the word {other:?}"))),
    }
}
