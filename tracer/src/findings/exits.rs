//! Exits: every death and its cause, by joining it with the OOM decision, the signal, or the end of PID 1.

mod explain;

use std::collections::{HashMap, VecDeque};

use serde_json::{Map, Value, json};
use tracer_common::{signal::Signal, task::Exit};

pub use explain::EXPLAINED;

use super::{World, oom, signals};
use crate::{
    events::{Event, identity, is_init, known64, process},
    model::{Code, Evidence, Finding, Severity, Unknown, signal_name},
    pipeline::{Ancestor, EventRow},
};

const SIGKILL: u32 = 9;
/// What a runtime sends to ask PID 1 to end: HUP, INT, QUIT, TERM, PWR, RTMIN+3 (systemd).
const STOP_SIGNALS: [u32; 6] = [1, 2, 3, 15, 30, 37];
/// ILL, TRAP, ABRT, BUS, FPE, SEGV, SYS.
const OWN_FAULTS: [u32; 7] = [4, 5, 6, 7, 8, 11, 31];
/// What asks on behalf of somebody else: whose parents are worth showing.
const RUNTIMES: [&str; 9] = ["runc", "crun", "youki", "docker", "podman", "conmon", "containerd", "crio", "lxc-"];
const KILLERS: [&str; 4] = ["systemd-oomd", "earlyoom", "kubelet", "nohang"];
/// A death by signal waits this long for what explains it: the answer about who is behind the sender.
const WAIT_NS: u64 = 20_000_000;
/// A dead PID 1's processes die within this.
const INIT_WAIT_NS: u64 = 300_000_000;
/// A SIGKILL this long after the stop signal is the end of a grace time.
const GRACE_NS: u64 = 1_000_000_000;
/// … and this long after it, it is another story.
const GRACE_MOST_NS: u64 = 600_000_000_000;
/// Signals are remembered this long, of so many processes.
const REMEMBER_NS: u64 = 600_000_000_000;
const REMEMBERED: usize = 4096;
/// PID 1 ended so often within this: a restart loop.
const LOOP_NS: u64 = 600_000_000_000;
const LOOP: usize = 3;

/// A death that is not told yet.
#[derive(Debug)]
struct Pending {
    exit: Exit,
    due_ns: u64,
}

/// PID 1 that died, and who died with it.
#[derive(Debug)]
struct DeadInit {
    exit: Exit,
    number: u64,
    with: u64,
    names: Vec<String>,
    due_ns: u64,
}

/// Who stands behind a process is asked again after so long.
const FRESH_NS: u64 = 10_000_000_000;

/// Joins deaths with their causes.
#[derive(Default)]
pub struct Rule {
    oom: oom::Rule,
    /// Fatal and stop signals by target (pid, start), oldest first.
    signals: HashMap<(u32, u64), VecDeque<Box<Signal>>>,
    order: VecDeque<((u32, u64), u64)>,
    /// Who stands behind a process: what was asked and answered, and when.
    ancestry: HashMap<u32, (u64, Vec<Ancestor>)>,
    pending: VecDeque<Pending>,
    /// (pid, start) told lately: two threads may both have been the last.
    told: VecDeque<(u32, u64)>,
    inits: Vec<DeadInit>,
    /// When PID 1 of a container ended, by what a person calls it.
    restarts: HashMap<String, VecDeque<u64>>,
    numbers: u64,
}

/// What a step gives.
#[derive(Default)]
pub struct Told {
    pub rows: Vec<EventRow>,
    pub findings: Vec<Finding>,
    /// Processes whose parents are to be read.
    pub ask: Vec<u32>,
}

/// Why a process ended.
struct Cause<'a> {
    kind: &'static str,
    by: Option<&'a Signal>,
    finding: Option<String>,
}

impl Rule {
    pub fn event(&mut self, event: &Event, world: &World) -> Told {
        self.oom.event(event, world);
        let mut told = Told::default();
        match event {
            Event::Signal(record) => self.signal(record, world, &mut told),
            Event::Exit(exit) => self.exit(exit, world),
            _ => {}
        }
        told
    }

    pub fn ancestry(&mut self, pid: u32, ancestors: &[Ancestor], now_ns: u64) {
        if self.ancestry.len() > REMEMBERED {
            self.ancestry.clear();
        }
        self.ancestry.insert(pid, (now_ns, ancestors.to_vec()));
    }

