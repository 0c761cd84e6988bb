//! The composition root of shared mode: gates that take claims into Redis, workers that bring them into the database, or
//! both in one process. They meet nowhere but in Redis and in the database, and start in any order.

mod caches;
pub(super) mod recover;
pub(super) mod secrets;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::LocalRuntime;

use super::role::Role;
use super::service::Service;
use super::watch::Watch;
use super::{RunOptions, antiscalper, folder, guests, memory, sample, signals, threads, token, turning};
use crate::config::{BufferKind, Config};
use crate::ingest::auth::Authenticator;
use crate::ingest::cors::Cors;
use crate::ingest::server::Servers;
use crate::ingest::{App, Door, WorkerNow};
use crate::limits;
use crate::queue::journal::Identity;
use crate::queue::pending::Pending;
use crate::queue::redis::client::{CallError, Server};
use crate::queue::redis::facts::Facts;
use crate::queue::redis::gate::{Gate, GateClock};
use crate::queue::redis::holders::HoldersThread;
use crate::queue::redis::kept::{House, Kept};
use crate::queue::redis::lane::Lanes;
use crate::queue::redis::poll::Feed;
use crate::queue::redis::poller::{Poller, PollerThread, Sweeping};
use crate::queue::{Buffer, BufferSettings, HashKey, Published};
use crate::receipts::{KeyRing, sharing};
use crate::sale::Seq;
use crate::store::{Database, Mode, SharedSecrets};
use crate::workers::shared::{Phase, SharedWorker, WorkerHandle, WorkerSettings, WorkerState};
use caches::Caches;
use secrets::Membership;

/// The partition in use. Others come with Redis Cluster, whose slots the name's hash tag chooses.
const PARTITION: &str = "0";

/// Runs a gate, a worker or both until a signal ends them.
///
/// # Errors
/// Why it could not start, or what ended it.
pub(super) fn run(config: &Config, options: RunOptions) -> anyhow::Result<()> {
    memory::raise_open_files();
    let role = options.role;
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default())?;
    let folder = folder::open_shared(&config.buffer.data_dir)?;
    let server = server(config)?.ok_or_else(|| anyhow::anyhow!("buffer.kind is not \"redis\""))?;
    let service = Service::begin();
    let facts = reach(&server, config, &service)?;
    let mode = if role.is_worker() { Mode::ReadWrite } else { Mode::ReadOnly };
    let store = Arc::new(Database::of(&config.store, mode)?);
    let watch = Watch::new();
    let published = Arc::new(Published::new(Pending::new(Seq(0))));
    let worker = match role.is_worker() {
        true => Some(begin_work(config, &server, &store, &published, &watch)?),
        false => None,
    };
    let (member, receipts) = belong(config, &control, &store, &service)?;
    let gate = Gate::new(member.gate, server.clone(), published.clone());
    let key = HashKey(member.hash_key);
    let buffer = Buffer::shared(buffer_settings(config, key), published.clone(), gate.clone());
    let threads = if role.is_gate() { threads(config) } else { 0 };
    let caches = Caches::begin(config, &server, &gate, role, &watch)?;
    let mut running = None;
    if role.is_gate() {
        running = Some(Running::begin(config, &server, &gate, &member, &buffer, &watch)?);
    }
    let parts = (&buffer, &gate, &caches);
    let app = Arc::new(app(config, parts, &store, receipts, worker.as_ref(), role.is_gate()));
    let public = role.is_gate().then_some(&config.ingest.listen);
    let servers = Servers::spawn(&app, public, &config.ingest.admin_listen, threads as u16)?;
    let ended = control.block_on(serve(&app, &servers, config, options, &facts, (&watch, &service)));
    app.draining.store(true, Ordering::SeqCst);
    let ended = stop(config, servers, buffer, running, worker, &watch, ended);
    caches.stop();
    control.block_on(store.close());
    drop(folder);
    ended
}

