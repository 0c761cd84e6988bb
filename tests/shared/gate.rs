//! A gate as the tests need it: it calls the library and reads its answers.

use forebay::queue::redis::LIBRARY;
use forebay::queue::redis::protocol::layout::{self, Lay};
use forebay::queue::redis::protocol::{self, Bundle, Retiring, Status, Word};
use forebay::queue::{Balance, Outcome};
use forebay::sale::{CampaignNo, Durability, Entry, Money, Seq, Timestamp};
use redis::{Connection, Value, cmd};

/// A gate in hexadecimal digits.
pub const GATE: &str = "000000000000000000000000000000a1";

pub struct Gate {
    pub connection: Connection,
    pub prefix: String,
    pub epoch: u64,
    pub lane: String,
    pub session: String,
    pub nonce: u64,
}

/// What a call of `submit` answered.
#[derive(Debug)]
pub struct Said {
    pub at: Timestamp,
    pub first: Seq,
    pub count: u32,
    pub entries: Vec<u8>,
    pub bundled: Vec<Outcome>,
    pub answers: Vec<Value>,
}

impl Said {
    /// The last entry's position.
    pub fn last(&self) -> Seq {
        Seq(self.first.0 + u64::from(self.count) - 1)
    }
}

pub fn bytes(value: &Value) -> &[u8] {
    match value {
        Value::BulkString(bytes) => bytes,
        other => panic!("{other:?} where bytes are expected"),
    }
}

impl Gate {
    /// Loads the library, and opens the partition, new and empty, where that has not been done.
    pub fn new(connection: Connection, partition: &str) -> Self {
        let prefix = format!("forebay:{{{partition}}}:");
        let (lane, session) = (format!("{GATE}.0"), "s1".to_owned());
        let mut gate = Self { connection, prefix, epoch: 0, lane, session, nonce: 0 };
        gate.load();
        if !gate.status("").exists {
            gate.open_empty("t1", 1);
        }
        gate.epoch = gate.status("").epoch;
        gate.hello("s1").expect("a lane");
        gate
    }

    /// Loads the library.
    pub fn load(&mut self) {
        let loaded: Result<String, _> = cmd("FUNCTION").arg("LOAD").arg(&LIBRARY.text).query(&mut self.connection);
        if let Err(error) = loaded {
            assert!(error.to_string().contains("already exists"), "{error}");
        }
    }

    /// Opens an empty partition.
    pub fn open_empty(&mut self, token: &str, epoch: u64) {
        self.call("recover", &[token, "0"]).expect("an opening");
        let mut lay = Lay::new(token);
        lay_meta(&mut lay, Seq(0), Timestamp(0), 0, Seq(0));
        assert_eq!(self.lay_out(&mut lay), Word::Ok);
        assert_eq!(self.open(token, epoch), Ok(Word::Ok));
    }

    /// Calls a function with a nonce before `args`; gives what follows the nonce in its answer.
    pub fn call<A: AsRef<[u8]>>(&mut self, function: &str, args: &[A]) -> Result<Vec<Value>, String> {
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        let mut call = cmd("FCALL");
        call.arg(LIBRARY.function(function)).arg(1).arg(format!("{}meta", self.prefix)).arg(&nonce);
        for arg in args {
            call.arg(arg.as_ref());
        }
        let answer = call.query(&mut self.connection).map_err(|error| error.to_string())?;
        let Value::Array(all) = answer else { panic!("{function} answers a list") };
        assert_eq!(bytes(&all[0]), nonce.as_bytes(), "another call's answer");
        Ok(all[1..].to_vec())
    }

    /// Submits commands at `now`.
    pub fn submit(&mut self, now: i64, max_entries: u64, commands: Vec<Vec<u8>>) -> Result<Said, String> {
        self.submit_with(now, max_entries, &[], commands)
    }

    /// Submits bundles of claims, and commands, at `now`.
    pub fn submit_with(
        &mut self,
        now: i64,
        max_entries: u64,
        bundles: &[Bundle],
        commands: Vec<Vec<u8>>,
    ) -> Result<Said, String> {
        let texts = [self.epoch.to_string(), self.lane.clone(), self.session.clone(), now.to_string()];
        let mut args: Vec<Vec<u8>> = texts.map(String::into_bytes).into();
        args.push(max_entries.to_string().into_bytes());
        args.extend(bundles.iter().flat_map(Bundle::words).map(<[u8]>::to_vec));
        args.extend(commands);
        let answer = self.call("submit", &args)?;
        let said = protocol::submitted(&answer, bundles).expect("an answer");
        let answers = said.answers.to_vec();
        let (at, first, count) = (said.at, said.first, said.count);
        Ok(Said { at, first, count, entries: said.entries, bundled: said.bundled, answers })
    }

