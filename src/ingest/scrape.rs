//! `GET /metrics`: the OpenMetrics text format, which Prometheus reads.
//!
//! - Every number is read where it is kept when a scraper asks; nothing is computed in between. `docs/metrics.md` has them
//!   all, and `monitoring/check` holds it to this.
//! - No buyer is in a label, so the number of series follows from the campaigns alone; a campaign that is long over has
//!   few of them ([`limits::SHOWN_AFTER_END_MICROS`]).
//! - A number that this process does not know is left out: a 0 would be taken for one.

mod out;
mod process;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::registry::{Registry, Unit};

use self::out::Out;
use super::connection::CUTS;
use super::reply::{self, Reply, SLUGS, STATUSES};
use super::{App, WorkerNow, ops};
use crate::limits;
use crate::metrics::LOGGED;
use crate::queue::{CampaignView, ClaimOutcome};
use crate::sale::{CampaignState, Timestamp};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const NANOS_PER_SECOND: f64 = 1e9;
const MICROS_PER_SECOND: f64 = 1e6;

/// `GET /metrics`
pub fn metrics(app: &Arc<App>) -> Reply {
    let mut ours = Registry::with_prefix("forebay");
    ours.register_collector(Box::new(Scrape(app.clone())));
    // What every process has goes by the names that every exporter gives it.
    let mut of_process = Registry::default();
    of_process.register_collector(Box::new(process::Process));
    let mut out = String::with_capacity(32 * 1024);
    // Writing into a String does not fail.
    let _ = text::encode_registry(&mut out, &ours);
    let _ = text::encode_registry(&mut out, &of_process);
    let _ = text::encode_eof(&mut out);
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
        let worker = self.0.worker.as_ref().map(|worker| worker());
        self.write_readiness(&mut out, worker.as_ref())?;
        self.write_claims(&mut out)?;
        self.write_campaigns(&mut out)?;
        self.write_buffer(&mut out, worker.as_ref())?;
        self.write_journal(&mut out)?;
        self.write_drain(&mut out, worker.as_ref())?;
        self.write_shared(&mut out)?;
        self.write_front(&mut out)?;
        self.write_bounds(&mut out)?;
        self.write_node(&mut out)
    }
}

