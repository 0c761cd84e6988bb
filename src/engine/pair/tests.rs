//! Every combination of sides and its verdict.

use super::*;
use crate::store::Position;

const ID: u128 = 0xfeed;
const OTHER: u128 = 0xbeef;

fn journal(first: u64, last: u64) -> Option<JournalSide> {
    let identity = Identity { journal: ID, hash_key: [0; 16] };
    Some(JournalSide { identity, first: Seq(first), last: Some(Seq(last)) })
}

fn bound(journal: u128, cursor: u64) -> Option<Looked> {
    Some(Looked::Bound(Position { journal, cursor: Seq(cursor) }, None))
}

fn pair(journal: Option<JournalSide>, remembered: Option<(u128, u64)>, looked: Option<Looked>) -> Pair {
    let remembered = remembered.map(|(journal, cursor)| Drained { journal, cursor: Seq(cursor) });
    Pair { data_dir: "data".into(), database: "shop.db".into(), journal, remembered, looked, unread: None, mark: None }
}

#[test]
fn every_combination_of_sides_has_its_verdict() {
    use Wrong::{NoDatabase, NoJournal, OldDatabase, OldJournal, Strangers};
    let new = [Looked::Missing, Looked::Empty, Looked::Unbound].map(Some);
    for looked in new {
        assert_eq!(pair(None, None, looked).wrong(), None, "a first start");
        assert_eq!(pair(journal(1, 0), None, looked).wrong(), None, "killed after the identity");
        assert_eq!(pair(journal(1, 0), Some((ID, 0)), looked).wrong(), None);
        assert_eq!(pair(journal(1, 50), None, looked).wrong(), None, "the database was never there");
        assert_eq!(pair(journal(1, 50), Some((ID, 1)), looked).wrong(), Some(NoDatabase));
        assert_eq!(pair(journal(11, 50), None, looked).wrong(), Some(NoDatabase), "what was left out was drained");
        assert_eq!(pair(journal(11, 10), Some((OTHER, 99)), looked).wrong(), Some(NoDatabase));
    }
    let sides: [(_, _, _, _, Option<Wrong>); 17] = [
        (None, None, ID, 0, Some(NoJournal)),
        (None, Some((ID, 5)), ID, 5, Some(NoJournal)),
        (journal(1, 50), None, ID, 0, None),
        (journal(1, 50), Some((ID, 50)), ID, 50, None),
        (journal(1, 50), Some((ID, 40)), ID, 45, None),
        (journal(1, 50), Some((ID, 40)), ID, 40, None),
        (journal(1, 50), Some((ID, 40)), ID, 39, Some(OldDatabase)),
        (journal(1, 50), Some((OTHER, 40)), ID, 39, None),
        (journal(11, 50), None, ID, 10, None),
        (journal(11, 50), None, ID, 9, Some(OldDatabase)),
        (journal(51, 50), None, ID, 50, None),
        (journal(51, 50), None, ID, 51, Some(OldJournal)),
        (journal(1, 50), Some((ID, 60)), ID, 60, Some(OldJournal)),
        (journal(1, 50), Some((ID, 60)), ID, 30, Some(OldDatabase)),
        (journal(1, 0), None, ID, 1, Some(OldJournal)),
        (journal(1, 50), Some((ID, 40)), OTHER, 40, Some(Strangers)),
        (journal(1, 0), None, OTHER, 0, Some(Strangers)),
    ];
    for (at, (journal, remembered, of, cursor, verdict)) in sides.into_iter().enumerate() {
        assert_eq!(pair(journal, remembered, bound(of, cursor)).wrong(), verdict, "line {at}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_no_older_copy_and_matters_only_where_it_is_needed() {
    let verdict =
        |looked| Pair { unread: Some("bytes".into()), ..pair(journal(11, 50), Some((ID, 5)), looked) }.wrong();
    assert_eq!(verdict(bound(ID, 10)), None, "it is merely kept");
    assert_eq!(verdict(bound(ID, 45)), None);
    assert_eq!(verdict(bound(ID, 9)), Some(Wrong::Broken));
    assert_eq!(verdict(Some(Looked::Missing)), Some(Wrong::Broken));
    assert_eq!(verdict(bound(OTHER, 9)), Some(Wrong::Strangers));
}

#[test]
fn another_entry_where_the_database_stands_is_a_fork_and_an_unknown_one_is_none() {
    let verdict = |theirs, own, cursor| {
        let looked = Some(Looked::Bound(Position { journal: ID, cursor: Seq(cursor) }, theirs));
        Pair { mark: own, ..pair(journal(11, 50), Some((ID, 40)), looked) }.wrong()
    };
    for cursor in [30, 40, 45, 50] {
        assert_eq!(verdict(Some(1), Some(2), cursor), Some(Wrong::Forked), "{cursor}");
    }
    for (theirs, own) in [(Some(1), Some(1)), (None, Some(2)), (Some(1), None), (None, None)] {
        assert_eq!(verdict(theirs, own, 45), None, "{theirs:?} {own:?}");
    }
    assert_eq!(verdict(Some(1), Some(2), 51), Some(Wrong::OldJournal), "the longer one is the database");
}

#[test]
fn a_database_that_cannot_be_reached_is_no_wrong_pair() {
    assert_eq!(pair(None, None, None).wrong(), None);
    assert_eq!(pair(journal(11, 50), Some((ID, 40)), None).wrong(), None);
    assert_eq!(pair(journal(11, 50), Some((ID, 51)), None).wrong(), Some(Wrong::OldJournal), "the folder itself tells");
}

#[test]
fn a_refusal_names_both_sides_and_the_way_out() {
    let text = pair(journal(11, 50), Some((ID, 40)), bound(ID, 7)).check().expect_err("an older copy");
    for part in ["0000feed", "entries 11 to 50", "up to entry 40", "shop.db", "up to entry 7", "`forebay recover`"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains('\n'), "one line");
}
