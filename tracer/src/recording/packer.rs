//! Lines to frames: what a file of a recording is made of, and what is kept in memory for one.

use std::io;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use zstd::{bulk::Compressor, zstd_safe::CParameter};

use super::LINE_BYTES;

pub(super) struct Packer {
    compressor: Compressor<'static>,
    /// Lines that are in no frame yet.
    lines: Vec<u8>,
}

impl Packer {
    pub(super) fn new(level: i32) -> Result<Self> {
        let mut compressor = Compressor::new(level).context("starting the compression")?;
        compressor.set_parameter(CParameter::ChecksumFlag(true)).context("starting the compression")?;
        Ok(Self { compressor, lines: Vec::new() })
    }

    /// Takes a line in, whole or not at all.
    ///
    /// # Errors
    /// It is too long for a reader.
    pub(super) fn line(&mut self, line: &impl Serialize) -> Result<()> {
        let start = self.lines.len();
        let wrote = serde_json::to_writer(&mut self.lines, line);
        let length = self.lines.len() - start;
        if wrote.is_err() || length >= LINE_BYTES {
            self.lines.truncate(start);
        }
        wrote?;
        if length >= LINE_BYTES {
            bail!("an entry of {length} bytes is too long for a recording");
        }
        self.lines.push(b'\n');
        Ok(())
    }

    /// Bytes that are in no frame yet.
    pub(super) fn waiting(&self) -> usize {
        self.lines.len()
    }

    /// All that waits, in a frame of its own; `None`: nothing does.
    pub(super) fn frame(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.lines.is_empty() {
            return Ok(None);
        }
        let frame = self.compressor.compress(&self.lines);
        self.lines.clear();
        frame.map(Some)
    }
}
