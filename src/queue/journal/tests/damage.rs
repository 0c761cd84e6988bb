//! What bytes that changed by themselves, or were never written, lead to: a refusal, or exactly what was there.

use super::*;
use crate::queue::journal::frame::{HEADER, total};

const FIRST: &str = "00000000000000000001.seg";

/// A journal with a snapshot, segments behind it and a spare; and what a reader sees in it.
fn sample() -> (MemDisk, Log) {
    let disk = MemDisk::default();
    let (mut r, _) = open_log(&disk, &small()).unwrap();
    let mut log = Vec::new();
    while disk.names().iter().all(|n| !n.ends_with(".snap")) {
        append_synced(&mut r.writer, &mut log);
        if settle(&mut r.janitor, 0) == Step::SnapshotDue {
            r.janitor.make_snapshot(&mut Log::default(), |l, out| l.save(out)).unwrap();
        }
    }
    for _ in 0..9 {
        append_synced(&mut r.writer, &mut log);
    }
    let (_, seen) = read_log(&disk).unwrap();
    assert_eq!(seen.batches, log);
    (disk, seen)
}

/// A journal of `batches` frames in one segment of 64 KiB.
fn plain(batches: usize) -> (MemDisk, Vec<Batch>, u64) {
    let options = Options { segment_bytes: 64 * 1024, frame_max: 8192, ..small() };
    let disk = MemDisk::default();
    let (mut r, _) = open_log(&disk, &options).unwrap();
    let mut log = Vec::new();
    (0..batches).for_each(|_| append_synced(&mut r.writer, &mut log));
    (disk, log, r.writer.position().1)
}

type Spoil<'a> = &'a dyn Fn(&MemDisk);

fn is_refusal(e: &OpenError<std::io::Error>) -> bool {
    matches!(e, OpenError::Journal(JournalError::Damaged { .. }))
}

#[test]
fn no_single_flipped_bit_goes_unnoticed_or_loses_anything() {
    let (disk, whole) = sample();
    let (mut refused, mut harmless) = (0, 0);
    for name in disk.names() {
        let bytes = disk.edit(&name, |b| b.len());
        for bit in 0..bytes * 8 {
            let flip = || disk.edit(&name, |b| b[bit / 8] ^= 1 << (bit % 8));
            flip();
            match read_log(&disk) {
                Ok((_, log)) => {
                    assert_eq!(log, whole, "bit {bit} of {name} changed what is read");
                    harmless += 1;
                }
                Err(e) => {
                    assert!(is_refusal(&e), "bit {bit} of {name}: {e}");
                    refused += 1;
                }
            }
            flip();
        }
    }
    assert!(refused > 10_000 && harmless > 10_000, "{refused} refused, {harmless} harmless");
}

#[test]
fn the_last_frame_cut_short_anywhere_is_cut_off_and_the_journal_goes_on() {
    let (disk, log, _) = plain(6);
    let last = total(log[5].body.len()) as usize;
    let end = disk.edit(FIRST, |b| b.iter().rposition(|&b| b != 0).unwrap()) + 1;
    let start = (end - log[5].body.len() - HEADER) as u64;
    let whole: Vec<u8> = disk.edit(FIRST, |b| b[start as usize..end].to_vec());
    assert!(last >= whole.len());
    for keep in 0..whole.len() {
        let torn = disk.copy();
        torn.edit(FIRST, |b| b[start as usize + keep..].fill(0));
        let (mut r, seen) =
            open_log(&torn, &small()).unwrap_or_else(|e| panic!("{keep} of {} bytes: {e}", whole.len()));
        assert_eq!(seen.batches, log[..5]);
        assert_eq!(r.writer.position(), (1, start));
        let mut after = log[..5].to_vec();
        append_synced(&mut r.writer, &mut after);
        assert_eq!(read_log(&torn).unwrap().1.batches, after);
    }
}

#[test]
fn missing_sectors_of_the_last_frame_are_a_torn_write_in_zeroed_and_in_recycled_segments() {
    for stale in [0u8, 0x5a] {
        let options = Options { segment_bytes: 64 * 1024, frame_max: 8192, ..small() };
        let disk = MemDisk::default();
        let (mut r, _) = open_log(&disk, &options).unwrap();
        let mut log = Vec::new();
        append_synced(&mut r.writer, &mut log);
        let start = r.writer.position().1 as usize;
        let big = Batch {
            first_seq: r.writer.next_seq().0,
            count: 40,
            body: (0..3000u32).map(|i| (i % 251) as u8 | 1).collect(),
        };
        append(&mut r.writer, &big, Durability::Disk).unwrap();
        let end = r.writer.position().1 as usize;
        if stale != 0 {
            disk.edit(FIRST, |b| {
                b[48] = 1;
                let crc = crc32c::crc32c(&b[..52]);
                b[52..56].copy_from_slice(&crc.to_le_bytes());
                b[end..].fill(stale);
            });
        }
        let sectors = end.div_ceil(512) - start / 512;
        for missing in 1..1u32 << sectors {
            let torn = disk.copy();
            torn.edit(FIRST, |b| {
                for s in (0..sectors).filter(|s| missing >> s & 1 == 1) {
                    let from = (start / 512 + s) * 512;
                    b[from.max(start)..(from + 512).min(end)].fill(stale);
                }
            });
            let (r, seen) = open_log(&torn, &options).unwrap_or_else(|e| panic!("sectors {missing:b}: {e}"));
            assert_eq!((seen.batches, r.writer.position().1), (log.clone(), start as u64));
        }
    }
}

