//! Use per container and of the host: rows for tables and JSON, no verdicts.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{
    blocked::Tasks,
    cause::Cause,
    load::Load,
    reading::{Group, ProcessTime, Slept, Stack},
    rounded,
    window::Window,
};
use crate::{
    containers::is_within,
    findings::{World, numbers::Numbers},
    pipeline::{Output, SampleRow},
};

type Loads = BTreeMap<Option<Arc<str>>, Load>;

/// Processes that a row names: those that use most.
const PROCESSES: usize = 5;
/// Stacks of short sleeps, likewise.
const SLEEPS: usize = 5;
const NOT_HOOKED: &str = "sched_switch could not be hooked here";
const IDLE: &str = "not watched: nobody looks, and files say of nothing that waits; the tab cpu has it watched";

/// Why waits are not known.
fn not_hooked(window: &Window) -> &'static str {
    match &window.new.waits {
        None if window.new.is_idle => IDLE,
        None => NOT_HOOKED,
        Some(_) => "watched since a moment ago",
    }
}

/// One row per container, and one for the host.
pub fn rows(window: &Window, tasks: &Tasks, loads: &Loads, world: &World) -> Vec<Output> {
    let mut rows: Vec<Output> =
        window.new.groups.iter().map(|group| container(window, group, tasks, loads, world)).collect();
    rows.push(host(window, tasks, loads, world));
    rows
}

fn container(window: &Window, group: &Group, tasks: &Tasks, loads: &Loads, world: &World) -> Output {
    let mut values = Numbers::default();
    let used = window.used(group);
    let young = "its cgroup is not in the cpu hierarchy, or is younger than a reading";
    values.put("used_cpus", used.map(|used| rounded(used.total)), young);
    values.put("user_cpus", used.map(|used| rounded(used.user)), young);
    values.put("system_cpus", used.map(|used| rounded(used.system)), young);
    let ceiling = window.ceiling(group);
    let none = "no level has a quota: the CPUs that it may use are the ceiling";
    values.put("quota_cpus", ceiling.map(|(_, quota)| rounded(quota.cpus())), none);
    values.put("limiting_cgroup", ceiling.map(|(path, _)| path), none);
    let cpus = ceiling.map_or(window.cpus(group), |(_, quota)| quota.cpus().min(window.cpus(group)));
    values.set("ceiling_cpus", rounded(cpus));
    values.put("ceiling_pct", used.map(|used| rounded(used.total * 100.0 / cpus)), young);
    let on = !window.throttles(group).is_empty();
    let throttle = window.worst_throttle(group);
    let was = throttle.as_ref().map(|throttle| throttle.was).unwrap_or_default();
    let pct = throttle.as_ref().map_or(0.0, |throttle| rounded(throttle.pct()));
    let off = "the cpu controller is off for it and all above it, or it is younger than a reading";
    values.put("throttled_pct", on.then_some(pct), off);
    values.put("throttled_periods", on.then_some(was.throttled), off);
    values.put("throttled_ns", on.then_some(was.throttled_ns), off);
    let own = window.chain(group).find(|level| Some(&level.path) == group.cpu_path.as_ref());
    values.put("weight", own.and_then(|level| level.weight), "the cpu controller is off for it");
    let waited = window.waited(Some(&group.cgroup), world);
    let not_hooked = not_hooked(window);
    let no_waits = if waited.is_none() { not_hooked } else { young };
    let demand = used.zip(waited.as_ref()).map(|(used, waited)| window.demand(used.total, waited));
    values.put("demand_cpus", demand.map(rounded), no_waits);
    let share = demand.zip(used).map(|(demand, used)| (demand - used.total) * 100.0 / demand.max(1e-9));
    values.put("wait_pct", share.map(rounded), no_waits);
    let no_wait = if waited.is_none() { not_hooked } else { "it did not wait lately" };
    values.put("wait_p99_ns", waited.as_ref().and_then(|waited| waited.percentile_ns(99)), no_wait);
    let worst = waited.as_ref().and_then(|waited| Some(waited.worst.as_ref()?.wait_ns));
    values.put("wait_worst_ns", worst, no_wait);
    values.put("blocked_ns", waited.as_ref().map(|waited| waited.blocked_ns), not_hooked);
    values.put("blocked_count", waited.as_ref().map(|waited| waited.blocked), not_hooked);
    load(loads.get(&Some(Arc::clone(&group.cgroup))), no_waits, &mut values);
    values.set("blocked_tasks", blocked(tasks, Some(&group.cgroup)));
    values.set("sleeps", sleeps(window, Some(&group.cgroup), world));
    values.set("processes", processes(window, &group.cgroup));
    row(Some(group), values, window, world)
}

