//! A file system in a file, which can be full and can lose its power.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate};

use crate::support::eventually;

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`: from now on nothing reaches the disk, neither data nor the log of the file
/// system, and all that was written and not synced is gone. This crate has no `unsafe`, and so no ioctl of its own.
const CUT: &str =
    "import fcntl, os, struct, sys; fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

/// A small ext4.
pub struct SmallDisk {
    image: PathBuf,
    /// Where it is mounted.
    pub folder: PathBuf,
}

fn tool(name: &str, arguments: &[&str]) {
    let needs = "this test needs root, loop devices, python3, and mkfs.ext4 and mount (Debian: e2fsprogs, mount)";
    let path = "/usr/sbin:/sbin:/usr/bin:/bin";
    let output = Command::new(name).args(arguments).env("PATH", path).output();
    let output = output.unwrap_or_else(|e| panic!("{name}: {e}; {needs}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?}: {said}; {needs}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

impl SmallDisk {
    /// Makes one of so many MiB in a folder.
    pub fn make(place: &Path, mib: u64) -> Self {
        let (image, folder) = (place.join("disk.img"), place.join("disk"));
        File::create(&image).and_then(|f| f.set_len(mib << 20)).expect("an image");
        fs::create_dir(&folder).expect("a folder");
        tool("mkfs.ext4", &["-q", "-F", text(&image)]);
        let disk = Self { image, folder };
        disk.mount();
        disk
    }

    fn mount(&self) {
        tool("mount", &["-o", "loop", text(&self.image), text(&self.folder)]);
    }

    /// Takes every block that is left.
    pub fn fill(&self) -> PathBuf {
        let path = self.folder.join("ballast");
        let mut file = File::create(&path).expect("a file");
        let mut taken = 0;
        for size in [16 << 20, 64 << 10, 4 << 10] {
            while fallocate(&file, FallocateFlags::empty(), taken, size).is_ok() {
                taken += size;
            }
        }
        file.seek(SeekFrom::Start(taken)).expect("a place in it");
        while file.write_all(&[7; 512]).is_ok() {}
        let _ = file.sync_all();
        path
    }

    /// Cuts the power.
    pub fn cut(&self) {
        tool("python3", &["-c", CUT, text(&self.folder)]);
    }

    /// The power is back. Nobody may have a file of it open.
    pub fn power_up(&self) {
        let path = "/usr/sbin:/sbin:/usr/bin:/bin";
        let gone =
            || Command::new("umount").arg(&self.folder).env("PATH", path).output().is_ok_and(|o| o.status.success());
        eventually("the disk has power again", || {
            // Whoever copied the mounts of this machine meanwhile, as a sandboxed process does, holds the dead file system a
            // moment longer, and a mount would find that one.
            gone() && {
                self.mount();
                File::create(self.folder.join("probe")).is_ok()
            }
        });
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
    }
}
