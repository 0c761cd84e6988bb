//! `forebay doctor`: what this machine can do with this configuration, measured without touching the data that is there,
//! and what about it is dangerous. Exit code 0 nothing, 1 something is, 2 it could not be measured.
//!
//! - It takes no lock, opens nothing of the data and makes no data folder: it runs beside a server and before the first
//!   start. What it writes stands in folders of its own on the disks that are meant, and goes with it.
//! - It loads disk and processor for as long as it measures: before a sale, not during one.

mod figures;
mod machine;
mod measure;
mod redis;
mod report;
mod scratch;
mod verdict;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::oneshot;

use self::figures::Figures;
use self::machine::ClockWatch;
use self::measure::Budget;
use self::scratch::Scratch;
use self::verdict::{Sale, Severity};
use super::{DataArgs, EXIT_FAILURE, EXIT_OK, load, print};
use crate::config::{BufferKind, Config};
use crate::engine::signals;
use crate::limits;

const HELP: &str = "\
It runs beside a server and before the first start: no lock is taken, nothing of the data is touched,
and what it writes goes again. It loads disk and processor while it measures: not during a sale.
Claims are decided and made durable in this process, by book, sequencer and journal; HTTP, which costs
a core far more, is not in that figure. With buffer.kind = \"redis\" claims are decided in Redis instead,
in a partition of its own whose keys go again (forebay:{doctor-...}:), over one connection.

Exit code 0: nothing is dangerous; 1: something is; 2: it could not be measured.";

/// `forebay doctor`
#[derive(Debug, Clone, Args)]
#[command(after_help = HELP)]
pub struct DoctorArgs {
    /// Print one JSON document, in seconds, bytes and numbers a second.
    #[arg(long)]
    pub json: bool,
    /// How long to measure, about.
    #[arg(
        long, value_name = "N", default_value_t = limits::DOCTOR_SECONDS,
        value_parser = clap::value_parser!(u64).range(1..=limits::DOCTOR_SECONDS_MAX)
    )]
    pub seconds: u64,
    /// Claims a second that are expected, to say how long buffer and memory last; otherwise those measured.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
    #[command(flatten)]
    pub data: DataArgs,
}

/// Where is measured.
struct Places {
    journal: Scratch,
    /// Of a database in a file; a server has a schema of its own for this.
    store: Option<Scratch>,
    /// The folders in which those stand.
    near: PathBuf,
    store_near: Option<PathBuf>,
}

impl Places {
    fn new(config: &Config) -> anyhow::Result<Self> {
        let near = scratch::nearest(&config.buffer.data_dir).context("buffer.data_dir")?;
        let (mut store, mut store_near) = (None, None);
        let journal = Scratch::new(&near, "journal")?;
        if let Some(file) = config.store.url.sqlite_path() {
            let folder = scratch::nearest(file.parent().unwrap_or(Path::new("."))).context("store.url")?;
            store = Some(Scratch::new(&folder, "store")?);
            store_near = Some(folder);
        }
        Ok(Self { journal, store, near, store_near })
    }

    fn remove(&self) {
        self.journal.remove();
        self.store.iter().for_each(Scratch::remove);
    }
}

/// Measures and tells.
///
/// # Errors
/// It could not be measured, or was interrupted.
pub fn run(file: Option<&Path>, args: &DoctorArgs) -> anyhow::Result<u8> {
    let config = load(file, &args.data.overrides())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let whole = Duration::from_secs(args.seconds);
    let figures = runtime.block_on(measured_or_interrupted(&config, whole))?;
    let findings = verdict::findings(&config, &figures);
    let sale = Sale::of(&config, &figures, args.rate);
    let dangerous = findings.iter().any(|finding| finding.severity == Severity::Danger);
    if args.json {
        let document = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"), "dangerous": dangerous, "figures": figures, "findings": findings,
            "sale": sale,
        });
        print(&format!("{document:#}\n"))?;
    } else {
        print(&report::text(&figures, &findings, sale.as_ref()))?;
    }
    Ok(if dangerous { EXIT_FAILURE } else { EXIT_OK })
}

