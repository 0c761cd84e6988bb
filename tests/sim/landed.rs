//! What is in the database, held against what was promised: rows, dead letters, ends, carts, and what was requeued.

use forebay::store::{ClaimRow, Row};

use crate::convert;
use crate::letters::{News, ailment, is_poison};
use crate::model::{Sum, Sums};
use crate::world::World;

/// A claim that went from the dead letters to the rows: its units and money, and whether it was paid.
#[derive(Debug, Clone, Copy)]
pub struct Revival {
    pub sum: Sum,
    pub paid: bool,
}

impl Revival {
    /// The sums as they were before it.
    pub fn undone(&self, mut sums: Sums) -> Sums {
        sums.dead.plus(self.sum);
        if self.paid { &mut sums.settled } else { &mut sums.persisted }.minus(self.sum);
        sums
    }
}

impl World {
    /// Every new row and dead letter is what was promised, whole, once, in order; so is a row that was a dead letter.
    pub fn check_database(&mut self) {
        let cursor = self.db.cursor();
        let last = self.model.facts.len() as u64;
        assert!(cursor <= last, "P1: the database has entry {cursor}, promised are {last}");
        let letters = self.db.letters_from(self.seen.letters);
        self.seen.letters += letters.len();
        let mut landed = 0;
        for letter in &letters {
            let seq = letter.row.seq().0;
            assert!(seq > self.seen.landed && self.model.dead.insert(seq), "P1: a second letter for entry {seq}");
            assert!(ailment(&letter.row).is_some(), "P1: entry {seq} went to the dead letters, and nothing ails it");
            if let Row::Claim(row) = &letter.row {
                self.check_row(row);
                landed += 1;
            }
        }
        let rows = self.db.rows_from(self.seen.rows);
        self.seen.rows += rows.len();
        for row in &rows {
            let seq = row.claim.seq.0;
            let mended = self.db.takes(&Row::Claim(*row));
            assert!(mended, "P1: {} is a row, and nothing was mended", row.claim.user);
            self.check_row(row);
            if self.model.dead.contains(&seq) {
                assert!(self.model.revived.insert(seq), "P1: a second row for entry {seq}");
                self.revive(seq);
                // Its letter counts as what it landed as.
                continue;
            }
            assert!(seq > self.seen.landed, "P1: a second row for entry {seq}");
            landed += 1;
        }
        let due = (self.seen.landed + 1..=cursor).filter(|&seq| self.model.held(seq).is_some()).count();
        assert_eq!(landed, due, "P1: of {due} claims up to entry {cursor} only {landed} are in the database");
        self.check_ends(cursor);
        self.take_news();
        self.seen.landed = cursor;
    }

    fn check_row(&self, row: &ClaimRow) {
        let seq = row.claim.seq;
        let Some(held) = self.model.held(seq.0) else { panic!("P5: a row for entry {seq}, which is no claim") };
        let wrong = convert::differs(self.key, held, &row.claim);
        assert!(wrong.is_none(), "P1: a row of {}", wrong.unwrap_or_default());
    }

    /// A dead letter has become a row, with what had become of its claim by then.
    fn revive(&mut self, seq: u64) {
        if seq > self.seen.retired {
            return;
        }
        let Some(held) = self.model.held(seq) else { return };
        let sums = &mut self.seen.sums[held.ask.sale];
        let paid = held.end.is_some_and(|(at, _)| (at as u64) < self.seen.retired);
        sums.dead.take(held);
        if paid { &mut sums.settled } else { &mut sums.persisted }.add(held);
        let mut sum = Sum::default();
        sum.add(held);
        self.seen.untold.push((held.ask.sale, Revival { sum, paid }));
    }

    /// What has happened to carts, in its order.
    fn take_news(&mut self) {
        let news = self.db.news_from(self.seen.news);
        self.seen.news += news.len();
        let (mut landed, mut changed) = (self.seen.landed, Vec::new());
        for news in &news {
            match *news {
                News::Landed(upto) => {
                    for seq in landed + 1..=upto {
                        if self.model.dead.contains(&seq) {
                            continue;
                        }
                        if let Some(clicked) = self.model.clicked(seq) {
                            let ails = is_poison(&clicked.click.sku);
                            assert!(!ails || self.is_mended(seq), "P1: a line that is refused is a row, entry {seq}");
                            changed.push(clicked.click.buyer.clone());
                            self.model.shelve(seq);
                        }
                    }
                    landed = upto;
                }
                News::Requeued(id) => {
                    let Some(letter) = self.db.letter(id) else { panic!("P5: letter {id} was never written") };
                    let seq = letter.row.seq().0;
                    assert!(self.db.takes(&letter.row), "P1: letter {id} was requeued, and nothing was mended");
                    if let Row::Cart(row) = &letter.row {
                        changed.push(row.user.to_string());
                        assert!(self.model.revived.insert(seq), "P1: letter {id} was requeued twice");
                        self.model.shelve(seq);
                    }
                }
            }
        }
        changed.sort_unstable();
        changed.dedup();
        changed.iter().for_each(|buyer| self.check_stored_of(buyer));
    }

    fn is_mended(&self, seq: u64) -> bool {
        self.model.clicked(seq).is_some_and(|clicked| self.db.is_mended(&clicked.click.buyer, &clicked.click.sku))
    }

    /// Every end that the database took is one that was promised, of a claim that it has, once.
    fn check_ends(&mut self, cursor: u64) {
        let ends = self.db.ends_from(self.seen.ends);
        self.seen.ends += ends.len();
        let due = (self.seen.landed + 1..=cursor).filter(|&seq| self.model.ended(seq).is_some()).count();
        assert_eq!(ends.len(), due, "P1: of {due} ends up to entry {cursor} only {} are in the database", ends.len());
        for end in ends {
            let Some((held, to)) = self.model.ended(end.seq.0) else { panic!("P5: entry {} ends no claim", end.seq) };
            let fits = convert::end_fits(self.key, held, to, &end.moved);
            assert!(fits && end.at.0 == self.model.facts[end.seq.0 as usize - 1].at, "P1: {end:?} of {held:?}");
        }
    }
}