/// The Redis that the configuration names; none where the buffer is a journal. Not touched yet.
///
/// # Errors
/// A URL that can't be used.
pub fn server(config: &Config) -> anyhow::Result<Option<Server>> {
    if config.buffer.kind != BufferKind::Redis {
        return Ok(None);
    }
    let server = Server::new(config.redis.url.expose(), PARTITION, config.redis.timeout);
    server.map(Some).map_err(|why| anyhow::anyhow!("redis.url: {why}"))
}

/// Waits until Redis can be asked, and refuses one that forgets.
fn reach(server: &Server, config: &Config, service: &Service) -> anyhow::Result<Facts> {
    let mut told = None;
    loop {
        match server.connect().and_then(|mut connection| Facts::read(&mut connection)) {
            Ok(facts) => {
                let refused = facts.refused(&config.redis.accept);
                if !refused.is_empty() {
                    let each = refused.iter().map(|weak| match &weak.name {
                        Some(name) => format!("{}; accepted with redis.accept = [\"{name}\"]", weak.what),
                        None => weak.what.clone(),
                    });
                    anyhow::bail!("redis.url: {} would forget: {}", server.name(), each.collect::<Vec<_>>().join(". "));
                }
                for weak in facts.weak() {
                    tracing::warn!("Redis is set up to forget, which is accepted: {}", weak.what);
                }
                return Ok(facts);
            }
            Err(CallError::Unready(why))
                if why.contains("NOPERM") || why.contains("WRONGPASS") || why.contains("NOAUTH") =>
            {
                anyhow::bail!("redis.url: {} does not let this user ask: {why}", server.name())
            }
            Err(error) => {
                if told.as_ref() != Some(&error) {
                    tracing::warn!(redis = server.name(), %error, "waiting for Redis");
                    told = Some(error);
                }
                service.step(|| format!("waiting for Redis at {}", server.name()));
                std::thread::sleep(Duration::from_millis(limits::REACH_MILLIS));
            }
        }
    }
}

/// Starts what brings entries into the database. It waits for whatever it needs by itself.
fn begin_work(
    config: &Config,
    server: &Server,
    store: &Arc<Database>,
    published: &Arc<Published>,
    watch: &Watch,
) -> anyhow::Result<WorkerHandle> {
    // If no worker was there before, these are everybody's from now on.
    let fresh = SharedSecrets {
        identity: secrets::random()?,
        hash_key: secrets::random()?.to_be_bytes(),
        receipt_keys: sharing::fresh()?,
    };
    let settings = WorkerSettings {
        batch_max: config.workers.batch_max,
        lease: config.redis.lease,
        durability: config.buffer.durability,
        secrets: fresh,
        metrics: published.metrics.clone(),
    };
    Ok(SharedWorker::spawn(server.clone(), store.clone(), settings, watch.guard("worker"))?)
}

