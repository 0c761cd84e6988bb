//! A journal in good health: rotation, recycling, snapshots, a full disk, readers beside it.

use proptest::prelude::*;

use super::*;
use crate::queue::codec::{self, CodecError};
use crate::sale::{CampaignNo, Claim, ClaimId, Event, Money, Units, UserId};

fn claim(seq: u64) -> Claim {
    Claim {
        claim_id: ClaimId([seq as u8; 16]),
        campaign: CampaignNo(3),
        user: UserId::parse(&format!("user-{seq}")).unwrap(),
        quantity: Units(2),
        amount: Some(Money(1_980)),
        hold: 1,
        receipt_key: 4,
        key: None,
        seq: Seq(seq),
        accepted_at: Timestamp(0),
        durability: Durability::Disk,
    }
}

#[test]
fn snapshot_and_later_frames_are_what_a_full_replay_gives_and_old_segments_go() {
    let disk = MemDisk::default();
    let (mut r, _) = open_log(&disk, &small()).unwrap();
    let (mut log, mut snapshots) = (Vec::new(), 0);
    for _ in 0..200 {
        append_synced(&mut r.writer, &mut log);
        let retired = r.writer.next_seq().0 - 1;
        if settle(&mut r.janitor, retired) == Step::SnapshotDue {
            r.janitor.make_snapshot(&mut Log::default(), |l, out| l.save(out)).unwrap().unwrap();
            snapshots += 1;
        }
    }
    let names = disk.names();
    assert!(snapshots > 5, "{snapshots}");
    assert_eq!(names.iter().filter(|n| n.ends_with(".snap")).count(), 1);
    assert!(names.iter().filter(|n| n.ends_with(".seg")).count() < 10, "{names:?}");
    assert_eq!(open_log(&disk.after_power_cut(|| false), &small()).unwrap().1.batches, log);
}

#[test]
fn what_the_database_lacks_is_kept_and_handed_out_though_a_snapshot_covers_it() {
    let disk = MemDisk::default();
    let (mut r, _) = open_log(&disk, &small()).unwrap();
    let mut log = Vec::new();
    for _ in 0..100 {
        append_synced(&mut r.writer, &mut log);
        if settle(&mut r.janitor, 30) == Step::SnapshotDue {
            r.janitor.make_snapshot(&mut Log::default(), |l, out| l.save(out)).unwrap();
        }
    }
    let snapshot = r.janitor.snapshot().unwrap().seq();
    let mut wanting = Log { wanted: Some(Seq(30)), ..Log::default() };
    open(disk.clone(), small(), || IDENTITY, &mut wanting).unwrap();
    let expected: Vec<_> =
        log.iter().filter(|b| b.first_seq + u64::from(b.count) > 31 && b.first_seq <= snapshot.0).cloned().collect();
    assert!(!expected.is_empty());
    assert_eq!((wanting.covered, &wanting.batches), (expected, &log));
    let mut early = Log { wanted: Some(Seq(0)), ..Log::default() };
    let first = disk.names().into_iter().find(|n| n.ends_with(".seg")).unwrap();
    disk.remove(&first).unwrap();
    let error = open(disk.clone(), small(), || IDENTITY, &mut early).err().unwrap();
    assert!(error.to_string().contains("entries after seq 0 are wanted"), "{error}");
}

