//! What a connection's notes say of it, and when that ends it.

use super::*;

async fn settle() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

/// Runs `phases` on a connection, then lets `millis` pass, and tells whether it still lives.
async fn lives(millis: u64, draining: bool, act: impl Fn(&Rc<Meter>) -> Option<Busy>) -> bool {
    let table = Rc::new(Connections::default());
    let entered = table.enter(None);
    let (at, meter) = (entered.at, entered.meter.clone());
    let task = tokio::task::spawn_local(async move {
        let _entered = entered;
        std::future::pending::<()>().await;
    });
    table.set_task(at, task.abort_handle());
    table.sweep(5_000, false);
    let _busy = act(&meter);
    table.sweep(5_000 + millis, draining);
    settle().await;
    let lives = !task.is_finished();
    assert_eq!(table.open(), usize::from(lives), "the table knows");
    lives
}

fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

#[test]
fn a_connection_that_stays_too_long_in_a_phase_is_ended() {
    local(async {
        assert!(lives(4_000, false, |_| None).await, "9 s without a byte");
        assert!(!lives(5_300, false, |_| None).await, "more than 10 s without a byte");
        let head = |m: &Rc<Meter>| {
            m.received();
            None
        };
        assert!(lives(9_000, false, head).await);
        assert!(!lives(10_300, false, head).await, "a head may take 10 s");
        let idle = |m: &Rc<Meter>| {
            drop(m.begin());
            None
        };
        assert!(lives(74_000, false, idle).await);
        assert!(!lives(75_300, false, idle).await);
        let stalled = |m: &Rc<Meter>| {
            m.wrote(None);
            Some(m.begin())
        };
        assert!(lives(9_000, false, stalled).await);
        assert!(!lives(10_300, false, stalled).await, "who takes nothing goes, busy or not");
        let busy = |m: &Rc<Meter>| Some(m.begin());
        assert!(lives(600_000, false, busy).await, "a request has its own deadlines");
    });
}

#[test]
fn an_answer_that_goes_on_leaving_is_not_idle_however_long_it_takes() {
    local(async {
        for (framed, lives_on) in [(false, true), (true, false)] {
            let table = Rc::new(Connections::default());
            let entered = table.enter(None);
            let meter = entered.meter.clone();
            meter.received();
            if framed {
                meter.speaks_frames();
            }
            // The head is there, and with it the request is over; an export's body follows for minutes.
            drop(meter.begin());
            for second in 1..300 {
                table.sweep(second * 1_000, false);
                meter.wrote(Some(1_000));
                meter.flushed();
            }
            assert_eq!(meter.overdue().is_none(), lives_on, "frames: {framed}");
            table.sweep(300_000 + limits::IDLE_MILLIS + 1_000, false);
            assert!(meter.overdue().is_some(), "and then it rests");
        }
    });
}

#[test]
fn a_stopping_node_waits_for_answers_that_windows_hold_back() {
    local(async {
        let table = Rc::new(Connections::default());
        let entered = table.enter(None);
        let meter = entered.meter.clone();
        meter.received();
        meter.speaks_frames();
        let answer = meter.sends();
        drop(meter.begin());
        assert!(!meter.is_at_rest());
        drop(answer);
        assert!(meter.is_at_rest());
    });
}

#[test]
fn trickled_bytes_do_not_prolong_a_head() {
    local(async {
        let table = Rc::new(Connections::default());
        let entered = table.enter(None);
        let meter = entered.meter.clone();
        for second in 0..10 {
            meter.received();
            assert!(meter.overdue().is_none(), "after {second} s");
            table.sweep(second * 1_000 + 1_000, false);
        }
        table.sweep(10_200, false);
        assert!(meter.overdue().is_some());
        drop(meter.begin());
        assert!(meter.overdue().is_none(), "the next request has its own time");
    });
}

#[test]
fn frames_that_are_no_requests_leave_a_connection_waiting_or_idle() {
    local(async {
        let pinged = |m: &Rc<Meter>| {
            m.received();
            m.speaks_frames();
            m.received();
            None
        };
        assert!(lives(9_000, false, pinged).await);
        assert!(!lives(10_300, false, pinged).await, "a first request may take as long as a head");
        assert!(!lives(100, true, pinged).await, "nothing is under way there that a stopping node waits for");
        let served = |m: &Rc<Meter>| {
            pinged(m);
            drop(m.begin());
            m.received();
            None
        };
        assert!(lives(74_000, false, served).await);
        assert!(!lives(75_300, false, served).await);
    });
}