    pub fn tick(&mut self, now_ns: u64, world: &World) -> Told {
        let mut told = Told::default();
        while self.pending.front().is_some_and(|pending| pending.due_ns <= now_ns) {
            let Some(pending) = self.pending.pop_front() else { break };
            self.tell(&pending.exit, world, &mut told);
        }
        let (ripe, waiting): (Vec<DeadInit>, Vec<DeadInit>) =
            std::mem::take(&mut self.inits).into_iter().partition(|init| init.due_ns <= now_ns);
        self.inits = waiting;
        told.findings.extend(ripe.iter().filter(|init| init.with > 0).map(|init| init_died(init, world)));
        told.findings.extend(self.oom.tick(now_ns, world));
        while self.order.front().is_some_and(|(_, at)| now_ns.saturating_sub(*at) > REMEMBER_NS)
            || self.order.len() > REMEMBERED
        {
            if let Some((target, _)) = self.order.pop_front() {
                self.signals.remove(&target);
            }
        }
        told
    }

    pub fn next_ns(&self) -> Option<u64> {
        let pending = self.pending.front().map(|pending| pending.due_ns);
        let init = self.inits.iter().map(|init| init.due_ns).min();
        [pending, init, self.oom.next_ns()].into_iter().flatten().min()
    }

    fn signal(&mut self, record: &Signal, world: &World, told: &mut Told) {
        let target = identity(&record.target);
        if !self.signals.contains_key(&target) {
            self.order.push_back((target, record.header.time_ns));
        }
        let of_target = self.signals.entry(target).or_default();
        // A flood of one kind must not push the stop signal out.
        if of_target.len() >= 16 {
            of_target.remove(8);
        }
        of_target.push_back(Box::new(*record));
        let inside = world.containers.owner(record.header.cgroup);
        let now_ns = record.header.time_ns;
        // Later that pid may be another's.
        let fresh = |pid| self.ancestry.get(&pid).is_some_and(|(at_ns, _)| now_ns.saturating_sub(*at_ns) < FRESH_NS);
        if signals::by_process(record)
            && inside.is_some()
            && world.containers.owner(record.sender_cgroup) != inside
            && !fresh(record.sender.tgid)
        {
            // runc is gone in a moment, or already; its parent is not.
            told.ask.push(record.sender.tgid);
            if is_runtime(&process(&record.sender).comm) && !fresh(record.sender.ppid) {
                told.ask.push(record.sender.ppid);
            }
        }
    }

    fn exit(&mut self, exit: &Exit, _: &World) {
        let who = identity(&exit.task);
        if self.told.contains(&who) {
            return;
        }
        self.told.push_back(who);
        if self.told.len() > 256 {
            self.told.pop_front();
        }
        let now = exit.header.time_ns;
        if is_init(&exit.task) {
            self.numbers += 1;
            self.inits.push(DeadInit {
                exit: *exit,
                number: self.numbers,
                with: 0,
                names: Vec::new(),
                due_ns: now.saturating_add(INIT_WAIT_NS),
            });
        }
        let by_signal = exit.status & 0x7f;
        let wait = if by_signal == 0 { 0 } else { WAIT_NS };
        // In the order of their deaths, whichever waits: the first in line decides.
        let due_ns =
            self.pending.back().map_or(now.saturating_add(wait), |last| last.due_ns.max(now.saturating_add(wait)));
        self.pending.push_back(Pending { exit: *exit, due_ns });
    }

    fn tell(&mut self, exit: &Exit, world: &World, told: &mut Told) {
        let seen = self.signals.remove(&identity(&exit.task)).unwrap_or_default();
        let status = exit.status;
        let signal = status & 0x7f;
        let mut unknown = Unknown::new();
        let cause = self.cause(exit, signal, &seen, &mut unknown);
        let via = cause.by.map(|by| self.via(by, world)).unwrap_or_default();
        let by = cause.by.filter(|by| signals::by_process(by) || cause.kind == "init-died");
        let fault = fault_of(&seen, signal);
        let container = world.containers.owner(exit.header.cgroup);
        let victim = process(&exit.task);
        let mut found = cause.finding.clone();

        let mut findings = self.findings(exit, signal, &cause, by, &via, &seen, world);
        if found.is_none() {
            found = findings.first().map(|finding| finding.id.clone());
        }
        let mut fields = Map::new();
        let sum = |ns: u64| (ns < u64::MAX / 2).then_some(ns);
        for (key, value) in [
            ("lifetime_ns", json!(known64(exit.task.start_ns).map(|start| exit.header.time_ns.saturating_sub(start)))),
            ("exit_code", json!((signal == 0).then_some(status >> 8 & 0xff))),
            ("signal", json!((signal != 0).then(|| signal_name(signal)))),
            ("core", json!(status & 0x80 != 0)),
            (
                "cause",
                json!({"kind": cause.kind, "by": by.map(|by| signals::sender_json_of(by, world)), "via": via, "finding": found}),
            ),
            ("utime_ns", json!(sum(exit.utime_ns))),
            ("stime_ns", json!(sum(exit.stime_ns))),
            (
                "peak_rss_bytes",
                json!(known64(exit.peak_rss_pages).map(|pages| pages.saturating_mul(world.host.page_bytes))),
            ),
            (
                "fault_address",
                json!(fault.and_then(|fault| known64(fault.address)).map(|address| format!("{address:#x}"))),
            ),
        ] {
            fields.insert(key.to_owned(), value);
        }
        told.rows.push(EventRow {
            time: world.at(exit.header.time_ns),
            event: "exit",
            cgroup: world.containers.path(exit.header.cgroup).map(ToString::to_string),
            container,
            process: Some(victim),
            fields,
            unknown,
        });
        told.findings.append(&mut findings);
    }

