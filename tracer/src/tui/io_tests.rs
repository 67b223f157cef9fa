//! What a finding of io rests on, on a terminal that is only memory.

use std::{sync::Arc, time::Duration};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::backend::TestBackend;
use serde_json::{Value, json};

use super::{samples::NOON, *};
use crate::model::{Code, Container, Finding, Process, Runtime, Severity, State, Unknown};

const MIB: u64 = 1 << 20;

fn finding(code: &'static str, severity: Severity, owner: &Arc<Container>, summary: &str, evidence: &Value) -> Finding {
    let ns_pid = Some(7);
    Finding {
        code: Code(code),
        severity,
        id: format!("{}-1", code.replace('.', "-")),
        state: Some(State::Open),
        time: Timestamp(NOON),
        container: Some(Arc::clone(owner)),
        process: Some(Process {
            pid: 4711,
            tid: 4711,
            ns_pid,
            ppid: Some(1),
            comm: "postgres".to_owned(),
            uid: Some(999),
        }),
        summary: summary.to_owned(),
        evidence: evidence.as_object().expect("an object").clone().into_iter().collect(),
        why: "the reason".to_owned(),
        fix: vec!["the cure".to_owned()],
        refers_to: None,
        unknown: Unknown::from([("disk_bytes", "it is on no overlay".to_owned())]),
    }
}

/// In the order of the list: the last that was told stands on top.
fn found() -> Vec<Finding> {
    let [db, hog] =
        [("db", 1), ("hog", 2)].map(|(name, number)| Arc::new(samples::container(Some(name), Runtime::Docker, number)));
    let process = json!({"pid": 4711, "comm": "postgres"});
    let sync = json!({
        "count": 12, "total_ns": 1_400_000_000_u64, "slow": 3, "slow_ns": 1_200_000_000_u64, "worst_ns": 800_000_000_u64,
        "window_ns": 2_000_000_000_u64, "device": "vda", "device_ns": 8_000_000, "cgroup": db.cgroup,
        "histogram": [{"below_ns": 12_800_000, "count": 9}, {"count": 3}],
        "calls": [{
            "process": process, "call": "fdatasync", "count": 12, "slow": 3, "slow_ns": 1_200_000_000_u64,
            "worst_ns": 800_000_000_u64, "file": "00000001000000\u{202e}", "file_system": "vda1",
        }],
    });
    let copied =
        json!({"bytes": 300 * MIB, "took_ns": 2_500_000_000_u64, "path": "/var/lib/model.bin", "cgroup": db.cgroup});
    let full = json!({
        "errno": "ENOSPC", "layer": "overlay-upper", "limit_bytes": 900 * MIB, "used_bytes": 900 * MIB, "available_bytes": 0,
        "inodes": 65_536, "inodes_free": 61_000, "path": "/data/base/1", "file_system": "overlay", "mount": "/",
        "upper": "/var/lib/docker/overlay2/5e5e/diff", "disk_bytes": 900 * MIB, "disk_used_bytes": 900 * MIB,
        "syscall": "write", "refused": 1, "cgroup": db.cgroup,
        "writers": [
            {"container": *hog, "charged_bytes": 700 * MIB, "given_bytes": 640 * MIB},
            {"container": *db, "given_bytes": 20 * MIB},
        ],
    });
    let held = json!({
        "limit_bytes_per_s": MIB, "used_bytes_per_s": MIB, "direction": "write", "device": "vda", "inferred": true,
        "cgroup": hog.cgroup,
    });
    vec![
        finding("io.throttled", Severity::Info, &hog, "it is at its limit", &held),
        finding("fs.no-space", Severity::Critical, &db, "write of postgres (pid 4711) got ENOSPC", &full),
        finding("fs.copy-up", Severity::Info, &db, "postgres waited 2.5 s", &copied),
        finding("io.slow-sync", Severity::Warning, &db, "fdatasync took 100 ms or more", &sync),
    ]
}

#[test]
fn what_each_finding_rests_on() {
    let app =
        App::new("io · node-7 · 6.12 · cgroup v2".to_owned(), TimeZone::UTC, &panel::tabs(&["io"]), Timestamp(NOON));
    let Ok(terminal) = Terminal::new(TestBackend::new(80, 24));
    let mut shell = Shell { app, theme: Theme::new(true, true), terminal, pace: Pace::default() };
    for finding in found() {
        shell.show(&Output::Finding(Box::new(finding)), Timestamp(NOON), Instant::now());
    }
    for name in ["slow_sync", "copy_up", "no_space", "throttled"] {
        assert!(shell.draw_if_due(Instant::now() + Duration::from_secs(1)).is_ok());
        shell.pace = Pace::default();
        insta::assert_snapshot!(format!("io_{name}_80x24"), shell.terminal.backend().to_string());
        shell.event(&Event::Key(KeyEvent::new(KeyCode::Char('j'), KeyModifiers::NONE)), Instant::now());
    }
}
