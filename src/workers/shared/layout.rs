//! A partition's keys from what is known: the database's campaigns and claims, then the entries that wait.
//!
//! The head of `library/state.lua` says which key holds what. Nothing is decided here; what was decided is entered, also where
//! something before it is lost. Positions that nobody has become voids, except where what follows shows what must have been
//! there: a claim that came due, or that its buyer gave back, and that made room ([`gaps`]).

mod gaps;
mod sale;

use std::collections::{BTreeMap, VecDeque};

use crate::limits;
use crate::queue::book;
use crate::queue::codec;
use crate::queue::redis::client::{CallError, Connection};
use crate::queue::redis::protocol::layout::{self, Lay};
use crate::queue::redis::protocol::{self, ProtocolError, Word};
use crate::sale::red_packet::Seed;
use crate::sale::{CartKey, Carted, Claim, Durability, Entry, Event, Fate, Seq, Sku, Timestamp, UserId};
use crate::store::{CampaignRecord, StoredCart, Totals};
use gaps::Gaps;
use sale::Sale;

/// Why what is known makes no partition.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// What an item or an offer holds is no entry.
    #[error(transparent)]
    Entry(#[from] ProtocolError),
    /// An entry is about a campaign that nobody knows.
    #[error(
        "entry {seq} is about campaign number {no}, whose creation is neither in the database nor in what any gate has kept"
    )]
    NoCampaign { seq: Seq, no: u32 },
}

/// A cart of which something waits.
#[derive(Debug, Default)]
struct Cart {
    waiting: Vec<(Seq, Carted)>,
    stored: Option<StoredCart>,
}

/// A partition on its way into Redis.
#[derive(Debug)]
pub struct Layout {
    sales: Vec<Sale>,
    carts: BTreeMap<UserId, Cart>,
    /// What carts were asked under: the key, and at which position.
    cart_keys: Vec<(CartKey, Seq)>,
    /// Items of the list.
    items: Vec<Vec<u8>>,
    retired: Seq,
    /// Up to here operators' and carts' keys are in Redis, and stay.
    keeps_upto: Seq,
    time: Timestamp,
    skipped: u64,
    voids: u64,
}

/// What to call of Redis: the command, its key behind the prefix, its other words.
type Command = (String, Vec<u8>, Vec<Vec<u8>>);

impl Layout {
    /// Nothing yet. The database has everything up to `retired`, and nothing later than `time`; versions of campaigns go on
    /// behind `skipped`. Keys of operators and carts that came with entries up to `keeps_upto` are in Redis.
    pub fn new(retired: Seq, time: Timestamp, skipped: u64, keeps_upto: Seq) -> Self {
        Self {
            sales: Vec::new(),
            carts: BTreeMap::new(),
            cart_keys: Vec::new(),
            items: Vec::new(),
            retired,
            keeps_upto,
            time,
            skipped,
            voids: 0,
        }
    }

    /// The campaign that has the next number, as the database tells it. `seed` is what shares are drawn from now on.
    pub fn campaign(&mut self, record: CampaignRecord, seed: Seed) {
        self.sales.push(Sale::known(record, seed, self.skipped));
    }

    /// A claim that the database has, with what became of it. In the order of positions.
    ///
    /// # Errors
    /// [`LayoutError::NoCampaign`].
    pub fn claim(&mut self, claim: &Claim, fate: Option<Fate>) -> Result<(), LayoutError> {
        self.sale(claim.seq, claim.campaign.0)?.row(claim, fate);
        Ok(())
    }

    /// What the database's sums say of a campaign.
    pub fn stored(&mut self, totals: Totals) {
        if let Some(sale) = self.sales.get_mut(totals.no.0 as usize) {
            sale.stored(totals);
        }
    }

    fn sale(&mut self, seq: Seq, no: u32) -> Result<&mut Sale, LayoutError> {
        self.sales.get_mut(no as usize).ok_or(LayoutError::NoCampaign { seq, no })
    }