#[test]
fn a_last_sector_that_was_never_written_is_a_torn_write_although_it_had_one_bit_of_the_frame() {
    for (in_it, last) in [(1, 0x10), (5, 0x10), (1, 0x11), (5, 0x11)] {
        let (disk, log, start) = plain(3);
        let options = Options { segment_bytes: 64 * 1024, frame_max: 8192, ..small() };
        let (mut r, _) = open_log(&disk, &options).unwrap();
        // Of the body so many bytes are in the next sector, all of them zero but the last.
        let end = (start as usize + HEADER + 100).next_multiple_of(512) + in_it;
        let mut body = vec![0x41; end - start as usize - HEADER];
        let len = body.len();
        body[len - in_it..].fill(0);
        body[len - 1] = last;
        let batch = Batch { first_seq: r.writer.next_seq().0, count: 1, body };
        append(&mut r.writer, &batch, Durability::Disk).unwrap();
        disk.edit(FIRST, |b| {
            assert_eq!(b[end - 1], last, "the frame ends there");
            b[end - in_it..end].fill(0);
        });
        let (_, seen) = open_log(&disk, &options).unwrap_or_else(|e| panic!("{in_it} bytes, {last:x}: {e}"));
        assert_eq!(seen.batches, log);
    }
}

#[test]
fn damage_before_a_valid_frame_names_the_file_the_place_and_what_to_do() {
    let (disk, _, _) = plain(6);
    disk.edit(FIRST, |b| b[4096 + 60..4096 + 90].fill(0));
    let error = open_log(&disk, &small()).err().unwrap();
    let OpenError::Journal(JournalError::Damaged { file, offset, .. }) = &error else { panic!("{error}") };
    assert_eq!((file.as_str(), *offset), (FIRST, 4096));
    let text = error.to_string();
    assert!(text.contains("a valid frame follows it") && text.contains("forebay journal verify"), "{text}");
}

#[test]
fn a_mark_turns_damage_in_the_last_data_frame_into_damage_inside() {
    let (disk, log, end) = plain(3);
    let options = Options { segment_bytes: 64 * 1024, frame_max: 8192, ..small() };
    let erase = |disk: &MemDisk| disk.edit(FIRST, |b| b[end as usize - 64..end as usize].fill(0));
    let marked = disk.copy();
    let (mut r, _) = open_log(&marked, &options).unwrap();
    mark(&mut r.writer).unwrap();
    assert_eq!(read_log(&marked).unwrap().1.marks, 1);
    erase(&marked);
    assert!(is_refusal(&read_log(&marked).unwrap_err()));
    erase(&disk);
    assert_eq!(read_log(&disk).unwrap().1.batches, log[..2]);
}

#[test]
fn a_missing_shortened_renamed_or_foreign_file_is_refused() {
    let (disk, _) = sample();
    let segments: Vec<String> = disk.names().into_iter().filter(|n| n.ends_with(".seg")).collect();
    let used = &segments[2];
    let spoil: [(&str, Spoil<'_>); 5] = [
        ("missing", &|d| d.remove(used).unwrap()),
        ("no identity", &|d| d.remove("identity").unwrap()),
        ("shortened", &|d| d.edit(used, |b| b.truncate(5000))),
        ("renamed", &|d| d.rename(used, "00000000000000000099.seg").unwrap()),
        ("cut to nothing", &|d| d.edit(used, Vec::clear)),
    ];
    for (what, spoil) in spoil {
        let copy = disk.copy();
        spoil(&copy);
        let error = open_log(&copy, &small()).err().unwrap_or_else(|| panic!("{what} was accepted"));
        assert!(is_refusal(&error), "{what}: {error}");
    }
    let other = MemDisk::default();
    let mut log = Log::default();
    open(other.clone(), small(), || Identity { journal: 77, hash_key: [0; 16] }, &mut log).unwrap();
    let foreign = other.edit(FIRST, |b| b.clone());
    disk.edit(&segments[0], |b| *b = foreign);
    let error = inspect(&disk).unwrap().problem.unwrap();
    assert!(matches!(error, JournalError::Foreign { found: 77, .. }), "{error}");
}

#[test]
fn a_newer_format_is_refused_with_both_versions_and_a_flipped_version_is_damage() {
    let (disk, _) = sample();
    for name in disk.names() {
        if !(name == "identity" || name.ends_with(".snap") || name.contains("4.seg")) {
            continue;
        }
        let newer = disk.copy();
        newer.edit(&name, |b| {
            b[8] = 9;
            let crc = crc32c::crc32c(&b[..12]);
            b[12..16].copy_from_slice(&crc.to_le_bytes());
        });
        let error = open_log(&newer, &small()).err().unwrap();
        assert!(
            matches!(&error, OpenError::Journal(JournalError::Newer { found: 9, known: 2, .. })),
            "{name}: {error}"
        );
        newer.edit(&name, |b| b[8] = 3);
        assert!(is_refusal(&open_log(&newer, &small()).err().unwrap()), "{name}");
    }
}

#[test]
fn stale_frames_of_a_recycled_segment_are_never_read_again() {
    let (disk, log, end) = plain(5);
    // The same bytes under the next number: every stale frame is whole, only its segment is not this one.
    let old = disk.edit(FIRST, |b| b[4096..end as usize].to_vec());
    let options = Options { segment_bytes: 64 * 1024, frame_max: 8192, ..small() };
    let (mut r, _) = open_log(&disk, &options).unwrap();
    settle(&mut r.janitor, 0);
    disk.edit("00000000000000000002.seg", |b| b[4096..end as usize].copy_from_slice(&old));
    disk.edit(FIRST, |b| b[end as usize..end as usize + old.len()].copy_from_slice(&old));
    // In the same segment they do carry the right number, but begin with an earlier seq.
    assert!(is_refusal(&read_log(&disk).unwrap_err()));
    disk.edit(FIRST, |b| b[end as usize..].fill(0));
    assert_eq!(read_log(&disk).unwrap().1.batches, log);
}
