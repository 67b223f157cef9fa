//! `net.sysctl-readonly`: a setting that the container may not make. A rule of its own: `io` sees the refused call, and
//! for the network it matters as well. Each lens that stands on it has one; what two of them say is the same, and told once.

use tracer_common::space::{EROFS, Refused};

use super::{
    World,
    numbers::Numbers,
    state::{Conditions, Said},
};
use crate::{
    events::{self, Event, text},
    model::{Code, Finding, Severity},
};

pub const READONLY: Code = Code("net.sysctl-readonly");

#[derive(Debug, Default)]
pub struct Rule {
    conditions: Conditions,
    said: Said,
}

impl Rule {
    /// The path says it all: nothing is asked for.
    pub fn event(&mut self, event: &Event, world: &World) -> Option<Finding> {
        let Event::FileRefused(refused) = event else { return None };
        read_only(refused, world, &mut self.conditions).map(|finding| self.said.say(finding))
    }

    /// Those that are over.
    pub fn tick(&mut self, now_ns: u64, world: &World) -> Vec<Finding> {
        self.said.over(&mut self.conditions, now_ns, world, |_| "nobody tries to write there any more")
    }
}

fn read_only(refused: &Refused, world: &World, conditions: &mut Conditions) -> Option<Finding> {
    if refused.errno != EROFS {
        return None;
    }
    let path = text(&refused.path);
    let name = path.strip_prefix("/proc/sys/")?.replace('/', ".");
    let owner = world.containers.owner(refused.header.cgroup);
    let own = world.containers.path(refused.header.cgroup).map(ToString::to_string);
    let cgroup = owner.as_ref().map(|container| container.cgroup.clone()).or(own).unwrap_or_else(|| "/".to_owned());
    let news = conditions.holds(READONLY, &format!("{cgroup} {name}"), 1, refused.header.time_ns)?;
    let process = events::process(&refused.asker);
    let mut numbers = Numbers::default();
    numbers.set("errno", "EROFS");
    numbers.set("sysctl", name.as_str());
    numbers.set("path", path.as_str());
    numbers.set("refused", refused.count);
    numbers.set("cgroup", cgroup.as_str());
    Some(Finding {
        code: READONLY,
        severity: Severity::Warning,
        id: news.id,
        state: Some(news.state),
        time: world.at(refused.header.time_ns),
        container: owner,
        summary: format!(
            "{} (pid {}) may not set {name}: /proc/sys is read-only in the container",
            process.comm, process.pid
        ),
        process: Some(process),
        evidence: numbers.values,
        why: "runtimes mount /proc/sys read-only, since most of it is the host's: what belongs to the container's own \
              namespaces (net.*, some kernel.*, fs.mqueue.*) is set when it starts"
            .to_owned(),
        fix: vec![
            format!("docker run --sysctl {name}=VALUE …"),
            format!("Kubernetes: securityContext: {{sysctls: [{{name: {name}, value: \"VALUE\"}}]}} of the pod"),
            format!("OCI config.json: \"linux\": {{\"sysctl\": {{\"{name}\": \"VALUE\"}}}}"),
        ],
        refers_to: None,
        unknown: numbers.unknown,
    })
}
