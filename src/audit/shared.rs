//! The audit of shared mode: Redis takes the journal's place. What waits is its list, and who holds what is what it says.
//!
//! Redis can't be read whole at one moment while a sale goes on, so that is tried a few times; in the end it is said that it
//! could not be done.

use std::time::Duration;

use super::{ATTEMPTS, Auditor, Findings, Scope, compare};
use crate::limits;
use crate::queue::HashKey;
use crate::queue::redis::client::Server;
use crate::queue::redis::snapshot;
use crate::sale::Seq;
use crate::store::Database;

/// Audits.
///
/// # Errors
/// Why it could not be done; that is no mismatch.
pub(super) async fn audit(scope: &Scope<'_>, server: &Server, store: &Database) -> anyhow::Result<Findings> {
    let secrets = store.secrets().await?;
    let secrets = secrets.ok_or_else(|| anyhow::anyhow!("the database belongs to no shared buffer yet"))?;
    let mut connection = server.connect()?;
    let mut found = None;
    for _ in 0..ATTEMPTS {
        let cursor = cursor(store, secrets.identity).await?;
        let Some(read) = snapshot::read(&mut connection, HashKey(secrets.hash_key))? else {
            tokio::time::sleep(Duration::from_millis(limits::AUDIT_PAUSE_MILLIS)).await;
            continue;
        };
        if read.retired > cursor {
            // It has gone on since the cursor was read.
            continue;
        }
        let mut auditor = Auditor::new(HashKey(secrets.hash_key), cursor);
        auditor.follower.book = read.book;
        read.waiting.iter().for_each(|entry| auditor.note_entry(entry));
        let findings = compare(scope, store, &auditor).await?;
        if findings.clean || self::cursor(store, secrets.identity).await? == cursor {
            return Ok(findings);
        }
        // Rows and letters that changed while they were read prove nothing: begin anew.
        found = Some(findings);
    }
    found.ok_or_else(|| {
        anyhow::anyhow!(
            "entries come and go while Redis is read, or the partition is not open: rows can be held against it once the \
             sale is quiet. Until then each campaign's balance tells whether its units and money add up"
        )
    })
}

async fn cursor(store: &Database, identity: u128) -> anyhow::Result<Seq> {
    let position = store.position().await?;
    if let Some(position) = position.filter(|position| position.journal != identity) {
        anyhow::bail!("the database belongs to {:032x}, its gates to {identity:032x}", position.journal);
    }
    Ok(position.map_or(Seq(0), |position| position.cursor))
}
