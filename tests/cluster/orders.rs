//! What buyers asked for and were told, against what is in the database.
//!
//! An order is one intention: a claim, asked for until its outcome is known or the buyer gives up. Orders are held against rows
//! buyer by buyer: what was acknowledged is there, once, as it was said; what was refused every time is not; and there are no
//! more rows than can be explained.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;

use serde_json::Value;

/// A campaign with what it may give out at most.
#[derive(Debug, Clone)]
pub struct Sold {
    /// Its name.
    pub id: String,
    /// Units or shares.
    pub stock: i64,
    /// Units one buyer may hold.
    pub limit: i64,
    /// A red packet's money.
    pub total: Option<i64>,
}

/// The end that a claim was to come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// `settle` or `cancel`.
    pub what: &'static str,
    /// Whether that was acknowledged.
    pub is_sure: bool,
    /// The gate that was asked last.
    pub by: usize,
}

/// One claim that somebody wanted.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// Its campaign.
    pub campaign: String,
    /// Its buyer.
    pub user: String,
    /// Its idempotency key.
    pub key: Option<String>,
    /// Its units.
    pub quantity: i64,
    /// What was acknowledged, and by which gate first.
    pub ack: Option<(usize, Value)>,
    /// A claim of the buyer's that others than the first answer named.
    pub told: Option<String>,
    /// Claims whose outcome was said to be unknown.
    pub unknown: Vec<String>,
    /// Whether an answer was lost, or said unknown: the claim may be there though nobody was told.
    pub is_open: bool,
    /// The end it was to come to.
    pub end: Option<End>,
    /// Claims that a gate said are not there, after that very gate had said that their outcome is unknown.
    pub denied: Vec<String>,
}

impl Order {
    /// What was said of it last.
    fn verdict(&self) -> &'static str {
        match () {
            () if self.ack.is_some() => "acknowledged",
            () if self.told.is_some() => "told of",
            () if self.is_open => "not known",
            () => "refused",
        }
    }
}

/// Everything that one lane of buyers did.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Its orders.
    pub orders: Vec<Order>,
    /// What was clicked into carts: acknowledged, and sent at most, by buyer.
    pub clicks: HashMap<String, (i64, i64)>,
    /// What of that each gate acknowledged.
    pub clicked_by: HashMap<(String, usize), i64>,
    /// Answers that must never be given, in words.
    pub wrong: Vec<String>,
    /// Refusals by problem.
    pub refused: BTreeMap<String, usize>,
    /// Answers that did not come.
    pub lost: usize,
    /// Answers that said that the outcome is unknown.
    pub unknown: usize,
    /// Orders with such an answer, or a lost one, of which it became known all the same.
    pub resolved: usize,
}

impl Ledger {
    /// Takes another lane's in.
    pub fn join(&mut self, other: Self) {
        self.orders.extend(other.orders);
        for (user, (sure, most)) in other.clicks {
            let clicks = self.clicks.entry(user).or_default();
            *clicks = (clicks.0 + sure, clicks.1 + most);
        }
        self.clicked_by.extend(other.clicked_by);
        self.wrong.extend(other.wrong);
        for (slug, count) in other.refused {
            *self.refused.entry(slug).or_default() += count;
        }
        (self.lost, self.unknown) = (self.lost + other.lost, self.unknown + other.unknown);
        self.resolved += other.resolved;
    }

    /// Notes that no answer came, or that nobody was there to be asked; whether the request may have been heard.
    pub fn no_answer(&mut self, is_lost: bool) -> bool {
        if is_lost {
            self.lost += 1;
        } else {
            *self.refused.entry("nobody-there".to_owned()).or_default() += 1;
        }
        is_lost
    }

    /// Claims that were acknowledged.
    pub fn acks(&self) -> usize {
        self.orders.iter().filter(|order| order.ack.is_some()).count()
    }

    /// Every acceptance, a line each, as the audit reads receipts.
    pub fn receipts(&self) -> String {
        let mut text = String::new();
        for (_, body) in self.orders.iter().filter_map(|order| order.ack.as_ref()) {
            let _ = writeln!(text, "{body}");
        }
        text
    }
}

/// A row of the table of claims.
#[derive(Debug, Clone)]
pub struct Row {
    /// The claim's id.
    pub id: String,
    /// Where it stands.
    pub status: String,
    /// Its position.
    pub seq: i64,
    /// Units.
    pub quantity: i64,
    /// Money.
    pub amount: Option<i64>,
}

type Place = (String, String);

/// What is in the database of some campaigns.
#[derive(Debug, Default)]
pub struct Rows {
    by_place: HashMap<Place, Vec<Row>>,
    /// Units in each buyer's cart.
    pub carts: HashMap<String, i64>,
}

impl Rows {
    /// Takes a row in.
    pub fn push(&mut self, campaign: &str, user: &str, row: Row) {
        self.by_place.entry((campaign.to_owned(), user.to_owned())).or_default().push(row);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.by_place.values().map(Vec::len).sum()
    }

    /// Units and money of a campaign's rows that were not given back.
    pub fn held(&self, campaign: &str) -> (i64, i64) {
        let rows = self.by_place.iter().filter(|(place, _)| place.0 == campaign).flat_map(|(_, rows)| rows);
        rows.filter(|row| holds(row)).fold((0, 0), |sum, row| (sum.0 + row.quantity, sum.1 + row.amount.unwrap_or(0)))
    }

