//! `forebay receipt`: check claims as clients received them against their receipts, and make new keys.

use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use super::{EXIT_FAILURE, EXIT_OK, ReceiptAction, ReceiptArgs, ReceiptVerifyArgs};
use crate::receipts::{KeyRing, fields_from_claim_json};

/// Runs the command; the exit code is what it found.
///
/// # Errors
/// It could not be done.
pub fn run(file: Option<&Path>, args: &ReceiptArgs) -> anyhow::Result<u8> {
    match &args.action {
        ReceiptAction::Verify(args) => verify(file, args),
        ReceiptAction::Rotate(data) => {
            let config = super::load(file, &data.overrides())?;
            let no = KeyRing::open(&config.buffer.data_dir)?.rotate()?;
            super::print(&format!("key k{no} signs from the server's next start on; the older ones still verify\n"))?;
            Ok(EXIT_OK)
        }
    }
}

fn verify(file: Option<&Path>, args: &ReceiptVerifyArgs) -> anyhow::Result<u8> {
    let config = super::load(file, &args.data.overrides())?;
    let keys = KeyRing::open(&config.buffer.data_dir)?;
    let path = args.file.as_deref().filter(|p| *p != Path::new("-")).unwrap_or(Path::new("/dev/stdin"));
    let source = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    let (mut good, mut bad) = (0u64, 0u64);
    for (at, line) in BufReader::new(source).lines().enumerate() {
        let line = line.with_context(|| path.display().to_string())?;
        if line.trim().is_empty() {
            continue;
        }
        match check(&keys, &line) {
            Ok(()) => good += 1,
            Err(why) => {
                bad += 1;
                super::print(&format!("line {}: {why}\n", at + 1))?;
            }
        }
    }
    super::print(&format!("{good} receipts are genuine, {bad} are not\n"))?;
    Ok(if bad == 0 && good > 0 { EXIT_OK } else { EXIT_FAILURE })
}

fn check(keys: &KeyRing, line: &str) -> Result<(), String> {
    let claim: Value = serde_json::from_str(line).map_err(|e| format!("not a claim: {e}"))?;
    let fields = fields_from_claim_json(&claim).map_err(|e| format!("not a claim: {e}"))?;
    let receipt = claim.get("receipt").and_then(Value::as_str).ok_or("the claim has no receipt")?;
    keys.verify(receipt, &fields).map_err(|e| e.detail())
}
