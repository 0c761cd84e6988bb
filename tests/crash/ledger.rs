//! What the client was told, against what is in the database.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Server, Site, sql, stderr, stdout};

/// A campaign with what it may give out at most.
#[derive(Debug, Clone)]
pub struct Sold {
    /// Its name.
    pub id: String,
    /// Units or shares.
    pub stock: i64,
    /// A red packet's money.
    pub total: Option<i64>,
}

/// How many answers were lost so far; cheaper than to read it all.
pub fn lost(path: &Path) -> usize {
    let bytes = fs::read(path).unwrap_or_default();
    bytes.split(|b| *b == b'\n').filter(|line| line.starts_with(b"lost\t")).count()
}

type Place = (String, String);

/// The ledger.
#[derive(Debug, Default)]
pub struct Ledger {
    intents: HashSet<Place>,
    /// The bodies of acceptances, by campaign and user.
    acks: HashMap<Place, Vec<Value>>,
    /// Claims that others than the first answer named.
    told: Vec<(Place, String)>,
    /// Claims whose outcome was said to be unknown.
    pub unknown: Vec<String>,
    /// Answers that were lost.
    pub lost: usize,
    /// Refusals by slug.
    pub refused: HashMap<String, usize>,
    wrong: Vec<String>,
    /// Claims that were to come to an end: to which, and whether that was acknowledged.
    ends: HashMap<String, (String, bool)>,
    /// What was clicked into carts: acknowledged, and sent at most, by buyer.
    clicks: HashMap<String, (i64, i64)>,
}

impl Ledger {
    /// Reads it; the last line may be under way.
    pub fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut ledger = Self::default();
        for line in text.split_inclusive('\n').filter_map(|l| l.strip_suffix('\n')) {
            ledger.take(line);
        }
        ledger
    }

    fn take(&mut self, line: &str) {
        let parts: Vec<_> = line.splitn(5, '\t').collect();
        let [what, campaign, user, _key, rest] = parts[..] else { panic!("no line of a ledger: {line}") };
        let place = (campaign.to_owned(), user.to_owned());
        match what {
            "intent" => drop(self.intents.insert(place)),
            "ack" => self.acks.entry(place).or_default().push(serde_json::from_str(rest).expect("a claim")),
            "told" => self.told.push((place, rest.to_owned())),
            "unknown" => self.unknown.push(rest.to_owned()),
            "lost" => self.lost += 1,
            "ending" | "ended" => {
                let (id, what) = rest.split_once('\t').expect("an id and an end");
                let end = self.ends.entry(id.to_owned()).or_insert_with(|| (what.to_owned(), false));
                end.1 |= parts[0] == "ended";
            }
            "click" => self.clicks.entry(place.1).or_default().1 += rest.parse::<i64>().expect("a number"),
            "clicked" => self.clicks.entry(place.1).or_default().0 += rest.parse::<i64>().expect("a number"),
            "no" => {
                let slug = rest.split('\t').nth(1).unwrap_or_default();
                *self.refused.entry(slug.to_owned()).or_default() += 1;
            }
            _ => self.wrong.push(line.to_owned()),
        }
    }

    /// Claims that were acknowledged.
    pub fn acks(&self) -> usize {
        self.acks.len()
    }

    /// Ends and clicks that were acknowledged.
    pub fn others(&self) -> (usize, i64) {
        (self.ends.values().filter(|(_, sure)| *sure).count(), self.clicks.values().map(|(sure, _)| sure).sum())
    }

    /// Writes every acceptance, a line each, for the audit.
    pub fn receipts(&self, site: &Site) -> PathBuf {
        let path = site.folder.path().join("receipts");
        let lines: Vec<_> = self.acks.values().flatten().map(Value::to_string).collect();
        fs::write(&path, lines.join("\n")).expect("a file");
        path
    }

    /// Compares it with the rows: all that is wrong, in words.
    fn compare(&self, rows: &Rows, campaigns: &[Sold]) -> Vec<String> {
        let mut wrong: Vec<_> = self.wrong.iter().map(|w| format!("wrong answer: {w}")).collect();
        for (place, bodies) in &self.acks {
            let Some([row]) = rows.by_place.get(place).map(Vec::as_slice) else {
                let there = rows.by_place.get(place).map_or(0, Vec::len);
                wrong.push(format!("{place:?} was acknowledged and has {there} rows: {}", bodies[0]));
                continue;
            };
            for body in bodies {
                let amount = body["amount"].as_i64();
                let same = body["claim_id"] == row.id.as_str() && body["seq"] == row.seq && amount == row.amount;
                if !same {
                    wrong.push(format!("{place:?} was told {body} and its row is {row:?}"));
                }
            }
        }
        for (place, id) in &self.told {
            if rows.by_place.get(place).is_none_or(|r| r.len() != 1 || r[0].id != *id) {
                wrong.push(format!("{place:?} was told of {id} and has {:?}", rows.by_place.get(place)));
            }
        }
        let ours = |place: &Place| campaigns.iter().any(|c| c.id == place.0);
        for (place, found) in rows.by_place.iter().filter(|(place, _)| ours(place)) {
            if found.len() != 1 || !self.intents.contains(place) {
                wrong.push(format!("{place:?} has {} rows, intended: {}", found.len(), self.intents.contains(place)));
            }
        }
        for row in rows.by_place.values().flatten() {
            let end = self.ends.get(&row.id);
            let sound = match (end.map(|(what, sure)| (what.as_str(), *sure)), row.status.as_str()) {
                (Some(("settle", _)), "settled") | (Some(("cancel", _)), "cancelled") => true,
                (None | Some((_, false)), status) => status == "persisted",
                _ => false,
            };
            if !sound {
                wrong.push(format!("{} was told {end:?} and is {}", row.id, row.status));
            }
        }
        for (user, (sure, most)) in &self.clicks {
            let there = rows.carts.get(user).copied().unwrap_or(0);
            if !(*sure..=*most).contains(&there) {
                wrong.push(format!("{user} has {there} in its cart: {sure} acknowledged, {most} sent"));
            }
        }
        wrong.extend(campaigns.iter().filter_map(|c| rows.check(c)));
        wrong
    }

    /// Everything must be drained: compares with the database, and lets the product audit itself after its end.
    pub fn settle(&self, site: &Site, server: Server, campaigns: &[Sold]) {
        for campaign in campaigns {
            server.drained(&campaign.id);
        }
        assert!(server.stop().success(), "SIGTERM ends it with 0");
        let rows = Rows::read(site);
        let wrong = self.compare(&rows, campaigns);
        let shown = wrong.iter().take(10).cloned().collect::<Vec<_>>().join("\n");
        assert!(wrong.is_empty(), "{} things are wrong, the first of them:\n{shown}", wrong.len());
        for command in
            [vec!["audit", "--receipts", self.receipts(site).to_str().expect("a path")], vec!["journal", "verify"]]
        {
            let output = site.run(command.iter().copied());
            assert!(output.status.success(), "{command:?}: {}{}", stdout(&output), stderr(&output));
        }
    }
}

