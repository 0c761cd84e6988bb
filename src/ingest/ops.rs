//! What operators and their machines ask: is it alive, is it ready, what does it count, what is it.
//!
//! Nothing here has state: every number is read where it is kept when a scraper asks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use super::App;
use super::reply::{self, Reply, SLUGS};
use crate::metrics::Histogram;
use crate::queue::ClaimOutcome;
use crate::queue::redis::gate::Closed;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const NANOS_PER_SECOND: f64 = 1e9;
const MICROS_PER_SECOND: f64 = 1e6;

/// `GET /livez`: the process answers.
pub fn live() -> Reply {
    reply::json(br#"{"status":"live"}"#.to_vec())
}

/// `GET /readyz`: whether claims are taken; every reason why not.
pub fn ready(app: &App) -> Reply {
    let closed = app.buffer.gate().filter(|_| app.takes_claims).and_then(|gate| gate.why_closed());
    let of_gate = closed.as_ref().map(|closed| match closed {
        Closed::Away(why) => ("redis-away", why),
        Closed::Opening(why) => ("opening", why),
        Closed::Stuck(why) => ("stuck", why),
    });
    let alone = app.worker_alone();
    let reasons: Vec<&str> = [
        (!app.ready.load(Ordering::Acquire), "recovering"),
        (app.is_draining(), "draining"),
        (app.takes_claims && app.buffer.is_fenced(), "not-durable"),
        (app.drain_fenced.load(Ordering::Acquire), "database-fenced"),
        (alone.as_ref().is_some_and(|worker| !worker.is_ready), "not-working"),
    ]
    .into_iter()
    .filter_map(|(applies, reason)| applies.then_some(reason))
    .chain(of_gate.map(|(reason, _)| reason))
    .collect();
    let status = if reasons.is_empty() { "ready" } else { "not-ready" };
    let mut document = serde_json::json!({"status": status, "reasons": reasons});
    if let Some(detail) = of_gate.map(|(_, why)| why.clone()).or(alone.map(|worker| worker.words)) {
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

/// `GET /metrics`: the OpenMetrics text format, which Prometheus reads.
pub fn metrics(app: &Arc<App>) -> Reply {
    let mut registry = Registry::with_prefix("forebay");
    registry.register_collector(Box::new(Scrape(app.clone())));
    let mut out = String::with_capacity(16 * 1024);
    // Writing into a String does not fail.
    let _ = prometheus_client::encoding::text::encode(&mut out, &registry);
    reply::text_body(OPEN_METRICS, out)
}

struct Scrape(Arc<App>);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Out(encoder);
        self.write_claims(&mut out)?;
        self.write_buffer(&mut out)?;
        self.write_drain(&mut out)?;
        self.write_front(&mut out)
    }
}

impl Scrape {
    fn write_claims(&self, out: &mut Out<'_>) -> fmt::Result {
        let buffer = &self.0.buffer;
        let campaigns = buffer.campaigns();
        let views = || campaigns.all().iter();
        let counts = views().flat_map(|view| {
            let labels = move |outcome| [("campaign", view.id.as_str()), ("outcome", outcome)];
            ClaimOutcome::ALL.iter().zip(view.counts()).map(move |((_, outcome), n)| (labels(outcome), n))
        });
        out.counters("claims", "Claims by how they came out", counts)?;
        let free = views().filter_map(|view| Some(([("campaign", view.id.as_str())], view.shown_free()?.0 as f64)));
        out.gauges("stock_free", "Units that nobody holds", free)?;
        let error = views().filter_map(|view| {
            let balance = buffer.known_balance(view.no)?;
            let error = if balance.error() != 0 { balance.error() } else { balance.money_error() };
            Some(([("campaign", view.id.as_str())], error as f64))
        });
        out.gauges(
            "conservation_error",
            "Units (or where they agree, minor units) that are not accounted for; anything but 0 is an alarm",
            error,
        )
    }

    fn write_buffer(&self, out: &mut Out<'_>) -> fmt::Result {
        let app = &*self.0;
        let (metrics, pending) = (app.buffer.metrics(), app.buffer.pending());
        let age = pending.oldest().map_or(0, |oldest| (app.clock.now().0 - oldest.0).max(0));
        let seconds = Some(&Unit::Seconds);
        out.histogram("ack", "From a submission to its outcome", seconds, &metrics.ack, NANOS_PER_SECOND)?;
        out.histogram("commit_batch_entries", "Entries of one journal write", None, &metrics.commit_entries, 1.0)?;
        out.histogram("journal_sync", "One sync of the journal", seconds, &metrics.journal_sync, NANOS_PER_SECOND)?;
        out.gauge("journal_bytes", "Size of the journal's segments on disk", metrics.journal_disk_bytes.get() as f64)?;
        out.counter("journal_written_bytes", "Bytes written to the journal", metrics.journal_bytes.get())?;
        let worker = app.worker_alone();
        let waiting = worker.as_ref().map_or_else(|| app.buffer.entries(), |worker| worker.waiting);
        let last = worker.map_or_else(|| app.buffer.retired(), |worker| worker.retired).0 + waiting;
        out.gauge("journal_last_seq", "Position of the last entry", last as f64)?;
        let (under_way, deciding) = app.buffer.under_way();
        out.gauge("commands_waiting", "Commands that wait for a decision", (under_way - deciding) as f64)?;
        out.gauge("commands_deciding", "Commands whose decision is being made and kept", deciding as f64)?;
        let overloaded = f64::from(u8::from(app.buffer.is_overloaded()));
        out.gauge("overloaded", "1 while claims are refused because more come than are decided", overloaded)?;
        out.gauge("buffer_entries", "Entries that wait for the database", waiting as f64)?;
        out.gauge("buffer_memory_bytes", "Memory of the entries that wait", pending.bytes() as f64)?;
        out.gauge("buffer_oldest_age_seconds", "Age of the oldest entry that waits", age as f64 / MICROS_PER_SECOND)?;
        let behind = metrics.clock_behind.get() as f64;
        out.gauge("clock_behind_seconds", "How far the clock is behind the journal's time", behind)?;
        let leapt = metrics.clock_leapt.get() as f64;
        out.gauge("clock_leapt_seconds", "How far the clock has leapt; until then nothing expires", leapt)?;
        out.gauge("fenced", "1 while nothing can be made durable", f64::from(u8::from(app.buffer.is_fenced())))
    }

    fn write_drain(&self, out: &mut Out<'_>) -> fmt::Result {
        let metrics = self.0.buffer.metrics();
        if let Some(worker) = &self.0.worker {
            let is_active = worker().is_active;
            out.gauge(
                "worker_active",
                "1 where this process brings entries into the database",
                f64::from(u8::from(is_active)),
            )?;
        }
        let seconds = Some(&Unit::Seconds);
        out.counter("drain_rows", "Claim rows that were new to the database", metrics.drain_rows.get())?;
        out.histogram("drain_batch", "One batch's transaction", seconds, &metrics.drain_batch, NANOS_PER_SECOND)?;
        out.counter("drain_retries", "Batches that were tried again", metrics.drain_retries.get())?;
        out.gauge("dead_letters", "Rows in the dead letters", metrics.dead_letters.get() as f64)
    }

    fn write_front(&self, out: &mut Out<'_>) -> fmt::Result {
        let app = &*self.0;
        let metrics = app.buffer.metrics();
        let refusals = SLUGS.iter().zip(&metrics.refusals).map(|(slug, n)| ([("reason", *slug)], n.get()));
        out.counters(
            "refusals",
            "Requests, and claims of batches, that did not get what they asked for, by problem type",
            refusals,
        )?;
        let (redis, database) = (&metrics.cache_redis, &metrics.cache_database);
        let cache = [
            ("local", "hit", &metrics.cache_hits),
            ("local", "miss", &metrics.cache_misses),
            ("redis", "hit", &redis.hits),
            ("redis", "miss", &redis.misses),
            ("redis", "away", &redis.away),
            ("database", "hit", &database.hits),
            ("database", "error", &database.misses),
        ];
        let cache = cache.into_iter().map(|(level, result, n)| ([("level", level), ("result", result)], n.get()));
        out.counters("cache_requests", "Look-ups in the caches of reads, and in the database behind them", cache)?;
        out.gauge("connections", "Open connections of the public listener", metrics.connections.get() as f64)?;
        out.gauge("status_waiters", "Status reads that wait for a change", app.waiters.load(Ordering::Relaxed) as f64)?;
        out.gauge("claim_batches", "Batches of claims under way", app.batches.load(Ordering::Relaxed) as f64)?;
        out.gauge("limiter_keys", "Users and addresses with a rate", app.antiscalper.keys() as f64)?;
        out.counter("limiter_evictions", "Rates given up to make room for others", app.antiscalper.evictions())?;
        let mut info = out.0.encode_descriptor("build", "What is running", None, MetricType::Info)?;
        info.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }
}

/// The encoder, a line a metric.
struct Out<'a>(DescriptorEncoder<'a>);

