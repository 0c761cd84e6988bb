//! What a database server does wrong, and the network before it: claims are taken all the same, and afterwards each is a row,
//! once.

use std::process::Child;
use std::time::Duration;

use rustix::process::Signal;

use super::{Sale, fresh};
use crate::support::postgres::Postgres;
use crate::support::proxy::{Cut, Proxy};
use crate::support::{Server, Site, eventually};

const CLAIMS: usize = 300;

/// The claims that wait for the database are at least so many, and it is asked again and again.
fn lags(server: &Server, least: usize) {
    let retries = || server.metric("forebay_drain_retries_total").unwrap_or_default();
    let before = retries();
    eventually("the lag is visible", || {
        server.metric("forebay_buffer_entries").is_some_and(|entries| entries >= least as f64)
    });
    eventually("it is tried again", || retries() > before);
}

#[test]
fn a_database_that_crashed_or_stood_still_gets_all_its_rows() {
    let mut postgres = Postgres::start(&[]);
    postgres.sql("postgres", "CREATE DATABASE shop");
    let mut sale = Sale::on(&postgres.url("shop"));
    let server = sale.begin();
    for round in 0..3 {
        sale.sell(&server, CLAIMS);
        if round % 2 == 0 {
            postgres.crash();
        } else {
            postgres.stop();
        }
        sale.sell(&server, CLAIMS);
        lags(&server, CLAIMS);
        postgres.run();
        server.drained("sale");
        sale.sell(&server, CLAIMS);
        postgres.signal(Signal::STOP);
        sale.sell(&server, CLAIMS);
        std::thread::sleep(Duration::from_secs(2));
        postgres.signal(Signal::CONT);
    }
    sale.finish(server, |text| postgres.sql("shop", text));
}

#[test]
fn a_commit_whose_answer_is_lost_is_neither_lost_nor_done_twice() {
    let scratch = Postgres::scratch();
    let server_port = Postgres::shared().port;
    let proxy = Proxy::before(server_port);
    let mut sale = Sale::on(&Postgres::shared().url_at(proxy.port, &scratch.name));
    let server = sale.begin();
    sale.sell(&server, 10);
    server.drained("sale");
    for round in 0..10 {
        let fired = proxy.fired();
        proxy.cut(if round % 2 == 0 { Cut::After } else { Cut::Before });
        sale.sell(&server, CLAIMS);
        eventually("a connection breaks at a COMMIT", || proxy.fired() > fired);
        server.drained("sale");
    }
    proxy.refuse(true);
    sale.sell(&server, CLAIMS);
    lags(&server, CLAIMS);
    proxy.refuse(false);
    sale.finish(server, |text| scratch.sql(text));
}

/// A session beside ours that does something and holds on to it until told otherwise.
struct Beside(Child);

impl Beside {
    fn begin(scratch: &crate::support::postgres::Scratch, text: &str) -> Self {
        let mut beside = Self(Postgres::shared().shell(&scratch.name));
        beside.say(&format!("BEGIN; {text};"));
        let own = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'psql' AND state = 'idle in transaction' \
                   AND datname = current_database()";
        eventually("the other session holds on", || scratch.sql(own) == [["1"]]);
        beside
    }

