//! What a gate keeps: on a disk whose every step can be made to fail.

use std::sync::Arc;
use std::time::Duration;

use super::house::Rounds;
use super::*;
use crate::queue::codec;
use crate::queue::journal::Janitor;
use crate::queue::journal::tests::disk::MemDisk;
use crate::sale::{CampaignNo, Event};

const GATE: Identity = Identity { journal: 0xa1, hash_key: [7; 16] };
const NOON: Timestamp = Timestamp(1_800_000_000_000_000);

fn small() -> Options {
    Options {
        segment_bytes: 4096 + 4096,
        spares: 2,
        frame_max: 1024,
        prepare_slice: 4096,
        urgent_slice: 4096,
        snapshot_every: 1,
    }
}

fn open(disk: &MemDisk) -> Result<(Kept<MemDisk>, Janitor<MemDisk>), KeptError> {
    Kept::open_on(disk.clone(), small(), GATE, Durability::Disk)
}

/// `count` entries that tell their positions.
fn entries(first: u64, count: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for seq in first..first + count {
        codec::encode(&mut bytes, &Event::Released(CampaignNo(seq as u32)));
    }
    bytes
}

fn keep(kept: &Kept<MemDisk>, epoch: u64, first: u64, count: u32) -> Result<(), KeptError> {
    kept.keep(epoch, Seq(first), NOON.plus_micros(first as i64), count, &entries(first, count.into()))
}

fn seqs(kept: &Kept<MemDisk>, after: u64) -> Vec<u64> {
    let all = kept.after(Seq(after)).unwrap();
    for entry in &all {
        assert_eq!(*entry.bytes, entries(entry.seq.0, 1), "entry {}", entry.seq);
    }
    all.iter().map(|entry| entry.seq.0).collect()
}

/// Rounds of housekeeping until there is nothing to do.
fn settle(kept: &Arc<Kept<MemDisk>>, janitor: Janitor<MemDisk>) -> Janitor<MemDisk> {
    let mut rounds = Rounds { kept: kept.clone(), janitor, is_told: false, rests: None };
    while rounds.round().unwrap() < Duration::from_millis(limits::JANITOR_IDLE_MILLIS) {}
    rounds.janitor
}

#[test]
fn what_is_kept_is_there_after_a_power_cut_whatever_was_under_way() {
    let disk = MemDisk::default();
    let (kept, _janitor) = open(&disk).unwrap();
    assert_eq!((kept.last(), kept.unretired(), kept.failed(), kept.has_room()), (None, 0, false, true));
    keep(&kept, 3, 11, 2).unwrap();
    keep(&kept, 3, 20, 1).unwrap();
    keep(&kept, 3, 15, 3).unwrap();
    assert_eq!((kept.last(), kept.unretired()), (Some((3, Seq(20))), 20));
    drop(kept);
    // A further block is written and not synced: any of its sectors may be there.
    let (kept, _janitor) = open(&disk.after_power_cut(|| false)).unwrap();
    assert_eq!(seqs(&kept, 0), [11, 12, 15, 16, 17, 20]);
    let torn = kept.disk.clone();
    let syncs = torn.state().syncs;
    torn.state().fail_sync_at = Some(syncs + 1);
    assert!(keep(&kept, 4, 30, 2).is_err());
    for part in [false, true] {
        let mut kept_sector = part;
        let cut = torn.after_power_cut(|| std::mem::replace(&mut kept_sector, !part));
        cut.state().fail_sync_at = None;
        let (kept, _janitor) = open(&cut).unwrap();
        let all = seqs(&kept, 0);
        assert!(all.starts_with(&[11, 12, 15, 16, 17, 20]), "{all:?}");
        keep(&kept, 4, 40, 1).unwrap();
        assert!(seqs(&kept, 20).contains(&40));
        assert_eq!(kept.last(), Some((4, Seq(40))));
    }
}

#[test]
fn after_a_failed_sync_nothing_is_kept_any_more() {
    let disk = MemDisk::default();
    let (kept, _janitor) = open(&disk).unwrap();
    keep(&kept, 1, 1, 1).unwrap();
    let syncs = disk.state().syncs;
    disk.state().fail_sync_at = Some(syncs + 1);
    assert!(matches!(keep(&kept, 1, 2, 1), Err(KeptError::Journal(JournalError::Io { .. }))));
    assert!(kept.failed());
    assert!(matches!(keep(&kept, 1, 3, 1), Err(KeptError::Journal(JournalError::Latched))));
    assert_eq!(disk.state().syncs, syncs + 1, "no sync is tried again");
}

