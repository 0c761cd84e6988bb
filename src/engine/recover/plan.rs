//! What can be done about a pair, from what was found of it. Pure.

use super::Keep;
use crate::engine::pair::{Pair, Wrong};
use crate::sale::Seq;
use crate::store::Position;

/// The first and the last entry of some.
pub(super) type Stretch = (Seq, Seq);

/// What can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// Nothing is wrong.
    Nothing,
    /// Only somebody else can help.
    Stuck(String),
    /// What the folder remembers can't be read, and there is nothing else yet.
    Forget,
    /// The database gets from the journal what it lacks.
    Fill(Fill),
    /// A new journal is made from the database.
    Rebuild(Rebuild),
}

/// How the database is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fill {
    /// Whose the database is, and how far; none for one that is new, or is going to be.
    pub from: Option<Position>,
    /// The last entry that it does not get from the journal.
    pub cursor: Seq,
    /// Entries before the journal's first one that the database lacks: they are in neither side.
    pub below: Option<Stretch>,
    /// Entries behind the journal's last one that a database was known to have: likewise. Their positions must not be given
    /// out again, so a new journal is made when the database has got what there is.
    pub beyond: Option<Stretch>,
    /// Whether the database that is there goes aside, and a new one is filled.
    pub is_aside: bool,
}

/// How the journal is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rebuild {
    /// Whose the database is, and how far.
    pub from: Position,
    /// Entries that a database was known to have, and that are in neither side.
    pub lost: Option<Stretch>,
    /// Whether somebody has said that the database is to stay.
    pub is_chosen: bool,
}

/// The plan for `pair`; `unreadable` says what is wrong with a journal that can't be read, `is_forgotten` that what the folder
/// remembers can't be.
pub(super) fn plan(pair: &Pair, unreadable: Option<&str>, is_forgotten: bool, keep: Option<Keep>) -> Plan {
    let from = pair.looked.and_then(|looked| looked.position());
    if let Some(what) = unreadable {
        return match (keep, from) {
            (Some(Keep::Database), Some(from)) => rebuild(pair, from, true),
            _ => Plan::Stuck(format!(
                "the journal can't be read: {what}. --keep database sets it aside and makes a new one from the database; \
                 what only the journal has is lost then"
            )),
        };
    }
    match (pair.wrong(), from) {
        (None, from) if is_forgotten && pair.journal.is_some() => {
            let cursor = from.map_or(Seq(0), |from| from.cursor);
            Plan::Fill(Fill { from, cursor, below: None, beyond: None, is_aside: false })
        }
        (None, _) if is_forgotten => Plan::Forget,
        (None, _) => Plan::Nothing,
        (Some(Wrong::NoJournal), Some(from)) => rebuild(pair, from, false),
        (Some(Wrong::Strangers | Wrong::Forked), Some(from)) if keep == Some(Keep::Database) => {
            rebuild(pair, from, true)
        }
        (Some(Wrong::Strangers | Wrong::Forked), Some(_)) if keep == Some(Keep::Journal) => fill(pair, None, true),
        (Some(Wrong::Strangers), Some(from)) if pair.journal.is_some_and(|side| side.last == Some(Seq(0))) => {
            // Made by a start that was refused, or a slip of the hand: it holds nothing.
            rebuild(pair, from, false)
        }
        (Some(Wrong::Strangers), Some(_)) => Plan::Stuck(
            "each holds entries of its own, and they can't be mixed. If one of them was configured or copied by mistake, \
             put the right one there. Otherwise say which is to stay: --keep journal sets the database aside and fills a \
             new one from the journal; --keep database sets the journal aside and makes a new one from the database"
                .to_owned(),
        ),
        (Some(Wrong::Forked), Some(from)) => Plan::Stuck(format!(
            "they have the same entries up to {} at least, and each goes on with its own up to {} and {}: they can't be \
             mixed. Put a copy of the database there from before they went apart, and the journal fills it. Otherwise say \
             which is to stay: --keep journal sets the database aside and fills a new one from the journal; --keep database \
             sets the journal aside and makes a new one from the database",
            pair.floor().min(from.cursor),
            pair.journal.and_then(|side| side.last).unwrap_or_default(),
            from.cursor
        )),
        (Some(Wrong::OldDatabase), Some(from)) if keep == Some(Keep::Database) => rebuild(pair, from, true),
        (Some(Wrong::OldDatabase | Wrong::NoDatabase), from) if keep != Some(Keep::Database) => fill(pair, from, false),
        (Some(Wrong::OldJournal), Some(from)) if keep != Some(Keep::Journal) => {
            rebuild(pair, from, keep == Some(Keep::Database))
        }
        _ => Plan::Stuck("the side that is to stay lacks what the other one has: leave --keep out".to_owned()),
    }
}

fn rebuild(pair: &Pair, from: Position, is_chosen: bool) -> Plan {
    let own = pair.journal.filter(|side| side.identity.journal == from.journal).and_then(|side| side.last);
    let had = own.map_or(from.cursor, |last| last.max(from.cursor));
    let known = pair.remembered.filter(|known| known.journal == from.journal && known.cursor > had);
    Plan::Rebuild(Rebuild { from, lost: known.map(|known| (had.next(), known.cursor)), is_chosen })
}

/// The database, or a new one, is behind the journal: what is missing between them?
fn fill(pair: &Pair, from: Option<Position>, is_aside: bool) -> Plan {
    let Some(side) = &pair.journal else { return Plan::Nothing };
    let has = from.map_or(Seq(0), |from| from.cursor);
    let (last, before) = (side.last.unwrap_or_default(), Seq(side.first.0 - 1));
    let below = (has < before).then(|| (has.next(), before));
    let beyond = pair.remembered().filter(|known| *known > last).map(|known| (last.next(), known));
    match (from, beyond) {
        (Some(from), Some(lost)) if below.is_none() && from.cursor == last => {
            Plan::Rebuild(Rebuild { from, lost: Some(lost), is_chosen: false })
        }
        _ => Plan::Fill(Fill { from, cursor: has.max(before), below, beyond, is_aside }),
    }
}

#[cfg(test)]
mod tests;
