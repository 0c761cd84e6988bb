//! What gates keep of rows that workers write: in each process, and in Redis for all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use forebay::cache::LocalCache;
use forebay::cache::shared::news::NewsThread;
use forebay::cache::shared::{SharedCache, SharedCacheThread};
use forebay::limits;
use forebay::metrics::Metrics;
use forebay::queue::redis::client::Server;
use forebay::queue::redis::gate::Gate;
use forebay::queue::redis::wishes::{self, Wish};
use forebay::queue::{Pending, Published};
use forebay::sale::{ClaimId, Seq, Timestamp, UserId};
use forebay::store::{Database, Mode, Store, StoreError, StoredCart, StoredClaim};
use redis::{Value, cmd};

use crate::shop::{KEY, Shop, wait_for};

/// So long that only what was heard outdates anything.
const LONG: Duration = Duration::from_secs(600);

/// The caches of a gate, and what it knows of the partition.
struct Reader {
    local: Arc<LocalCache>,
    metrics: Arc<Metrics>,
    gate: Arc<Gate>,
    /// What its last look into Redis has said to be in the database.
    known: Arc<AtomicU64>,
    store: Arc<Database>,
    reads: AtomicU64,
    shared: Option<SharedCacheThread>,
    news: Option<NewsThread>,
}

impl Reader {
    /// One that keeps what it has read for `lifetime`, and for `in_redis` there; `hears` what workers tell.
    fn new(shop: &Shop, url: &str, (lifetime, in_redis): (Duration, Duration), hears: bool) -> Self {
        let server = Server::new(url, "0", Duration::from_secs(1)).expect("a URL");
        let published = Arc::new(Published::new(Pending::new(Seq(0))));
        let metrics = published.metrics.clone();
        let gate = Gate::new(1, server.clone(), published);
        gate.saw_memory(1, 0);
        gate.open(1);
        let known = Arc::new(AtomicU64::new(0));
        let (shared, thread) = SharedCache::spawn(server.clone(), gate.clone(), in_redis, ()).expect("a thread");
        let retired = known.clone();
        let retired = move || Seq(retired.load(Ordering::SeqCst));
        let local = Arc::new(LocalCache::beside(lifetime, metrics.clone(), retired, Some(shared)));
        let timeout = Duration::from_secs(1);
        let spawn = || NewsThread::spawn(url, &server, timeout, local.clone(), ()).expect("a thread");
        let news = hears.then(spawn);
        let store = shop.store(Mode::ReadOnly);
        Self { local, metrics, gate, known, store, reads: AtomicU64::new(0), shared: Some(thread), news }
    }

    fn of(shop: &Shop) -> Self {
        Self::new(shop, &shop.url(), (LONG, LONG), true)
    }

    /// Without a cache of its own: what it reads lives for a moment.
    fn forgetful(shop: &Shop) -> Self {
        Self::new(shop, &shop.url(), (Duration::from_micros(1), LONG), false)
    }

    fn run<T>(read: impl Future<Output = Result<T, StoreError>>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(read).expect("an answer")
    }

    fn claim(&self, id: ClaimId) -> Option<StoredClaim> {
        Self::run(self.local.claim(id, || {
            self.reads.fetch_add(1, Ordering::SeqCst);
            self.store.claim(id)
        }))
    }

    fn cart(&self, user: &str) -> Arc<StoredCart> {
        let user = UserId::parse(user).expect("a name");
        Self::run(self.local.cart(user, KEY.user(&user), async || {
            self.reads.fetch_add(1, Ordering::SeqCst);
            self.store.cart(&user).await.map(Arc::new)
        }))
    }

    /// It has looked into Redis, where nothing waits any more.
    fn looks(&self, shop: &Shop) {
        self.known.fetch_max(shop.status().retired.0, Ordering::SeqCst);
    }

    fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    fn found_in_redis(&self) -> u64 {
        self.metrics.cache_redis.hits.get()
    }

