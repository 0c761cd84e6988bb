//! What time brings about, as the sequencer does it: expiry in small portions, grace, leaps of the clock, releases; and
//! that ends are as durable as claims.

use std::time::Duration;

use forebay::limits;
use forebay::queue::{
    AdminDone, Buffer, BufferSettings, ClaimCommand, Command, MoveDone, MoveRefusal, Outcome, Refusal,
};
use forebay::sale::campaign::AdminState;
use forebay::sale::{CampaignNo, ClaimId, Event, Fate};

use crate::sequencer::{GRACE, Node, RELEASE, accepted};
use crate::support::{HASH, NOON, check_in, claim, create, end, expiring, id, packet, sale, user};

const SECOND: i64 = 1_000_000;
/// In which the claims of these tests must be settled.
const TTL: i64 = 10 * SECOND;

impl Node {
    /// Both clocks go on by so many microseconds, and the sequencer looks at them; whether it has something to do.
    fn later(&mut self, micros: i64) -> bool {
        self.steady += micros;
        self.leap(micros)
    }

    /// The wall clock is set, the steady one goes on by a look's time.
    fn leap(&mut self, micros: i64) -> bool {
        self.now = self.now.plus_micros(micros);
        self.steady += limits::SWEEP_DUE_MILLIS as i64 * 1_000;
        self.sequencer.tick(self.now, self.steady)
    }

    /// Steps without a submission until nothing is left to sweep; gives the entries of each step.
    fn sweep(&mut self) -> Vec<u64> {
        let mut steps = Vec::new();
        while self.sequencer.is_sweeping() {
            let before = self.sequencer.book().last_seq().0;
            self.step([]);
            steps.push(self.sequencer.book().last_seq().0 - before);
            assert!(steps.len() < 1_000, "it never ends");
        }
        steps
    }

    fn moves(&mut self, no: u32, ends: &[(ClaimId, Fate)]) -> Vec<Result<MoveDone, MoveRefusal>> {
        let commands = ends.iter().map(|(id, to)| Command::Move(Box::new(end(no, *id, *to))));
        let outcomes = self.step(commands.collect::<Vec<_>>());
        let moved = |outcome| if let Outcome::Moved(moved) = outcome { moved } else { panic!("{outcome:?}") };
        outcomes.into_iter().map(moved).collect()
    }

    fn held(&self) -> u64 {
        self.sequencer.book().campaigns()[0].winners().len()
    }

    fn drain(&self) {
        while let Some(lease) = self.published.pending.lease(10_000) {
            self.published.pending.retire(&lease, &[]);
        }
    }
}

fn node(stock: u64) -> Node {
    let mut node = Node::new(1_000_000, &[expiring(sale("s", stock, 1), TTL / SECOND)]);
    // The first look knows no step of the clocks yet.
    node.later(1);
    node.sweep();
    node
}

fn buyers(range: std::ops::Range<u32>) -> Vec<ClaimCommand> {
    range.map(|buyer| claim(0, buyer, 1, u64::from(buyer))).collect()
}

#[test]
fn ten_thousand_claims_that_are_due_at_once_expire_in_portions_and_hold_nobody_up() {
    let mut node = node(10_000);
    for from in (0..10_000).step_by(2_000) {
        assert!(node.claims(&buyers(from..from + 2_000)).iter().all(accepted));
    }
    node.now = node.now.plus_micros(TTL + GRACE - 1);
    node.steady += TTL + GRACE - 1;
    assert!(node.leap(0), "a look");
    assert_eq!(node.sweep(), [0], "one more microsecond of grace");
    assert!(node.later(1));
    let (mut newcomer, mut done) = (20_000, 0);
    while node.sequencer.is_sweeping() {
        let before = node.sequencer.book().last_seq().0;
        let outcomes = node.claims(&buyers(newcomer..newcomer + 1));
        let swept = node.sequencer.book().last_seq().0 - before - 1;
        assert!(accepted(&outcomes[0]), "a claim in the same batch has its answer: {outcomes:?}");
        assert!(swept <= limits::EXPIRE_MAX as u64, "{swept} in one batch");
        (newcomer, done) = (newcomer + 1, done + swept);
    }
    assert_eq!(done, 10_000);
    assert!(u64::from(newcomer - 20_000) >= 10_000 / limits::EXPIRE_MAX as u64);
    let balance = node.balance(0);
    assert_eq!((balance.returned, balance.error(), balance.money_error()), (10_000, 0, 0));
    assert_eq!(balance.free, 10_000 - u64::from(newcomer - 20_000));
    assert_eq!(node.restart().balance(0).free, balance.free, "and is so after a restart");
}

