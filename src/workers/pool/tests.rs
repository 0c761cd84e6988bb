//! The thread: that it drains, gives way, waits out an outage, and ends.

use super::*;
use crate::queue::codec::{self, FrameContext};
use crate::sale::red_packet::Seed;
use crate::sale::{Asked, CampaignNo, CampaignSpec, Created, Durability, Event, Timestamp};
use crate::store::Row;
use crate::workers::batch;
use crate::workers::fake::{self, FakeStore, Fault, Inside};

/// A campaign's creation and `claims` claims on it: 1 + `claims` entries, published at once.
fn publish(published: &Published, claims: u64) {
    let Row::Campaign(row) = &batch::canary()[0] else { panic!("a campaign comes first") };
    let spec = CampaignSpec::parse(row.detail.as_bytes()).unwrap();
    let created = Created { no: CampaignNo(0), spec, seed: Seed([0; 32]), asked: Asked::default() };
    let mut body = Vec::new();
    codec::encode(&mut body, &Event::Created(Box::new(created)));
    (2..claims + 2).for_each(|seq| codec::encode_claim(&mut body, &fake::claim(seq, 0)));
    let context = FrameContext { first_seq: Seq(1), at: Timestamp(1_000_000), durability: Durability::Disk };
    published.pending.publish(&body, claims as u32 + 1, &context, &[]);
}

struct Running {
    store: Arc<FakeStore>,
    published: Arc<Published>,
    retired: watch::Receiver<Seq>,
    handle: DrainHandle,
}

fn run(set: impl FnOnce(&mut Inside), prepare: impl AsyncFn() -> Result<(), StoreError> + Send + 'static) -> Running {
    let (store, published) = (FakeStore::with(set), fake::published());
    let (sender, retired) = watch::channel(Seq(0));
    let parts = Parts {
        store: store.clone(),
        published: published.clone(),
        journal: 7,
        batch_max: 1_000,
        seed: 1,
        refresh: None,
        retired: sender,
        prepare,
    };
    let handle = start(parts).unwrap();
    Running { store, published, retired, handle }
}

async fn ready() -> Result<(), StoreError> {
    Ok(())
}

/// Waits for `what` for as long as it takes on the slowest machine.
fn wait_for(what: impl Fn() -> bool) {
    let start = tick();
    while !what() {
        assert!(tick().saturating_duration_since(start) < Duration::from_secs(60), "it never happened");
        std::thread::sleep(Duration::from_millis(1));
    }
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn what_is_published_becomes_rows_and_long_polls_are_told() {
    let mut running = run(|_| {}, ready);
    publish(&running.published, 500);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(running.retired.wait_for(|&seq| seq == Seq(501))).unwrap();
    assert_eq!(running.store.inside().claims.len(), 500);
    assert!(running.handle.health().works());
    let health = running.handle.health();
    assert_eq!(running.handle.stop(LONG), Stopped { left: 0, ended: true });
    assert!(!health.works());
}

#[test]
fn a_stop_drains_what_waits_and_ends() {
    for claims in [0, 1, 3_500] {
        let running = run(|_| {}, ready);
        publish(&running.published, claims);
        assert_eq!(running.handle.stop(LONG), Stopped { left: 0, ended: true });
        assert_eq!(running.store.inside().claims.len() as u64, claims);
    }
}

#[test]
fn a_stop_in_an_outage_ends_at_its_deadline_and_says_what_is_left() {
    let running = run(|inside| inside.writes = vec![Fault::Outage; 100_000].into(), ready);
    publish(&running.published, 10);
    let health = running.handle.health();
    wait_for(|| health.in_outage());
    assert!(health.works(), "an outage is waited out");
    assert_eq!(running.handle.stop(Duration::from_millis(100)), Stopped { left: 11, ended: true });
    assert_eq!(running.published.pending.retired(), Seq(0));
}

#[test]
fn dropping_it_ends_the_thread() {
    let running = run(|_| {}, ready);
    let health = running.handle.health();
    drop(running.handle);
    assert!(!health.works());
}

#[test]
fn a_database_that_comes_late_is_prepared_bound_and_drained() {
    let calls = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = calls.clone();
    let prepare = async move || match counted.fetch_add(1, Ordering::SeqCst) {
        0 => Err(StoreError::Outage("no such folder".into())),
        _ => Ok(()),
    };
    let running = run(|inside| inside.binds_to_fail = 1, prepare);
    publish(&running.published, 10);
    wait_for(|| running.published.pending.retired() == Seq(11));
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    assert!(!running.handle.health().in_outage());
    assert_eq!(running.handle.stop(LONG), Stopped { left: 0, ended: true });
}

#[test]
fn a_fenced_drain_says_so_keeps_the_entries_and_still_ends() {
    let running = run(|inside| inside.writes = [Fault::Fenced].into(), ready);
    publish(&running.published, 10);
    let health = running.handle.health();
    wait_for(|| health.is_fenced());
    assert!(!health.works());
    assert_eq!(running.handle.stop(LONG), Stopped { left: 11, ended: true });
}

#[test]
fn dead_letters_are_counted_at_the_start_and_after_new_ones() {
    let dead = |inside: &mut Inside| {
        inside.dead = [Seq(900_000)].into();
        inside.poison = [5].into();
    };
    let running = run(dead, ready);
    wait_for(|| running.published.metrics.dead_letters.get() == 1);
    publish(&running.published, 10);
    wait_for(|| running.published.metrics.dead_letters.get() == 2);
    assert_eq!(running.handle.stop(LONG), Stopped { left: 0, ended: true });
}

#[test]
fn the_drain_gives_way_and_nobody_else_does() {
    let nice = || rustix::process::getpriority_process(None).unwrap();
    let seen = Arc::new(std::sync::Mutex::new(None));
    let (before, noted) = (nice(), seen.clone());
    let prepare = async move || {
        let inherited = std::thread::spawn(move || rustix::process::getpriority_process(None).unwrap());
        *noted.lock().unwrap() = Some((nice(), inherited.join().unwrap()));
        Ok(())
    };
    let running = run(|_| {}, prepare);
    assert_eq!(running.handle.stop(LONG), Stopped { left: 0, ended: true });
    let lowered = (before + limits::DRAIN_NICE).min(19);
    assert_eq!((*seen.lock().unwrap(), nice()), (Some((lowered, lowered)), before));
}

#[test]
fn entries_that_come_together_are_written_together() {
    let running = run(|_| {}, ready);
    publish(&running.published, 999);
    wait_for(|| running.published.pending.retired() == Seq(1_000));
    assert_eq!(running.store.inside().attempts.len(), 1);
    assert_eq!(running.handle.stop(LONG), Stopped { left: 0, ended: true });
}
