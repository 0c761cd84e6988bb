//! The whole server from outside: the contract's requests and refusals, broken and slow callers, outages of the database,
//! the command line, a newcomer's first minutes. Each test talks to the real binary.

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code)]
#[path = "../shared/redis.rs"]
mod private_redis;

mod admin;
mod bad_admin;
mod bad_requests;
mod batches;
mod carts;
mod claims;
mod commands;
mod complaints;
mod cors;
mod credentials;
mod dead_claims;
mod dead_letters;
mod doctor;
mod doctor_redis;
mod ends;
mod export;
mod folders;
mod kinds;
mod life;
mod metrics;
mod outages;
mod panics;
mod postgres;
mod reads;
mod service;
mod slow_clients;
mod wire;
mod wrong_pair;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use support::{Server, Site};

/// The server of all tests that do nothing to the engine itself. It ends with this process, however that ends: its
/// keeper waits for the end of a pipe that only this process holds, ends its own child and removes the folder.
pub fn shared() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    static KEEPER: Mutex<Option<Child>> = Mutex::new(None);
    SERVER.get_or_init(|| {
        let site = Site::new();
        let server = site.start();
        let keeper = "read -r end; kill -9 \"$1\" 2>/dev/null; rm -rf \"$2\"";
        let mut command = Command::new("sh");
        command.args(["-c", keeper, "keeper", &server.pid().to_string()]).arg(site.folder.keep());
        *KEEPER.lock().expect("nobody panics with it") = Some(command.stdin(Stdio::piped()).spawn().expect("a shell"));
        server
    })
}

/// An address that nobody listens on now.
pub fn unused() -> SocketAddr {
    ([127, 0, 0, 1], support::free_port()).into()
}
