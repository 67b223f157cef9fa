//! The overview, the timeline and the rows of events, on a terminal that is only memory.

use std::{sync::Arc, time::Duration};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::backend::TestBackend;
use serde_json::{Map, json};

use super::{samples::NOON, *};
use crate::{
    model::{Code, Container, Finding, Process, Runtime, Severity, State},
    pipeline::{EventRow, SampleRow},
};

fn shell(width: u16, height: u16) -> Shell<TestBackend> {
    let tabs = panel::tabs(&["oom", "exits", "signals", "pids"]);
    let app = App::new("overview · node-7 · 6.12 · cgroup v2".to_owned(), TimeZone::UTC, &tabs, Timestamp(NOON));
    let Ok(terminal) = Terminal::new(TestBackend::new(width, height));
    Shell { app, theme: Theme::new(true, true), terminal, pace: Pace::default() }
}

fn here(name: &str, number: u64) -> Arc<Container> {
    Arc::new(samples::container(Some(name), Runtime::Docker, number))
}

fn finding(code: &'static str, severity: Severity, container: &Arc<Container>, ago_s: i64, summary: &str) -> Finding {
    let mut finding = samples::afternoon(NOON).remove(0);
    finding.code = Code(code);
    finding.severity = severity;
    finding.id = format!("{code}-{ago_s}");
    finding.time = Timestamp(NOON - ago_s * 1_000_000_000);
    finding.container = Some(Arc::clone(container));
    summary.clone_into(&mut finding.summary);
    (finding.state, finding.refers_to) = (None, None);
    finding
}

fn tell(shell: &mut Shell<TestBackend>, output: &Output) {
    shell.show(output, Timestamp(NOON), Instant::now());
}

fn found(shell: &mut Shell<TestBackend>, finding: Finding) {
    tell(shell, &Output::Finding(Box::new(finding)));
}

fn exit(pid: u32, code: u64) -> Output {
    let fields = json!({"lifetime_ns": 1_500_000_000_u64, "exit_code": code, "signal": null});
    let process = Process { pid, tid: pid, ns_pid: Some(7), ppid: Some(1), comm: "worker".to_owned(), uid: Some(0) };
    Output::Event(Box::new(EventRow {
        time: Timestamp(NOON),
        event: "exit",
        container: Some(here("web", 1)),
        cgroup: None,
        process: Some(process),
        fields: fields.as_object().cloned().unwrap_or_default(),
        unknown: crate::model::Unknown::new(),
    }))
}

fn press(shell: &mut Shell<TestBackend>, code: KeyCode) {
    shell.event(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)), Instant::now());
}

fn screen(shell: &mut Shell<TestBackend>) -> String {
    assert!(shell.draw_if_due(Instant::now() + Duration::from_secs(1)).is_ok());
    shell.pace = Pace::default();
    shell.terminal.backend().to_string()
}

fn names(shell: &mut Shell<TestBackend>) -> Vec<String> {
    shell.app.refresh();
    shell.app.rows().iter().map(|row| panel::whom(&row.finding)).collect()
}

/// Five containers, in the order in which they should stand: killed, warned, informed, and two that are well.
fn incident(width: u16, height: u16) -> Shell<TestBackend> {
    let mut shell = shell(width, height);
    let all = [here("api", 1), here("db", 2), here("cache", 3), here("batch", 4), here("web", 5)];
    found(&mut shell, finding("exit.error", Severity::Info, &all[2], 5, "worker (pid 9) ended with status 1"));
    found(
        &mut shell,
        finding("pids.zombies", Severity::Warning, &all[1], 60, "12 zombies: java (pid 77) does not reap"),
    );
    found(&mut shell, finding("exit.error", Severity::Info, &all[0], 1, "worker (pid 12) ended with status 1"));
    found(
        &mut shell,
        finding(
            "oom.container-limit",
            Severity::Critical,
            &all[0],
            90,
            "OOM: its own limit of 512.0 MiB was hit; java (pid 4711) was killed",
        ),
    );
    let mut fields = Map::new();
    fields.insert("current".to_owned(), json!(41));
    fields.insert("limit".to_owned(), json!(512));
    tell(
        &mut shell,
        &Output::Sample(Box::new(SampleRow {
            time: Timestamp(NOON),
            sample: "pids",
            container: Some(Arc::clone(&all[0])),
            cgroup: None,
            fields,
            unknown: crate::model::Unknown::new(),
        })),
    );
    shell.containers(all.to_vec(), Instant::now());
    shell
}

#[test]
fn the_worst_container_stands_on_top() {
    let mut shell = incident(80, 24);
    assert_eq!(names(&mut shell), ["api", "db", "cache", "batch", "web"]);
    insta::assert_snapshot!("overview_80x24", screen(&mut shell));
    insta::assert_snapshot!("overview_160x50", screen(&mut incident(160, 50)));
}

