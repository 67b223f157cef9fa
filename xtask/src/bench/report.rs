//! docs/bench.md: a section for each group, replaced by each run that measures it.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use super::{
    here::{LeftOut, Samples},
    subjects::Group,
    table,
};
use crate::{cargo, process};

const HEAD: &str = "\
# Measured against the others

`cargo xtask bench [oom|exits|signals|io|cpu|net|net-timed|net-tcp|caps|all] [--rounds N] [--vm KERNEL]` measures this again and
rewrites the sections that it measured. It installs the peers that they need (Debian's `libbpf-tools`, `bpftrace`,
`bpfcc-tools`) and `iperf3`, and asks for root. Measure on a machine that does nothing else.

* Rounds alternate between the tools: each round starts each tool, measures it, loads it and ends it. Cells show the
  median of the rounds and, in brackets, the least and the most. `→ ×N` in a peer's column: ctrace's median is N times the
  peer's, so less than 1 is in ctrace's favour.
* *Start to attached*: from the start of the process until it holds as many BPF links and perf events as it does at rest,
  seen for every tool in the same way, in /proc/PID/fd.
* *Resident*, *peak*: VmRSS two seconds later, VmHWM then and after the load.
* *Kernel ns*, *hits*: the kernel's own count of each program's runs and their time (`BPF_ENABLE_STATS`), of all programs
  of the tool, divided by the events sent. Both contain the machine's other events of the kind. The counting itself is
  within. *Per hit* is of all hits while that load ran.
* *CPU ns*: time of all threads of the tool on a processor, in its own code and in the kernel for it, divided by the
  events sent. All write to a file.
* The load: 20,000 children a second that share their parent's memory and end at once; 20,000 signals a second to a
  process that ignores them; 20 OOM kills a second in a cgroup with a limit of 16 MiB; 20,000 direct writes of 4 KiB, one
  after the other, to a loop device in memory; 400,000 wake-ups of two processes that wake each other through pipes, as
  fast as they can; 200,000 UDP packets of 64 bytes at 100,000 a second, out of a container's device through a veth pair;
  400,000 of them as fast as they can be sent, timed by the time that this takes sender and receiver on a processor,
  without the kernel's count of programs: what is not in a program (the record that a perf tracepoint makes, the slow way
  out of a call) is in this one alone. The receiver takes what is there every half a millisecond: asleep in its call it would
  be woken the more often the slower the sender is, which takes most of the time; 1,000,000 capability checks of one process of a container (`prctl(PR_CAPBSET_DROP)`
  of no capability), timed by the time that this takes it on a processor, without the kernel's count of programs.
* TCP of a container, through the same pair, each end on a CPU of its own: a stream of 2 s (`iperf3`), then 20,000
  transactions, one after the other, of a byte there and a byte back (TCP_NODELAY; what netperf calls TCP_RR) with the
  time that they take both ends on a processor, without the kernel's count of programs. For each tool ten pairs of runs,
  one without any tool and one with it, back to back, which of them comes first alternating; shares and differences are of
  each pair, and cells show the median of the ten. The peer that counts packets, which the goals are against, is
  *bpftrace, by device*; *drops* counts `skb:kfree_skb` by reason and place, and *sent again* prints what tcpretrans.bt
  does, from `tcp:tcp_retransmit_skb`: neither has much to do where nothing is lost. *nobody* is pairs of which both runs
  are without a tool: what differs there is noise.
* Of the tools of others for TCP: bcc's tcpdrop and tcpretrans are compiled with the kernel's headers when they start, and
  tcpdrop.bt includes them; *by BTF* is tcpdrop.bt without these lines. tcpretrans.bt needs kprobes. Debian's libbpf-tools
  have neither.
* In the virtual machine QEMU counts instructions (`-icount`) and its clock goes by them, one a nanosecond: what the
  kernel takes for time is the number of instructions run, whatever the host is.
";

/// The section of one group: what was measured on which machine, and what wasn't.
pub fn section(group: &Group, found: &(Samples, LeftOut), machine: &str) -> String {
    let (samples, left_out) = found;
    let (table, goals) = (table::table(group, samples), table::goals(group, samples));
    let left_out = match left_out_text(left_out) {
        names if names.is_empty() => names,
        names => format!("Left out, because it didn't run there: {names}.\n\n"),
    };
    format!("## {}\n\n{machine}.\n\n{table}\n{left_out}{goals}", group.title)
}

/// The tools of each reason, together.
fn left_out_text(left_out: &LeftOut) -> String {
    let mut of_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, why) in left_out {
        of_reason.entry(why.trim_end_matches('.')).or_default().push(name);
    }
    let texts: Vec<String> = of_reason.iter().map(|(why, names)| format!("{} ({why})", names.join(" and "))).collect();
    texts.join("; ")
}

/// Replaces the section of the same title, or adds it at the end.
pub fn replace(document: &str, section: &str) -> String {
    let title = section.lines().next().unwrap_or_default();
    let mut parts: Vec<String> =
        document.split("\n## ").skip(1).map(|part| format!("## {}", part.trim_end())).collect();
    match parts.iter_mut().find(|part| part.lines().next() == Some(title)) {
        Some(part) => section.trim_end().clone_into(part),
        None => parts.push(section.trim_end().to_owned()),
    }
    format!("{HEAD}\n{}\n", parts.join("\n\n"))
}

pub fn write(sections: &[String]) -> anyhow::Result<()> {
    let file = cargo::workspace().join("docs/bench.md");
    let mut document = fs::read_to_string(&file).unwrap_or_default();
    for section in sections {
        document = replace(&document, section);
    }
    fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
    fs::write(&file, document)?;
    eprintln!("written to docs/bench.md");
    Ok(())
}

/// What was measured with what, when.
pub fn machine(kernel: &str, emulated: bool, packages: &[&str]) -> String {
    let said = |command: &mut Command| process::output(command).map(|text| text.trim().to_owned()).unwrap_or_default();
    let revision = said(Command::new("git").args(["rev-parse", "--short", "HEAD"]).current_dir(cargo::workspace()));
    let versions = said(Command::new("dpkg-query").args(["-W", "-f", "${Package} ${Version}; "]).args(packages));
    let day = said(Command::new("date").arg("+%F"));
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("").trim_matches([' ', '\t', ':']);
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let processor = if emulated { "QEMU (TCG), 1 processor".to_owned() } else { format!("{count} × {model}") };
    format!("{day}, ctrace at {revision}; {versions} Linux {kernel}; {processor}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_that_lack_the_same_are_named_together() {
        let of = |name: &str, why: &str| (name.to_owned(), why.to_owned());
        let left_out = LeftOut::from([of("a", "no headers."), of("b", "no kprobes"), of("c", "no headers.")]);
        assert_eq!(left_out_text(&left_out), "a and c (no headers); b (no kprobes)");
        assert_eq!(left_out_text(&LeftOut::new()), "");
    }

    #[test]
    fn a_section_replaces_its_former_self_only() {
        let first = replace("", "## A\n\none\n");
        let both = replace(&first, "## B\n\ntwo\n");
        assert_eq!(both, format!("{HEAD}\n## A\n\none\n\n## B\n\ntwo\n"));
        assert_eq!(replace(&both, "## A\n\nthree\n"), format!("{HEAD}\n## A\n\nthree\n\n## B\n\ntwo\n"));
    }
}