/// Measures on a thread of its own, so that this one hears signals. The first ends it after the sync under way; a second
/// one, where that does not come back, at once.
async fn measured_or_interrupted(config: &Config, whole: Duration) -> anyhow::Result<Figures> {
    let interrupted = signals::first();
    tokio::pin!(interrupted);
    // Before anything is made: a signal from here on finds its handler.
    tokio::select! {
        biased;
        signal = &mut interrupted => bail!("interrupted by {}", signal?),
        () = std::future::ready(()) => {}
    }
    let places = Arc::new(Places::new(config)?);
    let stop = Arc::new(AtomicBool::new(false));
    let (done, mut result) = oneshot::channel();
    let worker = {
        let (config, places) = (config.clone(), places.clone());
        let budget = Budget { whole, stop: stop.clone() };
        std::thread::Builder::new().name("doctor".to_owned()).spawn(move || {
            let figures = measured(&config, &places, &budget);
            drop(places);
            // Nobody waits any more only where this process is ending.
            let _ = done.send(figures);
        })?
    };
    let signal = tokio::select! {
        figures = &mut result => {
            let _ = worker.join();
            return figures.context("the measurement ended by a panic")?;
        }
        signal = &mut interrupted => signal?,
    };
    stop.store(true, Ordering::Relaxed);
    tokio::select! {
        _ = &mut result => drop(worker.join()),
        _ = signals::first() => places.remove(),
    }
    bail!("interrupted by {signal}; nothing is left behind")
}

/// All measurements, one after the other.
fn measured(config: &Config, places: &Places, budget: &Budget) -> anyhow::Result<Figures> {
    let is_shared = config.buffer.kind == BufferKind::Redis;
    let bar = ProgressBar::new(5);
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("measuring {wide_bar} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    let mut clock = ClockWatch::new();
    let mut next = |what: &'static str| {
        bar.inc(u64::from(!bar.message().is_empty()));
        bar.set_message(what);
        clock.look();
    };
    let (near, store_near) = (&places.near, places.store_near.as_deref());
    next("the machine");
    let machine = machine::look(config, near, store_near)?;
    let disks = [("buffer.data_dir", Some(&machine.file_system)), ("store.url", machine.store_file_system.as_ref())];
    for (key, disk) in disks.into_iter().filter_map(|(key, disk)| Some((key, disk?))) {
        ensure!(
            disk.free_bytes >= limits::DOCTOR_FREE_MIN,
            "the disk of {key} has {} free, and measuring takes up to {}: make room first",
            report::bytes(disk.free_bytes as f64),
            report::bytes(limits::DOCTOR_FREE_MIN as f64)
        );
    }
    // Memory before all else: what others allocate and free would count as reused room.
    next("memory");
    let winners = if is_shared { None } else { Some(measure::winners(budget)?) };
    let journal = places.journal.path();
    next("syncs");
    let sync = measure::syncs(journal, budget).with_context(|| format!("syncs in {}", near.display()))?;
    next("claims");
    let (claims, waiting) =
        measure::claims(journal, budget).with_context(|| format!("a journal in {}", near.display()))?;
    next("rows");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let batch = config.workers.batch_max;
    let rows = match &places.store {
        Some(folder) => runtime.block_on(measure::rows(folder.path(), batch, waiting, budget)),
        None => runtime.block_on(measure::rows_of_server(config, batch, waiting, budget)),
    };
    let rows = rows.with_context(|| format!("a database beside {}", machine.store))?;
    let redis = if is_shared {
        next("Redis");
        Some(redis::redis(config, budget).context("redis.url")?)
    } else {
        None
    };
    bar.finish_and_clear();
    Ok(Figures { machine, sync, claims, rows, winners, redis, clock: clock.finish() })
}
