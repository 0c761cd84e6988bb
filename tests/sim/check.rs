//! P1 to P8, held against the product after every step, after every recovery, and at the end.

use forebay::queue::journal::Report;
use forebay::queue::{Balance, Published};
use forebay::sale::{CampaignNo, ClaimStatus, Timestamp};
use forebay::store::Store;

use crate::convert;
use crate::disk::End;
use crate::landed::Revival;
use crate::life::now_or_never;
use crate::model::{Change, Definition, Sum, Sums, Verdict, What, Wish};
use crate::plan::{Asked, SECOND, id};
use crate::world::World;

/// How far the checks have come.
#[derive(Debug, Default)]
pub struct Seen {
    pub rows: usize,
    pub letters: usize,
    pub news: usize,
    pub ends: usize,
    /// Up to this position the sums are known.
    pub retired: u64,
    pub sums: Vec<Sums>,
    /// What requeued letters did to a sale's sums that the ledger may not have heard of.
    pub untold: Vec<(usize, Revival)>,
    /// Positions that have a row or a dead letter.
    pub landed: u64,
    /// What the last recovery found.
    pub last_seq: u64,
    pub last_time: i64,
    pub cursor_known: bool,
    pub report: Report,
    /// Whether the journal ends in a mark of this life.
    pub marked: bool,
}

/// How a balance differs from what is in the database and what waits: claims, payments and returns.
fn differs(b: &Balance, there: &Sums, [claims, paid, back]: &[Sum; 3]) -> Option<String> {
    let both = |units, money| Sum { units, money };
    let mut of = vec![
        ("settled", both(b.settled, b.money_settled), there.settled.and(*paid)),
        ("returned", both(b.returned, b.money_returned), there.returned.and(*back)),
    ];
    if paid.units + back.units == 0 {
        of.push(("accepted", both(b.accepted, b.money_accepted), *claims));
        of.push(("persisted", both(b.persisted, b.money_persisted), there.persisted));
        of.push(("dead", both(b.dead, b.money_dead), there.dead));
    }
    let wrong = of.into_iter().find(|(_, seen, due)| seen != due);
    wrong.map(|(what, seen, due)| format!("{what} {seen:?} instead of {due:?}"))
}

/// The promise that a wrong answer breaks.
pub fn promise(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Accepted => "P6 (no undersell)",
        Verdict::SoldOut(_) => "P2 (no oversell)",
        Verdict::Replayed(_) | Verdict::Already(_) | Verdict::OverLimit | Verdict::KeyReused => "P3 (one per buyer)",
        Verdict::NotOpen(_) | Verdict::Ended | Verdict::Paused => "P5 (window)",
        Verdict::Moved | Verdict::MovedBefore | Verdict::NotHeld | Verdict::IsSettled => "P1 (one end)",
        Verdict::IsCheckIn | Verdict::IsReleased => "P5 (an end refused)",
        Verdict::Clicked | Verdict::ClickedBefore(_) | Verdict::CartFull => "P1 (each click once)",
        _ => "P5 (operator)",
    }
}

impl World {
    /// Everything that can be checked between two steps.
    pub fn check(&mut self) {
        self.check_database();
        let Some(life) = &self.life else { return };
        let published = life.published.clone();
        let (retired, cursor) = (published.pending.retired().0, self.db.cursor());
        assert!(retired <= cursor, "P1: retired up to {retired}, the database has {cursor}");
        let waits = published.pending.entries();
        let last = self.model.facts.len() as u64;
        assert_eq!(retired + waits, last, "P1: retired and waiting entries are not all that was promised");
        self.check_views(&published);
        if life.is_bound() && retired >= self.seen.retired {
            self.model.sums(self.seen.retired + 1, retired, &mut self.seen.sums);
            self.seen.retired = retired;
            self.check_balances(&published);
        }
    }

    fn check_views(&self, published: &Published) {
        let views = published.views.load();
        assert_eq!(views.all().len(), self.model.sales.len(), "P5: another number of campaigns");
        for (view, sale) in views.all().iter().zip(&self.model.sales) {
            let free = sale.def.check_in.is_none().then_some(sale.free());
            let seen = (view.shown_free().map(|free| free.0), view.version(), view.stock_version());
            assert_eq!(seen, (free, sale.version(), sale.stock_version()), "P2: free, version, stock version");
            let word = view.state(Timestamp(self.clock)).as_str();
            assert_eq!(word, sale.word(self.clock), "P5 (window): the state that the front end sees");
        }
    }