#[test]
fn a_claim_may_be_settled_while_its_grace_lasts_and_not_after_the_sweep() {
    let mut node = node(10);
    let claims = buyers(0..3);
    assert!(node.claims(&claims).iter().all(accepted));
    node.later(TTL + GRACE - 1);
    node.sweep();
    assert_eq!(node.moves(0, &[(claims[0].claim_id, Fate::Settled)]), [Ok(MoveDone::Moved)], "late, but in time");
    // It is looked before what has arrived is decided: who comes with the sweep comes too late.
    assert!(node.later(1));
    let late = [(claims[0].claim_id, Fate::Settled), (claims[1].claim_id, Fate::Settled)];
    assert_eq!(node.moves(0, &late), [Ok(MoveDone::Repeated), Err(MoveRefusal::NotHeld)]);
    for _ in 0..3 {
        node.later(TTL);
        node.sweep();
    }
    assert_eq!(node.held(), 1, "a settled claim never expires");
    let (b, settled) = (node.balance(0), [(claims[0].claim_id, Fate::Cancelled), (claims[0].claim_id, Fate::Expired)]);
    assert_eq!((b.settled, b.returned, b.free, b.error()), (1, 2, 9, 0));
    assert_eq!(node.moves(0, &settled), [Err(MoveRefusal::Settled); 2]);
    let mut again = node.restart();
    again.later(SECOND);
    again.sweep();
    assert_eq!(again.held(), 1);
    assert!(accepted(&again.claims(&[claim(0, 1, 1, 99)])[0]), "whose claim expired may claim again");
}

#[test]
fn a_leap_of_the_clock_lets_nothing_expire_until_it_is_undone() {
    let mut node = node(10);
    assert!(node.claims(&buyers(0..3)).iter().all(accepted));
    assert!(!node.leap(3_600 * SECOND));
    assert!(node.published.metrics.clock_leapt.get() > 3_000);
    node.step([]);
    assert!(!node.later(SECOND));
    node.step([]);
    assert_eq!(node.held(), 3);
    node.leap(-3_600 * SECOND);
    node.sweep();
    assert_eq!((node.held(), node.published.metrics.clock_leapt.get()), (3, 0), "undone, and nothing is due");
    node.later(TTL + GRACE);
    node.sweep();
    assert_eq!(node.held(), 0, "the right time counts");
}

#[test]
fn a_clock_that_leaps_while_a_sweep_is_under_way_lets_nothing_more_expire_than_was_due_before() {
    let due = limits::EXPIRE_MAX as u32 * 3;
    let mut node = node(20_000);
    assert!(node.claims(&buyers(0..due)).iter().all(accepted));
    node.later(TTL + GRACE - SECOND);
    node.sweep();
    // Of these nothing is due for a while.
    assert!(node.claims(&buyers(due..due + 3_000)).iter().all(accepted));
    assert!(node.later(SECOND));
    node.step([]);
    assert!(node.sequencer.is_sweeping());
    // Nobody has looked since: the leap is not seen yet, but it must not be believed either.
    node.now = node.now.plus_micros(3_600 * SECOND);
    node.step([]);
    assert!(node.held() >= 3_000, "{} are left", node.held());
    node.sequencer.tick(node.now, node.steady + limits::SWEEP_DUE_MILLIS as i64 * 1_000);
    node.step([]);
    for _ in 0..20 {
        node.step([]);
    }
    assert!(node.held() >= 3_000, "{} are left", node.held());
}

