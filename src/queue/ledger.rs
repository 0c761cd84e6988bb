//! The conservation ledger: where every unit and every minor unit of each campaign is.

use super::codec;
use super::pending::StockNow;
use crate::sale::{CampaignNo, Event, Fate, Money, Units};

/// Units and money of one campaign. `free` and `stock` come from the book, `accepted` from the waiting entries,
/// `persisted`, `settled`, `returned` and `dead` from what the database took: four sources, so that the equation can fail.
///
/// What became of a claim while its entry waits is counted at once: it is taken off `accepted` first, then off
/// `persisted`, then off `dead`. So the sum is exact at every moment, and each of its terms whenever nothing waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Balance {
    /// All units; of a check-in, all that were ever acknowledged.
    pub stock: u64,
    /// Held by nobody.
    pub free: u64,
    /// In the buffer, and alive.
    pub accepted: u64,
    /// In claim rows, and neither paid nor given back.
    pub persisted: u64,
    /// Paid.
    pub settled: u64,
    /// Given back or expired, all that ever were: they are free again, or held by someone else.
    pub returned: u64,
    /// In dead letters, and not given back.
    pub dead: u64,
    /// A red packet's total, or a sale's price × stock; 0 where claims carry no amount.
    pub money_stock: i64,
    /// A red packet's money that nobody holds, or a sale's price × free.
    pub money_free: i64,
    /// The money of `accepted`.
    pub money_accepted: i64,
    /// The money of `persisted`.
    pub money_persisted: i64,
    /// The money of `settled`.
    pub money_settled: i64,
    /// The money of `returned`.
    pub money_returned: i64,
    /// The money of `dead`.
    pub money_dead: i64,
}

impl Balance {
    /// `stock − (free + accepted + persisted + settled + dead)`: 0, or an alarm.
    pub fn error(&self) -> i64 {
        let known = self.free + self.accepted + self.persisted + self.settled + self.dead;
        self.stock as i64 - known as i64
    }

    /// The same for money. A sale's stock and free are priced here, its claims when they were decided: the two agree, or
    /// an amount is wrong.
    pub fn money_error(&self) -> i64 {
        let held = self.money_accepted + self.money_persisted + self.money_settled + self.money_dead;
        self.money_stock - (self.money_free + held)
    }
}

/// What an entry that leaves the buffer became.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Became {
    /// A claim's row.
    Row,
    /// A claim's dead letter.
    Dead,
    /// A row that says that its claim is paid, or is not held any more.
    Moved(Fate),
    /// A dead letter of such a row: the database does not know the claim.
    DeadMoved(Fate),
}

/// What a lease's entries come to, one sum a campaign and kind.
#[derive(Debug, Default)]
pub struct Sums(Vec<(CampaignNo, Became, Sum)>);

/// Units and their money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sum {
    units: i64,
    money: i64,
}

impl Sum {
    fn of(units: Units, money: Option<Money>) -> Self {
        Self { units: units.0 as i64, money: money.map_or(0, |m| m.0) }
    }

    fn add(&mut self, other: Self) {
        self.units += other.units;
        self.money += other.money;
    }

    fn minus(self, other: Self) -> Self {
        Self { units: self.units - other.units, money: self.money - other.money }
    }
}

impl Sums {
    /// Adds an entry that became a row, or a dead letter.
    pub fn add(&mut self, event: &Event, dead: bool) {
        let (no, became, sum) = match event {
            Event::Claimed(claim) => {
                let became = if dead { Became::Dead } else { Became::Row };
                (claim.campaign, became, Sum::of(claim.quantity, claim.amount))
            }
            Event::Moved(moved) => {
                let became = if dead { Became::DeadMoved(moved.to) } else { Became::Moved(moved.to) };
                (moved.campaign, became, Sum::of(moved.quantity, moved.amount))
            }
            Event::Created(_) | Event::Changed(_) | Event::Released(_) | Event::Carted(_) | Event::Void => return,
        };
        match self.0.iter_mut().find(|(n, b, _)| *n == no && *b == became) {
            Some((_, _, known)) => known.add(sum),
            None => self.0.push((no, became, sum)),
        }
    }
}

/// Where one campaign's units are, by the source that says so.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Account {
    /// The book's stock and free.
    stock: Sum,
    free: Sum,
    /// Claims that wait.
    waiting: Sum,
    /// Ends of claims that wait: paid, and given back.
    settling: Sum,
    returning: Sum,
    /// The database's.
    persisted: Sum,
    settled: Sum,
    returned: Sum,
    dead: Sum,
}

impl Account {
    /// From pairs of units and money: all and free, then (units before money) claims that wait, ends that wait and pay, ends
    /// that wait and give back, and the database's persisted, settled, returned and dead.
    pub(crate) fn of(numbers: &[i64; 18]) -> Self {
        let [stock, free, total, left, rest @ ..] = *numbers;
        let sum = |at: usize| Sum { units: rest[2 * at], money: rest[2 * at + 1] };
        Self {
            stock: Sum { units: stock, money: total },
            free: Sum { units: free, money: left },
            waiting: sum(0),
            settling: sum(1),
            returning: sum(2),
            persisted: sum(3),
            settled: sum(4),
            returned: sum(5),
            dead: sum(6),
        }
    }

