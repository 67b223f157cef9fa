//! Bytes from the kernel to typed events. Never panics, whatever the bytes are.

use bytemuck::Pod;
use bytes::Bytes;
use thiserror::Error;
use tracer_common::{
    Header, Kind, Record, UNKNOWN_U32, UNKNOWN_U64,
    caps::{Busy, Check, Outcome, Start},
    cgroup::{Mkdir, Rmdir},
    copy_up::CopyUp,
    flow::Step,
    oom::{Decision, Done, Sharer, Victim},
    pids::{ForkFailed, ForkRefused},
    signal::{Dropped, Signal},
    space::Refused,
    task::{Exit, Task},
};

use crate::model::Process;

/// One thing that happened in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    OomDecision(Decision),
    OomVictim(Box<Victim>),
    OomSharer(Sharer),
    OomDone(Done),
    Exit(Exit),
    Signal(Box<Signal>),
    CgroupMkdir(Box<Mkdir>),
    CgroupRmdir(Rmdir),
    ForkRefused(Box<ForkRefused>),
    FileRefused(Box<Refused>),
    CopyUp(Box<CopyUp>),
    CapCheck(Box<Check>),
    CapOutcome(Box<Outcome>),
    CapStart(Start),
    CapBusy(Busy),
    ForkFailed(ForkFailed),
    SignalDropped(Dropped),
    PacketStep(Box<Step>),
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    #[error("a record of {0} bytes is shorter than its header")]
    Short(usize),
    #[error("a record of unknown kind {0}")]
    Kind(u32),
    #[error("a record of kind {kind:?} has {got} bytes, not {want}")]
    Size { kind: Kind, got: usize, want: usize },
}

impl Event {
    pub fn header(&self) -> &Header {
        match self {
            Self::OomDecision(record) => &record.header,
            Self::OomVictim(record) => &record.header,
            Self::OomSharer(record) => &record.header,
            Self::OomDone(record) => &record.header,
            Self::Exit(record) => &record.header,
            Self::Signal(record) => &record.header,
            Self::CgroupMkdir(record) => &record.header,
            Self::CgroupRmdir(record) => &record.header,
            Self::ForkRefused(record) => &record.header,
            Self::FileRefused(record) => &record.header,
            Self::CopyUp(record) => &record.header,
            Self::CapCheck(record) => &record.header,
            Self::CapOutcome(record) => &record.header,
            Self::CapStart(record) => &record.header,
            Self::CapBusy(record) => &record.header,
            Self::ForkFailed(record) => &record.header,
            Self::SignalDropped(record) => &record.header,
            Self::PacketStep(record) => &record.header,
        }
    }
}

/// Decodes one record of the ring buffer.
pub fn decode(bytes: &Bytes) -> Result<Event, DecodeError> {
    let header: Header =
        bytes.get(..size_of::<Header>()).map(bytemuck::pod_read_unaligned).ok_or(DecodeError::Short(bytes.len()))?;
    let kind = Kind::from_u32(header.kind).ok_or(DecodeError::Kind(header.kind))?;
    Ok(match kind {
        Kind::OomDecision => Event::OomDecision(record(bytes)?),
        Kind::OomVictim => Event::OomVictim(Box::new(record(bytes)?)),
        Kind::OomSharer => Event::OomSharer(record(bytes)?),
        Kind::OomDone => Event::OomDone(record(bytes)?),
        Kind::Exit => Event::Exit(record(bytes)?),
        Kind::CgroupMkdir => Event::CgroupMkdir(Box::new(record(bytes)?)),
        Kind::CgroupRmdir => Event::CgroupRmdir(record(bytes)?),
        Kind::Signal => Event::Signal(Box::new(record(bytes)?)),
        Kind::ForkRefused => Event::ForkRefused(Box::new(record(bytes)?)),
        Kind::CopyUp => Event::CopyUp(Box::new(record(bytes)?)),
        Kind::FileRefused => Event::FileRefused(Box::new(record(bytes)?)),
        Kind::CapCheck => Event::CapCheck(Box::new(record(bytes)?)),
        Kind::CapOutcome => Event::CapOutcome(Box::new(record(bytes)?)),
        Kind::CapStart => Event::CapStart(record(bytes)?),
        Kind::CapBusy => Event::CapBusy(record(bytes)?),
        Kind::ForkFailed => Event::ForkFailed(record(bytes)?),
        Kind::SignalDropped => Event::SignalDropped(record(bytes)?),
        Kind::PacketStep => Event::PacketStep(Box::new(record(bytes)?)),
    })
}

fn record<T: Record + Pod>(bytes: &Bytes) -> Result<T, DecodeError> {
    if bytes.len() == size_of::<T>() {
        Ok(bytemuck::pod_read_unaligned(bytes))
    } else {
        Err(DecodeError::Size { kind: T::KIND, got: bytes.len(), want: size_of::<T>() })
    }
}

/// `None` where the kernel side could not read it.
pub fn known(number: u32) -> Option<u32> {
    (number != UNKNOWN_U32).then_some(number)
}

/// `None` where the kernel side could not read it.
pub fn known64(number: u64) -> Option<u64> {
    (number != UNKNOWN_U64).then_some(number)
}

/// Text from the kernel: up to the first NUL, whatever else it holds.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Names one process for ever: pid and start.
pub fn identity(task: &Task) -> (u32, u64) {
    (task.tgid, task.start_ns)
}

/// PID 1 of a pid namespace below the host's.
pub fn is_init(task: &Task) -> bool {
    task.ns_pid == 1 && known(task.ns_level).is_some_and(|level| level > 0)
}

/// The process that a task belongs to.
pub fn process(task: &Task) -> Process {
    Process {
        pid: task.tgid,
        tid: task.tid,
        ns_pid: known(task.ns_pid),
        ppid: known(task.ppid),
        comm: text(&task.comm),
        uid: known(task.uid),
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decodes_what_the_kernel_side_sends_and_refuses_the_rest() {
        let mut exit = Exit::zeroed();
        exit.header = Header { kind: Kind::Exit as u32, size: size_of::<Exit>() as u32, time_ns: 7, cgroup: 9 };
        exit.task.comm = *b"java\0\0\0\0\0\0\0\0\0\0\0\0";
        let bytes = Bytes::copy_from_slice(bytemuck::bytes_of(&exit));
        assert_eq!(decode(&bytes), Ok(Event::Exit(exit)));
        assert_eq!(text(&exit.task.comm), "java");
        assert_eq!(decode(&bytes.slice(..8)), Err(DecodeError::Short(8)));
        let cut = bytes.slice(..bytes.len() - 1);
        assert_eq!(decode(&cut), Err(DecodeError::Size { kind: Kind::Exit, got: cut.len(), want: bytes.len() }));
        exit.header.kind = 4711;
        assert_eq!(decode(&Bytes::copy_from_slice(bytemuck::bytes_of(&exit))), Err(DecodeError::Kind(4711)));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..1200), kind in 0u32..20) {
            let _ = decode(&Bytes::from(bytes.clone()));
            let mut tagged = bytes;
            if tagged.len() >= 4 {
                tagged[..4].copy_from_slice(&kind.to_le_bytes());
            }
            if let Ok(event) = decode(&Bytes::from(tagged)) {
                prop_assert_eq!(event.header().kind, kind);
            }
        }
    }
}
