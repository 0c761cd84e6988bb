//! What the library's calls answer.

use redis::Value;

use super::layout::Numbers;
use super::{Bundle, ENTRY_HEAD, ProtocolError, bytes, item, number, short, text};
use crate::queue::campaign::UNLIMITED;
use crate::queue::codec;
use crate::queue::command::Outcome;
use crate::sale::campaign::AdminState;
use crate::sale::{CampaignNo, CampaignSpec, LocalDay, Money, Seq, Timestamp, Units};

/// What became of the commands of one call.
#[derive(Debug)]
pub struct Submitted<'a> {
    /// The time at which they were decided.
    pub at: Timestamp,
    /// Up to where everything was in the database then.
    pub retired: Seq,
    /// The position of the first entry that they made; the next one's where they made none.
    pub first: Seq,
    /// How many they made.
    pub count: u32,
    /// Those, as they are in a journal.
    pub entries: Vec<u8>,
    /// What became of the bundles' claims, one behind the other.
    pub bundled: Vec<Outcome>,
    /// An answer a command behind the bundles.
    pub answers: &'a [Value],
}

/// Items of the list, one behind the other, as they are in a journal: without their times, which are all the call's. Gives
/// how many they are.
fn journal(mut items: &[u8], entries: &mut Vec<u8>) -> Result<u32, ProtocolError> {
    let mut count = 0;
    while !items.is_empty() {
        let entry = items.get(ENTRY_HEAD..).ok_or_else(|| short("a call"))?;
        let len = codec::skip(entry).map_err(|error| ProtocolError(error.to_string()))?;
        entries.extend_from_slice(&entry[..len]);
        (items, count) = (&entry[len..], count + 1);
    }
    Ok(count)
}

/// Reads the answer of `submit`, in which `bundles` were first.
///
/// # Errors
/// What is no answer to it.
pub fn submitted<'a>(answer: &'a [Value], bundles: &[Bundle]) -> Result<Submitted<'a>, ProtocolError> {
    let [at, retired, first, items, answers @ ..] = answer else { return Err(short("submit")) };
    let (at, first) = (Timestamp(number(at)?), Seq(number(first)?));
    let (to_bundles, answers) = answers.split_at_checked(bundles.len()).ok_or_else(|| short("submit"))?;
    let (mut entries, mut count, mut bundled) = (Vec::new(), 0, Vec::new());
    for (bundle, answer) in bundles.iter().zip(to_bundles) {
        let unbundled = bundle.unbundle(answer, (first.plus(u64::from(count)), at), &mut entries)?;
        count += unbundled.accepted;
        bundled.extend(unbundled.outcomes);
    }
    count += journal(bytes(items)?, &mut entries)?;
    Ok(Submitted { at, retired: Seq(number(retired)?), first, count, entries, bundled, answers })
}

/// What a sweep did.
#[derive(Debug)]
pub struct Swept {
    /// The time at which it was done.
    pub at: Timestamp,
    /// The position of the first entry that it made; the next one's where it made none.
    pub first: Seq,
    /// How many it made.
    pub count: u32,
    /// Those, as they are in a journal.
    pub entries: Vec<u8>,
    /// Claims that expired.
    pub expired: u64,
    /// Whether more are due.
    pub more: bool,
    /// Whether a campaign was released.
    pub released: bool,
}

/// Reads the answer of `sweep`.
///
/// # Errors
/// What is no answer to it.
pub fn swept(answer: &[Value]) -> Result<Swept, ProtocolError> {
    let [at, last, expired, more, released, entries] = answer else { return Err(short("sweep")) };
    let (items, mut entries) = (bytes(entries)?, Vec::new());
    let count = journal(items, &mut entries)?;
    let first = number::<u64>(last)?.checked_sub(count.into()).ok_or_else(|| short("sweep"))?;
    Ok(Swept {
        at: Timestamp(number(at)?),
        first: Seq(first).next(),
        count,
        entries,
        expired: number(expired)?,
        more: number::<u8>(more)? == 1,
        released: number::<u8>(released)? == 1,
    })
}

/// A lane's last call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastCall {
    /// Its nonce.
    pub nonce: u64,
    /// The position of the first entry that it made; the next one's where it made none.
    pub first: Seq,
    /// How many it made.
    pub count: u32,
}

/// Reads the answer of `hello`; none where the lane has made no call.
///
/// # Errors
/// What is no answer to it.
pub fn hello(answer: &[Value]) -> Result<Option<LastCall>, ProtocolError> {
    let [nonce, first, count] = answer else { return Err(short("hello")) };
    let nonce = match text(nonce)? {
        "" => return Ok(None),
        text => text.parse().map_err(|_| ProtocolError(format!("nonce {text:?}")))?,
    };
    Ok(Some(LastCall { nonce, first: Seq(number(first)?), count: number(count)? }))
}

