//! What operators and their machines ask: is it alive, is it ready, what is it. What it counts is `scrape`'s.
//!
//! Nothing here has state: everything is read where it is kept when somebody asks.

use std::sync::atomic::Ordering;

use super::App;
use super::reply::{self, Reply};
use crate::queue::redis::gate::Closed;

/// `GET /livez`: the process answers.
pub fn live() -> Reply {
    reply::json(br#"{"status":"live"}"#.to_vec())
}

/// Every reason for which a process is not ready.
pub const REASONS: [&str; 8] =
    ["recovering", "draining", "not-durable", "database-fenced", "not-working", "redis-away", "opening", "stuck"];

/// Why claims are not taken, or, of a worker, not brought into the database.
#[derive(Debug, Default)]
pub struct Readiness {
    /// Those of [`REASONS`] that apply; none where it is ready.
    pub reasons: Vec<&'static str>,
    /// More about it, in words.
    pub detail: Option<String>,
}

/// Looks whether claims are taken, and why not.
pub fn readiness(app: &App) -> Readiness {
    let closed = app.buffer.gate().filter(|_| app.takes_claims).and_then(|gate| gate.why_closed());
    let of_gate = closed.map(|closed| match closed {
        Closed::Away(why) => ("redis-away", why),
        Closed::Opening(why) => ("opening", why),
        Closed::Stuck(why) => ("stuck", why),
    });
    let alone = app.worker_alone();
    let reasons = [
        (!app.ready.load(Ordering::Acquire), "recovering"),
        (app.is_draining(), "draining"),
        (app.takes_claims && app.buffer.is_fenced(), "not-durable"),
        (app.drain_fenced.load(Ordering::Acquire), "database-fenced"),
        (alone.as_ref().is_some_and(|worker| !worker.is_ready), "not-working"),
    ]
    .into_iter()
    .filter_map(|(applies, reason)| applies.then_some(reason))
    .chain(of_gate.as_ref().map(|(reason, _)| *reason))
    .collect();
    Readiness { reasons, detail: of_gate.map(|(_, why)| why).or(alone.map(|worker| worker.words)) }
}

/// `GET /readyz`: whether claims are taken; every reason why not.
pub fn ready(app: &App) -> Reply {
    let Readiness { reasons, detail } = readiness(app);
    let status = if reasons.is_empty() { "ready" } else { "not-ready" };
    let mut document = serde_json::json!({"status": status, "reasons": reasons});
    if let Some(detail) = detail {
        document["detail"] = detail.into();
    }
    let body = document.to_string().into_bytes();
    if reasons.is_empty() { reply::json(body) } else { reply::unavailable(body) }
}

/// `GET /version`
pub fn version() -> Reply {
    let body = serde_json::json!({"name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION")});
    reply::json(body.to_string().into_bytes())
}
