//! The composition root: what is started, in which order, and how it ends.
//!
//! Start: the data folder's lock, the pair of journal and database, receipt keys, recovery, sequencer, janitor, drain, front end;
//! only then is the node ready. Stop, in the opposite direction: not ready, no new connections, what was admitted is
//! finished, the sequencer ends on an empty queue, the drain goes on for the grace, and the rest stays in the journal.

mod allocator;
mod cart_owners;
pub(crate) mod folder;
pub(crate) mod memory;
mod pair;
pub mod recover;
mod remember;
mod role;
mod sample;
mod service;
mod shared;
pub(crate) mod signals;
mod start;
mod watch;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::antiscalper::Antiscalper;
use crate::antiscalper::address::TrustedProxies;
use crate::antiscalper::guests::Guests;
use crate::cache::local::LocalCache;
use crate::clock::SystemClock;
use crate::config::{BufferKind, Config};
use crate::ingest::auth::{Authenticator, TokenDigest};
use crate::ingest::cors::Cors;
use crate::ingest::server::Servers;
use crate::ingest::{App, Door};
use crate::limits;
use crate::queue::janitor::JanitorThread;
use crate::queue::journal::Report;
use crate::queue::journal::disk::RealDisk;
use crate::queue::sequencer::{Sequencer, Settings};
use crate::queue::{Buffer, BufferSettings, HashKey, run};
use crate::sale::Durability;
use crate::store::Store;
use crate::workers::pool::{DrainHandle, DrainSettings};
use remember::{Remember, RememberThread};
pub use role::Role;
use service::Service;
pub use shared::server as shared_server;
use start::Started;
use watch::Watch;

/// How a run of the engine differs from what the configuration says.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunOptions {
    /// Make the sample campaigns where they are missing, and print a line that claims from one.
    pub sample: bool,
    /// What this process does of a buffer in Redis; embedded it does all.
    pub role: Role,
}

/// Runs the engine until a signal ends it.
///
/// # Errors
/// Why it could not start, or what ended it.
pub fn run(config: &Config, options: RunOptions) -> anyhow::Result<()> {
    allocator::settle();
    if config.buffer.kind == BufferKind::Redis {
        return shared::run(config, options);
    }
    anyhow::ensure!(
        options.role == Role::All,
        "--role: only a buffer in Redis (buffer.kind) has gates and workers apart"
    );
    embedded(config, options)
}

