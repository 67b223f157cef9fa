//! One run of one tool: from its start to its end, with its output kept.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{procfs, subjects::Subject};
use crate::process;

const POLL: Duration = Duration::from_micros(200);
/// bpftrace compiles first, and under emulation that takes its time.
const PATIENCE: Duration = Duration::from_mins(3);

pub struct Tool {
    child: Child,
    start: Instant,
    output: PathBuf,
}

impl Tool {
    pub fn start(subject: &Subject, ctrace: &Path, output: &Path) -> Result<Self> {
        let Some((program, arguments)) = subject.command.split_first() else { bail!("no command") };
        let program = match *program {
            "ctrace" => ctrace.to_owned(),
            other => process::find(other).with_context(|| format!("{other} isn't there"))?,
        };
        let out = File::create(output)?;
        let mut tool = Command::new(program);
        tool.args(arguments).stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out);
        let start = Instant::now();
        let child = tool.spawn().with_context(|| format!("cannot run {}", subject.name))?;
        Ok(Self { child, start, output: output.to_owned() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How many attachments it has once nothing changes any more: what the timed runs wait for.
    pub fn attachments_at_rest(&mut self, quiet: Duration) -> Result<usize> {
        let (mut count, mut since) = (0, Instant::now());
        while count == 0 || since.elapsed() < quiet {
            let now = procfs::attachments(self.pid());
            if now != count {
                (count, since) = (now, Instant::now());
            }
            self.still_there()?;
            thread::sleep(Duration::from_millis(5));
        }
        Ok(count)
    }

    /// From its start to the last of so many attachments.
    pub fn attached(&mut self, count: usize) -> Result<Duration> {
        loop {
            if procfs::attachments(self.pid()) >= count {
                return Ok(self.start.elapsed());
            }
            self.still_there()?;
            thread::sleep(POLL);
        }
    }

    fn still_there(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("it ended ({status}): {}", said(&self.output));
        }
        if self.start.elapsed() > PATIENCE {
            bail!("it attached nothing in {} s: {}", PATIENCE.as_secs(), said(&self.output));
        }
        Ok(())
    }

    /// Until it has worked off what it was sent: less than 1 % of a processor, but no longer than 10 s.
    pub fn settle(&self) {
        const SLICE: Duration = Duration::from_millis(200);
        for _ in 0..50 {
            let before = procfs::cpu_ns(self.pid());
            thread::sleep(SLICE);
            if u128::from(procfs::cpu_ns(self.pid()) - before) < SLICE.as_nanos() / 100 {
                break;
            }
        }
    }

    /// Ends it as Ctrl-C does; everything that it said.
    pub fn stop(mut self) -> Result<String> {
        // SAFETY: our own child, not reaped yet.
        unsafe { libc::kill(self.pid() as i32, libc::SIGINT) };
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait()?.is_none() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        Ok(String::from_utf8_lossy(&fs::read(&self.output)?).into_owned())
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Why it ended, by its own words.
fn said(file: &Path) -> String {
    why(&String::from_utf8_lossy(&fs::read(file).unwrap_or_default())).to_owned()
}

/// The last line that names an error, or else the last: Python's comes after a trace, and a compiler's before a summary.
fn why(output: &str) -> &str {
    let names_it = |line: &&str| ["error:", "ERROR:", "Unable to"].iter().any(|word| line.contains(word));
    let lines = || output.lines().filter(|line| !line.trim().is_empty());
    lines().rfind(names_it).or_else(|| lines().next_back()).unwrap_or("it said nothing").trim()
}

/// What a tool's output says of events: lines about the load, and losses that it owns up to.
pub fn shown_and_lost(output: &str) -> (u64, u64) {
    let shown = output.lines().filter(|line| line.contains(super::load::NAME)).count() as u64;
    (shown, output.lines().filter_map(lost).sum())
}

/// `lost 12 events on CPU #1`, `Lost 12 events`, or ctrace's `{"type":"loss","count":12,…}`.
fn lost(line: &str) -> Option<u64> {
    if line.starts_with('{') {
        let object: serde_json::Value = serde_json::from_str(line).ok()?;
        return (object["type"] == "loss").then(|| object["count"].as_u64())?;
    }
    let mut words = line.split_whitespace().skip_while(|word| !word.eq_ignore_ascii_case("lost"));
    words.next()?;
    let count = words.next()?.parse().ok()?;
    (words.next()? == "events").then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_read_in_every_tools_words() {
        let output = "PCOMM PID\nctbench 12\nlost 5 events on CPU #1\nLost 7 events\nlost and found\n\
            {\"v\":1,\"type\":\"loss\",\"count\":3}\n{\"type\":\"event\",\"count\":9,\"comm\":\"ctbench\"}\n";
        assert_eq!(shown_and_lost(output), (2, 15));
    }

    #[test]
    fn an_error_is_found_in_what_was_said_last() {
        let bcc = "modprobe: FATAL: no kheaders\nUnable to find kernel headers.\nTraceback\n  raise\nException: Failed to compile\n";
        assert_eq!(why(bcc), "Unable to find kernel headers.");
        assert_eq!(
            why("ERROR: first\nERROR: Error attaching probe: 'kprobe:x'\n\n"),
            "ERROR: Error attaching probe: 'kprobe:x'"
        );
        assert_eq!(why("one\n  two \n\n"), "two");
        assert_eq!(why(" \n"), "it said nothing");
    }

    #[test]
    fn a_tool_that_ends_says_why() {
        let output = std::env::temp_dir().join(format!("xtask-tool-{}", std::process::id()));
        let broken = Subject {
            name: "broken",
            maker: super::super::subjects::Maker::Libbpf,
            command: &["sh", "-c", "echo why >&2; exit 3"],
            watches: &[],
            line_each: false,
        };
        let mut tool = Tool::start(&broken, Path::new(""), &output).unwrap();
        let error = tool.attached(1).unwrap_err().to_string();
        fs::remove_file(output).unwrap();
        assert!(error.contains("exit status: 3") && error.ends_with("why"), "{error}");
    }
}
