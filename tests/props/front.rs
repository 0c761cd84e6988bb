//! A front end's side of the buffer, with a real sequencer thread behind it.

use std::rc::Rc;
use std::time::Duration;

use forebay::clock::ScriptedClock;
use forebay::limits;
use forebay::queue::journal::disk::{Disk, RealDisk};
use forebay::queue::{
    Answer, Buffer, ClaimCommand, Command, Front, Look, MoveCommand, Outcome, Refusal, Sequencer, SubmitError,
    Unsettled, run,
};
use forebay::sale::{CampaignNo, ClaimId, Fate};

use crate::disk::MemDisk;
use crate::sequencer::start;
use crate::support::{HASH, NOON, claim, create, end, sale};

struct House<D: Disk> {
    buffer: Buffer,
    sequencer: Option<Sequencer<D>>,
    thread: Option<std::thread::JoinHandle<Sequencer<D>>>,
}

impl<D: Disk> House<D> {
    fn new(disk: D, ack_deadline: Duration) -> Self {
        let (sequencer, published) = start(disk, 1_000_000);
        let settings =
            forebay::queue::BufferSettings { fronts: 1, ack_deadline, max_entries: 1_000_000, hash_key: HASH };
        Self { buffer: Buffer::new(settings, published), sequencer: Some(sequencer), thread: None }
    }

    fn begin(&mut self) {
        let sequencer = self.sequencer.take().unwrap();
        self.thread = Some(run::spawn(&self.buffer, sequencer, ScriptedClock::at(NOON), ()).unwrap());
    }

    /// Whether a claim waits for the database.
    fn waits(&self, id: ClaimId) -> bool {
        !self.buffer.pending().find(id).claims.is_empty()
    }

    /// Ends the sequencer's thread; gives the units that its book holds of campaign 0.
    fn end(mut self) -> u64 {
        self.buffer.stop();
        let sequencer = self.thread.take().unwrap().join().unwrap();
        sequencer.book().campaigns().first().map_or(0, |c| c.winners().len())
    }
}

/// Runs `test` as a front-end thread does: one runtime of the thread's own, the front's task beside the requests.
fn on_a_front<D: Disk, R>(house: &House<D>, test: impl AsyncFnOnce(Rc<Front>) -> R) -> R {
    on_buffer(&house.buffer, test)
}

