//! A crash before every single write, sync, rename and removal of a journal's life, recovery included.

use super::*;
#[cfg(feature = "testing")]
use crate::plant::{self, Bug};

/// What a run has done when it ended, by itself or by force.
#[derive(Default, Clone)]
struct Done {
    appended: Vec<Batch>,
    /// How many of them were answered as durable.
    acked: usize,
    /// The last seq that the database has.
    retired: u64,
}

/// First start or later one, batches with rotation, trimming, recycling and snapshots. Ends early when the disk does.
fn live(disk: &MemDisk, done: &mut Done, batches: usize) -> Result<(), String> {
    let mut log = Log { wanted: Some(Seq(done.retired)), ..Log::default() };
    let recovered = match open(disk.clone(), small(), || IDENTITY, &mut log) {
        Ok(recovered) => recovered,
        Err(OpenError::Journal(JournalError::Io { .. })) if disk.state().kill_at.is_some() => return Ok(()),
        Err(e) => return Err(format!("refused: {e}")),
    };
    check(&log, done)?;
    done.appended.truncate(log.batches.len());
    done.acked = log.batches.len();
    let Recovered { mut writer, mut janitor, .. } = recovered;
    for i in 0..batches {
        for _ in 0..6 {
            match janitor.step(Seq(done.retired)) {
                Ok(Step::SnapshotDue) => drop(janitor.make_snapshot(&mut Log::default(), |l, out| l.save(out))),
                Ok(_) => {}
                Err(_) => return Ok(()),
            }
        }
        let batch = next_batch(&writer);
        match append(&mut writer, &batch, Durability::Disk) {
            Ok(()) => done.appended.push(batch),
            Err(JournalError::Full) => continue,
            Err(_) => {
                done.appended.push(batch);
                return Ok(());
            }
        }
        if writer.sync().is_err() {
            return Ok(());
        }
        done.acked = done.appended.len();
        if i % 3 == 0 {
            // The database lags behind: by four batches, then by more than a snapshot does.
            let lag = if i < 80 { 4 } else { 60 };
            let upto = done.acked.checked_sub(lag).map(|at| &done.appended[at]);
            done.retired = done.retired.max(upto.map_or(0, |b| b.first_seq + u64::from(b.count) - 1));
        }
    }
    Ok(())
}

fn check(log: &Log, done: &Done) -> Result<(), String> {
    let seen = log.batches.len();
    if seen < done.acked {
        return Err(format!("{seen} batches are left of {} acknowledged", done.acked));
    }
    if done.appended.get(..seen) != Some(&log.batches[..]) {
        return Err("other batches than were written".to_owned());
    }
    // What the snapshot covers but the database hasn't got must be handed out again.
    let held = |b: &Batch| b.first_seq + u64::from(b.count) - 1 <= done.retired || log.covered.contains(b);
    let missing = log.batches.iter().take(log.in_snapshot).find(|b| !held(b));
    missing.map_or(Ok(()), |b| Err(format!("batch {} is neither in the database nor handed out", b.first_seq)))
}

fn random(seed: u64) -> impl FnMut() -> bool {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x & 1 == 0
    }
}

/// Every crash of a life of so many batches, each in four ways, and again at some place of the recovery from it.
fn sweep(batches: usize) -> Result<MemDisk, String> {
    let whole = MemDisk::default();
    live(&whole, &mut Done::default(), batches)?;
    let ops = whole.state().ops;
    for kill in 1..=ops + 1 {
        let disk = MemDisk::default();
        disk.state().kill_at = Some(kill);
        let mut done = Done::default();
        live(&disk, &mut done, batches)?;
        for way in 0..5u64 {
            let crashed = match way {
                0 => disk.after_kill(),
                1 => disk.after_power_cut(|| false),
                2 => disk.after_power_cut(|| true),
                n => disk.after_power_cut(random(kill * 8 + n)),
            };
            let mut done = done.clone();
            if way > 0 {
                crashed.state().kill_at = Some(1 + kill % 23);
                live(&crashed, &mut done, 2).map_err(|e| format!("kill {kill} way {way}, again: {e}"))?;
            }
            let again = if kill % 2 == 0 { crashed.after_kill() } else { crashed.after_power_cut(random(kill)) };
            live(&again, &mut done, 3).map_err(|e| format!("kill {kill} way {way}: {e}"))?;
            live(&again.after_power_cut(|| false), &mut done, 0)
                .map_err(|e| format!("kill {kill} way {way}, after: {e}"))?;
        }
    }
    Ok(whole)
}

fn inspect_files(disk: &MemDisk) -> Inspection {
    // The batches of these tests are no real entries, so that what inspection says about them is of no interest.
    inspect(disk).unwrap()
}

#[test]
fn no_crash_at_any_boundary_loses_what_was_acknowledged() {
    let disk = sweep(160).unwrap();
    let ops = disk.state().ops;
    assert!(ops > 400, "{ops} boundaries: the life was too short to mean anything");
    let seen = inspect_files(&disk);
    assert!(seen.snapshots.len() == 1 && seen.snapshots[0].seq() > Seq(100), "snapshots were made, and old ones went");
    assert!(seen.segments.iter().any(|s| s.recycled), "segments were recycled");
    assert!(seen.segments[0].number > 3, "segments were trimmed");
}