/// Who this process is among the others, and the keys that all sign with: from its folder, or else from the database, which
/// a worker makes ready.
fn belong(
    config: &Config,
    control: &LocalRuntime,
    store: &Database,
    service: &Service,
) -> anyhow::Result<(Membership, KeyRing)> {
    let data_dir = &config.buffer.data_dir;
    let known = secrets::load(data_dir)?;
    let mut told = false;
    loop {
        let found = control.block_on(store.secrets());
        match (found, known) {
            (Ok(Some(found)), known) => {
                if let Some(known) = known.filter(|known| known.identity != found.identity) {
                    anyhow::bail!(
                        "store.url: the database is {:032x}'s, and {} belongs to {:032x}: one of the two is another \
                         deployment's",
                        found.identity,
                        data_dir.display(),
                        known.identity
                    );
                }
                let gate = known.map_or_else(secrets::random, |known| Ok(known.gate))?;
                let member = Membership { gate, identity: found.identity, hash_key: found.hash_key };
                let receipts = sharing::adopt(data_dir, &found.receipt_keys)?;
                secrets::save(data_dir, &member)?;
                return Ok((member, receipts));
            }
            (_, Some(known)) => return Ok((known, KeyRing::open(data_dir)?)),
            (found, None) => {
                if !std::mem::replace(&mut told, true) {
                    let why =
                        found.err().map_or("no worker has made it ready yet".to_owned(), |error| error.to_string());
                    tracing::warn!(database = store.name(), why, "waiting for the database, once: it tells who we are");
                }
                service.step(|| format!("waiting for the database {}", store.name()));
                std::thread::sleep(Duration::from_millis(limits::REACH_MILLIS));
            }
        }
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

fn app(
    config: &Config,
    (buffer, gate, caches): (&Buffer, &Arc<Gate>, &Caches),
    store: &Arc<Database>,
    receipts: KeyRing,
    worker: Option<&WorkerHandle>,
    takes_claims: bool,
) -> App {
    App {
        buffer: buffer.clone(),
        store: store.clone(),
        cache: caches.local(),
        receipts,
        antiscalper: antiscalper(config),
        proxies: crate::antiscalper::address::TrustedProxies::new(config.ingest.trusted_proxies.clone()),
        by_address: config.antiscalper.address_rate != crate::antiscalper::rates::Rate::Off,
        guests: guests(config),
        connections_max: memory::connections_max(),
        auth: Authenticator::new(config.ingest.auth, &config.service_keys),
        cors: Cors::new(&config.ingest.cors_origins),
        admin_token: token(config),
        clock: Box::new(GateClock(gate.clone())),
        durability: config.buffer.durability,
        retired: gate.watch_retired(),
        ready: AtomicBool::new(false),
        draining: AtomicBool::new(false),
        drain_fenced: Arc::new(AtomicBool::new(false)),
        worker: worker.map(|worker| told_by(worker.state())),
        takes_claims,
        waiters: AtomicUsize::new(0),
        batches: AtomicUsize::new(0),
        disks: super::disks(config),
    }
}

/// What the front end tells of a worker.
fn told_by(state: Arc<WorkerState>) -> Box<dyn Fn() -> WorkerNow + Send + Sync> {
    Box::new(move || {
        let (phase, backlog) = (state.phase(), state.backlog());
        WorkerNow {
            is_ready: state.is_ready(),
            is_active: matches!(phase, Phase::Active { .. }),
            words: phase.to_string(),
            phase: phase.name(),
            oldest: backlog.oldest,
            waiting: backlog.waiting,
            retired: backlog.retired,
        }
    })
}

/// What runs in a gate besides its listeners.
struct Running {
    lanes: Vec<JoinHandle<()>>,
    poller: PollerThread,
    holders: HoldersThread,
    kept: House,
}

impl Running {
    fn begin(
        config: &Config,
        server: &Server,
        gate: &Arc<Gate>,
        member: &Membership,
        buffer: &Buffer,
        watch: &Watch,
    ) -> anyhow::Result<Self> {
        let identity = Identity { journal: member.gate, hash_key: member.hash_key };
        let folder = config.buffer.data_dir.join(folder::GATE);
        if !folder.is_dir() {
            folder::make(&folder)?;
        }
        let (kept, kept_thread) = Kept::open(&folder, identity, config.buffer.durability)?;
        let feed = Arc::new(Feed::new(gate.published().clone()));
        let poller = Poller {
            server: server.clone(),
            gate: gate.clone(),
            kept: kept.clone(),
            feed: feed.clone(),
            identity: member.identity,
            sweeping: Sweeping {
                settle_grace: config.campaigns.settle_grace.as_micros() as i64,
                release_after: config.campaigns.release_after.as_micros() as i64,
            },
        };
        let poller = PollerThread::spawn(poller, watch.guard("gate"))?;
        let key = HashKey(member.hash_key);
        let holders = HoldersThread::spawn(server.clone(), gate.clone(), key, watch.guard("holders"))?;
        let lanes = Lanes {
            server: server.clone(),
            gate: gate.clone(),
            kept,
            feed,
            durability: config.buffer.durability,
            max_entries: config.buffer.max_entries as u64,
        };
        let count = if config.redis.lanes == 0 { limits::LANES } else { config.redis.lanes };
        let lanes = lanes.spawn(buffer, count, || watch.guard("lane"))?;
        Ok(Self { lanes, poller, holders, kept: kept_thread })
    }
}

/// Ends everything in order: nobody asks any more, what was admitted is decided, what waits goes on into the database.
fn stop(
    config: &Config,
    servers: Servers,
    buffer: Buffer,
    running: Option<Running>,
    mut worker: Option<WorkerHandle>,
    watch: &Watch,
    ended: anyhow::Result<()>,
) -> anyhow::Result<()> {
    let grace = match &ended {
        Ok(()) => config.shutdown.grace,
        Err(_) => config.shutdown.grace.min(Duration::from_millis(limits::FATAL_GRACE_MILLIS)),
    };
    tracing::info!("stopping: what was admitted is finished first");
    let served = servers.stop(grace);
    buffer.stop();
    let mut left = 0;
    if let Some(running) = running {
        for lane in running.lanes {
            // A panic is its guard's news.
            let _ = lane.join();
        }
        // What waits goes on into the database meanwhile, here or in another process.
        let begun = crate::clock::tick();
        left = worker.take().map_or(0, |worker| worker.stop(grace));
        if !running.poller.stop(grace.saturating_sub(begun.elapsed())) {
            tracing::warn!(
                "this gate keeps what it has acknowledged and is not known to be in the database: keep its folder"
            );
        }
        running.holders.stop();
        running.kept.stop();
    }
    left += worker.map_or(0, |worker| worker.stop(grace));
    let ended = ended.and_then(|()| Ok(served?)).and_then(|()| Ok(watch.first().map_or(Ok(()), Err)?));
    match &ended {
        Ok(()) => tracing::info!(left, "stopped; what is not in the database yet waits in Redis"),
        Err(error) => tracing::error!(error = %format!("{error:#}"), left, "ended by a failure"),
    }
    ended
}

async fn serve(
    app: &Arc<App>,
    servers: &Servers,
    config: &Config,
    options: RunOptions,
    facts: &Facts,
    (watch, service): (&Watch, &Service),
) -> anyhow::Result<()> {
    app.ready.store(true, Ordering::SeqCst);
    let mut first = std::pin::pin!(signals::first());
    if options.role.is_gate() {
        let front = app.buffer.front(threads(config) as u16 + 1);
        tokio::task::spawn_local(front.clone().run());
        let door: Rc<Door> = Door::new(app.clone(), front);
        if options.sample {
            tokio::select! {
                made = make_sample(&door) => made?,
                signal = &mut first => {
                    tracing::info!(signal = signal?, "asked to stop");
                    return Ok(());
                }
            }
        }
    }
    banner(config, app, servers, options.role, facts);
    if options.sample
        && let Some(public) = servers.public()
    {
        println!("{}", sample::line(public));
    }
    let _turning = turning(app);
    service.serving(app);
    let ended = tokio::select! {
        signal = first => {
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

/// Makes the sample campaigns as soon as the partition is open.
async fn make_sample(door: &Rc<Door>) -> anyhow::Result<()> {
    while door.app.buffer.is_fenced() {
        tokio::time::sleep(Duration::from_millis(limits::POLL_MILLIS)).await;
    }
    sample::create(door).await
}

fn banner(config: &Config, app: &App, servers: &Servers, role: Role, facts: &Facts) {
    println!("forebay {} is up as {}", env!("CARGO_PKG_VERSION"), role.as_str());
    if let Some(public) = servers.public() {
        println!("  claims    http://{public}");
        println!(
            "  gate      {} keeps what it has acknowledged in {}",
            gate_name(app),
            config.buffer.data_dir.display()
        );
    }
    println!("  admin     {}", servers.admin());
    println!(
        "  redis     version {}, appendonly {}, appendfsync {}",
        facts.version,
        yes(facts.appendonly),
        facts.appendfsync
    );
    println!("  database  {} (each batch one synced transaction)", app.store.name());
}

fn gate_name(app: &App) -> String {
    app.buffer.gate().map(|gate| gate.name()).unwrap_or_default()
}

fn yes(is_so: bool) -> &'static str {
    if is_so { "yes" } else { "no" }
}
