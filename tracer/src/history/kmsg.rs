//! The kernel log's history, read once and without waiting, from `/dev/kmsg` (kernel/printk/printk.c, `devkmsg_read`).
//!
//! One `read` gives one record: `prio,seq,usec,flags[,key=value…];text\n`, then lines that begin with a space (device
//! properties, not needed here). `prio` is facility × 8 + level. In the text every byte below 32, above 126 and `\` is
//! written as `\xNN`, so a newline or an escape sequence in a process name can't end the record or reach a terminal.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use serde::Serialize;

use crate::model::Timestamp;

/// The usual place; a container may have it elsewhere.
pub const DEVICE: &str = "/dev/kmsg";

/// `PRINTKRB_RECORD_MAX` was 1 KiB and `CONSOLE_EXT_LOG_MAX` 8 KiB (escapes included) on every kernel so far; a smaller
/// buffer than the record gives EINVAL.
const RECORD_BYTES: usize = 16 * 1024;

/// Bounds of one reading: more than the largest log buffer that is in use (`log_buf_len=` of tens of MiB is rare), and
/// an end for a kernel that logs faster than we read.
const MAX_RECORDS: u64 = 1 << 18;

/// One record of the kernel log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    /// 0 (emergency) to 7 (debug).
    pub level: u8,
    /// 0 is the kernel itself. Whoever may write to `/dev/kmsg` gets another one: that is what tells a real report from
    /// a forged one.
    pub facility: u32,
    /// Counts from 0 at boot; a gap is what was overwritten.
    pub seq: u64,
    /// Microseconds of `local_clock()`: since boot, without time in suspend, not disciplined by NTP.
    pub usec: u64,
    /// A `pr_cont` that could not be joined to its line because another CPU's line came between.
    pub continuation: bool,
    /// Still escaped; see [`unescape`].
    pub text: String,
}

/// How much of the log there was to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Extent {
    pub records: u64,
    /// Records since boot that were overwritten before we came.
    pub forgotten: u64,
    /// Records overwritten while we read (EPIPE): gaps in `seq`.
    pub lost: u64,
    /// The bound was reached before the end.
    pub bounded: bool,
}

/// Reads all that is there now and gives each record's raw text to `sink` (raw, so that it can be recorded).
///
/// The error is for a person: what is missing, and what to do.
pub fn read(device: &Path, sink: impl FnMut(&str)) -> Result<Extent, String> {
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    let mut file =
        OpenOptions::new().read(true).custom_flags(flags).open(device).map_err(|error| refused(device, &error))?;
    read_from(&mut file, sink).map_err(|error| refused(device, &error))
}

/// The reading itself, over anything that answers as `/dev/kmsg` does.
pub fn read_from(source: &mut impl Read, mut sink: impl FnMut(&str)) -> std::io::Result<Extent> {
    let mut extent = Extent::default();
    let mut expected = None;
    let mut buffer = vec![0; RECORD_BYTES];
    loop {
        if extent.records == MAX_RECORDS {
            extent.bounded = true;
            return Ok(extent);
        }
        let length = match source.read(&mut buffer) {
            Ok(0) => return Ok(extent),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(extent),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // Overwritten under us; the next read goes on with the oldest that is left, and its number says how many.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => continue,
            Err(error) => return Err(error),
        };
        let raw = String::from_utf8_lossy(&buffer[..length]);
        if let Some(seq) = raw.split(',').nth(1).and_then(|number| number.parse::<u64>().ok()) {
            match expected {
                None => extent.forgotten = seq,
                Some(next) => extent.lost += seq.saturating_sub(next),
            }
            expected = Some(seq.saturating_add(1));
        }
        extent.records += 1;
        sink(&raw);
    }
}

fn refused(device: &Path, error: &std::io::Error) -> String {
    let device = device.display();
    match error.raw_os_error() {
        Some(libc::EPERM) => format!(
            "{device} is closed to this process: kernel.dmesg_restrict is 1 and CAP_SYSLOG is missing (or a container's \
             device rules forbid it); run as root, or with CAP_SYSLOG"
        ),
        Some(libc::EACCES) => format!("{device} may not be opened by this user; run as root"),
        Some(libc::ENOENT) => {
            format!("{device} does not exist here; in a container, give it the host's (--device {device})")
        }
        _ => format!("{device} can't be read: {error}"),
    }
}

