//! The conservation ledger: where every unit and every minor unit of each campaign is.

use super::pending::StockNow;
use crate::sale::{CampaignNo, Claim, Money, Units};

/// Units and money of one campaign. `free` and `stock` come from the book, `accepted` from the waiting entries,
/// `persisted` and `dead` from what the database took: four sources, so that the equation can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Balance {
    /// All units.
    pub stock: u64,
    /// Held by nobody.
    pub free: u64,
    /// In the buffer.
    pub accepted: u64,
    /// In claim rows.
    pub persisted: u64,
    /// In dead letters.
    pub dead: u64,
    /// A red packet's total, or a sale's price × stock; 0 where claims carry no amount.
    pub money_stock: i64,
    /// A red packet's money that nobody holds, or a sale's price × free.
    pub money_free: i64,
    /// The money of `accepted`.
    pub money_accepted: i64,
    /// The money of `persisted`.
    pub money_persisted: i64,
    /// The money of `dead`.
    pub money_dead: i64,
}

impl Balance {
    /// `stock − (free + accepted + persisted + settled + dead)`: 0, or an alarm. (Nothing settles in this version.)
    pub fn error(&self) -> i64 {
        self.stock as i64 - (self.free + self.accepted + self.persisted + self.dead) as i64
    }

    /// The same for money. A sale's stock and free are priced here, its claims when they were decided: the two agree, or
    /// an amount is wrong.
    pub fn money_error(&self) -> i64 {
        self.money_stock - (self.money_free + self.money_accepted + self.money_persisted + self.money_dead)
    }
}

/// What a lease's claims come to, one sum a campaign and fate.
#[derive(Debug, Default)]
pub struct Sums(Vec<Sum>);

#[derive(Debug)]
struct Sum {
    no: CampaignNo,
    dead: bool,
    units: u64,
    money: i64,
}

impl Sums {
    /// Adds a claim that became a row, or a dead letter.
    pub fn add(&mut self, claim: &Claim, dead: bool) {
        let (units, money) = (claim.quantity.0, claim.amount.map_or(0, |a| a.0));
        match self.0.iter_mut().find(|sum| sum.no == claim.campaign && sum.dead == dead) {
            Some(sum) => {
                sum.units += units;
                sum.money += money;
            }
            None => self.0.push(Sum { no: claim.campaign, dead, units, money }),
        }
    }
}

/// All campaigns' balances, by number.
#[derive(Debug, Default)]
pub struct Ledger {
    balances: Vec<Balance>,
}

impl Ledger {
    fn entry(&mut self, no: CampaignNo) -> &mut Balance {
        let at = no.0 as usize;
        if at >= self.balances.len() {
            self.balances.resize(at + 1, Balance::default());
        }
        &mut self.balances[at]
    }

    /// What the book says.
    pub fn set_stock(&mut self, now: &StockNow) {
        let balance = self.entry(now.no);
        (balance.stock, balance.free) = (now.stock.0, now.free.0);
        (balance.money_stock, balance.money_free) = (now.total.0, now.left.0);
    }

    /// What the database says: everything up to its cursor.
    pub fn set_database(&mut self, no: CampaignNo, sums: &Balance) {
        let balance = self.entry(no);
        (balance.persisted, balance.money_persisted) = (sums.persisted, sums.money_persisted);
        (balance.dead, balance.money_dead) = (sums.dead, sums.money_dead);
    }

    /// A claim entered the buffer.
    pub fn accept(&mut self, no: CampaignNo, quantity: Units, amount: Money) {
        let balance = self.entry(no);
        balance.accepted += quantity.0;
        balance.money_accepted += amount.0;
    }

    /// Claims left the buffer for the database's sums, which are set whole.
    pub fn forget(&mut self, sums: &Sums) {
        for sum in &sums.0 {
            let balance = self.entry(sum.no);
            balance.accepted -= sum.units;
            balance.money_accepted -= sum.money;
        }
    }

    /// Claims left the buffer for rows, or for the dead letters.
    pub fn retire(&mut self, sums: &Sums) {
        self.forget(sums);
        for sum in &sums.0 {
            let balance = self.entry(sum.no);
            if sum.dead {
                balance.dead += sum.units;
                balance.money_dead += sum.money;
            } else {
                balance.persisted += sum.units;
                balance.money_persisted += sum.money;
            }
        }
    }

    /// One campaign's balance; zeroes for a campaign never heard of.
    pub fn balance(&self, no: CampaignNo) -> Balance {
        self.balances.get(no.0 as usize).copied().unwrap_or_default()
    }
}
