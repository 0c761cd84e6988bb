//! The sequencer, batch by batch, on a disk in memory.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use forebay::queue::journal::disk::Disk;
use forebay::queue::journal::{Identity, Options};
use forebay::queue::pending::{StockNow, Waiting};
use forebay::queue::recover::{Start, recover};
use forebay::queue::{
    AdminCommand, AdminDone, AdminRefusal, Balance, ClaimCommand, Command, Outcome, Pending, Published, Refusal,
    Replies, Sequencer, Settings, Submission, Ticket,
};
use forebay::sale::campaign::{AdminState, CampaignPatch};
use forebay::sale::{CampaignNo, CampaignSpec, Durability, Seq, Timestamp};
use proptest::prelude::*;

use crate::cases;
use crate::disk::MemDisk;
use crate::support::{HASH, MEMORY, NOON, change, claim, create, id, key, packet, sale, user};

pub const IDENTITY: Identity = Identity { journal: 0xf0_4e_ba_11, hash_key: HASH.0 };

/// For how long after its time a claim may still be settled, and a campaign that is over stays, in microseconds.
pub const GRACE: i64 = 5_000_000;
pub const RELEASE: i64 = 600_000_000;

/// One segment large enough for a test; nothing prepares the next one here.
pub fn options() -> Options {
    Options { segment_bytes: 8 << 20, ..Options::default() }
}

/// What a start on `disk` gives: the sequencer, and what it publishes to.
pub fn start<D: Disk>(disk: D, max_entries: u64) -> (Sequencer<D>, Arc<Published>) {
    let mut progress = |_, _| {};
    let start = Start { options: options(), memory_max: MEMORY, cursor: None, known: Seq(0), progress: &mut progress };
    let live = recover(disk, IDENTITY, start).unwrap();
    let published = Arc::new(Published::new(live.pending));
    let settings = Settings { durability: Durability::Disk, max_entries, settle_grace: GRACE, release_after: RELEASE };
    (Sequencer::new(live.book, live.journal.writer, published.clone(), settings), published)
}

#[derive(Default)]
struct Answers(Vec<(Ticket, Outcome)>);

impl Replies for Answers {
    fn deliver(&mut self, answers: &mut Vec<(Ticket, Outcome)>) {
        self.0.append(answers);
    }
}

pub struct Node {
    pub disk: MemDisk,
    pub sequencer: Sequencer<MemDisk>,
    pub published: Arc<Published>,
    /// The wall clock, and microseconds of one that only runs forward.
    pub now: Timestamp,
    pub steady: i64,
}

impl Node {
    pub fn new(max_entries: u64, specs: &[CampaignSpec]) -> Self {
        let disk = MemDisk::default();
        let (sequencer, published) = start(disk.clone(), max_entries);
        let mut node = Self { disk, sequencer, published, now: NOON, steady: 0 };
        for (no, spec) in specs.iter().enumerate() {
            assert_eq!(node.ask(create(spec)), Ok(AdminDone::Created(CampaignNo(no as u32))));
        }
        node
    }

    pub fn step(&mut self, commands: impl IntoIterator<Item = Command>) -> Vec<Outcome> {
        let ticket = |slot| Ticket { front: 0, slot, generation: 0 };
        let batch = commands.into_iter().zip(0..).map(|(command, slot)| Submission { ticket: ticket(slot), command });
        let (mut batch, mut answers) = (batch.collect::<Vec<_>>(), Answers::default());
        let asked = batch.len();
        self.sequencer.step(self.now, &mut batch, &mut answers);
        assert!(batch.is_empty());
        assert_eq!(answers.0.len(), asked, "one answer each, in order");
        assert!(answers.0.iter().zip(0..).all(|((t, _), slot)| t.slot == slot));
        answers.0.into_iter().map(|(_, outcome)| outcome).collect()
    }

    pub fn claims(&mut self, commands: &[ClaimCommand]) -> Vec<Outcome> {
        self.step(commands.iter().map(|c| Command::Claim(*c)))
    }

    pub fn ask(&mut self, command: AdminCommand) -> Result<AdminDone, AdminRefusal> {
        match self.step([Command::Admin(Box::new(command))]).pop() {
            Some(Outcome::Admin(result)) => *result,
            other => panic!("{other:?}"),
        }
    }

    pub fn restock(&mut self, name: &str, more: i64, key: Option<u32>) -> Result<AdminDone, AdminRefusal> {
        self.ask(change(name, CampaignPatch { add_stock: Some(more), ..CampaignPatch::default() }, key))
    }

