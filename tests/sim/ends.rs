//! The model's ends of claims: what may become of one, what time brings about, and what a crash takes back.

use std::ops::Range;

use crate::model::{Ask, Fate, Model, Verdict, What};
use crate::sale::Wish;

impl Model {
    /// The fact that is the claim that was asked for so, if it was accepted.
    pub fn find(&self, ask: &Ask) -> Option<usize> {
        // Recent ones first: most ends follow soon.
        (0..self.facts.len()).rev().find(|&at| match &self.facts[at].what {
            What::Held(held) => held.ask.id == ask.id && held.ask.user == ask.user,
            _ => false,
        })
    }

    /// What a wish to end a claim must be answered; an end is entered.
    pub fn end(&mut self, now: i64, ask: &Ask, to: Fate) -> Verdict {
        let Some(sale) = self.sales.get(ask.sale) else { return Verdict::NotHeld };
        if sale.def.check_in.is_some() {
            return Verdict::IsCheckIn;
        }
        if sale.state.released {
            return Verdict::IsReleased;
        }
        let Some(claim) = self.find(ask) else { return Verdict::NotHeld };
        match (self.claim(claim).end.map(|(_, fate)| fate), to) {
            (Some(Fate::Settled), Fate::Settled) => Verdict::MovedBefore,
            (Some(Fate::Settled), _) => Verdict::IsSettled,
            (Some(_), _) => Verdict::NotHeld,
            (None, _) => {
                self.enter_end(now, claim, to);
                Verdict::Moved
            }
        }
    }

    fn enter_end(&mut self, now: i64, claim: usize, to: Fate) {
        let (no, place) = (self.facts[claim].sale, self.facts.len());
        let held = self.claim(claim);
        let (units, user, amount) = (held.ask.units, held.ask.user.clone(), held.amount.flatten());
        let share = amount.filter(|_| to.gives_back() && self.sales[no].def.packet.is_some());
        self.enter(now, no, What::Ended { claim, to, share });
        self.claim_mut(claim).end = Some((place, to));
        let sale = &mut self.sales[no];
        sale.unsettled.remove(&claim);
        if !to.gives_back() {
            return;
        }
        sale.state.free += units;
        sale.state.stock_version += 1;
        if let Some(mine) = sale.holders.get_mut(&user) {
            mine.retain(|other| *other != claim);
        }
        if let Some(share) = share {
            sale.state.left += share;
            sale.state.returned = (sale.state.returned.0 + 1, sale.state.returned.1 + share);
            sale.returned.push(share);
        }
    }

    /// Takes an end back; the sale's state is as it was already.
    pub(crate) fn undo_end(&mut self, no: usize, claim: usize, to: Fate, share: Option<i64>) {
        self.claim_mut(claim).end = None;
        let user = self.claim(claim).ask.user.clone();
        let sale = &mut self.sales[no];
        if sale.def.ttl.is_some() {
            sale.unsettled.insert(claim);
        }
        if to.gives_back() {
            let mine = sale.holders.entry(user).or_default();
            mine.push(claim);
            mine.sort_unstable();
        }
        if let Some(at) = share.and_then(|share| sale.returned.iter().rposition(|amount| *amount == share)) {
            sale.returned.remove(at);
        }
    }

    /// Lets expire what was due at `due`, the oldest first, at most `most`; gives how many that are.
    pub fn expire(&mut self, now: i64, due: i64, most: usize) -> usize {
        for done in 0..most {
            let first = self.sales.iter().find_map(|sale| {
                let &claim = sale.unsettled.first().filter(|_| !sale.state.released)?;
                (self.claim(claim).at + sale.def.ttl? <= due).then_some(claim)
            });
            let Some(claim) = first else { return done };
            self.enter_end(now, claim, Fate::Expired);
        }
        most
    }

    /// Has the first of these sales that was long over at `upto` leave memory; whether there was one.
    pub fn release(&mut self, now: i64, places: Range<usize>, (upto, after): (i64, i64), retired: u64) -> bool {
        let mut places = places;
        let Some(no) = places.find(|&no| self.sales[no].may_go(upto, after, retired)) else { return false };
        self.enter(now, no, What::Released);
        let state = &mut self.sales[no].state;
        (state.released, state.wish) = (true, Wish::Closed);
        state.version += 1;
        true
    }
}