fn on_buffer<R>(buffer: &Buffer, test: impl AsyncFnOnce(Rc<Front>) -> R) -> R {
    let front = buffer.front(0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.spawn_local(front.clone().run());
    local.block_on(&runtime, async { tokio::time::timeout(Duration::from_secs(60), test(front)).await.unwrap() })
}

async fn decided(front: &Rc<Front>, command: Command) -> Outcome {
    match front.submit(command).unwrap().await {
        Answer::Decided(outcome) => outcome,
        Answer::Late => panic!("late"),
    }
}

async fn opened(front: &Rc<Front>, stock: u64) {
    let created = decided(front, Command::Admin(Box::new(create(&sale("s", stock, 1))))).await;
    assert!(matches!(created, Outcome::Admin(result) if result.is_ok()));
}

/// Lets everything that is under way arrive.
async fn settled(front: &Rc<Front>) {
    while front.in_flight() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn late(front: &Rc<Front>, commands: &[ClaimCommand]) {
    let waiting: Vec<_> = commands.iter().map(|c| front.submit(Command::Claim(*c)).unwrap()).collect();
    // The front's own task rings; only then does the deadline pass.
    tokio::time::sleep(Duration::from_millis(20)).await;
    front.sweep();
    for waiting in waiting {
        assert_eq!(waiting.await, Answer::Late);
    }
}

const LONG: Duration = Duration::from_secs(3_600);
const SHORT: Duration = Duration::from_millis(10);

#[test]
fn a_request_that_goes_away_loses_its_answer_and_not_its_claim() {
    let folder = tempfile::tempdir().unwrap();
    let mut house = House::new(RealDisk::new(folder.path()), LONG);
    house.begin();
    on_a_front(&house, async |front| {
        opened(&front, 10).await;
        let mine = claim(0, 1, 1, 1);
        drop(front.submit(Command::Claim(mine)).unwrap());
        let told = decided(&front, Command::Claim(claim(0, 1, 1, 2))).await;
        assert_eq!(told, Outcome::Refused(Refusal::AlreadyClaimed(mine.claim_id)));
        assert!(house.waits(mine.claim_id));
        assert_eq!(house.buffer.unsettled(mine.claim_id), None, "nobody was told that it is unknown");
        settled(&front).await;
    });
    assert_eq!(house.end(), 1);
}

#[test]
fn a_late_answer_is_unknown_until_it_arrives_and_then_it_is_known() {
    let disk = MemDisk::default();
    let mut house = House::new(disk.clone(), SHORT);
    house.begin();
    on_a_front(&house, async |front| {
        opened(&front, 10).await;
        let (first, second) = (claim(0, 1, 1, 1), claim(0, 1, 1, 2));
        disk.hold_syncs(true);
        late(&front, &[first, second]).await;
        for command in [first, second] {
            assert_eq!(house.buffer.unsettled(command.claim_id), Some((command.user, Unsettled::Unknown)));
            assert!(!house.waits(command.claim_id), "nothing shows before the sync");
        }
        assert_eq!(front.in_flight(), 2, "the slots stay taken until the outcomes have arrived");
        disk.hold_syncs(false);
        settled(&front).await;
        assert_eq!(house.buffer.unsettled(first.claim_id), None, "accepted: it is among the entries");
        assert!(house.waits(first.claim_id));
        assert_eq!(house.buffer.unsettled(second.claim_id), Some((second.user, Unsettled::Rejected)));
        let told = decided(&front, Command::Claim(claim(0, 1, 1, 3))).await;
        assert_eq!(told, Outcome::Refused(Refusal::AlreadyClaimed(first.claim_id)), "asking again tells the truth");
    });
    assert_eq!(house.end(), 1);
}

#[test]
fn an_outcome_that_arrives_between_the_deadline_and_the_request_is_not_lost() {
    let disk = MemDisk::default();
    let mut house = House::new(disk.clone(), SHORT);
    house.begin();
    on_a_front(&house, async |front| {
        opened(&front, 10).await;
        let mine = claim(0, 1, 1, 1);
        disk.hold_syncs(true);
        let waiting = front.submit(Command::Claim(mine)).unwrap();
        tokio::time::sleep(SHORT * 2).await;
        front.sweep();
        disk.hold_syncs(false);
        while !house.waits(mine.claim_id) || house.buffer.unsettled(mine.claim_id).is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(waiting.await, Answer::Late, "the deadline had passed");
        assert_eq!(front.in_flight(), 0);
        opened_again(&front).await;
    });
    assert_eq!(house.end(), 1);
}

/// The slot is in use again, by something else.
async fn opened_again(front: &Rc<Front>) {
    let told = decided(front, Command::Claim(claim(9, 1, 1, 77))).await;
    assert_eq!(told, Outcome::Refused(Refusal::UnknownCampaign));
}

#[test]
fn slots_are_used_again_and_each_answer_finds_its_own_request() {
    let folder = tempfile::tempdir().unwrap();
    let mut house = House::new(RealDisk::new(folder.path()), LONG);
    house.begin();
    on_a_front(&house, async |front| {
        opened(&front, 100_000).await;
        let mut serial = 0;
        for round in 0..60u64 {
            let mut kept = Vec::new();
            for n in 0..40 {
                serial += 1;
                let command = claim(0, serial as u32, 1, serial);
                let waiting = front.submit(Command::Claim(command)).unwrap();
                if (n * 7 + round) % 3 > 0 {
                    kept.push((command.claim_id, waiting));
                }
            }
            if round % 2 == 0 {
                kept.reverse();
            }
            for (id, waiting) in kept {
                let Answer::Decided(Outcome::Accepted { seq, .. }) = waiting.await else { panic!("not accepted") };
                assert_eq!(house.buffer.pending().find(id).claims.first().map(|c| c.seq), Some(seq));
            }
        }
        settled(&front).await;
    });
    assert_eq!(house.end(), 60 * 40, "those whose requests went away too");
}

#[test]
fn a_full_queue_refuses_at_once_and_drops_nothing_that_it_took() {
    let mut house = House::new(MemDisk::default(), LONG);
    let buffer = house.buffer.clone();
    on_buffer(&buffer, async |front| {
        drop(front.submit(Command::Admin(Box::new(create(&sale("s", limits::QUEUE_MAX as u64, 1))))).unwrap());
        for n in 1..limits::QUEUE_MAX as u32 {
            drop(front.submit(Command::Claim(claim(0, n, 1, u64::from(n)))).unwrap());
        }
        for n in 0..3 {
            let more = front.submit(Command::Claim(claim(0, n, 1, u64::from(n))));
            assert_eq!(more.err(), Some(SubmitError::Overloaded));
        }
        house.begin();
        settled(&front).await;
        assert!(front.submit(Command::Claim(claim(0, 1, 1, 1))).is_ok(), "room again");
        settled(&front).await;
    });
    assert_eq!(house.end(), limits::QUEUE_MAX as u64 - 1);
}

#[test]
fn after_a_failed_sync_nothing_is_taken_any_more() {
    let disk = MemDisk::default();
    let mut house = House::new(disk.clone(), LONG);
    house.begin();
    let mine: ClaimId = on_a_front(&house, async |front| {
        opened(&front, 10).await;
        disk.fail_syncs();
        let mine = claim(0, 1, 1, 1);
        assert_eq!(decided(&front, Command::Claim(mine)).await, Outcome::Unknown);
        assert_eq!(house.buffer.unsettled(mine.claim_id), Some((mine.user, Unsettled::Unknown)));
        let next = front.submit(Command::Claim(claim(0, 2, 1, 2)));
        assert_eq!(next.err(), Some(SubmitError::NotDurable));
        mine.claim_id
    });
    assert!(house.buffer.is_fenced());
    assert!(!house.waits(mine));
    house.end();
    // What became of it is known after a restart: here the bytes had reached the disk.
    disk.mend();
    let (_, published) = start(disk, 1_000);
    assert_eq!(published.pending.find(mine).claims.len(), 1);
}

#[test]
fn more_claims_than_can_be_decided_are_refused_at_once_and_nothing_else_is() {
    let disk = MemDisk::default();
    let mut house = House::new(disk.clone(), LONG);
    house.begin();
    on_a_front(&house, async |front| {
        opened(&front, 1_000_000).await;
        disk.slow_syncs(Duration::from_millis(50));
        // Half a second's work and more, at once.
        let burst: Vec<_> = (0..40_000)
            .map(|n| front.submit(Command::Claim(claim(0, n, 1, n.into()))).expect("a burst is taken in"))
            .collect();
        let mut late = 40_000;
        while !house.buffer.is_overloaded() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(front.in_flight() > 0, "all were decided, and it was not noticed that they waited too long");
        }
        let refused = loop {
            late += 1;
            match front.submit(Command::Claim(claim(0, late, 1, late.into()))) {
                Err(error) => break error,
                Ok(_) => assert!(front.in_flight() < 60_000, "nothing is refused"),
            }
        };
        assert_eq!(refused, SubmitError::Overloaded);
        let first = claim(0, 1, 1, 1);
        let paid = MoveCommand { user: first.user, ..end(0, first.claim_id, Fate::Settled) };
        let paying = front.submit(Command::Move(Box::new(paid))).expect("who pays is not turned away");
        let looking = front.submit(Command::Look(Look::Balance(CampaignNo(0)))).expect("who asks is not");
        for waiting in burst {
            assert!(matches!(waiting.await, Answer::Decided(Outcome::Accepted { .. })));
        }
        assert!(matches!(paying.await, Answer::Decided(Outcome::Moved(Ok(_)))));
        looking.await;
        settled(&front).await;
        // The last answers are here before the sequencer has counted them off.
        while house.buffer.under_way().0 > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let after = decided(&front, Command::Claim(claim(0, late + 1, 1, 1 << 40))).await;
        assert!(matches!(after, Outcome::Accepted { .. }), "it goes on at once: {after:?}");
        disk.slow_syncs(Duration::ZERO);
        tokio::time::sleep(Duration::from_millis(limits::OVERLOAD_OVER_MILLIS)).await;
        decided(&front, Command::Claim(claim(0, late + 2, 1, 1 << 41))).await;
        assert!(!house.buffer.is_overloaded());
    });
    house.end();
}
