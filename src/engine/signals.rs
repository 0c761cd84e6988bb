//! SIGTERM and SIGINT: the first asks to stop, the second ends at once.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for the first of them and tells its name.
///
/// # Errors
/// The system gives no signal handler.
pub async fn first() -> std::io::Result<&'static str> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

/// From here on the next signal ends the process at once; what is durable is in the journal.
pub fn second_ends_at_once() {
    let waiting = std::thread::Builder::new().name("signals".to_owned()).spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let Ok(name) = runtime.and_then(|runtime| runtime.block_on(first())) {
            tracing::warn!(signal = name, "asked again: ending at once; what is not drained stays in the journal");
            std::process::exit(1);
        }
    });
    if let Err(error) = waiting {
        tracing::warn!(%error, "a second signal will not be heard");
    }
}
