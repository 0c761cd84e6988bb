//! What the journal needs of a disk, and nothing more: one folder of files, positioned writes, and the two kinds of
//! sync. The simulation gives a scripted one in which written, synced and directory-synced are three different things.
//!
//! Blocking on purpose: the journal belongs to OS threads. An async file layer runs writes on a pool and can report a
//! write as done that has not happened, so that a full disk looks synced.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A folder of files.
pub trait Disk: Clone + Send + Sync + 'static {
    /// An open file of this folder.
    type File: DiskFile;

    /// Makes a new file, open for reading and writing; `AlreadyExists` if there is one.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Opens an existing file for reading only.
    fn open_read(&self, name: &str) -> io::Result<Self::File>;
    /// Renames within the folder, over an existing file if there is one. Durable after [`Disk::sync_dir`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. Durable after [`Disk::sync_dir`].
    fn remove(&self, name: &str) -> io::Result<()>;
    /// The names in the folder, sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Bytes that are free on it for whoever is not the system; none where that is not known.
    fn free_bytes(&self) -> Option<u64> {
        None
    }
    /// fsync of the folder: names made, renamed and removed before it survive a power cut.
    fn sync_dir(&self) -> io::Result<()>;
}

/// One open file.
pub trait DiskFile: Send + 'static {
    /// Reads at most `buf.len()` bytes at `offset`; 0 at the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`.
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// fdatasync: the bytes written before it, and the length they need, survive a power cut.
    fn sync_data(&mut self) -> io::Result<()>;
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|n| n == 0)
    }
}

/// A real folder.
#[derive(Debug, Clone)]
pub struct RealDisk {
    folder: PathBuf,
}

impl RealDisk {
    /// A folder that exists.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Disk for RealDisk {
    type File = RealFile;

    fn create(&self, name: &str) -> io::Result<RealFile> {
        let path = self.folder.join(name);
        OpenOptions::new().read(true).write(true).create_new(true).open(path).map(RealFile)
    }

    fn open(&self, name: &str) -> io::Result<RealFile> {
        OpenOptions::new().read(true).write(true).open(self.folder.join(name)).map(RealFile)
    }

    fn open_read(&self, name: &str) -> io::Result<RealFile> {
        File::open(self.folder.join(name)).map(RealFile)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.folder.join(from), self.folder.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.folder.join(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    fn free_bytes(&self) -> Option<u64> {
        let found = rustix::fs::statvfs(&self.folder).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

/// A real file.
#[derive(Debug)]
pub struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.0.metadata().map(|m| m.len())
    }
}
