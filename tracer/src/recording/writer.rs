//! The writing side: what enters is a line at once, and in the file within a second.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{FRAME_BYTES, Header, Line, packer::Packer};
use crate::{model::size, run::Entry};

/// Fast: it is the machine in trouble that writes.
const LEVEL: i32 = 3;

/// Where to record to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub path: PathBuf,
    /// Over what is there.
    pub force: bool,
    pub max_bytes: u64,
}

pub struct Recorder {
    path: PathBuf,
    /// What this run made: beside `path`, until [`Recorder::arrive`], where it is written over.
    made: PathBuf,
    file: File,
    packer: Packer,
    max_bytes: u64,
    written: u64,
    entries: u64,
    now_ns: u64,
    /// Why no more is written: the first reason, told once.
    failed: Option<anyhow::Error>,
    full: bool,
    ended: bool,
    started_ns: u64,
}

impl Recorder {
    /// Makes the file, while the privileges for it are there. It is for its owner alone: it tells what runs here. Always a
    /// new one: as root, an old one may be a link to anywhere, and its mode may let others read. What is written over
    /// stays as it is until [`Recorder::arrive`].
    ///
    /// # Errors
    /// It is there already, or may not be made.
    pub fn create(wish: &Wish) -> Result<Self> {
        let path = wish.path.clone();
        let made = if wish.force { place(&path)? } else { path.clone() };
        let file = match OpenOptions::new().write(true).mode(0o600).create_new(true).open(&made) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && made == path => {
                bail!("{} is there already: take another name, or --force to write over it", path.display())
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!("{} is in the way: remove it, or take another name", made.display())
            }
            opened => opened.with_context(|| format!("making {}", made.display()))?,
        };
        Ok(Self {
            path,
            made,
            file,
            packer: Packer::new(LEVEL)?,
            max_bytes: wish.max_bytes,
            written: 0,
            entries: 0,
            now_ns: 0,
            failed: None,
            full: false,
            ended: false,
            started_ns: 0,
        })
    }

    pub fn begin(&mut self, header: &Header) {
        self.started_ns = header.started_ns;
        self.line(header);
        self.frame();
    }

    pub fn enter(&mut self, entry: &Entry, now_ns: u64) {
        if self.full || self.ended {
            return;
        }
        self.entries += 1;
        self.now_ns = self.now_ns.max(now_ns);
        self.line(&Line { t: now_ns, entry });
        if self.packer.waiting() >= FRAME_BYTES {
            self.frame();
        }
    }

    /// Takes in what is in frames already, and holds so many entries.
    pub fn frames<'a>(&mut self, frames: impl IntoIterator<Item = &'a [u8]>, entries: u64) {
        self.frame();
        for frame in frames {
            self.write(frame);
        }
        self.entries += entries;
    }

    /// Brings all that entered into the file.
    ///
    /// # Errors
    /// What was written since the last time did not arrive.
    pub fn flush(&mut self) -> Result<()> {
        self.frame();
        self.failed.take().map_or(Ok(()), Err)
    }

    /// It has reached its size: nothing more is taken.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Says in the file that it is whole.
    ///
    /// # Errors
    /// As [`Recorder::flush`].
    pub fn end(&mut self) -> Result<()> {
        if !std::mem::replace(&mut self.ended, true) {
            self.line(&Line { t: self.now_ns, entry: Entry::End });
        }
        self.flush()
    }

    /// Takes the place of what is written over: from here on there is something to record.
    ///
    /// # Errors
    /// It may not be.
    pub fn arrive(&mut self) -> Result<()> {
        if self.made != self.path {
            fs::rename(&self.made, &self.path).with_context(|| format!("writing over {}", self.path.display()))?;
            self.made.clone_from(&self.path);
        }
        Ok(())
    }

    /// Takes the file away, and no other: nothing happened yet.
    pub fn discard(mut self) {
        self.ended = true;
        let _ = fs::remove_file(&self.made);
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn written_bytes(&self) -> u64 {
        self.written
    }

    /// For a person: what is in the file.
    pub fn summary(&self) -> String {
        let length = Duration::from_millis(self.now_ns.saturating_sub(self.started_ns) / 1_000_000);
        let end = if self.full { "; it has reached its size" } else { "" };
        format!(
            "recorded {} in {}: {}, {} entries{end}",
            humantime::format_duration(length),
            self.path.display(),
            size(self.written),
            self.entries
        )
    }

    fn line(&mut self, line: &impl Serialize) {
        if self.failed.is_none() {
            self.failed = self.packer.line(line).err();
        }
    }

    fn frame(&mut self) {
        match self.packer.frame() {
            Ok(Some(frame)) => self.write(&frame),
            Ok(None) => {}
            Err(error) => self.fail(error),
        }
    }

    fn write(&mut self, frame: &[u8]) {
        // After a part of one nothing can be read.
        if self.failed.is_some() {
            return;
        }
        match self.file.write_all(frame) {
            Ok(()) => self.written += frame.len() as u64,
            Err(error) => self.fail(error),
        }
        self.full |= self.written >= self.max_bytes;
    }

    fn fail(&mut self, error: io::Error) {
        self.failed.get_or_insert(explained(error, &self.path));
        self.ended = true;
    }
}

/// A run may end by an error, anywhere: what entered until then tells of it.
impl Drop for Recorder {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.frame();
        if self.made != self.path {
            // Nothing happened yet, and what was to be written over is still there.
            let _ = fs::remove_file(&self.made);
        }
    }
}

/// Where to write what is to be `path` in the end: beside it, if there is one.
fn place(path: &Path) -> Result<PathBuf> {
    let is_file = |path: &Path| fs::symlink_metadata(path).map(|found| found.is_file());
    match is_file(path) {
        Ok(true) => {}
        Ok(false) => {
            bail!("{} is no plain file, and --force writes over nothing else: take another name", path.display())
        }
        // There is none; or what is wrong is told where it is made.
        Err(_) => return Ok(path.to_owned()),
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    let beside = PathBuf::from(beside);
    // Of a run that was killed.
    if is_file(&beside).is_ok_and(|is_file| is_file) {
        fs::remove_file(&beside).with_context(|| format!("removing {}", beside.display()))?;
    }
    Ok(beside)
}

fn explained(error: io::Error, path: &Path) -> anyhow::Error {
    let todo = if error.kind() == ErrorKind::StorageFull { ": free space, or record to another disk" } else { "" };
    anyhow::Error::new(error).context(format!("writing {}{todo}", path.display()))
}