    fn ending(&mut self, fate: Fate) -> &mut Sum {
        if fate.returns_units() { &mut self.returning } else { &mut self.settling }
    }

    fn ended(&mut self, fate: Fate) -> &mut Sum {
        if fate.returns_units() { &mut self.returned } else { &mut self.settled }
    }

    pub(crate) fn balance(&self) -> Balance {
        // One order for units and money alike; each is taken off as far as it goes.
        let spread = |of: fn(&Sum) -> i64| {
            let mut rest = of(&self.settling) + of(&self.returning);
            let mut left = |of_one: i64| {
                let taken = rest.min(of_one).max(0);
                rest -= taken;
                of_one - taken
            };
            let (waiting, persisted) = (left(of(&self.waiting)), left(of(&self.persisted)));
            // What is more than there is stays to be seen.
            (waiting, persisted, of(&self.dead) - rest)
        };
        let (accepted, persisted, dead) = spread(|sum| sum.units);
        let (money_accepted, money_persisted, money_dead) = spread(|sum| sum.money);
        Balance {
            stock: self.stock.units as u64,
            free: self.free.units as u64,
            accepted: accepted as u64,
            persisted: persisted as u64,
            settled: (self.settled.units + self.settling.units) as u64,
            returned: (self.returned.units + self.returning.units) as u64,
            dead: dead.max(0) as u64,
            money_stock: self.stock.money,
            money_free: self.free.money,
            money_accepted,
            money_persisted,
            money_settled: self.settled.money + self.settling.money,
            money_returned: self.returned.money + self.returning.money,
            money_dead,
        }
    }
}

/// All campaigns' accounts, by number.
#[derive(Debug, Default)]
pub struct Ledger {
    accounts: Vec<Account>,
    /// The database's sums as [`Self::take_stored`] has given them.
    told: Vec<Option<[Sum; 4]>>,
}

impl Ledger {
    fn account(&mut self, no: CampaignNo) -> &mut Account {
        let at = no.0 as usize;
        if at >= self.accounts.len() {
            self.accounts.resize(at + 1, Account::default());
        }
        &mut self.accounts[at]
    }

    /// What the book says.
    pub fn set_stock(&mut self, now: &StockNow) {
        let account = self.account(now.no);
        account.stock = Sum::of(now.stock, Some(now.total));
        account.free = Sum::of(now.free, Some(now.left));
    }

    /// What the database says: everything up to its cursor.
    pub fn set_database(&mut self, no: CampaignNo, sums: &Balance) {
        let account = self.account(no);
        let sum = |units: u64, money: i64| Sum { units: units as i64, money };
        account.persisted = sum(sums.persisted, sums.money_persisted);
        account.settled = sum(sums.settled, sums.money_settled);
        account.returned = sum(sums.returned, sums.money_returned);
        account.dead = sum(sums.dead, sums.money_dead);
    }

    /// An entry entered the buffer.
    pub fn enter(&mut self, entered: &codec::Sums) {
        let account = self.account(entered.campaign);
        let place = match entered.fate {
            None => &mut account.waiting,
            Some(fate) => account.ending(fate),
        };
        place.add(Sum::of(entered.units, Some(entered.money)));
    }

    /// Entries left the buffer for the database's sums, which are set whole.
    pub fn forget(&mut self, sums: &Sums) {
        for &(no, became, sum) in &sums.0 {
            let account = self.account(no);
            let place = match became {
                Became::Row | Became::Dead => &mut account.waiting,
                Became::Moved(fate) | Became::DeadMoved(fate) => account.ending(fate),
            };
            *place = place.minus(sum);
        }
    }

    /// Entries left the buffer for rows, or for the dead letters.
    pub fn retire(&mut self, sums: &Sums) {
        self.forget(sums);
        for &(no, became, sum) in &sums.0 {
            let account = self.account(no);
            match became {
                Became::Row => account.persisted.add(sum),
                Became::Dead => account.dead.add(sum),
                Became::Moved(fate) => {
                    account.persisted = account.persisted.minus(sum);
                    account.ended(fate).add(sum);
                }
                Became::DeadMoved(_) => {}
            }
        }
    }

    /// The database's sums of the campaigns of which they have changed since the last time; of all, the first time.
    pub fn take_stored(&mut self) -> Vec<(CampaignNo, Balance)> {
        self.told.resize(self.accounts.len(), None);
        let mut changed = Vec::new();
        for (no, (account, told)) in self.accounts.iter().zip(&mut self.told).enumerate() {
            let now = [account.persisted, account.settled, account.returned, account.dead];
            if told.replace(now) != Some(now) {
                let stored = Account {
                    persisted: now[0],
                    settled: now[1],
                    returned: now[2],
                    dead: now[3],
                    ..Account::default()
                };
                changed.push((CampaignNo(no as u32), stored.balance()));
            }
        }
        changed
    }

    /// One campaign's balance; zeroes for a campaign never heard of.
    pub fn balance(&self, no: CampaignNo) -> Balance {
        self.accounts.get(no.0 as usize).map(Account::balance).unwrap_or_default()
    }
}
