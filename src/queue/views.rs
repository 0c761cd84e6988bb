//! What the front end may know of the campaigns: a published snapshot, read without a lock or a hop.
//!
//! Only the sequencer writes it, and only after the sync that covers what it tells: a sold-out that could be undone by a
//! power cut is never shown.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::book::Book;
use super::campaign::Campaign;
use super::filter::HolderFilter;
use super::index::ColdPages;
use crate::limits;
use crate::sale::campaign::AdminState;
use crate::sale::{
    CampaignId, CampaignKind, CampaignNo, CampaignSpec, CampaignState, Currency, Money, Timestamp, Units, UserHash,
};

/// How claims came out, counted per campaign. The order is that of [`ClaimOutcome::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum ClaimOutcome {
    /// Held.
    Accepted,
    /// A repeated key got its answer again.
    Replayed,
    /// The buyer holds what one may hold.
    AlreadyClaimed,
    /// No units.
    SoldOut,
    /// Before, after or outside the window.
    NotOpen,
    /// Not known durable.
    Unknown,
    /// Anything else.
    Refused,
}

impl ClaimOutcome {
    /// All outcomes with their metric label.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::Accepted, "accepted"),
        (Self::Replayed, "replayed"),
        (Self::AlreadyClaimed, "already-claimed"),
        (Self::SoldOut, "sold-out"),
        (Self::NotOpen, "not-open"),
        (Self::Unknown, "outcome-unknown"),
        (Self::Refused, "refused"),
    ];
}

/// One campaign as the front end sees it.
#[derive(Debug)]
pub struct CampaignView {
    /// Its place in the book.
    pub no: CampaignNo,
    /// Its name.
    pub id: CampaignId,
    /// What is sold.
    pub kind: CampaignKind,
    /// Units one buyer may hold.
    pub per_user_limit: Units,
    /// The currency of amounts.
    pub currency: Option<Currency>,
    /// The price of a unit.
    pub price: Option<Money>,
    /// The whole definition as it stands.
    pub spec: ArcSwap<CampaignSpec>,
    opens_at: AtomicI64,
    closes_at: AtomicI64,
    wish: AtomicU8,
    free: AtomicU64,
    /// Whether claims of it have come to an end, or are of a day that is over: their keys are remembered, their buyers are not
    /// in the filters of a process that began later.
    former: AtomicBool,
    version: AtomicU64,
    stock_version: AtomicU64,
    filters: ArcSwap<Vec<DayFilter>>,
    /// Whether others may hold claims whom the filters don't know.
    has_strangers: AtomicBool,
    /// Whether the filters were made of who holds claims under the versions that are shown.
    knows_holders: Mutex<bool>,
    outcomes: [AtomicU64; ClaimOutcome::ALL.len()],
}

impl CampaignView {
    fn new(no: CampaignNo, campaign: &Campaign) -> Self {
        let spec = &campaign.spec;
        let view = Self {
            no,
            id: spec.id,
            kind: spec.kind,
            per_user_limit: spec.per_user_limit,
            currency: spec.currency,
            price: spec.price,
            spec: ArcSwap::from_pointee(spec.clone()),
            opens_at: AtomicI64::new(0),
            closes_at: AtomicI64::new(0),
            wish: AtomicU8::new(0),
            free: AtomicU64::new(0),
            former: AtomicBool::new(false),
            version: AtomicU64::new(0),
            stock_version: AtomicU64::new(0),
            filters: ArcSwap::default(),
            has_strangers: AtomicBool::new(false),
            knows_holders: Mutex::new(false),
            outcomes: Default::default(),
        };
        view.keep_filter(campaign);
        view.update(campaign);
        view
    }

    /// Publishes what changed. Called after the sync.
    pub(super) fn update(&self, campaign: &Campaign) {
        let spec = &campaign.spec;
        if self.version() != campaign.version {
            self.spec.store(Arc::new(spec.clone()));
            self.opens_at.store(spec.opens_at.0, Ordering::Release);
            self.closes_at.store(spec.closes_at.0, Ordering::Release);
            self.wish.store(campaign.wish as u8, Ordering::Release);
            self.version.store(campaign.version, Ordering::Release);
        }
        self.stock_version.store(campaign.stock_version, Ordering::Release);
        self.former.store(campaign.has_former_holders(), Ordering::Release);
        self.free.store(campaign.free.0, Ordering::Release);
    }