    /// What of each sale waits: claims, payments and returns.
    fn waiting(&self, retired: u64) -> Vec<[Sum; 3]> {
        let mut all = vec![[Sum::default(); 3]; self.model.sales.len()];
        for seq in retired + 1..=self.model.facts.len() as u64 {
            if let Some(held) = self.model.held(seq) {
                all[held.ask.sale][0].add(held);
            } else if let Some((held, to)) = self.model.ended(seq) {
                all[held.ask.sale][if to.gives_back() { 2 } else { 1 }].add(held);
            }
        }
        all
    }

    fn check_balances(&mut self, published: &Published) {
        let waiting = self.waiting(self.seen.retired);
        for (no, sale) in self.model.sales.iter().enumerate() {
            let b = published.pending.balance(CampaignNo(no as u32));
            let there = self.seen.sums.get(no).copied().unwrap_or_default();
            assert_eq!((b.error(), b.money_error()), (0, 0), "P4 (conservation): {b:?}");
            let free = if sale.def.check_in.is_some() { 0 } else { sale.free() };
            assert_eq!((b.stock, b.free), (sale.stock(), free), "P4 (conservation): stock and free of {no}");
            let worth = |units: u64| sale.def.price.unwrap_or(0) * units as i64;
            let due = match (sale.def.packet, sale.def.check_in) {
                (Some(_), _) => (sale.total(), sale.left()),
                (_, Some(check_in)) => (check_in.points * sale.stock() as i64, 0),
                _ => (worth(sale.stock()), worth(sale.free())),
            };
            assert_eq!((b.money_stock, b.money_free), due, "P4: money of {no}");
            let Some(wrong) = differs(&b, &there, &waiting[no]) else {
                self.seen.untold.retain(|(sale, _)| *sale != no);
                continue;
            };
            // The reply to a requeue was lost, and the database could not be asked for its sums yet.
            let untold = self.seen.untold.iter().filter(|(sale, _)| *sale == no);
            let before = untold.fold(there, |sums, (_, revival)| revival.undone(sums));
            let lags = before != there && differs(&b, &before, &waiting[no]).is_none();
            assert!(lags, "P4 (conservation): units and money of {no}: {wrong}");
            self.tally.one("balances that wait for the database's sums");
        }
    }

    /// What became of the batch that was open when the last process died: all of it or nothing.
    pub fn settle_doubt(&mut self) {
        let Some(doubt) = self.doubt.take() else { return };
        let Some(life) = &self.life else { return };
        let lost = self.seen.last_seq == self.model.facts.len() as u64;
        self.tally.one(if lost { "doubtful batches that were lost" } else { "doubtful batches that survived" });
        if !lost {
            let entries =
                life.published.pending.lease(self.seen.last_seq as usize + 1).map(|l| l.entries).unwrap_or_default();
            let clock = std::mem::replace(&mut self.clock, doubt.now);
            self.model.time = doubt.time;
            if let Some(sweep) = &doubt.sweep {
                let swept = self.expect_sweep(sweep);
                for at in swept.clone() {
                    let entry = entries.iter().find(|e| e.seq.0 == at as u64 + 1);
                    let differs = entry.map(|e| convert::entry_differs(self.key, &self.model, e));
                    assert_eq!(differs, Some(None), "P1: half a sweep survived, or not as it was due");
                }
                self.count_swept(swept);
                self.clocks.upto = None;
            }
            for asked in &doubt.asked {
                let verdict = self.expect(asked);
                if !verdict.enters() {
                    continue;
                }
                let seq = self.model.facts.len() as u64;
                let entry = entries.iter().find(|e| e.seq.0 == seq);
                let differs = entry.map(|e| convert::entry_differs(self.key, &self.model, e));
                if differs != Some(None) {
                    // A click may have been answered that its cart is to be loaded.
                    let left_out = doubt.full || verdict == Verdict::Clicked;
                    assert!(left_out, "P1: half a batch survived, or not as decided: {differs:?}");
                    self.model.truncate(seq as usize - 1);
                } else if let Some(forebay::sale::Event::Claimed(claim)) = entry.map(|e| &e.event) {
                    let learnt = self.model.learn(claim.amount.map(|a| a.0));
                    assert!(learnt.is_ok(), "{}", learnt.unwrap_err());
                }
            }
            self.clock = clock;
        }
        let kept = |seq: &u64| self.model.clicked(*seq).is_some();
        assert!(doubt.clicks.iter().all(kept), "P1/P5: an answer named one of {:?}, and a crash took it", doubt.clicks);
        for id in doubt.revealed {
            let kept = self.model.facts.iter().any(|fact| match &fact.what {
                What::Held(held) => convert::claim_id(self.key, &held.ask) == id,
                _ => false,
            });
            assert!(kept, "P1/P5: an answer named claim {id}, and a crash took it");
        }
    }

