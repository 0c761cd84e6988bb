//! One read however many wait, nothing kept too long, and no row hidden from who no longer finds it in the buffer.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use tokio::sync::Semaphore;

use super::*;
use crate::sale::{CampaignId, CampaignNo, Claim, ClaimStatus, Durability, Fate, Money, Moved, Timestamp, Units};
use crate::store::{ClaimRow, EndRow};

/// The one buyer.
const BUYER: UserHash = UserHash(77 << 88);

fn claim(seq: u64) -> ClaimRow {
    let claim = Claim {
        claim_id: ClaimId::new(Timestamp(1_000_000), BUYER, seq),
        campaign: CampaignNo(0),
        user: UserId::parse("u1").unwrap(),
        quantity: Units(1),
        amount: Some(Money(10)),
        hold: 0,
        receipt_key: 1,
        key: None,
        seq: Seq(seq),
        accepted_at: Timestamp(1_000_000),
        durability: Durability::Disk,
    };
    ClaimRow { claim, campaign: CampaignId::parse("sale").unwrap(), currency: None, is_check_in: false }
}

fn stored(seq: u64) -> StoredClaim {
    StoredClaim { row: claim(seq), status: ClaimStatus::Persisted, ended: None }
}

/// A database.
#[derive(Default)]
struct World {
    rows: Mutex<Vec<StoredClaim>>,
    reads: AtomicUsize,
}

impl World {
    fn find(&self, id: ClaimId) -> Option<StoredClaim> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.rows.lock().unwrap().iter().find(|c| c.row.claim.claim_id == id).cloned()
    }

    fn commit(&self, seq: u64) {
        self.rows.lock().unwrap().push(stored(seq));
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }
}

fn cache(lifetime: Duration) -> LocalCache {
    LocalCache::new(lifetime, Arc::default())
}

const LONG: Duration = Duration::from_secs(60);

fn id(seq: u64) -> ClaimId {
    claim(seq).claim.claim_id
}

#[tokio::test]
async fn a_value_is_read_once_and_counted() {
    let world = Arc::new(World::default());
    world.commit(1);
    let local = cache(LONG);
    for _ in 0..5 {
        assert_eq!(local.claim(id(1), async || Ok(world.find(id(1)))).await, Ok(Some(stored(1))));
        assert_eq!(local.claim(id(2), async || Ok(world.find(id(2)))).await, Ok(None), "absence is kept, too");
    }
    assert_eq!((world.reads(), local.metrics.cache_misses.get(), local.metrics.cache_hits.get()), (2, 2, 8));
}

#[tokio::test]
async fn no_lifetime_means_no_cache() {
    let world = Arc::new(World::default());
    let local = cache(Duration::ZERO);
    for _ in 0..3 {
        assert_eq!(local.claim(id(1), async || Ok(world.find(id(1)))).await, Ok(None));
    }
    local.on_persisted(&[Row::Claim(claim(1))]);
    assert_eq!(world.reads(), 3);
}

#[tokio::test]
async fn many_who_wait_share_one_read() {
    let (world, gate) = (Arc::new(World::default()), Semaphore::new(0));
    world.commit(1);
    let local = cache(LONG);
    let read = async || {
        gate.acquire().await.unwrap().forget();
        Ok(world.find(id(1)))
    };
    let all = async { tokio::join!(local.claim(id(1), read), local.claim(id(1), read), local.claim(id(1), read)) };
    let open = async {
        tokio::task::yield_now().await;
        gate.add_permits(1);
    };
    let (found, ()) = tokio::join!(all, open);
    assert_eq!(found, (Ok(Some(stored(1))), Ok(Some(stored(1))), Ok(Some(stored(1)))));
    assert_eq!((world.reads(), local.metrics.cache_misses.get(), local.metrics.cache_hits.get()), (1, 1, 2));
}

#[tokio::test]
async fn an_error_reaches_everyone_who_waited_and_is_not_kept() {
    let (world, gate, reads) = (Arc::new(World::default()), Semaphore::new(0), AtomicUsize::new(0));
    world.commit(1);
    let local = cache(LONG);
    let outage = StoreError::Outage("locked".into());
    let failing = async || {
        reads.fetch_add(1, Ordering::SeqCst);
        gate.acquire().await.unwrap().forget();
        Err(outage.clone())
    };
    let all = async { tokio::join!(local.claim(id(1), failing), local.claim(id(1), failing)) };
    let open = async {
        tokio::task::yield_now().await;
        gate.add_permits(1);
    };
    let (found, ()) = tokio::join!(all, open);
    assert_eq!(found, (Err(outage.clone()), Err(outage.clone())));
    assert_eq!(reads.into_inner(), 1);
    assert_eq!(local.claim(id(1), async || Ok(world.find(id(1)))).await, Ok(Some(stored(1))));
}

