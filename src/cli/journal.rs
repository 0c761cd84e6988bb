//! `forebay journal`: look into the journal, beside a running server or after it. Writes nothing.

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;

use super::{EXIT_FAILURE, EXIT_OK, JournalAction, JournalArgs};
use crate::queue::journal::disk::RealDisk;
use crate::queue::journal::{Inspection, inspect};

/// Runs the command; the exit code is what it found.
///
/// # Errors
/// It could not be done.
pub fn run(file: Option<&Path>, args: &JournalArgs) -> anyhow::Result<u8> {
    let (JournalAction::Inspect(data) | JournalAction::Verify(data)) = &args.action;
    let config = super::load(file, &data.overrides())?;
    let folder = config.buffer.data_dir.join("journal");
    let found = inspect(&RealDisk::new(&folder)).with_context(|| folder.display().to_string())?;
    if matches!(args.action, JournalAction::Inspect(_)) {
        super::print(&table(&found))?;
    }
    if let Some(problem) = &found.problem {
        super::print(&format!("damaged: {problem}\n"))?;
        return Ok(EXIT_FAILURE);
    }
    let report = found.report.unwrap_or_default();
    let torn = match report.torn_bytes {
        0 => String::new(),
        n => format!(", {n} bytes of an interrupted write at the end"),
    };
    let (segments, last) = (found.segments.len(), report.last_seq);
    super::print(&format!("sound: {segments} segments, last entry {last} at {}{torn}\n", report.last_time))?;
    Ok(EXIT_OK)
}

fn table(found: &Inspection) -> String {
    let mut out = format!("journal {:032x}\n", found.journal);
    for snapshot in &found.snapshots {
        let _ = writeln!(out, "snapshot of everything up to {} ({})", snapshot.seq(), snapshot.at());
    }
    for s in &found.segments {
        let range = match (s.first_seq, s.last_seq) {
            (Some(first), Some(last)) => format!("entries {first} to {last}"),
            _ => "no entries".to_owned(),
        };
        let _ = writeln!(
            out,
            "{}  {:>9} of {:>9} bytes  {:>7} frames  {range}{}",
            s.file,
            s.used,
            s.bytes,
            s.frames,
            if s.covered { ", covered by a snapshot" } else { "" }
        );
    }
    out
}
