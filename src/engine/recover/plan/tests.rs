//! Every combination of sides and what can be done about it.

use super::*;
use crate::engine::pair::JournalSide;
use crate::queue::drained::Drained;
use crate::queue::journal::Identity;
use crate::store::Looked;

const ID: u128 = 0xfeed;
const OTHER: u128 = 0xbeef;

/// A journal with entries from `first` to `last`, a folder that remembers `known`, and a database at `cursor`.
fn pair(first: u64, last: u64, known: u64, of: u128, cursor: u64) -> Pair {
    let identity = Identity { journal: ID, hash_key: [0; 16] };
    let looked = Looked::Bound(Position { journal: of, cursor: Seq(cursor) }, Some(1));
    Pair {
        data_dir: "data".into(),
        database: "shop.db".into(),
        journal: Some(JournalSide { identity, first: Seq(first), last: Some(Seq(last)) }),
        remembered: Some(Drained { journal: ID, cursor: Seq(known) }),
        looked: Some(looked),
        unread: None,
        mark: None,
    }
}

fn at(cursor: u64) -> Position {
    Position { journal: ID, cursor: Seq(cursor) }
}

fn some(first: u64, last: u64) -> Option<Stretch> {
    Some((Seq(first), Seq(last)))
}

#[test]
fn an_older_database_is_filled_and_what_is_in_neither_side_is_named() {
    let planned = |first, last, known, cursor| plan(&pair(first, last, known, ID, cursor), None, false, None);
    let fill = |cursor, below, beyond| Fill { from: None, cursor: Seq(cursor), below, beyond, is_aside: false };
    let filled = |from, cursor, below, beyond| Plan::Fill(Fill { from: Some(at(from)), ..fill(cursor, below, beyond) });
    assert_eq!(planned(1, 100, 100, 100), Plan::Nothing);
    assert_eq!(planned(1, 100, 80, 60), filled(60, 60, None, None));
    assert_eq!(planned(71, 100, 80, 60), filled(60, 70, some(61, 70), None));
    assert_eq!(planned(1, 80, 100, 60), filled(60, 60, None, some(81, 100)));
    assert_eq!(planned(71, 80, 100, 60), filled(60, 70, some(61, 70), some(81, 100)));
    let rebuild = |from, lost| Plan::Rebuild(Rebuild { from: at(from), lost, is_chosen: false });
    assert_eq!(planned(1, 80, 100, 80), rebuild(80, some(81, 100)), "there is nothing to fill it with");
    assert_eq!(planned(1, 60, 100, 80), rebuild(80, some(81, 100)));
    assert_eq!(planned(1, 60, 70, 80), rebuild(80, None));
    let new = Pair { looked: Some(Looked::Missing), ..pair(71, 80, 100, ID, 0) };
    assert_eq!(plan(&new, None, false, None), Plan::Fill(fill(70, some(1, 70), some(81, 100))));
}

#[test]
fn a_database_that_stays_takes_the_place_of_any_journal() {
    let chosen = |from, lost| Plan::Rebuild(Rebuild { from, lost, is_chosen: true });
    let keep = Some(Keep::Database);
    assert_eq!(plan(&pair(1, 100, 80, ID, 60), None, false, keep), chosen(at(60), None));
    assert_eq!(plan(&pair(1, 100, 120, ID, 60), None, false, keep), chosen(at(60), some(101, 120)));
    let theirs = Position { journal: OTHER, ..at(60) };
    assert_eq!(plan(&pair(1, 100, 80, OTHER, 60), None, false, keep), chosen(theirs, None));
    let unread = Pair { journal: None, ..pair(1, 100, 80, ID, 60) };
    assert_eq!(plan(&unread, Some("damage"), false, keep), chosen(at(60), some(61, 80)));
    assert!(matches!(plan(&unread, Some("damage"), false, None), Plan::Stuck(why) if why.contains("damage")));
}

#[test]
fn sides_that_went_on_apart_are_stuck_until_somebody_chooses() {
    let forked = Pair { mark: Some(2), ..pair(1, 100, 40, ID, 60) };
    assert!(matches!(plan(&forked, None, false, None), Plan::Stuck(why) if why.contains("up to 40 at least")));
    let journal = Fill { from: None, cursor: Seq(0), below: None, beyond: None, is_aside: true };
    assert_eq!(plan(&forked, None, false, Some(Keep::Journal)), Plan::Fill(journal));
    let database = Rebuild { from: at(60), lost: None, is_chosen: true };
    assert_eq!(plan(&forked, None, false, Some(Keep::Database)), Plan::Rebuild(database));
}
