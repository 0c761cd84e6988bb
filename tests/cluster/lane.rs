//! What one buyer after the other does in a lane, and the probe of a gate.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

use crate::events::{Event, Said};
use crate::load::{Common, PROBE_EVERY};
use crate::orders::{End, Ledger, Order};
use crate::support::http::{Answer, Connection, Request};

/// How long an answer may take: longer than the deadline that the gates have.
const PATIENCE: Duration = Duration::from_secs(4);

/// For how long nobody goes to a gate that did not answer.
const AVOID: Duration = Duration::from_millis(300);

/// After how many refusals for want of something a buyer gives up.
const REFUSALS: usize = 3;

/// Buyers of which each may hold some.
const KEYED_BUYERS: u64 = 300;

/// Why there is no answer.
enum NoAnswer {
    /// Nothing was sent.
    Unsent,
    /// It may have been heard.
    Lost,
}

/// Connections to all gates, and which of them to avoid.
struct Gates {
    common: Arc<Common>,
    connections: Vec<Option<Connection>>,
    avoided: Vec<Instant>,
}

impl Gates {
    fn new(common: Arc<Common>) -> Self {
        let count = common.gates.len();
        Self { common, connections: (0..count).map(|_| None).collect(), avoided: vec![Instant::now(); count] }
    }

    /// Any gate that is not avoided, or any at all.
    fn pick(&self, random: &mut StdRng) -> usize {
        let now = Instant::now();
        let open: Vec<_> = (0..self.avoided.len()).filter(|gate| !self.common.is_closed(*gate)).collect();
        let good: Vec<_> = open.iter().copied().filter(|gate| self.avoided[*gate] <= now).collect();
        let from = if good.is_empty() { &open } else { &good };
        from[random.random_range(0..from.len())]
    }

    fn call(&mut self, gate: usize, request: &Request) -> Result<Answer, NoAnswer> {
        let result = self.try_call(gate, request);
        if result.is_err() {
            self.avoided[gate] = Instant::now() + AVOID;
        }
        result
    }

    fn try_call(&mut self, gate: usize, request: &Request) -> Result<Answer, NoAnswer> {
        let mut connection = match self.connections[gate].take() {
            Some(open) => open,
            None => Connection::open(self.common.gates[gate]).map_err(|_| NoAnswer::Unsent)?,
        };
        connection.patience(PATIENCE).map_err(|_| NoAnswer::Unsent)?;
        let answer = connection.call(request).map_err(|_| NoAnswer::Lost)?;
        if answer.header("connection") != Some("close") {
            self.connections[gate] = Some(connection);
        }
        Ok(answer)
    }
}

/// One lane.
pub struct Lane {
    common: Arc<Common>,
    gates: Gates,
    no: usize,
    random: StdRng,
    ledger: Ledger,
}

impl Lane {
    /// Lane `no`.
    pub fn new(common: Arc<Common>, no: usize, seed: u64) -> Self {
        let gates = Gates::new(common.clone());
        Self { common, gates, no, random: StdRng::seed_from_u64(seed ^ no as u64), ledger: Ledger::default() }
    }

    /// Buys until the load ends.
    pub fn run(mut self) -> Ledger {
        let mut next = Instant::now();
        for no in 0_u64.. {
            // What was missed is made up for, but not for more than a second of it.
            let now = Instant::now();
            next = (next + self.common.pause()).max(now.checked_sub(Duration::from_secs(1)).unwrap_or(now));
            std::thread::sleep(next.saturating_duration_since(now));
            if !self.common.may_go_on() {
                break;
            }
            if no % 9 == 8 { self.click(no) } else { self.buy(no) }
        }
        self.ledger
    }

    fn buy(&mut self, no: u64) {
        let mut order = self.order(no);
        self.persist(&mut order);
        if let Some((_, body)) = order.ack.clone() {
            self.common.acks.fetch_add(1, Ordering::SeqCst);
            match self.random.random_range(0..16) {
                0 => self.read(&body["claim_id"]),
                1 => self.ask_again(&order),
                2 => self.end(&mut order, "settle"),
                3 => self.end(&mut order, "cancel"),
                _ => {}
            }
        }
        self.ledger.orders.push(order);
    }

    fn order(&mut self, no: u64) -> Order {
        let campaigns = &self.common.campaigns;
        let own = format!("u{}-{no}", self.no);
        let key = Some(format!("key-{}-{no}", self.no));
        let (campaign, user, key, quantity) = match self.random.random_range(0..16) {
            0..=5 => (&campaigns.sale, own, None, 1),
            6..=7 => (&campaigns.sale, own, key, 1),
            8 => (&campaigns.sale, format!("c{}", self.common.contested.fetch_add(1, Ordering::SeqCst) / 3), None, 1),
            9..=11 => {
                let user = format!("k{}", self.random.random_range(0..KEYED_BUYERS));
                (&campaigns.keyed, user, key, self.random.random_range(1..=2))
            }
            12..=13 => (&campaigns.small, own, None, 1),
            _ => (&campaigns.packet, own, None, 1),
        };
        Order { campaign: campaign.id.clone(), user, key, quantity, ..Order::default() }
    }

