//! Answers that a sound node never gives: the buffer is full, the node goes down, its disk is slow or fails, its
//! database can't be read.

use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::ends::{ENDS, LETTERS, add, drop_letter, requeue, with_letters};
use crate::held::Held;
use crate::support::http::{Connection, Request};
use crate::support::sale::{batch_for, claim, end, flash_sale, outcomes, word};
use crate::support::sql::Lock;
use crate::support::{Server, Site, Tool, eventually};

const ALL: &str = "/admin/v1/campaigns";

/// The id of a claim that there is not.
const NO_CLAIM: &str = "0192f0c1-7d2e-8c3a-8f00-3a6b1c2d4e5f";

fn create(id: &str) -> Request {
    Request::post(ALL, &flash_sale(id, 10))
}

fn change(id: &str) -> Request {
    Request::patch(&format!("{ALL}/{id}"), &json!({"add_stock": 1}))
}

pub fn a_full_buffer_and_the_end(held: &Held) {
    let site = Site::new().set("buffer.max_entries", 1_000);
    let server = site.start();
    server.create(&flash_sale("sale", 5_000));
    let lock = Lock::take(&site.database());
    let mut connection = Connection::open(server.public).expect("a connection");
    let mut answer = None;
    for n in 0..2_000 {
        let next = connection.call(&claim("sale", &format!("u{n}"))).expect("an answer");
        held.check("claim", &next);
        if next.status == 503 {
            answer = Some(next);
            break;
        }
    }
    answer.expect("a buffer of 1,000 is full after 2,000").expect(503, "buffer-full");
    let full = held.ask(&server, "claimBatch", &batch_for("sale", "full", 3), 200, "");
    assert!(outcomes(&full).iter().all(|outcome| word(outcome) == "buffer-full"), "{}", full.text());
    held.ask(&server, "changeCart", &add("u1", "s1"), 503, "buffer-full");
    lock.release();
    server.drained("sale");
    the_end(held, server);
}

/// A head that is under way keeps the public listener up while the node goes down.
fn the_end(held: &Held, mut server: Server) {
    let one = json!({"claim_id": NO_CLAIM});
    let mut begun = Vec::new();
    for (id, request) in [
        ("claim", claim("sale", "late")),
        ("claimBatch", batch_for("sale", "late", 3)),
        ("changeCart", add("late", "s1")),
        (ENDS[0].0, end(&one, ENDS[0].1)),
        (ENDS[1].0, end(&one, ENDS[1].1)),
    ] {
        let mut connection = Connection::open(server.public).expect("a connection");
        let bytes = request.bytes();
        connection.send(&bytes[..30]).expect("an open connection");
        begun.push((id, connection, bytes[30..].to_vec()));
    }
    eventually("the head is under way", || {
        let other = Connection::open(server.public).and_then(|mut c| c.call(&Request::get("/v1/campaigns")));
        other.is_ok_and(|a| a.status == 200)
    });
    std::thread::sleep(Duration::from_millis(200));
    server.signal(Signal::TERM);
    eventually("the node says that it goes down", || server.ask_admin(&Request::get("/readyz")).status == 503);
    let ready = held.ask(&server, "ready", &Request::get("/readyz"), 503, "");
    assert_eq!(ready.json()["reasons"], json!(["draining"]));
    held.ask(&server, "live", &Request::get("/livez"), 200, "");
    held.ask(&server, "createCampaign", &create("late"), 503, "draining");
    held.ask(&server, "changeCampaign", &change("sale"), 503, "draining");
    held.ask(&server, "requeueDeadLetter", &requeue(&json!(7)), 503, "draining");
    held.ask(&server, "dropDeadLetter", &drop_letter(&json!(7)), 503, "draining");
    for (id, mut connection, rest) in begun {
        connection.send(&rest).expect("an open connection");
        let last = connection.answer().expect("an answer").expect("an answer");
        held.check(id, &last);
        last.expect(503, "draining");
    }
    assert!(server.wait(crate::support::PATIENCE).success());
}

/// Lets strace change what `syscall` does in the threads that `whom` names, from when this returns.
fn inject(server: &Server, whom: &[&str], thread: u32, syscall: &str, what: &str) -> Tool {
    let mut command = Command::new("strace");
    command.args(["-qq", "-o", "/dev/null", "-e", &format!("trace={syscall}")]);
    command.args(["-e", &format!("inject={syscall}:{what}")]).args(whom).args(["-p", &thread.to_string()]);
    let tool = Tool::start(command.stdin(Stdio::null()).stderr(Stdio::null()));
    let status = format!("/proc/{}/task/{thread}/status", server.pid());
    eventually("strace holds the thread", || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        text.lines().any(|l| l.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0"))
    });
    tool
}

