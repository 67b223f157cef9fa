//! `ctrace doctor`: each probe with the way it took, or the reason why it could not.

use serde_json::Value;

use crate::{
    harness::{Test, in_virtual_machine},
    support::ctrace,
};

pub static TESTS: &[Test] = &[Test::core("robust::doctor::every_program_loads", every_program_loads)];

/// Attaches every probe of every lens. Kernels of the matrix take all of them; one built without kprobes refuses those
/// for that reason alone. A program that the verifier does not take fails this in any place.
fn every_program_loads() {
    let ended = ctrace::run(ctrace::command(&["doctor", "--json"]));
    assert_eq!((ended.code, ended.out.len(), ended.err.len()), (Some(0), 1, 0), "{ended:?}");
    let said: Value = serde_json::from_str(&ended.out[0]).expect("JSON");
    assert_eq!((&said["v"], &said["type"], &said["problem"]), (&1.into(), &"doctor".into(), &Value::Null));
    let kprobes = said["host"]["kprobes"].as_bool().expect("a yes or no");
    assert!(kprobes || !in_virtual_machine());
    let probes = said["probes"].as_array().expect("a list");
    assert!(probes.len() >= 7, "{said}");
    for probe in probes {
        for refused in probe["refused"].as_array().expect("a list") {
            let why = refused["why"].as_str().expect("a reason");
            assert!(!why.contains("refused the program"), "the verifier: {probe}");
            // Hooks into functions need kprobes or ftrace; where those are not, the reason says so.
            assert!(!kprobes, "a way that failed on a kernel that has all: {probe}");
        }
        assert!(probe["hook"].is_string() || !kprobes, "not attached: {probe}");
        assert!(
            probe["hook"].is_string() || probe["costs"].is_string(),
            "without a hook it must say what that costs: {probe}"
        );
    }
    let lenses = said["lenses"].as_array().expect("a list");
    assert!(!lenses.is_empty() && lenses.iter().all(|lens| lens["works"] == true || !kprobes), "{said}");
    let text = ctrace::run(ctrace::command(&["doctor"]));
    assert_eq!((text.code, text.err.len()), (Some(0), 0), "{text:?}");
    assert!(text.out.iter().any(|line| line.starts_with("ctrace oom: works")), "{text:?}");
}
