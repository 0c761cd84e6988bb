//! A partition laid out anew, page by page.
//!
//! Redis' list is read before anything is written. Then the old state goes, the list first: from there on whoever begins
//! again finds it missing, and has gates offer everything that the database lacks.

use std::collections::{BTreeMap, VecDeque};

use rand::RngCore;
use redis::{Value, cmd};

use super::super::layout::{self, Laying, Layout};
use super::ReopenError;
use crate::limits;
use crate::queue::redis::client::Connection;
use crate::queue::redis::protocol::layout::Lay;
use crate::queue::redis::protocol::{ProtocolError, Status};
use crate::sale::red_packet::Seed;
use crate::sale::{ClaimId, ClaimStatus, Durability, Fate, Seq, UserId};
use crate::store::{ClaimRow, Database, Store};

/// What goes before the partition is laid out: whole keys, and kinds of keys. Gates, lanes and offers stay.
const KEYS: [&str; 4] = ["list", "v", "ids", "x"];
const KINDS: [&str; 8] = ["c:", "z:", "h:", "k:", "o:", "s:", "r:", "d:"];
/// Of carts.
const CARTS: [&str; 2] = ["t:", "l:"];
/// What was asked under which key: what is of the list stays with it.
const ASKED: [&str; 3] = ["a:", "b:", "y:"];

/// One on its way.
#[derive(Debug)]
pub(super) struct Making {
    token: String,
    journal: u128,
    durability: Durability,
    cursor: Seq,
    base: Seq,
    last: Seq,
    retired: Seq,
    is_whole: bool,
    epoch: u64,
    rebuilds: Vec<(u64, Seq, String)>,
    layout: Option<Layout>,
    /// Items behind the cursor.
    items: Vec<Option<Vec<u8>>>,
    ends: BTreeMap<ClaimId, Fate>,
    dead: BTreeMap<Seq, (ClaimRow, ClaimStatus)>,
    owners: VecDeque<UserId>,
    old: Vec<Vec<u8>>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    List,
    Offers,
    Campaigns,
    Dead(Seq),
    Claims(Seq),
    Entries,
    Carts,
    /// Looks for keys, from this place of Redis' on.
    Look(u64),
    Clear,
    Lay(Box<Laying>),
    Done,
}

impl Making {
    /// Of everything up to `base` from the database and, where Redis is whole, its list; from there to `last` from the gates.
    pub(super) fn new(cursor: Seq, (base, last): (Seq, Seq), before: &Status, is_whole: bool, epoch: u64) -> Self {
        Self {
            token: String::new(),
            journal: 0,
            durability: Durability::Disk,
            cursor,
            base,
            last,
            retired: before.retired,
            is_whole,
            epoch,
            rebuilds: before.rebuilds.clone(),
            layout: None,
            items: Vec::new(),
            ends: BTreeMap::new(),
            dead: BTreeMap::new(),
            owners: VecDeque::new(),
            old: Vec::new(),
            phase: Phase::List,
        }
    }

    /// For this opening.
    pub(super) fn with(self, token: String, durability: Durability, journal: u128) -> Self {
        Self { token, durability, journal, ..self }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn journal(&self) -> u128 {
        self.journal
    }

    pub(super) fn cursor(&self) -> Seq {
        self.cursor
    }

    /// One piece of work; whether it was the last.
    pub(super) async fn step(&mut self, connection: &mut Connection, store: &Database) -> Result<bool, ReopenError> {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Done => return Ok(true),
            mut phase => match self.advance(&mut phase, connection, store).await {
                Ok(Some(next)) => next,
                Ok(None) => phase,
                Err(error) => {
                    self.phase = phase;
                    return Err(error);
                }
            },
        };
        Ok(matches!(self.phase, Phase::Done))
    }