#[test]
fn lanes_that_keep_at_once_share_their_syncs_and_each_has_its_own_when_it_returns() {
    let disk = MemDisk::default();
    let (kept, janitor) = open(&disk).unwrap();
    let kept = Arc::new(kept);
    let house = House::spawn(kept.clone(), janitor).unwrap();
    let (lanes, calls) = (4u64, 50u64);
    std::thread::scope(|scope| {
        for lane in 0..lanes {
            let kept = &kept;
            let disk = &disk;
            scope.spawn(move || {
                for call in 0..calls {
                    let seq = 1 + 2 * (lane * calls + call);
                    keep(kept, 1, seq, 2).unwrap();
                    if call == calls - 1 {
                        let (durable, _janitor) = open(&disk.after_power_cut(|| false)).unwrap();
                        let all = seqs(&durable, 0);
                        let mine = 1 + 2 * lane * calls..1 + 2 * (lane + 1) * calls;
                        assert!(mine.clone().all(|seq| all.contains(&seq)), "{mine:?} in {all:?}");
                    }
                }
            });
        }
    });
    assert_eq!(seqs(&kept, 0), (1..=2 * lanes * calls).collect::<Vec<_>>());
    assert_eq!(seqs(&kept, 390), (391..=400).collect::<Vec<_>>());
    house.stop();
    let (again, _janitor) = open(&disk).unwrap();
    assert_eq!(seqs(&again, 0).len() as u64, 2 * lanes * calls);
}

#[test]
fn a_block_that_is_larger_than_a_frame_may_be_is_kept_in_pieces() {
    let many = (limits::KEPT_BLOCK_MAX / 8 + 10) as u32;
    let all = entries(1, many.into());
    let block = Block { epoch: 1, first: Seq(1), at: NOON, count: many, entries: &all };
    block.check().unwrap();
    let pieces = block.pieces();
    assert_eq!(pieces.len(), 2);
    assert_eq!((pieces[0].last().next(), pieces[1].last()), (pieces[1].first, Seq(many.into())));
    let mut bytes = Vec::new();
    pieces.iter().for_each(|piece| piece.encode(&mut bytes));
    let (first, rest) = Block::decode(&bytes).unwrap();
    let (second, rest) = Block::decode(rest).unwrap();
    assert_eq!(((first, second), rest.len()), ((pieces[0], pieces[1]), 0));
    assert_eq!(second.items_after(Seq(many.into())).1.len(), 0);
    assert_eq!(first.items_after(Seq(3)).0, Seq(4));
}

#[test]
fn segments_go_when_the_database_has_what_is_in_them_and_no_sooner() {
    let disk = MemDisk::default();
    let (kept, janitor) = open(&disk).unwrap();
    let kept = Arc::new(kept);
    let mut janitor = settle(&kept, janitor);
    let mut peak = 0;
    for round in 0..60u64 {
        // Out of order, as lanes come.
        for first in [round * 60 + 31, round * 60 + 1] {
            keep(&kept, 1, first, 30).unwrap();
        }
        if round >= 4 {
            kept.retired(Seq((round - 4) * 60));
        }
        janitor = settle(&kept, janitor);
        peak = peak.max(disk.names().len());
        let needed = round.saturating_sub(4) * 60 + 1..=round * 60 + 60;
        assert_eq!(seqs(&kept, *needed.start() - 1), needed.collect::<Vec<_>>());
    }
    assert!(peak < 12, "{peak} files");
    let (again, _janitor) = open(&disk.after_power_cut(|| false)).unwrap();
    assert_eq!(seqs(&again, 55 * 60), (55 * 60 + 1..=60 * 60).collect::<Vec<_>>());
    // Nothing is retired as long as nobody says so again.
    assert!(again.unretired() >= 300);
    again.retired(Seq(3_600));
    assert_eq!(again.unretired(), 0);
}

#[test]
fn damage_to_what_is_needed_is_told_and_not_skipped() {
    let disk = MemDisk::default();
    let (kept, janitor) = open(&disk).unwrap();
    let kept = Arc::new(kept);
    let _janitor = settle(&kept, janitor);
    for first in 1..=20 {
        keep(&kept, 1, first * 10, 5).unwrap();
    }
    disk.edit("00000000000000000001.seg", |bytes| bytes[4096 + 200] ^= 1);
    assert!(matches!(kept.after(Seq(0)), Err(KeptError::Journal(JournalError::Damaged { .. }))));
    assert!(matches!(open(&disk), Err(KeptError::Journal(JournalError::Damaged { .. }))));
}

#[test]
fn a_folder_of_another_gate_or_with_another_secret_is_refused() {
    let disk = MemDisk::default();
    drop(open(&disk).unwrap());
    for other in [Identity { journal: 0xa2, ..GATE }, Identity { hash_key: [8; 16], ..GATE }] {
        let opened = Kept::open_on(disk.clone(), small(), other, Durability::Disk);
        assert!(matches!(opened, Err(KeptError::Other { found: 0xa1, .. })));
    }
}

#[test]
fn of_two_epochs_the_later_one_has_a_position_and_what_an_opening_missed_is_known() {
    let disk = MemDisk::default();
    let (kept, _janitor) = open(&disk).unwrap();
    keep(&kept, 1, 10, 3).unwrap();
    keep(&kept, 3, 12, 2).unwrap();
    let all = kept.after(Seq(0)).unwrap();
    let found: Vec<_> = all.iter().map(|entry| (entry.seq.0, entry.epoch)).collect();
    assert_eq!(found, [(10, 1), (11, 1), (12, 3), (13, 3)]);
    assert!(kept.is_missed_by(2, Seq(11)) && !kept.is_missed_by(2, Seq(12)) && !kept.is_missed_by(1, Seq(0)));
    let wrong = kept.keep(3, Seq(14), NOON, 2, &entries(14, 1));
    assert!(matches!(wrong, Err(KeptError::Block(_))) && !kept.failed());
}