    fn say(&mut self, text: &str) {
        use std::io::Write as _;
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

#[test]
fn locks_and_deadlocks_with_other_sessions_delay_rows_and_lose_none() {
    let (scratch, mut sale) = fresh();
    let server = sale.begin();
    sale.sell(&server, CLAIMS);
    server.drained("sale");
    // A lock for longer than a statement waits for one.
    let beside = Beside::begin(&scratch, "LOCK TABLE claims IN EXCLUSIVE MODE");
    sale.sell(&server, CLAIMS);
    lags(&server, CLAIMS);
    drop(beside);
    server.drained("sale");
    // A deadlock: each has what the other one wants.
    let mut beside = Beside::begin(&scratch, "SELECT 1 FROM campaigns WHERE no = 0 FOR UPDATE");
    sale.sell(&server, CLAIMS);
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'forebay%' AND wait_event_type = 'Lock' \
                 AND datname = current_database()";
    eventually("the writer waits", || scratch.sql(waits) == [["1"]]);
    beside.say("UPDATE forebay_meta SET format = format; COMMIT;");
    eventually("the server sees it", || Postgres::shared().log_text().contains("deadlock detected"));
    drop(beside);
    sale.finish(server, |text| scratch.sql(text));
}

#[test]
fn statements_that_the_server_breaks_off_are_tried_again() {
    let (scratch, mut sale) = fresh();
    let server = sale.begin();
    sale.sell(&server, 10);
    server.drained("sale");
    scratch.sql(
        "CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN RAISE EXCEPTION ''could not serialize'' USING ERRCODE = ''serialization_failure''; END'; \
         CREATE TRIGGER fails BEFORE INSERT ON claims EXECUTE FUNCTION fails()",
    );
    sale.sell(&server, CLAIMS);
    lags(&server, CLAIMS);
    scratch.sql("DROP TRIGGER fails ON claims");
    server.drained("sale");
    // What takes too long ends with the same code as what somebody cancels.
    scratch.sql(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1000); RETURN NULL; END'; \
         CREATE TRIGGER slow BEFORE INSERT ON claims EXECUTE FUNCTION slow()",
    );
    sale.sell(&server, CLAIMS);
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'PgSleep' \
                  AND datname = current_database()";
    for _ in 0..2 {
        let retries = || server.metric("forebay_drain_retries_total").unwrap_or_default();
        let before = retries();
        eventually("a statement is broken off", || scratch.sql(cancel) == [["1"]]);
        eventually("it is tried again", || retries() > before);
    }
    // The trigger can't be dropped while a statement sleeps in it.
    let drop_it = "SET lock_timeout = '100ms'; DROP TRIGGER slow ON claims";
    eventually("the trigger is gone", || {
        scratch.sql(cancel);
        Postgres::shared().try_sql(&scratch.name, drop_it).is_ok()
    });
    sale.finish(server, |text| scratch.sql(text));
}

#[test]
fn a_table_that_is_gone_or_a_server_that_takes_no_writes_delays_rows_and_loses_none() {
    let (scratch, mut sale) = fresh();
    let server = sale.begin();
    sale.sell(&server, 10);
    server.drained("sale");
    scratch.sql("ALTER TABLE claims RENAME TO claims_away");
    sale.sell(&server, CLAIMS);
    lags(&server, CLAIMS);
    scratch.sql("ALTER TABLE claims_away RENAME TO claims");
    server.drained("sale");
    let end_all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'forebay%' \
                   AND datname = current_database()";
    let name = &scratch.name;
    scratch.sql(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on"));
    scratch.sql(end_all);
    sale.sell(&server, CLAIMS);
    lags(&server, CLAIMS);
    let writable = format!("ALTER DATABASE {name} RESET default_transaction_read_only");
    Postgres::shared().sql("postgres", &writable);
    scratch.sql(end_all);
    sale.finish(server, |text| scratch.sql(text));
}

#[test]
fn a_start_without_a_connection_left_takes_claims_and_drains_later() {
    let postgres = Postgres::start(&["max_connections=10", "max_wal_senders=0", "autovacuum=off"]);
    postgres.sql("postgres", "CREATE DATABASE shop");
    let mut sale = Sale::on(&postgres.url("shop"));
    let server = sale.begin();
    sale.sell(&server, 10);
    server.drained("sale");
    server.kill();
    let mut shells = Vec::new();
    eventually("every connection is taken", || {
        shells.push(postgres.shell("postgres"));
        postgres.try_sql("postgres", "SELECT 1").is_err_and(|error| error.contains("too many clients"))
    });
    let server = sale.site.start();
    sale.sell(&server, CLAIMS);
    lags(&server, CLAIMS);
    for mut shell in shells {
        let _ = shell.kill();
        let _ = shell.wait();
    }
    sale.finish(server, |text| postgres.sql("shop", text));
}

#[test]
fn a_start_before_its_database_server_takes_claims_and_drains_later() {
    let mut postgres = Postgres::start(&[]);
    postgres.sql("postgres", "CREATE DATABASE shop");
    postgres.stop();
    let mut sale = Sale { site: Site::new().text("store.url", &postgres.url("shop")), acknowledged: Vec::new() };
    let server = sale.begin();
    sale.sell(&server, CLAIMS);
    postgres.run();
    sale.finish(server, |text| postgres.sql("shop", text));
}