/// `None` for what is no record.
pub fn parse(raw: &str) -> Option<Record> {
    let (head, text) = raw.split_once(';')?;
    let mut fields = head.split(',');
    let prio: u32 = fields.next()?.parse().ok()?;
    let seq = fields.next()?.parse().ok()?;
    let usec = fields.next()?.parse().ok()?;
    // `-`, `c` or `+`; some kernels add `caller=T123` behind it.
    let continuation = fields.next().is_some_and(|flags| flags != "-");
    let text = text.split('\n').next().unwrap_or_default().to_owned();
    Some(Record { level: (prio & 7) as u8, facility: prio >> 3, seq, usec, continuation, text })
}

/// Splits a dump of many records (a fixture, a recording) into them: lines that begin with a space belong to the record
/// before.
pub fn parse_dump(dump: &str) -> Vec<Record> {
    dump.lines().filter(|line| !line.starts_with(' ')).filter_map(parse).collect()
}

/// The text as the kernel had it, `\xNN` decoded. A process name need not be UTF-8: what isn't becomes U+FFFD.
pub fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes.get(at..at + 4).filter(|code| code.starts_with(b"\\x")).and_then(|code| {
            let digits = std::str::from_utf8(&code[2..]).ok()?;
            if digits.starts_with('+') { None } else { u8::from_str_radix(digits, 16).ok() }
        });
        if let Some(byte) = code {
            plain.push(byte);
            at += 4;
        } else {
            plain.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// Wall clock of a record. `offset_ns` is wall clock minus the log's clock, as [`offset_now`] gives it.
pub fn wall(usec: u64, offset_ns: i64) -> Timestamp {
    let since_boot = i64::try_from(usec).unwrap_or(i64::MAX).saturating_mul(1_000);
    Timestamp(since_boot.saturating_add(offset_ns))
}

/// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC` now, in nanoseconds.
///
/// The log's clock is `CLOCK_MONOTONIC` without NTP's corrections, so a record's wall clock is off by what they amounted
/// to since (500 ppm, 43 s a day, at the very worst), and by any suspend or step of the clock between.
pub fn offset_now() -> i64 {
    let now = |clock| {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: clock_gettime only writes the timespec that it is given.
        unsafe { libc::clock_gettime(clock, &raw mut time) };
        time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
    };
    now(libc::CLOCK_REALTIME) - now(libc::CLOCK_MONOTONIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers as `/dev/kmsg` does: one record or one error a read.
    struct Device(Vec<std::io::Result<&'static str>>);

    impl Read for Device {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.0.is_empty() {
                return Err(ErrorKind::WouldBlock.into());
            }
            let record = self.0.remove(0)?;
            buffer[..record.len()].copy_from_slice(record.as_bytes());
            Ok(record.len())
        }
    }

    #[test]
    fn overwritten_records_are_counted() {
        let overwritten = std::io::Error::from_raw_os_error(libc::EPIPE);
        let mut device = Device(vec![Ok("6,10,5,-;one\n"), Err(overwritten), Ok("6,15,9,-;two\n SUBSYSTEM=pci\n")]);
        let mut seen = Vec::new();
        let extent = read_from(&mut device, |raw| seen.extend(parse(raw))).unwrap();
        assert_eq!(extent, Extent { records: 2, forgotten: 10, lost: 4, bounded: false });
        assert_eq!(seen[1].text, "two");
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let mut device = Device(vec![Err(std::io::Error::from_raw_os_error(libc::EPERM))]);
        let error = read_from(&mut device, |_| {}).unwrap_err();
        assert!(refused(Path::new(DEVICE), &error).contains("CAP_SYSLOG"));
    }

    #[test]
    fn a_record_is_taken_apart() {
        let record = parse("13,7,1500000,c,caller=T1;forged\n").unwrap();
        assert_eq!((record.level, record.facility, record.seq, record.usec), (5, 1, 7, 1_500_000));
        assert!(record.continuation);
        assert_eq!(wall(record.usec, 1_000), Timestamp(1_500_001_000));
        assert_eq!(parse("no record"), None);
    }

    #[test]
    fn escapes_are_decoded_once() {
        assert_eq!(unescape(r"a\x0ab\x5cx41\xff\x\x+1"), "a\nb\\x41\u{fffd}\\x\\x+1");
    }
}
