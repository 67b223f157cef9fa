mod judged;
mod returns;
mod watched;

use bytemuck::Zeroable;
use caps::Capability;
use tracer_common::{
    Header, Kind,
    caps::{Busy, Start, how},
    cgroup::Rmdir,
};

use super::*;
use crate::{
    containers::{Table, inspect::CapabilitySets},
    findings::{
        HostFacts,
        fixture::{self, SECOND, T, WEB, WEB_CGROUP, web_task},
    },
    model::{Code, Finding, Severity, Timestamp, Unknown},
};

const OVERCOMMIT: u64 = 0xffff_ffff_8100_0100;

/// One container, watched while it runs.
struct Bench {
    rule: Rule,
    containers: Table,
    facts: HostFacts,
    out: Vec<Output>,
    totals: Totals,
}

fn number(capability: Capability) -> u8 {
    capability.index()
}

fn call(name: &str) -> u32 {
    name.parse::<Sysno>().map_or(NO_SYSCALL, |number| number.id() as u32)
}

impl Bench {
    fn new() -> Self {
        let fixture::Host { containers, mut facts } = fixture::Host::new();
        facts.attached.push("cap_outcome");
        let mut bench = Self { rule: Rule::default(), containers, facts, out: Vec::new(), totals: Totals::default() };
        bench.watch(true);
        bench
    }

    fn with(&mut self, now_ns: u64, work: impl FnOnce(&mut Rule, &World, &mut Vec<Output>)) {
        let world = World { containers: &self.containers, host: &self.facts, boot_to_wall_ns: 0, now_ns };
        work(&mut self.rule, &world, &mut self.out);
    }

    fn watch(&mut self, ran: bool) {
        let container = self.containers.owner(WEB_CGROUP).expect("the fixture's");
        let reading = Reading::Watching { container, since_ns: T, ran };
        self.with(T, |rule, world, out| rule.reading(&reading, T, world, out));
        let granted =
            [Capability::CAP_CHOWN, Capability::CAP_NET_RAW, Capability::CAP_DAC_OVERRIDE, Capability::CAP_SYS_ADMIN];
        let bounding = granted.iter().fold(0, |set, one| set | one.bitmask());
        let sets = Sets {
            init: CapabilitySets { bounding, ..CapabilitySets::default() },
            seccomp: Some("filter"),
            ..Sets::default()
        };
        let reading = Reading::Sets(WEB.to_owned(), Some(Box::new(sets)));
        self.with(T, |rule, world, out| rule.reading(&reading, T, world, out));
    }

    fn key(capability: Capability, syscall: &str, how: u8) -> CheckKey {
        CheckKey {
            cgroup: WEB_CGROUP,
            image: 7,
            syscall: call(syscall),
            capability: number(capability),
            origin: Origin::Application as u8,
            relation: Relation::Own as u8,
            how,
        }
    }

    fn asked(&mut self, key: CheckKey) {
        self.asked_below(key, OVERCOMMIT);
    }

    fn asked_below(&mut self, key: CheckKey, function: u64) {
        let mut check = Check::zeroed();
        check.header = fixture::header::<Check>(T, WEB_CGROUP);
        (check.task, check.key) = (web_task(501, "nginx"), key);
        check.stack[0] = function;
        self.totals.checks.push((key, 5));
        self.with(T, |rule, world, out| rule.event(&Event::CapCheck(Box::new(check)), world, out));
    }

    fn came(&mut self, syscall: &str, denied: &[Capability], granted: &[Capability], result: i32) {
        let bits = |set: &[Capability]| set.iter().fold(0, |bits, one| bits | one.bitmask());
        let mut outcome = Outcome::zeroed();
        outcome.header = fixture::header::<Outcome>(T, WEB_CGROUP);
        outcome.task = web_task(501, "nginx");
        outcome.key = OutcomeKey {
            cgroup: WEB_CGROUP,
            image: 7,
            denied: bits(denied),
            granted: bits(granted),
            syscall: call(syscall),
            result,
            origin: Origin::Application as u32,
            reserved: 0,
        };
        self.with(T, |rule, world, out| rule.event(&Event::CapOutcome(Box::new(outcome)), world, out));
    }

    fn start(&mut self) {
        let mut start = Start::zeroed();
        start.header = fixture::header::<Start>(T + SECOND, WEB_CGROUP);
        self.with(T + SECOND, |rule, world, out| rule.event(&Event::CapStart(start), world, out));
    }

    fn findings(&self, code: &str) -> Vec<Finding> {
        let findings = self.out.iter().filter_map(|output| match output {
            Output::Finding(finding) => Some((**finding).clone()),
            _ => None,
        });
        findings.filter(|finding| finding.code.0 == code).collect()
    }

    /// Ends the run, ten seconds in, where one address has a name.
    fn report(&mut self) -> Report {
        let now = T + 10 * SECOND;
        self.with(now, |rule, _, out| rule.finish(now, out));
        let totals = Reading::Totals(self.totals.clone());
        self.with(now, |rule, world, out| rule.reading(&totals, now, world, out));
        let asked = self.out.iter().any(|output| matches!(output, Output::Ask(Question::Caps(Ask::Symbols(_)))));
        assert!(asked, "names are asked for at the end");
        let names = Reading::Symbols(Ok(HashMap::from([(OVERCOMMIT, "__vm_enough_memory".to_owned())])));
        self.with(now, |rule, world, out| rule.reading(&names, now, world, out));
        let reports: Vec<Report> = self
            .out
            .iter()
            .filter_map(|output| match output {
                Output::Caps(report) => Some((**report).clone()),
                _ => None,
            })
            .collect();
        let [report] = &reports[..] else { panic!("{} reports", reports.len()) };
        report.clone()
    }
}

/// The verdict on one check alone.
fn verdict(key: CheckKey) -> (String, Evidence) {
    let mut bench = Bench::new();
    bench.asked(key);
    let row = bench.report().evidence.remove(0);
    (row.verdict.clone(), row)
}