fn flag(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

fn seconds(at: Timestamp) -> f64 {
    at.0 as f64 / MICROS_PER_SECOND
}

impl Scrape {
    fn write_readiness(&self, out: &mut Out<'_>, worker: Option<&WorkerNow>) -> fmt::Result {
        let app = &*self.0;
        let found = ops::readiness(app).reasons;
        out.gauge(
            "ready",
            "1 where /readyz says so: claims are taken, or a worker works or would at once",
            flag(found.is_empty()),
        )?;
        let reasons = ops::REASONS.iter().map(|reason| ([("reason", *reason)], flag(found.contains(reason))));
        out.gauges("not_ready", "1 for each reason for which /readyz says 503, 0 for the others", reasons)?;
        let is_fenced = match worker.filter(|_| !app.takes_claims) {
            // No front end of its own: what could be fenced is the worker.
            Some(worker) => worker.phase == "stuck",
            None => app.buffer.is_fenced(),
        };
        out.gauge(
            "fenced",
            "1 while nothing can be made durable: everything that would have to be is answered 503",
            flag(is_fenced),
        )
    }

    fn write_claims(&self, out: &mut Out<'_>) -> fmt::Result {
        let buffer = &self.0.buffer;
        let campaigns = buffer.campaigns();
        let views = || campaigns.all().iter();
        let counts = views().flat_map(|view| {
            let labels = move |outcome| [("campaign", view.id.as_str()), ("outcome", outcome)];
            ClaimOutcome::ALL.iter().zip(view.counts()).map(move |((_, outcome), n)| (labels(outcome), n))
        });
        out.counters("claims", "Claims by how they came out, refusals on the spot included", counts)?;
        let free = views().filter_map(|view| Some(([("campaign", view.id.as_str())], view.shown_free()?.0 as f64)));
        out.gauges("stock_free", "Units that nobody holds; none for check-ins", free)?;
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

    /// What is told of campaigns that are not long over.
    fn write_campaigns(&self, out: &mut Out<'_>) -> fmt::Result {
        let (buffer, now) = (&self.0.buffer, self.0.clock.now());
        let campaigns = buffer.campaigns();
        let shown: Vec<(&CampaignView, CampaignState, Timestamp)> = campaigns
            .all()
            .iter()
            .map(|view| (&**view, view.state(now), view.spec.load().closes_at))
            .filter(|(_, _, closes_at)| now.0 < closes_at.0.saturating_add(limits::SHOWN_AFTER_END_MICROS))
            .collect();
        let states = shown.iter().map(|(view, state, _)| {
            ([("campaign", view.id.as_str()), ("kind", view.kind.as_str()), ("state", state.as_str())], 1.0)
        });
        out.gauges("campaign_state", "1 for the state that the campaign is in now, by this node's clock", states)?;
        let opens = shown.iter().map(|(view, ..)| ([("campaign", view.id.as_str())], seconds(view.opens_at())));
        out.gauges("campaign_opens_timestamp_seconds", "When its window begins, in seconds since 1970", opens)?;
        let closes = shown.iter().map(|(view, _, at)| ([("campaign", view.id.as_str())], seconds(*at)));
        out.gauges("campaign_closes_timestamp_seconds", "When its window ends, in seconds since 1970", closes)?;
        let balances: Vec<_> =
            shown.iter().filter_map(|(view, ..)| Some((*view, buffer.known_balance(view.no)?))).collect();
        let stock = balances.iter().filter(|(view, _)| view.shown_free().is_some());
        let stock = stock.map(|(view, balance)| ([("campaign", view.id.as_str())], balance.stock as f64));
        out.gauges("stock_units", "Units there are, free or not; none for check-ins", stock)?;
        let units = balances.iter().flat_map(|(view, balance)| {
            let places = [
                ("accepted", balance.accepted),
                ("persisted", balance.persisted),
                ("settled", balance.settled),
                ("dead", balance.dead),
                ("returned", balance.returned),
            ];
            let labels = move |place| [("campaign", view.id.as_str()), ("place", place)];
            places.map(|(place, units)| (labels(place), units as f64))
        });
        out.gauges(
            "units",
            "Units by where they are: accepted (in the buffer), persisted (in rows), settled (paid), dead (in dead letters); \
             returned counts all that ever came back",
            units,
        )
    }

    fn write_buffer(&self, out: &mut Out<'_>, worker: Option<&WorkerNow>) -> fmt::Result {
        let app = &*self.0;
        let (metrics, pending) = (app.buffer.metrics(), app.buffer.pending());
        let time = Some(&Unit::Seconds);
        out.histogram("ack", "From a submission to its outcome, in seconds", time, &metrics.ack, NANOS_PER_SECOND)?;
        if app.takes_claims {
            let (under_way, deciding) = app.buffer.under_way();
            out.gauge("commands_waiting", "Commands that wait for a decision", (under_way - deciding) as f64)?;
            out.gauge("commands_deciding", "Commands whose decision is being made and kept", deciding as f64)?;
            let overloaded = f64::from(u8::from(app.buffer.is_overloaded()));
            out.gauge("overloaded", "1 while claims are refused because more come than are decided", overloaded)?;
        }
        let known = match worker.filter(|_| !app.takes_claims) {
            Some(worker) => worker.is_active.then_some((worker.waiting, worker.retired.0)),
            None => Some((app.buffer.entries(), app.buffer.retired().0)),
        };
        if let Some((waiting, retired)) = known {
            out.gauge("journal_last_seq", "Position of the last entry", (retired + waiting) as f64)?;
            out.gauge("journal_retired_seq", "Position of the last entry that is in the database", retired as f64)?;
            out.gauge("buffer_entries", "Entries that wait for the database", waiting as f64)?;
        }
        out.gauge(
            "buffer_entries_max",
            "Entries that may wait (buffer.max_entries); beyond it claims are answered 503 buffer-full",
            app.buffer.max_entries() as f64,
        )?;
        let full = [
            ([("cause", "entries")], flag(known.is_some_and(|(waiting, _)| waiting >= app.buffer.max_entries()))),
            ([("cause", "room")], flag(app.buffer.is_out_of_room())),
        ];
        out.gauges(
            "buffer_full",
            "1 while claims are answered 503 buffer-full: too many entries wait, or no room on the journal's disk or in Redis",
            full.into_iter(),
        )?;
        let is_shared = app.buffer.gate().is_some();
        if !is_shared {
            out.gauge("buffer_memory_bytes", "Memory of the entries that wait, in bytes", pending.bytes() as f64)?;
        }
        // A gate knows how many wait in Redis, and not since when; nor does a worker that stands by.
        let oldest = worker.map_or_else(|| pending.oldest(), |worker| worker.oldest);
        if worker.map_or(!is_shared, |worker| worker.is_active) {
            let age = oldest.map_or(0, |oldest| (app.clock.now().0 - oldest.0).max(0));
            let help = "Age of the oldest entry that waits for the database, in seconds; 0 where none does";
            out.gauge("buffer_oldest_age_seconds", help, age as f64 / MICROS_PER_SECOND)?;
        }
        Ok(())
    }

    fn write_journal(&self, out: &mut Out<'_>) -> fmt::Result {
        let (app, metrics) = (&*self.0, self.0.buffer.metrics());
        let time = Some(&Unit::Seconds);
        out.histogram("commit_batch_entries", "Entries of one journal write", None, &metrics.commit_entries, 1.0)?;
        let help = "One write and sync of the journal, in seconds";
        out.histogram("journal_sync", help, time, &metrics.journal_sync, NANOS_PER_SECOND)?;
        let help = "Size of the journal's segments on disk, in bytes";
        out.gauge("journal_bytes", help, metrics.journal_disk_bytes.get() as f64)?;
        out.counter("journal_written_bytes", "Bytes written to the journal", metrics.journal_bytes.get())?;
        // Of a local file system this is answered from memory. One that is not there, or does not say, is left out.
        let disks: Vec<_> = app
            .disks
            .iter()
            .filter_map(|(name, folder)| Some(([("disk", *name)], rustix::fs::statvfs(folder).ok()?)))
            .collect();
        let free = disks.iter().map(|(labels, disk)| (*labels, (disk.f_bavail * disk.f_frsize) as f64));
        out.gauges(
            "disk_free_bytes",
            "Bytes that this process may still write to the disk of its data or database",
            free,
        )?;
        let size = disks.iter().map(|(labels, disk)| (*labels, (disk.f_blocks * disk.f_frsize) as f64));
        out.gauges("disk_size_bytes", "Size of that disk, in bytes", size)?;
        let help = "How far the clock is behind the journal's time, in seconds";
        out.gauge("clock_behind_seconds", help, metrics.clock_behind.get() as f64)?;
        let help = "How far the clock has leapt, in seconds; while it is not 0 nothing expires";
        out.gauge("clock_leapt_seconds", help, metrics.clock_leapt.get() as f64)
    }

    fn write_drain(&self, out: &mut Out<'_>, worker: Option<&WorkerNow>) -> fmt::Result {
        let metrics = self.0.buffer.metrics();
        if let Some(worker) = worker {
            let help = "1 where this process brings entries into the database";
            out.gauge("worker_active", help, flag(worker.is_active))?;
            let help = "1 for what the worker is doing";
            out.gauges("worker_phase", help, [([("phase", worker.phase)], 1.0)].into_iter())?;
        }
        let time = Some(&Unit::Seconds);
        out.counter("drain_rows", "Claim rows that were new to the database", metrics.drain_rows.get())?;
        out.histogram(
            "drain_batch",
            "One batch's transaction, in seconds",
            time,
            &metrics.drain_batch,
            NANOS_PER_SECOND,
        )?;
        out.counter("drain_retries", "Batches that were tried again", metrics.drain_retries.get())?;
        out.gauge(
            "dead_letters",
            "Rows in the dead letters: the database refused them",
            metrics.dead_letters.get() as f64,
        )
    }

    /// What a gate knows of the Redis that it shares with others.
    fn write_shared(&self, out: &mut Out<'_>) -> fmt::Result {
        let (app, metrics) = (&*self.0, self.0.buffer.metrics());
        let Some(gate) = app.buffer.gate().filter(|_| app.takes_claims) else { return Ok(()) };
        let help = "Epoch under which Redis is open to this gate, 0 while it is not; each opening has a higher one";
        out.gauge("redis_epoch", help, gate.epoch().unwrap_or(0) as f64)?;
        let help = "Bytes that Redis uses, as of the last look";
        out.gauge("redis_memory_bytes", help, metrics.redis_used.get() as f64)?;
        let help = "Bytes that Redis may use (maxmemory), 0 where it may use all there are";
        out.gauge("redis_memory_max_bytes", help, metrics.redis_max.get() as f64)?;
        let help = "Positions up to the last entry of this gate's own journal that are not known to be in the database";
        out.gauge("gate_kept_entries", help, metrics.kept_entries.get() as f64)
    }

    fn write_front(&self, out: &mut Out<'_>) -> fmt::Result {
        let metrics = self.0.buffer.metrics();
        let refusals = SLUGS.iter().zip(&metrics.refusals).map(|(slug, n)| ([("reason", *slug)], n.get()));
        out.counters(
            "refusals",
            "Requests, and claims of batches, that did not get what they asked for, by problem type",
            refusals,
        )?;
        let listeners = ["public", "admin"].into_iter().enumerate();
        let answers = listeners.flat_map(|(no, listener)| {
            STATUSES.iter().enumerate().map(move |(place, status)| {
                ([("listener", listener), ("status", *status)], metrics.answers.sum(no * STATUSES.len() + place))
            })
        });
        out.counters("answers", "Answers by listener and HTTP status", answers)?;
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
        out.counter(
            "connections_opened",
            "Connections of the public listener that were let in",
            metrics.connections_opened.get(),
        )?;
        let turned_away = [("full", 0), ("address", 1)]
            .map(|(reason, at)| ([("reason", reason)], metrics.connections_refused[at].get()));
        out.counters(
            "connections_refused",
            "Connections that were turned away as they came, by why",
            turned_away.into_iter(),
        )?;
        let cuts = CUTS.iter().zip(&metrics.connections_cut).map(|(cause, n)| ([("cause", *cause)], n.get()));
        out.counters(
            "connections_cut",
            "Connections of the public listener that were ended for being too slow, by what at",
            cuts,
        )?;
        out.counter(
            "accept_pauses",
            "How often a listener had to wait: no descriptor or memory for another connection",
            metrics.accept_pauses.get(),
        )?;
        if self.0.buffer.gate().is_none() {
            let help = "How often a listener's thread rested, to leave its core to a drain that is far behind";
            out.counter("ingest_rests", help, metrics.ingest_rests.get())?;
        }
        Ok(())
    }

    /// What has a bound, beside it.
    fn write_bounds(&self, out: &mut Out<'_>) -> fmt::Result {
        let app = &*self.0;
        let open = app.buffer.metrics().connections.get() as f64;
        out.gauge("connections", "Open connections of the public listener", open)?;
        let help = "The most of them; beyond it a connection is answered 503 overloaded and closed";
        out.gauge("connections_max", help, app.connections_max as f64)?;
        out.gauge("status_waiters", "Status reads that wait for a change", app.waiters.load(Ordering::Relaxed) as f64)?;
        let help = "The most of them; beyond it a read is answered at once";
        out.gauge("status_waiters_max", help, limits::WAITERS_MAX as f64)?;
        out.gauge("claim_batches", "Batches of claims under way", app.batches.load(Ordering::Relaxed) as f64)?;
        let help = "The most of them; beyond it a batch is answered 503 overloaded";
        out.gauge("claim_batches_max", help, limits::BATCHES_MAX as f64)?;
        out.gauge("limiter_keys", "Users and addresses with a rate", app.antiscalper.keys() as f64)?;
        let help = "The most of them; beyond it the ones that took least are forgotten";
        out.gauge("limiter_keys_max", help, app.antiscalper.capacity() as f64)?;
        out.counter("limiter_evictions", "Rates given up to make room for others", app.antiscalper.evictions())
    }

    fn write_node(&self, out: &mut Out<'_>) -> fmt::Result {
        let app = &*self.0;
        let lines = [("error", &LOGGED.errors), ("warn", &LOGGED.warnings)];
        let lines = lines.map(|(level, n)| ([("level", level)], n.get()));
        out.counters("log_lines", "Lines of the log at the levels that want reading", lines.into_iter())?;
        let role = match (app.buffer.gate().is_some(), app.takes_claims, app.worker.is_some()) {
            (false, ..) => "embedded",
            (true, true, false) => "gate",
            (true, true, true) => "all",
            (true, false, _) => "worker",
        };
        let buffer = if app.buffer.gate().is_some() { "redis" } else { "journal" };
        out.info(
            "node",
            "What this process does, and what it promises",
            &[("role", role), ("buffer", buffer), ("durability", app.durability.as_str())],
        )?;
        out.info("build", "What is running", &[("version", env!("CARGO_PKG_VERSION"))])
    }
}
