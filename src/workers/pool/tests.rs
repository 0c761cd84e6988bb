//! The thread: that it drains, gives way, waits out an outage, and ends.

use super::*;
use crate::queue::codec::{self, FrameContext};
use crate::sale::red_packet::Seed;
use crate::sale::{Asked, CampaignNo, CampaignSpec, Created, Durability, Event, Timestamp};
use crate::store::Row;
use crate::workers::batch;
use crate::workers::fake::{self, FakeStore, Fault, Inside};

fn created(no: u32) -> Event {
    let Row::Campaign(row) = &batch::canary()[0] else { panic!("a campaign comes first") };
    let spec = CampaignSpec::parse(row.detail.as_bytes()).unwrap();
    Event::Created(Box::new(Created { no: CampaignNo(no), spec, seed: Seed([0; 16]), asked: Asked::default() }))
}

/// A campaign's creation and `claims` claims on it: 1 + `claims` entries, published at once. All in one batch: nobody
/// publishes the campaign's name otherwise.
fn publish(published: &Published, claims: u64) {
    let mut body = Vec::new();
    codec::encode(&mut body, &created(0));
    (2..claims + 2).for_each(|seq| codec::encode_claim(&mut body, &fake::claim(seq, 0)));
    publish_body(published, &body, claims as u32 + 1);
}

fn publish_body(published: &Published, body: &[u8], count: u32) {
    let context = FrameContext { first_seq: Seq(1), at: Timestamp(1_000_000), durability: Durability::Disk };
    published.pending.publish(body, count, &context, &[]);
}

struct Running {
    store: Arc<FakeStore>,
    published: Arc<Published>,
    handle: DrainHandle,
}

impl Running {
    /// Stops it, and sees that the thread has let go of everything; gives what is left.
    fn stop(self, deadline: Duration) -> u64 {
        let left = self.handle.stop(deadline);
        assert_eq!(Arc::strong_count(&self.store), 1, "the thread has ended");
        left
    }
}

struct Deaf;

impl Refresh for Deaf {
    fn on_persisted(&self, _: &[Row]) {}
}

fn run(set: impl FnOnce(&mut Inside), prepare: impl AsyncFn() -> Result<(), StoreError> + Send + 'static) -> Running {
    let (store, published) = (FakeStore::with(set), fake::published());
    let settings = DrainSettings { journal: 7, batch_max: 1_000, recovered: Seq(0) };
    let handle =
        DrainHandle::spawn_prepared(store.clone(), published.clone(), Arc::new(Deaf), settings, prepare).unwrap();
    Running { store, published, handle }
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
    let running = run(|_| {}, ready);
    publish(&running.published, 500);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut retired = running.handle.retired();
    runtime.block_on(retired.wait_for(|&seq| seq == Seq(501))).unwrap();
    assert_eq!(running.store.inside().claims.len(), 500);
    assert!(!running.handle.fenced().load(Ordering::SeqCst));
    assert_eq!(running.stop(LONG), 0);
    assert!(runtime.block_on(retired.changed()).is_err(), "whoever waits is told that nothing more will come");
}

#[test]
fn a_stop_drains_what_waits_and_ends() {
    for entries in [0, 1, 3_500] {
        let running = run(|_| {}, ready);
        let mut body = Vec::new();
        (0..entries).for_each(|no| codec::encode(&mut body, &created(no)));
        publish_body(&running.published, &body, entries);
        let store = running.store.clone();
        assert_eq!(running.handle.stop(LONG), 0);
        assert_eq!((store.inside().cursor, Arc::strong_count(&store)), (Seq(entries.into()), 2));
    }
}

#[test]
fn a_stop_in_an_outage_ends_at_its_deadline_and_says_what_is_left() {
    let running = run(|inside| inside.writes = vec![Fault::Outage; 100_000].into(), ready);
    publish(&running.published, 10);
    let fenced = running.handle.fenced();
    wait_for(|| running.published.metrics.drain_retries.get() > 2);
    assert!(!fenced.load(Ordering::SeqCst), "an outage is waited out");
    let published = running.published.clone();
    assert_eq!(running.stop(Duration::from_millis(100)), 11);
    assert_eq!(published.pending.retired(), Seq(0));
}

#[test]
fn dropping_it_ends_the_thread() {
    let running = run(|_| {}, ready);
    let fenced = running.handle.fenced();
    drop(running.handle);
    assert_eq!(Arc::strong_count(&running.store), 1);
    assert!(fenced.load(Ordering::SeqCst));
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
    assert_eq!(running.stop(LONG), 0);
}

#[test]
fn a_fenced_drain_says_so_keeps_the_entries_and_still_ends() {
    let running = run(|inside| inside.writes = [Fault::Fenced].into(), ready);
    publish(&running.published, 10);
    let fenced = running.handle.fenced();
    wait_for(|| fenced.load(Ordering::SeqCst));
    wait_for(|| running.published.fenced.load(Ordering::SeqCst));
    assert_eq!(running.stop(LONG), 11);
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
    assert_eq!(running.stop(LONG), 0);
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
    assert_eq!(running.stop(LONG), 0);
    let lowered = (before + limits::DRAIN_NICE).min(19);
    assert_eq!((*seen.lock().unwrap(), nice()), (Some((lowered, lowered)), before));
}

#[test]
fn entries_that_come_together_are_written_together() {
    let running = run(|_| {}, ready);
    publish(&running.published, 999);
    wait_for(|| running.published.pending.retired() == Seq(1_000));
    assert_eq!(running.store.inside().attempts.len(), 1);
    assert_eq!(running.stop(LONG), 0);
}
