//! A folder in memory that is made of given bytes, and that can be looked at afterwards.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forebay::queue::journal::disk::{Disk, DiskFile};

/// Files by their names.
pub type Files = BTreeMap<String, Vec<u8>>;

/// The folder.
#[derive(Clone, Default)]
pub struct MemDisk(Arc<Mutex<BTreeMap<String, MemFile>>>);

/// A file of it. A handle follows its file through a rename.
#[derive(Clone, Default)]
pub struct MemFile(Arc<Mutex<Vec<u8>>>);

impl MemFile {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemDisk {
    pub fn of(files: Files) -> Self {
        let held = |(name, bytes)| (name, MemFile(Arc::new(Mutex::new(bytes))));
        Self(Arc::new(Mutex::new(files.into_iter().map(held).collect())))
    }

    pub fn files(&self) -> Files {
        self.lock().iter().map(|(name, file)| (name.clone(), file.lock().clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, MemFile>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for MemDisk {
    type File = MemFile;

    fn create(&self, name: &str) -> io::Result<MemFile> {
        let mut files = self.lock();
        if files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(files.entry(name.to_owned()).or_default().clone())
    }

    fn open(&self, name: &str) -> io::Result<MemFile> {
        self.open_read(name)
    }

    fn open_read(&self, name: &str) -> io::Result<MemFile> {
        self.lock().get(name).cloned().ok_or(io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.lock();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.lock().remove(name).map(|_| ()).ok_or(io::ErrorKind::NotFound.into())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().keys().cloned().collect())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.lock();
        let rest = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn write_all_at(&mut self, new: &[u8], offset: u64) -> io::Result<()> {
        let (mut bytes, end) = (self.lock(), offset as usize + new.len());
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(new);
        Ok(())
    }

    fn sync_data(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().len() as u64)
    }
}