    /// A process stands again: it knows what was promised, all of it and nothing else.
    pub fn verify_recovered(&mut self) {
        let last = self.model.facts.len() as u64;
        let found = self.seen.last_seq;
        assert!(found >= last, "P1 (no lost ack): {last} entries were promised, {found} are left");
        assert!(found <= last, "P5 (one story): {found} entries are there, promised were {last}");
        let newest = self.model.facts.last().map(|fact| fact.at);
        let (earliest, time) = (newest.unwrap_or(0), self.seen.last_time);
        assert!(
            (earliest..=self.top).contains(&time),
            "P5: the journal's time is {time}, not in {earliest}..={}",
            self.top
        );
        self.model.time = time;
        let Some(life) = &self.life else { return };
        let published = life.published.clone();
        let lease = published.pending.lease(self.seen.last_seq as usize + 1);
        let retired = published.pending.retired().0;
        let known = !self.seen.cursor_known || retired == self.db.cursor();
        assert!(known, "P1: recovered behind entry {retired}, the database has {}", self.db.cursor());
        if let Some(lease) = &lease {
            assert_eq!(lease.entries.len() as u64, last - retired, "P1: entries that wait, of {last} after {retired}");
            for (entry, seq) in lease.entries.iter().zip(retired + 1..) {
                assert_eq!(entry.seq.0, seq, "P1: positions are dense");
                let wrong = convert::entry_differs(self.key, &self.model, entry);
                assert!(wrong.is_none(), "P1: recovered {}", wrong.unwrap_or_default());
            }
        }
        let views = published.views.load();
        for (view, sale) in views.all().iter().zip(&self.model.sales) {
            for (user, claims) in sale.holders.iter().filter(|_| !sale.state.released) {
                let today = |&claim: &usize| {
                    let day = sale.days.last().filter(|_| sale.def.check_in.is_some());
                    day.is_none_or(|day| self.model.claim(claim).hold == *day as u64)
                };
                let hash = self.key.user(&convert::user_id(user));
                let known = !claims.iter().any(today) || view.may_hold(hash);
                assert!(known, "P3: {user} holds a claim, and the front end does not know");
            }
        }
    }

    /// A buyer asks what became of a claim.
    pub fn look_up(&mut self) {
        let Some(life) = &self.life else { return };
        let pending = &life.published.pending;
        for asked in self.doubt.iter().flat_map(|d| &d.asked) {
            if let Asked::Claim(ask) = asked {
                let found = pending.find(convert::claim_id(self.key, ask));
                assert!(found.claims.is_empty(), "P5: a status read reveals what is not known to be durable");
            }
        }
        if self.model.facts.is_empty() {
            return;
        }
        let seq = 1 + self.rng.below(self.model.facts.len() as u64);
        let Some(held) = self.model.held(seq) else { return };
        let id = convert::claim_id(self.key, &held.ask);
        let user = convert::user_id(&held.ask.user);
        let waits = |seq: u64| seq > pending.retired().0;
        let end = held.end.map(|(at, to)| (at as u64 + 1, to));
        let (found, mine) = (pending.find(id), pending.of(&user, self.key.user(&user)));
        let claims = mine.claims.iter().filter(|c| c.claim_id == id).count();
        assert_eq!(found.claims.len(), usize::from(waits(seq)), "P5: claim {id} at {seq} in the buffer");
        assert_eq!(claims, found.claims.len(), "P5: claim {id} among its buyer's");
        let ends = found.ends.iter().map(|end| (end.seq.0, end.moved.to)).collect::<Vec<_>>();
        let due: Vec<_> = end.iter().filter(|(at, _)| waits(*at)).map(|(at, to)| (*at, convert::end(*to))).collect();
        assert_eq!(ends, due, "P5: what became of claim {id}, in the buffer");
        assert_eq!(mine.end_of(id), found.end_of(id), "P5: the end of claim {id} among its buyer's");
        if let Some(claim) = found.claims.first() {
            let wrong = convert::differs(self.key, held, claim);
            assert!(wrong.is_none(), "P5: read {}", wrong.unwrap_or_default());
            self.tally.one("look-ups in the buffer");
        } else if let Some(Ok(stored)) = now_or_never(self.db.claim(id)) {
            let alive = if self.db.has_letter_only(id) { ClaimStatus::Accepted } else { ClaimStatus::Persisted };
            // The database may have more than this process knows of.
            let end = end.filter(|(at, _)| *at <= self.db.cursor());
            let due = end.map_or(alive, |(_, to)| convert::end(to).status());
            assert_eq!(stored.map(|stored| stored.status), Some(due), "P1: claim {id} in the database");
            self.tally.one("look-ups in the database");
        }
    }

