//! Campaigns and claims in one line each.

use std::time::Duration;

use serde_json::{Value, json};

use super::http::{Answer, Request};
use super::{Server, within};

/// A campaign that is open now and for long.
pub fn flash_sale(id: &str, stock: i64) -> Value {
    json!({"id": id, "kind": "flash_sale", "title": "a sale", "opens_at": "2020-01-01T00:00:00Z",
        "closes_at": "2099-01-01T00:00:00Z", "per_user_limit": 1, "stock": stock, "currency": "CNY", "price": 990})
}

/// The same with a limit.
pub fn limited(id: &str, stock: i64, limit: i64) -> Value {
    let mut sale = flash_sale(id, stock);
    sale["per_user_limit"] = limit.into();
    sale
}

/// A red packet that is open now and for long.
pub fn red_packet(id: &str, shares: i64, total: i64) -> Value {
    json!({"id": id, "kind": "red_packet", "opens_at": "2020-01-01T00:00:00Z", "closes_at": "2099-01-01T00:00:00Z",
        "stock": shares, "currency": "CNY", "red_packet": {"total": total, "min": 1, "split": "random"}})
}

/// Coupons, open now and for long.
pub fn coupon(id: &str, stock: i64) -> Value {
    json!({"id": id, "kind": "coupon", "opens_at": "2020-01-01T00:00:00Z", "closes_at": "2099-01-01T00:00:00Z",
        "per_user_limit": 1, "stock": stock})
}

/// A daily check-in of 10 points by the calendar of `zone`, open now and for long.
pub fn check_in(id: &str, zone: &str) -> Value {
    json!({"id": id, "kind": "check_in", "opens_at": "2020-01-01T00:00:00Z", "closes_at": "2099-01-01T00:00:00Z",
        "check_in": {"points": 10, "time_zone": zone}})
}

/// The end of a claim: `cancel` or `settle`.
pub fn end(claim: &Value, what: &str) -> Request {
    let id = claim["claim_id"].as_str().expect("a claim has an id");
    Request::new("POST", &format!("/v1/claims/{id}/{what}"))
}

/// A claim of one.
pub fn claim(campaign: &str, user: &str) -> Request {
    Request::post(&format!("/v1/campaigns/{campaign}/claims"), &json!({"user": user}))
}

/// A claim of some.
pub fn claim_of(campaign: &str, user: &str, quantity: i64) -> Request {
    let body = json!({"user": user, "quantity": quantity});
    Request::post(&format!("/v1/campaigns/{campaign}/claims"), &body)
}

/// A batch of claims.
pub fn batch(campaign: &str, claims: &Value) -> Request {
    Request::post(&format!("/v1/campaigns/{campaign}/claims:batch"), &json!({ "claims": claims }))
}

/// A batch of one each for `count` buyers, `prefix` and their numbers from 0.
pub fn batch_for(campaign: &str, prefix: &str, count: usize) -> Request {
    batch(campaign, &(0..count).map(|no| json!({"user": format!("{prefix}{no}")})).collect())
}

/// The outcomes of a batch that was answered.
pub fn outcomes(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["outcomes"].as_array().expect("a list").clone()
}

/// What an outcome is: `claimed`, `replayed`, or the slug of its problem.
pub fn word(outcome: &Value) -> String {
    match (&outcome["replayed"], outcome["problem"]["type"].as_str()) {
        (Value::Bool(false), None) => "claimed".to_owned(),
        (Value::Bool(true), None) => "replayed".to_owned(),
        (Value::Null, Some(kind)) => kind.rsplit(':').next().unwrap_or_default().to_owned(),
        _ => panic!("no outcome: {outcome}"),
    }
}

/// The drain has the lowest priority: where others want both cores, a hundred thousand rows may take minutes.
const DRAIN_PATIENCE: Duration = Duration::from_secs(240);

impl Server {
    /// Creates a campaign that is new.
    pub fn create(&self, campaign: &Value) -> Answer {
        let answer = self.ask_admin(&Request::post("/admin/v1/campaigns", campaign));
        assert_eq!(answer.status, 201, "{campaign}: {}", answer.text());
        answer
    }

    /// Changes a campaign.
    pub fn change(&self, id: &str, change: &Value) -> Answer {
        self.ask_admin(&Request::patch(&format!("/admin/v1/campaigns/{id}"), change))
    }

    /// Claims one that must be had, and gives the claim.
    pub fn claimed(&self, campaign: &str, user: &str) -> Value {
        let answer = self.call(&claim(campaign, user));
        assert_eq!(answer.status, 202, "{campaign} {user}: {}", answer.text());
        answer.json()
    }

    /// A campaign's balance.
    pub fn balance(&self, id: &str) -> Value {
        let answer = self.ask_admin(&Request::get(&format!("/admin/v1/campaigns/{id}/balance")));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let balance = answer.json();
        assert_eq!(balance["error"], 0, "{balance}");
        balance
    }

    /// A metric's value, by its name and labels as they stand in the exposition; none where it is not there.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = self.ask_admin(&Request::get("/metrics")).text();
        let line = text.lines().find(|l| l.strip_prefix(name).is_some_and(|r| r.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// Waits until everything that was accepted of `campaign` is in the database or the dead letters.
    pub fn drained(&self, campaign: &str) -> Value {
        self.drained_within(DRAIN_PATIENCE, campaign)
    }

    /// The same with a time.
    pub fn drained_within(&self, time: Duration, campaign: &str) -> Value {
        within(time, "everything is drained", || {
            let balance = self.balance(campaign);
            (balance["accepted"] == 0).then_some(balance)
        })
    }
}