    /// One piece of `phase`; the next phase where it is done. Repeated after an error.
    async fn advance(
        &mut self,
        phase: &mut Phase,
        connection: &mut Connection,
        store: &Database,
    ) -> Result<Option<Phase>, ReopenError> {
        match phase {
            Phase::List => Ok(self.list(connection)?.then_some(Phase::Offers)),
            Phase::Offers => Ok(self.offers(connection)?.then_some(Phase::Campaigns)),
            Phase::Campaigns => self.campaigns(store).await.map(|()| Some(Phase::Dead(Seq(0)))),
            Phase::Dead(after) => {
                let page = store.dead_claims_and_fates(*after, limits::RECOVER_PAGE).await?;
                let Some((last, _)) = page.last() else { return Ok(Some(Phase::Claims(Seq(0)))) };
                *after = last.claim.seq;
                self.dead.extend(page.into_iter().map(|(row, status)| (row.claim.seq, (row, status))));
                Ok(None)
            }
            Phase::Claims(after) => Ok(self.claims(store, after).await?.then_some(Phase::Entries)),
            Phase::Entries => self.entries().map(|()| Some(Phase::Carts)),
            Phase::Carts => Ok(self.carts(store).await?.then_some(Phase::Look(0))),
            Phase::Look(at) => {
                *at = self.look(connection, *at)?;
                Ok((*at == 0).then_some(Phase::Clear))
            }
            Phase::Clear => self.clear(connection),
            Phase::Lay(laying) => match laying.step(connection, &self.token)? {
                None => Err(ReopenError::Lost),
                Some(true) => Ok(None),
                Some(false) => Ok(Some(Phase::Done)),
            },
            Phase::Done => Ok(Some(Phase::Done)),
        }
    }

    /// A page of Redis' own list; whether that was all.
    fn list(&mut self, connection: &mut Connection) -> Result<bool, ReopenError> {
        let wanted = if self.is_whole { self.base.0 - self.cursor.0 } else { 0 };
        let have = self.items.len() as u64;
        if have == wanted {
            return Ok(true);
        }
        let from = self.cursor.0 - self.retired.0 + have;
        let upto = from + (wanted - have).min(limits::OPENING_PAGE as u64) - 1;
        let key = connection.key("list");
        let Value::Array(items) = connection.command(cmd("LRANGE").arg(key).arg(from).arg(upto))? else {
            return Err(ProtocolError("LRANGE answers no list".to_owned()).into());
        };
        if items.len() as u64 != upto + 1 - from {
            // It was whole when the opening began.
            return Err(ReopenError::Lost);
        }
        for item in items {
            self.items.push(Some(bytes(item)?));
        }
        Ok(false)
    }

    /// A page of what gates have offered; whether that was all.
    fn offers(&mut self, connection: &mut Connection) -> Result<bool, ReopenError> {
        let first = self.cursor.0 + 1 + self.items.len() as u64;
        if first > self.last.0 {
            return Ok(true);
        }
        let upto = self.last.0.min(first + limits::OPENING_PAGE as u64 - 1);
        let mut command = cmd("HMGET");
        command.arg(connection.key("offers"));
        for seq in first..=upto {
            command.arg(seq);
        }
        let Value::Array(items) = connection.command(&command)? else {
            return Err(ProtocolError("HMGET answers no list".to_owned()).into());
        };
        for item in items {
            self.items.push(match item {
                Value::Nil => None,
                item => Some(bytes(item)?),
            });
        }
        Ok(false)
    }

    async fn campaigns(&mut self, store: &Database) -> Result<(), ReopenError> {
        // Every journal that was made anew, and every opening, goes on from versions of its own.
        let skipped = 1 + limits::RECOVER_VERSION_SKIP * (store.rebuilds().await? + self.epoch);
        let (time, _) = store.horizon().await?;
        let keeps_upto = if self.is_whole { self.base } else { self.cursor };
        let mut layout = Layout::new(self.cursor, time, skipped, keeps_upto);
        for record in store.campaign_records().await? {
            let mut seed = [0; 16];
            rand::rng().fill_bytes(&mut seed);
            layout.campaign(record, Seed(seed));
        }
        for totals in store.totals().await? {
            layout.stored(totals);
        }
        self.ends = store.dead_ends().await?;
        self.layout = Some(layout);
        Ok(())
    }

    /// A page of claims; whether that was all.
    async fn claims(&mut self, store: &Database, after: &mut Seq) -> Result<bool, ReopenError> {
        let page = store.scan(None, *after, limits::RECOVER_PAGE).await?;
        let Some(layout) = &mut self.layout else { return Err(ReopenError::Lost) };
        let ends = &self.ends;
        let fate = |id: ClaimId, status: ClaimStatus| {
            let known = [Fate::Settled, Fate::Cancelled, Fate::Expired].into_iter();
            known.into_iter().find(|fate| fate.status() == status).or_else(|| ends.get(&id).copied())
        };
        for stored in &page {
            *after = stored.row.claim.seq;
            while let Some(letter) = self.dead.first_entry().filter(|letter| *letter.key() < *after) {
                let (row, status) = letter.remove();
                layout.claim(&row.claim, fate(row.claim.claim_id, status))?;
            }
            layout.claim(&stored.row.claim, fate(stored.row.claim.claim_id, stored.status))?;
        }
        if !page.is_empty() {
            return Ok(false);
        }
        for (row, status) in std::mem::take(&mut self.dead).into_values() {
            layout.claim(&row.claim, fate(row.claim.claim_id, status))?;
        }
        Ok(true)
    }

