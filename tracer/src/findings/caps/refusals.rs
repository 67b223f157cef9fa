//! `caps.denied` and `caps.not-a-capability`, as they happen.

use std::sync::Arc;

use serde_json::json;
use tracer_common::caps::{Origin, Outcome, Relation};

use super::{Rule, capability_name, errno_name, explain, judge, relation, rules, syscall_name};
use crate::{
    events,
    findings::World,
    model::{Container, Evidence, Finding, Severity, Unknown},
    pipeline::Output,
};

const EPERM: i32 = -1;

impl Rule {
    /// A call that failed after a refusal, or with EPERM without any: said once of each call.
    pub(super) fn refused(
        &mut self,
        outcome: &Outcome,
        container: &Arc<Container>,
        world: &World,
        out: &mut Vec<Output>,
    ) {
        let key = outcome.key;
        if key.denied == 0 {
            let call = syscall_name(key.syscall);
            let harmless = |call: &String| rules::HARMLESS.iter().any(|(calls, _)| calls.contains(&call.as_str()));
            if key.result == EPERM && !call.as_ref().is_some_and(harmless) && self.news(container, None, key.syscall) {
                out.push(self.without_capability(outcome, container, world));
            }
            return;
        }
        for number in (0..u64::BITS).filter(|number| key.denied & (1 << number) != 0) {
            if is_denial(outcome, number) && self.news(container, Some(number), key.syscall) {
                out.push(self.denial(outcome, number, container, world));
            }
        }
    }

    fn news(&mut self, container: &Container, capability: Option<u32>, syscall: u32) -> bool {
        self.told.insert((container.cgroup.clone(), capability, syscall))
    }

    /// Was it only asked of a namespace around the container's?
    fn is_outer(&self, outcome: &Outcome, number: u32) -> bool {
        let key = outcome.key;
        let mut same = self.checks.keys().filter(|check| {
            u32::from(check.capability) == number
                && (check.cgroup, check.image, check.syscall) == (key.cgroup, key.image, key.syscall)
        });
        let first = same.next();
        first.is_some_and(|check| relation(check) == Relation::Outer)
            && same.all(|check| relation(check) == Relation::Outer)
    }

    fn denial(&mut self, outcome: &Outcome, number: u32, container: &Arc<Container>, world: &World) -> Output {
        let name = capability_name(number);
        let call = syscall_name(outcome.key.syscall).unwrap_or_else(|| "no call".to_owned());
        let result = if outcome.key.result == 0 { "0".to_owned() } else { errno_name(outcome.key.result) };
        let outer = self.is_outer(outcome, number);
        let comm = events::text(&outcome.task.comm);
        let short = name.strip_prefix("CAP_").unwrap_or(&name);
        let (why, fix) = if outer {
            (
                "it was asked of the user namespace around the container's, where nothing that the container is given counts",
                "nothing to add: let the runtime or the host do it, or run the container without a user namespace"
                    .to_owned(),
            )
        } else {
            (
                "the container was not given it, or the process has dropped it; a program may go on without: see whether something is missing before adding it",
                format!(
                    "if it is missed: docker run --cap-add {short}, Kubernetes capabilities.add: [{short}]; prove it with ctrace caps verify"
                ),
            )
        };
        let summary = format!("{name} was refused to {comm} in {call}: {result}");
        let more = [("capability", json!(name)), ("other_namespace", json!(outer))];
        let finding = self.finding(&explain::DENIED, outcome, container, world, (summary, why.to_owned(), fix), &more);
        Output::Finding(Box::new(finding))
    }

    fn without_capability(&mut self, outcome: &Outcome, container: &Arc<Container>, world: &World) -> Output {
        let call = syscall_name(outcome.key.syscall);
        let sets = self.watched.get(&container.cgroup).and_then(|watched| watched.sets.as_ref());
        let why = judge::no_capability(call.as_deref(), sets.and_then(|sets| sets.seccomp));
        let call = call.unwrap_or_else(|| "a call".to_owned());
        let comm = events::text(&outcome.task.comm);
        let summary = format!("EPERM of {call} in {comm}, and no capability was refused: none that is added will help");
        let fix =
            format!("look at the seccomp profile for {call} and at the log of the LSM; don't add capabilities for it");
        let finding = self.finding(&explain::NOT_A_CAPABILITY, outcome, container, world, (summary, why, fix), &[]);
        Output::Finding(Box::new(finding))
    }

    fn finding(
        &mut self,
        explained: &crate::findings::Explained,
        outcome: &Outcome,
        container: &Arc<Container>,
        world: &World,
        (summary, why, fix): (String, String, String),
        more: &[(&str, serde_json::Value)],
    ) -> Finding {
        self.findings += 1;
        let result = outcome.key.result;
        let mut evidence = Evidence::new();
        for (key, value) in more {
            evidence.insert((*key).to_owned(), value.clone());
        }
        evidence.insert("syscall".to_owned(), json!(syscall_name(outcome.key.syscall)));
        evidence.insert("result".to_owned(), json!(if result == 0 { "0".to_owned() } else { errno_name(result) }));
        evidence.insert("exec".to_owned(), json!(outcome.key.origin == Origin::Exec as u32));
        evidence.insert("cgroup".to_owned(), json!(container.cgroup));
        Finding {
            code: explained.code,
            severity: Severity::Warning,
            id: format!("caps-{}", self.findings),
            state: None,
            time: world.at(outcome.header.time_ns),
            container: Some(container.clone()),
            process: Some(events::process(&outcome.task)),
            summary,
            evidence,
            why,
            fix: vec![fix],
            refers_to: None,
            unknown: Unknown::new(),
        }
    }
}

/// Not where the program goes on, where another one was granted, or where the kernel asks for accounting only.
fn is_denial(outcome: &Outcome, number: u32) -> bool {
    let key = outcome.key;
    let Some(capability) = caps::all().into_iter().find(|known| u32::from(known.index()) == number) else {
        return key.result < 0;
    };
    let syscall = syscall_name(key.syscall).unwrap_or_default();
    let silent = rules::SILENT.iter().any(|(own, calls, _)| *own == capability && calls.contains(&&*syscall));
    let instead =
        rules::ALTERNATIVES.iter().any(|(first, other, _)| *first == capability && key.granted & other.bitmask() != 0);
    (key.result < 0 || silent) && !instead && rules::probe(capability, &syscall, None, &[]).is_none()
}
