//! What the rules' tests share: a world of one pod, one container and the host, tasks, and a fixed clock.

use bytemuck::Zeroable;
use tracer_common::{Header, Kind, Record, signal::Signal, task::Exit, task::Task};

use super::{HostFacts, World};
use crate::{
    containers::{Seen, Table},
    events::Event,
};

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1_000_000_000;
/// When the tests happen: late enough that nothing before it is below 0.
pub const T: u64 = 1_000 * SECOND;

pub const HOST_CGROUP: u64 = 1;
pub const PARENT_CGROUP: u64 = 2;
pub const WEB_CGROUP: u64 = 3;
pub const OTHER_CGROUP: u64 = 4;
pub const PARENT: &str = "/pods";
pub const WEB: &str = "/pods/docker/a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1";
pub const OTHER: &str = "/docker/b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2";

pub const HOST_PIDNS: u32 = 4_026_531_836;
pub const WEB_PIDNS: u32 = 4_026_532_001;

pub const SIGHUP: u32 = 1;
pub const SIGINT: u32 = 2;
pub const SIGQUIT: u32 = 3;
pub const SIGABRT: u32 = 6;
pub const SIGKILL: u32 = 9;
pub const SIGSEGV: u32 = 11;
pub const SIGPIPE: u32 = 13;
pub const SIGTERM: u32 = 15;
pub const SIGCHLD: u32 = 17;
pub const SIGSTOP: u32 = 19;
pub const SIGWINCH: u32 = 28;

/// `si_code`.
pub const SI_USER: i32 = 0;
pub const SI_TKILL: i32 = -6;
pub const SI_KERNEL: i32 = 0x80;
pub const SEGV_MAPERR: i32 = 1;

pub struct Host {
    pub containers: Table,
    pub facts: HostFacts,
}

impl Host {
    pub fn new() -> Self {
        let mut containers = Table::default();
        let seen = [(HOST_CGROUP, "/"), (PARENT_CGROUP, PARENT), (WEB_CGROUP, WEB), (OTHER_CGROUP, OTHER)];
        containers.seed(seen.map(|(id, path)| Seen { id, path: path.to_owned() }), 0);
        let facts = HostFacts {
            page_bytes: 4096,
            cgroup_version: 2,
            attached: vec![
                "oom_decision",
                "oom_done",
                "oom_victim",
                "oom_sharer",
                "exit",
                "signal",
                "block_issue",
                "block_complete",
                "dirty_pause",
            ],
            cpus: 2,
            began_later: false,
        };
        Self { containers, facts }
    }

    pub fn world(&self) -> World<'_> {
        World { containers: &self.containers, host: &self.facts, boot_to_wall_ns: 0, now_ns: T }
    }
}

pub fn header<R: Record>(time_ns: u64, cgroup: u64) -> Header {
    Header { kind: R::KIND as u32, size: size_of::<R>() as u32, time_ns, cgroup }
}

/// A process of the host.
pub fn host_task(pid: u32, name: &str) -> Task {
    let mut task = Task::zeroed();
    (task.tgid, task.tid, task.ns_pid, task.ns_level) = (pid, pid, pid, 0);
    (task.ppid, task.init, task.pidns) = (1, 1, HOST_PIDNS);
    task.start_ns = T - 100 * SECOND + u64::from(pid);
    task.comm[..name.len()].copy_from_slice(name.as_bytes());
    task
}

/// A process of the container `WEB`, in whose pid namespace 500 is PID 1.
pub fn web_task(pid: u32, name: &str) -> Task {
    let mut task = host_task(pid, name);
    (task.ns_pid, task.ns_level) = (pid - 499, 1);
    (task.ppid, task.init, task.pidns) = (500, 500, WEB_PIDNS);
    task
}

/// A signal that a process sent and that was queued.
pub fn signal(time_ns: u64, number: u32, sender: Task, target: Task) -> Signal {
    let mut record = Signal::zeroed();
    let inside = |task: &Task| if task.ns_level > 0 { WEB_CGROUP } else { HOST_CGROUP };
    record.header = header::<Signal>(time_ns, inside(&target));
    record.sender_cgroup = inside(&sender);
    (record.signal, record.code, record.total) = (number, SI_USER, 1);
    record.address = u64::MAX;
    record.unkillable = u32::from(target.ns_pid == 1);
    (record.sender, record.target) = (sender, target);
    record
}

/// How a process ended, as `wait(2)` gives it.
pub fn exit(time_ns: u64, task: Task, status: u32) -> Exit {
    let mut record = Exit::zeroed();
    record.header = header::<Exit>(time_ns, if task.ns_level > 0 { WEB_CGROUP } else { HOST_CGROUP });
    (record.task, record.status) = (task, status);
    record
}

pub fn sent(record: Signal) -> Event {
    Event::Signal(Box::new(record))
}

#[test]
fn the_world_is_as_its_names_say() {
    let host = Host::new();
    assert_eq!(host.containers.owner(WEB_CGROUP).map(|container| container.cgroup.clone()).as_deref(), Some(WEB));
    assert_eq!(host.containers.owner(OTHER_CGROUP).map(|container| container.cgroup.clone()).as_deref(), Some(OTHER));
    assert_eq!(host.containers.owner(HOST_CGROUP), None);
    assert_eq!(header::<Exit>(T, 1).kind, Kind::Exit as u32);
}
