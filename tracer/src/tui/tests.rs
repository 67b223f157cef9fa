//! What is drawn, on a terminal that is only memory; one snapshot per view and size.

use std::{sync::Arc, time::Duration};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::{backend::TestBackend, buffer::Buffer, style::Color};
use serde_json::{Map, json};

use super::{samples::NOON, *};
use crate::{
    model::Finding,
    pipeline::{LossNote, Note},
};

const STATUS: Status = Status { events_per_s: 1234.0, lost: 0, containers: 41, cpu_pct: 0.6, rss_bytes: 14 << 20 };

fn shell(width: u16, height: u16, theme: Theme) -> Shell<TestBackend> {
    let title = "oom · node-7 · 6.12 · cgroup v2".to_owned();
    let app = App::new(title, TimeZone::UTC, &panel::tabs(&["oom"]), Timestamp(NOON));
    let Ok(terminal) = Terminal::new(TestBackend::new(width, height));
    Shell { app, theme, terminal, pace: Pace::default() }
}

fn at(width: u16, height: u16) -> Shell<TestBackend> {
    let mut shell = shell(width, height, Theme::new(true, true));
    tell(&mut shell, samples::afternoon(NOON));
    shell.status(STATUS, Instant::now());
    shell
}

fn tell(shell: &mut Shell<TestBackend>, findings: Vec<Finding>) {
    for finding in findings {
        shell.show(&Output::Finding(Box::new(finding)), Timestamp(NOON), Instant::now());
    }
}

fn press(shell: &mut Shell<TestBackend>, code: KeyCode) {
    let now = Instant::now();
    shell.event(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)), now);
    draw(shell);
}

fn draw(shell: &mut Shell<TestBackend>) {
    // Later than any gap between frames.
    let drawn = shell.draw_if_due(Instant::now() + Duration::from_secs(1));
    assert!(drawn.is_ok());
    shell.pace = Pace::default();
}

fn screen(shell: &mut Shell<TestBackend>) -> String {
    draw(shell);
    shell.terminal.backend().to_string()
}

#[test]
fn the_list_and_the_answer() {
    insta::assert_snapshot!("list_80x24", screen(&mut at(80, 24)));
    insta::assert_snapshot!("list_160x50", screen(&mut at(160, 50)));
    insta::assert_snapshot!("list_60x14", screen(&mut at(60, 14)));
}

#[test]
fn a_screen_too_small_says_what_it_needs() {
    insta::assert_snapshot!("small_40x10", screen(&mut at(40, 10)));
    // Whatever the size, nothing panics.
    for (width, height) in [(1, 1), (2, 30), (200, 3), (59, 14), (60, 13), (300, 100)] {
        let mut shell = at(width, height);
        for key in ['j', '?', 'n', 'e', ' ', '/', 'x'] {
            press(&mut shell, KeyCode::Char(key));
        }
        press(&mut shell, KeyCode::Enter);
    }
}

#[test]
fn each_kind_of_finding_has_its_detail() {
    let mut shell = at(80, 24);
    for name in ["group", "parent", "host", "hung", "past"] {
        press(&mut shell, KeyCode::Char('j'));
        insta::assert_snapshot!(format!("detail_{name}_80x24"), screen(&mut shell));
    }
}

#[test]
fn the_page_of_a_finding() {
    for (width, height) in [(80, 24), (160, 50)] {
        let mut shell = at(width, height);
        press(&mut shell, KeyCode::Enter);
        insta::assert_snapshot!(format!("page_{width}x{height}"), screen(&mut shell));
    }
    let mut shell = at(80, 24);
    press(&mut shell, KeyCode::Enter);
    press(&mut shell, KeyCode::PageDown);
    insta::assert_snapshot!("page_below_80x24", screen(&mut shell));
}

