//! What befalls the database, and the way to it: no buyer notices any of it.

use std::cell::{Cell, RefCell};
use std::io::Write as _;
use std::net::TcpStream;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::run::{Run, Scenario};
use crate::support::http::Request;
use crate::support::proxy::Cut;
use crate::support::sale::{claim, flash_sale};
use crate::support::{PATIENCE, http, within};
use crate::world::{SHOP, World};

/// All that can befall it.
pub const SCENARIOS: &[Scenario] = &[
    ("the_database_is_killed_and_started_again", killed),
    ("the_database_stands_still", stopped),
    ("the_database_is_away_while_claims_come_steadily", away),
    ("connections_to_the_database_break_before_and_after_commits", cut),
    ("sessions_with_the_database_end_again_and_again", ended),
    ("the_database_has_no_room_for_connections", crowded),
    ("the_database_takes_no_writes", read_only),
    ("a_table_is_locked", locked),
    ("a_table_is_gone_for_a_while", without_table),
    ("statements_fail_in_every_way", failing),
    ("statements_are_cancelled", cancelled),
    ("another_session_wants_what_the_worker_has", deadlocked),
    ("rows_that_the_database_will_not_take", poisoned),
    ("another_database_in_its_place", replaced),
];

/// What is done to the database delays rows, and nothing else.
fn delays(run: &mut Run<'_>, time: Duration, breaks: impl FnOnce(&mut World), mends: impl FnOnce(&mut World)) {
    run.takes_all = true;
    run.calm();
    breaks(run.world);
    std::thread::sleep(time);
    run.calm();
    let waiting = run.world.waiting().unwrap_or_default();
    assert!(waiting > 0, "it hit nothing: all is drained");
    run.figures.text("waiting", waiting);
    mends(run.world);
    run.drains_on("drains again after");
    run.calm();
}

fn killed(run: &mut Run<'_>) {
    delays(run, run.scale.gone, |world| world.postgres.crash(), |world| world.postgres.run());
    delays(run, Duration::ZERO, |world| world.postgres.stop(), |world| world.postgres.run());
}

fn stopped(run: &mut Run<'_>) {
    let stop = |world: &mut World| world.postgres.signal(Signal::STOP);
    delays(run, run.scale.still, stop, |world| world.postgres.signal(Signal::CONT));
}

fn away(run: &mut Run<'_>) {
    let (time, rate) = run.scale.steady;
    run.load.set_rate(rate);
    let (start, before) = (Instant::now(), run.load.acks());
    delays(run, time, |world| world.store_proxy.refuse(true), |world| world.store_proxy.refuse(false));
    let told = (run.load.acks() - before) as f64 / start.elapsed().as_secs_f64();
    run.figures.text("acks a second", format!("{told:.0}"));
}

fn cut(run: &mut Run<'_>) {
    run.takes_all = true;
    run.calm();
    for no in 0..2 * run.scale.times {
        let fired = run.world.store_proxy.fired();
        run.world.store_proxy.cut(if no % 2 == 0 { Cut::After } else { Cut::Before });
        within(PATIENCE, "a connection breaks at a COMMIT", || (run.world.store_proxy.fired() > fired).then_some(()));
    }
    run.drains_on("drains again after");
    run.calm();
}

fn ended(run: &mut Run<'_>) {
    run.takes_all = true;
    run.calm();
    for _ in 0..2 * run.scale.times {
        run.world.end_sessions();
        std::thread::sleep(Duration::from_millis(40));
    }
    run.drains_on("drains again after");
    run.calm();
}

/// A session that only takes a place.
fn sit(port: u16) -> Option<TcpStream> {
    use std::io::Read as _;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let mut text = 196_608_u32.to_be_bytes().to_vec();
    text.extend_from_slice(b"user\0postgres\0database\0postgres\0\0");
    let length = u32::try_from(text.len() + 4).expect("a short text").to_be_bytes();
    stream.write_all(&[&length[..], &text].concat()).ok()?;
    let mut answer = [0; 1];
    stream.read_exact(&mut answer).ok()?;
    (answer == *b"R").then_some(stream)
}

