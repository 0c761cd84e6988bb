//! Segments that stay although nobody needs them, and a journal that begins with a book.

use super::*;
use crate::queue::codec;
use crate::queue::journal::disk::{Disk as _, DiskFile as _};
use crate::sale::{CampaignNo, Event};

/// The seqs of the first and the last frame whose entries are still there as such.
fn kept(disk: &MemDisk) -> (Seq, Seq) {
    let mut all = Log { wanted: Some(Seq(0)), ..Log::default() };
    let (first, unread) = kept_from(disk, IDENTITY.journal).unwrap();
    assert!(unread.is_none(), "{unread:?}");
    all.wanted = Some(Seq(first.0 - 1));
    let report = read(disk, &mut all).unwrap();
    let frames: Vec<_> = all.covered.iter().chain(&all.batches[all.in_snapshot..]).collect();
    assert_eq!(frames.first().map(|batch| batch.first_seq), Some(first.0), "what is said to be kept is there");
    (first, report.last_seq)
}

/// Appends frames, each 5 µs after the last, with everything in the database at once; covered segments stay for `keep` µs.
fn run(r: &mut Recovered<MemDisk>, frames: usize, keep: Option<i64>) -> Vec<(u64, Timestamp)> {
    let (mut log, mut times) = (Vec::new(), Vec::new());
    for _ in 0..frames {
        append_synced(&mut r.writer, &mut log);
        times.push((log[log.len() - 1].first_seq, r.writer.last_time()));
        if let Some(keep) = keep {
            r.janitor.keep_after(r.writer.last_time().plus_micros(-keep));
        }
        let retired = r.writer.next_seq().0 - 1;
        if settle(&mut r.janitor, retired) == Step::SnapshotDue {
            // On a full disk it is tried again.
            let made = r.janitor.make_snapshot(&mut Log::default(), |l, out| l.save(out));
            assert!(made.is_ok() || disk_is_full(&made), "{made:?}");
        }
    }
    times
}

fn disk_is_full<T>(made: &Result<T, OpenError<std::io::Error>>) -> bool {
    matches!(made, Err(OpenError::Journal(error)) if error.is_full())
}

fn segments(disk: &MemDisk) -> usize {
    disk.names().iter().filter(|name| name.ends_with(".seg")).count()
}

#[test]
fn covered_segments_stay_as_long_as_asked_and_go_after_that() {
    let disk = MemDisk::default();
    let (mut r, _) = open_log(&disk, &small()).unwrap();
    let times = run(&mut r, 800, Some(1_500));
    let (first, _) = kept(&disk);
    let since = r.writer.last_time().plus_micros(-1_500);
    let oldest = times.iter().find(|(_, at)| *at > since).unwrap().0;
    assert!(first.0 <= oldest, "entry {oldest} is young enough to be there, {first} is the first");
    let long_gone = times.iter().rev().find(|(_, at)| *at < since.plus_micros(-500)).unwrap().0;
    assert!(first.0 > long_gone, "entry {long_gone} is far too old, {first} is the first");
    assert!(segments(&disk) > 20, "{}", segments(&disk));
    r.janitor.keep_after(r.writer.last_time());
    settle(&mut r.janitor, u64::MAX);
    assert!(segments(&disk) < 15, "{}", segments(&disk));
}

#[test]
fn a_restart_keeps_what_was_kept() {
    let disk = MemDisk::default();
    let (mut r, _) = open_log(&disk, &small()).unwrap();
    run(&mut r, 400, Some(500));
    let (before, last) = (kept(&disk).0, r.writer.last_time());
    drop(r);
    let (mut r, _) = open_log(&disk, &small()).unwrap();
    r.janitor.keep_after(last.plus_micros(-500));
    settle(&mut r.janitor, u64::MAX);
    assert_eq!(kept(&disk).0, before);
    r.janitor.keep_after(last);
    settle(&mut r.janitor, u64::MAX);
    assert!(kept(&disk).0 > before);
}

