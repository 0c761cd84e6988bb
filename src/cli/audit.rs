//! `forebay audit`: match journal, receipts and rows. Exit code 0 clean, 1 mismatch, 2 could not audit.

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;

use super::{AuditArgs, EXIT_FAILURE, EXIT_OK};
use crate::audit::{self, Findings, Scope};
use crate::engine;
use crate::sale::CampaignId;
use crate::store::Mode;

/// Runs the command; the exit code is what it found.
///
/// # Errors
/// It could not be done.
pub fn run(file: Option<&Path>, args: &AuditArgs) -> anyhow::Result<u8> {
    let config = super::load(file, &args.data.overrides())?;
    let campaign = args
        .campaign
        .as_deref()
        .map(|id| CampaignId::parse(id).map_err(|e| anyhow::anyhow!("--campaign: {id:?} given; expected {e}")));
    let campaign = campaign.transpose()?;
    let receipts = args.receipts.as_deref().map(|p| if p == Path::new("-") { Path::new("/dev/stdin") } else { p });
    let redis = engine::shared_server(&config)?;
    let scope = Scope { data_dir: &config.buffer.data_dir, redis: redis.as_ref(), campaign, receipts };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let findings = runtime.block_on(async {
        let store = super::database(&config, Mode::ReadOnly)?;
        let findings = audit::audit(&scope, &store).await;
        store.close().await;
        findings.context("the audit could not be done")
    })?;
    if args.json {
        super::print(&format!("{}\n", serde_json::to_string_pretty(&findings)?))?;
    } else {
        super::print(&report(&findings))?;
    }
    Ok(if findings.clean { EXIT_OK } else { EXIT_FAILURE })
}

/// Units, or a dash where there are none to count.
fn shown(units: Option<u64>) -> String {
    units.map_or("-".to_owned(), |units| units.to_string())
}

fn report(findings: &Findings) -> String {
    let mut out = String::new();
    for c in &findings.campaigns {
        let _ = writeln!(
            out,
            "{}: stock {} = free {} + accepted {} + persisted {} + settled {} + dead {}, returned {}{}",
            c.campaign,
            shown(c.stock),
            shown(c.free),
            c.accepted,
            c.persisted,
            c.settled,
            c.dead,
            c.returned,
            if c.error == 0 && c.money_error == 0 { "" } else { "   DOES NOT ADD UP" }
        );
    }
    for what in &findings.named {
        let _ = writeln!(out, "mismatch: {what}");
    }
    for (first, last) in &findings.accepted_losses {
        let _ = writeln!(out, "accepted as lost: entries {first} to {last}, by `forebay recover --accept-loss`");
    }
    let (end, cursor, receipts) = (findings.journal_end, findings.cursor, findings.receipts);
    let _ = writeln!(out, "journal up to {end}, database up to {cursor}, {receipts} receipts checked");
    let _ = match findings.mismatches {
        0 => writeln!(out, "clean"),
        n => writeln!(out, "{n} mismatches"),
    };
    out
}
