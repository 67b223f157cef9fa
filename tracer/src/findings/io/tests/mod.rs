mod devices;
mod dirty;
mod space;
mod syncs;

use bytemuck::Zeroable;
use tracer_common::{
    block::{READ, WRITE},
    copy_up::CopyUp,
    space::{EDQUOT, ENOSPC, EROFS, ON_FILE, ON_PATH, Refused},
    sync::{self, FSYNC, SLOW_NS, SYNC},
};

use super::*;
use crate::model::State;
use crate::{
    containers::Space,
    findings::fixture::{self, Host, OTHER, OTHER_CGROUP, SECOND, T, WEB, WEB_CGROUP},
    model::Process,
};

const MIB: u64 = 1 << 20;
const MS: u64 = 1_000_000;
const DISK: (u32, u32) = (8, 0);

struct Bench {
    rule: Rule,
    host: Host,
}

impl Bench {
    fn new(cgroup_version: u8) -> Self {
        let mut host = Host::new();
        host.facts.cgroup_version = cgroup_version;
        Self { rule: Rule::default(), host }
    }

    fn counts(&mut self, second: u64, counts: Counts) -> Vec<Finding> {
        let at_ns = T + second * SECOND;
        let devices = [(DISK, "sda".to_owned())].into();
        let reading = Reading::Counts(Box::new(Counts { at_ns, devices, ..counts }));
        let mut out = Vec::new();
        self.rule.reading(&reading, at_ns, &self.host.world(), &mut out);
        findings(out)
    }

    /// Of the container, once this was read.
    fn row_of_web(&mut self, reading: &Reading) -> crate::pipeline::SampleRow {
        let mut out = Vec::new();
        self.rule.reading(reading, T, &self.host.world(), &mut out);
        let own = |output| match output {
            Output::Sample(row) if row.cgroup.as_deref() == Some(WEB) => Some(*row),
            _ => None,
        };
        out.into_iter().find_map(own).expect("its row")
    }

    fn paused(&mut self, second: u64, pauses: Vec<(PauseKey, PauseTotal)>) -> Vec<Finding> {
        let host = HostDirty { threshold: Some(100_000), ratio: Some(20), ..HostDirty::default() };
        self.counts(second, Counts { pauses, host, ..Counts::default() })
    }

    /// A call is refused, and its place is found.
    fn refused(&mut self, refused: &Refused, place: Place) -> Vec<Finding> {
        let mut out = Vec::new();
        self.rule.event(&Event::FileRefused(Box::new(*refused)), &self.host.world(), &mut out);
        let asked = out.extract_if(.., |output| matches!(output, Output::Ask(_))).next();
        if let Some(Output::Ask(Question::Io(Ask::Place { wanted, .. }))) = asked {
            let reading = Reading::Place(wanted, Box::new(place));
            self.rule.reading(&reading, refused.header.time_ns, &self.host.world(), &mut out);
        }
        findings(out)
    }
}

fn findings(out: Vec<Output>) -> Vec<Finding> {
    let finding = |output| if let Output::Finding(finding) = output { Some(*finding) } else { None };
    out.into_iter().filter_map(finding).collect()
}

fn codes(findings: &[Finding]) -> Vec<(&'static str, State)> {
    findings.iter().map(|finding| (finding.code.0, finding.state.expect("a state"))).collect()
}

/// So many pauses of a process of `web`, so many ms in all, at a memory cgroup's threshold of 100 pages.
fn pauses(pid: u32, count: u64, ms: u64) -> (PauseKey, PauseTotal) {
    let who = Process { pid, tid: pid, ns_pid: Some(7), ppid: Some(1), comm: "fluentd".to_owned(), uid: Some(0) };
    let last = Control {
        at_ns: T,
        dirty: 90,
        threshold: 100,
        background: 50,
        device_dirty: 80,
        device_threshold: 95,
        bandwidth: 256,
        task_rate: 10,
        in_memcg: Some(true),
        device: "8:0".to_owned(),
    };
    let mut histogram = [0; tracer_common::dirty::BUCKETS];
    histogram[3] = count;
    let total = PauseTotal {
        who: Some(who),
        count,
        total_ns: ms * 1_000_000,
        worst_ns: ms * 1_000_000 / count,
        worst_call_ns: ms * 1_000_000,
        histogram,
        last,
    };
    (PauseKey { cgroup: WEB_CGROUP, tgid: pid, reserved: 0 }, total)
}

fn io(cgroup: u64, op: u32, count: u64, bytes: u64) -> (IoKey, IoTotal) {
    let total = IoTotal { count, bytes, device_ns: count * 1_000_000, ..IoTotal::default() };
    (IoKey { cgroup, major: DISK.0, minor: DISK.1, op, reserved: 0 }, total)
}