    pub fn set(&mut self, name: &str, state: AdminState) {
        let patch = CampaignPatch { state: Some(state), ..CampaignPatch::default() };
        assert!(self.ask(change(name, patch, None)).is_ok());
    }

    pub fn restart(&self) -> Self {
        let (sequencer, published) = start(self.disk.clone(), 1_000_000);
        Self { disk: self.disk.clone(), sequencer, published, now: self.now, steady: 0 }
    }

    pub fn balance(&self, no: u32) -> Balance {
        self.published.pending.balance(CampaignNo(no))
    }
}

pub fn accepted(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Accepted { .. })
}

const SOLD_OUT: Outcome = Outcome::Refused(Refusal::SoldOut { stock_version: 1 });

#[test]
fn sixty_four_claims_of_one_buyer_give_one_claim_and_63_that_name_it() {
    let mut node = Node::new(1_000, &[sale("s", 100, 1)]);
    let commands: Vec<_> = (0..64).map(|n| claim(0, 7, 1, n)).collect();
    let outcomes = node.claims(&commands);
    assert!(accepted(&outcomes[0]));
    let named = Outcome::Refused(Refusal::AlreadyClaimed(commands[0].claim_id));
    assert!(outcomes[1..].iter().all(|o| *o == named), "{outcomes:?}");
    assert_eq!((node.balance(0).accepted, node.balance(0).error()), (1, 0));
}

#[test]
fn a_full_buffer_accepts_nothing_and_drops_nothing_that_was_accepted() {
    let mut node = Node::new(6, &[sale("s", 100, 1)]);
    let first: Vec<_> = (0..9).map(|n| claim(0, n, 1, u64::from(n))).collect();
    let outcomes = node.claims(&first);
    assert!(outcomes[..5].iter().all(accepted), "the campaign's creation waits too");
    assert!(outcomes[5..].iter().all(|o| *o == Outcome::Refused(Refusal::BufferFull)));
    assert_eq!((node.balance(0).accepted, node.balance(0).free), (5, 95));
    let again = node.claims(&first);
    assert_eq!(again[0], Outcome::Refused(Refusal::AlreadyClaimed(first[0].claim_id)), "a holder is still told so");
    assert_eq!(again[8], Outcome::Refused(Refusal::BufferFull));
    assert!(node.restock("s", 1, None).is_ok(), "an operator is still heard");
    let lease = node.published.pending.lease(100).unwrap();
    assert_eq!(lease.entries.len(), 7);
    node.published.pending.retire(&lease, &[]);
    assert!(node.claims(&first[5..]).iter().all(accepted), "room again");
    assert_eq!((node.balance(0).persisted, node.balance(0).accepted, node.balance(0).error()), (5, 4, 0));
}

#[test]
fn a_failed_sync_leaves_what_entered_unknown_and_all_that_follows_not_durable() {
    let mut node = Node::new(1_000, &[sale("s", 3, 1)]);
    assert!(node.claims(&[claim(0, 1, 1, 1)]).iter().all(accepted));
    let syncs = node.disk.syncs();
    node.disk.fail_syncs();
    let batch = [claim(0, 2, 1, 2), claim(0, 2, 1, 3), claim(0, 3, 1, 4), claim(0, 4, 1, 5)];
    let not_durable = Outcome::Refused(Refusal::NotDurable);
    // The refusals were decided on a state that is not durable: to give them would reveal it.
    let expected = [Outcome::Unknown, not_durable.clone(), Outcome::Unknown, not_durable.clone()];
    assert_eq!(node.claims(&batch), expected);
    assert!(node.published.fenced.load(Ordering::SeqCst) && node.sequencer.failed());
    assert_eq!(node.published.pending.entries(), 2, "nothing of it is published");
    assert_eq!(node.claims(&[claim(0, 1, 1, 9), claim(0, 5, 1, 6)]), [not_durable.clone(), not_durable]);
    assert_eq!(node.restock("s", 1, None), Err(AdminRefusal::NotDurable));
    assert_eq!(node.disk.syncs(), syncs + 1, "a failed sync is never tried again");
}

#[test]
fn a_retried_restock_counts_once() {
    let mut node = Node::new(1_000, &[sale("s", 10, 1)]);
    assert_eq!(node.restock("s", 5, Some(1)), Ok(AdminDone::Changed(CampaignNo(0))));
    assert_eq!(node.restock("s", 5, Some(1)), Ok(AdminDone::Replayed(CampaignNo(0))));
    let mut node = node.restart();
    assert_eq!(node.restock("s", 5, Some(1)), Ok(AdminDone::Replayed(CampaignNo(0))), "after a restart too");
    assert_eq!(node.restock("s", 6, Some(1)), Err(AdminRefusal::KeyReused));
    assert_eq!((node.balance(0).stock, node.balance(0).free), (15, 15));
}