    /// The entries that wait, the first of which follows what the database has: items of the list, and nothing at positions that
    /// nobody has. After all claims of the database; once.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn entries(&mut self, items: &[Option<Vec<u8>>], durability: Durability) -> Result<(), LayoutError> {
        let mut entries = Vec::with_capacity(items.len());
        for (item, seq) in items.iter().zip(self.retired.0 + 1..) {
            entries.push(item.as_ref().map(|bytes| protocol::entry(bytes, Seq(seq), durability)).transpose()?);
        }
        // A void has the time of what comes after it, so that times never go back.
        let mut times = vec![self.time; entries.len()];
        let mut next = entries.iter().flatten().last().map_or(self.time, |entry| entry.at);
        for (time, entry) in times.iter_mut().zip(&entries).rev() {
            next = entry.as_ref().map_or(next, |entry| entry.at);
            *time = next;
        }
        let mut gaps = Gaps::new(self.retired, &entries, times);
        for entry in entries.iter().flatten() {
            if let Event::Claimed(claim) = &entry.event {
                self.make_room(claim, &mut gaps)?;
            }
            self.apply(entry)?;
        }
        let (filled, times) = gaps.finish();
        for (place, (item, time)) in items.iter().zip(times).enumerate() {
            let made = filled.get(&place).map_or(&Event::Void, |entry| &entry.event);
            let event = entries[place].as_ref().map_or(made, |entry| &entry.event);
            self.voids += u64::from(*event == Event::Void);
            let bytes = item.clone().unwrap_or_else(|| {
                let mut bytes = Vec::new();
                codec::encode(&mut bytes, event);
                layout::item(time, &bytes)
            });
            self.items.push(bytes);
            self.time = self.time.max(time);
        }
        Ok(())
    }

    /// Where something must have made room for `claim` at a position that nobody has, finds out what.
    fn make_room(&mut self, claim: &Claim, gaps: &mut Gaps) -> Result<(), LayoutError> {
        let sale = self.sale(claim.seq, claim.campaign.0)?;
        while let Some(misfit) = sale.misfits(claim) {
            let Some(ended) = gaps.end(sale, claim, misfit) else {
                tracing::error!(
                    campaign = %sale.spec.id,
                    entry = claim.seq.0,
                    ?misfit,
                    "an acknowledged claim does not fit behind what is left of the entries before it; it stays its buyer's"
                );
                break;
            };
            let Event::Moved(moved) = &ended.event else { break };
            if moved.to == Fate::Cancelled {
                tracing::warn!(
                    campaign = %sale.spec.id,
                    entry = ended.seq.0,
                    claim = %moved.claim_id,
                    next = claim.seq.0,
                    "the cancellation of a claim was lost; its buyer's next claim shows it, and it is entered again"
                );
            }
            sale.end(ended.seq, moved);
        }
        Ok(())
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), LayoutError> {
        let (seq, at, keeps_upto, skipped) = (entry.seq, entry.at, self.keeps_upto, self.skipped);
        match &entry.event {
            Event::Claimed(claim) => self.sale(seq, claim.campaign.0)?.claim(claim),
            Event::Moved(moved) => {
                if !self.sale(seq, moved.campaign.0)?.end(seq, moved) {
                    tracing::error!(entry = seq.0, claim = %moved.claim_id, "the end of a claim that nobody holds");
                }
            }
            Event::Created(created) => {
                if created.no.0 as usize != self.sales.len() {
                    return Err(LayoutError::NoCampaign { seq, no: self.sales.len() as u32 });
                }
                let mut sale = Sale::created(seq, created, skipped);
                let digest = book::create_digest(&created.spec);
                sale.asked(created.asked.key.filter(|_| seq > keeps_upto), digest);
                self.sales.push(sale);
            }
            Event::Changed(changed) => self.sale(seq, changed.no.0)?.change((seq, at), changed, seq > keeps_upto),
            Event::Released(no) => self.sale(seq, no.0)?.release(seq),
            Event::Carted(carted) => {
                self.cart_keys.extend(carted.key.filter(|_| seq > keeps_upto).map(|key| (key, seq)));
                self.carts.entry(carted.user).or_default().waiting.push((seq, *carted));
            }
            Event::Void => {}
        }
        Ok(())
    }

    /// Buyers whose carts the database is to be asked for.
    pub fn owners(&self) -> Vec<UserId> {
        self.carts.keys().copied().collect()
    }

    /// A buyer's cart as the database has it.
    pub fn cart(&mut self, user: &UserId, stored: StoredCart) {
        if let Some(cart) = self.carts.get_mut(user) {
            cart.stored = Some(stored);
        }
    }

    /// The last position.
    pub fn last(&self) -> Seq {
        self.retired.plus(self.items.len() as u64)
    }

    /// Positions that nobody has.
    pub fn voids(&self) -> u64 {
        self.voids
    }

    /// Turns it into commands; meta comes last.
    pub fn into_commands(mut self, epoch: u64) -> Laying {
        Sale::spread(&mut self.sales);
        let (last, time, campaigns) = (self.last(), self.time, self.sales.len() as u32);
        let meta = layout::meta(last, time, campaigns, self.retired);
        let mut rest: Vec<Vec<u8>> =
            meta.into_iter().flat_map(|(name, value)| [name.as_bytes().to_vec(), value.into_bytes()]).collect();
        // Whoever was told a number to load a cart under was told a smaller one.
        rest.extend([b"loads".to_vec(), (epoch << limits::LOADS_EPOCH_BITS).to_string().into_bytes()]);
        Laying {
            ready: VecDeque::new(),
            sales: self.sales.into(),
            carts: self.carts.into_iter().collect(),
            cart_keys: self.cart_keys.into(),
            items: self.items.into(),
            meta: Some(("HSET".to_owned(), b"meta".to_vec(), rest)),
        }
    }
}