    /// Reads claims that nobody else reads until Redis is asked.
    fn wait_until_asked(&self, from: u64) {
        let mut next = from;
        wait_for("Redis to be asked", || {
            let before = self.metrics.cache_redis.away.get();
            self.claim(id(next));
            next += 1;
            self.metrics.cache_redis.away.get() == before
        });
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.news.take().into_iter().for_each(NewsThread::stop);
        self.shared.take().into_iter().for_each(SharedCacheThread::stop);
    }
}

/// The id of the buyer's claim, as the shop's buyers make it.
fn id(n: u64) -> ClaimId {
    let user = UserId::parse(&format!("u{n}")).expect("a name");
    ClaimId::new(Timestamp(1_763_640_000_000_000), KEY.user(&user), n)
}

/// Whether Redis keeps something of that claim, and for how many milliseconds; -2 for nothing.
fn kept(shop: &Shop, n: u64) -> i64 {
    let mut connection = shop.server.connect().expect("Redis");
    let key = connection.key(&format!("cache:c:{}", id(n)));
    match connection.command(cmd("PTTL").arg(key)) {
        Ok(Value::Int(millis)) => millis,
        other => panic!("{other:?}"),
    }
}

fn wait_until_kept(shop: &Shop, n: u64) {
    wait_for("the cache in Redis to have it", || kept(shop, n) > 0);
}

#[test]
fn what_one_gate_has_read_the_others_find_in_redis() {
    let shop = Shop::new();
    let worker = shop.worker();
    let mut buyer = shop.buyer();
    buyer.create("");
    buyer.claim(0..10).expect("claimed");
    shop.wait_rows(10);
    shop.wait_retired();
    let (one, other) = (Reader::of(&shop), Reader::of(&shop));
    one.looks(&shop);
    other.looks(&shop);
    one.wait_until_asked(1_000);
    other.wait_until_asked(2_000);
    let reads = other.reads();
    for n in 0..20 {
        let mine = one.claim(id(n));
        assert_eq!(mine.is_some(), n < 10);
        wait_until_kept(&shop, n);
        assert_eq!(other.claim(id(n)), mine, "its absence, too");
        assert_eq!(other.claim(id(n)), mine, "from its own memory");
    }
    assert_eq!((other.reads(), other.found_in_redis()), (reads, 20));
    assert!(kept(&shop, 3) <= LONG.as_millis() as i64);
    // Nobody else writes now.
    drop(worker);
    let before = shop.written_down();
    for n in 20..40 {
        one.claim(id(n));
        wait_until_kept(&shop, n);
    }
    assert_eq!(shop.written_down(), before, "what is kept is not written down");
}

#[test]
fn while_redis_is_away_the_database_answers_and_the_cache_is_made_anew() {
    let mut shop = Shop::new();
    let worker = shop.worker();
    let mut buyer = shop.buyer();
    buyer.create("");
    buyer.claim(0..30).expect("claimed");
    shop.wait_rows(30);
    shop.wait_retired();
    let (one, other) = (Reader::forgetful(&shop), Reader::forgetful(&shop));
    one.looks(&shop);
    other.looks(&shop);
    one.wait_until_asked(1_000);
    one.claim(id(1));
    wait_until_kept(&shop, 1);
    drop(worker);
    shop.end_redis();
    for n in 0..20 {
        assert!(one.claim(id(n)).is_some(), "the database answers");
    }
    assert!(one.metrics.cache_redis.away.get() >= 19, "it is left alone");
    shop.start_redis();
    assert_eq!(kept(&shop, 1), -2, "nothing was written down");
    one.wait_until_asked(3_000);
    other.wait_until_asked(4_000);
    assert!(one.claim(id(1)).is_some());
    wait_until_kept(&shop, 1);
    let (reads, found) = (other.reads(), other.found_in_redis());
    assert!(other.claim(id(1)).is_some());
    assert_eq!((other.reads(), other.found_in_redis()), (reads, found + 1), "it was read for all");
}

