//! How a worker opens a partition: after every start of Redis, and whenever it went back, before anybody is served.
//!
//! Nothing that was acknowledged is only in Redis: the gate that acknowledged it keeps it until the database has it. So whatever
//! Redis has become, intact, an older copy or empty, the database and the gates' journals make it whole:
//!
//! 1. The opening's token goes into Redis; from then on nothing is admitted. With it goes the position `base`: what Redis'
//!    list reaches where that is whole and not behind the database, else what the database has.
//! 2. Every gate offers what it has kept after `base`. A list that is gone therefore is offered whole, since gates keep
//!    everything until it is in the database.
//! 3. Where no gate has anything after `base`, and `base` is Redis' own end, Redis is intact. Otherwise everything is laid out
//!    anew: the database, then Redis' list up to `base`, then what was offered.
//! 4. The partition is opened under a new epoch.
//!
//! Every write carries the token, and `recover` is the only call that changes it. So a worker that was stopped half-way and
//! comes back changes nothing, and whoever begins again finds all there was: until the opening is done, Redis' list and the
//! offers stay as they are, and where they don't, the base is the database's end and gates offer more. The steps are short,
//! so that the caller can prolong its lease between them.

mod making;

use redis::{Value, cmd};

use super::layout::{self, LayoutError};
use crate::limits;
use crate::queue::redis::client::{CallError, Connection};
use crate::queue::redis::protocol::layout::{LAYOUT, Lay};
use crate::queue::redis::protocol::{self, ProtocolError, Status, Word};
use crate::sale::{Durability, Seq};
use crate::store::{Database, StoreError};
use making::Making;

/// Why a partition can't be opened now.
#[derive(Debug, thiserror::Error)]
pub enum ReopenError {
    /// Redis can't be used. Go on with the same opening on a new connection, or begin another.
    #[error(transparent)]
    Redis(#[from] CallError),
    /// The database can't be used. Go on.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another worker's opening is under way, or the database was written to meanwhile: begin anew, if the lease is held.
    #[error("another opening of the partition has begun, or the database is in use by another worker")]
    Lost,
    /// The keys are another version's.
    #[error("the keys in Redis are of layout {0}, which is another version's: start that one, or empty Redis")]
    Layout(String),
    /// The keys belong to another database.
    #[error(
        "Redis belongs to the database of journal {found:032x}, this one is of {expected:032x}: check redis.url and store.url"
    )]
    Foreign { expected: u128, found: u128 },
    /// The database is not bound.
    #[error("the database belongs to no journal yet")]
    Unbound,
    /// The database has lost what it had.
    #[error(
        "the database ends at entry {cursor}, but it had everything up to {retired}: it was put back from a copy. Entries \
         between them are nowhere else; put the newer one back"
    )]
    DatabaseBehind { cursor: Seq, retired: Seq },
    /// A gate says that it has more than it has offered.
    #[error("gate {gate} has kept entries up to {last}, and has not offered all of them")]
    NotOffered { gate: String, last: Seq },
    /// What there is makes no partition.
    #[error(transparent)]
    Layouts(#[from] LayoutError),
}

impl From<ProtocolError> for ReopenError {
    fn from(error: ProtocolError) -> Self {
        Self::Redis(CallError::Protocol(error.to_string()))
    }
}

/// How far an opening is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Done: gates are served under this epoch.
    Opened { epoch: u64 },
    /// These gates have not offered yet.
    Waiting { gates: Vec<u128> },
    /// The partition is laid out anew, or its index made; call again at once.
    Rebuilding,
}

/// An opening.
#[derive(Debug)]
pub struct Reopening {
    token: String,
    durability: Durability,
    floor: u64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Begin,
    Offers(Box<Found>),
    Making(Box<Making>),
    /// All is there; Redis has yet to make its index of it.
    Opening {
        epoch: u64,
        journal: u128,
    },
    Opened(u64),
}

/// What was found when it began.
#[derive(Debug, Clone)]
struct Found {
    before: Status,
    journal: u128,
    /// What the database has.
    cursor: Seq,
    base: Seq,
    /// Whether the base is Redis' own end.
    is_whole: bool,
    epoch: u64,
}

impl Reopening {
    /// An opening that calls itself `token` (a word without `:`, never used before). Acceptances promised `durability`. Epochs go on
    /// behind `floor`, a number that only grows: the database's count of bindings, say; without one, an epoch that only a Redis
    /// without gates knew may come again.
    pub fn new(token: String, durability: Durability, floor: u64) -> Self {
        Self { token, durability, floor, stage: Stage::Begin }
    }