#[tokio::test]
async fn a_row_that_was_just_written_is_seen_although_its_absence_was_kept() {
    let world = Arc::new(World::default());
    let local = cache(LONG);
    assert_eq!(local.claim(id(1), async || Ok(world.find(id(1)))).await, Ok(None));
    let page = async || Ok(Arc::new(world.rows.lock().unwrap().clone()));
    assert!(local.page(claim(1).claim.user, BUYER, page).await.unwrap().is_empty());
    world.commit(1);
    local.on_persisted(&[Row::Claim(claim(1))]);
    assert_eq!(local.claim(id(1), async || Ok(world.find(id(1)))).await, Ok(Some(stored(1))));
    assert_eq!(*local.page(claim(1).claim.user, BUYER, page).await.unwrap(), [stored(1)]);
    let reads = world.reads();
    assert_eq!(local.claim(id(1), async || Ok(world.find(id(1)))).await, Ok(Some(stored(1))));
    assert_eq!(world.reads(), reads, "the fresh value is kept");
}

#[tokio::test]
async fn an_end_outdates_its_claim_and_its_buyers_page_although_it_names_no_buyer() {
    let world = Arc::new(World::default());
    let local = cache(LONG);
    world.commit(1);
    local.on_persisted(&[Row::Claim(claim(1))]);
    let page = async || Ok(Arc::new(world.rows.lock().unwrap().clone()));
    let status = async || {
        let one = local.claim(id(1), async || Ok(world.find(id(1)))).await.unwrap().unwrap();
        let page = local.page(claim(1).claim.user, BUYER, page).await.unwrap();
        (one.status, page[0].status)
    };
    assert_eq!(status().await, (ClaimStatus::Persisted, ClaimStatus::Persisted));
    world.rows.lock().unwrap()[0].status = ClaimStatus::Cancelled;
    assert_eq!(status().await, (ClaimStatus::Persisted, ClaimStatus::Persisted), "both are kept");
    let row = claim(1);
    let moved = Moved {
        claim_id: row.claim.claim_id,
        campaign: row.claim.campaign,
        quantity: row.claim.quantity,
        amount: row.claim.amount,
        to: Fate::Cancelled,
        by: "ann".into(),
        reason: Box::default(),
    };
    local.on_persisted(&[Row::End(EndRow { seq: Seq(2), at: Timestamp(2_000_000), campaign: row.campaign, moved })]);
    assert_eq!(status().await, (ClaimStatus::Cancelled, ClaimStatus::Cancelled));
}

/// The read begins before the commit and ends after the retirement: its outdated answer enters the cache last.
#[tokio::test]
async fn a_slow_read_that_missed_the_commit_never_hides_the_row() {
    let (world, gate) = (Arc::new(World::default()), Semaphore::new(0));
    let local = cache(LONG);
    let slow = async || {
        let seen = world.find(id(1));
        if seen.is_none() {
            gate.acquire().await.unwrap().forget();
        }
        Ok(seen)
    };
    let early = local.claim(id(1), slow);
    let late = async {
        tokio::task::yield_now().await;
        assert_eq!(world.reads(), 1);
        world.commit(1);
        local.on_persisted(&[Row::Claim(claim(1))]);
        let open = async {
            tokio::task::yield_now().await;
            gate.add_permits(1);
        };
        // Comes after the retirement, and joins the read that is under way.
        tokio::join!(local.claim(id(1), slow), open).0
    };
    let (early, late) = tokio::join!(early, late);
    assert_eq!(early, Ok(None), "whoever asked before the commit may be told so");
    assert_eq!(late, Ok(Some(stored(1))));
    assert_eq!(local.claim(id(1), slow).await, Ok(Some(stored(1))));
}

#[tokio::test]
async fn a_read_that_began_after_the_commit_is_kept() {
    let world = Arc::new(World::default());
    world.commit(1);
    let local = cache(LONG);
    local.on_persisted(&[Row::Claim(claim(1))]);
    assert_eq!(local.claim(id(1), async || Ok(world.find(id(1)))).await, Ok(Some(stored(1))));
    assert_eq!(world.reads(), 1);
}

#[tokio::test]
async fn a_value_dies_of_age() {
    let world = Arc::new(World::default());
    let local = cache(Duration::from_millis(1));
    assert_eq!(local.claim(id(1), async || Ok(world.find(id(1)))).await, Ok(None));
    std::thread::sleep(Duration::from_millis(20));
    // Written by someone else than this process: nobody has stamped it.
    world.commit(1);
    assert_eq!(local.claim(id(1), async || Ok(world.find(id(1)))).await, Ok(Some(stored(1))));
}

#[tokio::test]
async fn memory_is_bounded_by_claims_however_many_pages_are_asked_for() {
    let local = cache(LONG);
    let page: Page = Arc::new(vec![stored(1); 100]);
    for n in 0..2_000_u128 {
        let user = UserId::parse(&format!("u{n}")).unwrap();
        assert_eq!(local.page(user, UserHash(n << 88), async || Ok(page.clone())).await.unwrap().len(), 100);
    }
    let cache = local.pages.cache.as_ref().unwrap();
    cache.run_pending_tasks().await;
    assert!(cache.weighted_size() <= limits::CACHE_CLAIMS_MAX && cache.entry_count() > 100);
}