    fn check(&self, campaign: &Sold) -> Option<String> {
        let (units, money) = self.held(&campaign.id);
        if units > campaign.stock {
            return Some(format!("{campaign:?} has sold {units}"));
        }
        let total = campaign.total?;
        let shares = self.by_place.iter().filter(|(place, _)| place.0 == campaign.id).flat_map(|(_, rows)| rows);
        let least = shares.filter(|row| holds(row)).filter_map(|row| row.amount).min().unwrap_or(1);
        let exact = if units == campaign.stock { money == total } else { money < total };
        (!exact || least < 1).then(|| format!("{campaign:?}: {units} shares are {money}, the least {least}"))
    }
}

fn holds(row: &Row) -> bool {
    !matches!(row.status.as_str(), "cancelled" | "expired")
}

/// What an operator has given up: acknowledgements of a gate that is gone with its journal.
#[derive(Debug, Default)]
pub struct GivenUp {
    /// The gate.
    pub gate: Option<usize>,
    /// How many of its acknowledgements are not in the database.
    pub missing: usize,
}

/// Holds the ledger against the rows: all that is wrong, in words.
pub fn compare(ledger: &Ledger, rows: &Rows, campaigns: &[Sold], given_up: &mut GivenUp) -> Vec<String> {
    let mut wrong: Vec<_> = ledger.wrong.iter().map(|w| format!("wrong answer: {w}")).collect();
    let mut places: HashMap<Place, Vec<&Order>> = HashMap::new();
    for order in &ledger.orders {
        places.entry((order.campaign.clone(), order.user.clone())).or_default().push(order);
    }
    for place in rows.by_place.keys().filter(|place| !places.contains_key(*place)) {
        wrong.push(format!("{place:?} has rows and asked for nothing: {:?}", rows.by_place[place]));
    }
    for (place, orders) in &places {
        let Some(campaign) = campaigns.iter().find(|c| c.id == place.0) else {
            wrong.push(format!("{place:?} is of no campaign of ours"));
            continue;
        };
        let there = rows.by_place.get(place).map(Vec::as_slice).unwrap_or_default();
        let before = wrong.len();
        of_a_buyer(orders, there, campaign, given_up, &mut wrong);
        if wrong.len() > before {
            wrong.push(format!("    {place:?} ordered {orders:?} and has {there:?}"));
        }
    }
    for (user, (sure, most)) in &ledger.clicks {
        let there = rows.carts.get(user).copied().unwrap_or(0);
        let given_up = given_up.gate.and_then(|gate| ledger.clicked_by.get(&(user.clone(), gate)));
        if !(*sure - given_up.unwrap_or(&0)..=*most).contains(&there) {
            wrong.push(format!("{user} has {there} in its cart: {sure} acknowledged, {most} sent"));
        }
    }
    wrong.extend(campaigns.iter().filter_map(|c| rows.check(c)));
    wrong
}

/// One buyer's orders in one campaign against the rows.
fn of_a_buyer(orders: &[&Order], rows: &[Row], campaign: &Sold, given_up: &mut GivenUp, wrong: &mut Vec<String>) {
    let mut acked = HashSet::new();
    for order in orders {
        let Some((gate, body)) = &order.ack else { continue };
        let id = body["claim_id"].as_str().unwrap_or_default();
        if !acked.insert(id) {
            wrong.push(format!("{id} was given to two orders"));
        }
        let Some(row) = rows.iter().find(|row| row.id == id) else {
            if given_up.gate == Some(*gate) {
                given_up.missing += 1;
            } else {
                wrong.push(format!("{id} was acknowledged by gate {gate} and has no row"));
            }
            continue;
        };
        let said = (body["seq"].as_i64(), body["amount"].as_i64(), body["quantity"].as_i64());
        if said != (Some(row.seq), row.amount, Some(row.quantity)) || order.quantity != row.quantity {
            wrong.push(format!("{id} was acknowledged as {body}"));
        }
        match end_of(order.end, row) {
            Some(_) if order.end.is_some_and(|end| given_up.gate == Some(end.by)) => given_up.missing += 1,
            problem => wrong.extend(problem),
        }
    }
    for order in orders.iter().filter(|order| order.ack.is_none()) {
        if let Some(id) = &order.told
            && !rows.iter().any(|row| row.id == *id)
            && given_up.gate.is_none()
        {
            wrong.push(format!("{} was told of {id}, which has no row", order.verdict()));
        }
        for id in order.denied.iter().filter(|id| rows.iter().any(|row| row.id == **id)) {
            wrong.push(format!("{id} was unknown, then denied, and has a row"));
        }
    }
    let open = orders.iter().filter(|order| order.ack.is_none() && order.is_open).count();
    let extra = rows.iter().filter(|row| !acked.contains(row.id.as_str())).count();
    if extra > open {
        wrong.push(format!("{extra} rows that nobody was told of, for {open} orders that may have some"));
    }
    let held: i64 = rows.iter().filter(|row| holds(row)).map(|row| row.quantity).sum();
    if held > campaign.limit {
        wrong.push(format!("holds {held} of at most {}", campaign.limit));
    }
}

/// What is wrong with where a claim stands.
fn end_of(end: Option<End>, row: &Row) -> Option<String> {
    let sound = match (end.map(|end| (end.what, end.is_sure)), row.status.as_str()) {
        (Some(("settle", _)), "settled") | (Some(("cancel", _)), "cancelled") => true,
        (None | Some((_, false)), status) => status == "persisted",
        _ => false,
    };
    (!sound).then(|| format!("{} was told {end:?} and is {}", row.id, row.status))
}