#[derive(Debug)]
struct Row {
    id: String,
    status: String,
    seq: i64,
    quantity: i64,
    amount: Option<i64>,
}

struct Rows {
    by_place: HashMap<Place, Vec<Row>>,
    /// Units in each buyer's cart.
    carts: HashMap<String, i64>,
}

impl Rows {
    fn read(site: &Site) -> Self {
        let query = "SELECT campaign, user_id, claim_id, seq, quantity, amount, status FROM claims";
        let rows = sql::try_sql(&site.store(), query).expect("the rows");
        let mut by_place: HashMap<Place, Vec<Row>> = HashMap::new();
        for row in rows {
            let [campaign, user, id, seq, quantity, amount, status] = &row[..] else { panic!("{row:?}") };
            let number = |text: &str| text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            let (seq, quantity) = (number(seq), number(quantity));
            let amount = (!amount.is_empty()).then(|| number(amount));
            let row = Row { id: id.clone(), status: status.clone(), seq, quantity, amount };
            by_place.entry((campaign.clone(), user.clone())).or_default().push(row);
        }
        let query = "SELECT user_id, sum(quantity) FROM cart_items GROUP BY user_id";
        let carts = sql::try_sql(&site.store(), query).expect("the carts").into_iter();
        let carts = carts.map(|row| (row[0].clone(), row[1].parse().expect("a number"))).collect();
        Self { by_place, carts }
    }

    /// What is wrong with a campaign as a whole.
    fn check(&self, campaign: &Sold) -> Option<String> {
        let all = || self.by_place.iter().filter(|(p, _)| p.0 == campaign.id).flat_map(|(_, rows)| rows);
        let rows = || all().filter(|row| row.status != "cancelled");
        let units: i64 = rows().map(|r| r.quantity).sum();
        let money: i64 = rows().filter_map(|r| r.amount).sum();
        if units > campaign.stock {
            return Some(format!("{campaign:?} has sold {units}"));
        }
        let total = campaign.total?;
        let least = rows().filter_map(|r| r.amount).min().unwrap_or(1);
        let exact = if units == campaign.stock { money == total } else { money < total };
        (!exact || least < 1).then(|| format!("{campaign:?}: {units} shares are {money}, the least {least}"))
    }
}
