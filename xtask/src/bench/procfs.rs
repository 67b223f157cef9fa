//! What /proc tells of a running tool: its BPF programs, what it has attached, memory and time.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};

/// A program that the tool holds a descriptor of, with the kernel's count of its runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    pub run_time_ns: u64,
    pub run_cnt: u64,
    /// Instructions that the verifier walked through (since 5.16).
    pub verified_insns: u64,
}

/// All of a tool's programs, as one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Programs {
    pub run_time_ns: u64,
    pub run_cnt: u64,
    pub verified_insns: u64,
}

/// The program that a descriptor's fdinfo is about: its id and counts. A link's fdinfo names an id as well, but no type.
fn program(fdinfo: &str) -> Option<(u64, Program)> {
    let field = |name: &str| {
        let line = fdinfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line?.trim().parse::<u64>().ok()
    };
    field("prog_type")?;
    let program = Program {
        run_time_ns: field("run_time_ns").unwrap_or(0),
        run_cnt: field("run_cnt").unwrap_or(0),
        verified_insns: field("verified_insns").unwrap_or(0),
    };
    Some((field("prog_id")?, program))
}

/// Sums over programs, however many descriptors of each there are.
fn sum<'a>(fdinfos: impl Iterator<Item = &'a str>) -> Programs {
    let programs: BTreeMap<u64, Program> = fdinfos.filter_map(program).collect();
    programs.values().fold(Programs::default(), |sum, program| Programs {
        run_time_ns: sum.run_time_ns + program.run_time_ns,
        run_cnt: sum.run_cnt + program.run_cnt,
        verified_insns: sum.verified_insns + program.verified_insns,
    })
}

pub fn programs(pid: u32) -> Programs {
    let fdinfos: Vec<String> = files(&format!("/proc/{pid}/fdinfo")).collect();
    sum(fdinfos.iter().map(String::as_str))
}

/// Links and perf events that are open: the same way to see for every tool how far it has got.
pub fn attachments(pid: u32) -> usize {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.filter(|target| is_attachment(&target.to_string_lossy())).count()
}

fn is_attachment(target: &str) -> bool {
    ["anon_inode:bpf_link", "anon_inode:bpf-link", "anon_inode:[perf_event]"].contains(&target)
}

/// Resident memory now and at its peak, in MB (of a million bytes).
pub fn memory(pid: u32) -> Result<(f64, f64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the tool has ended")?;
    let field = |name| megabytes(&status, name).with_context(|| format!("no {name} in /proc/PID/status"));
    Ok((field("VmRSS")?, field("VmHWM")?))
}

fn megabytes(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? * 1024.0 / 1e6)
}

/// Nanoseconds on a processor, of all threads: in their own code and in the kernel on their behalf.
pub fn cpu_ns(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok());
    texts.filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok()).sum()
}

fn files(folder: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read_to_string(entry.path()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: &str = "pos:\t0\nflags:\t02000002\nmnt_id:\t17\nino:\t2077\nprog_type:\t17\nprog_jited:\t1\n\
        prog_tag:\t0d5e\nmemlock:\t4096\nprog_id:\t165\nrun_time_ns:\t1200\nrun_cnt:\t10\nrecursion_misses:\t0\n\
        verified_insns:\t649\n";
    const LINK: &str = "pos:\t0\nlink_type:\traw_tracepoint\nlink_id:\t7\nprog_tag:\t0d5e\nprog_id:\t165\n";
    const MAP: &str = "pos:\t0\nmap_type:\t27\nmap_id:\t3\n";

    #[test]
    fn each_program_counts_once() {
        let other = PROGRAM.replace("165", "166").replace("1200", "300");
        let all = [PROGRAM, LINK, MAP, PROGRAM, &other];
        assert_eq!(sum(all.into_iter()), Programs { run_time_ns: 1500, run_cnt: 20, verified_insns: 1298 });
    }

    #[test]
    fn old_kernels_count_nothing() {
        let old = "prog_type:\t5\nprog_id:\t3\n";
        assert_eq!(program(old), Some((3, Program { run_time_ns: 0, run_cnt: 0, verified_insns: 0 })));
        assert_eq!(program(LINK), None);
        assert_eq!(program(""), None);
    }

    #[test]
    fn memory_is_read_in_megabytes() {
        let status = "Name:\tx\nVmHWM:\t   10000 kB\nVmRSS:\t    5000 kB\n";
        assert_eq!(megabytes(status, "VmRSS"), Some(5.12));
        assert_eq!(megabytes(status, "VmSwap"), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let own = std::process::id();
        assert!(memory(own).is_ok_and(|(steady, peak)| steady > 0.5 && peak >= steady));
        assert_eq!(attachments(own), 0);
        assert_eq!(programs(own), Programs::default());
    }
}