/// One process with a journal of its own.
fn embedded(config: &Config, options: RunOptions) -> anyhow::Result<()> {
    memory::raise_open_files();
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default())?;
    let memory_max = memory::budget();
    let service = Service::begin();
    let Started { folder, receipts, store, gate, pair, identity, live, published } =
        start::begin(config, &control, memory_max, &service)?;
    let report = live.journal.report;
    let owners = control.block_on(store.cart_owners(None, 0)).map_or(0, |(_, count)| count);
    cart_owners::begin(&published, owners);
    let sequencer = Sequencer::new(live.book, live.journal.writer, published.clone(), sequencer_settings(config));
    let key = HashKey(identity.hash_key);
    let watch = Watch::new();
    let guard = watch.guard("janitor");
    let keep = config.buffer.keep_journal;
    let janitor = JanitorThread::spawn(live.journal.janitor, published.clone(), key, memory_max, keep, guard)?;
    let threads = threads(config);
    let buffer = Buffer::new(buffer_settings(config, key), published.clone());
    let sequencer = run::spawn(&buffer, sequencer, SystemClock, watch.guard("sequencer"))?;
    let cache = Arc::new(LocalCache::new(config.cache.local_ttl, buffer.metrics().clone()));
    let remember = Arc::new(Remember::new(cache.clone(), pair.floor().max(published.pending.retired())));
    let (data_dir, saved) = (config.buffer.data_dir.clone(), pair.remembered());
    let remembering = RememberThread::spawn(data_dir, identity.journal, remember.clone(), saved)?;
    let drain = {
        let gate = gate.clone();
        let prepare = async move || gate.open(&pair).await;
        let (journal, batch_max, recovered) = (identity.journal, config.workers.batch_max, report.last_seq);
        let settings = DrainSettings { journal, batch_max, recovered };
        DrainHandle::spawn_prepared(store.clone(), published.clone(), remember, settings, prepare)?
    };
    let app = Arc::new(App {
        buffer: buffer.clone(),
        store: store.clone(),
        cache,
        receipts,
        antiscalper: antiscalper(config),
        proxies: TrustedProxies::new(config.ingest.trusted_proxies.clone()),
        by_address: config.antiscalper.address_rate != crate::antiscalper::rates::Rate::Off,
        guests: guests(config),
        connections_max: memory::connections_max(),
        auth: Authenticator::new(config.ingest.auth, &config.service_keys),
        cors: Cors::new(&config.ingest.cors_origins),
        admin_token: token(config),
        clock: Box::new(SystemClock),
        durability: config.buffer.durability,
        retired: drain.retired(),
        ready: AtomicBool::new(false),
        draining: AtomicBool::new(false),
        drain_fenced: drain.fenced(),
        worker: None,
        takes_claims: true,
        waiters: AtomicUsize::new(0),
        batches: AtomicUsize::new(0),
        disks: disks(config),
    });
    let servers = Servers::spawn(&app, Some(&config.ingest.listen), &config.ingest.admin_listen, threads as u16)?;
    let ended = control.block_on(async {
        let (recovered, retired) = (report.last_seq, drain.retired());
        tokio::task::spawn_local(cart_owners::enter_all(published, store.clone(), key, retired, recovered));
        serve(&app, &servers, config, options, &report, (&watch, &service)).await
    });
    app.draining.store(true, Ordering::SeqCst);
    let parts = Parts { servers, buffer, sequencer, drain, remembering, janitor, watch };
    let ended = parts.stop(config.shutdown.grace, ended);
    control.block_on(store.close());
    // The locks of both sides, to the last.
    drop((gate, folder));
    ended
}

/// What runs, to be ended in order.
struct Parts {
    servers: Servers,
    buffer: Buffer,
    sequencer: JoinHandle<Sequencer<RealDisk>>,
    drain: DrainHandle,
    remembering: RememberThread,
    janitor: JanitorThread,
    watch: Watch,
}

impl Parts {
    /// Ends all threads, whatever became of them. Gives what ended the node, or else the first of them that failed while
    /// it was ended: a stop on which something broke is no success.
    fn stop(self, grace: Duration, ended: anyhow::Result<()>) -> anyhow::Result<()> {
        let grace = match &ended {
            Ok(()) => grace,
            Err(error) => {
                tracing::error!(error = %format!("{error:#}"), "the node can't go on");
                grace.min(Duration::from_millis(limits::FATAL_GRACE_MILLIS))
            }
        };
        tracing::info!("stopping: what was admitted is finished first");
        let served = self.servers.stop(grace);
        self.buffer.stop();
        let sequencer = self.sequencer.join();
        let left = self.drain.stop(grace);
        self.remembering.stop();
        self.janitor.stop();
        drop(sequencer);
        let ended = ended.and_then(|()| Ok(served?)).and_then(|()| Ok(self.watch.first().map_or(Ok(()), Err)?));
        match (&ended, left) {
            (Ok(()), 0) => tracing::info!("stopped; everything is in the database"),
            (Ok(()), left) => {
                tracing::warn!(left, "stopped; entries that are not in the database yet stay in the journal")
            }
            (Err(error), left) => tracing::error!(error = %format!("{error:#}"), left, "ended by a failure"),
        }
        ended
    }
}

