//! When gates answered what: the probes' answers, and the times that can be read from them.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a probe was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// 202.
    Yes,
    /// A refusal: nothing was accepted.
    No,
    /// The outcome is unknown, or there was no answer.
    Unknown,
}

/// One probe.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// The gate.
    pub gate: usize,
    /// When it was asked.
    pub sent: Instant,
    /// When it answered, or was given up.
    pub at: Instant,
    /// What it said.
    pub said: Said,
}

/// All probes so far.
#[derive(Debug, Default)]
pub struct Events(Mutex<Vec<Event>>);

impl Events {
    /// One more.
    pub fn push(&self, event: Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    fn of(&self, gate: usize, since: Instant) -> Vec<Event> {
        let events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nearly in the order of their times: each is noted a moment after.
        let from = events.partition_point(|event| event.at + Duration::from_secs(1) < since);
        events[from..].iter().filter(|event| event.gate == gate && event.sent >= since).copied().collect()
    }

    /// How long after `since` each of `gates` first answered `said` to what was asked since then; `None` where one hasn't.
    pub fn first(&self, gates: &[usize], since: Instant, said: Said) -> Option<Duration> {
        let first = |gate: &usize| self.of(*gate, since).into_iter().find(|event| event.said == said);
        let times: Option<Vec<_>> = gates.iter().map(|gate| Some(first(gate)?.at - since)).collect();
        times?.into_iter().max()
    }

    /// How long after `since` any of `gates` answered something else than yes, whenever it was asked.
    pub fn noticed(&self, gates: &[usize], since: Instant) -> Option<Duration> {
        let events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let events = events.iter().filter(|e| gates.contains(&e.gate) && e.at >= since && e.said != Said::Yes);
        events.map(|event| event.at - since).min()
    }

    /// How long `gates` took at most for a refusal of what was asked between `since` and `until`, after each had refused once.
    pub fn refusals(&self, gates: &[usize], since: Instant, until: Instant) -> Option<Duration> {
        let of = |gate: &usize| {
            let events = self.of(*gate, since);
            let first = events.iter().find(|event| event.said == Said::No)?.at;
            let later =
                events.iter().filter(|event| event.sent >= first && event.at <= until && event.said != Said::Yes);
            later.map(|event| event.at - event.sent).max()
        };
        gates.iter().filter_map(of).max()
    }

    /// How many probes between two instants were told `said`.
    pub fn count(&self, gates: &[usize], since: Instant, until: Instant, said: Said) -> usize {
        let of = |gate: &usize| self.of(*gate, since).into_iter().filter(|e| e.at <= until && e.said == said).count();
        gates.iter().map(of).sum()
    }

    /// The longest that any answer took.
    pub fn longest(&self) -> Duration {
        let events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().map(|event| event.at - event.sent).max().unwrap_or_default()
    }
}

/// What a scenario measured, by name, in the order of the names.
#[derive(Debug, Default)]
pub struct Figures(BTreeMap<&'static str, String>);

impl Figures {
    /// Notes a time.
    pub fn time(&mut self, name: &'static str, time: Option<Duration>) {
        let text = time.map_or("never".to_owned(), |time| format!("{:.0} ms", time.as_secs_f64() * 1e3));
        self.text(name, text);
    }

    /// Notes anything; a figure that was noted before is shown beside.
    pub fn text(&mut self, name: &'static str, text: impl fmt::Display) {
        let figure = self.0.entry(name).or_default();
        let between = if figure.is_empty() { "" } else { "/" };
        let _ = write!(figure, "{between}{text}");
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures: Vec<_> = self.0.iter().map(|(name, figure)| format!("{name} {figure}")).collect();
        f.write_str(&figures.join(", "))
    }
}
