//! What every finding has, and the numbers that a panel has no own form for.

use serde_json::Value;

use super::{Doc, Look};
use crate::{model::Finding, views::lines::size};

pub(super) fn fixes(doc: &mut Doc, fixes: &[String]) {
    for (index, fix) in fixes.iter().enumerate() {
        doc.row(if index == 0 { "fix" } else { "" }, fix);
    }
}

/// What names the finding and its container.
pub(super) fn identity(doc: &mut Doc, finding: &Finding, look: &Look) {
    if let Some(container) = &finding.container {
        let runtime =
            container.runtime.map_or_else(|| "of an unknown runtime".to_owned(), |runtime| runtime.to_string());
        doc.quiet("container", format!("{} ({runtime}, {})", container.label(), container.id));
    }
    if let Some(cgroup) = finding.evidence.get("cgroup").and_then(Value::as_str) {
        doc.quiet("cgroup", cgroup);
    }
    doc.quiet("finding", format!("{}  {}  {}", finding.code.0, finding.id, look.moment(finding.time)));
}

/// A finding that came out of this one: its own answer, reason and cure.
pub(super) fn follower(doc: &mut Doc, finding: &Finding) {
    doc.heading(finding.code.0);
    doc.answer(finding.severity, &finding.summary);
    doc.row("why", &finding.why);
    fixes(doc, &finding.fix);
}

/// The evidence but `shown`, by the units in its keys.
pub(super) fn rest(doc: &mut Doc, finding: &Finding, shown: &[&str]) {
    for (key, value) in finding.evidence.iter().filter(|(key, _)| !shown.contains(&key.as_str())) {
        let (name, text) = with_unit(key, value);
        doc.quiet(name, text);
    }
}

/// `anon_bytes`, 1048576 → `anon`, `1.0 MiB`.
fn with_unit(key: &str, value: &Value) -> (String, String) {
    if let (Some(name), Some(bytes)) = (key.strip_suffix("_bytes"), value.as_u64()) {
        return (name.to_owned(), size(bytes));
    }
    if let (Some(name), Some(ns)) = (key.strip_suffix("_ns"), value.as_u64()) {
        return (name.to_owned(), duration(ns));
    }
    if let (Some(name), Some(share)) = (key.strip_suffix("_pct"), value.as_f64()) {
        return (name.to_owned(), format!("{share:.1} %"));
    }
    if let (Some(name), Some(rate)) = (key.strip_suffix("_per_s"), value.as_f64()) {
        return (name.to_owned(), format!("{rate:.1}/s"));
    }
    let text = match value {
        Value::Null => "unknown".to_owned(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::String(text) => text.clone(),
        _ => value.to_string(),
    };
    (key.to_owned(), text)
}

fn duration(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} µs", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_unit_in_the_key_makes_the_number_readable() {
        let of = |key: &str, value: Value| {
            let (name, text) = with_unit(key, &value);
            format!("{name}={text}")
        };
        assert_eq!(of("anon_bytes", json!(1_048_576)), "anon=1.0 MiB");
        assert_eq!(of("worst_ns", json!(412_000_000)), "worst=412.0 ms");
        assert_eq!(of("throttled_pct", json!(71.25)), "throttled=71.2 %");
        assert_eq!(of("anon_bytes", Value::Null), "anon_bytes=unknown");
        assert_eq!(of("inferred", json!(true)), "inferred=yes");
    }
}