/// Ready from here on, until a signal, a fatal error of a listener or a panic.
async fn serve(
    app: &Arc<App>,
    servers: &Servers,
    config: &Config,
    options: RunOptions,
    report: &Report,
    (watch, service): (&Watch, &Service),
) -> anyhow::Result<()> {
    // The last front: the ones before are the listeners' threads'.
    let front = app.buffer.front(threads(config) as u16 + 1);
    tokio::task::spawn_local(front.clone().run());
    let door: Rc<Door> = Door::new(app.clone(), front);
    if options.sample {
        sample::create(&door).await?;
    }
    app.ready.store(true, Ordering::SeqCst);
    banner(config, &app.store.name(), servers, report);
    if options.sample
        && let Some(public) = servers.public()
    {
        println!("{}", sample::line(public));
    }
    let _turning = turning(app);
    service.serving(app);
    let ended = tokio::select! {
        signal = signals::first() => {
            tracing::info!(signal = signal?, "asked to stop");
            Ok(())
        }
        fatal = servers.fatal() => Err(fatal.into()),
        panicked = watch.panicked(&app.retired) => Err(panicked.into()),
    };
    signals::second_ends_at_once();
    service.stopping(app, config.shutdown.grace);
    ended
}

/// Has this thread, which hears signals and fatal news, count while it drives its tasks; until what is given back is dropped.
fn turning(app: &App) -> crate::pulse::Entered {
    tokio::task::spawn_local(async {
        loop {
            crate::pulse::beat();
            tokio::time::sleep(Duration::from_millis(limits::PULSE_TICK_MILLIS)).await;
        }
    });
    app.buffer.metrics().pulses.enter("control", Duration::from_millis(limits::PULSE_MILLIS))
}

fn sequencer_settings(config: &Config) -> Settings {
    Settings {
        durability: config.buffer.durability,
        max_entries: config.buffer.max_entries as u64,
        settle_grace: config.campaigns.settle_grace.as_micros() as i64,
        release_after: config.campaigns.release_after.as_micros() as i64,
    }
}

fn buffer_settings(config: &Config, hash_key: HashKey) -> BufferSettings {
    BufferSettings {
        // The public threads', the admin thread's, and the engine's own.
        fronts: threads(config) as u16 + 2,
        ack_deadline: config.ingest.ack_deadline,
        max_entries: config.buffer.max_entries as u64,
        hash_key,
    }
}

fn antiscalper(config: &Config) -> Antiscalper {
    let limits = &config.antiscalper;
    Antiscalper::new(limits.user_rate, limits.address_rate, limits.max_keys)
}

fn guests(config: &Config) -> Option<Arc<Guests>> {
    let most = std::num::NonZeroU32::new(config.ingest.connections_per_address)?;
    Some(Guests::new(most, TrustedProxies::new(config.ingest.trusted_proxies.clone())))
}

fn token(config: &Config) -> Option<TokenDigest> {
    let token = &config.ingest.admin_token;
    (!token.is_empty()).then(|| TokenDigest::new(token.expose()))
}

/// Where this process writes: its own folder, and the database where that is a file.
fn disks(config: &Config) -> Vec<(&'static str, PathBuf)> {
    let of_file = |path: &Path| {
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
    };
    let database = config.store.url.sqlite_path().map(|path| ("database", of_file(path)));
    [("data", config.buffer.data_dir.clone())].into_iter().chain(database).collect()
}

fn threads(config: &Config) -> usize {
    match config.ingest.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}

fn banner(config: &Config, store: &str, servers: &Servers, report: &Report) {
    let durable = match config.buffer.durability {
        Durability::Disk => "synced to disk before it is acknowledged",
        Durability::Memory => "NOT synced: an acknowledged claim may be lost in a power cut",
    };
    println!("forebay {} is ready", env!("CARGO_PKG_VERSION"));
    if let Some(public) = servers.public() {
        println!("  claims    http://{public}");
    }
    println!("  admin     {}", servers.admin());
    println!("  journal   {} ({durable})", config.buffer.data_dir.join("journal").display());
    println!("  database  {store} (each batch one synced transaction)");
    println!("  recovered {} entries, the last is {}", report.entries, report.last_seq);
}
