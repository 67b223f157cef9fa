//! What the TUI shows of a recording of real events, at three sizes: the overview, a lens, a finding's page.

use std::{path::Path, time::Duration};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::backend::TestBackend;

use super::{
    keys::{Action, Play},
    *,
};
use crate::{
    containers::Table,
    lenses,
    pipeline::Pipeline,
    recording::Reader,
    run::{
        Entry, Run,
        view::{View, host_title},
    },
};

const INCIDENT: &str = "tests/fixtures/recordings/incident.ctrace";

/// The screen at the end of the recording.
fn replayed(width: u16, height: u16) -> Shell<TestBackend> {
    let mut reader = Reader::open(Path::new(INCIDENT)).expect("the fixture");
    let header = reader.header().clone();
    let names: Vec<&str> = header.lenses.iter().map(String::as_str).collect();
    let settings = Settings {
        color: false,
        title: host_title(&header.host, &header.kernel, header.facts.cgroup_version),
        zone: TimeZone::UTC,
        tabs: panel::tabs(&names),
        replay: Some(header.started),
    };
    let Ok(terminal) = Terminal::new(TestBackend::new(width, height));
    let mut shell = Shell { app: fresh(&settings), theme: Theme::new(false, true), terminal, pace: Pace::default() };
    let made = names.iter().filter_map(|name| lenses::by_name(name)).map(|lens| (lens.make)()).collect();
    let known = header.known.iter().cloned().collect();
    let pipeline = Pipeline::new(Table::new(known), header.facts.clone(), header.boot_to_wall_ns, made);
    let mut run = Run::new(pipeline, View::Nothing, header.asked.clone(), None);
    let mut at_ns = header.started_ns;
    for (time_ns, entry) in reader.by_ref() {
        at_ns = at_ns.max(time_ns);
        if matches!(entry, Entry::Shown) {
            let now = Timestamp((at_ns as i64).saturating_add(header.boot_to_wall_ns));
            for output in run.out.iter().filter(|output| run.filter().wants(output)) {
                shell.show(output, now, Instant::now());
            }
            let containers = run.pipeline.containers.containers().map(|entry| Arc::clone(entry.container)).collect();
            shell.containers(containers, Instant::now());
        }
        run.enter(entry, time_ns).expect("nothing is written");
    }
    let at_s = (at_ns - header.started_ns) / 1_000_000_000;
    shell.app.position = Some(Position { at_s, of_s: at_s, speed: Some(4), paused: true });
    shell.status(
        Status { lost: run.lost, containers: run.pipeline.containers.containers().count(), ..Status::default() },
        Instant::now(),
    );
    shell
}

fn press(shell: &mut Shell<TestBackend>, code: KeyCode) -> Effect {
    shell.event(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)), Instant::now())
}

fn screen(shell: &mut Shell<TestBackend>) -> String {
    shell.pace.key(Instant::now());
    shell.draw_if_due(Instant::now() + Duration::from_secs(1)).expect("memory");
    shell.pace = Pace::default();
    shell.terminal.backend().to_string()
}

#[test]
fn at_three_sizes() {
    for (width, height) in [(80, 24), (120, 40), (300, 100)] {
        let mut shell = replayed(width, height);
        insta::assert_snapshot!(format!("replay_overview_{width}x{height}"), screen(&mut shell));
        press(&mut shell, KeyCode::Enter);
        insta::assert_snapshot!(format!("replay_container_{width}x{height}"), screen(&mut shell));
        press(&mut shell, KeyCode::Esc);
        let oom = shell.app.tabs.iter().position(|tab| tab.panel.lens == "oom").expect("a tab");
        shell.app.tab = oom;
        insta::assert_snapshot!(format!("replay_oom_{width}x{height}"), screen(&mut shell));
    }
}

#[test]
fn keys_of_a_replay_are_its_own() {
    let mut shell = replayed(80, 24);
    for (key, play) in [
        (' ', Play::Pause),
        ('+', Play::Faster),
        ('-', Play::Slower),
        ('[', Play::Skip(-10)),
        ('}', Play::Skip(60)),
        ('0', Play::Start),
        ('$', Play::End),
    ] {
        assert_eq!(press(&mut shell, KeyCode::Char(key)), Effect::Play(play), "{key}");
    }
    assert_eq!(press(&mut shell, KeyCode::Char('w')), Effect::None, "a recording is not recorded");
    assert!(shell.app.frozen.is_none());
    let live = |key| keys::action(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE), false);
    assert_eq!([' ', 'w', '+'].map(live), [Some(Action::Freeze), Some(Action::Record), None]);
    // Where it stands, and that it is no live view, is told on the narrowest.
    assert!(screen(&mut shell).contains("replay 0:00:"));
}
