//! The allocator's settings, which it reads before `main`: so the process starts itself once more with them.
//!
//! Freed memory is kept for a while instead of going back to the system at once. With its default the front end spends a
//! twentieth of its time on pages that it had a moment ago; setting the option by a call would take unsafe code.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::limits;

const VARIABLE: &str = "MIMALLOC_PURGE_DELAY";

/// Starts this program once more, in this process, with the allocator's setting; returns where it is set already, or
/// where that fails: then the defaults do.
pub fn settle() {
    if std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| OsString::from("forebay"));
    let mut command = Command::new(program);
    let error = command.arg0(name).args(arguments).env(VARIABLE, limits::PURGE_DELAY_MILLIS.to_string()).exec();
    tracing::warn!(%error, "the allocator keeps its defaults");
}