    fn entries(&mut self) -> Result<(), ReopenError> {
        let Some(layout) = &mut self.layout else { return Err(ReopenError::Lost) };
        layout.entries(&std::mem::take(&mut self.items), self.durability)?;
        if layout.voids() > 0 {
            tracing::warn!(
                positions = layout.voids(),
                "positions that were given out are lost: nobody was told of what was there, but by a gate that was dismissed since"
            );
        }
        self.owners = layout.owners().into();
        Ok(())
    }

    /// Some carts; whether these were all.
    async fn carts(&mut self, store: &Database) -> Result<bool, ReopenError> {
        let Some(layout) = &mut self.layout else { return Err(ReopenError::Lost) };
        for _ in 0..limits::OPENING_CARTS {
            let Some(user) = self.owners.front().copied() else { return Ok(true) };
            let cart = store.cart(&user).await?;
            layout.cart(&user, cart);
            self.owners.pop_front();
        }
        Ok(false)
    }

    /// Looks for keys that have to go; from where to look next, 0 at the end.
    fn look(&mut self, connection: &mut Connection, at: u64) -> Result<u64, ReopenError> {
        let prefix = connection.key("");
        let mut scan = cmd("SCAN");
        scan.arg(at).arg("MATCH").arg(format!("{}*", escaped(&prefix))).arg("COUNT").arg(limits::OPENING_PAGE);
        let Value::Array(answer) = connection.command(&scan)? else {
            return Err(ProtocolError("SCAN answers no list".to_owned()).into());
        };
        let [next, Value::Array(keys)] = &answer[..] else {
            return Err(ProtocolError("SCAN answers something else".to_owned()).into());
        };
        for key in keys {
            let key = bytes(key.clone())?;
            let Some(name) = key.strip_prefix(prefix.as_bytes()) else { continue };
            let is_of = |kinds: &[&str]| kinds.iter().any(|kind| name.starts_with(kind.as_bytes()));
            let is_old = is_of(&KINDS) || is_of(&CARTS) || (is_of(&ASKED) && !self.is_whole);
            if is_old {
                self.old.push(name.to_vec());
            }
        }
        Ok(super::number(next)?)
    }

    /// Has some of the old keys go, the list before all others; then the laying out follows.
    fn clear(&mut self, connection: &mut Connection) -> Result<Option<Phase>, ReopenError> {
        let mut lay = Lay::new(&self.token);
        for key in KEYS {
            lay.add("UNLINK", key, []);
        }
        // Without a layout it is no partition, until the last command of the laying out says so.
        lay.add("HDEL", "meta", [b"fenced".to_vec(), b"layout".to_vec()]);
        let some = self.old.len().saturating_sub(limits::LAY_WORDS / 3);
        for key in self.old.drain(some..) {
            lay.add("UNLINK", key, []);
        }
        let is_last = self.old.is_empty();
        if is_last {
            self.rebuilds.push((self.epoch, self.base, self.token.clone()));
            let from = self.rebuilds.len().saturating_sub(limits::REBUILDS_TOLD);
            let told = self.rebuilds[from..].iter().map(|(epoch, base, token)| format!("{epoch}:{base}:{token} "));
            lay.add("HSET", "meta", [b"rebuilds".to_vec(), told.collect::<String>().into_bytes()]);
        }
        if !layout::call(connection, &mut lay)? {
            return Err(ReopenError::Lost);
        }
        if !is_last {
            return Ok(None);
        }
        let layout = self.layout.take().ok_or(ReopenError::Lost)?;
        Ok(Some(Phase::Lay(Box::new(layout.into_commands(self.epoch)))))
    }
}

fn bytes(value: Value) -> Result<Vec<u8>, ProtocolError> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        other => Err(ProtocolError(format!("{other:?} where bytes are expected"))),
    }
}

/// A text as a pattern that only it matches.
fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| "*?[]\\".contains(c).then_some('\\').into_iter().chain([c])).collect()
}