#[test]
fn what_is_only_kept_goes_before_claims_are_refused_on_a_full_disk() {
    let disk = MemDisk::default();
    let (mut r, _) = open_log(&disk, &small()).unwrap();
    run(&mut r, 200, Some(i64::MAX / 2));
    let before = segments(&disk);
    assert_eq!(kept(&disk).0, Seq(1), "everything is kept");
    let used: usize = disk.names().iter().map(|name| disk.edit(name, |bytes| bytes.len())).sum();
    disk.state().capacity = Some(used + 60_000);
    run(&mut r, 200, Some(i64::MAX / 2));
    assert!(segments(&disk) < before + 10 && kept(&disk).0 > Seq(1), "the oldest went");
    assert_eq!(r.writer.room(), Room::Plenty);
}

#[test]
fn what_is_only_kept_goes_before_the_disk_is_full_for_others() {
    let disk = MemDisk::default();
    let (mut r, _) = open_log(&disk, &small()).unwrap();
    disk.state().free = Some(crate::limits::KEEP_JOURNAL_FREE_MIN);
    run(&mut r, 200, Some(i64::MAX / 2));
    assert_eq!(kept(&disk).0, Seq(1), "there is room");
    disk.state().free = Some(crate::limits::KEEP_JOURNAL_FREE_MIN - 1);
    settle(&mut r.janitor, u64::MAX);
    assert!(segments(&disk) < 10, "{}", segments(&disk));
    disk.state().free = Some(crate::limits::KEEP_JOURNAL_FREE_MIN);
    let (first, _) = kept(&disk);
    run(&mut r, 100, Some(i64::MAX / 2));
    assert_eq!(kept(&disk).0, first, "there is room again");
}

#[test]
fn nothing_is_kept_that_was_not_asked_for_and_nothing_needed_goes_for_its_age() {
    let disk = MemDisk::default();
    let (mut r, _) = open_log(&disk, &small()).unwrap();
    run(&mut r, 200, None);
    assert!(segments(&disk) < 10, "{}", segments(&disk));
    let disk = MemDisk::default();
    let (mut r, _) = open_log(&disk, &small()).unwrap();
    let mut log = Vec::new();
    for _ in 0..100 {
        append_synced(&mut r.writer, &mut log);
        r.janitor.keep_after(Timestamp(i64::MAX - 1));
        if settle(&mut r.janitor, 0) == Step::SnapshotDue {
            r.janitor.make_snapshot(&mut Log::default(), |l, out| l.save(out)).unwrap();
        }
    }
    assert_eq!(kept(&disk).0, Seq(1), "the database has none of it");
}

#[test]
fn a_journal_that_begins_with_a_book_goes_on_behind_it() {
    let book = Log { batches: vec![Batch { first_seq: 7, count: 1, body: vec![1; 40] }], ..Log::default() };
    let (last, at) = (Seq(1_000_000_007), Timestamp(5_000));
    let begin = |disk: &MemDisk| begin_from(disk, &small(), IDENTITY, (last, at), |out| book.save(out));
    let disk = MemDisk::default();
    begin(&disk).unwrap();
    assert_eq!(kept_from(&disk, IDENTITY.journal).unwrap().0, last.next());
    let disk = disk.after_power_cut(|| false);
    let (mut r, log) = open_log(&disk, &small()).unwrap();
    assert_eq!(
        (log.batches, r.writer.next_seq(), r.last_seq, r.last_time),
        (book.batches.clone(), last.next(), last, at)
    );
    let mut appended = Vec::new();
    for _ in 0..60 {
        append_synced(&mut r.writer, &mut appended);
        settle(&mut r.janitor, 0);
    }
    drop(r);
    let (r, log) = open_log(&disk.after_power_cut(|| false), &small()).unwrap();
    assert_eq!(log.batches[1..], appended);
    assert_eq!(r.report.snapshot, Some(last));
}

#[test]
fn a_beginning_that_is_cut_short_anywhere_is_no_journal_with_something_else_in_it() {
    let book = Log { batches: vec![Batch { first_seq: 7, count: 1, body: vec![1; 40] }], ..Log::default() };
    for op in 1.. {
        let disk = MemDisk::default();
        disk.state().kill_at = Some(op);
        let begun = begin_from(&disk, &small(), IDENTITY, (Seq(9), Timestamp(1)), |out| book.save(out));
        let after = disk.after_power_cut(|| op % 2 == 0);
        if begun.is_ok() {
            assert!(op > 10, "{op} steps");
            break;
        }
        // It is thrown away by whoever made it; what a start would see is at most an empty journal of that identity.
        match open_log(&after, &small()) {
            Ok((r, log)) => assert!(r.last_seq == Seq(0) && log.batches.is_empty() || r.last_seq == Seq(9), "{op}"),
            Err(error) => panic!("{op}: {error}"),
        }
    }
}