const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, u64>> = None;

impl Out<'_> {
    fn describe<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, None, kind)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.describe(name, help, MetricType::Counter)?.encode_counter(&value, NO_EXEMPLAR)
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.describe(name, help, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        all: impl Iterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.describe(name, help, MetricType::Counter)?;
        for (labels, value) in all {
            family.encode_family(&labels)?.encode_counter(&value, NO_EXEMPLAR)?;
        }
        Ok(())
    }

    fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        all: impl Iterator<Item = (L, f64)>,
    ) -> fmt::Result {
        let mut family = self.describe(name, help, MetricType::Gauge)?;
        for (labels, value) in all {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// `per_unit`: how many of what the histogram counts make one of what is shown.
    fn histogram(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        histogram: &Histogram,
        per_unit: f64,
    ) -> fmt::Result {
        let (buckets, sum) = histogram.read();
        let count = buckets.iter().map(|(_, n)| n).sum();
        let bound = |b| if b == u64::MAX { f64::INFINITY } else { b as f64 / per_unit };
        let buckets: Vec<(f64, u64)> = buckets.into_iter().map(|(b, n)| (bound(b), n)).collect();
        let mut encoder = self.0.encode_descriptor(name, help, unit, MetricType::Histogram)?;
        encoder.encode_histogram::<NoLabelSet>(sum as f64 / per_unit, count, &buckets, None)
    }
}
