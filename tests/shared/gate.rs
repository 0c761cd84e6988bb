//! A gate as the tests need it: it calls the library and reads its answers.

use forebay::queue::redis::{LIBRARY, protocol};
use forebay::sale::{CampaignNo, Durability, Entry, Money, Seq};
use redis::{Connection, Value, cmd};

pub struct Gate {
    pub connection: Connection,
    pub prefix: String,
    pub epoch: String,
    nonce: u64,
}

fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::BulkString(bytes) => bytes.clone(),
        Value::SimpleString(text) => text.clone().into_bytes(),
        Value::Int(n) => n.to_string().into_bytes(),
        other => panic!("{other:?} where bytes are expected"),
    }
}

pub fn number(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{bytes:?}: no number"))
}

impl Gate {
    /// Loads the library and founds the partition where that has not been done.
    pub fn new(mut connection: Connection, partition: &str) -> Self {
        let loaded: Result<String, _> = cmd("FUNCTION").arg("LOAD").arg(&LIBRARY.text).query(&mut connection);
        if let Err(error) = loaded {
            assert!(error.to_string().contains("already exists"), "{error}");
        }
        let mut gate = Self { connection, prefix: format!("forebay:{{{partition}}}:"), epoch: String::new(), nonce: 0 };
        gate.epoch = gate
            .call_raw("found", &[b"e1".to_vec()])
            .map(|v| String::from_utf8(bytes(&v)).expect("text"))
            .expect("found");
        gate
    }

    fn call_raw(&mut self, function: &str, args: &[Vec<u8>]) -> Result<Value, String> {
        let mut call = cmd("FCALL");
        call.arg(LIBRARY.function(function)).arg(1).arg(format!("{}meta", self.prefix));
        for arg in args {
            call.arg(&arg[..]);
        }
        call.query(&mut self.connection).map_err(|error| error.to_string())
    }

    /// Calls a function with a nonce before `args`; gives what follows the nonce in its answer.
    pub fn call(&mut self, function: &str, args: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, String> {
        self.nonce += 1;
        let nonce = self.nonce.to_string().into_bytes();
        let args: Vec<_> = std::iter::once(nonce.clone()).chain(args.iter().cloned()).collect();
        let Value::Array(all) = self.call_raw(function, &args)? else { panic!("{function} answers a list") };
        let all: Vec<_> = all.iter().map(bytes).collect();
        assert_eq!(all[0], nonce, "another call's answer");
        Ok(all[1..].to_vec())
    }

    /// Submits commands at `now`; their answers, and the last entry's position.
    pub fn submit(&mut self, now: i64, max_entries: u64, commands: Vec<Vec<u8>>) -> (Seq, Vec<Vec<u8>>) {
        let mut args =
            vec![self.epoch.clone().into_bytes(), now.to_string().into_bytes(), max_entries.to_string().into_bytes()];
        args.extend(commands);
        let mut answers = self.call("submit", &args).unwrap_or_else(|error| panic!("{error}"));
        let last = Seq(number(&answers[1]));
        (last, answers.split_off(2))
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
