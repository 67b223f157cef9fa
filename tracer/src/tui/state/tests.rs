use std::sync::Arc;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Map, json};

use super::*;
use crate::{
    model::{Finding, Runtime},
    pipeline::LossNote,
    tui::{
        panel::tabs,
        samples::{Kill, NOON, afternoon, container, kill},
    },
};

fn app() -> App {
    App::new("oom".to_owned(), TimeZone::UTC, &tabs(&["oom"]), Timestamp(NOON))
}

fn tell(app: &mut App, findings: impl IntoIterator<Item = Finding>) {
    for finding in findings {
        assert!(app.show(&Output::Finding(Box::new(finding)), Timestamp(NOON)));
    }
}

fn filled() -> App {
    let mut app = app();
    tell(&mut app, afternoon(NOON));
    app
}

fn press(app: &mut App, code: KeyCode) -> Effect {
    app.key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn typed(app: &mut App, text: &str) {
    for char in text.chars() {
        press(app, KeyCode::Char(char));
    }
}

fn ids(app: &App) -> Vec<&str> {
    app.rows().iter().map(|row| row.finding.id.as_str()).collect()
}

fn chosen(app: &App) -> &str {
    app.chosen().map_or("", |row| &row.finding.id)
}

/// A kill in the container `name`; both made from `number`.
fn another(name: &str, number: u64) -> Vec<Finding> {
    kill(&Kill {
        code: "oom.container-limit",
        number,
        now: NOON,
        ago: -(number as i64),
        container: Some(container(Some(name), Runtime::Docker, number % 40)),
        victims: &[("stress", 1000 + number as u32, 60)],
        limit_mib: 64,
        parts: [95, 1, 0, 4],
        init_alive: Some(number.is_multiple_of(2)),
    })
}

#[test]
fn what_refers_to_a_finding_is_part_of_its_row() {
    let app = filled();
    assert_eq!(ids(&app), ["oom-4", "oom-3", "oom-2", "oom-1", "oom-hung-1", "oom-before-0"]);
    assert_eq!(app.rows()[0].followers.len(), 1);
    assert!(app.rows()[1].followers.is_empty());
}

#[test]
fn a_newer_state_replaces_the_older() {
    let mut app = filled();
    let mut hung = afternoon(NOON).remove(1);
    hung.summary = "it moves again".to_owned();
    hung.state = Some(crate::model::State::Closed);
    tell(&mut app, [hung]);
    assert_eq!(app.rows().len(), 6);
    assert_eq!(app.rows()[4].finding.summary, "it moves again");
}

#[test]
fn the_top_follows_what_is_new_and_a_chosen_row_stays_chosen() {
    let mut app = filled();
    assert_eq!(chosen(&app), "oom-4");
    tell(&mut app, another("web", 10));
    assert_eq!(chosen(&app), "oom-10");
    press(&mut app, KeyCode::Char('j'));
    assert_eq!(chosen(&app), "oom-4");
    tell(&mut app, another("web", 12));
    assert_eq!(chosen(&app), "oom-4");
    press(&mut app, KeyCode::Char('g'));
    assert_eq!(chosen(&app), "oom-12");
    press(&mut app, KeyCode::Char('G'));
    assert_eq!(chosen(&app), "oom-before-0");
    press(&mut app, KeyCode::Down);
    assert_eq!(chosen(&app), "oom-before-0");
}

#[test]
fn the_filter_follows_each_letter_and_escape_drops_it() {
    let mut app = filled();
    press(&mut app, KeyCode::Char('/'));
    typed(&mut app, "PAYments q");
    assert_eq!(ids(&app), Vec::<&str>::new(), "all words must be there; q is a letter here");
    press(&mut app, KeyCode::Backspace);
    assert_eq!(ids(&app), ["oom-2"]);
    press(&mut app, KeyCode::Enter);
    assert!(!app.typing);
    assert_eq!(press(&mut app, KeyCode::Char('k')), Effect::None);
    assert_eq!(app.filter, "payments ".to_owned().replace("pay", "PAY"));
    press(&mut app, KeyCode::Esc);
    assert_eq!(app.rows().len(), 6);
    // By what is not in the row as well: the cgroup, the code.
    for (words, expected) in [("kubepods java", "oom-4"), ("oom.hung", "oom-hung-1"), ("mysqld", "oom-1")] {
        app.filter = words.to_owned();
        assert_eq!(ids(&app), [expected], "{words}");
    }
    press(&mut app, KeyCode::Char('/'));
    assert_eq!(app.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Effect::Quit);
}

#[test]
fn sorting_goes_through_the_columns_and_back() {
    let mut app = filled();
    press(&mut app, KeyCode::Char('s'));
    assert_eq!(ids(&app)[0], "oom-1", "by container: the nameless id first");
    press(&mut app, KeyCode::Char('S'));
    assert_eq!(ids(&app)[0], "oom-before-0");
    let columns = app.tabs[0].panel.columns;
    let limit = columns.iter().position(|column| column.title == "LIMIT").unwrap_or_default();
    app.tabs[0].sort = limit;
    app.tabs[0].reversed = false;
    assert_eq!(ids(&app), ["oom-1", "oom-2", "oom-4", "oom-before-0", "oom-3", "oom-hung-1"]);
    for _ in limit..columns.len() {
        press(&mut app, KeyCode::Char('s'));
    }
    assert_eq!(ids(&app)[0], "oom-4");
}

#[test]
fn a_frozen_view_stays_while_the_data_goes_on() {
    let mut app = filled();
    press(&mut app, KeyCode::Char(' '));
    let mut hung = afternoon(NOON).remove(1);
    hung.summary = "it moves again".to_owned();
    tell(&mut app, [hung]);
    tell(&mut app, another("web", 11));
    assert_eq!(app.rows().len(), 6);
    assert_ne!(app.rows()[4].finding.summary, "it moves again");
    assert_eq!(app.frozen.as_ref().map(|frozen| frozen.new), Some(2));
    press(&mut app, KeyCode::Char(' '));
    assert_eq!(app.rows().len(), 7);
    assert!(app.frozen.is_none());
}

#[test]
fn popups_are_a_stack() {
    let mut app = filled();
    press(&mut app, KeyCode::Enter);
    press(&mut app, KeyCode::Char('e'));
    press(&mut app, KeyCode::Char('?'));
    assert_eq!(app.popups.len(), 3);
    press(&mut app, KeyCode::Char('?'));
    assert_eq!(app.popups.len(), 2);
    press(&mut app, KeyCode::Esc);
    press(&mut app, KeyCode::Esc);
    assert!(app.popups.is_empty());
    // The page is its own copy, whatever becomes of the list.
    press(&mut app, KeyCode::Enter);
    tell(&mut app, another("web", 20));
    assert_eq!(chosen(&app), "oom-4");
}

#[test]
fn a_page_scrolls_as_far_as_it_was_measured() {
    let mut app = filled();
    press(&mut app, KeyCode::Enter);
    app.measured(Measured { list: 0, page: 10, scroll: 12 });
    press(&mut app, KeyCode::PageDown);
    assert_eq!(app.popups[0].scroll, 9);
    press(&mut app, KeyCode::PageDown);
    assert_eq!(app.popups[0].scroll, 12);
    press(&mut app, KeyCode::Char('k'));
    assert_eq!(app.popups[0].scroll, 11);
    app.measured(Measured { list: 0, page: 30, scroll: 0 });
    assert_eq!(app.popups[0].scroll, 0);
}

#[test]
fn a_late_name_reaches_rows_frozen_rows_and_the_open_page() {
    let mut app = filled();
    app.filter = "mysqld".to_owned();
    press(&mut app, KeyCode::Enter);
    press(&mut app, KeyCode::Char(' '));
    let before = app.rows()[0].finding.container.clone();
    let cgroup = before.as_ref().map(|container| container.cgroup.clone());
    let note = |cgroup: Option<&str>| {
        let mut fields = Map::new();
        fields.insert(
            "container".to_owned(),
            json!({"cgroup": cgroup, "name": "orders-db", "namespace": null, "pod": null}),
        );
        Output::Note(Note { time: Timestamp(NOON), code: "named", text: String::new(), fields })
    };
    assert!(!app.show(&note(Some("/elsewhere")), Timestamp(NOON)), "nobody here has that name: no frame");
    assert!(app.show(&note(cgroup.as_deref()), Timestamp(NOON)));
    let name = |row: Option<&Row>| row.and_then(|row| row.finding.container.as_ref()).and_then(|own| own.name.clone());
    assert_eq!(name(app.chosen()).as_deref(), Some("orders-db"));
    app.popups.clear();
    assert_eq!(name(app.rows().first().copied()).as_deref(), Some("orders-db"));
    app.frozen = None;
    assert_eq!(name(app.rows().first().copied()).as_deref(), Some("orders-db"));
    assert!(before.is_some_and(|before| before.name.is_none()), "whoever else holds the container keeps it as it was");
    assert!(!app.show(&note(cgroup.as_deref()), Timestamp(NOON)), "told twice: no frame");
}

#[test]
fn losses_of_one_kind_are_one_line_with_their_sum() {
    let mut app = app();
    let loss = |count| {
        Output::Loss(LossNote {
            time: Timestamp(NOON),
            event: "oom_victim",
            container: Some(Arc::new(container(Some("web"), Runtime::Docker, 1))),
            cgroup: None,
            count,
            cause: "the ring was full",
        })
    };
    assert!(app.show(&loss(3), Timestamp(NOON)));
    app.show(
        &Output::Note(Note { time: Timestamp(NOON), code: "x", text: "hm".to_owned(), fields: Map::new() }),
        Timestamp(NOON),
    );
    app.show(&loss(4), Timestamp(NOON));
    assert_eq!(app.lost(), 7);
    let said: Vec<&str> = app.notes.newest_first().map(|said| said.text.as_str()).collect();
    assert_eq!(said, ["lost 7 × oom_victim of web: the ring was full", "hm"]);
}

#[test]
fn a_status_that_looks_the_same_is_no_change() {
    let mut app = app();
    let status = Status { events_per_s: 1234.0, lost: 0, containers: 41, cpu_pct: 0.61, rss_bytes: 14 << 20 };
    assert!(app.status(status));
    assert!(!app.status(Status { events_per_s: 1234.4, cpu_pct: 0.62, rss_bytes: (14 << 20) + 5000, ..status }));
    assert!(app.status(Status { lost: 1, ..status }));
}

#[test]
fn the_fix_is_copied_without_what_a_container_put_into_it() {
    let mut app = app();
    let mut finding = another("web", 1).remove(0);
    finding.fix = vec!["make \x1b]0;pwned\x07 use less\nrm -rf /".to_owned(), "or more memory".to_owned()];
    tell(&mut app, [finding.clone()]);
    let Effect::Copy(text) = press(&mut app, KeyCode::Char('c')) else { panic!("nothing was copied") };
    assert_eq!(text, "make \\x1b]0;pwned\\x07 use less\\nrm -rf /\nor more memory");
    assert!(app.notice.is_some());
    press(&mut app, KeyCode::Char('j'));
    assert!(app.notice.is_none(), "the answer to a key goes with the next one");
    finding.fix = vec!["é".repeat(COPY_BYTES)];
    tell(&mut app, [finding]);
    let Effect::Copy(text) = press(&mut app, KeyCode::Char('c')) else { panic!("nothing was copied") };
    assert!(text.len() <= COPY_BYTES);
}

#[test]
fn memory_is_bounded_and_what_is_gone_is_counted() {
    let mut app = app();
    press(&mut app, KeyCode::Char(' '));
    let mut told = 0;
    for number in 0..3_000 {
        let findings = another("load", number);
        told += findings.len() as u64;
        tell(&mut app, findings);
        assert!(app.history.bytes() <= HISTORY_BYTES);
    }
    let held: u64 = app.history.rows().map(|row| 1 + row.followers.len() as u64).sum();
    assert!(held > 500, "{held}");
    assert_eq!(held + app.history.gone, told);
    let weighed: usize = app.history.rows().map(Row::bytes).sum();
    assert_eq!(weighed, app.history.bytes());
}

/// For a recording that begins then: what lasts is found again by its rule, and what is told later is in it, whenever it was.
#[test]
fn what_was_over_before_is_told_apart() {
    use crate::model::State;
    let mut history = History::new(1 << 20, 0);
    let template = afternoon(NOON).remove(0);
    let mut push = |id: &str, state, refers_to: Option<&str>| {
        let mut finding = template.clone();
        (finding.id, finding.state, finding.refers_to) = (id.to_owned(), state, refers_to.map(str::to_owned));
        history.push(&finding);
        history.told()
    };
    push("over", None, None);
    push("lasts", Some(State::Open), None);
    push("closes later", Some(State::Open), None);
    push("closed", Some(State::Open), None);
    push("closed", Some(State::Closed), None);
    let then = push("follows", None, Some("over"));
    // Of the same moment as all others, and of what had been told before.
    push("later", None, None);
    push("follows later", None, Some("over"));
    push("closes later", Some(State::Closed), None);
    let told: Vec<&str> = history.told_before(then).map(|finding| finding.id.as_str()).collect();
    assert_eq!(told, ["over", "follows", "closed"]);
}
