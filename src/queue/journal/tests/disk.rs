//! A disk in memory on which written, synced and directory-synced are three different things.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::queue::journal::disk::{Disk, DiskFile};

#[derive(Clone, Default)]
struct Inode {
    now: Vec<u8>,
    synced: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone, Default)]
pub struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    synced_names: BTreeMap<String, usize>,
    pub ops: u64,
    /// Before the op of this number everything ends.
    pub kill_at: Option<u64>,
    /// The sync of this number fails and forgets what it should have written.
    pub fail_sync_at: Option<u64>,
    pub syncs: u64,
    /// Bytes that all files may have together.
    pub capacity: Option<usize>,
    /// What it says is free.
    pub free: Option<u64>,
}

#[derive(Clone, Default)]
pub struct MemDisk(Arc<Mutex<State>>);

pub struct MemFile(MemDisk, usize);

impl MemDisk {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// A disk of its own with the same content.
    pub fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.state().clone())))
    }

    /// The process died; what it wrote is all there.
    pub fn after_kill(&self) -> Self {
        let copy = self.copy();
        let mut state = copy.state();
        (state.kill_at, state.ops) = (None, 0);
        drop(state);
        copy
    }

    /// The power went: of what was not synced, each sector is there where `kept` says so; unsynced names are gone.
    pub fn after_power_cut(&self, mut kept: impl FnMut() -> bool) -> Self {
        let copy = self.after_kill();
        let mut state = copy.state();
        state.names = state.synced_names.clone();
        for inode in &mut state.inodes {
            for (at, bytes) in std::mem::take(&mut inode.pending) {
                let mut done = 0;
                while done < bytes.len() {
                    let n = (512 - (at + done) % 512).min(bytes.len() - done);
                    if kept() {
                        put(&mut inode.synced, at + done, &bytes[done..done + n]);
                    }
                    done += n;
                }
            }
            inode.now = inode.synced.clone();
        }
        drop(state);
        copy
    }

    /// The bytes of a file, to be damaged.
    pub fn edit<R>(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let mut state = self.state();
        let id = state.names[name];
        let inode = &mut state.inodes[id];
        let result = edit(&mut inode.now);
        inode.synced = inode.now.clone();
        result
    }

    pub fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    fn op(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        state.ops += 1;
        if state.kill_at.is_some_and(|k| state.ops >= k) {
            return Err(io::Error::other("killed"));
        }
        Ok(state)
    }
}

fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if file.len() < at + bytes.len() {
        file.resize(at + bytes.len(), 0);
    }
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

impl Disk for MemDisk {
    type File = MemFile;

    fn create(&self, name: &str) -> io::Result<MemFile> {
        let mut state = self.op()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = state.inodes.len();
        state.inodes.push(Inode::default());
        state.names.insert(name.to_owned(), id);
        Ok(MemFile(self.clone(), id))
    }

    fn open(&self, name: &str) -> io::Result<MemFile> {
        self.open_read(name)
    }

    fn open_read(&self, name: &str) -> io::Result<MemFile> {
        let id = *self.state().names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(MemFile(self.clone(), id))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.op()?;
        let id = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), id);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.op()?.names.remove(name).map(|_| ()).ok_or(io::ErrorKind::NotFound.into())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn free_bytes(&self) -> Option<u64> {
        self.state().free
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.op()?;
        state.synced_names = state.names.clone();
        Ok(())
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.0.state();
        let rest = state.inodes[self.1].now.get(offset as usize..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.0.op()?;
        let used: usize = state.names.values().map(|&id| state.inodes[id].now.len()).sum();
        let grows = (offset as usize + bytes.len()).saturating_sub(state.inodes[self.1].now.len());
        if state.capacity.is_some_and(|max| grows > 0 && used + grows > max) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = &mut state.inodes[self.1];
        put(&mut inode.now, offset as usize, bytes);
        inode.pending.push((offset as usize, bytes.to_vec()));
        Ok(())
    }

    fn sync_data(&mut self) -> io::Result<()> {
        let mut state = self.0.op()?;
        state.syncs += 1;
        let fails = state.fail_sync_at == Some(state.syncs);
        let inode = &mut state.inodes[self.1];
        for (at, bytes) in std::mem::take(&mut inode.pending) {
            if !fails {
                put(&mut inode.synced, at, &bytes);
            }
        }
        if fails { Err(io::Error::other("EIO")) } else { Ok(()) }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.state().inodes[self.1].now.len() as u64)
    }
}