    /// Makes the filters fit, before holders are added. Larger tables add one, and the old one keeps the old holders; a new
    /// local day begins with an empty one, and those of the days before stay for those whose rows are still to come; a
    /// campaign that has left memory needs none.
    pub(super) fn keep_filter(&self, campaign: &Campaign) {
        let day = campaign.today().map_or(0, |day| u32::from(day.0) + 1);
        let before = self.filters.load();
        let today = before.iter().filter(|filter| filter.day == day);
        let have: u64 = today.map(|filter| filter.units.0).sum();
        if campaign.released {
            if !before.is_empty() {
                self.filters.store(Arc::default());
            }
        } else if let Some(more) = campaign.capacity().minus(Units(have)).filter(|more| more.0 > 0) {
            let kept = before.iter().filter(|filter| filter.day + limits::FILTER_DAYS >= day).cloned();
            self.filters.store(Arc::new(kept.chain([DayFilter::new(more, day)]).collect()));
        }
    }

    /// Remembers a holder, before its answer leaves.
    pub(super) fn add_holder(&self, user: UserHash) {
        if let Some(last) = self.filters.load().last() {
            last.filter.insert(user);
        }
    }

    /// The pages of the filter made last.
    pub(super) fn cold_pages(&self) -> Option<ColdPages> {
        self.filters.load().last().map(|last| last.filter.cold_pages())
    }

    /// Whether `user` may hold a claim here; `false` is certain.
    pub fn may_hold(&self, user: UserHash) -> bool {
        self.has_strangers.load(Ordering::Acquire) || self.filters.load().iter().any(|each| each.filter.may_hold(user))
    }

    /// Publishes what was read of the campaign elsewhere. Who holds claims is not known from here on, unless nothing has
    /// changed since [`Self::know_holders`], or nobody ever claimed.
    pub(super) fn update_from_afar(&self, campaign: &Campaign) {
        let mut knows = self.knows_holders.lock().unwrap_or_else(PoisonError::into_inner);
        *knows &= (self.version(), self.stock_version()) == (campaign.version, campaign.stock_version);
        if campaign.acknowledged > 0 && !*knows {
            // Before the rest: whoever is refused by what is new has been looked for.
            self.has_strangers.store(true, Ordering::Release);
        }
        self.update(campaign);
    }

    /// Whether it would be of use to know who holds claims: nothing can be claimed, and that is not known yet.
    pub(super) fn wants_holders(&self, now: Timestamp) -> bool {
        let is_shut = self.state(now) != CampaignState::Open || self.free() == Units(0);
        is_shut && self.kind != CampaignKind::CheckIn && self.has_strangers.load(Ordering::Acquire)
    }

    /// Takes everybody who holds a claim, as it was under these versions of campaign and stock, after which nobody could
    /// claim any more.
    pub(super) fn know_holders(&self, holders: HolderFilter, units: Units, versions: (u64, u64)) {
        let mut knows = self.knows_holders.lock().unwrap_or_else(PoisonError::into_inner);
        self.filters.store(Arc::new(vec![DayFilter { units, day: 0, filter: Arc::new(holders) }]));
        *knows = versions == (self.version(), self.stock_version());
        if *knows {
            self.has_strangers.store(false, Ordering::Release);
        }
    }

    /// Whether somebody may have a key from a claim that is not held any more.
    pub fn has_former_holders(&self) -> bool {
        self.former.load(Ordering::Acquire)
    }

    /// Bytes of its filters.
    pub fn filter_bytes(&self) -> u64 {
        self.filters.load().iter().map(|each| each.filter.bytes()).sum()
    }

    /// Its state at `now`.
    pub fn state(&self, now: Timestamp) -> CampaignState {
        let wish = match self.wish.load(Ordering::Acquire) {
            0 => AdminState::Open,
            1 => AdminState::Paused,
            _ => AdminState::Closed,
        };
        CampaignState::at(now, wish, self.opens_at(), Timestamp(self.closes_at.load(Ordering::Acquire)))
    }

    /// The first instant of its window.
    pub fn opens_at(&self) -> Timestamp {
        Timestamp(self.opens_at.load(Ordering::Acquire))
    }

    /// Units nobody holds.
    pub fn free(&self) -> Units {
        Units(self.free.load(Ordering::Acquire))
    }

    /// Units nobody holds; none where there is no stock.
    pub fn shown_free(&self) -> Option<Units> {
        (self.kind != CampaignKind::CheckIn).then(|| self.free())
    }

