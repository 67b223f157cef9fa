//! `fs.copy-up`: the first write to a large file of the image waits until all of it is copied.

use tracer_common::copy_up::CopyUp;

use super::space::path_of;
use crate::{
    events,
    findings::{World, numbers::Numbers},
    model::{Code, Finding, Severity, size, span},
};

pub const COPY_UP: Code = Code("fs.copy-up");
/// Large, or long.
const BIG: u64 = 16 << 20;
const LONG_NS: u64 = 100_000_000;

pub fn judge(copy: &CopyUp, told: &mut u64, world: &World) -> Option<Finding> {
    if copy.bytes < BIG && copy.took_ns < LONG_NS {
        return None;
    }
    *told += 1;
    let container = world.containers.owner(copy.header.cgroup);
    let cgroup = world.containers.path(copy.header.cgroup).map(ToString::to_string);
    let cgroup = container.as_ref().map(|container| container.cgroup.clone()).or(cgroup);
    let path = path_of(&copy.path);
    let process = events::process(&copy.who);
    let mut numbers = Numbers::default();
    numbers.set("bytes", copy.bytes);
    numbers.set("took_ns", copy.took_ns);
    numbers.set("path", path.as_str());
    numbers.put("cgroup", cgroup, "the cgroup was gone before its name could be read");
    Some(Finding {
        code: COPY_UP,
        severity: Severity::Info,
        id: format!("fs-copy-up-{told}"),
        state: None,
        time: world.at(copy.header.time_ns),
        container,
        summary: format!(
            "{} waited {} while all {} of {path} were copied up from the image, to be written",
            process.comm,
            span(copy.took_ns),
            size(copy.bytes)
        ),
        process: Some(process),
        evidence: numbers.values,
        why: "an overlay's lower layers are read-only and shared: the first time that a file of them is opened for writing, or its mode or owner changes, the whole file is copied to the container's upper directory".to_owned(),
        fix: vec![
            "keep large files that are written in a volume, which is no overlay".to_owned(),
            "when building an image, change the mode or owner of a file in the layer that adds it (COPY --chown, --chmod)".to_owned(),
        ],
        refers_to: None,
        unknown: numbers.unknown,
    })
}