    /// Its token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Goes on, for some tens of milliseconds at most. `gates` are those that the database knows as active: their offers are
    /// waited for. The caller has the partition's lease, and has bound the database, since when nobody writes to it.
    ///
    /// # Errors
    /// [`ReopenError`]; only after [`ReopenError::Redis`] and [`ReopenError::Store`] may the same one go on.
    pub async fn step(
        &mut self,
        connection: &mut Connection,
        store: &Database,
        gates: &[u128],
    ) -> Result<Progress, ReopenError> {
        match &mut self.stage {
            Stage::Begin => {
                self.stage = Stage::Offers(Box::new(self.begin(connection, store).await?));
                Ok(Progress::Waiting { gates: gates.to_vec() })
            }
            Stage::Offers(found) => {
                let mut found = (**found).clone();
                let missing = self.offers(connection, &mut found, gates)?;
                if !missing.is_empty() {
                    return Ok(Progress::Waiting { gates: missing });
                }
                let last = offered_upto(connection, found.base)?;
                if found.is_whole && last == found.base {
                    return self.open_intact(connection, &found);
                }
                check_cursor(store, found.journal, found.cursor).await?;
                tell(&found, last);
                let making = Making::new(found.cursor, (found.base, last), &found.before, found.is_whole, found.epoch);
                self.stage = Stage::Making(Box::new(making.with(self.token.clone(), self.durability, found.journal)));
                Ok(Progress::Rebuilding)
            }
            Stage::Making(making) => {
                if !making.step(connection, store).await? {
                    return Ok(Progress::Rebuilding);
                }
                let (epoch, journal, cursor) = (making.epoch(), making.journal(), making.cursor());
                check_cursor(store, journal, cursor).await?;
                self.open(connection, epoch, journal)
            }
            Stage::Opening { epoch, journal } => {
                let (epoch, journal) = (*epoch, *journal);
                self.open(connection, epoch, journal)
            }
            Stage::Opened(epoch) => Ok(Progress::Opened { epoch: *epoch }),
        }
    }

    async fn begin(&self, connection: &mut Connection, store: &Database) -> Result<Found, ReopenError> {
        let position = store.position().await?.ok_or(ReopenError::Unbound)?;
        let (journal, cursor) = (position.journal, position.cursor);
        let token = self.token.as_bytes();
        // Before it is known what to offer: from here on the state stands still.
        let before = protocol::status(&connection.call("recover", &[token, b""])?)?;
        if before.exists && before.layout != LAYOUT.to_string() {
            return Err(ReopenError::Layout(before.layout));
        }
        if let Some(found) = before.identity.filter(|found| *found != journal) {
            return Err(ReopenError::Foreign { expected: journal, found });
        }
        if before.exists && before.retired > cursor {
            return Err(ReopenError::DatabaseBehind { cursor, retired: before.retired });
        }
        let has_all = before.seq.0.checked_sub(before.retired.0) == Some(before.entries);
        let is_whole = before.exists && before.fenced.is_none() && has_all && before.seq >= cursor;
        let base = if is_whole { before.seq } else { cursor };
        connection.call("recover", &[token, base.to_string().as_bytes()])?;
        let epoch = before.epoch.max(self.floor);
        Ok(Found { before, journal, cursor, base, is_whole, epoch })
    }

    /// The gates that have not offered; learns of epochs.
    fn offers(&self, connection: &mut Connection, found: &mut Found, gates: &[u128]) -> Result<Vec<u128>, ReopenError> {
        let key = connection.key("offered");
        let said = pairs(&connection.command(cmd("HGETALL").arg(key))?)?;
        let mut here = Vec::new();
        for (gate, words) in said {
            let mut words = words.split(' ');
            let (token, epoch, last) = (words.next(), words.next(), words.next());
            let number = |word: Option<&str>| word.and_then(|word| word.parse::<u64>().ok());
            let (Some(epoch), Some(last)) = (number(epoch), number(last)) else {
                return Err(ProtocolError(format!("what gate {gate} says of its offers")).into());
            };
            if token != Some(&self.token) {
                continue;
            }
            if last > offered_upto(connection, found.base)?.0 {
                return Err(ReopenError::NotOffered { gate, last: Seq(last) });
            }
            found.epoch = found.epoch.max(epoch);
            here.extend(u128::from_str_radix(&gate, 16));
        }
        let missing: Vec<u128> = gates.iter().copied().filter(|gate| !here.contains(gate)).collect();
        if missing.is_empty() {
            found.epoch += 1;
        }
        Ok(missing)
    }