    /// Counts its changes.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Counts the changes of its stock.
    pub fn stock_version(&self) -> u64 {
        self.stock_version.load(Ordering::Acquire)
    }

    /// Counts how a claim came out.
    pub fn count(&self, outcome: ClaimOutcome) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The counts, in the order of [`ClaimOutcome::ALL`].
    pub fn counts(&self) -> [u64; ClaimOutcome::ALL.len()] {
        std::array::from_fn(|i| self.outcomes[i].load(Ordering::Relaxed))
    }
}

/// A filter, the units it was made for, and the local day it is of (0 where days don't count).
#[derive(Debug, Clone)]
struct DayFilter {
    units: Units,
    day: u32,
    filter: Arc<HolderFilter>,
}

impl DayFilter {
    fn new(units: Units, day: u32) -> Self {
        Self { units, day, filter: Arc::new(HolderFilter::new(units)) }
    }
}

/// All campaigns.
#[derive(Debug, Default)]
pub struct Views {
    current: ArcSwap<Index>,
}

/// One consistent list of the campaigns; their numbers inside change on.
#[derive(Debug, Default)]
pub struct Index {
    by_id: HashMap<CampaignId, Arc<CampaignView>>,
    by_no: Vec<Arc<CampaignView>>,
}

impl Index {
    /// A campaign by its name.
    pub fn get(&self, id: &CampaignId) -> Option<&Arc<CampaignView>> {
        self.by_id.get(id)
    }

    /// A campaign by its number.
    pub fn number(&self, no: CampaignNo) -> Option<&Arc<CampaignView>> {
        self.by_no.get(no.0 as usize)
    }

    /// All, by number.
    pub fn all(&self) -> &[Arc<CampaignView>] {
        &self.by_no
    }
}

impl Views {
    /// Publishes a recovered book.
    pub fn publish_all(&self, book: &Book) {
        self.add_from(book, 0);
        for (view, campaign) in self.current.load().by_no.iter().zip(book.campaigns()) {
            for kept in campaign.winners().iter() {
                view.add_holder(kept.user());
            }
        }
    }

    /// Publishes the campaigns of `book` from number `first` on.
    pub(super) fn add_from(&self, book: &Book, first: usize) {
        self.current.rcu(|old| {
            let mut index = Index { by_id: old.by_id.clone(), by_no: old.by_no.clone() };
            for (no, campaign) in book.campaigns().iter().enumerate().skip(first.max(index.by_no.len())) {
                let view = Arc::new(CampaignView::new(CampaignNo(no as u32), campaign));
                index.by_id.insert(view.id, view.clone());
                index.by_no.push(view);
            }
            index
        });
    }

    /// Publishes campaigns as they were read elsewhere, each with its number. New ones are told by their numbers, which are
    /// dense; one that comes without those before it is left out.
    pub(super) fn publish_from_afar(&self, read: &[(CampaignNo, Campaign)]) {
        let known = self.current.load_full();
        for (no, campaign) in read {
            if let Some(view) = known.number(*no).filter(|view| view.id == campaign.spec.id) {
                view.update_from_afar(campaign);
            }
        }
        // One that Redis has lost before anybody was told of it may have left its number to another.
        let is_new =
            |(no, campaign): &&(CampaignNo, Campaign)| known.number(*no).is_none_or(|view| view.id != campaign.spec.id);
        let mut new: Vec<_> = read.iter().filter(is_new).collect();
        if new.is_empty() {
            return;
        }
        new.sort_by_key(|(no, _)| *no);
        let mut index = Index { by_id: known.by_id.clone(), by_no: known.by_no.clone() };
        for (no, campaign) in new {
            let at = no.0 as usize;
            if at > index.by_no.len() {
                continue;
            }
            let view = CampaignView::new(*no, campaign);
            view.has_strangers.store(campaign.acknowledged > 0, Ordering::Release);
            let view = Arc::new(view);
            if let Some(lost) = index.by_no.get_mut(at) {
                index.by_id.remove(&lost.id);
                *lost = view.clone();
            } else {
                index.by_no.push(view.clone());
            }
            index.by_id.insert(view.id, view);
        }
        self.current.store(Arc::new(index));
    }

    /// The campaigns as they are now.
    pub fn load(&self) -> arc_swap::Guard<Arc<Index>> {
        self.current.load()
    }
}
