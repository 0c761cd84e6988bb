//! The medium under the simulated disk: page cache, platter, the names of both, and what a power cut leaves.

use std::collections::BTreeMap;

use crate::rng::Rng;

pub const SECTOR: usize = 512;

/// What a disk does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A write fails, nothing of it is written.
    WriteError,
    /// A write fails after some of it.
    ShortWrite,
    /// A sync fails; the sectors stay dirty.
    SyncError,
    /// A sync fails; the sectors are called clean, and some of them never reach the platter.
    SyncDrops,
    /// The folder's sync fails.
    DirSyncError,
    /// A read fails.
    ReadError,
    /// Making, renaming or removing a file fails.
    NameError,
}

impl Fault {
    pub const ALL: [Self; 7] = [
        Self::WriteError,
        Self::ShortWrite,
        Self::SyncError,
        Self::SyncDrops,
        Self::DirSyncError,
        Self::ReadError,
        Self::NameError,
    ];
}

#[derive(Debug, Clone, Copy)]
pub struct Armed {
    /// It has happened, and is not counted again.
    pub counted: bool,
    pub fault: Fault,
    pub skip: u64,
    pub forever: bool,
}

#[derive(Debug, Default)]
pub struct Data {
    pub cache: Vec<u8>,
    pub platter: Vec<u8>,
    pub dirty: Vec<usize>,
    pub dirty_bytes: Vec<u8>,
}

#[derive(Debug, Clone)]
pub enum NameOp {
    Create(String, usize),
    Rename(String, String, usize),
    Remove(String),
}

/// A flipped bit that nothing has overwritten since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flip {
    pub inode: usize,
    pub offset: usize,
    pub mask: u8,
}

#[derive(Debug)]
pub struct Inner {
    pub files: Vec<Data>,
    pub names: BTreeMap<String, usize>,
    pub platter_names: BTreeMap<String, usize>,
    pub name_ops: Vec<NameOp>,
    pub rng: Rng,
    pub life: u64,
    pub armed: Vec<Armed>,
    pub crash_in: Option<u64>,
    /// Changes so far, and the one in which the process dies whatever else happens.
    pub changes: u64,
    pub image: Option<u64>,
    /// Whether it has died in that one.
    pub imaged: bool,
    pub killed: bool,
    pub capacity: u64,
    /// Whether a write has met the end of the room since it was set.
    pub met: bool,
    /// Operations that have failed.
    pub strikes: u64,
    pub flips: Vec<Flip>,
    pub fired: BTreeMap<&'static str, u64>,
    pub trail: u64,
    pub writes: u64,
}

/// What is left by the end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The process only: the page cache stays.
    Kill,
    /// Everything that was not synced is lost.
    PowerCutLosingAll,
    /// Of what was not synced, some is lost.
    PowerCut,
}

/// FNV-1a over words of eight bytes: quick, and the same everywhere.
pub fn mix(mut hash: u64, bytes: &[u8]) -> u64 {
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    }
    (hash ^ bytes.len() as u64).wrapping_mul(0x0100_0000_01b3)
}

impl Inner {
    pub fn fire(&mut self, what: &'static str) {
        *self.fired.entry(what).or_default() += 1;
    }

    pub fn used(&self) -> u64 {
        self.names.values().map(|&i| self.files[i].cache.len() as u64).sum()
    }

    /// Whether one of `faults` happens now.
    pub fn struck(&mut self, faults: &[Fault]) -> Option<Fault> {
        let at = self.armed.iter().position(|a| faults.contains(&a.fault))?;
        if self.armed[at].skip > 0 {
            self.armed[at].skip -= 1;
            return None;
        }
        let Armed { fault, forever, counted, .. } = self.armed[at];
        self.armed[at].counted = true;
        self.strikes += 1;
        if !forever {
            self.armed.remove(at);
        }
        if counted {
            return Some(fault);
        }
        self.fire(match (fault, forever) {
            (Fault::WriteError, false) => "write: EIO once",
            (Fault::WriteError, true) => "write: EIO for ever",
            (Fault::ShortWrite, _) => "write: short",
            (Fault::SyncError, false) => "sync: EIO once",
            (Fault::SyncError, true) => "sync: EIO for ever",
            (Fault::SyncDrops, _) => "sync: EIO, pages dropped",
            (Fault::DirSyncError, _) => "folder sync: EIO",
            (Fault::ReadError, _) => "read: EIO",
            (Fault::NameError, _) => "create, rename, remove: EIO",
        });
        Some(fault)
    }

    /// Counts a change; true where the process dies in it.
    pub fn dies_here(&mut self) -> bool {
        self.changes += 1;
        if self.image == Some(self.changes) {
            (self.killed, self.imaged, self.crash_in) = (true, true, None);
            self.fire("crash in the chosen change");
            return true;
        }
        match &mut self.crash_in {
            Some(0) => {
                (self.killed, self.crash_in) = (true, None);
                self.fire("crash inside a change of the disk");
                true
            }
            Some(n) => {
                *n -= 1;
                false
            }
            None => false,
        }
    }