    /// Claims; after a lost answer or an unknown outcome one buyer in four gives up, the others ask until they know.
    fn persist(&mut self, order: &mut Order) {
        let gives_up = self.random.random_ratio(1, 4);
        let request = claim(order);
        let mut refusals = 0;
        loop {
            let gate = self.gates.pick(&mut self.random);
            let answer = match self.gates.call(gate, &request) {
                Ok(answer) => answer,
                Err(why) => {
                    order.is_open |= self.no_answer(&why);
                    if gives_up || self.common.is_over() {
                        return;
                    }
                    continue;
                }
            };
            let slug = answer.slug();
            match (answer.status, slug.as_str()) {
                (202, _) => order.ack = Some((gate, answer.json())),
                (409, "already-claimed") => {
                    order.told = Some(answer.field("claim_id"));
                    self.refused(&slug);
                }
                (409, "sold-out") => self.refused(&slug),
                (503, "outcome-unknown") => {
                    self.ledger.unknown += 1;
                    order.is_open = true;
                    order.unknown.push(answer.field("claim_id"));
                    if gives_up || self.common.is_over() {
                        return;
                    }
                    if !self.resolve(gate, order) {
                        continue;
                    }
                }
                (503, _) => {
                    self.refused(&slug);
                    refusals += 1;
                    let must_know = order.is_open && !gives_up;
                    if (must_know || refusals < REFUSALS) && !self.common.is_over() {
                        std::thread::sleep(Duration::from_millis(20));
                        continue;
                    }
                }
                _ => self.wrong(order, &answer),
            }
            let is_known = order.ack.is_some() || order.told.is_some();
            self.ledger.resolved += usize::from(order.is_open && is_known);
            return;
        }
    }

    /// Asks for a claim whose outcome is unknown, half of the time; whether it is one.
    fn resolve(&mut self, told_by: usize, order: &mut Order) -> bool {
        std::thread::sleep(Duration::from_millis(50));
        if self.random.random_bool(0.5) {
            return false;
        }
        let id = order.unknown.last().expect("there is one").clone();
        let gate = self.gates.pick(&mut self.random);
        let Ok(answer) = self.gates.call(gate, &Request::get(&format!("/v1/claims/{id}?wait=1"))) else { return false };
        match (answer.status, answer.field("status").as_str()) {
            (200, "accepted" | "persisted") => {
                order.told = Some(id);
                true
            }
            (404, _) => {
                if gate == told_by {
                    order.denied.push(id);
                }
                false
            }
            (200, "unknown") | (503, _) => false,
            _ => {
                self.wrong(order, &answer);
                false
            }
        }
    }

    /// Brings a claim to its end, and asks until it is known that it has come to it.
    fn end(&mut self, order: &mut Order, what: &'static str) {
        let (_, body) = order.ack.as_ref().expect("it is acknowledged");
        let id = body["claim_id"].as_str().unwrap_or_default();
        let request = Request::new("POST", &format!("/v1/claims/{id}/{what}"));
        let mut refusals = 0;
        while !self.common.is_over() && refusals < REFUSALS {
            let by = self.gates.pick(&mut self.random);
            order.end = Some(End { what, is_sure: false, by });
            match self.gates.call(by, &request) {
                Ok(answer) if answer.status == 200 => {
                    order.end = Some(End { what, is_sure: true, by });
                    return;
                }
                Ok(answer) if answer.status == 503 => {
                    self.refused(&answer.slug());
                    refusals += 1;
                    std::thread::sleep(Duration::from_millis(20));
                }
                Ok(answer) => return self.wrong(order, &answer),
                Err(why) => _ = self.no_answer(&why),
            }
        }
    }

    /// No gate may deny what was acknowledged.
    fn read(&mut self, id: &serde_json::Value) {
        let id = id.as_str().unwrap_or_default();
        let gate = self.gates.pick(&mut self.random);
        match self.gates.call(gate, &Request::get(&format!("/v1/claims/{id}"))) {
            Ok(answer) if matches!(answer.field("status").as_str(), "accepted" | "persisted") => {}
            Ok(answer) if answer.status == 503 => self.refused(&answer.slug()),
            Ok(answer) => {
                self.ledger.wrong.push(format!("{id} was acknowledged, and gate {gate} shows {}", answer.text()));
            }
            Err(why) => _ = self.no_answer(&why),
        }
    }

