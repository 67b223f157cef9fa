//! `ctrace caps`: what is observed of small programs and of real daemons, and how it is proven.

mod daemons;
mod observe;
mod verify;

use ::caps::Capability;
use serde_json::{Value, json};

use crate::{harness::Test, support::ctrace::Ctrace};

pub static TESTS: &[&[Test]] = &[observe::TESTS, verify::TESTS, daemons::TESTS];

/// Ends the watch, and gives its report.
fn report(ctrace: Ctrace) -> Value {
    let said = ctrace.stop();
    let reports: Vec<&Value> = said.lines.iter().map(|line| &line.json).filter(|line| line["type"] == "caps").collect();
    assert_eq!(reports.len(), 1, "one report");
    reports[0].clone()
}

fn has(report: &Value, list: &str, capability: Capability) -> bool {
    report[list].as_array().expect(list).contains(&json!(capability.to_string()))
}