pub fn a_disk_that_is_slow_and_then_fails(held: &Held) {
    let site = Site::new().text("ingest.ack_deadline", "1s");
    let (server, letters) = with_letters(&site, &["d1", "d2"]);
    server.create(&flash_sale("sale", 100));
    let ended = ENDS.map(|(id, what)| (id, what, server.claimed("sale", what)));
    let thread = server.thread("sequencer");
    let slow = inject(&server, &[], thread, "fdatasync", "delay_enter=8000000");
    let unknown = held.ask(&server, "claim", &claim("sale", "u1"), 503, "outcome-unknown");
    let path = format!("/v1/claims/{}", unknown.field("claim_id"));
    let now = held.ask(&server, "readClaim", &Request::get(&path), 200, "");
    assert_eq!(now.field("status"), "unknown");
    let late = held.ask(&server, "claimBatch", &batch_for("sale", "late", 3), 200, "");
    assert!(outcomes(&late).iter().all(|outcome| word(outcome) == "outcome-unknown"), "{}", late.text());
    held.ask(&server, "createCampaign", &create("other"), 503, "outcome-unknown");
    held.ask(&server, "changeCampaign", &change("sale"), 503, "outcome-unknown");
    held.ask(&server, "changeCart", &add("u1", "s1"), 503, "outcome-unknown");
    held.ask(&server, "dropDeadLetter", &drop_letter(&letters[0]["id"]), 503, "outcome-unknown");
    for (id, what, one) in &ended {
        let late = held.ask(&server, id, &end(one, what), 503, "outcome-unknown");
        assert_eq!(late.field("claim_id"), one["claim_id"].as_str().expect("an id"));
    }
    slow.stop();
    for outcome in outcomes(&late) {
        let id = outcome["problem"]["claim_id"].as_str().expect("the claim to ask for").to_owned();
        eventually("what a batch was not told is found by its id", || {
            let answer = server.call(&Request::get(&format!("/v1/claims/{id}?wait=5")));
            matches!(answer.field("status").as_str(), "accepted" | "persisted")
        });
    }
    eventually("the claim's outcome is known", || {
        let answer = held.ask(&server, "readClaim", &Request::get(&format!("{path}?wait=5")), 200, "");
        matches!(answer.field("status").as_str(), "accepted" | "persisted")
    });

    for (id, what, one) in &ended {
        eventually("what was not told of an end is told of its repetition", || {
            server.call(&end(one, what)).status == 200
        });
        held.ask(&server, id, &end(one, what), 200, "");
    }
    let live = ENDS.map(|(id, what)| (id, what, server.claimed("sale", &format!("{what}-live"))));

    let failing = inject(&server, &[], thread, "fdatasync", "error=EIO");
    eventually("a failed sync is noticed", || {
        let answer = server.call(&claim("sale", "u2"));
        held.check("claim", &answer);
        answer.slug() == "not-durable"
    });
    let refused = held.ask(&server, "claimBatch", &batch_for("sale", "lost", 3), 200, "");
    assert!(outcomes(&refused).iter().all(|outcome| word(outcome) == "not-durable"), "{}", refused.text());
    held.ask(&server, "createCampaign", &create("third"), 503, "not-durable");
    held.ask(&server, "changeCampaign", &change("sale"), 503, "not-durable");
    held.ask(&server, "changeCart", &add("u1", "s1"), 503, "not-durable");
    held.ask(&server, "dropDeadLetter", &drop_letter(&letters[1]["id"]), 503, "not-durable");
    for (id, what, one) in &live {
        held.ask(&server, id, &end(one, what), 503, "not-durable");
    }
    let ready = held.ask(&server, "ready", &Request::get("/readyz"), 503, "");
    assert_eq!(ready.json()["reasons"], json!(["not-durable"]));
    failing.stop();
}

pub fn a_database_that_can_not_be_read(held: &Held) {
    let site = Site::new();
    let (server, letters) = with_letters(&site, &["d1"]);
    server.call(&add("u1", "s1")).expect(202, "");
    eventually("the cart is in the database", || {
        site.number("SELECT count(*) FROM cart_items WHERE user_id = 'u1'") == 1
    });
    drop(server);
    // After a start the cart is not in memory: to change it is to load it.
    let server = site.start();
    let failing = inject(&server, &["-f"], server.pid(), "pread64", "error=EIO");
    held.ask(&server, "readClaim", &Request::get(&format!("/v1/claims/{NO_CLAIM}")), 503, "overloaded");
    held.ask(&server, "readClaimsOfUser", &Request::get("/v1/users/u1/claims"), 503, "overloaded");
    held.ask(&server, "readCart", &Request::get("/v1/carts/u1"), 503, "overloaded");
    held.ask(&server, "changeCart", &add("u1", "s1"), 503, "overloaded");
    for (id, what) in ENDS {
        held.ask(&server, id, &end(&json!({"claim_id": NO_CLAIM}), what), 503, "overloaded");
    }
    held.ask(&server, "readDeadLetters", &Request::get(LETTERS), 503, "overloaded");
    held.ask(&server, "dropDeadLetter", &drop_letter(&letters[0]["id"]), 503, "overloaded");
    held.ask(&server, "requeueDeadLetter", &requeue(&letters[0]["id"]), 503, "overloaded");
    failing.stop();
}