#[test]
fn a_clock_behind_the_journal_lets_nothing_expire() {
    let mut node = node(10);
    assert!(node.claims(&buyers(0..1)).iter().all(accepted));
    let mut again = node.restart();
    // The new process has looked at no clock yet, so this is no leap to it.
    again.now = NOON.plus_micros(-3_600 * SECOND);
    assert!(!again.leap(0));
    again.step([]);
    assert_eq!(again.held(), 1);
}

#[test]
fn ends_of_a_failed_sync_are_unknown_and_nothing_that_they_freed_is_given_out() {
    let mut node = node(2);
    let claims = buyers(0..2);
    assert!(node.claims(&claims).iter().all(accepted));
    let (free, entries) = (node.balance(0).free, node.published.pending.entries());
    node.disk.fail_syncs();
    let settle = |n: usize, to| Command::Move(Box::new(end(0, claims[n].claim_id, to)));
    let outcomes = node.step([
        settle(0, Fate::Cancelled),
        Command::Claim(claim(0, 7, 1, 7)),
        settle(1, Fate::Settled),
        settle(1, Fate::Settled),
        settle(1, Fate::Cancelled),
    ]);
    let not_durable = Outcome::Moved(Err(MoveRefusal::NotDurable));
    let expected = [Outcome::Unknown, Outcome::Unknown, Outcome::Unknown, not_durable.clone(), not_durable.clone()];
    assert_eq!(outcomes, expected, "what was decided on a state that is not durable must not be told");
    assert_eq!((node.balance(0).free, node.published.pending.entries()), (free, entries), "nothing of it is published");
    assert_eq!(node.step([settle(0, Fate::Settled)]), [not_durable]);
    node.later(100 * TTL);
    assert_eq!(node.sweep().iter().sum::<u64>(), 0, "nothing expires any more");
}

#[test]
fn a_sweep_whose_sync_fails_shows_nothing() {
    let mut node = node(5);
    assert!(node.claims(&buyers(0..5)).iter().all(accepted));
    node.later(TTL + GRACE);
    node.disk.fail_syncs();
    let outcomes = node.claims(&buyers(8..10));
    assert_eq!(outcomes, [Outcome::Unknown, Outcome::Unknown], "units that came back unsynced");
    let balance = node.balance(0);
    assert_eq!((balance.free, balance.returned, balance.error()), (0, 0, 0));
    assert_eq!(node.published.views.load().get(&id("s")).unwrap().free().0, 0);
}

#[test]
fn a_campaign_that_is_over_leaves_memory_when_the_database_has_all_of_it() {
    let specs = [packet("p", 10, 1, (1_000, 10, None)), expiring(sale("s", 4, 1), 10), sale("open", 100, 1)];
    let mut node = Node::new(1_000_000, &specs);
    let sweep = |node: &mut Node, micros| {
        node.later(micros);
        node.sweep();
    };
    sweep(&mut node, 1);
    for name in ["p", "s", "open"] {
        node.restock(name, 40, None).ok();
    }
    let mine: Vec<_> = (0..2).map(|no| claim(no, 1, 1, u64::from(no))).collect();
    assert!(node.claims(&mine).iter().all(accepted));
    node.set("p", AdminState::Closed);
    node.set("s", AdminState::Closed);
    sweep(&mut node, RELEASE);
    let released = |node: &Node| node.sequencer.book().campaigns().iter().map(|c| c.released).collect::<Vec<_>>();
    assert_eq!(released(&node), [false; 3], "the database has nothing of it");
    node.drain();
    // A look releases one.
    for expected in [[true, false, false], [true, true, false], [true, true, false]] {
        sweep(&mut node, SECOND);
        node.drain();
        assert_eq!(released(&node), expected);
    }
    let mut again = node.restart();
    for node in [&mut node, &mut again] {
        let told = node.claims(&[mine[0], claim(1, 9, 1, 9)]);
        assert_eq!(told, [Outcome::Refused(Refusal::Ended), Outcome::Refused(Refusal::Ended)]);
        let moves = node.moves(0, &[(mine[0].claim_id, Fate::Settled)]);
        assert_eq!(moves, [Err(MoveRefusal::Released)]);
        assert!(!node.published.views.load().get(&id("p")).unwrap().may_hold(HASH.user(&user(1))));
        assert_eq!(released(node), [true, true, false]);
        let (p, s) = (node.balance(0), node.balance(1));
        assert_eq!((p.stock, p.free, s.stock, s.free), (10, 9, 44, 44), "what was sold stays counted");
    }
    assert_eq!(node.balance(0).error(), 0);
    assert_eq!(node.ask(create(&sale("next", 10, 1))), Ok(AdminDone::Created(CampaignNo(3))));
}