    fn cause<'a>(
        &mut self,
        exit: &Exit,
        signal: u32,
        seen: &'a VecDeque<Box<Signal>>,
        unknown: &mut Unknown,
    ) -> Cause<'a> {
        if signal == 0 {
            return Cause { kind: "status", by: None, finding: None };
        }
        if signal == SIGKILL
            && let Some((finding, _)) = self.oom.killed_by(&exit.task)
        {
            return Cause { kind: "oom", by: None, finding: Some(finding) };
        }
        // The first that ends it decides; what comes later finds it dying.
        let fatal: Option<&Signal> =
            seen.iter().map(AsRef::as_ref).find(|record| record.signal == signal && record.result != 1);
        let own_init =
            self.inits.iter_mut().find(|init| init.exit.task.pidns == exit.task.pidns && !is_init(&exit.task));
        let by_kernel = fatal.is_none_or(|record| !signals::by_process(record));
        if signal == SIGKILL
            && by_kernel
            && exit.task.init_exiting == 1
            && let Some(init) = own_init
        {
            init.with += 1;
            if init.names.len() < 8 {
                init.names.push(process(&exit.task).comm);
            }
            return Cause { kind: "init-died", by: fatal, finding: Some(init_id(init.number)) };
        }
        let Some(fatal) = fatal else {
            unknown.insert("cause", "who sent the signal was not seen (before attach, or lost)".to_owned());
            return Cause { kind: "signal", by: None, finding: None };
        };
        let itself = signals::by_process(fatal) && fatal.sender.tgid == exit.task.tgid;
        if OWN_FAULTS.contains(&signal) && (itself || !signals::by_process(fatal)) {
            return Cause { kind: "crash", by: None, finding: None };
        }
        Cause { kind: "signal", by: Some(fatal), finding: None }
    }

    /// Behind a sender outside the container: its parents, and the engine. Short: `runc ← containerd-shim ← dockerd`.
    fn via(&self, by: &Signal, world: &World) -> Vec<Value> {
        if !is_runtime(&process(&by.sender).comm) {
            return Vec::new();
        }
        // Nothing was found of one that was gone.
        let found =
            |pid| self.ancestry.get(&pid).map(|(_, ancestors)| ancestors).filter(|ancestors| !ancestors.is_empty());
        let Some(ancestors) = found(by.sender.tgid).or_else(|| found(by.sender.ppid)) else {
            return Vec::new();
        };
        ancestors
            .iter()
            .filter(|ancestor| ancestor.process.pid != by.sender.tgid)
            .map(|ancestor| {
                let owner = ancestor.cgroup.as_deref().and_then(|cgroup| world.containers.owner_of_path(cgroup));
                json!({"process": ancestor.process, "container": owner})
            })
            .collect()
    }

    #[expect(clippy::too_many_arguments, reason = "one death and all that was found out about it")]
    fn findings(
        &mut self,
        exit: &Exit,
        signal: u32,
        cause: &Cause,
        by: Option<&Signal>,
        via: &[Value],
        seen: &VecDeque<Box<Signal>>,
        world: &World,
    ) -> Vec<Finding> {
        let victim = process(&exit.task);
        let restarts = self.restarts(exit, world);
        let again =
            if restarts >= LOOP { format!("; PID 1 ended {restarts} times in 10 minutes") } else { String::new() };
        let name = signal_name(signal);
        let mut findings = Vec::new();
        let mut add = |rule: &mut Self,
                       code: &'static str,
                       severity,
                       summary: String,
                       why: String,
                       fix: Vec<String>,
                       more: Vec<(&str, Value)>| {
            rule.numbers += 1;
            let mut evidence = Evidence::new();
            evidence.insert("exit_code".to_owned(), json!((signal == 0).then_some(exit.status >> 8 & 0xff)));
            evidence.insert("signal".to_owned(), json!((signal != 0).then(|| name.clone())));
            evidence.insert("by".to_owned(), json!(by.map(|by| signals::sender_json_of(by, world))));
            evidence.insert("via".to_owned(), json!(via));
            evidence.insert("init_exits".to_owned(), json!(restarts));
            evidence
                .insert("cgroup".to_owned(), json!(world.containers.path(exit.header.cgroup).map(ToString::to_string)));
            evidence.extend(more.into_iter().map(|(key, value)| (key.to_owned(), value)));
            findings.push(Finding {
                code: Code(code),
                severity,
                id: format!("exit-{}", rule.numbers),
                state: None,
                time: world.at(exit.header.time_ns),
                container: world.containers.owner(exit.header.cgroup),
                process: Some(victim.clone()),
                summary: summary + &again,
                evidence,
                why,
                fix,
                refers_to: None,
                unknown: Unknown::new(),
            });
        };
        let who = format!("{} (pid {})", victim.comm, victim.pid);
        match (cause.kind, by) {
            ("signal", Some(by)) if by.sender.tgid != exit.task.tgid => {
                let (sender, _) = signals::sender(by, world);
                let behind: Vec<&str> = via.iter().filter_map(|via| via["process"]["comm"].as_str()).collect();
                let behind = if behind.is_empty() { String::new() } else { format!(" for {}", behind.join(" ← ")) };
                add(
                    self,
                    "exit.signal",
                    Severity::Warning,
                    format!("{who} was killed by {name} from {sender}{behind}"),
                    "a process sent the signal; the OOM killer did not".to_owned(),
                    vec![format!("ask whoever runs {} why", process(&by.sender).comm)],
                    vec![],
                );
                let killer = process(&by.sender).comm;
                if signal == SIGKILL && KILLERS.contains(&killer.as_str()) {
                    add(
                        self,
                        "exit.killed-by-oomd",
                        Severity::Warning,
                        format!("{who} was killed by {killer}, a memory guard, not by the kernel's OOM killer"),
                        format!("{killer} acts on memory pressure, before any limit is hit"),
                        vec!["look at its limits (oomctl; earlyoom -m; kubelet --eviction-hard) and at who used the memory".to_owned()],
                        vec![],
                    );
                }
                if signal == SIGKILL
                    && is_init(&exit.task)
                    && let Some(stop) = stop_signal(seen, by)
                {
                    let grace_ns = by.header.time_ns.saturating_sub(stop.header.time_ns);
                    let stop_name = signal_name(stop.signal);
                    let handled = match (stop.result, stop.disposition) {
                        (1, 0) => "it has no handler for it, and the kernel drops such a signal to PID 1",
                        (_, 2) => "its handler did not end it in time",
                        _ => "it did not end in time",
                    };
                    add(
                        self,
                        "exit.stop-timeout",
                        Severity::Warning,
                        format!("PID 1 {} did not obey {stop_name}: killed {:.1} s later", victim.comm, grace_ns as f64 / 1e9),
                        handled.to_owned(),
                        vec![
                            format!("handle {stop_name} in PID 1, exec the program in the entrypoint, or run an init (docker run --init)"),
                            "or raise the grace time, if ending really takes so long (docker stop -t, terminationGracePeriodSeconds)".to_owned(),
                        ],
                        vec![("grace_ns", json!(grace_ns)), ("stop_signal", json!(stop_name))],
                    );
                }
            }
            ("crash", _) => {
                let fault = fault_of(seen, signal);
                let touches = matches!(signal, 7 | 11);
                let address = fault.and_then(|fault| known64(fault.address)).filter(|_| touches);
                let at = address.map_or_else(String::new, |address| format!(" at address {address:#x}"));
                add(
                    self,
                    "exit.crash",
                    Severity::Warning,
                    format!("{who} crashed with {name}{at}"),
                    if exit.status & 0x80 == 0 {
                        "a fault of its own; no core was written"
                    } else {
                        "a fault of its own; a core was written"
                    }
                    .to_owned(),
                    vec!["get a core and its backtrace (coredumpctl gdb; ulimit -c in the container)".to_owned()],
                    if touches {
                        vec![("fault_address", json!(address.map(|address| format!("{address:#x}"))))]
                    } else {
                        vec![]
                    },
                );
                if touches
                    && address.is_none()
                    && let Some(crash) = findings.last_mut()
                {
                    crash.unknown.insert("fault_address", "the kernel gives none with this fault".to_owned());
                }
            }
            ("status", _) if exit.status >> 8 & 0xff != 0 => {
                let code = exit.status >> 8 & 0xff;
                let hint = match code {
                    126 => " (the program could not be executed)".to_owned(),
                    127 => " (the program was not found)".to_owned(),
                    129..=192 => format!(" (a shell's way to say that its child died of {})", signal_name(code - 128)),
                    _ => String::new(),
                };
                add(
                    self,
                    "exit.error",
                    Severity::Info,
                    format!("{who} ended with status {code}{hint}"),
                    "its own decision: no signal was involved".to_owned(),
                    vec!["its own log says why".to_owned()],
                    vec![],
                );
            }
            _ => {}
        }
        findings
    }

    /// How often PID 1 of this container, as a person calls it, ended lately, this time too.
    fn restarts(&mut self, exit: &Exit, world: &World) -> usize {
        let Some(container) = world.containers.owner(exit.header.cgroup).filter(|_| is_init(&exit.task)) else {
            return 0;
        };
        if self.restarts.len() > REMEMBERED {
            self.restarts.clear();
        }
        let times = self.restarts.entry(container.label()).or_default();
        times.push_back(exit.header.time_ns);
        while times.front().is_some_and(|at| exit.header.time_ns.saturating_sub(*at) > LOOP_NS) || times.len() > 1000 {
            times.pop_front();
        }
        times.len()
    }
}