#[test]
fn stock_added_in_mid_sale_is_sold() {
    let mut node = Node::new(100_000, &[sale("s", 3, 1)]);
    let mut serial = 0..;
    let mut ask = |node: &mut Node, buyers: std::ops::Range<u32>| {
        let commands: Vec<_> = buyers.map(|b| claim(0, b, 1, serial.next().unwrap())).collect();
        node.claims(&commands)
    };
    let outcomes = ask(&mut node, 0..5);
    assert_eq!((outcomes.iter().filter(|o| accepted(o)).count(), &outcomes[4]), (3, &SOLD_OUT));
    let view = node.published.views.load().get(&id("s")).unwrap().clone();
    assert_eq!((view.free().0, view.stock_version()), (0, 1));
    assert!(node.restock("s", 2_000, None).is_ok());
    assert_eq!((view.free().0, view.stock_version()), (2_000, 2));
    assert!(ask(&mut node, 5..2_005).iter().all(accepted));
    assert_eq!(ask(&mut node, 2_005..2_006), [Outcome::Refused(Refusal::SoldOut { stock_version: 2 })]);
    // Every holder passes the filter, those from before it grew too, and after a restart as well.
    for published in [&node.published, &node.restart().published] {
        let view = published.views.load().get(&id("s")).unwrap().clone();
        assert!((0..2_005).filter(|b| !matches!(b, 3 | 4)).all(|b| view.may_hold(HASH.user(&user(b)))));
    }
}

#[test]
fn a_holder_is_told_of_its_claim_whatever_became_of_the_sale() {
    let mut node = Node::new(1_000, &[sale("s", 2, 1)]);
    let mine = claim(0, 1, 1, 1);
    assert!(node.claims(&[mine, claim(0, 2, 1, 2)]).iter().all(accepted));
    let told = [Outcome::Refused(Refusal::AlreadyClaimed(mine.claim_id))];
    let check = |node: &mut Node, stranger: Refusal| {
        assert_eq!(node.claims(&[claim(0, 1, 1, 3)]), told);
        assert_eq!(node.claims(&[claim(0, 9, 1, 4)]), [Outcome::Refused(stranger)]);
    };
    check(&mut node, Refusal::SoldOut { stock_version: 1 });
    node.set("s", AdminState::Paused);
    check(&mut node, Refusal::Paused);
    node.set("s", AdminState::Open);
    node.now = NOON.plus_micros(60_000_000);
    check(&mut node, Refusal::Ended);
    node.set("s", AdminState::Closed);
    check(&mut node, Refusal::Ended);
    check(&mut node.restart(), Refusal::Ended);
}

#[test]
fn a_clock_that_is_set_back_does_not_reopen_a_sale() {
    let mut node = Node::new(1_000, &[sale("s", 9, 1), sale("t", 9, 1)]);
    let closing = CampaignPatch { closes_at: Some(NOON.plus_micros(10)), ..CampaignPatch::default() };
    assert!(node.ask(change("s", closing, None)).is_ok());
    node.now = NOON.plus_micros(10);
    assert!(node.claims(&[claim(1, 1, 1, 1)]).iter().all(accepted), "the journal has seen this instant");
    node.now = NOON;
    assert_eq!(node.claims(&[claim(0, 1, 1, 2)]), [Outcome::Refused(Refusal::Ended)]);
}

#[test]
fn a_clock_behind_the_journal_is_told_until_it_has_caught_up() {
    let mut node = Node::new(1_000, &[sale("s", 9, 1)]);
    node.now = NOON.plus_micros(10_000_000);
    assert!(node.claims(&[claim(0, 1, 1, 1)]).iter().all(accepted));
    for (behind, now) in [(10, NOON), (3, NOON.plus_micros(7_000_000)), (0, NOON.plus_micros(10_000_000))] {
        node.now = now;
        node.claims(&[claim(0, 1, 1, 2)]);
        assert_eq!(node.published.metrics.clock_behind.get(), behind, "at {now}");
    }
}

