//! What virtual machines are made of, kept outside the checkout and shared by every checkout.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::rust_src::cache_home;

pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    pub fn open() -> Result<Self> {
        let folder = cache_home()?.join("ctrace-vm");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let folder = folder.canonicalize()?;
        if folder.to_string_lossy().contains(char::is_whitespace) {
            bail!(
                "{} stands on the guest's kernel command line: set XDG_CACHE_HOME to a path without spaces",
                folder.display()
            );
        }
        Ok(Self { folder })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Held while parts are fetched or made; machines run without it.
    pub fn lock(&self) -> Result<File> {
        let lock = File::create(self.path("lock"))?;
        lock.lock().context("the cache's lock")?;
        Ok(lock)
    }

    /// A folder for one machine's run, which goes when the value does.
    pub fn run_folder(&self) -> Result<RunFolder> {
        self.remove_dead_runs();
        let mut number = 0;
        loop {
            let folder = self.path(&format!("run-{}-{number}", std::process::id()));
            match fs::create_dir(&folder) {
                Ok(()) => return Ok(RunFolder(folder)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error).with_context(|| format!("cannot make {}", folder.display())),
            }
        }
    }

    /// Ctrl-C leaves no time to tidy up; the next run does.
    fn remove_dead_runs(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = name.strip_prefix("run-").and_then(|rest| rest.split('-').next());
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

pub struct RunFolder(PathBuf);

impl RunFolder {
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The text of a file in it, if the guest or a program has written one.
    pub fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.0.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