/// A partition's commands, made as they are called.
#[derive(Debug)]
pub struct Laying {
    ready: VecDeque<Command>,
    sales: VecDeque<Sale>,
    carts: VecDeque<(UserId, Cart)>,
    cart_keys: VecDeque<(CartKey, Seq)>,
    items: VecDeque<Vec<u8>>,
    meta: Option<Command>,
}

impl Laying {
    /// Has one call's worth of commands carried out for the opening with `token`; false where that was all, or `Lost` where the
    /// opening is not under way any more.
    ///
    /// # Errors
    /// Redis', or an answer that can't be read.
    pub fn step(&mut self, connection: &mut Connection, token: &str) -> Result<Option<bool>, CallError> {
        let mut lay = Lay::new(token);
        while lay.len() < limits::LAY_WORDS {
            let Some((name, key, words)) = self.next() else { break };
            lay.add(&name, key, words);
        }
        if lay.is_empty() {
            return Ok(Some(false));
        }
        Ok(call(connection, &mut lay)?.then_some(true))
    }

    fn next(&mut self) -> Option<Command> {
        loop {
            if let Some(command) = self.ready.pop_front() {
                return Some(command);
            }
            if let Some(sale) = self.sales.pop_front() {
                sale.commands(&mut |name, key, words| put(&mut self.ready, name, &key, words));
            } else if let Some((user, cart)) = self.carts.pop_front() {
                put(&mut self.ready, "HSET", &[b"t:", user.as_bytes()].concat(), lines(cart));
            } else if let Some((key, seq)) = self.cart_keys.pop_front() {
                let value = [key.payload.to_le_bytes(), seq.0.to_le_bytes()].concat();
                let words = vec![value, b"PX".to_vec(), limits::CART_KEY_MILLIS.to_string().into_bytes()];
                put(&mut self.ready, "SET", &[b"y:", &key.hash.0.to_le_bytes()[..]].concat(), words);
            } else if !self.items.is_empty() {
                let some = self.items.len().min(limits::LAY_COMMAND_WORDS);
                put(&mut self.ready, "RPUSH", b"list", self.items.drain(..some).collect());
            } else {
                return self.meta.take();
            }
        }
    }
}

/// Adds a command in as many pieces as it needs; none where it has no words.
fn put(ready: &mut VecDeque<Command>, name: &str, key: &[u8], words: Vec<Vec<u8>>) {
    const { assert!(limits::LAY_COMMAND_WORDS.is_multiple_of(2)) };
    for some in words.chunks(limits::LAY_COMMAND_WORDS) {
        ready.push_back((name.to_owned(), key.to_vec(), some.to_vec()));
    }
}

/// A cart's fields: what the database has with what waits on top.
fn lines(cart: Cart) -> Vec<Vec<u8>> {
    let mut stored = cart.stored.unwrap_or_default();
    stored.overlay(&cart.waiting);
    let text = |n: u64| n.to_string().into_bytes();
    let line = |(sku, units): (Sku, u32)| [sku.as_bytes().to_vec(), text(units.into())];
    let lines = stored.lines.into_iter().flat_map(line);
    [Vec::new(), text(stored.version.0)].into_iter().chain(lines).collect()
}

/// Calls `lay`; whether the opening is still under way.
pub(super) fn call(connection: &mut Connection, lay: &mut Lay) -> Result<bool, CallError> {
    let args = lay.take();
    let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
    let answer = connection.call("lay", &args)?;
    match protocol::word(&answer).map_err(|error| CallError::Protocol(error.to_string()))? {
        Word::Ok => Ok(true),
        Word::Lost | Word::Conflict | Word::More => Ok(false),
    }
}
