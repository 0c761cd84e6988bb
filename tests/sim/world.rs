//! One seed's world: the product's own book, sequencer, journal and drain on a simulated disk, database and clock.
//!
//! One thread, no waiting, no real time. A violated promise is a panic whose message begins with the promise's name;
//! the product's own assertions count as well.

use std::sync::{Arc, PoisonError};

use forebay::queue::book::HashKey;
use forebay::queue::journal::{Options, Step as JanitorStep};
use forebay::queue::recover::Follower;
use forebay::queue::{CartOutcome, Outcome, Replies, Submission, Ticket};
use forebay::sale::{ClaimId, Timestamp};

use crate::clicks::{Hands, may_load};
use crate::convert;
use crate::database::SimDb;
use crate::disk::{End, SimDisk};
use crate::life::{Life, MEMORY_MAX};
use crate::model::{Model, Verdict};
use crate::plan::{Asked, Op, Plan, SECOND, STARTS};
use crate::record::{FAULTS, Tally, Trace};
use crate::rng::Rng;
use crate::sweeps::{Clocks, Sweep};

/// How large a seed's world is.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Operations: a claim or an operator's wish is one, any other step is one.
    pub operations: u64,
    /// Faults that must really have happened.
    pub faults: u64,
}

/// What every seed of the long run does.
pub const SHAPE: Shape = Shape { operations: 500, faults: 20 };

/// A batch whose fate a crash or a failed sync left open.
#[derive(Debug)]
pub struct Doubt {
    /// What it began with.
    pub sweep: Option<Sweep>,
    pub asked: Vec<Asked>,
    pub now: i64,
    /// The journal's time before it.
    pub time: i64,
    /// Some of it may have been refused for want of room.
    pub full: bool,
    /// Claims that answers named nevertheless.
    pub revealed: Vec<ClaimId>,
    /// And the positions of clicks.
    pub clicks: Vec<u64>,
}

impl Doubt {
    fn new(sweep: Option<Sweep>, now: i64, time: i64) -> Self {
        Self { sweep, asked: Vec::new(), now, time, full: false, revealed: Vec::new(), clicks: Vec::new() }
    }
}

pub struct World {
    pub seed: u64,
    pub key: HashKey,
    pub plan: Plan,
    pub rng: Rng,
    pub disk: SimDisk,
    pub db: SimDb,
    pub model: Model,
    /// The wall clock, and one that never jumps.
    pub clock: i64,
    pub steady: i64,
    pub clocks: Clocks,
    pub hands: Hands,
    /// Whether the sequencer looks at the clocks.
    pub ticking: bool,
    /// How long after its time a claim may be settled, and a sale that is over stays.
    pub grace: i64,
    pub release_after: i64,
    /// Claims that one batch lets expire.
    pub portion: usize,
    /// The latest that any clock has shown.
    pub top: i64,
    pub life: Option<Life>,
    pub doubt: Option<Doubt>,
    pub options: Options,
    pub max_entries: u64,
    /// Entries of a batch of the drain: from, to.
    pub batches: (i64, i64),
    pub trace: Trace,
    pub tally: Tally,
    pub seen: crate::check::Seen,
    /// Operations of the disk that had failed when the machine was last looked after.
    pub io_excused: u64,
    /// Whether anything may still go wrong.
    pub faulty: bool,
    /// What a crash at the change that was chosen leaves.
    pub image: End,
    /// Changes of the disk when the faults ended.
    pub sites: u64,
}

/// Takes the answers of a batch that leave while the process lives.
struct Post {
    disk: SimDisk,
    answers: Vec<Option<Outcome>>,
}

impl Replies for Post {
    fn deliver(&mut self, answers: &mut Vec<(Ticket, Outcome)>) {
        let dead = self.disk.killed();
        for (ticket, answer) in answers.drain(..) {
            if !dead {
                let place = &mut self.answers[ticket.slot as usize];
                assert!(place.is_none(), "P5: two answers to one command");
                *place = Some(answer);
            }
        }
    }
}