#[test]
fn popups_lie_over_the_list() {
    for (name, key) in [("help", '?'), ("explain", 'e'), ("notes", 'n')] {
        let mut shell = at(80, 24);
        let loss = LossNote {
            time: Timestamp(NOON),
            event: "oom_victim",
            container: None,
            cgroup: Some("/user.slice".to_owned()),
            count: 3,
            cause: "the ring was full",
        };
        shell.show(&Output::Loss(loss), Timestamp(NOON), Instant::now());
        press(&mut shell, KeyCode::Char(key));
        insta::assert_snapshot!(format!("{name}_80x24"), screen(&mut shell));
    }
}

#[test]
fn what_the_user_did_to_the_view_is_said() {
    let mut shell = at(80, 24);
    press(&mut shell, KeyCode::Char(' '));
    tell(&mut shell, samples::afternoon(NOON).split_off(4));
    press(&mut shell, KeyCode::Char('s'));
    press(&mut shell, KeyCode::Char('/'));
    for key in "work".chars() {
        press(&mut shell, KeyCode::Char(key));
    }
    insta::assert_snapshot!("frozen_filtered_80x24", screen(&mut shell));
}

#[test]
fn before_anything_happened_the_screen_says_what_it_waits_for() {
    let mut shell = shell(80, 24, Theme::new(true, true));
    shell.pace.data(Instant::now());
    insta::assert_snapshot!("empty_80x24", screen(&mut shell));
}

#[test]
fn ascii_where_the_terminal_is_not_utf8() {
    let mut shell = at(80, 24);
    shell.theme = Theme::new(true, false);
    let text = screen(&mut shell);
    assert!(text.is_ascii());
    insta::assert_snapshot!("ascii_80x24", text);
}

#[test]
fn no_color_is_none_at_all_and_color_is_of_the_sixteen() {
    for (color, allowed) in
        [(false, &[Color::Reset][..]), (true, &[Color::Reset, Color::Red, Color::Yellow, Color::Cyan])]
    {
        let mut shell = at(80, 24);
        shell.theme = Theme::new(color, true);
        for key in [KeyCode::Char('j'), KeyCode::Enter, KeyCode::Char('?')] {
            press(&mut shell, key);
            let cells = &shell.terminal.backend().buffer().content;
            assert!(cells.iter().all(|cell| allowed.contains(&cell.fg) && cell.bg == Color::Reset));
        }
    }
}

#[test]
fn what_containers_say_of_themselves_is_inert() {
    let hostile = "\x1b[2J\x1b]0;x\x07\u{9b}31m\n\r\t\u{202e}日本語のコンテナ名はとても長い";
    let mut finding = samples::afternoon(NOON).remove(5);
    let owner = finding.container.as_deref().cloned();
    finding.container = owner.map(|mut owner| {
        owner.name = Some(hostile.to_owned());
        owner.pod = Some(hostile.to_owned());
        owner.cgroup = hostile.to_owned();
        Arc::new(owner)
    });
    if let Some(process) = &mut finding.process {
        process.comm = hostile.to_owned();
    }
    finding.summary = format!("OOM: {hostile} was killed");
    finding.why = hostile.to_owned();
    finding.fix = vec![hostile.to_owned()];
    for key in ["cgroup", "limiting_cgroup"] {
        finding.evidence.insert(key.to_owned(), json!(hostile));
    }
    finding.evidence.insert(hostile.to_owned(), json!({hostile: [hostile]}));
    finding.evidence["victims"][0]["process"]["comm"] = json!(hostile);
    finding.evidence["trigger"]["process"]["comm"] = json!(hostile);
    finding.evidence["trigger"]["container"]["name"] = json!(hostile);
    finding.unknown.insert("order", hostile.to_owned());

    for unicode in [true, false] {
        for (width, height) in [(80, 24), (160, 50), (40, 10)] {
            let mut shell = shell(width, height, Theme::new(true, unicode));
            shell.app.title = hostile.to_owned();
            tell(&mut shell, vec![finding.clone()]);
            let note = Note { time: Timestamp(NOON), code: "odd", text: hostile.to_owned(), fields: Map::new() };
            shell.show(&Output::Note(note), Timestamp(NOON), Instant::now());
            for key in ['k', 'n', 'n', 'e', 'e', '/', '\x1b', '\u{202e}', '日'] {
                press(&mut shell, KeyCode::Char(key));
                assert_inert(shell.terminal.backend().buffer(), unicode);
            }
            press(&mut shell, KeyCode::Esc);
            press(&mut shell, KeyCode::Enter);
            for _ in 0..6 {
                assert_inert(shell.terminal.backend().buffer(), unicode);
                press(&mut shell, KeyCode::PageDown);
            }
        }
    }
    // Wide characters move no column.
    let mut shell = shell(80, 24, Theme::new(true, true));
    tell(&mut shell, samples::afternoon(NOON));
    tell(&mut shell, vec![finding]);
    draw(&mut shell);
    let buffer = shell.terminal.backend().buffer();
    let limit_ends: Vec<u16> = (3..7)
        .filter_map(|y| (0..79).find(|x| buffer[(*x, y)].symbol() == "M" && buffer[(x + 2, y)].symbol() == "B"))
        .collect();
    assert!(limit_ends.len() >= 2 && limit_ends.iter().all(|x| *x == limit_ends[0]), "{limit_ends:?}");
}

