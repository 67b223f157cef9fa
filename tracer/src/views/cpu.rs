//! What `ctrace cpu` adds to lines: the table of use, and the numbers of its findings.

use serde_json::Value;

use super::{
    escape::escape,
    lines::{row, unknown},
    table::{Line, Shape, name},
};
use crate::{model::Finding, pipeline::SampleRow};

/// Tasks whose stack a finding shows.
const TASKS: usize = 4;
/// Short sleeps of a second that are worth a sentence, and how many kinds it names.
const SLEPT_NS: u64 = 100_000_000;
const KINDS: usize = 2;
/// Functions of a stack that are shown.
const FRAMES: usize = 6;

pub static TABLE: Shape = Shape {
    sample: "cpu",
    codes: &["cpu.", "load."],
    head,
    line,
    rank: wants,
    // The machine's times, which no container has.
    below: |sample| if sample.container.is_none() { Some(machine(sample)) } else { sleeps(sample) },
};

/// CPUs that it asks for, in thousandths.
fn wants(sample: &SampleRow) -> u64 {
    let field = |key: &str| sample.fields.get(key).and_then(Value::as_f64);
    (field("demand_cpus").or_else(|| field("used_cpus")).unwrap_or(0.0) * 1000.0) as u64
}

fn head() -> Line {
    let numbers = ["USER", "SYS", "CPUS", "OF", "ASKS", "THROTTLED", "WAITS", "P99", "D", "LOAD1"];
    Line { name: "CONTAINER".to_owned(), numbers: numbers.map(str::to_owned).to_vec(), last: "CEILING OF".to_owned() }
}

fn line(sample: &SampleRow) -> Line {
    let field = |key: &str| sample.fields.get(key).and_then(Value::as_f64);
    let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
    let pct = |key: &str| field(key).map_or_else(|| "-".to_owned(), |value| format!("{value:.0} %"));
    let count = |key: &str| field(key).map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
    let host = sample.container.is_none();
    let last = match sample.fields.get("limiting_cgroup").and_then(Value::as_str) {
        Some(cgroup) => cgroup.to_owned(),
        None if host => "in no container".to_owned(),
        None => "no quota".to_owned(),
    };
    Line {
        name: name(sample),
        numbers: vec![
            shown(field("user_cpus")),
            shown(field("system_cpus")),
            shown(field("used_cpus")),
            shown(field("ceiling_cpus")),
            shown(field("demand_cpus").or_else(|| field("runnable"))),
            pct("throttled_pct"),
            pct("wait_pct"),
            field("wait_p99_ns").map_or_else(|| "-".to_owned(), |ns| span(ns as u64)),
            count("blocked"),
            shown(field("load1")),
        ],
        last,
    }
}

fn machine(sample: &SampleRow) -> String {
    let pct = |name: &str| {
        let value = sample.fields.get(&format!("{name}_pct")).and_then(Value::as_f64);
        value.map_or_else(|| format!("{name} -"), |value| format!("{name} {value:.0} %"))
    };
    let times = ["user", "nice", "system", "idle"].map(pct).join("  ");
    let nobodys = ["iowait", "irq", "softirq", "steal"].map(pct).join("  ");
    let cpus = sample.fields.get("cpus").and_then(Value::as_u64).unwrap_or(0);
    let average = sample.fields.get("loadavg").and_then(Value::as_array);
    let average: Vec<String> =
        average.into_iter().flatten().filter_map(Value::as_f64).map(|load| format!("{load:.2}")).collect();
    format!("{cpus} CPUs: {times}; of no container: {nobodys}; load average {}", average.join(" "))
}

/// Where short uninterruptible sleeps of a container went: said where a tenth of a task, on average, was in one.
fn sleeps(sample: &SampleRow) -> Option<String> {
    let kinds = sample.fields.get("sleeps")?.as_array()?;
    let total: u64 = kinds.iter().filter_map(|kind| kind["total_ns"].as_u64()).sum();
    if total < SLEPT_NS {
        return None;
    }
    let one = |kind: &Value| {
        let functions = kind["stack"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let stack: Vec<&str> = functions.take(FRAMES).collect();
        let (count, ns) = (kind["count"].as_u64().unwrap_or(0), kind["total_ns"].as_u64().unwrap_or(0));
        let place = if stack.is_empty() { String::new() } else { format!(" ({})", stack.join(" < ")) };
        format!("{count} × {} {}{place}", kind["cause"].as_str().unwrap_or("other"), span(ns))
    };
    Some(format!("  short waits in D: {}", kinds.iter().take(KINDS).map(one).collect::<Vec<_>>().join("; ")))
}

/// The numbers below a finding's first line.
pub fn body(finding: &Finding, out: &mut String) {
    match finding.code.0 {
        "cpu.throttled" => numbers(
            finding,
            &[("quota", "quota_cpus"), ("used", "used_cpus"), ("asks for", "demand_cpus"), ("enough", "enough_cpus")],
            out,
        ),
        "cpu.contended" => numbers(
            finding,
            &[("used", "used_cpus"), ("asks for", "demand_cpus"), ("of", "host_cpus"), ("weight", "weight")],
            out,
        ),
        "load.blocked" => tasks(finding, out),
        _ => return,
    }
    if let Some(limiting) = finding.evidence.get("limiting_cgroup").and_then(Value::as_str) {
        row(out, "limit of", &escape(limiting));
    }
    for other in finding.evidence.get("ran_instead").and_then(Value::as_array).into_iter().flatten() {
        let whose = &other["container"];
        let name = whose["name"].as_str().or_else(|| whose["id"].as_str()).map_or("the host", |name| name);
        let share = other["share_pct"].as_f64().unwrap_or(0.0);
        row(out, "instead", &format!("{} had {share:.0} % of what ran", escape(name)));
    }
    unknown(out, finding, |_| true);
}

fn numbers(finding: &Finding, fields: &[(&str, &str)], out: &mut String) {
    let shown = |key: &str| match finding.evidence.get(key) {
        Some(Value::Number(number)) if number.is_f64() => format!("{:.2}", number.as_f64().unwrap_or(0.0)),
        Some(Value::Number(number)) => number.to_string(),
        _ => "unknown".to_owned(),
    };
    let fields: Vec<String> = fields.iter().map(|(name, key)| format!("{name} {}", shown(key))).collect();
    row(out, "CPUs", &fields.join("   "));
}

fn tasks(finding: &Finding, out: &mut String) {
    let tasks = finding.evidence.get("tasks").and_then(Value::as_array);
    for task in tasks.into_iter().flatten().take(TASKS) {
        let process = &task["process"];
        let comm = escape(process["comm"].as_str().unwrap_or("?")).into_owned();
        let least = if task["at_least"] == true { "at least " } else { "" };
        let blocked = span(task["blocked_ns"].as_u64().unwrap_or(0));
        let stack: Vec<&str> = task["stack"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let shown: Vec<_> = stack.iter().take(FRAMES).map(|frame| escape(frame)).collect();
        let more = if stack.len() > FRAMES { " < …" } else { "" };
        let tid = process["tid"].as_u64().unwrap_or(0);
        row(out, "blocked", &format!("{comm} {tid} for {least}{blocked}: {}{more}", shown.join(" < ")));
    }
}

fn span(ns: u64) -> String {
    match ns as f64 / 1e9 {
        s if s < 0.001 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s => format!("{s:.1} s"),
    }
}
