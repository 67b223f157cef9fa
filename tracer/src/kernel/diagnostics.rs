//! What the kernel side says about itself (aya-log): in a debug build with -vv.

use std::sync::mpsc::{self, Receiver, Sender};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya_log::EbpfLogger;

/// Is that code in this build's kernel side? A release spares each hook the test for it.
pub const BUILT_IN: bool = cfg!(debug_assertions);
/// The global of aya-log: which levels are written.
pub const LEVEL: &str = aya_log::LEVEL;
pub const SILENT: u8 = 0;
pub const ALL: u8 = u8::MAX;

pub struct Diagnostics {
    logger: EbpfLogger<Line>,
    lines: Receiver<String>,
}

impl Diagnostics {
    pub fn of(ebpf: &mut Ebpf) -> Result<Self> {
        let (sender, lines) = mpsc::channel();
        let logger =
            EbpfLogger::init_with_logger(ebpf, Line(sender)).context("opening the kernel side's diagnostics")?;
        Ok(Self { logger, lines })
    }

    /// What came since this was last asked.
    pub fn take(&mut self) -> Vec<String> {
        self.logger.flush();
        self.lines.try_iter().collect()
    }
}

struct Line(Sender<String>);

impl log::Log for Line {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }

    fn log(&self, record: &log::Record) {
        // Only a run that is over has no receiver.
        let _ = self.0.send(format!("{}: {}", record.target(), record.args()));
    }

    fn flush(&self) {}
}
