//! What a container asks of its capabilities, on a terminal that is only memory.

use std::{sync::Arc, time::Duration};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::backend::TestBackend;

use super::{samples::NOON, *};
use crate::{
    findings::caps::{Evidence, Report},
    model::Runtime,
};

fn ask(capability: &str, verdict: &str, comm: &str, syscall: Option<&str>, count: u64) -> Evidence {
    let granted = verdict != "denied";
    Evidence {
        capability: Some(capability.to_owned()),
        verdict: verdict.to_owned(),
        comm: Some(comm.to_owned()),
        pid: Some(48121),
        syscall: syscall.map(str::to_owned),
        count,
        reason: match verdict {
            "needed" => "changes the owner of a file",
            "denied" => "refused, and the call failed",
            "runtime" => "asked by the runtime before the container's own program ran",
            _ => "memory accounting: who has it may use the last 3 % that are kept for root",
        }
        .to_owned(),
        source: (verdict == "probed").then(|| "mm/util.c __vm_enough_memory".to_owned()),
        granted: Some(granted),
        results: if granted { Vec::new() } else { vec!["EPERM".to_owned()] },
        stack: ["chown_common", "do_fchownat", "__x64_sys_chown"].map(str::to_owned).to_vec(),
    }
}

fn report() -> Report {
    let container = samples::container(Some("web"), Runtime::Docker, 1);
    let names = |names: &[&str]| names.iter().map(|name| format!("CAP_{name}")).collect::<Vec<_>>();
    Report {
        container: serde_json::to_value(&container).unwrap_or_default(),
        granted: names(&["CHOWN", "DAC_OVERRIDE", "KILL", "SETGID", "SETUID", "NET_BIND_SERVICE", "SYS_ADMIN"]),
        needed: names(&["CHOWN", "SETGID"]),
        evidence: vec![
            ask("CAP_CHOWN", "needed", "nginx", Some("chown"), 12),
            ask("CAP_CHOWN", "needed", "na\u{1b}[31me", Some("fchownat"), 1),
            ask("CAP_SETGID", "needed", "nginx", Some("setgroups"), 2),
            ask("CAP_SYS_RESOURCE", "denied", "nginx", Some("prlimit64"), 1),
            ask("CAP_SYS_ADMIN", "probed", "nginx", None, 1_234_567),
            ask("CAP_NET_BIND_SERVICE", "runtime", "runc", Some("bind"), 3),
        ],
        not_a_capability: vec![Evidence {
            verdict: "not_a_capability".to_owned(),
            comm: None,
            syscall: Some("keyctl".to_owned()),
            count: 4,
            reason: "its seccomp filter (which refuses before any capability is asked for), or an LSM".to_owned(),
            results: vec!["EPERM".to_owned()],
            ..Evidence::default()
        }],
        equal_root: [("CAP_SYS_ADMIN".to_owned(), "mounts file systems".to_owned())].into(),
        startup_seen: true,
        ..Report::default()
    }
}

fn shell(width: u16, height: u16) -> Shell<TestBackend> {
    let tabs = panel::tabs(&["caps"]);
    let app = App::new("caps · node-7 · 6.12 · cgroup v2".to_owned(), TimeZone::UTC, &tabs, Timestamp(NOON));
    let Ok(terminal) = Terminal::new(TestBackend::new(width, height));
    Shell { app, theme: Theme::new(true, true), terminal, pace: Pace::default() }
}

fn show(shell: &mut Shell<TestBackend>, report: &Report) -> bool {
    let before = shell.app.show(&Output::CapsSoFar(Box::new(report.clone())), Timestamp(NOON));
    shell.pace.data(Instant::now());
    before
}

fn press(shell: &mut Shell<TestBackend>, code: KeyCode) -> String {
    shell.event(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)), Instant::now());
    screen(shell)
}

fn screen(shell: &mut Shell<TestBackend>) -> String {
    shell.pace.data(Instant::now());
    assert!(shell.draw_if_due(Instant::now() + Duration::from_secs(1)).is_ok());
    shell.pace = Pace::default();
    shell.terminal.backend().to_string()
}

#[test]
fn each_capability_has_its_verdict() {
    for (width, height) in [(80, 24), (120, 40), (160, 50)] {
        let mut shell = shell(width, height);
        show(&mut shell, &report());
        insta::assert_snapshot!(format!("caps_{width}x{height}"), screen(&mut shell));
    }
}

#[test]
fn the_page_of_a_capability_says_who_asked_from_where() {
    let mut shell = shell(80, 24);
    show(&mut shell, &report());
    insta::assert_snapshot!("caps_page_80x24", press(&mut shell, KeyCode::Enter));
}

/// What is chosen stays chosen while the counts go up, and nothing is drawn where nothing has changed.
#[test]
fn a_newer_reading_takes_the_place_of_the_older() {
    let mut shell = shell(80, 24);
    assert!(show(&mut shell, &report()));
    press(&mut shell, KeyCode::Char('j'));
    assert!(!show(&mut shell, &Report { watched_ns: 5, ..report() }), "only time has passed");
    let mut newer = report();
    newer.evidence[2].count = 77;
    newer.evidence.push(ask("CAP_KILL", "needed", "nginx", Some("kill"), 1));
    assert!(show(&mut shell, &newer));
    let screen = screen(&mut shell);
    assert!(screen.contains("CAP_SETGID: changes") && screen.contains("in setgroups, 77 times"), "{screen}");
    let row = |name: &str| screen.lines().position(|line| line.contains(name));
    assert!(row("KILL  ") < row("SETGID  ") && row("SETGID  ") < row("SYS_RESOURCE"), "{screen}");
    assert_eq!(shell.app.capabilities.rows().len(), 9);
    // Of another container beside it.
    let other = samples::container(Some("db"), Runtime::Docker, 2);
    show(&mut shell, &Report { container: serde_json::to_value(Arc::new(other)).unwrap_or_default(), ..report() });
    assert_eq!(shell.app.capabilities.rows().len(), 18);
}

