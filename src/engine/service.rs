//! What the service manager is told: that the node is ready or stops, what it is doing, and that it is alive.
//!
//! - **Alive means that the threads turn.** A ping leaves only while each thread that the node can't do without has come
//!   round lately ([`crate::pulse`]): sequencer, front ends, janitor and drain, or lanes and worker. One that hangs is answered
//!   by silence, and the manager starts the node anew. What is elsewhere, a database or Redis, does not count: a node
//!   that waits for it is well, and a restart would not help.
//! - **A long start or stop asks for time while it gets on.** Recovery does as long as it reads, a stop within its graces, and a
//!   process that waits for Redis or the database says so. One that hangs asks for nothing, and the manager's limit ends it.
//! - Nobody may be listening: then there is no thread and no word.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::clock::tick;
use crate::ingest::App;
use crate::limits;
use crate::pulse::Pulse;

/// The way to the service manager. Dropping it ends its thread.
pub(super) struct Service {
    shared: Option<Arc<Shared>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// What a start does, and how often it has said so.
    words: String,
    steps: u64,
    /// Whether the phase is to be told of at once.
    is_new: bool,
}

#[derive(Default, Clone)]
enum Phase {
    #[default]
    Starting,
    Serving(Arc<App>),
    /// Up to when more time is asked for, and whose entries wait.
    Stopping(Instant, Arc<App>),
    Over,
}

impl Service {
    /// Opens the way, if a service manager has named one.
    pub(super) fn begin() -> Self {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Self { shared: None, thread: None };
        }
        let watchdog = watchdog(|name| std::env::var(name).ok());
        let shared = Arc::new(Shared::default());
        let teller = Teller::new(watchdog);
        let thread = {
            let shared = shared.clone();
            std::thread::Builder::new().name("service".to_owned()).spawn(move || teller.run(&shared))
        };
        if let Err(error) = &thread {
            tracing::error!(%error, "the service manager will not hear of this process");
        }
        Self { shared: Some(shared), thread: thread.ok() }
    }

    /// The start gets on; `words` say with what.
    pub(super) fn step(&self, words: impl FnOnce() -> String) {
        self.change(|state| {
            state.steps += 1;
            state.words = words();
        });
    }

    /// Ready: from here on the node's threads are watched.
    pub(super) fn serving(&self, app: &Arc<App>) {
        self.change(|state| (state.phase, state.is_new) = (Phase::Serving(app.clone()), true));
    }

    /// It stops, which takes two times `grace` at most, and what is finished after that.
    pub(super) fn stopping(&self, app: &Arc<App>, grace: Duration) {
        let slack = Duration::from_millis(limits::DRAIN_STOP_SLACK_MILLIS + limits::SERVICE_STOP_SLACK_MILLIS);
        let until = tick() + 2 * grace + slack;
        self.change(|state| (state.phase, state.is_new) = (Phase::Stopping(until, app.clone()), true));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let Some(shared) = &self.shared else { return };
        let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        if state.is_new {
            shared.changed.notify_all();
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.change(|state| (state.phase, state.is_new) = (Phase::Over, true));
        if let Some(thread) = self.thread.take() {
            // It only tells; a panic there leaves the manager in silence, which it acts on.
            let _ = thread.join();
        }
    }
}

/// The thread's own.
struct Teller {
    watchdog: Option<Duration>,
    every: Duration,
    rounds: Rounds,
    steps: u64,
    /// What was last told, so that it is told once.
    status: String,
    is_silent: bool,
}

impl Teller {
    fn new(watchdog: Option<Duration>) -> Self {
        let (least, most) = limits::SERVICE_TELL_MILLIS;
        let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
        let every = watchdog.map_or(most, |limit| (limit / 4).clamp(least, most));
        let rounds = Rounds { seen: Vec::new(), least: watchdog.unwrap_or_default() / 2 };
        Self { watchdog, every, rounds, steps: 0, status: String::new(), is_silent: false }
    }