/// A campaign as it stands, for views of it.
#[derive(Debug, Clone, PartialEq)]
pub struct CampaignNow {
    /// Its number.
    pub no: CampaignNo,
    /// Its definition as it stands.
    pub spec: CampaignSpec,
    /// What the operator last asked.
    pub wish: AdminState,
    /// Units nobody holds; of a check-in, more than anybody can ask for.
    pub free: Units,
    /// A red packet's money that nobody holds.
    pub left: Money,
    /// Counts the changes.
    pub version: u64,
    /// Counts the changes of stock, and the returns that may turn a sold-out into a yes.
    pub stock_version: u64,
    /// Shares that were ever given out for the first time.
    pub drawn: u64,
    /// Shares that came back and have not gone out again.
    pub returned: u64,
    /// Units ever accepted.
    pub acknowledged: u64,
    /// When the operator closed it.
    pub closed_at: Option<Timestamp>,
    /// Whether it has left memory.
    pub is_released: bool,
    /// Whether claims of it have come to an end, or days are over: the keys of people who hold nothing are remembered.
    pub former: bool,
    /// A check-in's day.
    pub today: Option<LocalDay>,
}

/// Campaigns that have changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Changes {
    /// Redis' time.
    pub at: Timestamp,
    /// The epoch: positions of another one say nothing, ask from 0.
    pub epoch: u64,
    /// The position to ask from next.
    pub seq: Seq,
    /// The last entry that is in the database.
    pub retired: Seq,
    /// Entries that wait.
    pub entries: u64,
    /// Those campaigns, in the order in which they changed.
    pub campaigns: Vec<CampaignNow>,
}

/// Reads the answer of `changes`.
///
/// # Errors
/// What is no answer to it.
pub fn changes(answer: &[Value]) -> Result<Changes, ProtocolError> {
    let [at, epoch, seq, retired, entries, campaigns @ ..] = answer else { return Err(short("changes")) };
    let read = |parts: &[Value]| match parts {
        [packed, _, spec] => campaign_now(bytes(packed)?, bytes(spec)?),
        _ => Err(short("changes")),
    };
    Ok(Changes {
        at: Timestamp(number(at)?),
        epoch: number(epoch)?,
        seq: Seq(number(seq)?),
        retired: Seq(number(retired)?),
        entries: number(entries)?,
        campaigns: campaigns.chunks(3).map(read).collect::<Result<_, _>>()?,
    })
}

fn campaign_now(packed: &[u8], spec: &[u8]) -> Result<CampaignNow, ProtocolError> {
    let numbers = Numbers::read(packed)?;
    let spec = CampaignSpec::restore(spec).map_err(|error| ProtocolError(error.to_string()))?;
    let acknowledged = numbers.unsigned("acknowledged")?;
    let (is_released, stock) = (numbers.get("released") == 1, numbers.unsigned("stock")?);
    let free = if spec.has_stock() { Units(numbers.unsigned("free")?) } else { UNLIMITED };
    // As the book has it: `has_former_holders` in src/queue/campaign.rs.
    let former = !is_released && (!spec.has_stock() || stock.checked_sub(free.0) != Some(acknowledged));
    Ok(CampaignNow {
        no: numbers.no,
        wish: numbers.wish()?,
        free,
        left: Money(numbers.get("left")),
        version: numbers.unsigned("version")?,
        stock_version: numbers.unsigned("stock_version")?,
        drawn: numbers.unsigned("drawn")?,
        returned: numbers.unsigned("returned")?,
        acknowledged,
        closed_at: numbers.closed_at(),
        is_released,
        former,
        today: numbers.today(),
        spec,
    })
}

/// Entries that a worker has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The epoch; 0 where the partition was never opened.
    pub epoch: u64,
    /// The last entry that was retired.
    pub retired: Seq,
    /// The last entry.
    pub seq: Seq,
    /// Whether the partition is open. Where it isn't there are no entries; the lease is had all the same.
    pub is_open: bool,
    /// Entries after the position that was asked from, or after `retired` where that is further on: time, and bytes as they
    /// are in a journal.
    pub items: Vec<(Timestamp, Vec<u8>)>,
}

/// Reads the answer of `take`; none where another worker has the lease.
///
/// # Errors
/// What is no answer to it.
pub fn taken(answer: &[Value]) -> Result<Option<Taken>, ProtocolError> {
    if let [word] = answer
        && bytes(word)? == b"TAKEN"
    {
        return Ok(None);
    }
    let [epoch, retired, seq, is_open, items @ ..] = answer else { return Err(short("take")) };
    let read = |value: &Value| item(bytes(value)?).map(|(at, entry)| (at, entry.to_vec()));
    Ok(Some(Taken {
        epoch: number(epoch)?,
        retired: Seq(number(retired)?),
        seq: Seq(number(seq)?),
        is_open: number::<u8>(is_open)? == 1,
        items: items.iter().map(read).collect::<Result<_, _>>()?,
    }))
}
