//! A disk on which written, synced and directory-synced are three different things.
//!
//! A file is what was written (the page cache), what is on the platter, and the 512-byte sectors in between, in order.
//! A kill leaves the page cache; a power cut leaves the platter and, of each unsynced sector, any of its versions; of
//! the unsynced names any prefix or any subset. A failed sync may throw its sectors away and call them clean, as Linux
//! does. Handles of a dead process do nothing any more.

use std::collections::BTreeMap;
use std::io::{self, Error, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forebay::queue::journal::disk::{Disk, DiskFile};

use crate::medium::{Armed, Data, Flip, Inner, NameOp, SECTOR};
pub use crate::medium::{End, Fault, mix};
use crate::rng::Rng;

/// The disk, as one process sees it.
#[derive(Debug, Clone)]
pub struct SimDisk {
    inner: Arc<Mutex<Inner>>,
    life: u64,
}

fn dead() -> Error {
    Error::other("the process is dead")
}

fn eio() -> Error {
    Error::other("EIO (injected)")
}

impl SimDisk {
    pub fn new(rng: Rng) -> Self {
        let inner = Inner {
            files: Vec::new(),
            names: BTreeMap::new(),
            platter_names: BTreeMap::new(),
            name_ops: Vec::new(),
            rng,
            life: 0,
            armed: Vec::new(),
            crash_in: None,
            changes: 0,
            image: None,
            imaged: false,
            killed: false,
            capacity: u64::MAX,
            met: false,
            strikes: 0,
            flips: Vec::new(),
            fired: BTreeMap::new(),
            trail: 0,
            writes: 0,
        };
        Self { inner: Arc::new(Mutex::new(inner)), life: 0 }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the process that had this disk, and gives the disk to the next one.
    pub fn end(&self, end: End) -> Self {
        let mut inner = self.lock();
        inner.life += 1;
        (inner.killed, inner.crash_in) = (false, None);
        match end {
            End::Kill => {}
            End::PowerCut => inner.power_cut(false),
            End::PowerCutLosingAll => inner.power_cut(true),
        }
        Self { inner: self.inner.clone(), life: inner.life }
    }

    /// The process dies in the `n`-th change of the disk from now.
    pub fn crash_in(&self, n: u64) {
        self.lock().crash_in = Some(n);
    }

    /// The process dies in the `n`-th change of the disk from its beginning, the first being 1; in none with `None`.
    pub fn image(&self, n: Option<u64>) {
        self.lock().image = n;
    }

    /// Whether it has died in the change of [`Self::image`]; true once.
    pub fn take_imaged(&self) -> bool {
        std::mem::take(&mut self.lock().imaged)
    }

    /// Changes so far: writes, syncs, and what is done to names.
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Whether it has died so.
    pub fn killed(&self) -> bool {
        self.lock().killed
    }

    /// The fault happens at the first fitting operation after `skip` of them, once or for ever.
    pub fn arm(&self, fault: Fault, skip: u64, forever: bool) {
        self.lock().armed.push(Armed { fault, skip, forever, counted: false });
    }

    /// Takes back what is armed and frees the disk.
    pub fn heal(&self) {
        let mut inner = self.lock();
        inner.armed.clear();
        inner.crash_in = None;
        inner.capacity = u64::MAX;
    }

    /// Whether a fault that lasts is armed.
    pub fn is_ill(&self) -> bool {
        let inner = self.lock();
        !inner.armed.is_empty() || inner.crash_in.is_some() || inner.capacity != u64::MAX
    }

    /// The disk has room for `more` bytes beyond what is there; `None` for as many as anyone likes.
    pub fn room(&self, more: Option<u64>) {
        let mut inner = self.lock();
        let used = inner.used();
        inner.capacity = more.map_or(u64::MAX, |m| used + m);
        inner.met = false;
    }

    /// Flips one bit of one file, on the platter and in the cache. Gives the file and the offset.
    pub fn flip(&self) -> Option<(String, usize)> {
        let mut inner = self.lock();
        let names: Vec<_> = inner.names.iter().map(|(n, &i)| (n.clone(), i)).collect();
        let names: Vec<_> = names.into_iter().filter(|(_, i)| !inner.files[*i].cache.is_empty()).collect();
        if names.is_empty() {
            return None;
        }
        let (name, inode) = inner.rng.pick(&names).clone();
        let len = inner.files[inode].cache.len() as u64;
        // Where something is: a flip in the zeroes ahead proves little.
        let mut offset = inner.rng.below(len) as usize;
        for _ in 0..8 {
            if inner.files[inode].cache[offset] != 0 {
                break;
            }
            offset = inner.rng.below(len) as usize;
        }
        let flip = Flip { inode, offset, mask: 1 << inner.rng.below(8) };
        inner.apply_flip(flip);
        inner.flips.push(flip);
        inner.fire("bit flip");
        Some((name, offset))
    }

    /// Undoes the flips that nothing has overwritten: the operator restored the folder. Gives how many, and whether
    /// one of them was in `file`.
    pub fn unflip(&self, file: &str) -> (usize, bool) {
        let mut inner = self.lock();
        let flips = std::mem::take(&mut inner.flips);
        let inode = inner.names.get(file).copied();
        flips.iter().for_each(|&flip| inner.apply_flip(flip));
        (flips.len(), flips.iter().any(|f| Some(f.inode) == inode))
    }

    /// How often each fault has happened.
    pub fn fired(&self) -> BTreeMap<&'static str, u64> {
        self.lock().fired.clone()
    }

    /// A number that follows from every change of the disk so far and from all its bytes.
    pub fn digest(&self) -> u64 {
        let inner = self.lock();
        let mut hash = inner.trail;
        for (name, &inode) in &inner.names {
            hash = mix(hash, name.as_bytes());
            hash = mix(hash, &inner.files[inode].cache);
            hash = mix(hash, &inner.files[inode].platter);
        }
        hash
    }

    /// Operations that have failed so far.
    pub fn strikes(&self) -> u64 {
        self.lock().strikes
    }

    /// Writes so far.
    pub fn writes(&self) -> u64 {
        self.lock().writes
    }

    fn begin(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let inner = self.lock();
        if inner.killed || inner.life != self.life { Err(dead()) } else { Ok(inner) }
    }

    fn file(&self, inode: usize, writable: bool) -> SimFile {
        SimFile { disk: self.clone(), inode, writable }
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn create(&self, name: &str) -> io::Result<SimFile> {
        let mut inner = self.begin()?;
        if inner.names.contains_key(name) {
            return Err(Error::from(ErrorKind::AlreadyExists));
        }
        if inner.struck(&[Fault::NameError]).is_some() {
            return Err(eio());
        }
        let done = !inner.dies_here() || inner.rng.percent(50);
        let inode = inner.files.len();
        if done {
            inner.trail = mix(inner.trail, name.as_bytes());
            inner.files.push(Data::default());
            inner.names.insert(name.to_owned(), inode);
            inner.name_ops.push(NameOp::Create(name.to_owned(), inode));
        }
        if inner.killed { Err(dead()) } else { Ok(self.file(inode, true)) }
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        let mut inner = self.begin()?;
        if inner.struck(&[Fault::ReadError]).is_some() {
            return Err(eio());
        }
        let inode = inner.names.get(name).copied().ok_or(ErrorKind::NotFound)?;
        Ok(self.file(inode, true))
    }

    fn open_read(&self, name: &str) -> io::Result<SimFile> {
        self.open(name).map(|file| SimFile { writable: false, ..file })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.begin()?;
        let inode = inner.names.get(from).copied().ok_or(ErrorKind::NotFound)?;
        if inner.struck(&[Fault::NameError]).is_some() {
            return Err(eio());
        }
        let done = !inner.dies_here() || inner.rng.percent(50);
        if done {
            inner.trail = mix(mix(inner.trail, from.as_bytes()), to.as_bytes());
            inner.names.remove(from);
            inner.names.insert(to.to_owned(), inode);
            inner.name_ops.push(NameOp::Rename(from.to_owned(), to.to_owned(), inode));
        }
        if inner.killed { Err(dead()) } else { Ok(()) }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.begin()?;
        if !inner.names.contains_key(name) {
            return Err(Error::from(ErrorKind::NotFound));
        }
        if inner.struck(&[Fault::NameError]).is_some() {
            return Err(eio());
        }
        let done = !inner.dies_here() || inner.rng.percent(50);
        if done {
            inner.trail = mix(inner.trail, name.as_bytes());
            inner.names.remove(name);
            inner.name_ops.push(NameOp::Remove(name.to_owned()));
        }
        if inner.killed { Err(dead()) } else { Ok(()) }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut inner = self.begin()?;
        if inner.struck(&[Fault::ReadError]).is_some() {
            return Err(eio());
        }
        Ok(inner.names.keys().cloned().collect())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut inner = self.begin()?;
        if inner.struck(&[Fault::DirSyncError]).is_some() {
            return Err(eio());
        }
        let done = !inner.dies_here() || inner.rng.percent(50);
        if done {
            inner.trail = mix(inner.trail, &[2]);
            inner.platter_names = inner.names.clone();
            inner.name_ops.clear();
        }
        if inner.killed { Err(dead()) } else { Ok(()) }
    }
}

/// An open file.
#[derive(Debug)]
pub struct SimFile {
    disk: SimDisk,
    inode: usize,
    writable: bool,
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut inner = self.disk.begin()?;
        if inner.struck(&[Fault::ReadError]).is_some() {
            return Err(eio());
        }
        let bytes = &inner.files[self.inode].cache;
        let from = (offset as usize).min(bytes.len());
        let n = buf.len().min(bytes.len() - from);
        buf[..n].copy_from_slice(&bytes[from..from + n]);
        Ok(n)
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        assert!(self.writable, "a write to a file that was opened for reading");
        let mut inner = self.disk.begin()?;
        let (offset, mut part, mut failure) = (offset as usize, bytes.len(), None);
        if let Some(fault) = inner.struck(&[Fault::WriteError, Fault::ShortWrite]) {
            part = if fault == Fault::ShortWrite { inner.rng.below(bytes.len() as u64 + 1) as usize } else { 0 };
            failure = Some(eio());
        }
        let grown = (offset + part).saturating_sub(inner.files[self.inode].cache.len()) as u64;
        let over = (inner.used() + grown).saturating_sub(inner.capacity);
        if over > 0 && grown > 0 {
            part = part.saturating_sub(over as usize);
            failure = Some(Error::from(ErrorKind::StorageFull));
            inner.strikes += 1;
            if !std::mem::replace(&mut inner.met, true) {
                inner.fire("write: ENOSPC");
            }
        }
        if inner.dies_here() {
            part = inner.rng.below(part as u64 + 1) as usize;
            failure = Some(dead());
        }
        if part < bytes.len() {
            // A sector is written whole or not at all: docs/journal.md, "What a disk is trusted with".
            part = ((offset + part) / SECTOR * SECTOR).saturating_sub(offset);
        }
        if part > 0 {
            inner.write(self.inode, &bytes[..part], offset);
        }
        failure.map_or(Ok(()), Err)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        let mut inner = self.disk.begin()?;
        match inner.struck(&[Fault::SyncError, Fault::SyncDrops]) {
            Some(Fault::SyncDrops) => {
                inner.drop_dirty(self.inode);
                return Err(eio());
            }
            Some(_) => return Err(eio()),
            None => {}
        }
        let done = !inner.dies_here() || inner.rng.percent(50);
        if done {
            inner.sync(self.inode);
        }
        if inner.killed { Err(dead()) } else { Ok(()) }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.begin()?.files[self.inode].cache.len() as u64)
    }
}