#[test]
fn a_redis_that_stands_still_costs_a_read_a_moment_and_the_next_ones_nothing() {
    let shop = Shop::new();
    let one = Reader::forgetful(&shop);
    let worker = shop.worker();
    shop.buyer();
    one.wait_until_asked(1_000);
    shop.signal(rustix::process::Signal::STOP);
    let began = std::time::Instant::now();
    for n in 0..50 {
        assert_eq!(one.claim(id(n)), None);
    }
    let took = began.elapsed();
    shop.signal(rustix::process::Signal::CONT);
    // Twice what one waits for Redis, and what fifty reads of the database take where nothing is quick.
    assert!(took < Duration::from_millis(2 * limits::CACHE_REDIS_MILLIS) + Duration::from_secs(2), "{took:?}");
    assert!(one.metrics.cache_redis.away.get() >= 49);
    one.wait_until_asked(3_000);
    drop(worker);
}

#[test]
fn nothing_older_than_what_is_retired_is_served_whether_messages_arrive_or_not() {
    let shop = Shop::new();
    let worker = shop.worker();
    let mut buyer = shop.buyer();
    buyer.create("");
    // The last one hears nothing: it goes by positions alone.
    let gates = [Reader::of(&shop), Reader::of(&shop), Reader::new(&shop, &shop.url(), (LONG, LONG), false)];
    gates.iter().for_each(|gate| gate.wait_until_asked(1_000));
    let mut connection = shop.server.connect().expect("Redis");
    for round in 1..=60_u64 {
        // Absent, and kept as that by all.
        gates.iter().for_each(|gate| assert_eq!(gate.claim(id(round)), None));
        buyer.claim([round]).expect("claimed");
        buyer.put("ann", "s", round as u32);
        if round % 5 == 0 {
            connection.command(cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub")).expect("connections are closed");
        }
        shop.wait_retired();
        for gate in &gates {
            gate.looks(&shop);
            assert!(gate.claim(id(round)).is_some(), "round {round}: a claim that was told to be there");
            assert_eq!(gate.cart("ann").lines[0].1, round as u32, "round {round}");
        }
    }
    // Where everything is heard, only what was touched is read again.
    let mut others = 0;
    let mut other_claims = |gate: &Reader| {
        others += 1;
        buyer.claim_as(&format!("other{others}")).expect("claimed");
        shop.wait_retired();
        gate.looks(&shop);
    };
    wait_for("everything to be heard", || {
        other_claims(&gates[0]);
        let (known, heard) = gates[0].local.told();
        known == heard
    });
    let cart = gates[0].cart("ann");
    let reads = gates[0].reads();
    for _ in 0..10 {
        other_claims(&gates[0]);
        wait_for("that to be heard", || gates[0].local.told().1 >= gates[0].local.told().0);
        assert_eq!(gates[0].cart("ann"), cart);
    }
    assert_eq!(gates[0].reads(), reads, "others' claims outdate nothing of hers");
    drop(worker);
}

#[test]
fn a_dead_letter_that_was_written_again_is_seen_by_all_gates() {
    let shop = Shop::new();
    let worker = shop.worker();
    let mut buyer = shop.buyer();
    wait_for("the tables", || shop.number("SELECT count(*) FROM forebay_meta") == 1);
    shop.sql(
        "CREATE TRIGGER poison BEFORE INSERT ON cart_items WHEN NEW.sku = 'poison' \
         BEGIN SELECT RAISE(ABORT, 'CHECK constraint failed: poison'); END",
    );
    buyer.put("ann", "poison", 2);
    wait_for("the letter", || shop.number("SELECT count(*) FROM dead_letters") == 1);
    shop.wait_retired();
    let gates = [Reader::of(&shop), Reader::of(&shop)];
    for gate in &gates {
        gate.looks(&shop);
        gate.wait_until_asked(1_000);
        assert!(gate.cart("ann").lines.is_empty(), "and kept so, here and in Redis");
    }
    shop.sql("DROP TRIGGER poison");
    let wish = Wish::Requeue { cart: UserId::parse("ann").ok() };
    let mut asking = shop.server.connect().expect("Redis");
    wishes::ask(&mut asking, 1, &wish).expect("an answer");
    for gate in &gates {
        wait_for("the line", || gate.cart("ann").lines.len() == 1);
    }
    // One that has heard nothing of it finds nothing in Redis that was put there before.
    let late = Reader::new(&shop, &shop.url(), (LONG, LONG), false);
    late.looks(&shop);
    late.wait_until_asked(2_000);
    assert_eq!(late.cart("ann").lines.len(), 1);
    drop(worker);
}

#[test]
fn a_gate_writes_no_more_than_its_share_into_redis() {
    let shop = Shop::new();
    let worker = shop.worker();
    shop.buyer();
    let gate = Reader::of(&shop);
    gate.wait_until_asked(1_000_000);
    gate.gate.saw_memory(90, 100);
    gate.claim(id(1));
    gate.gate.saw_memory(1, 0);
    gate.claim(id(2));
    wait_until_kept(&shop, 2);
    assert_eq!(kept(&shop, 1), -2, "Redis had too little room");
    gate.gate.close(forebay::queue::redis::gate::Closed::Opening("a test".to_owned()));
    let away = gate.metrics.cache_redis.away.get();
    gate.claim(id(3));
    assert_eq!(gate.metrics.cache_redis.away.get(), away + 1, "nothing is there of a partition that is not open");
    gate.gate.open(2);
    let found = gate.found_in_redis();
    Reader::of(&shop).wait_until_asked(2_000_000);
    gate.local.forget();
    gate.claim(id(2));
    assert_eq!(gate.found_in_redis(), found, "it was of another epoch");
    drop(worker);
}

#[test]
fn a_redis_user_may_do_what_caches_need_and_one_who_may_not_tell_still_retires() {
    let shop = Shop::new();
    let document = std::fs::read_to_string("docs/operations.md").expect("the document");
    let line = document.lines().find(|line| line.starts_with("ACL SETUSER forebay ")).expect("the user of Redis'");
    let mut connection = shop.server.connect().expect("Redis");
    let mut set = |line: &str| {
        let mut words = line.split(' ');
        let mut command = cmd(words.next().expect("a word"));
        words.for_each(|word| _ = command.arg(word));
        connection.command(&command).expect("a user");
    };
    set(line);
    set(&line.replace("forebay on", "mute on").replace(" &forebay:*", ""));
    let url = |user: &str| format!("{}?user={user}&pass=choose-one", shop.url().replace("unix:", "redis+unix:"));
    for user in ["forebay", "mute"] {
        let server = Server::new(&url(user), "0", Duration::from_secs(1)).expect("a URL");
        let worker = shop.worker_at(server);
        let mut buyer = shop.buyer();
        if user == "forebay" {
            buyer.create("");
        }
        let gate = Reader::new(&shop, &url(user), (LONG, LONG), true);
        gate.wait_until_asked(1_000);
        for round in 0..5 {
            let n = round + if user == "mute" { 100 } else { 0 };
            assert_eq!(gate.claim(id(n)), None);
            buyer.claim([n]).expect("claimed");
            shop.wait_retired();
            gate.looks(&shop);
            assert!(gate.claim(id(n)).is_some(), "{user} {round}");
        }
        let (retired, heard) = gate.local.told();
        if user == "forebay" {
            wait_for("everything to be heard", || gate.local.told().1 == retired);
        } else {
            assert!(heard < retired, "nobody may tell");
        }
        assert_eq!(worker.stop(Duration::from_secs(10)), 0);
    }
}
