//! What the system says of itself, read without running programs and without taking a lock.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use rustix::fs::{major, minor, statfs, statvfs};
use rustix::process::{Resource, getrlimit};

use super::figures::{ClockFigures, FileSystem, Machine, Ntp, StoreServer};
use crate::clock::{Clock as _, SystemClock, tick};
use crate::config::Config;
use crate::engine::memory;
use crate::queue::journal::lock::LOCK;
use crate::store::{Database, Mode};

/// Looks around; `near` and `store_near` are the folders that stand for the journal's and the database's disk.
///
/// # Errors
/// A disk, or a database server, that can't be asked.
pub fn look(config: &Config, near: &Path, store_near: Option<&Path>) -> anyhow::Result<Machine> {
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev());
    let data_dir = config.buffer.data_dir.clone();
    let store = Database::of(&config.store, Mode::ReadOnly)?;
    Ok(Machine {
        server: server(&data_dir),
        store: store.name(),
        file_system: file_system(near)?,
        store_file_system: store_near.map(file_system).transpose()?,
        store_server: store_server(&store)?,
        same_disk: match store_near {
            Some(store_near) => device(near)? == device(store_near)?,
            None => false,
        },
        open_files: getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
        memory_available_bytes: memory::available(),
        memory_book_bytes: memory::budget(),
        data_dir,
    })
}

fn store_server(store: &Database) -> anyhow::Result<Option<StoreServer>> {
    let Database::Postgres(store) = store else { return Ok(None) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let facts = runtime.block_on(store.facts())?;
    let words = |ours: bool| -> Vec<String> {
        let weak = facts.weak.iter().filter(|weak| weak.takes_rows == ours);
        weak.map(|weak| format!("{}: {}", weak.setting, weak.what)).collect()
    };
    let (weak, weak_for_others, is_replica) = (words(true), words(false), facts.is_replica);
    Ok(Some(StoreServer { version: facts.version, weak, weak_for_others, is_replica }))
}

fn file_system(path: &Path) -> anyhow::Result<FileSystem> {
    let kind = statfs(path).with_context(|| format!("{}: its file system can't be asked", path.display()))?;
    let room = statvfs(path).with_context(|| format!("{}: its free space can't be asked", path.display()))?;
    Ok(FileSystem { name: name(kind.f_type as u64), free_bytes: room.f_bavail.saturating_mul(room.f_frsize) })
}

/// The file systems that a data folder may be found on, by the number that `statfs(2)` gives.
const FILE_SYSTEMS: [(u64, &str); 17] = [
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
    (0xca45_1a4e, "bcachefs"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x794c_7630, "overlay"),
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb"),
    (0x517b, "smb"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "ceph"),
    (0x6573_5546, "fuse"),
    (0x4d44, "vfat"),
];

fn name(number: u64) -> String {
    // The number is 32 bits wide, and sign-extended on some machines.
    let number = number & 0xffff_ffff;
    let known = FILE_SYSTEMS.iter().find(|(magic, _)| *magic == number);
    known.map_or_else(|| format!("0x{number:x}"), |(_, name)| (*name).to_owned())
}

/// The process that holds the data folder's lock, from the kernel's list of locks: trying the lock would take it from a
/// server that starts at this moment.
fn server(data_dir: &Path) -> Option<u32> {
    let found = fs::metadata(data_dir.join(LOCK)).ok()?;
    holder(&fs::read_to_string("/proc/locks").ok()?, found.dev(), found.ino())
}

/// Reads `/proc/locks` (proc_locks(5)): number, kind, mode, access, process, device:inode, range.
fn holder(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let place = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    let lines = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut held = lines.filter(|fields| fields.get(1) == Some(&"FLOCK") && fields.get(5) == Some(&place.as_str()));
    held.find_map(|fields| fields[4].parse().ok())
}

/// Bytes of memory that this process has in use.
pub fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// Compares the wall clock with the monotone one.
#[derive(Debug)]
pub struct ClockWatch {
    begun: Instant,
    /// Microseconds between the two when it began.
    apart: i64,
    /// The largest change of that since.
    step: i64,
}

impl ClockWatch {
    /// Begins.
    pub fn new() -> Self {
        let begun = tick();
        Self { begun, apart: apart(begun), step: 0 }
    }

    /// Looks again.
    pub fn look(&mut self) {
        self.step = self.step.max((apart(self.begun) - self.apart).abs());
    }

    /// Looks for the last time.
    pub fn finish(mut self) -> ClockFigures {
        self.look();
        let seconds = self.begun.elapsed().as_secs_f64();
        ClockFigures { seconds, step_seconds: self.step as f64 / 1e6, ntp: ntp(Path::new("/run/systemd/timesync")) }
    }
}

/// Microseconds from the monotone clock, counted from `begun`, to the wall clock. Of a few looks the one counts in which the
/// least time passed between the two: a thread may be put aside just there.
fn apart(begun: Instant) -> i64 {
    let look = |_| {
        let before = begun.elapsed();
        let wall = SystemClock.now();
        (begun.elapsed() - before, wall.0 - before.as_micros() as i64)
    };
    (0..5).map(look).min_by_key(|(gap, _)| *gap).map_or(0, |(_, apart)| apart)
}

/// What systemd-timesyncd leaves in its folder: a file once it has synchronised the clock. Other services tell it to nobody
/// who does not run their programs.
fn ntp(folder: &Path) -> Ntp {
    match (folder.join("synchronized").exists(), folder.is_dir()) {
        (true, _) => Ntp::Synchronised,
        (false, true) => Ntp::Unsynchronised,
        (false, false) => Ntp::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_have_names_and_unknown_ones_their_number() {
        assert_eq!(name(0xef53), "ext4");
        assert_eq!(name(0x0102_1994), "tmpfs");
        assert_eq!(name(0xffff_ffff_9123_683e), "btrfs");
        assert_eq!(name(0x1234), "0x1234");
    }

    #[test]
    fn the_holder_of_a_lock_is_read_from_the_kernels_list() {
        let device = rustix::fs::makedev(0xfe, 0x10);
        let locks = "1: POSIX  ADVISORY  WRITE 7 fe:10:42 0 EOF\n2: FLOCK  ADVISORY  WRITE 9 fe:10:43 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 11 fe:10:42 0 EOF\n3: -> FLOCK  ADVISORY  WRITE 12 fe:10:42 0 EOF\n";
        assert_eq!(holder(locks, device, 42), Some(11));
        assert_eq!(holder(locks, device, 44), None);
        assert_eq!(holder("", device, 42), None);
    }

    #[test]
    fn a_time_service_says_whether_it_has_synchronised_the_clock() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("timesync");
        assert_eq!(ntp(&folder), Ntp::Unknown);
        fs::create_dir(&folder).unwrap();
        assert_eq!(ntp(&folder), Ntp::Unsynchronised);
        fs::write(folder.join("synchronized"), "").unwrap();
        assert_eq!(ntp(&folder), Ntp::Synchronised);
    }

    #[test]
    fn the_machine_is_told_in_base_units() {
        assert!(resident() > 1 << 20, "a test takes more than a MiB: {}", resident());
        let here = file_system(Path::new(".")).unwrap();
        assert!(!here.name.is_empty());
        assert!(file_system(Path::new("/no/such/folder")).is_err());
    }
}
