//! Which rows of a refused batch are at fault: a search by trial, as a state machine that knows no database.
//!
//! It asks whether the first n of the remaining rows would be taken, and removes the row at which the answer turns from
//! yes to no. Prefixes, not halves: what the table takes may depend on the rows before (two rows with one key, a claim
//! behind its restock), and every prefix of the journal is a state that was once true. A row is convicted only by two
//! trials, one that passed without it and one that failed with it. k bad rows of n take O(k log n) trials.

use crate::store::DeadRow;

/// The search.
#[derive(Debug)]
pub struct Search {
    /// The places in the batch of the rows that are not convicted.
    alive: Vec<usize>,
    /// So many of them are known to pass together.
    good: usize,
    /// So many of them are known to fail together, and why.
    bad: Option<(usize, String)>,
    /// How far beyond `good` to try next while no failure is known.
    stride: usize,
    /// Trials' `good` when the last row was convicted: bad rows that lie close are sought in short steps.
    since: usize,
    dead: Vec<DeadRow>,
}

impl Search {
    /// A search among `rows` rows that were refused together.
    pub fn new(rows: usize) -> Self {
        Self { alive: (0..rows).collect(), good: 0, bad: None, stride: rows, since: 0, dead: Vec::new() }
    }

    /// How many of the remaining rows, from the first, to try together; none when the search is over.
    pub fn ask(&self) -> Option<usize> {
        match &self.bad {
            Some((bad, _)) => Some(self.good + (bad - self.good) / 2),
            None if self.good == self.alive.len() => None,
            None => Some((self.good + self.stride).min(self.alive.len())),
        }
    }

    /// Takes the outcome of trying the first `len` remaining rows. Gives the place, among the remaining rows, of the
    /// row that is convicted by it and is no longer one of them.
    pub fn answer(&mut self, len: usize, outcome: Result<(), String>) -> Option<usize> {
        assert!(len > self.good, "a question that was answered before");
        match outcome {
            Ok(()) => {
                self.good = len;
                self.stride *= 2;
            }
            Err(reason) => self.bad = Some((len, reason)),
        }
        let (_, reason) = self.bad.take_if(|(bad, _)| *bad == self.good + 1)?;
        self.dead.push(DeadRow { index: self.alive.remove(self.good), reason });
        self.stride = 2 * (self.good - self.since + 1);
        self.since = self.good;
        Some(self.good)
    }

    /// The convicted rows, in the batch's order.
    pub fn dead(&self) -> &[DeadRow] {
        &self.dead
    }

    /// Whether more than one row was tried and none passed. That is no row's fault. `left` counts the remaining rows whose
    /// trial says anything.
    pub fn all_failed(&self, left: usize) -> bool {
        assert!(left <= self.alive.len(), "more rows than remain");
        left == 0 && self.dead.len() > 1
    }

    /// The convicted rows.
    pub fn into_dead(self) -> Vec<DeadRow> {
        self.dead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a search over rows that fail where `refused` says so of a set of places; gives the dead and the trials.
    fn run(rows: usize, refused: impl Fn(&[usize]) -> bool) -> (Vec<usize>, usize) {
        let mut search = Search::new(rows);
        let mut alive: Vec<usize> = (0..rows).collect();
        let mut trials = 0;
        while let Some(len) = search.ask() {
            trials += 1;
            assert!(trials <= 40 * (rows + 1), "it does not end");
            let outcome = if refused(&alive[..len]) { Err(format!("trial {trials}")) } else { Ok(()) };
            if let Some(gone) = search.answer(len, outcome) {
                alive.remove(gone);
            }
        }
        assert!(!refused(&alive), "what is left passes");
        (search.dead().iter().map(|d| d.index).collect(), trials)
    }

    #[test]
    fn every_poison_row_is_found_and_no_other_in_few_trials() {
        let table: [&[usize]; 9] = [
            &[],
            &[0],
            &[999],
            &[500],
            &[0, 999],
            &[7, 8, 9],
            &[1, 500, 501, 998],
            &[250, 750],
            &[3, 5, 700, 701, 702, 990],
        ];
        for poison in table {
            let (dead, trials) = run(1_000, |rows| rows.iter().any(|r| poison.contains(r)));
            assert_eq!(dead, poison);
            assert!(trials <= 1 + poison.len() * 21, "{poison:?} took {trials} trials");
        }
    }

    #[test]
    fn a_table_that_takes_every_second_row_is_searched_in_short_steps() {
        let (dead, trials) = run(1_000, |rows| rows.iter().any(|r| r % 2 == 1));
        assert_eq!(dead.len(), 500);
        assert!(trials <= 2_100, "{trials} trials");
    }

    #[test]
    fn of_two_rows_that_exclude_each_other_the_later_one_goes() {
        let (dead, _) = run(100, |rows| rows.contains(&20) && rows.contains(&70));
        assert_eq!(dead, [70]);
    }

    #[test]
    fn a_lone_row_is_tried_before_it_is_convicted() {
        assert_eq!(run(1, |rows| !rows.is_empty()), (vec![0], 1));
        assert_eq!(run(1, |_| false), (vec![], 1));
        let mut lone = Search::new(1);
        lone.answer(1, Err("x".into()));
        assert!(!lone.all_failed(0) && lone.ask().is_none());
    }

    #[test]
    fn when_no_row_passes_it_says_so() {
        for rows in [2, 3, 1_000] {
            let mut search = Search::new(rows);
            while let Some(len) = search.ask() {
                search.answer(len, Err("no".into()));
            }
            assert!(search.all_failed(0));
        }
    }

    #[test]
    fn a_refusal_that_does_not_come_back_convicts_nobody() {
        assert_eq!(run(1_000, |_| false), (vec![], 1));
    }
}