/// The fault that the kernel raised this signal for (`SI_KERNEL` tells of none).
fn fault_of(seen: &VecDeque<Box<Signal>>, signal: u32) -> Option<&Signal> {
    const SI_KERNEL: i32 = 0x80;
    let raised = |record: &&Signal| record.signal == signal && record.code > 0 && record.code != SI_KERNEL;
    seen.iter().rev().map(AsRef::as_ref).find(raised)
}

/// The last stop signal that went before a SIGKILL, at least the shortest grace time earlier: one long before it was a
/// reload.
fn stop_signal<'a>(seen: &'a VecDeque<Box<Signal>>, kill: &Signal) -> Option<&'a Signal> {
    seen.iter().rev().map(AsRef::as_ref).find(|record| {
        let before = kill.header.time_ns.saturating_sub(record.header.time_ns);
        STOP_SIGNALS.contains(&record.signal)
            && signals::by_process(record)
            && record.sender.pidns != record.target.pidns
            && (GRACE_NS..GRACE_MOST_NS).contains(&before)
    })
}

fn init_died(init: &DeadInit, world: &World) -> Finding {
    let own = process(&init.exit.task);
    let signal = init.exit.status & 0x7f;
    let how = if signal == 0 { format!("status {}", init.exit.status >> 8 & 0xff) } else { signal_name(signal) };
    let mut evidence = Evidence::new();
    evidence.insert("count".to_owned(), json!(init.with));
    evidence.insert("commands".to_owned(), json!(init.names));
    evidence.insert("init".to_owned(), json!(own));
    evidence
        .insert("cgroup".to_owned(), json!(world.containers.path(init.exit.header.cgroup).map(ToString::to_string)));
    Finding {
        code: Code("exit.init-died"),
        severity: Severity::Info,
        id: init_id(init.number),
        state: None,
        time: world.at(init.exit.header.time_ns),
        container: world.containers.owner(init.exit.header.cgroup),
        summary: format!(
            "{} process{} died because PID 1 {} did ({how})",
            init.with,
            if init.with == 1 { "" } else { "es" },
            own.comm
        ),
        process: Some(own),
        evidence,
        why: "the kernel kills every process of a pid namespace when its PID 1 ends".to_owned(),
        fix: vec!["look for what ended PID 1: its own row says it".to_owned()],
        refers_to: None,
        unknown: Unknown::new(),
    }
}

fn init_id(number: u64) -> String {
    format!("init-{number}")
}

/// Does it act for whoever started it?
fn is_runtime(comm: &str) -> bool {
    RUNTIMES.iter().any(|runtime| comm.starts_with(runtime))
}

#[cfg(test)]
#[path = "exits_tests.rs"]
mod tests;