fn crowded(run: &mut Run<'_>) {
    let seats = RefCell::new(Vec::new());
    let port = run.world.postgres.port;
    let fill = |world: &mut World| {
        // Ours leave; whoever comes back finds all places taken.
        world.store_proxy.refuse(true);
        while let Some(seat) = sit(port) {
            seats.borrow_mut().push(seat);
        }
        world.store_proxy.refuse(false);
    };
    delays(run, run.scale.gone, fill, |_| seats.borrow_mut().clear());
}

fn read_only(run: &mut Run<'_>) {
    let mend = |world: &mut World| {
        world.postgres.sql("postgres", &format!("ALTER DATABASE {SHOP} RESET default_transaction_read_only"));
        world.end_sessions();
    };
    let breaks = |world: &mut World| {
        world.postgres.sql("postgres", &format!("ALTER DATABASE {SHOP} SET default_transaction_read_only = on"));
        world.end_sessions();
    };
    delays(run, run.scale.gone, breaks, mend);
}

/// A session beside the system's that does something and holds on to it until told otherwise.
struct Beside(Child);

impl Beside {
    fn begin(world: &World, text: &str) -> Self {
        let mut beside = Self(world.postgres.shell(SHOP));
        beside.say(&format!("BEGIN; {text};"));
        let own = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'psql' AND state = 'idle in transaction' \
                   AND datname = current_database()";
        within(PATIENCE, "the other session holds on", || (world.sql(own) == [["1"]]).then_some(()));
        beside
    }