#[test]
fn a_batch_of_refusals_costs_no_sync() {
    let mut node = Node::new(1_000, &[sale("s", 1, 1)]);
    assert!(node.claims(&[claim(0, 1, 1, 1)]).iter().all(accepted));
    let syncs = node.disk.syncs();
    assert!(node.claims(&[claim(0, 2, 1, 2), claim(0, 3, 1, 3)]).iter().all(|o| *o == SOLD_OUT));
    assert_eq!(node.disk.syncs(), syncs);
}

proptest! {
    #![proptest_config(cases(40))]

    /// Whatever comes in whatever batches: what was answered is what waits, what waits survives a restart, and the
    /// equation holds.
    #[test]
    fn the_answers_the_entries_and_a_restart_tell_one_story(
        batches in prop::collection::vec(
            prop::collection::vec((0u32..2, 0u32..30, 1u32..3, prop::option::of(0u32..3)), 1..40), 1..10),
        max_entries in 10u64..80,
    ) {
        let mut node = Node::new(max_entries, &[sale("s", 25, 2), packet("p", 15, 1, (300, 5, Some(60)))]);
        let (mut serial, mut held) = (0, HashSet::new());
        for batch in batches {
            let commands: Vec<_> = batch.into_iter().map(|(no, buyer, quantity, k)| {
                serial += 1;
                let mut command = claim(no, buyer, quantity, serial);
                command.key = k.map(|k| key(no, buyer, k));
                command
            }).collect();
            for (command, outcome) in commands.iter().zip(node.claims(&commands)) {
                match outcome {
                    Outcome::Accepted { seq, amount, .. } => {
                        let claim = node.published.pending.find(command.claim_id).claims;
                        prop_assert_eq!(claim.len(), 1, "published before the answer");
                        let claim = claim[0];
                        prop_assert_eq!((claim.seq, claim.amount, claim.user), (seq, amount, command.user));
                        held.insert(command.claim_id);
                    }
                    Outcome::Replayed(replay) => prop_assert!(held.contains(&replay.claim_id)),
                    Outcome::Refused(Refusal::AlreadyClaimed(id)) => prop_assert!(held.contains(&id)),
                    Outcome::Refused(_) => prop_assert_eq!(node.published.pending.find(command.claim_id), Waiting::default()),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            prop_assert!(node.published.pending.entries() <= max_entries);
            for no in 0..2 {
                prop_assert_eq!((node.balance(no).error(), node.balance(no).money_error()), (0, 0));
            }
        }
        let again = node.restart();
        let all = |pending: &Pending| pending.lease(10_000).map(|l| l.entries);
        prop_assert_eq!(all(&again.published.pending), all(&node.published.pending));
        prop_assert_eq!(crate::support::image(again.sequencer.book()), crate::support::image(node.sequencer.book()));
        for no in 0..2 {
            prop_assert_eq!(again.balance(no), node.balance(no));
        }
    }
}

#[test]
fn the_money_of_a_sale_is_price_times_units_and_adds_up() {
    let mut node = Node::new(1_000, &[sale("s", 100, 3)]);
    let money = |node: &Node| {
        let b = node.balance(0);
        (b.money_stock, b.money_free, b.money_accepted, b.money_persisted, b.money_dead, b.money_error())
    };
    assert_eq!(money(&node), (25_000, 25_000, 0, 0, 0, 0));
    assert!(node.claims(&[claim(0, 1, 3, 1), claim(0, 2, 1, 2), claim(0, 3, 2, 3)]).iter().all(accepted));
    assert_eq!(money(&node), (25_000, 23_500, 1_500, 0, 0, 0));
    let lease = node.published.pending.lease(100).unwrap();
    node.published.pending.retire(&lease, &[2]);
    assert_eq!(money(&node), (25_000, 23_500, 0, 1_250, 250, 0), "entry 1 is the campaign, 2 to 4 are claims");
    assert!(node.restock("s", -10, None).is_ok());
    assert_eq!(money(&node), (22_500, 21_000, 0, 1_250, 250, 0));
}

#[test]
fn a_ledger_that_does_not_add_up_says_by_how_much() {
    let pending = Pending::new(forebay::sale::Seq(0));
    let (units, money) = (forebay::sale::Units, forebay::sale::Money);
    let now = StockNow { no: CampaignNo(0), stock: units(9), free: units(7), total: money(90), left: money(60) };
    let context = forebay::queue::codec::FrameContext {
        first_seq: forebay::sale::Seq(0),
        at: NOON,
        durability: Durability::Disk,
    };
    pending.publish(&[], 0, &context, &[now]);
    let balance = pending.balance(CampaignNo(0));
    assert_eq!((balance.error(), balance.money_error()), (2, 30));
}