#[test]
fn a_full_disk_shrinks_the_room_before_anything_fails_and_grows_it_again() {
    let disk = MemDisk::default();
    let (mut r, _) = open_log(&disk, &small()).unwrap();
    let mut log = Vec::new();
    let used: usize = disk.names().iter().map(|n| disk.edit(n, |b| b.len())).sum();
    disk.state().capacity = Some(used + 5000);
    assert_eq!(settle(&mut r.janitor, 0), Step::DiskFull);
    assert!(disk.names().iter().all(|n| !n.ends_with(".tmp")), "what was begun is taken back");
    let mut rooms = Vec::new();
    while r.writer.room() != Room::Full {
        rooms.push(r.writer.room());
        append_synced(&mut r.writer, &mut log);
    }
    assert!(rooms.contains(&Room::Plenty) && rooms.last() == Some(&Room::Reserve), "{rooms:?}");
    let mut refused = None;
    for _ in 0..9 {
        let batch = next_batch(&r.writer);
        match append(&mut r.writer, &batch, Durability::Disk) {
            Ok(()) => log.push(batch),
            Err(e) => refused = Some(e),
        }
    }
    assert!(matches!(refused, Some(JournalError::Full)) && !r.writer.latched());
    disk.state().capacity = None;
    assert_eq!(settle(&mut r.janitor, 0), Step::Idle);
    assert_eq!(r.writer.room(), Room::Plenty);
    append_synced(&mut r.writer, &mut log);
    assert_eq!(read_log(&disk).unwrap().1.batches, log);
}

#[test]
fn a_segment_is_made_in_larger_pieces_while_none_stands_ready() {
    let disk = MemDisk::default();
    let options = Options { prepare_slice: 512, urgent_slice: 4096, ..small() };
    let (mut r, _) = open_log(&disk, &options).unwrap();
    let mut pieces = |spares: usize| {
        let mut pieces = 0;
        while r.janitor.spares() == spares {
            pieces += 1;
            r.janitor.step(Seq(0)).unwrap();
        }
        pieces
    };
    // One more each to begin with.
    assert_eq!((pieces(0), pieces(1)), (1 + 2, 1 + 12), "a segment of 6,144 bytes");
}

#[test]
fn a_reader_beside_the_writer_sees_a_prefix_and_writes_nothing() {
    let disk = MemDisk::default();
    let (mut r, _) = open_log(&disk, &small()).unwrap();
    let mut log = Vec::new();
    for _ in 0..40 {
        append_synced(&mut r.writer, &mut log);
        settle(&mut r.janitor, 0);
        let ops = disk.state().ops;
        let (report, seen) = read_log(&disk).unwrap();
        assert_eq!((seen.batches.len(), report.last_seq.next()), (log.len(), r.writer.next_seq()));
        assert_eq!(disk.state().ops, ops);
    }
}

#[test]
fn each_start_is_a_run_of_its_own_and_time_never_goes_back() {
    let disk = MemDisk::default();
    let mut log = Vec::new();
    for run in 1..5 {
        let (mut r, _) = open_log(&disk, &small()).unwrap();
        assert_eq!(r.epoch, run);
        assert_eq!(r.last_time, r.writer.last_time());
        append_synced(&mut r.writer, &mut log);
    }
    assert_eq!(read_log(&disk).unwrap().0.epoch, 4);
}

#[test]
fn inspection_lists_segments_snapshots_and_ranges_and_reads_every_entry() {
    let disk = MemDisk::default();
    let (mut r, _) = open_log(&disk, &small()).unwrap();
    let mut frame = FrameBuffer::new();
    for seq in 1..=60 {
        frame.clear();
        codec::encode(frame.body_mut(), &Event::Claimed(claim(seq)));
        let at = Timestamp(seq as i64);
        let meta = FrameMeta { first_seq: Seq(seq), count: 1, at, durability: Durability::Disk, mark: false };
        r.writer.append(&mut frame, meta).unwrap();
        r.writer.sync().unwrap();
        settle(&mut r.janitor, 0);
    }
    let seen = inspect(&disk).unwrap();
    assert!(seen.is_sound(), "{:?}", seen.problem);
    assert_eq!((seen.segments[0].first_seq, seen.report.unwrap().entries), (Some(Seq(1)), 60));
    assert_eq!(seen.segments.iter().filter_map(|s| s.last_seq).max(), Some(Seq(60)));
    assert_eq!(seen.segments.iter().filter(|s| s.frames == 0).count(), 2, "two spares");
    frame.clear();
    frame.body_mut().extend_from_slice(&[1, 0, 99]);
    let meta = FrameMeta { first_seq: Seq(61), count: 1, at: Timestamp(99), durability: Durability::Disk, mark: false };
    r.writer.append(&mut frame, meta).unwrap();
    let problem = inspect(&disk).unwrap().problem.unwrap();
    assert!(matches!(problem, JournalError::Newer { what: "entry kind", found: 99, .. }), "{problem}");
}