impl World {
    pub fn new(seed: u64, trace: Trace) -> Self {
        let mut rng = Rng::new(seed, 2);
        let frame_max = 2_048;
        let start = *rng.pick(&STARTS);
        let options = Options {
            segment_bytes: 8_288 + 8 * rng.below(120),
            spares: 1 + rng.below(2) as usize,
            frame_max,
            prepare_slice: 4_096,
            urgent_slice: 4_096,
            snapshot_every: 1 + rng.below(2),
        };
        Self {
            seed,
            key: HashKey(convert::identity(seed).hash_key),
            plan: Plan::new(seed, start),
            disk: SimDisk::new(Rng::new(seed, 3)),
            db: SimDb::default(),
            model: Model::default(),
            clock: start,
            steady: 0,
            clocks: Clocks::default(),
            hands: Hands::default(),
            ticking: true,
            grace: rng.within(0, 2 * SECOND),
            release_after: rng.within(5 * SECOND, 60 * SECOND),
            portion: 1 + rng.below(8) as usize,
            top: start,
            life: None,
            doubt: None,
            options,
            max_entries: if rng.percent(30) { 15 + rng.below(40) } else { 1_000_000 },
            batches: (1, 60),
            rng,
            trace,
            tally: Tally::default(),
            seen: crate::check::Seen::default(),
            io_excused: 0,
            faulty: true,
            image: End::Kill,
            sites: 0,
        }
    }

    /// Runs the whole seed.
    pub fn run(&mut self, shape: Shape) {
        self.boot();
        let most = shape.operations * 3;
        while self.tally.get("operations") < shape.operations || self.faults() < shape.faults {
            assert!(self.tally.get("operations") < most, "vacuous: {} faults in {most} operations", self.faults());
            self.step();
        }
        self.settle();
    }

    /// Faults that have happened.
    pub fn faults(&self) -> u64 {
        let (disk, db) = (self.disk.fired(), self.db.fired());
        let count = |what: &&str| {
            disk.get(*what).copied().unwrap_or(0) + db.get(*what).copied().unwrap_or(0) + self.tally.get(what)
        };
        FAULTS.iter().map(count).sum()
    }

    fn step(&mut self) {
        let op = self.plan.next(&self.model, self.clock);
        self.trace.begin(self.tally.get("operations"));
        self.tally.add("operations", if let Op::Batch(asked) = &op { asked.len() as u64 } else { 1 });
        self.trace.line(|| format!("{op:?}"));
        let answers = matches!(op, Op::Batch(_));
        self.perform(op);
        if answers && self.rng.percent(2) {
            // An answer has left: it must hold against the worst, at once.
            self.die(End::PowerCutLosingAll);
        }
        self.bury();
        self.check();
        self.read_in_turn();
        if self.trace.is_on() {
            let digest = self.disk.digest();
            self.trace.line(|| format!("disk {digest:016x}"));
        }
    }

    fn perform(&mut self, op: Op) {
        match op {
            Op::Batch(mut asked) => {
                self.hold_back(&mut asked);
                self.submit(asked);
                if self.rng.percent(70) {
                    self.finish_clicks();
                }
            }
            Op::Clicks(pieces) => {
                let _done = (0..pieces).take_while(|_| self.go_on()).count();
            }
            Op::Letter(deed) => self.operate(deed),
            Op::Clock(now, why) => {
                if why.contains("jumps") {
                    self.tally.one("clock jumps");
                }
                self.clock = now;
                self.steady += 1_000;
            }
            Op::Pass(micros) => {
                self.pass(micros);
                self.submit(Vec::new());
            }
            Op::SetRight => self.clock = self.plan.begun + self.steady,
            Op::Drain(polls) => self.drain(polls),
            Op::Janitor(steps) => self.janitor(steps),
            Op::Mark => self.mark(),
            Op::LookUp => {
                self.look_up();
                self.check_carts();
                let buyer = format!("b{}", self.rng.below(4));
                self.read_cart(&buyer, 2);
            }
            Op::DiskFault(fault, skip, forever) => self.disk.arm(fault, skip, forever),
            Op::Room(more) => self.disk.room(more),
            Op::DbFault(fault) => self.db.arm(fault),
            Op::CrashIn(n) => self.disk.crash_in(n),
            Op::End(end) => self.die(end),
            Op::Restart { flip } => self.restart(flip),
        }
    }

