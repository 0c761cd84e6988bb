//! A folder in memory whose syncs can be made to fail, or to wait.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use forebay::queue::journal::disk::{Disk, DiskFile};

type Bytes = Arc<Mutex<Vec<u8>>>;

#[derive(Default)]
struct Switches {
    fail_sync: bool,
    hold_sync: bool,
    slow_sync: Duration,
    syncs: u64,
}

#[derive(Clone, Default)]
pub struct MemDisk {
    files: Arc<Mutex<BTreeMap<String, Bytes>>>,
    switches: Arc<(Mutex<Switches>, Condvar)>,
}

pub struct MemFile(Bytes, Arc<(Mutex<Switches>, Condvar)>);

impl MemDisk {
    pub fn fail_syncs(&self) {
        self.switches.0.lock().unwrap().fail_sync = true;
    }

    pub fn mend(&self) {
        self.switches.0.lock().unwrap().fail_sync = false;
    }

    /// Until it is called again with `false`, a sync does not return.
    pub fn hold_syncs(&self, hold: bool) {
        self.switches.0.lock().unwrap().hold_sync = hold;
        self.switches.1.notify_all();
    }

    /// From now on each sync takes so long.
    pub fn slow_syncs(&self, time: Duration) {
        self.switches.0.lock().unwrap().slow_sync = time;
    }

    pub fn syncs(&self) -> u64 {
        self.switches.0.lock().unwrap().syncs
    }

    fn get(&self, name: &str) -> io::Result<Bytes> {
        self.files.lock().unwrap().get(name).cloned().ok_or(io::ErrorKind::NotFound.into())
    }
}

impl Disk for MemDisk {
    type File = MemFile;

    fn create(&self, name: &str) -> io::Result<MemFile> {
        let mut files = self.files.lock().unwrap();
        if files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let bytes = Bytes::default();
        files.insert(name.to_owned(), bytes.clone());
        Ok(MemFile(bytes, self.switches.clone()))
    }

    fn open(&self, name: &str) -> io::Result<MemFile> {
        self.open_read(name)
    }

    fn open_read(&self, name: &str) -> io::Result<MemFile> {
        Ok(MemFile(self.get(name)?, self.switches.clone()))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files.lock().unwrap();
        let bytes = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.lock().unwrap().remove(name).map(|_| ()).ok_or(io::ErrorKind::NotFound.into())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files.lock().unwrap().keys().cloned().collect())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.0.lock().unwrap();
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn write_all_at(&mut self, new: &[u8], offset: u64) -> io::Result<()> {
        let (mut bytes, end) = (self.0.lock().unwrap(), offset as usize + new.len());
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(new);
        Ok(())
    }

    fn sync_data(&mut self) -> io::Result<()> {
        let mut switches = self.1.0.lock().unwrap();
        switches.syncs += 1;
        while switches.hold_sync {
            switches = self.1.1.wait(switches).unwrap();
        }
        std::thread::sleep(switches.slow_sync);
        if switches.fail_sync { Err(io::Error::other("the disk fails")) } else { Ok(()) }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }
}
