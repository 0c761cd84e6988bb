//! `forebay recover` of shared mode: how the partition stands, whom an opening waits for, and the operator's word that a gate
//! will never come back.

use std::fmt::Write as _;

use anyhow::Context;

use crate::config::Config;
use crate::engine::recover::{Told, Wish};
use crate::queue::redis::client::Connection;
use crate::queue::redis::protocol::{self, Status};
use crate::store::{Database, GateRecord, GateState, Mode};
use crate::workers::shared::gates;

/// Looks, and does what was asked.
///
/// # Errors
/// What can't be looked at or done.
pub(in crate::engine) fn run(config: &Config, wish: &Wish) -> anyhow::Result<Told> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mode = if wish.yes { Mode::ReadWrite } else { Mode::ReadOnly };
    let store = Database::of(&config.store, mode)?;
    let told = runtime.block_on(look(config, &store, wish));
    runtime.block_on(store.close());
    told
}

/// How the partition stands, over a connection for more; and which gates have offered for an opening that is under way.
struct Buffer {
    connection: Connection,
    status: Status,
    offered: Vec<u128>,
}

fn buffer(config: &Config) -> anyhow::Result<Buffer> {
    let server = super::server(config)?.ok_or_else(|| anyhow::anyhow!("buffer.kind is not \"redis\""))?;
    let mut connection = server.connect()?;
    let status = protocol::status(&connection.call("status", &[b""])?)?;
    let offered = match &status.recovery {
        Some(token) => gates::offered(&mut connection, token)?,
        None => Vec::new(),
    };
    Ok(Buffer { connection, status, offered })
}

async fn look(config: &Config, store: &Database, wish: &Wish) -> anyhow::Result<Told> {
    anyhow::ensure!(
        wish.keep.is_none() && !wish.accept_loss,
        "--keep and --accept-loss are for a journal and its database; with buffer.kind = \"redis\" there is --dismiss-gate"
    );
    let mut text = String::new();
    let mut buffer = buffer(config);
    let is_open = buffer.as_ref().is_ok_and(|buffer| buffer.status.is_open);
    let _ = match &buffer {
        Ok(buffer) => writeln!(text, "redis:    {}", words(&buffer.status)),
        Err(error) => writeln!(text, "redis:    {error:#}"),
    };
    let gates = store.gates().await.context("the gates that the database knows")?;
    for gate in &gates {
        let _ = writeln!(
            text,
            "gate:     {:032x} {}, since {}",
            gate.id,
            state(gate, buffer.as_ref().ok()),
            gate.changed_at
        );
    }
    if let Some(id) = wish.dismiss_gate {
        let known = gates.iter().find(|gate| gate.id == id);
        let Some(known) = known else { anyhow::bail!("--dismiss-gate: the database knows no gate {id:032x}") };
        if wish.yes {
            // First, so that it acknowledges nothing that an opening would not ask it for; and again, since until it is written down
            // that it is dismissed a worker may let it in again.
            let is_told = shut_out(&mut buffer, id)?;
            if known.state != GateState::Dismissed {
                store.set_gate(id, GateState::Dismissed, "forebay recover").await?;
                shut_out(&mut buffer, id)?;
            }
            if !is_told {
                text.push_str("Redis can't be told to take nothing more from it: make sure that it is stopped.\n");
            }
        }
        if known.state == GateState::Dismissed {
            let _ = writeln!(text, "It was dismissed before.");
        } else if wish.yes {
            let _ = writeln!(
                text,
                "Gate {id:032x} is dismissed: no opening waits for it, and it never serves again. What only its journal has, \
                 acknowledged claims among it, is lost; set its data folder aside before you start a gate in its place."
            );
        } else {
            let _ = writeln!(
                text,
                "With --yes gate {id:032x} would be dismissed: what only its journal has, acknowledged claims among it, \
                 would be lost. Start it again instead if its folder is still there."
            );
        }
        return Ok(Told { text, is_right: wish.yes || known.state == GateState::Dismissed });
    }
    if is_open {
        let _ = writeln!(text, "The partition is open; there is nothing to do.");
    } else if buffer.is_err() {
        let _ = writeln!(
            text,
            "Nothing is admitted while Redis is away; whom an opening waits for is known once it is back."
        );
    } else {
        let _ = writeln!(
            text,
            "The partition is not open: a worker opens it once every active gate has come back and offered what it keeps. \
             Start the missing ones. Only where a gate's folder is lost for good: --dismiss-gate ID."
        );
    }
    Ok(Told { text, is_right: is_open })
}

/// Has Redis take nothing more from a gate; false where Redis can't be reached.
fn shut_out(buffer: &mut anyhow::Result<Buffer>, id: u128) -> anyhow::Result<bool> {
    let Ok(buffer) = buffer else { return Ok(false) };
    let told = gates::shut_out(&mut buffer.connection, id);
    told.map(|()| true).context("--dismiss-gate: Redis was not told to take nothing more from it")
}

fn words(status: &Status) -> String {
    let is = match (&status.fenced, &status.recovery, status.is_open) {
        (_, _, true) => format!("open under epoch {}", status.epoch),
        (_, Some(_), _) => "being opened".to_owned(),
        (Some(why), None, _) => format!("fenced: {why}"),
        (None, None, _) if !status.exists => "empty".to_owned(),
        (None, None, _) => "not open since its last start".to_owned(),
    };
    format!("{is}; {} entries wait, the last is {}", status.entries, status.seq)
}

fn state(gate: &GateRecord, buffer: Option<&Buffer>) -> &'static str {
    let is_asked = buffer.is_some_and(|buffer| buffer.status.recovery.is_some());
    let has_offered = buffer.is_some_and(|buffer| buffer.offered.contains(&gate.id));
    match gate.state {
        GateState::Active if has_offered => "is active, and has offered what it keeps",
        GateState::Active if is_asked => "is missing: the opening waits for it",
        GateState::Active => "is active",
        GateState::Left => "has left",
        GateState::Dismissed => "is dismissed",
    }
}
