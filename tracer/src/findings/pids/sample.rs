//! Counts per container against every limit: rows for tables and JSON, no verdicts.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value, json};

use super::{
    reading::{Counts, Level, States},
    zombies::Zombies,
};
use crate::{
    findings::{
        World,
        numbers::{grow, total},
    },
    model::{Owner, Unknown},
    pipeline::Output,
    pipeline::SampleRow,
};

#[derive(Default)]
struct Sum {
    container: Owner,
    states: States,
    processes: u64,
    threads: u64,
}

/// One row per container that has processes or a limit, and one for the host.
pub fn rows(counts: &Counts, zombies: &Zombies, host: Option<&States>, now_ns: u64, world: &World) -> Vec<Output> {
    let mut sums: BTreeMap<Arc<str>, Sum> = BTreeMap::new();
    for group in &counts.groups {
        let Some(container) = world.containers.owner_of_path(&group.cgroup) else { continue };
        let sum = sums.entry(container.cgroup.as_str().into()).or_default();
        sum.states.merge(&group.states);
        grow(&mut sum.processes, group.processes);
        grow(&mut sum.threads, group.threads);
        sum.container = Some(container);
    }
    let mut rows = Vec::new();
    for (cgroup, mut sum) in sums {
        // cgroup.procs does not list the dead.
        sum.states.zombie = zombies.within(&cgroup).count;
        grow(&mut sum.processes, sum.states.zombie);
        grow(&mut sum.threads, sum.states.zombie);
        let mut fields = states(Some(&sum.states));
        fields.insert("processes".to_owned(), json!(sum.processes));
        fields.insert("threads".to_owned(), json!(sum.threads));
        let path = counts.pids_path(&cgroup);
        let levels: Vec<&Level> = counts.chain(&path).collect();
        let own = levels.first().filter(|level| level.path == path);
        let mut unknown = Unknown::new();
        fields.insert("current".to_owned(), json!(own.map(|level| level.current)));
        if own.is_none() {
            unknown.insert("current", "its cgroup is not in the pids hierarchy".to_owned());
        }
        let nearest = levels.iter().filter(|level| level.limit.is_some()).min_by_key(|level| level.room());
        fields.insert("limit".to_owned(), json!(nearest.and_then(|level| level.limit)));
        fields.insert("limiting_current".to_owned(), json!(nearest.map(|level| level.current)));
        fields.insert("limiting_cgroup".to_owned(), json!(nearest.map(|level| level.path.as_str())));
        if nearest.is_none() {
            unknown.insert("limit", "no level has a limit: the host's pid_max and threads_max hold".to_owned());
        }
        let limited: Vec<Value> = levels
            .iter()
            .filter(|level| level.limit.is_some())
            .map(|level| json!({"cgroup": level.path, "current": level.current, "limit": level.limit}))
            .collect();
        fields.insert("levels".to_owned(), Value::Array(limited));
        rows.push(row(sum.container, Some(cgroup.to_string()), fields, unknown, now_ns, world));
    }
    rows.push(host_row(counts, zombies, host, now_ns, world));
    rows
}

fn host_row(counts: &Counts, zombies: &Zombies, host: Option<&States>, now_ns: u64, world: &World) -> Output {
    let mut unknown = Unknown::new();
    let states_now = host.map(|host| States { zombie: zombies.count(), ..*host });
    if host.is_none() {
        unknown.insert("states", "/proc was not swept yet".to_owned());
    }
    let mut fields = states(states_now.as_ref());
    let processes = states_now.map(|states| total(states.all().iter().map(|(_, count)| count)));
    fields.insert("processes".to_owned(), json!(processes));
    fields.insert("threads".to_owned(), json!(counts.host.threads));
    fields.insert("pid_max".to_owned(), json!(counts.host.pid_max));
    fields.insert("threads_max".to_owned(), json!(counts.host.threads_max));
    row(None, None, fields, unknown, now_ns, world)
}

fn states(states: Option<&States>) -> Map<String, Value> {
    let mut fields = Map::new();
    let of = |states: &States| {
        states.all().into_iter().map(|(letter, count)| (letter.to_owned(), json!(count))).collect::<Map<_, _>>()
    };
    fields.insert("states".to_owned(), states.map_or(Value::Null, |states| Value::Object(of(states))));
    fields
}

fn row(
    container: Owner,
    cgroup: Option<String>,
    fields: Map<String, Value>,
    unknown: Unknown,
    now_ns: u64,
    world: &World,
) -> Output {
    Output::Sample(Box::new(SampleRow { time: world.at(now_ns), sample: "pids", container, cgroup, fields, unknown }))
}
