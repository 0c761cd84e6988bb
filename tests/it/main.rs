//! The whole server from outside: the contract's requests and refusals, broken and slow callers, outages of the database,
//! the command line, a newcomer's first minutes. Each test talks to the real binary.

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code)]
#[path = "../shared/redis.rs"]
mod private_redis;

mod admin;
mod bad_admin;
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

use support::shared;

/// An address that nobody listens on now.
pub fn unused() -> SocketAddr {
    ([127, 0, 0, 1], support::free_port()).into()
}