    /// Nothing is missing. Versions go on further up all the same: a change that Redis forgot, and that nobody was told is made, may
    /// have been seen.
    fn open_intact(&mut self, connection: &mut Connection, found: &Found) -> Result<Progress, ReopenError> {
        let mut no = 0;
        while no < found.before.campaigns {
            let mut lay = Lay::new(&self.token);
            while no < found.before.campaigns && lay.len() < limits::LAY_WORDS {
                for field in ["version", "stock_version"] {
                    let more = limits::RECOVER_VERSION_SKIP.to_string().into_bytes();
                    lay.add("HINCRBY", format!("c:{no}"), [field.as_bytes().to_vec(), more]);
                }
                no += 1;
            }
            if !layout::call(connection, &mut lay)? {
                return Err(ReopenError::Lost);
            }
        }
        self.open(connection, found.epoch, found.journal)
    }

    fn open(&mut self, connection: &mut Connection, epoch: u64, journal: u128) -> Result<Progress, ReopenError> {
        self.stage = Stage::Opening { epoch, journal };
        let (number, identity) = (epoch.to_string(), format!("{journal:032x}"));
        let args = [self.token.as_bytes(), number.as_bytes(), identity.as_bytes()];
        let mut word = Word::More;
        while word == Word::More {
            word = protocol::word(&connection.call("open", &args)?)?;
        }
        match word {
            Word::Ok => {
                self.stage = Stage::Opened(epoch);
                Ok(Progress::Opened { epoch })
            }
            Word::More => Ok(Progress::Rebuilding),
            // The answer to an earlier attempt may have been lost.
            Word::Lost | Word::Conflict => {
                let now = protocol::status(&connection.call("status", &[b""])?)?;
                if now.opened_by == self.token && now.is_open {
                    self.stage = Stage::Opened(now.epoch);
                    return Ok(Progress::Opened { epoch: now.epoch });
                }
                Err(ReopenError::Lost)
            }
        }
    }
}

/// Says that the partition is laid out anew, and why.
fn tell(found: &Found, last: Seq) {
    let (database, redis, gates) = (found.cursor.0, found.base.0, last.0);
    if !found.before.exists && gates == 0 {
        tracing::info!("a new partition is laid out");
    } else {
        tracing::warn!(
            database,
            redis,
            gates,
            "Redis has lost what it had accepted: the partition is laid out anew from the database and the gates' journals"
        );
    }
}

/// The database must stand where it stood: whoever moved it knows what is waiting otherwise.
async fn check_cursor(store: &Database, journal: u128, cursor: Seq) -> Result<(), ReopenError> {
    let position = store.position().await?.ok_or(ReopenError::Unbound)?;
    if (position.journal, position.cursor) == (journal, cursor) { Ok(()) } else { Err(ReopenError::Lost) }
}

/// The highest position that is offered, or `base`.
fn offered_upto(connection: &mut Connection, base: Seq) -> Result<Seq, ReopenError> {
    let key = connection.key("offers");
    let Value::Array(all) = connection.command(cmd("HKEYS").arg(key))? else {
        return Err(ProtocolError("HKEYS answers no list".to_owned()).into());
    };
    let mut last = base;
    for seq in &all {
        last = last.max(Seq(number(seq)?));
    }
    Ok(last)
}

fn text(value: &Value) -> Result<&str, ProtocolError> {
    let bytes = match value {
        Value::BulkString(bytes) => &bytes[..],
        Value::SimpleString(text) => text.as_bytes(),
        other => return Err(ProtocolError(format!("{other:?} where a text is expected"))),
    };
    std::str::from_utf8(bytes).map_err(|_| ProtocolError(format!("{value:?} where a text is expected")))
}

fn number(value: &Value) -> Result<u64, ProtocolError> {
    text(value)?.parse().map_err(|_| ProtocolError(format!("{value:?} where a number is expected")))
}

/// A hash's fields and values, of texts.
fn pairs(value: &Value) -> Result<Vec<(String, String)>, ProtocolError> {
    let pair = |name: &Value, value: &Value| Ok((text(name)?.to_owned(), text(value)?.to_owned()));
    match value {
        Value::Array(all) => all.chunks_exact(2).map(|both| pair(&both[0], &both[1])).collect(),
        Value::Map(all) => all.iter().map(|(name, value)| pair(name, value)).collect(),
        other => Err(ProtocolError(format!("{other:?} where a hash is expected"))),
    }
}