    fn run(mut self, shared: &Shared) {
        let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let is_new = std::mem::take(&mut state.is_new);
            let (phase, words, steps) = (state.phase.clone(), state.words.clone(), state.steps);
            drop(state);
            match phase {
                Phase::Starting => self.starting(&words, steps),
                Phase::Serving(app) => self.serving(&app, is_new),
                Phase::Stopping(until, app) => self.stopping(&app, until, is_new),
                Phase::Over => return,
            }
            state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            if !state.is_new {
                let waited = shared.changed.wait_timeout(state, self.every);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    fn starting(&mut self, words: &str, steps: u64) {
        if std::mem::replace(&mut self.steps, steps) != steps {
            tell(&[extend()]);
            self.status(words.to_owned());
        }
    }

    fn serving(&mut self, app: &App, is_first: bool) {
        if is_first {
            tell(&[NotifyState::Ready]);
        }
        let silent = self.rounds.silent(&app.buffer.metrics().pulses.all(), tick());
        if let Some(name) = &silent {
            if !std::mem::replace(&mut self.is_silent, true) {
                tracing::error!(
                    thread = name,
                    "a thread does not come round: the service manager is not told that all is well"
                );
            }
            return self.status(format!("the {name} thread hangs"));
        }
        if std::mem::take(&mut self.is_silent) {
            tracing::info!("every thread comes round again");
        }
        if self.watchdog.is_some() {
            tell(&[NotifyState::Watchdog]);
        }
        self.status(words(app));
    }

    fn stopping(&mut self, app: &App, until: Instant, is_first: bool) {
        if is_first {
            tell(&[NotifyState::Stopping]);
        }
        if tick() < until {
            // A ping, too: some managers go on watching while a service stops.
            tell(&[extend(), NotifyState::Watchdog]);
        }
        self.status(format!("stopping; {}", waiting(app)));
    }

    fn status(&mut self, words: String) {
        if words != self.status {
            tell(&[NotifyState::Status(&words)]);
            self.status = words;
        }
    }
}

/// How long the manager bears silence, as sd_watchdog_enabled(3) says; none where it does not mind, or minds another process'.
fn watchdog(variable: impl Fn(&str) -> Option<String>) -> Option<Duration> {
    let is_ours = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
    let micros: u64 = variable("WATCHDOG_USEC")?.parse().ok()?;
    (is_ours && micros > 0).then(|| Duration::from_micros(micros))
}

fn tell(what: &[NotifyState<'_>]) {
    // A manager that can't be reached acts by itself; there is nobody else to tell.
    let _ = sd_notify::notify(false, what);
}

fn extend() -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec((limits::SERVICE_EXTEND_MILLIS * 1_000) as u32)
}

const _: () = assert!(limits::SERVICE_EXTEND_MILLIS * 1_000 <= u32::MAX as u64);

fn waiting(app: &App) -> String {
    let entries = match &app.worker {
        // It takes none, and knows them from what it has read.
        Some(worker) if !app.takes_claims => worker().waiting,
        _ => app.buffer.entries(),
    };
    match entries {
        0 => "no entries wait for the database".to_owned(),
        1 => "1 entry waits for the database".to_owned(),
        n => format!("{n} entries wait for the database"),
    }
}

/// What the node does, in a line.
fn words(app: &App) -> String {
    let wait = waiting(app);
    let worker = app.worker.as_ref().map(|worker| format!("; worker: {}", worker().words)).unwrap_or_default();
    let gate = match app.takes_claims {
        false => return wait + &worker,
        true if app.buffer.is_fenced() => "taking no claims: nothing can be made durable",
        true if app.buffer.is_full() => "taking no claims: the buffer is full",
        true => "taking claims",
    };
    format!("{gate}; {wait}{worker}")
}

/// When each thread's count was last seen to move.
struct Rounds {
    seen: Vec<(Arc<Pulse>, u64, Instant)>,
    /// For how long any of them may stand still.
    least: Duration,
}

impl Rounds {
    /// The name of a thread whose count stands still for too long. Whoever has left is not missed.
    fn silent(&mut self, pulses: &[Arc<Pulse>], now: Instant) -> Option<String> {
        self.seen.retain(|(pulse, ..)| pulses.iter().any(|other| Arc::ptr_eq(other, pulse)));
        for pulse in pulses {
            let rounds = pulse.rounds();
            match self.seen.iter_mut().find(|(other, ..)| Arc::ptr_eq(other, pulse)) {
                Some((_, last, at)) if *last != rounds => (*last, *at) = (rounds, now),
                Some(_) => {}
                None => self.seen.push((pulse.clone(), rounds, now)),
            }
        }
        let is_silent = |(pulse, _, at): &&(Arc<Pulse>, u64, Instant)| {
            now.saturating_duration_since(*at) > pulse.patience.max(self.least)
        };
        self.seen.iter().find(is_silent).map(|(pulse, ..)| pulse.name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pulse::{self, Pulses};

    #[test]
    fn a_count_that_stands_still_is_told_after_its_patience_and_the_managers() {
        let (pulses, start) = (Pulses::default(), tick());
        let own = pulses.enter("one", Duration::from_secs(3));
        let mut rounds = Rounds { seen: Vec::new(), least: Duration::from_secs(10) };
        let mut silent = |pulses: &Pulses, second| rounds.silent(&pulses.all(), start + Duration::from_secs(second));
        assert_eq!(silent(&pulses, 0), None);
        assert_eq!(silent(&pulses, 10), None);
        assert_eq!(silent(&pulses, 11).as_deref(), Some("one"));
        pulse::beat();
        assert_eq!(silent(&pulses, 12), None, "it goes on");
        assert_eq!(silent(&pulses, 22), None);
        assert_eq!(silent(&pulses, 23).as_deref(), Some("one"));
        drop(own);
        assert_eq!(silent(&pulses, 24), None, "who has ended is not missed");
        let _patient = pulses.enter("two", Duration::from_secs(60));
        assert_eq!(silent(&pulses, 30), None);
        assert_eq!(silent(&pulses, 90), None, "its own patience is longer");
        assert_eq!(silent(&pulses, 91).as_deref(), Some("two"));
    }

    #[test]
    fn a_watchdog_is_this_process_or_nobodys() {
        let own = std::process::id().to_string();
        let other = (std::process::id() + 1).to_string();
        let cases = [
            (None, None, None),
            (Some("60000000"), None, Some(60)),
            (Some("60000000"), Some(&own), Some(60)),
            (Some("60000000"), Some(&other), None),
            (Some("0"), None, None),
            (Some("often"), None, None),
        ];
        for (micros, pid, seconds) in cases {
            let found = watchdog(|name| match name {
                "WATCHDOG_USEC" => micros.map(str::to_owned),
                _ => pid.cloned(),
            });
            assert_eq!(found, seconds.map(Duration::from_secs), "{micros:?} {pid:?}");
        }
    }

    #[test]
    fn the_manager_is_told_four_times_in_its_limit_and_neither_all_the_time_nor_hardly_ever() {
        let every = |watchdog: Option<u64>| Teller::new(watchdog.map(Duration::from_millis)).every.as_millis() as u64;
        for (limit, expected) in [(None, 2_000), (Some(60_000), 2_000), (Some(2_000), 500), (Some(1), 50)] {
            assert_eq!(every(limit), expected, "{limit:?}");
        }
    }
}