#[test]
fn the_memory_of_a_released_campaign_is_given_back_to_the_byte() {
    use forebay::queue::Book;
    use forebay::queue::book::{AdminVerdict, Verdict};
    use forebay::sale::campaign::CampaignPatch;
    use forebay::sale::{Durability, Entry};

    let enter = |book: &mut Book, event| {
        let entry = Entry { seq: book.next_seq(), at: NOON, event };
        book.apply(&entry);
    };
    let mut book = Book::new(HASH, 1 << 30);
    let spec = packet("p", 10, 1, (1_000, 10, None));
    let Ok(AdminVerdict::Enter(event, _)) = book.decide_admin(&create(&spec)) else { panic!("not created") };
    enter(&mut book, *event);
    for (stock, total) in [(30, 3_000), (1, 100), (500, 50_000), (-200, -20_000)] {
        let patch = CampaignPatch { add_stock: Some(stock), add_total: Some(total), ..CampaignPatch::default() };
        let Ok(AdminVerdict::Enter(event, _)) = book.decide_admin(&crate::support::change("p", patch, None)) else {
            panic!("not restocked by {stock}")
        };
        enter(&mut book, *event);
    }
    for n in 0..2_000 {
        let mut command = claim(0, n % 300, 1, n.into());
        command.key = Some(crate::support::key(0, n % 300, n));
        let Verdict::Accept(held) = book.decide(NOON, Durability::Disk, &command) else { panic!("refused at {n}") };
        book.apply_claim(&held, command.user_hash);
        let Ok(Some(moved)) = book.decide_move(&end(0, held.claim_id, Fate::Cancelled)) else { panic!("not held") };
        enter(&mut book, Event::Moved(moved));
    }
    let mut image = Vec::new();
    book.save(&mut image).unwrap();
    let mut again = Book::new(HASH, 1 << 30);
    again.load(&mut &image[..]).unwrap();
    for book in [&mut book, &mut again] {
        assert!(book.reserved() > 0);
        enter(book, Event::Released(CampaignNo(0)));
        assert_eq!(book.reserved(), 0);
    }
}

#[test]
fn many_small_steps_of_the_clocks_are_as_good_as_a_large_one() {
    let mut node = node(3);
    assert!(node.claims(&buyers(0..3)).iter().all(accepted));
    for _ in 0..60 {
        node.later(TTL / 40);
        node.sweep();
    }
    assert_eq!(node.held(), 0);
}

#[test]
fn after_a_restart_too_a_buyer_sees_what_waits_of_claims_that_nobody_holds_any_more() {
    let mut node = Node::new(1_000_000, &[sale("s", 5, 1), check_in("c", "Asia/Shanghai")]);
    let mine = [claim(0, 1, 1, 1), claim(1, 2, 1, 2)];
    assert!(node.claims(&mine).iter().all(accepted));
    assert_eq!(node.moves(0, &[(mine[0].claim_id, Fate::Cancelled)]), [Ok(MoveDone::Moved)]);
    node.now = node.now.plus_micros(86_400 * SECOND);
    assert!(node.claims(&[claim(1, 3, 1, 3)]).iter().all(accepted), "a new day has begun");
    let again = node.restart();
    for published in [&node.published, &again.published] {
        let settings = BufferSettings { fronts: 0, ack_deadline: Duration::ZERO, max_entries: 9, hash_key: HASH };
        let buffer = Buffer::new(settings, published.clone());
        for (buyer, ends) in [(1, 1), (2, 0)] {
            let found = buffer.own_claims_of(&user(buyer), HASH.user(&user(buyer)));
            assert_eq!((found.claims.len(), found.ends.len()), (1, ends), "of buyer {buyer}");
        }
    }
}
