//! What every finding has, and the numbers that a panel has no own form for.

use serde_json::Value;

use super::{Doc, Look, amount};
use crate::model::{Finding, by_reason};

pub(super) fn fixes(doc: &mut Doc, fixes: &[String]) {
    for fix in fixes {
        doc.row("fix", fix);
    }
}

/// What names the finding and its container.
pub(super) fn identity(doc: &mut Doc, finding: &Finding, look: &Look) {
    if let Some(container) = &finding.container {
        let runtime =
            container.runtime.map_or_else(|| "of an unknown runtime".to_owned(), |runtime| runtime.to_string());
        let id: String = container.id.chars().take(12).collect();
        doc.quiet("container", format!("{}  {runtime}  {id}", container.label()));
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

/// What nobody knows of it, and why.
pub(super) fn unknown(doc: &mut Doc, finding: &Finding, is_shown: fn(&str) -> bool) {
    for (fields, reason) in by_reason(&finding.unknown, is_shown) {
        doc.quiet("unknown", format!("{fields}: {reason}"));
    }
}

/// The evidence but `shown`, by the units in its keys.
pub(super) fn rest(doc: &mut Doc, finding: &Finding, shown: &[&str]) {
    // Of what is null the reasons are listed.
    let others = finding.evidence.iter().filter(|(key, value)| !value.is_null() && !shown.contains(&key.as_str()));
    let others: Vec<String> =
        others.map(|(key, value)| with_unit(key, value)).map(|(key, text)| format!("{key} {text}")).collect();
    if !others.is_empty() {
        doc.quiet("also", others.join(", "));
    }
}

/// `anon_bytes`, 1048576 → `anon`, `1.0 MiB`.
pub(super) fn with_unit(key: &str, value: &Value) -> (String, String) {
    if let (Some(name), Some(bytes)) = (key.strip_suffix("_bytes"), value.as_u64()) {
        return (name.to_owned(), amount(bytes));
    }
    if let (Some(name), Some(rate)) = (key.strip_suffix("_bytes_per_s"), value.as_i64()) {
        let sign = if rate < 0 { "-" } else { "" };
        return (name.to_owned(), format!("{sign}{}/s", amount(rate.unsigned_abs())));
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
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| with_unit(key, value))
            .map(|(key, text)| format!("{key} {text}"))
            .collect::<Vec<_>>()
            .join(", "),
        Value::Array(values) => values.iter().map(|value| with_unit("", value).1).collect::<Vec<_>>().join("; "),
        Value::Number(_) => value.to_string(),
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
        assert_eq!(of("limit_bytes_per_s", json!(1_048_576)), "limit=1.0 MiB/s");
        assert_eq!(of("anon_growth_bytes_per_s", json!(-1_048_576)), "anon_growth=-1.0 MiB/s");
        assert_eq!(of("throttled_pct", json!(71.25)), "throttled=71.2 %");
        assert_eq!(of("anon_bytes", Value::Null), "anon_bytes=unknown");
        assert_eq!(of("inferred", json!(true)), "inferred=yes");
    }
}