#[test]
fn a_first_start_killed_anywhere_is_a_fresh_start_again() {
    for kill in 1..40 {
        let disk = MemDisk::default();
        disk.state().kill_at = Some(kill);
        let _ = open_log(&disk, &small());
        for crashed in [disk.after_kill(), disk.after_power_cut(|| false), disk.after_power_cut(|| true)] {
            let (recovered, log) = open_log(&crashed, &small()).unwrap();
            assert_eq!((recovered.last_seq, recovered.epoch, log.batches.len()), (Seq(0), 1, 0));
            assert!(crashed.names().iter().all(|n| !n.ends_with(".tmp")));
        }
    }
}

#[test]
fn an_identity_that_only_the_page_cache_had_is_durable_before_any_segment_is() {
    for first in 1..40 {
        let disk = MemDisk::default();
        disk.state().kill_at = Some(first);
        let _ = open_log(&disk, &small());
        for second in 1..40 {
            // The machine goes on, so the second start finds what the first one has made and not synced.
            let again = disk.after_kill();
            again.state().kill_at = Some(second);
            let _ = open_log(&again, &small());
            for keep in [0, 1, 2, 3] {
                let mut n = 0;
                let crashed = again.after_power_cut(|| {
                    n += 1;
                    n % 4 != keep
                });
                let (recovered, _) =
                    open_log(&crashed, &small()).unwrap_or_else(|e| panic!("after {first} and {second} changes: {e}"));
                assert_eq!(recovered.last_seq, Seq(0));
            }
        }
    }
}

#[test]
fn a_failed_sync_latches_and_its_frame_is_made_durable_or_cut_by_the_next_start() {
    let disk = MemDisk::default();
    let (mut recovered, _) = open_log(&disk, &small()).unwrap();
    let mut log = Vec::new();
    append_synced(&mut recovered.writer, &mut log);
    let syncs = disk.state().syncs;
    disk.state().fail_sync_at = Some(syncs + 1);
    let batch = next_batch(&recovered.writer);
    append(&mut recovered.writer, &batch, Durability::Disk).unwrap();
    assert!(matches!(recovered.writer.sync(), Err(JournalError::Io { op: "sync", .. })));
    assert!(matches!(recovered.writer.sync(), Err(JournalError::Latched)));
    assert!(matches!(append(&mut recovered.writer, &batch, Durability::Disk), Err(JournalError::Latched)));
    assert!(matches!(recovered.janitor.step(Seq(0)), Err(JournalError::Latched)));
    // The page cache still has the frame: whoever reads it there must make it durable before relying on it.
    let (_, seen) = open_log(&disk, &small()).unwrap();
    log.push(batch);
    assert_eq!(seen.batches, log);
    let (_, seen) = open_log(&disk.after_power_cut(|| false), &small()).unwrap();
    assert_eq!(seen.batches, log);
}

#[test]
fn memory_frames_may_go_in_a_power_cut_but_not_in_a_kill_and_never_out_of_order() {
    for seed in 0..300 {
        let disk = MemDisk::default();
        let (mut recovered, _) = open_log(&disk, &small()).unwrap();
        let mut log = Vec::new();
        append_synced(&mut recovered.writer, &mut log);
        let (mut recovered, _) = open_log(&disk, &small()).unwrap();
        settle(&mut recovered.janitor, 0);
        for _ in 0..20 {
            let batch = next_batch(&recovered.writer);
            append(&mut recovered.writer, &batch, Durability::Memory).unwrap();
            log.push(batch);
        }
        assert_eq!(open_log(&disk.after_kill(), &small()).unwrap().1.batches, log);
        let cut = disk.after_power_cut(random(seed + 1));
        let (mut recovered, seen) = open_log(&cut, &small()).unwrap();
        assert!(seen.batches.len() >= 2, "the frame of durability disk and the run's first are synced");
        assert_eq!(seen.batches, log[..seen.batches.len()]);
        let mut log = seen.batches;
        settle(&mut recovered.janitor, 0);
        for _ in 0..12 {
            append_synced(&mut recovered.writer, &mut log);
            settle(&mut recovered.janitor, 0);
        }
        assert_eq!(open_log(&cut.after_power_cut(|| false), &small()).unwrap().1.batches, log);
    }
}

#[cfg(feature = "testing")]
#[test]
fn the_sweep_finds_each_planted_bug() {
    for bug in [Bug::MissingDirSync, Bug::EarlyTrim] {
        plant::set(Some(bug));
        let verdict = sweep(160);
        plant::set(None);
        assert!(verdict.is_err(), "{bug:?} was not found");
    }
    let disk = MemDisk::default();
    let (mut recovered, _) = open_log(&disk, &small()).unwrap();
    let syncs = disk.state().syncs;
    disk.state().fail_sync_at = Some(syncs + 1);
    plant::set(Some(Bug::RetryAfterEio));
    let mut log = Vec::new();
    append_synced(&mut recovered.writer, &mut log);
    plant::set(None);
    let (_, seen) = open_log(&disk.after_power_cut(|| false), &small()).unwrap();
    assert!(seen.batches.is_empty(), "the planted retry did acknowledge what was lost");
}
