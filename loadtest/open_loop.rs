//! An open-loop load generator for one claim path: so many claims a second, however slowly they are answered.
//!
//! A closed loop (wrk) sends the next request when the last one is answered, so a server that stalls is asked less, and the
//! stall hardly shows. Here claim `n` is due at `start + n / rate`, and its latency counts from then: a stall makes every
//! claim late that fell due meanwhile. One thread, which looks at the clock and at the sockets without ever sleeping, because
//! a timer's millisecond would be most of what is measured. It needs a core of its own.
//!
//! Usage: `open_loop ADDRESS CAMPAIGN RATE SECONDS CONNECTIONS TAG`; prints one line of JSON. TAG keeps the buyers of one run
//! apart from those of another: each claim is by a buyer of its own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use tokio::net::TcpStream;

/// How long answers are waited for after the last claim was sent.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to do.
struct Wish {
    address: SocketAddr,
    campaign: String,
    rate: u64,
    seconds: u64,
    connections: usize,
    tag: String,
}

/// What was seen, and which connections may send.
struct Seen {
    /// Those that have sent nothing yet; they go first, because a server ends a connection that says nothing.
    fresh: Vec<usize>,
    idle: Vec<usize>,
    /// When the claim on its way over each connection was due; none where there is none.
    due: Vec<Option<Instant>>,
    /// From due to answered, in microseconds, of those that were accepted, and of all others.
    accepted: Histogram<u64>,
    refused: Histogram<u64>,
    statuses: BTreeMap<u16, u64>,
    /// Claims whose connection ended before their answer.
    broken: u64,
    /// Connections that ended with no claim on its way.
    closed: u64,
}

impl Seen {
    fn next(&mut self) -> Option<usize> {
        self.fresh.pop().or_else(|| self.idle.pop())
    }

    fn ended(&mut self, no: usize) {
        if self.due[no].take().is_some() {
            self.broken += 1;
        } else {
            self.closed += 1;
            self.fresh.retain(|&other| other != no);
            self.idle.retain(|&other| other != no);
        }
    }
}

fn wish() -> anyhow::Result<Wish> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [address, campaign, rate, seconds, connections, tag] = words.try_into().map_err(|words: Vec<String>| {
        anyhow::anyhow!("{} arguments; expected ADDRESS CAMPAIGN RATE SECONDS CONNECTIONS TAG", words.len())
    })?;
    let number = |name: &str, text: &str, most: u64| match text.parse::<u64>() {
        Ok(n) if (1..=most).contains(&n) => Ok(n),
        _ => bail!("{name} {text:?}: expected a whole number from 1 to {most}"),
    };
    Ok(Wish {
        address: address.parse().with_context(|| format!("ADDRESS {address:?}: expected an address and a port"))?,
        rate: number("RATE", &rate, 10_000_000)?,
        seconds: number("SECONDS", &seconds, 86_400)?,
        connections: number("CONNECTIONS", &connections, 10_000)? as usize,
        campaign,
        tag,
    })
}

/// The status and the length of an answer that is complete; none while it is not.
fn answered(bytes: &[u8]) -> Result<Option<(u16, usize)>, Error> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let bad = |what: String| Error::new(ErrorKind::InvalidData, what);
    let head = match response.parse(bytes).map_err(|error| bad(error.to_string()))? {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial => return Ok(None),
    };
    let length = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|h| std::str::from_utf8(h.value).ok()?.parse::<usize>().ok());
    let whole = head + length.ok_or_else(|| bad("an answer without a length".to_owned()))?;
    Ok((bytes.len() >= whole).then_some((response.code.unwrap_or(0), whole)))
}

/// Reads one connection's answers until it ends.
async fn read(no: usize, stream: Rc<TcpStream>, seen: Rc<RefCell<Seen>>) {
    let mut bytes = Vec::with_capacity(4_096);
    loop {
        let result = match stream.readable().await {
            Ok(()) => stream.try_read_buf(&mut bytes),
            Err(error) => Err(error),
        };
        let answer = match result {
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Ok(0) => Err(Error::from(ErrorKind::UnexpectedEof)),
            Ok(_) => answered(&bytes),
            Err(error) => Err(error),
        };
        let mut seen = seen.borrow_mut();
        match (answer, seen.due[no]) {
            (Ok(None), _) => {}
            (Ok(Some((status, whole))), Some(due)) => {
                bytes.drain(..whole);
                seen.due[no] = None;
                let micros = due.elapsed().as_micros() as u64;
                let of = if status == 202 { &mut seen.accepted } else { &mut seen.refused };
                of.saturating_record(micros);
                *seen.statuses.entry(status).or_default() += 1;
                seen.idle.push(no);
            }
            (answer, _) => {
                let why = answer.err().map_or("an answer that nobody asked for".to_owned(), |error| error.to_string());
                eprintln!("connection {no}: {why}");
                seen.ended(no);
                return;
            }
        }
    }
}