#[test]
fn an_entry_is_found_by_its_position_as_long_as_it_is_kept() {
    let disk = MemDisk::default();
    let (mut r, _) = open_log(&disk, &small()).unwrap();
    let event = |seq: u64| Event::Released(CampaignNo(seq as u32));
    for _ in 0..300 {
        let first = r.writer.next_seq().0;
        let mut body = vec![];
        (first..first + 3).for_each(|seq| codec::encode(&mut body, &event(seq)));
        append(&mut r.writer, &Batch { first_seq: first, count: 3, body }, Durability::Disk).unwrap();
        r.writer.sync().unwrap();
        settle(&mut r.janitor, 0);
    }
    mark(&mut r.writer).unwrap();
    drop(r);
    assert!(segments(&disk) > 4, "in several files");
    for seq in 1..=900 {
        let found = entry_at(&disk, IDENTITY.journal, Seq(seq)).expect("it is kept");
        assert_eq!((found.seq, found.event), (Seq(seq), event(seq)));
    }
    assert_eq!(entry_at(&disk, IDENTITY.journal, Seq(901)), None);
    assert_eq!(entry_at(&disk, IDENTITY.journal + 1, Seq(1)), None, "another journal's files");
    disk.remove(&format::segment_name(1)).unwrap();
    assert_eq!(entry_at(&disk, IDENTITY.journal, Seq(1)), None);
}

#[test]
fn a_damaged_beginning_of_a_segment_that_is_merely_kept_ends_the_look_and_no_start() {
    for at in [20, 4_096 + 20] {
        let disk = MemDisk::default();
        let (mut r, _) = open_log(&disk, &small()).unwrap();
        run(&mut r, 200, Some(i64::MAX / 2));
        drop(r);
        let (_, last) = kept(&disk);
        let mut names: Vec<String> = disk.names().into_iter().filter(|name| name.ends_with(".seg")).collect();
        names.sort();
        let name = names.swap_remove(2);
        let mut file = disk.open(&name).unwrap();
        let mut byte = [0];
        file.read_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        file.sync_data().unwrap();
        let (first, unread) = kept_from(&disk, IDENTITY.journal).unwrap();
        assert!(first > Seq(1) && unread.is_some_and(|error| error.to_string().contains(&name)), "{first}");
        let mut all = Log { wanted: Some(Seq(0)), ..Log::default() };
        assert!(read(&disk, &mut all).is_err(), "whoever needs it is told");
        let (r, _) = open_log(&disk, &small()).unwrap();
        assert_eq!(r.last_seq, last);
    }
}

#[test]
fn a_file_that_only_a_snapshot_covers_is_passed_over_where_nobody_needs_it_and_nowhere_else() {
    let disk = MemDisk::default();
    let (mut r, _) = open_log(&disk, &small()).unwrap();
    run(&mut r, 60, Some(1_000_000));
    drop(r);
    let needs = |needed_after| {
        let mut log = Log { kept: Some(Seq(needed_after)), ..Log::default() };
        open(disk.clone(), small(), || IDENTITY, &mut log).map(|_| log.covered.first().map(|batch| batch.first_seq))
    };
    assert_eq!(needs(0).unwrap(), Some(1), "all is kept, from the first entry on");
    let second = format::segment_name(2);
    let at = segment::HEADER_BYTES as usize + 40;
    let spoil = || disk.edit(&second, |bytes| bytes[at] ^= 4);
    spoil();
    let error = needs(0).unwrap_err();
    assert!(
        matches!(&error, OpenError::Journal(JournalError::Damaged { file, .. }) if file.ends_with(&second)),
        "{error}"
    );
    // All of its entries were in the database once, so what is behind it is enough.
    let begins = needs(u64::MAX).unwrap().expect("later ones are kept");
    assert!(begins > 1);
    assert_eq!(needs(begins - 1).unwrap(), Some(begins));
    assert!(needs(begins - 2).is_err(), "its last entry may be needed");
    spoil();
    assert_eq!(needs(0).unwrap(), Some(1));
}