    fn say(&mut self, text: &str) {
        let input = self.0.stdin.as_mut().expect("a pipe");
        writeln!(input, "{text}").and_then(|()| input.flush()).expect("psql reads");
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn locked(run: &mut Run<'_>) {
    let beside = Cell::new(None);
    let lock = |world: &mut World| beside.set(Some(Beside::begin(world, "LOCK TABLE claims IN EXCLUSIVE MODE")));
    delays(run, run.scale.still, lock, |_| beside.set(None));
}

fn without_table(run: &mut Run<'_>) {
    let rename = |world: &mut World| drop(world.sql("ALTER TABLE claims RENAME TO claims_away"));
    let back = |world: &mut World| drop(world.sql("ALTER TABLE claims_away RENAME TO claims"));
    delays(run, run.scale.gone, rename, back);
}

/// Every statement that writes claims fails but each seventh: once in every way that can be tried again.
fn failing(run: &mut Run<'_>) {
    run.takes_all = true;
    run.calm();
    run.world.sql(
        "CREATE SEQUENCE failures; \
         CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$ \
         DECLARE \
             code text := (ARRAY['40001', '40P01', '55P03', '53100', '53200', '57014'])[nextval('failures') % 7]; \
         BEGIN \
             IF code IS NOT NULL THEN RAISE EXCEPTION 'as planned' USING ERRCODE = code; END IF; \
             RETURN NULL; \
         END $$; \
         CREATE TRIGGER fails BEFORE INSERT ON claims FOR EACH STATEMENT EXECUTE FUNCTION fails()",
    );
    let failed = |world: &World| world.sql("SELECT last_value FROM failures")[0][0].parse::<u64>().expect("a number");
    within(PATIENCE, "statements fail in every way", || (failed(run.world) > 14).then_some(()));
    run.world.sql("DROP TRIGGER fails ON claims; DROP FUNCTION fails; DROP SEQUENCE failures");
    run.drains_on("drains again after");
    run.calm();
    let dead = run.world.sql("SELECT count(*) FROM dead_letters WHERE resolution IS NULL");
    assert_eq!(dead, [["0"]], "what can be tried again is no poison");
}

fn cancelled(run: &mut Run<'_>) {
    run.takes_all = true;
    run.calm();
    run.world.sql(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1000); RETURN NULL; END'; \
         CREATE TRIGGER slow BEFORE INSERT ON claims FOR EACH STATEMENT EXECUTE FUNCTION slow()",
    );
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'PgSleep' \
                  AND datname = current_database()";
    for _ in 0..3 {
        within(PATIENCE, "a statement is broken off", || (run.world.sql(cancel) == [["1"]]).then_some(()));
    }
    // The trigger can't be dropped while a statement sleeps in it.
    let drop_it = "SET lock_timeout = '100ms'; DROP TRIGGER slow ON claims; DROP FUNCTION slow";
    within(PATIENCE, "the trigger is gone", || {
        run.world.sql(cancel);
        run.world.postgres.try_sql(SHOP, drop_it).ok()
    });
    run.drains_on("drains again after");
    run.calm();
}

fn deadlocked(run: &mut Run<'_>) {
    run.takes_all = true;
    run.calm();
    let mut beside = Beside::begin(run.world, "SELECT 1 FROM campaigns ORDER BY no FOR UPDATE");
    let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name LIKE 'forebay%' AND \
                 wait_event_type = 'Lock' AND datname = current_database()";
    within(PATIENCE, "the worker waits", || (run.world.sql(waits) == [["t"]]).then_some(()));
    beside.say("UPDATE forebay_meta SET format = format; COMMIT;");
    within(PATIENCE, "the server sees it", || {
        run.world.postgres.log_text().contains("deadlock detected").then_some(())
    });
    drop(beside);
    run.drains_on("drains again after");
    run.calm();
}

/// One poison entry blocks nobody: it goes to the dead letters, and becomes a row once it can.
fn poisoned(run: &mut Run<'_>) {
    let (tag, before) = (run.load.campaigns().tag.clone(), dead_letters(run.world));
    // What an operator gave up before may have left some that can never be rows.
    let older = run.world.sql("SELECT coalesce(max(id), 0) FROM dead_letters")[0][0].clone();
    let id = format!("own-{tag}");
    run.world.create(0, &flash_sale(&id, 1_000));
    run.world.sql("ALTER TABLE claims ADD CONSTRAINT no_poison CHECK (user_id NOT LIKE 'poison%')");
    run.calm();
    for no in 0..3 {
        let gate = run.world.gates[no].site.public;
        let answer = http::once(gate, &claim(&id, &format!("poison-{no}")), Duration::from_secs(5)).expect("an answer");
        assert_eq!(answer.status, 202, "{}", answer.text());
        run.calm();
    }
    within(PATIENCE, "poison goes to the dead letters", || (dead_letters(run.world) == before + 3).then_some(()));
    run.drains_on("drains on after");
    run.world.sql("ALTER TABLE claims DROP CONSTRAINT no_poison");
    let mine = format!("SELECT id FROM dead_letters WHERE resolution IS NULL AND id > {older} ORDER BY id");
    let letters = run.world.sql(&mine);
    assert_eq!(letters.len(), 3);
    for (no, letter) in letters.iter().enumerate() {
        let request = Request::new("POST", &format!("/admin/v1/dead-letters/{}/requeue", letter[0]));
        let answer = run.world.gates[no % 3].admin(&request).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let rows = format!("SELECT count(*) FROM claims WHERE campaign = '{id}'");
    assert_eq!(run.world.sql(&rows), [["3"]]);
    run.calm();
}

fn dead_letters(world: &World) -> u64 {
    let open = world.sql("SELECT count(*) FROM dead_letters WHERE resolution IS NULL");
    open[0][0].parse().expect("a number")
}

/// A database of the same name that is empty: nothing is written to it, and nothing is lost.
fn replaced(run: &mut Run<'_>) {
    run.calm();
    run.drains_on("drains within");
    let swap = |world: &World, text: &str| {
        world.store_proxy.refuse(true);
        let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE '{SHOP}%'");
        world.postgres.sql("postgres", &end);
        // Whoever is on the way out still counts for a moment.
        within(PATIENCE, "the database can be swapped", || world.postgres.try_sql("postgres", text).ok());
        world.store_proxy.refuse(false);
    };
    swap(run.world, &format!("ALTER DATABASE {SHOP} RENAME TO {SHOP}_away"));
    swap(run.world, &format!("CREATE DATABASE {SHOP}"));
    std::thread::sleep(run.scale.still);
    let there = run.world.sql("SELECT count(*) FROM pg_tables WHERE tablename = 'claims'");
    if there == [["1"]] {
        assert_eq!(
            run.world.sql("SELECT count(*) FROM claims"),
            [["0"]],
            "it writes to a database that is not its own"
        );
    }
    swap(run.world, &format!("DROP DATABASE {SHOP} WITH (FORCE)"));
    swap(run.world, &format!("ALTER DATABASE {SHOP}_away RENAME TO {SHOP}"));
    let up = Instant::now();
    run.drains_on("drains again after");
    run.again(&crate::world::ALL, up);
    run.calm();
}