#[test]
fn a_peer_that_takes_a_byte_now_and_then_is_cut_and_one_on_a_thin_line_is_not() {
    local(async {
        let reads = |bytes: usize| {
            move |m: &Rc<Meter>| {
                m.wrote(None);
                m.wrote(Some(bytes));
                m.wrote(None);
                Some(m.begin())
            }
        };
        assert!(!lives(10_300, false, reads(100)).await);
        assert!(lives(19_000, false, reads(10 * limits::ANSWER_RATE_MIN as usize)).await);
        assert!(!lives(20_500, false, reads(10 * limits::ANSWER_RATE_MIN as usize)).await);
        let done = |m: &Rc<Meter>| {
            m.wrote(None);
            m.flushed();
            Some(m.begin())
        };
        assert!(lives(60_000, false, done).await);
    });
}

#[test]
fn an_answer_that_its_windows_hold_back_ends_its_connection() {
    for begin in [0, 1_000, 4_900, 5_000, 123_400] {
        // A table of its own: time goes on and never back.
        let table = Rc::new(Connections::default());
        table.sweep(begin, false);
        let entered = table.enter(None);
        let meter = &entered.meter;
        let (answer, gone) = (meter.sends(), meter.sends());
        drop(gone);
        let _busy = meter.begin();
        let mut at = begin;
        while meter.overdue().is_none() {
            at += 100;
            table.sweep(at, false);
            assert!(at < begin + 60_000, "never overdue");
        }
        let after = at - begin;
        assert!((15_000..=limits::H2_ANSWER_MILLIS + 100).contains(&after), "{after} ms from {begin}");
        drop(answer);
        assert!(meter.overdue().is_none());
    }
}

#[test]
fn in_a_crowd_the_connections_that_make_it_are_refused_and_no_others() {
    const FEW: u32 = limits::CROWDED_REQUESTS;
    let table = Rc::new(Connections::default());
    let (one, other, third) = (table.enter(None), table.enter(None), table.enter(None));
    let begun: Vec<_> = (0..2 * FEW).map(|_| one.meter.begin()).collect();
    let _few: Vec<_> = (0..FEW).map(|_| other.meter.begin()).collect();
    assert!(one.meter.is_crowded(3 * FEW - 1) && !one.meter.is_crowded(3 * FEW));
    assert!(!other.meter.is_crowded(0), "who has a few may go on");
    drop(begun);
    assert!(!one.meter.is_crowded(0));
    let answers: Vec<_> = (0..FEW).map(|_| third.meter.sends()).collect();
    let _next = third.meter.begin();
    assert!(third.meter.is_crowded(2 * FEW), "answers that nobody takes are under way, too");
    drop(answers);
    assert!(!third.meter.is_crowded(0));
}

#[test]
fn draining_ends_what_rests_and_lets_requests_finish() {
    local(async {
        assert!(!lives(100, true, |_| None).await);
        assert!(lives(100, true, |m| Some(m.begin())).await);
        let unsent = |m: &Rc<Meter>| {
            drop(m.begin());
            m.wrote(None);
            None
        };
        assert!(lives(100, true, unsent).await, "an answer that is still under way is waited for");
    });
}

#[test]
fn a_place_is_used_again() {
    let table = Rc::new(Connections::default());
    let metrics = Arc::new(Metrics::default());
    let one = table.enter(Some(metrics.clone()));
    assert_eq!(metrics.connections.get(), 1);
    let at = one.at;
    drop(one);
    assert_eq!((table.enter(None).at, metrics.connections.get()), (at, 0));
}

#[test]
fn a_chunked_request_with_a_length_is_known_by_the_one_line_too_many() {
    let meter = Meter::new(Rc::default());
    meter.saw_lengths(2);
    assert!(!meter.hides_length(true, false), "the first is the request's own");
    assert!(meter.hides_length(false, true), "the second was taken away");
    let plain = Meter::new(Rc::default());
    assert!(!plain.hides_length(false, true));
}