    /// Submits a batch and holds the answers against the model.
    pub fn submit(&mut self, asked: Vec<Asked>) {
        self.tick();
        self.know_buyers(&asked);
        let Some(life) = &mut self.life else { return };
        let upto = self.clocks.upto.take();
        if asked.is_empty() && upto.is_none() {
            return;
        }
        self.top = self.top.max(self.clock);
        let mut batch: Vec<Submission> = Vec::with_capacity(asked.len());
        for (slot, asked) in asked.iter().enumerate() {
            let ticket = Ticket { front: 0, slot: slot as u32, generation: 0 };
            let command = convert::command(self.key, &self.model, asked, |click| self.hands.base(click));
            batch.push(Submission { ticket, command });
        }
        let mut post = Post { disk: self.disk.clone(), answers: vec![None; asked.len()] };
        let (fenced, waiting) = (life.sequencer.failed(), life.published.pending.entries());
        let retired = life.published.pending.retired().0;
        life.sequencer.step(Timestamp(self.clock), &mut batch, &mut post);
        let full = life.published.disk_full.load(std::sync::atomic::Ordering::SeqCst);
        let (killed, failed) = (self.disk.killed(), life.sequencer.failed() && !fenced);
        if fenced {
            return self.all_not_durable(&post.answers, killed);
        }
        let (len, now, time) = (self.model.facts.len(), self.clock, self.model.time);
        let sales = self.model.sales.len();
        let clocks = &mut self.clocks;
        let sweep = upto.filter(|_| !full).map(|upto| Sweep { upto, retired, turn: clocks.turn(sales) });
        let is_sweeping = life.sequencer.is_sweeping();
        let mut doubt = Doubt::new(sweep, now, time);
        let swept = doubt.sweep.clone().map_or(len..len, |sweep| self.expect_sweep(&sweep));
        assert!(failed || is_sweeping == self.clocks.upto.is_some(), "P6: whether more is due than one batch takes");
        for (asked, answer) in asked.iter().zip(&post.answers) {
            let time = self.model.time;
            let verdict = self.expect(asked);
            let entered = (self.model.facts.len() - len) as u64;
            doubt.full |= full || waiting + entered >= self.max_entries;
            self.trace.line(|| format!("  {verdict:?} | {answer:?}"));
            if let Some(answer) = answer {
                doubt.revealed.extend(convert::revealed(asked, self.key, answer));
                doubt.clicks.extend(convert::revealed_click(answer));
            }
            let room = !matches!(asked, Asked::Claim(_) | Asked::Click(_)) || waiting + entered <= self.max_entries;
            if self.judge(asked, verdict, answer.as_ref(), (full, room), killed || failed) {
                self.model.truncate(self.model.facts.len() - 1);
                self.model.time = time;
            }
            if let Asked::Click(click) = asked {
                self.answered(click, answer.as_ref());
            }
        }
        if self.model.facts.len() > len {
            self.seen.marked = false;
        }
        if killed || failed {
            self.model.truncate(len);
            (self.model.time, doubt.asked) = (doubt.time, asked);
            self.doubt = Some(doubt);
        } else {
            self.count_swept(swept);
        }
    }

    /// What the model says; it enters what is accepted.
    pub fn expect(&mut self, asked: &Asked) -> Verdict {
        match asked {
            Asked::Claim(ask) => self.model.ask(self.clock, ask),
            Asked::Define(def, key) => self.model.define(self.clock, def, *key),
            Asked::Change(no, change, key) => self.model.change(self.clock, *no, change, *key),
            Asked::End(ask, to) => self.model.end(self.clock, ask, *to),
            Asked::Click(click) => self.model.click(self.clock, click),
        }
    }

    /// Holds one answer against the model. `(full, room)`: whether the disk is full, and whether the buffer has room.
    /// Gives whether what the model entered was refused for want of room.
    fn judge(
        &mut self,
        asked: &Asked,
        verdict: Verdict,
        answer: Option<&Outcome>,
        (full, room): (bool, bool),
        fell: bool,
    ) -> bool {
        let Some(answer) = answer else {
            assert!(fell, "P5: no answer, and the process lives");
            return false;
        };
        self.tally.one(convert::name(asked, answer));
        if fell && (convert::is_not_durable(answer) || *answer == Outcome::Unknown) {
            // An operator's wish of a failed batch is always said to be unknown: nobody waits for a hold.
            let is_wish = matches!(asked, Asked::Define(..) | Asked::Change(..));
            let fits = is_wish || verdict.enters() || *answer != Outcome::Unknown;
            assert!(fits, "P5: unknown, though it could not be accepted: {verdict:?}");
            return false;
        }
        if matches!(answer, Outcome::Cart(CartOutcome::Load(_))) {
            assert!(may_load(verdict), "P3: a cart is to be loaded instead of {verdict:?}");
            return verdict.enters();
        }
        if convert::is_full(answer) {
            assert!(verdict.enters(), "P5: buffer full instead of {verdict:?}");
            assert!(full || !room, "P6: buffer full, and it is not");
            return true;
        }
        let name = crate::check::promise(verdict);
        assert!(convert::fits(self.key, &self.model, verdict, answer), "{name}: {answer:?} instead of {verdict:?}");
        let over = (matches!(verdict, Verdict::Accepted | Verdict::Clicked) && (full || !room))
            || (verdict == Verdict::Moved && full);
        assert!(!over, "P7: accepted beyond the buffer's limit");
        if let Outcome::Accepted { amount, .. } = answer {
            let learnt = self.model.learn(amount.map(|a| a.0));
            assert!(learnt.is_ok(), "{}", learnt.unwrap_err());
        }
        false
    }