#[test]
fn a_frame_that_says_another_count_than_it_holds_is_an_error() {
    let mut body = Vec::new();
    codec::encode(&mut body, &Event::Claimed(claim(1)));
    let header = |count| frame::Header {
        crc: 0,
        len: body.len() as u32,
        count,
        first_seq: Seq(1),
        epoch: 1,
        at: Timestamp(0),
        prev: 0,
        flags: 0,
    };
    let read =
        |count| FrameView::new(&header(count), &body, 1, "x", 0).entries().map(|e| e.map(|_| ())).collect::<Vec<_>>();
    assert_eq!(read(1), [Ok(())]);
    assert_eq!(read(2), [Ok(()), Err(CodecError::Short)]);
    assert_eq!(read(0), [Err(CodecError::Field("frame's count of entries"))]);
}

#[test]
fn a_data_folder_has_one_process_and_the_second_is_told_which() {
    let folder = tempfile::tempdir().unwrap();
    let held = DataLock::acquire(folder.path()).unwrap();
    let error = DataLock::acquire(folder.path()).unwrap_err();
    assert!(matches!(&error, LockError::Held { pid: Some(pid), .. } if *pid == std::process::id()), "{error}");
    drop(held);
    DataLock::acquire(folder.path()).unwrap();
    let missing = DataLock::acquire(&folder.path().join("nowhere")).unwrap_err();
    assert!(missing.to_string().contains("check that the folder exists"), "{missing}");
}

#[test]
fn a_real_folder_gives_back_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let disk = crate::queue::journal::disk::RealDisk::new(folder.path());
    let options = Options { segment_bytes: 64 * 1024, frame_max: 4096, ..small() };
    let mut expected = Log::default();
    for _ in 0..3 {
        let mut log = Log::default();
        let mut r = open(disk.clone(), options.clone(), || IDENTITY, &mut log).unwrap();
        assert_eq!(log.batches, expected.batches);
        for _ in 0..40 {
            while !matches!(r.janitor.step(Seq(0)).unwrap(), Step::Idle | Step::SnapshotDue) {}
            let (first_seq, at) = (r.writer.next_seq(), r.writer.last_time());
            let body = vec![first_seq.0 as u8 | 1; 1500];
            let mut frame = FrameBuffer::with_capacity(4096);
            frame.body_mut().extend_from_slice(&body);
            r.writer
                .append(&mut frame, FrameMeta { first_seq, count: 2, at, durability: Durability::Disk, mark: false })
                .unwrap();
            r.writer.sync().unwrap();
            expected.batches.push(Batch { first_seq: first_seq.0, count: 2, body });
        }
    }
    let mut log = Log::default();
    let report = read(&disk, &mut log).unwrap();
    assert_eq!((log.batches, report.epoch), (expected.batches, 3));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_frames_come_back_as_they_were_written(
        bodies in prop::collection::vec((1u32..9, prop::collection::vec(any::<u8>(), 1..500)), 1..40),
    ) {
        let disk = MemDisk::default();
        let (mut r, _) = open_log(&disk, &small()).unwrap();
        let mut log = Vec::new();
        for (count, body) in bodies {
            let batch = Batch { first_seq: r.writer.next_seq().0, count, body };
            settle(&mut r.janitor, 0);
            append(&mut r.writer, &batch, Durability::Disk).unwrap();
            r.writer.sync().unwrap();
            log.push(batch);
        }
        prop_assert_eq!(read_log(&disk).unwrap().1.batches, log);
    }
}