fn load(load: Option<&Load>, why: &str, values: &mut Numbers) {
    values.put("runnable", load.map(|load| rounded(load.runnable)), why);
    values.put("blocked", load.map(|load| load.blocked), why);
    values.put("load1", load.map(|load| rounded(load.minute)), why);
}

fn blocked(tasks: &Tasks, cgroup: Option<&str>) -> Value {
    Value::Array(tasks.shown(cgroup).into_iter().map(super::blocked::Seen::json).collect())
}

/// What a stack ends in, whatever is waited for.
const SCHEDULERS: [&str; 6] =
    ["io_schedule", "schedule", "__wait_for_common", "wait_for_common", "do_wait_for_common", "wait_for_completion"];

/// Where the time of short uninterruptible sleeps goes.
fn sleeps(window: &Window, cgroup: Option<&str>, world: &World) -> Value {
    let json = |(slept, stack): (Slept, &Stack)| {
        let mut values = Numbers::default();
        values.set("count", slept.count);
        values.set("total_ns", slept.total_ns);
        let functions: Vec<&str> = stack.iter().flat_map(|stack| stack.iter()).map(String::as_str).collect();
        let place = functions.iter().copied().find(|function| !SCHEDULERS.iter().any(|own| function.starts_with(own)));
        values.set("cause", Cause::of_task(place, &functions, None).name());
        values.put("stack", stack.as_ref().ok(), stack.as_ref().err().map_or("", |why| why));
        if !values.unknown.is_empty() {
            let unknown = std::mem::take(&mut values.unknown);
            values.set("unknown", unknown);
        }
        Value::Object(values.values)
    };
    // What sums up to little has no stack here.
    let kinds = window.slept(cgroup, world).into_iter();
    let kinds = kinds.filter_map(|(key, slept)| Some((slept, window.new.stacks.get(&key)?)));
    Value::Array(kinds.take(SLEEPS).map(json).collect())
}

fn processes(window: &Window, cgroup: &str) -> Value {
    let identity = |process: &ProcessTime| (process.stat.pid, process.stat.start_ticks);
    let before: BTreeMap<_, _> = window.old.processes.iter().map(|process| (identity(process), process)).collect();
    let mut found = Vec::new();
    for process in window.new.processes.iter().filter(|process| is_within(&process.cgroup, cgroup)) {
        let Some(old) = before.get(&identity(process)) else { continue };
        let user = process.stat.user_ticks.saturating_sub(old.stat.user_ticks);
        let system = process.stat.system_ticks.saturating_sub(old.stat.system_ticks);
        if user > 0 || system > 0 {
            found.push((user, system, &process.stat));
        }
    }
    found.sort_by_key(|(user, system, _)| std::cmp::Reverse(user.saturating_add(*system)));
    let cpus = |ticks: u64| rounded(ticks as f64 * TICK_NS / window.ns().max(1) as f64);
    let process = |(user, system, stat): (u64, u64, &crate::findings::pids::Stat)| json!({"pid": stat.pid, "comm": stat.comm, "user_cpus": cpus(user), "system_cpus": cpus(system)});
    Value::Array(found.into_iter().take(PROCESSES).map(process).collect())
}

/// `USER_HZ` is 100 on every Linux that there is.
const TICK_NS: f64 = 10_000_000.0;

/// The machine's own times belong to no container: iowait, irq, softirq and steal least of all.
fn host(window: &Window, tasks: &Tasks, loads: &Loads, world: &World) -> Output {
    let mut values = Numbers::default();
    let times = window.host();
    let all = times.sum();
    values.set("cpus", window.new.host.each.len());
    for (name, ns) in times.all() {
        let pct = (all > 0).then(|| rounded(ns as f64 * 100.0 / all as f64));
        values.put(name, pct, "/proc/stat could not be read");
    }
    values.put("loadavg", window.new.host.load, "/proc/loadavg could not be read");
    load(loads.get(&None), not_hooked(window), &mut values);
    values.set("blocked_tasks", blocked(tasks, None));
    values.set("sleeps", sleeps(window, None, world));
    row(None, values, window, world)
}

fn row(group: Option<&Group>, values: Numbers, window: &Window, world: &World) -> Output {
    Output::Sample(Box::new(SampleRow {
        time: world.at(window.new.at_ns),
        sample: "cpu",
        container: group.and_then(|group| world.containers.owner_of_path(&group.cgroup)),
        cgroup: group.map(|group| group.cgroup.to_string()),
        fields: values.values,
        unknown: values.unknown,
    }))
}