    fn all_not_durable(&mut self, answers: &[Option<Outcome>], killed: bool) {
        for answer in answers {
            let fits = answer.as_ref().map_or(killed, convert::is_not_durable);
            assert!(fits, "P8: {answer:?} after durability was lost");
            self.tally.one("answered: not durable");
        }
    }

    /// Polls the drain.
    pub fn drain(&mut self, polls: u64) {
        if self.rng.percent(50) {
            self.enter_owners();
        }
        for _ in 0..polls {
            let Some(life) = &mut self.life else { return };
            life.poll_drain(&mut self.trace, &mut self.tally);
            self.hear();
            if self.db.take_crashed() {
                return self.die_somehow();
            }
        }
    }

    /// Does housekeeping, snapshots included.
    pub fn janitor(&mut self, steps: u64) {
        for _ in 0..steps {
            let Some(life) = &mut self.life else { return };
            drop(std::mem::take(&mut *life.published.garbage.lock().unwrap_or_else(PoisonError::into_inner)));
            drop(std::mem::take(&mut *life.published.cold.lock().unwrap_or_else(PoisonError::into_inner)));
            let step = life.janitor.step(life.published.pending.retired());
            self.trace.line(|| format!("  janitor {step:?}"));
            match step {
                Ok(JanitorStep::Ready(_)) => self.tally.one("segments prepared"),
                Ok(JanitorStep::Trimmed(_)) => self.tally.one("segments trimmed"),
                Ok(JanitorStep::SnapshotDue) => {
                    let mut follower = Follower::new(self.key, MEMORY_MAX);
                    let made = life.janitor.make_snapshot(&mut follower, |f, out| f.book.save(out));
                    self.trace.line(|| format!("  snapshot {made:?}"));
                    if let Ok(Some(_)) = made {
                        self.tally.one("snapshots");
                    }
                }
                Ok(JanitorStep::Worked) => {}
                Ok(JanitorStep::DiskFull | JanitorStep::Idle) | Err(_) => return,
            }
        }
    }

    /// Writes a mark where there is none.
    pub fn mark(&mut self) {
        let Some(life) = &mut self.life else { return };
        self.top = self.top.max(self.clock);
        let before = self.disk.writes();
        life.sequencer.mark(Timestamp(self.clock));
        if self.disk.writes() > before && !life.sequencer.failed() {
            self.model.time = self.model.time.max(self.clock);
            self.seen.marked = true;
            self.tally.one("marks");
        }
    }

    /// The process dies if the disk has killed it.
    fn bury(&mut self) {
        if self.disk.killed() {
            self.die_somehow();
        } else if self.life.as_ref().is_some_and(|l| l.sequencer.failed()) && self.rng.percent(40) {
            // Fail stop: the operator, or whatever watches the process, starts it again.
            self.tally.one("restarts after a failed write or sync");
            self.die_somehow();
        }
    }

    fn die_somehow(&mut self) {
        let ends = [End::Kill, End::Kill, End::PowerCut, End::PowerCut, End::PowerCutLosingAll];
        let end = *self.rng.pick(&ends);
        let end = if self.disk.take_imaged() { self.image } else { end };
        self.die(end);
    }

    /// Ends the process so, and starts the next one.
    pub fn die(&mut self, end: End) {
        if end == End::Kill {
            self.tally.one("process killed");
        }
        self.end(end);
        self.boot();
    }

    /// SIGTERM, and a start.
    fn restart(&mut self, flip: bool) {
        if self.life.as_ref().is_none_or(|l| l.sequencer.failed()) || self.disk.is_ill() {
            return self.die_somehow();
        }
        self.mark();
        if self.disk.killed() || self.life.as_ref().is_none_or(|l| l.sequencer.failed()) {
            return self.die_somehow();
        }
        self.tally.one("clean restarts");
        // Damage to a last frame that nothing follows may be taken for a torn write: docs/journal.md. A mark follows.
        let flip = flip && self.seen.marked;
        self.end(End::Kill);
        if flip {
            let flipped = self.disk.flip();
            self.trace.line(|| format!("  flipped {flipped:?}"));
        }
        self.boot();
    }
}

impl World {
    /// Everything that was ever counted.
    pub fn totals(&self) -> Tally {
        let mut all = self.tally.clone();
        let model = &self.model;
        all.add("claims made again after a return", model.reclaims);
        all.add("returned shares given out again", model.again);
        all.add("check-ins on a day after", model.days_after);
        for (what, n) in self.disk.fired().iter().chain(&self.db.fired()) {
            all.add(what, *n);
        }
        all
    }

    /// The database, for a drain to own.
    pub fn store(&self) -> Arc<SimDb> {
        Arc::new(self.db.clone())
    }
}