    /// The end: no more faults; everything drains, everything left is sold, everything is there.
    pub fn settle(&mut self) {
        self.trace.line(|| "the faults end".to_owned());
        self.faulty = false;
        self.sites = self.disk.changes();
        self.disk.image(None);
        self.disk.heal();
        self.db.heal();
        self.die(End::PowerCut);
        self.clock = self.clock.max(self.model.time) + 1;
        self.expire_all();
        // What is claimed from now on may be settled for ever.
        self.ticking = false;
        for no in 0..self.model.sales.len() {
            self.sell_out(no);
        }
        // A last good row: it tells a run of poison rows from a broken table.
        let (opens, closes) = (self.clock - SECOND, self.clock + 3_600 * SECOND);
        let name = "the-last".to_owned();
        let (price, packet, check_in, ttl) = (None, None, None, None);
        let def = Definition { name, opens, closes, limit: 1, stock: 1, price, packet, check_in, coupon: true, ttl };
        self.submit(vec![Asked::Define(def, None)]);
        self.drain_all();
        self.die(End::PowerCutLosingAll);
        self.check();
        self.drain_all();
        self.requeue_all();
        self.check_carts();
        self.check_stored();
        assert!(self.seen.untold.is_empty(), "P4: the ledger never heard of {:?}", self.seen.untold);
        let held = self.model.facts.iter().filter(|f| matches!(f.what, What::Held(_))).count();
        let given_up =
            self.model.dead.iter().filter(|seq| self.model.held(**seq).is_some() && self.model.is_letter(**seq));
        let given_up: Vec<_> = given_up.collect();
        let back = |seq: &u64| self.model.held(*seq).is_some_and(|h| h.end.is_some_and(|(_, to)| to.gives_back()));
        assert!(given_up.iter().all(|seq| back(seq)), "P1: a claim that is held is no row, though all was mended");
        assert_eq!(self.seen.rows + given_up.len(), held, "P1: rows and dead letters");
        assert_eq!(self.db.cursor(), self.model.facts.len() as u64, "P1: the database's position");
        for (no, sale) in self.model.sales.iter().enumerate() {
            let sums = self.seen.sums.get(no).copied().unwrap_or_default();
            let held = [sums.persisted, sums.settled, sums.dead];
            let (units, paid): (u64, i64) = held.iter().fold((0, 0), |(u, m), sum| (u + sum.units, m + sum.money));
            let sold = if sale.def.check_in.is_some() { sale.stock() } else { sale.stock() - sale.free() };
            assert_eq!(units, sold, "P1, P2: units of {no}");
            assert!(sale.wish() == Wish::Closed || sale.def.name == "the-last" || sold == sale.stock(), "P6: {no}");
            let packet = sale.def.packet.is_some();
            assert!(!packet || paid + sale.left() == sale.total(), "P4: {paid} of {} paid", sale.total());
            assert!(!packet || sale.free() > 0 || paid == sale.total(), "P4: all shares are claimed, not all is paid");
        }
        self.tally.add("claims held at the end", held as u64);
    }

    /// Sells whatever is left of a sale; the model says whether each answer is right.
    fn sell_out(&mut self, no: usize) {
        let sale = &self.model.sales[no];
        if sale.wish() == Wish::Closed || sale.def.check_in.is_some() {
            return;
        }
        let (opens, closes) = (Some(self.clock - SECOND), Some(self.clock + 3_600 * SECOND));
        let change = Change { wish: Some(Wish::Open), opens, closes, ..Change::default() };
        let before = self.model.sales[no].version();
        for _ in 0..200 {
            if self.model.sales[no].version() > before {
                break;
            }
            self.janitor(20);
            self.submit(vec![Asked::Change(no, change, None)]);
        }
        let free = self.model.sales[no].free();
        for _ in 0..2 * free + 50 {
            if self.model.sales[no].free() == 0 {
                break;
            }
            let asked = (0..8).map(|_| self.newcomer(no)).collect();
            self.submit(asked);
            self.drain(6);
            self.janitor(6);
            self.check();
        }
        assert_eq!(self.model.sales[no].free(), 0, "P6 (no undersell): of {free} units so many can't be sold");
        let late = self.newcomer(no);
        self.submit(vec![late]);
    }

    pub fn newcomer(&mut self, sale: usize) -> Asked {
        let (user, random) = (self.plan.fresh_user(), self.plan.fresh_id());
        Asked::Claim(crate::model::Ask { sale, user, units: 1, key: None, id: id(self.clock, random), receipt_key: 1 })
    }

    fn drain_all(&mut self) {
        for _ in 0..2_000 {
            self.drain(8);
            self.check();
            let waits = self.life.as_ref().map_or(0, |l| l.published.pending.entries());
            if waits == 0 && self.life.as_ref().is_some_and(|l| l.is_bound()) {
                return;
            }
        }
        panic!("P1: entries never reach the database");
    }
}