#[test]
fn a_state_that_is_over_and_a_kill_of_long_ago_are_no_longer_the_worst() {
    let mut shell = shell(80, 24);
    let (old, over, fresh) = (here("old", 1), here("over", 2), here("fresh", 3));
    found(&mut shell, finding("oom.container-limit", Severity::Critical, &old, 16 * 60, "OOM"));
    let mut state = finding("pids.limit", Severity::Critical, &over, 60, "at its limit");
    state.state = Some(State::Open);
    found(&mut shell, state.clone());
    found(&mut shell, finding("exit.error", Severity::Info, &fresh, 14 * 60, "ended with status 1"));
    shell.containers(vec![old, over, fresh], Instant::now());
    assert_eq!(names(&mut shell), ["over", "fresh", "old"]);
    state.state = Some(State::Closed);
    found(&mut shell, state);
    assert_eq!(names(&mut shell)[0], "fresh");
}

#[test]
fn a_container_that_is_gone_stays_while_what_was_found_is_fresh() {
    let mut shell = shell(80, 24);
    let (gone, long_gone) = (here("gone", 1), here("long-gone", 2));
    found(&mut shell, finding("oom.container-limit", Severity::Critical, &gone, 10, "OOM"));
    found(&mut shell, finding("oom.container-limit", Severity::Critical, &long_gone, 3600, "OOM"));
    shell.containers(vec![here("web", 5)], Instant::now());
    assert_eq!(names(&mut shell), ["gone", "web"]);
}

#[test]
fn a_containers_page_has_all_that_was_found_in_it() {
    let mut shell = incident(80, 24);
    screen(&mut shell);
    press(&mut shell, KeyCode::Enter);
    let page = screen(&mut shell);
    assert!(page.contains("what was found here") && page.contains("ended with status 1"), "{page}");
    assert!(page.contains("current") && page.contains("512"), "{page}");
    assert!(!page.contains("does not reap"), "of another container: {page}");
}

#[test]
fn the_timeline_has_every_finding_and_no_event() {
    let mut shell = incident(80, 24);
    tell(&mut shell, &exit(50, 0));
    press(&mut shell, KeyCode::Tab);
    let codes: Vec<&str> = shell.app.rows().iter().map(|row| row.finding.code.0).collect();
    assert_eq!(codes, ["exit.error", "exit.error", "pids.zombies", "oom.container-limit"]);
    insta::assert_snapshot!("timeline_80x24", screen(&mut shell));
}

#[test]
fn an_exit_is_a_row_of_its_own_unless_its_finding_tells_of_it() {
    let mut shell = shell(80, 24);
    tell(&mut shell, &exit(50, 0));
    tell(&mut shell, &exit(51, 3));
    found(&mut shell, finding("exit.error", Severity::Info, &here("web", 1), 0, "worker (pid 51) ended with status 3"));
    (0..3).for_each(|_| press(&mut shell, KeyCode::Tab));
    let said: Vec<&str> = shell.app.rows().iter().map(|row| row.finding.summary.as_str()).collect();
    assert_eq!(said, ["worker (pid 51) ended with status 3", "exit 0 after 1.5s"]);
    // There is no text about an event, and so no page for it.
    press(&mut shell, KeyCode::Char('j'));
    press(&mut shell, KeyCode::Char('e'));
    assert!(shell.app.popups.is_empty());
}

#[test]
fn a_flood_of_events_is_bounded_and_counted_and_no_finding_goes_for_it() {
    let mut shell = incident(80, 24);
    for pid in 0..20_000 {
        tell(&mut shell, &exit(pid, 0));
    }
    let kept = shell.app.events.rows().count() as u64;
    assert_eq!(kept + shell.app.events.gone, 20_000);
    assert!(kept <= 500, "{kept}");
    assert_eq!(shell.app.history.rows().count(), 4);
    // A second later there is room for more.
    shell.containers(vec![here("web", 5)], Instant::now());
    tell(&mut shell, &exit(20_001, 0));
    assert_eq!(shell.app.events.rows().count() as u64, kept + 1);
}

#[test]
fn frozen_the_overview_stands_still() {
    let mut shell = incident(80, 24);
    screen(&mut shell);
    press(&mut shell, KeyCode::Char(' '));
    found(&mut shell, finding("oom.container-limit", Severity::Critical, &here("web", 5), 0, "OOM"));
    assert_eq!(names(&mut shell)[0], "api");
    press(&mut shell, KeyCode::Char(' '));
    assert_eq!(names(&mut shell)[0], "web");
}

#[test]
fn a_containers_page_has_its_last_hundred_ends() {
    let mut shell = shell(100, 140);
    for pid in 0..150 {
        tell(&mut shell, &exit(pid, u64::from(pid % 2)));
    }
    shell.containers(vec![here("web", 1), here("db", 2)], Instant::now());
    let ends = |shell: &Shell<TestBackend>, of| shell.app.overview.ends(&Some(of)).count();
    assert_eq!((ends(&shell, here("web", 1)), ends(&shell, here("db", 2))), (100, 0));
    screen(&mut shell);
    press(&mut shell, KeyCode::Enter);
    let page = screen(&mut shell);
    // Those that failed as well: their findings are no row in the list of ends.
    assert!(page.contains("worker 149: exit 1 after 1.5s") && page.contains("worker 50: exit 0"), "{page}");
    assert!(!page.contains("worker 49:"), "{page}");
}
