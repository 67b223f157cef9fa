//! Recordings: everything that enters a run, in a file (docs/recording.md). Zstandard frames, each of whole JSON lines;
//! the first line is the header. What was written is readable whatever became of the writer.

mod kept;
mod packer;
mod reader;
mod writer;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::{
    kept::{Kept, Since},
    reader::{Ending, Reader},
    writer::{Recorder, Wish},
};
use crate::{
    containers::KnownContainer,
    findings::HostFacts,
    model::Timestamp,
    run::{Entry, filter::Asked},
};

/// Of the format. A reader takes its own and older ones.
pub const VERSION: u32 = 1;

/// A frame is closed when it holds this much, and at least once a second.
const FRAME_BYTES: usize = 256 << 10;
/// A survey of a host full of cgroups is the longest line.
const LINE_BYTES: usize = 32 << 20;
/// The memory that a frame may ask its reader for, as a power of two.
const WINDOW_LOG: u32 = 25;

/// The first line: what a run stands on before anything enters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// [`VERSION`].
    pub ctrace_recording: u32,
    /// That wrote it.
    pub ctrace: String,
    pub host: String,
    /// As `uname -r` says it.
    pub kernel: String,
    pub started: Timestamp,
    /// The records' clock then.
    pub started_ns: u64,
    /// To add to a record's time to get wall-clock time, ns.
    pub boot_to_wall_ns: i64,
    pub lenses: Vec<String>,
    /// What was wanted of it: a replay shows the same, unless it is told otherwise.
    pub asked: Asked,
    pub facts: HostFacts,
    /// How each probe was attached, and why not.
    pub probes: Map<String, Value>,
    pub probes_unknown: Map<String, Value>,
    /// Containers that only their runtime's state tells of.
    pub known: Vec<KnownContainer>,
    /// Entries from before its start that the run no longer held when it was written.
    #[serde(default)]
    pub gone: u64,
}

/// Every other line.
#[derive(Debug, Serialize, Deserialize)]
struct Line<E> {
    /// When it entered, by the records' clock. Records of the kernel hold their own time: 0.
    t: u64,
    #[serde(rename = "in")]
    entry: E,
}

type Entered = Line<Entry>;

#[cfg(test)]
mod net_tests;
#[cfg(test)]
mod tests;
