//! Files whose pages are page cache: on the disk that this program is on, never in a tmpfs.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, Write},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use super::unique;

const MIB: usize = 1 << 20;

/// A path for a file of this test's own; gone with it.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        let own = std::env::current_exe().expect("the path of this program");
        let folder = own.parent().unwrap_or(Path::new("/"));
        Self(folder.join(format!("ctrace-test-{:x}", unique())))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file of zeros that takes no room on the disk.
    pub fn sparse(self, mib: u64) -> Self {
        File::create(&self.0).and_then(|file| file.set_len(mib << 20)).expect("a sparse file");
        self
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// `FILE=MIB`: written and synced, so that its pages are clean cache.
pub fn write_file(what: &str) {
    let (path, mib) = what.split_once('=').expect("FILE=MIB");
    let mut file = File::create(path).expect("a new file");
    for _ in 0..mib.parse::<usize>().expect("a number") {
        file.write_all(&vec![7; MIB]).expect("room on the disk");
        file.sync_all().expect("a disk");
    }
}

/// Reads a file for ever.
pub fn churn(path: &str) -> ! {
    let mut file = OpenOptions::new().read(true).open(path).expect("the file");
    let mut buffer = vec![0; MIB];
    // SAFETY: a plain system call with numbers alone. No readahead: each page is asked for.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
    loop {
        while file.read(&mut buffer).expect("a readable file") > 0 {}
        file.rewind().expect("a file");
    }
}