    /// Takes the lane over.
    pub fn hello(&mut self, session: &str) -> Result<Option<protocol::LastCall>, String> {
        self.session = session.to_owned();
        let args = [self.epoch.to_string(), self.lane.clone(), session.to_owned(), String::new()];
        self.call("hello", &args).map(|answer| protocol::hello(&answer).expect("an answer"))
    }

    /// How the partition stands.
    pub fn status(&mut self, gate: &str) -> Status {
        let answer = self.call("status", &[gate]).expect("an answer");
        protocol::status(&answer).expect("a state")
    }

    /// Lays out.
    pub fn lay_out(&mut self, lay: &mut Lay) -> Word {
        let answer = self.call("lay", &lay.take()).unwrap_or_else(|error| panic!("{error}"));
        protocol::word(&answer).expect("a word")
    }

    /// Ends an opening.
    pub fn open(&mut self, token: &str, epoch: u64) -> Result<Word, String> {
        let answer = self.call("open", &[token, &epoch.to_string(), &format!("{:032x}", 7)])?;
        Ok(protocol::word(&answer).expect("a word"))
    }

    /// A worker's wish for entries, for a lease of `lease` microseconds; none where another has it.
    pub fn take(&mut self, now: i64, worker: &str, after: Seq, most: usize, lease: i64) -> Option<protocol::Taken> {
        let args = [now.to_string(), worker.to_owned(), after.to_string(), most.to_string(), lease.to_string()];
        protocol::taken(&self.call("take", &args).expect("an answer")).expect("entries")
    }

    /// Tells that what is in `retiring` is in the database, which then has this.
    pub fn retire(
        &mut self,
        (now, worker, lease): (i64, &str, i64),
        retiring: &Retiring,
        database: &[(CampaignNo, Balance)],
    ) -> Word {
        let texts = [
            now.to_string(),
            worker.to_owned(),
            self.epoch.to_string(),
            retiring.upto().to_string(),
            lease.to_string(),
        ];
        let mut args: Vec<Vec<u8>> = texts.map(String::into_bytes).into();
        args.push(retiring.sums(database));
        protocol::word(&self.call("retire", &args).expect("an answer")).expect("a word")
    }

    /// The entries that wait, the first of which is at `first`.
    pub fn waiting(&mut self, first: Seq) -> Vec<Entry> {
        let key = format!("{}list", self.prefix);
        let all: Vec<Vec<u8>> = cmd("LRANGE").arg(key).arg(0).arg(-1).query(&mut self.connection).expect("the list");
        let read = |(at, bytes): (usize, &Vec<u8>)| protocol::entry(bytes, first.plus(at as u64), Durability::Disk);
        all.iter().enumerate().map(|entry| read(entry).unwrap_or_else(|error| panic!("{error}"))).collect()
    }

    /// A campaign's field.
    pub fn field(&mut self, no: CampaignNo, name: &str) -> i64 {
        let key = format!("{}c:{}", self.prefix, no.0);
        cmd("HGET").arg(key).arg(name).query(&mut self.connection).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// A campaign's list of shares.
    pub fn shares(&mut self, kind: &str, no: CampaignNo) -> Vec<i64> {
        let key = format!("{}{kind}:{}", self.prefix, no.0);
        cmd("LRANGE").arg(key).arg(0).arg(-1).query(&mut self.connection).expect("shares")
    }

    /// Lays a packet's shares ready; gives the list's name behind the prefix.
    pub fn lay(&mut self, shares: &[Money]) -> String {
        self.nonce += 1;
        let name = format!("new:{}", self.nonce);
        if shares.is_empty() {
            return name;
        }
        let mut push = cmd("RPUSH");
        push.arg(format!("{}{name}", self.prefix));
        for share in shares {
            push.arg(share.0);
        }
        let _: i64 = push.query(&mut self.connection).expect("shares are laid");
        name
    }

    /// Whether a key of a campaign is there.
    pub fn has(&mut self, key: &str) -> bool {
        cmd("EXISTS").arg(format!("{}{key}", self.prefix)).query(&mut self.connection).expect("exists")
    }
}

/// Adds meta's fields.
pub fn lay_meta(lay: &mut Lay, seq: Seq, time: Timestamp, campaigns: u32, retired: Seq) {
    let fields = layout::meta(seq, time, campaigns, retired);
    lay.add(
        "HSET",
        "meta",
        fields.into_iter().flat_map(|(name, value)| [name.as_bytes().to_vec(), value.into_bytes()]),
    );
}