async fn run(wish: &Wish) -> anyhow::Result<String> {
    let histogram = || Histogram::new_with_bounds(1, 120_000_000, 3);
    let seen = Rc::new(RefCell::new(Seen {
        fresh: (0..wish.connections).collect(),
        idle: Vec::with_capacity(wish.connections),
        due: vec![None; wish.connections],
        accepted: histogram()?,
        refused: histogram()?,
        statuses: BTreeMap::new(),
        broken: 0,
        closed: 0,
    }));
    let mut streams = Vec::with_capacity(wish.connections);
    for no in 0..wish.connections {
        let stream = Rc::new(TcpStream::connect(wish.address).await.context("connecting")?);
        stream.set_nodelay(true)?;
        tokio::task::spawn_local(read(no, stream.clone(), seen.clone()));
        streams.push(stream);
    }
    let (start, wanted) = (Instant::now(), wish.rate * wish.seconds);
    let (mut sent, mut late) = (0, Duration::ZERO);
    while sent < wanted {
        let due = (start.elapsed().as_nanos() * u128::from(wish.rate) / 1_000_000_000) as u64 + 1;
        while sent < due.min(wanted) {
            let Some(no) = seen.borrow_mut().next() else { break };
            let at = start + Duration::from_nanos((u128::from(sent) * 1_000_000_000 / u128::from(wish.rate)) as u64);
            late = late.max(at.elapsed());
            seen.borrow_mut().due[no] = Some(at);
            send(&streams[no], wish, sent)?;
            sent += 1;
        }
        if (seen.borrow().broken + seen.borrow().closed) as usize == wish.connections {
            bail!("every connection has ended after {sent} of {wanted} claims");
        }
        tokio::task::yield_now().await;
    }
    let took = start.elapsed();
    let answers = || seen.borrow().statuses.values().sum::<u64>();
    while answers() + seen.borrow().broken < sent && start.elapsed() < took + PATIENCE {
        tokio::task::yield_now().await;
    }
    Ok(report(&seen.borrow(), (sent, took, late)))
}

/// One claim is far smaller than a socket's buffer, which is empty: it is taken whole.
fn send(stream: &TcpStream, wish: &Wish, n: u64) -> anyhow::Result<()> {
    let body = format!("{{\"user\":\"{}-{n}\",\"quantity\":1}}", wish.tag);
    let request = format!(
        "POST /v1/campaigns/{}/claims HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        wish.campaign,
        wish.address,
        body.len()
    );
    match stream.try_write(request.as_bytes()) {
        Ok(written) if written == request.len() => Ok(()),
        // Whoever reads this connection counts it as broken.
        Err(error) if error.kind() != ErrorKind::WouldBlock => Ok(()),
        other => bail!("a socket with nothing in it took {other:?} of {} bytes", request.len()),
    }
}

fn report(seen: &Seen, (sent, took, late): (u64, Duration, Duration)) -> String {
    let micros = |of: &Histogram<u64>| {
        serde_json::json!({"p50": of.value_at_quantile(0.5), "p90": of.value_at_quantile(0.9),
            "p99": of.value_at_quantile(0.99), "p999": of.value_at_quantile(0.999), "max": of.max()})
    };
    let answered: u64 = seen.statuses.values().sum();
    let statuses: BTreeMap<String, u64> = seen.statuses.iter().map(|(k, v)| (k.to_string(), *v)).collect();
    let line = serde_json::json!({"sent": sent, "answered": answered, "unanswered": sent - answered, "statuses": statuses,
        "broken": seen.broken, "closed": seen.closed, "seconds": took.as_secs_f64(), "latest_send_us": late.as_micros() as u64,
        "accepted_us": micros(&seen.accepted), "refused_us": micros(&seen.refused)});
    line.to_string()
}

fn main() -> anyhow::Result<()> {
    let wish = wish()?;
    // The sockets are looked at after every task, not only when there is nothing else to do: there always is.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().event_interval(8).build()?;
    let line = tokio::task::LocalSet::new().block_on(&runtime, run(&wish))?;
    println!("{line}");
    Ok(())
}
