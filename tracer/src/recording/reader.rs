//! The reading side. A file may be cut, damaged or made by an enemy: what is read is bounded, and what is whole is used.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use zstd::{
    stream::raw::{Decoder, InBuffer, Operation, OutBuffer},
    zstd_safe::DParameter,
};

use super::{Entered, FRAME_BYTES, Header, LINE_BYTES, VERSION, WINDOW_LOG};
use crate::run::Entry;

const CHUNK: usize = 128 << 10;
/// A frame is closed as soon as it is full: one line may be above.
const CONTENT_BYTES: usize = FRAME_BYTES + LINE_BYTES;
/// Real ones are below 100: beyond this it is a bomb.
const RATIO: u64 = 2000;
const RATIO_FREE: u64 = CONTENT_BYTES as u64;

/// How a recording ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// The writer came to its end.
    pub whole: bool,
    /// After the last good frame, and why they cannot be read.
    pub bytes_left: u64,
    pub damage: Option<String>,
    /// Lines that this ctrace does not understand, and why the first of them.
    pub skipped: u64,
    pub skipped_why: Option<String>,
    /// The records' clock at the last entry.
    pub at_ns: u64,
}

pub struct Reader {
    header: Header,
    frames: Frames<BufReader<File>>,
    lines: Lines,
    ending: Ending,
}

impl Reader {
    /// # Errors
    /// It cannot be read, or is no recording that this ctrace can read.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let size = file.metadata().with_context(|| format!("opening {}", path.display()))?.len();
        let mut frames = Frames::new(BufReader::with_capacity(CHUNK, file), size)?;
        let mut lines = Lines::default();
        let content = frames.next();
        let Some(content) = content else {
            bail!("{} is no recording of ctrace: {}", path.display(), frames.damage.as_deref().unwrap_or("it is empty"))
        };
        lines.refill(content);
        let first = lines.next().unwrap_or_default();
        let header: Header = versioned(first).with_context(|| format!("{} is no recording to read", path.display()))?;
        let ending = Ending { at_ns: header.started_ns, ..Ending::default() };
        Ok(Self { header, frames, lines, ending })
    }

    /// When the last entry of a recording entered. What stands behind the time is not looked at.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn last_ns(path: &Path) -> Result<u64> {
        let mut reader = Self::open(path)?;
        let mut last_ns = 0;
        loop {
            while let Some(line) = reader.lines.next() {
                last_ns = last_ns.max(time_of(line).unwrap_or(0));
            }
            let Some(content) = reader.frames.next() else { return Ok(last_ns) };
            reader.lines.refill(content);
        }
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How it ended, once it gives no more.
    pub fn ending(&self) -> &Ending {
        &self.ending
    }
}

/// Each entry, and when it entered.
impl Iterator for Reader {
    type Item = (u64, Entry);

    fn next(&mut self) -> Option<(u64, Entry)> {
        loop {
            let Some(line) = self.lines.next() else {
                let Some(content) = self.frames.next() else {
                    self.ending.damage.clone_from(&self.frames.damage);
                    self.ending.bytes_left = self.frames.left();
                    return None;
                };
                self.lines.refill(content);
                continue;
            };
            match parsed::<Entered>(line) {
                Ok(entered) => {
                    self.ending.at_ns = self.ending.at_ns.max(entered.t);
                    self.ending.whole = matches!(entered.entry, Entry::End);
                    return Some((entered.t, entered.entry));
                }
                Err(error) => {
                    self.ending.skipped += 1;
                    self.ending.skipped_why.get_or_insert_with(|| error.to_string());
                }
            }
        }
    }
}

/// A newer format is told as such, whatever else its header holds.
fn versioned(line: &[u8]) -> Result<Header> {
    #[derive(serde::Deserialize)]
    struct Version {
        ctrace_recording: u32,
    }
    let Version { ctrace_recording } = parsed(line).context("its first line is no header")?;
    if ctrace_recording > VERSION {
        bail!("it is of format {ctrace_recording}, and this ctrace reads up to {VERSION}: take a newer one");
    }
    Ok(parsed(line)?)
}

fn parsed<T: DeserializeOwned>(line: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(line)
}

fn time_of(line: &[u8]) -> Option<u64> {
    let rest = line.strip_prefix(br#"{"t":"#)?;
    let end = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
}

/// The lines of one frame.
#[derive(Default)]
struct Lines {
    content: Vec<u8>,
    at: usize,
}

impl Lines {
    fn refill(&mut self, content: Vec<u8>) {
        *self = Self { content, at: 0 };
    }

    fn next(&mut self) -> Option<&[u8]> {
        let rest = self.content.get(self.at..).filter(|rest| !rest.is_empty())?;
        let end = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
        self.at += end + 1;
        Some(&rest[..end])
    }
}

/// One frame after another, each given only when its checksum was found right.
struct Frames<R> {
    from: R,
    size: u64,
    decoder: Decoder<'static>,
    /// Compressed bytes of good frames so far, and what they gave.
    good: u64,
    gave: u64,
    damage: Option<String>,
}

impl<R: BufRead> Frames<R> {
    fn new(from: R, size: u64) -> Result<Self> {
        let mut decoder = Decoder::new().context("starting the decompression")?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).context("starting the decompression")?;
        Ok(Self { from, size, decoder, good: 0, gave: 0, damage: None })
    }

    fn left(&self) -> u64 {
        self.size.saturating_sub(self.good)
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.damage.is_some() {
            return None;
        }
        match self.frame() {
            Ok(content) => content,
            Err(why) => {
                self.damage = Some(why);
                None
            }
        }
    }

    /// `None`: there is no more.
    fn frame(&mut self) -> Result<Option<Vec<u8>>, String> {
        let mut content = Vec::new();
        let mut read = 0;
        self.decoder.reinit().map_err(|error| error.to_string())?;
        loop {
            let chunk = self.from.fill_buf().map_err(|error| error.to_string())?;
            if chunk.is_empty() {
                return if read == 0 { Ok(None) } else { Err("its last frame was cut off".to_owned()) };
            }
            let mut input = InBuffer::around(chunk);
            let mut done = false;
            // The decoder may hold more than the last output took.
            let mut filled = false;
            while !done && (filled || input.pos() < chunk.len()) {
                let start = content.len();
                content.resize(start + CHUNK, 0);
                let mut output = OutBuffer::around(&mut content[start..]);
                let hint = self.decoder.run(&mut input, &mut output).map_err(|error| error.to_string())?;
                let wrote = output.pos();
                filled = wrote == CHUNK;
                content.truncate(start + wrote);
                done = hint == 0;
                if content.len() > CONTENT_BYTES {
                    return Err("a frame is larger than any that ctrace writes".to_owned());
                }
            }
            let used = input.pos();
            self.from.consume(used);
            read += used as u64;
            if done {
                break;
            }
        }
        self.good += read;
        self.gave += content.len() as u64;
        if self.gave > RATIO_FREE + self.good.saturating_mul(RATIO) {
            return Err("it unpacks to more than any recording does".to_owned());
        }
        Ok(Some(content))
    }
}