fn assert_inert(buffer: &Buffer, unicode: bool) {
    for cell in &buffer.content {
        let symbol = cell.symbol();
        assert!(!symbol.chars().any(char::is_control) && !symbol.contains('\u{202e}'), "{symbol:?}");
        assert!(unicode || symbol.is_ascii(), "{symbol:?}");
    }
    // The widgets drop what no terminal may see, but then the text lies about what it was: it must have been escaped.
    let width = usize::from(buffer.area.width);
    for row in buffer.content.chunks(width) {
        let line: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
        let trace = line.replace("\\x1b[2J", "").replace("\\u001b[2J", ""); // in JSON
        assert!(!trace.contains("[2J"), "{line}");
    }
}

#[test]
fn without_a_change_there_is_no_frame() {
    let mut shell = at(80, 24);
    draw(&mut shell);
    let frames = |shell: &mut Shell<TestBackend>| shell.terminal.get_frame().count();
    let drawn = frames(&mut shell);
    let mut now = Instant::now();
    for _ in 0..600 {
        now += Duration::from_millis(100);
        shell.status(STATUS, now);
        shell.show(&Output::Ask(crate::pipeline::Question::Ancestry(1)), Timestamp(NOON), now);
        let _ = shell.event(&Event::FocusGained, now);
        assert!(shell.draw_if_due(now).is_ok());
    }
    assert_eq!(frames(&mut shell), drawn);
    // And under load ten a second, each key answered within 50 ms of them.
    let start = now;
    let mut last_key = None;
    for ms in 0..1000 {
        let now = start + Duration::from_millis(ms);
        tell_at(&mut shell, now);
        if ms % 250 == 110 {
            let _ = shell.event(&Event::Key(KeyEvent::from(KeyCode::Char('j'))), now);
            last_key = Some(ms);
        }
        let before = frames(&mut shell);
        assert!(shell.draw_if_due(now).is_ok());
        if frames(&mut shell) > before
            && let Some(key) = last_key.take()
        {
            assert!(ms - key <= 50, "{} ms", ms - key);
        }
        assert!(last_key.is_none_or(|key| ms - key <= 50));
    }
    let drawn = frames(&mut shell) - drawn;
    assert!((8..=14).contains(&drawn), "{drawn} frames in a second with four keys");
}

fn tell_at(shell: &mut Shell<TestBackend>, now: Instant) {
    let note = Note { time: Timestamp(NOON), code: "odd", text: String::new(), fields: Map::new() };
    shell.show(&Output::Note(note), Timestamp(NOON), now);
}

#[test]
fn a_key_that_is_let_go_is_no_key() {
    let mut shell = at(80, 24);
    let mut key = KeyEvent::from(KeyCode::Char('q'));
    key.kind = KeyEventKind::Release;
    assert_eq!(shell.event(&Event::Key(key), Instant::now()), Effect::None);
    key.kind = KeyEventKind::Press;
    assert_eq!(shell.event(&Event::Key(key), Instant::now()), Effect::Quit);
}