    pub fn apply_flip(&mut self, flip: Flip) {
        let data = &mut self.files[flip.inode];
        data.cache[flip.offset] ^= flip.mask;
        if let Some(byte) = data.platter.get_mut(flip.offset) {
            *byte ^= flip.mask;
        }
    }

    pub fn write(&mut self, inode: usize, bytes: &[u8], offset: usize) {
        self.writes += 1;
        self.trail = mix(self.trail ^ (inode as u64) << 32 ^ offset as u64, bytes);
        self.flips.retain(|f| f.inode != inode || !(offset..offset + bytes.len()).contains(&f.offset));
        let data = &mut self.files[inode];
        let (end, old) = (offset + bytes.len(), data.cache.len());
        if end > old {
            data.cache.resize(end, 0);
        }
        data.cache[offset..end].copy_from_slice(bytes);
        for sector in offset.min(old) / SECTOR..end.div_ceil(SECTOR) {
            data.touch(sector);
        }
    }

    pub fn sync(&mut self, inode: usize) {
        self.trail = mix(self.trail, &[1]);
        self.files[inode].sync();
    }

    /// Half of the dirty sectors reach the platter, none stays dirty.
    pub fn drop_dirty(&mut self, inode: usize) {
        let lucky = self.rng.next();
        let data = &mut self.files[inode];
        for i in 0..data.dirty.len() {
            if lucky >> (i % 64) & 1 == 1 {
                data.land(i, usize::MAX);
            }
        }
        data.forget();
    }

    pub fn power_cut(&mut self, all: bool) {
        self.fire(if all { "power cut, all unsynced lost" } else { "power cut, torn" });
        let ops = std::mem::take(&mut self.name_ops);
        let prefix = self.rng.percent(60);
        let keep = if all { 0 } else { self.rng.below(ops.len() as u64 + 1) as usize };
        let lost = |rng: &mut Rng, i: usize| if prefix || all { i >= keep } else { rng.percent(50) };
        let mut gone = 0;
        for (i, op) in ops.into_iter().enumerate() {
            if lost(&mut self.rng, i) {
                gone += 1;
                continue;
            }
            match op {
                NameOp::Create(name, inode) => drop(self.platter_names.insert(name, inode)),
                NameOp::Rename(from, to, inode) => {
                    self.platter_names.remove(&from);
                    self.platter_names.insert(to, inode);
                }
                NameOp::Remove(name) => drop(self.platter_names.remove(&name)),
            }
        }
        if gone > 0 {
            self.fire("power cut, names lost");
        }
        self.names = self.platter_names.clone();
        for inode in 0..self.files.len() {
            self.tear(inode, all);
        }
        self.flips.retain(|f| f.offset < self.files[f.inode].cache.len());
    }

    /// What a power cut leaves of one file.
    pub fn tear(&mut self, inode: usize, all: bool) {
        let rng = &mut self.rng;
        let data = &mut self.files[inode];
        if !data.dirty.is_empty() && !all {
            let (old, new) = (data.platter.len(), data.cache.len());
            let len = match rng.below(3) {
                0 => old,
                1 => new,
                _ => rng.within(old.min(new) as i64, old.max(new) as i64) as usize,
            };
            let mut versions: BTreeMap<usize, u64> = BTreeMap::new();
            data.dirty.iter().for_each(|&s| *versions.entry(s).or_default() += 1);
            versions.values_mut().for_each(|n| *n = rng.below(*n + 1));
            let before = data.platter.clone();
            for i in 0..data.dirty.len() {
                let left = versions.get_mut(&data.dirty[i]).expect("counted above");
                if *left > 0 {
                    *left -= 1;
                    data.land(i, len);
                }
            }
            if data.platter.len() < len {
                data.platter.resize(len, 0);
            }
            let torn = data.platter != before && data.platter != data.cache;
            if torn {
                self.fire("torn write");
            }
        }
        let data = &mut self.files[inode];
        data.forget();
        data.cache.clone_from(&data.platter);
    }
}

impl Data {
    pub fn touch(&mut self, sector: usize) {
        let start = sector * SECTOR;
        let end = (start + SECTOR).min(self.cache.len());
        self.dirty.push(sector);
        self.dirty_bytes.extend_from_slice(&self.cache[start..end]);
        self.dirty_bytes.resize(self.dirty.len() * SECTOR, 0);
    }

    /// Puts the `i`-th dirty sector onto the platter, cut to the file's length `len`.
    pub fn land(&mut self, i: usize, len: usize) {
        let start = self.dirty[i] * SECTOR;
        let end = (start + SECTOR).min(len).min(self.cache.len().max(self.platter.len()));
        if start >= end {
            return;
        }
        if self.platter.len() < end {
            self.platter.resize(end, 0);
        }
        let bytes = &self.dirty_bytes[i * SECTOR..i * SECTOR + end - start];
        self.platter[start..end].copy_from_slice(bytes);
    }

    pub fn sync(&mut self) {
        for i in 0..self.dirty.len() {
            self.land(i, self.cache.len());
        }
        self.platter.resize(self.cache.len(), 0);
        self.forget();
    }

    pub fn forget(&mut self) {
        self.dirty.clear();
        self.dirty_bytes.clear();
    }
}