#[test]
fn nothing_yet() {
    let mut shell = shell(80, 24);
    let text = screen(&mut shell);
    assert!(text.contains("Nothing was asked for so far"), "{text}");
}

/// `ctrace` alone: two containers, of which the second was chosen, and the tab opened.
fn overview(width: u16, height: u16) -> Shell<TestBackend> {
    let tabs = panel::tabs(&["oom", "exits", "signals", "pids", "mem", "io", "cpu", "net", "caps"]);
    let app = App::new("overview · node-7 · 6.12 · cgroup v2".to_owned(), TimeZone::UTC, &tabs, Timestamp(NOON));
    let Ok(terminal) = Terminal::new(TestBackend::new(width, height));
    let mut shell = Shell { app, theme: Theme::new(true, true), terminal, pace: Pace::default() };
    let all = [("web", 1), ("db", 2)].map(|(name, id)| Arc::new(samples::container(Some(name), Runtime::Docker, id)));
    shell.containers(all.to_vec(), Instant::now());
    screen(&mut shell);
    shell
}

/// The tab caps is the last one.
fn open(shell: &mut Shell<TestBackend>) -> String {
    press(shell, KeyCode::BackTab)
}

fn asked_for(shell: &Shell<TestBackend>) -> Option<String> {
    shell.app.asks_for().map(|container| container.label())
}

#[test]
fn in_the_overview_it_is_of_the_container_that_was_chosen() {
    let mut shell = overview(80, 24);
    assert_eq!(asked_for(&shell), None, "nobody looks");
    let text = open(&mut shell);
    assert!(text.contains("What web asks of its capabilities is watched once this tab"), "{text}");
    assert_eq!(asked_for(&shell), Some("web".to_owned()));
    // A worse one does not take its place while the tab is open.
    press(&mut shell, KeyCode::Tab);
    assert_eq!(asked_for(&shell), None, "the overview");
    press(&mut shell, KeyCode::Char('j'));
    open(&mut shell);
    assert_eq!(asked_for(&shell), Some("db".to_owned()));
    show(&mut shell, &report());
    let text = screen(&mut shell);
    assert!(text.contains("What db asks of its capabilities is watched once") && !text.contains("CHOWN"), "{text}");
    press(&mut shell, KeyCode::Tab);
    press(&mut shell, KeyCode::Char('k'));
    for (width, height) in [(80, 24), (120, 40), (160, 50)] {
        let mut shell = overview(width, height);
        open(&mut shell);
        show(&mut shell, &Report { startup_seen: false, watched_ns: 75_000_000_000, ..report() });
        insta::assert_snapshot!(format!("caps_tab_{width}x{height}"), screen(&mut shell));
    }
}

#[test]
fn where_no_container_is_chosen_it_says_how_to_choose_one() {
    let mut shell = overview(80, 24);
    press(&mut shell, KeyCode::Char('/'));
    "nothing".chars().for_each(|char| drop(press(&mut shell, KeyCode::Char(char))));
    press(&mut shell, KeyCode::Enter);
    let text = open(&mut shell);
    assert!(text.contains("No container is chosen. Choose one in the tab overview"), "{text}");
    assert_eq!(asked_for(&shell), None);
}

/// A replay has what was watched, and begins no watch.
#[test]
fn in_a_replay_nothing_is_asked_for() {
    let mut shell = overview(80, 24);
    shell.app.position = Some(Position::default());
    let text = open(&mut shell);
    assert!(text.contains("What web asks of its capabilities was not watched in this recording"), "{text}");
    assert_eq!(asked_for(&shell), None);
    show(&mut shell, &report());
    let text = screen(&mut shell);
    assert!(text.contains("CHOWN") && !text.contains("not watched"), "{text}");
}

/// Time alone is told in steps, and with the whole of what is known.
#[test]
fn how_long_it_was_watched() {
    let mut shell = overview(80, 24);
    open(&mut shell);
    let of = |seconds: u64, ended| {
        let none = Report { evidence: Vec::new(), not_a_capability: Vec::new(), granted: Vec::new(), ..report() };
        let one = vec![ask("CAP_CHOWN", "needed", "nginx", Some("chown"), 12)];
        Report { startup_seen: false, watched_ns: seconds * 1_000_000_000, ended, evidence: one, ..none }
    };
    assert!(show(&mut shell, &of(61, false)));
    assert!(!show(&mut shell, &of(119, false)), "the same minute");
    assert!(show(&mut shell, &of(120, false)));
    let text = screen(&mut shell);
    assert!(text.contains("watched 2 min, its start was not seen") && !text.contains("has ended"), "{text}");
    assert!(show(&mut shell, &of(120, true)));
    let text = screen(&mut shell);
    assert!(text.contains("its start was not seen, and it has ended"), "{text}");
}