    /// A retry must be told the same by every gate: with a key byte for byte, without one by name.
    fn ask_again(&mut self, order: &Order) {
        let (_, first) = order.ack.as_ref().expect("it is acknowledged");
        let gate = self.gates.pick(&mut self.random);
        match self.gates.call(gate, &claim(order)) {
            Ok(again) if again.status == 503 => self.refused(&again.slug()),
            Ok(again) => {
                let same = match &order.key {
                    Some(_) => again.status == 202 && again.json() == *first,
                    None => again.slug() == "already-claimed" && again.field("claim_id") == first["claim_id"],
                };
                if !same {
                    self.ledger.wrong.push(format!("first {first} then by gate {gate} {}", again.text()));
                }
            }
            Err(why) => _ = self.no_answer(&why),
        }
    }

    /// Puts one more thing into this lane's own cart, under a key, and asks until it is known to be there.
    fn click(&mut self, no: u64) {
        let user = format!("{}-cart-{}", self.common.campaigns.tag, self.no);
        let quantity = 1 + (no % 3) as i64;
        let body = json!({ "sku": format!("s{}", no % 5), "op": "add", "quantity": quantity });
        let request = Request::post(&format!("/v1/carts/{user}/items"), &body).key(&format!("click-{no}"));
        let mut refusals = 0;
        self.ledger.clicks.entry(user.clone()).or_default().1 += quantity;
        while refusals < REFUSALS {
            let gate = self.gates.pick(&mut self.random);
            match self.gates.call(gate, &request) {
                Ok(answer) if answer.status == 202 => {
                    *self.ledger.clicked_by.entry((user.clone(), gate)).or_default() += quantity;
                    self.ledger.clicks.entry(user).or_default().0 += quantity;
                    return;
                }
                Ok(answer) if answer.status == 503 => {
                    self.refused(&answer.slug());
                    refusals += 1;
                    std::thread::sleep(Duration::from_millis(20));
                }
                Ok(answer) => return self.ledger.wrong.push(format!("a click: {}", answer.text())),
                Err(why) => _ = self.no_answer(&why),
            }
            if self.common.is_over() {
                return;
            }
        }
    }

    /// Notes it; whether the request may have been heard.
    fn no_answer(&mut self, why: &NoAnswer) -> bool {
        // Nobody may be there for a while.
        std::thread::sleep(Duration::from_millis(10));
        self.ledger.no_answer(matches!(why, NoAnswer::Lost))
    }

    fn refused(&mut self, slug: &str) {
        *self.ledger.refused.entry(slug.to_owned()).or_default() += 1;
    }

    fn wrong(&mut self, order: &Order, answer: &Answer) {
        self.ledger.wrong.push(format!("{order:?}: {} {}", answer.status, answer.text()));
    }
}

fn claim(order: &Order) -> Request {
    let body = json!({ "user": order.user, "quantity": order.quantity });
    let request = Request::post(&format!("/v1/campaigns/{}/claims", order.campaign), &body);
    match &order.key {
        Some(key) => request.key(key),
        None => request,
    }
}

/// The probe of one gate: a claim every so often, never asked for again.
pub struct Probe {
    common: Arc<Common>,
    gates: Gates,
    gate: usize,
    ledger: Ledger,
}

impl Probe {
    /// The probe of `gate`.
    pub fn new(common: Arc<Common>, gate: usize) -> Self {
        let gates = Gates::new(common.clone());
        Self { common, gates, gate, ledger: Ledger::default() }
    }

    /// Asks until the load ends.
    pub fn run(mut self) -> Ledger {
        for no in 0_u64.. {
            std::thread::sleep(PROBE_EVERY);
            if !self.common.may_go_on() {
                break;
            }
            if !self.common.is_closed(self.gate) {
                self.ask(no);
            }
        }
        self.ledger
    }

    fn ask(&mut self, no: u64) {
        let campaign = self.common.campaigns.sale.id.clone();
        let mut order = Order { campaign, user: format!("p{}-{no}", self.gate), quantity: 1, ..Order::default() };
        let sent = Instant::now();
        let answer = self.gates.call(self.gate, &claim(&order));
        let at = Instant::now();
        let said = match answer {
            Err(why) => {
                order.is_open = self.ledger.no_answer(matches!(why, NoAnswer::Lost));
                Said::Unknown
            }
            Ok(answer) if answer.status == 202 => {
                order.ack = Some((self.gate, answer.json()));
                self.common.acks.fetch_add(1, Ordering::SeqCst);
                Said::Yes
            }
            Ok(answer) if answer.status == 503 => {
                let slug = answer.slug();
                order.is_open = slug == "outcome-unknown";
                if order.is_open {
                    self.ledger.unknown += 1;
                    order.unknown.push(answer.field("claim_id"));
                    Said::Unknown
                } else {
                    *self.ledger.refused.entry(slug).or_default() += 1;
                    Said::No
                }
            }
            Ok(answer) => {
                self.ledger.wrong.push(format!("a probe of gate {}: {} {}", self.gate, answer.status, answer.text()));
                Said::No
            }
        };
        self.common.events.push(Event { gate: self.gate, sent, at, said });
        self.ledger.orders.push(order);
    }
}
