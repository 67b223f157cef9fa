//! What is kept of a run, written, and run again.

use std::path::Path;

use super::*;
use crate::{
    containers, lenses,
    model::State,
    recording::{Header, Reader, Wish},
};

/// Of real events.
const INCIDENT: &str = "tests/fixtures/recordings/incident.ctrace";

fn start(header: &Header) -> Run {
    let made = header.lenses.iter().filter_map(|name| lenses::by_name(name)).map(|lens| (lens.make)()).collect();
    let table = containers::Table::new(header.known.iter().cloned().collect());
    let pipeline = Pipeline::new(table, header.facts.clone(), header.boot_to_wall_ns, made);
    Run::new(pipeline, View::Nothing, header.asked.clone(), None)
}

/// All that is said of a recording, each with the records' clock when it was, and the run.
fn said(mut reader: Reader, budget: Option<(usize, usize)>) -> (Vec<(u64, Output)>, Run) {
    let header = reader.header().clone();
    let mut run = start(&header);
    run.kept = budget.map(|(budget, frame)| {
        let (at_ns, boot_to_wall_ns) = (header.started_ns, header.boot_to_wall_ns);
        Kept::of(budget, frame, Since { at_ns, boot_to_wall_ns, known: header.known, told: 0, first: true })
            .expect("it starts")
    });
    let (mut said, mut at_ns) = (Vec::new(), 0);
    for (time_ns, entry) in reader.by_ref() {
        at_ns = at_ns.max(time_ns);
        let shown = matches!(entry, Entry::Shown);
        if shown {
            said.extend(
                run.out
                    .iter()
                    .filter(|output| !matches!(output, Output::Ask(_)) && run.filter().wants(output))
                    .map(|output| (at_ns, output.clone())),
            );
        }
        if !matches!(entry, Entry::End) {
            run.enter(entry, time_ns).expect("nothing is written");
        }
        if shown {
            run.keep(at_ns);
        }
    }
    (said, run)
}

/// The file that `w` would make now.
fn written(path: &Path, header: &Header, run: &mut Run) -> Reader {
    let kept = run.kept.as_mut().expect("it is kept");
    let since = kept.since().expect("a part").clone();
    let mut recorder =
        Recorder::create(&Wish { path: path.to_owned(), force: false, max_bytes: u64::MAX }).expect("a file");
    recorder.begin(&Header {
        started_ns: since.at_ns,
        boot_to_wall_ns: since.boot_to_wall_ns,
        known: since.known,
        facts: crate::findings::HostFacts { began_later: !since.first, ..header.facts.clone() },
        gone: kept.gone(),
        ..header.clone()
    });
    kept.write(&mut recorder, []);
    recorder.end().expect("room");
    Reader::open(path).expect("it is good")
}

#[test]
fn of_a_short_run_all_comes_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let reader = Reader::open(Path::new(INCIDENT)).expect("the fixture");
    let header = reader.header().clone();
    let (live, mut run) = said(reader, Some((1 << 20, 128 << 10)));
    let back = written(&directory.path().join("kept.ctrace"), &header, &mut run);
    assert_eq!(back.header().gone, 0);
    let (replayed, _) = said(back, None);
    assert!(live.len() > 50, "{}", live.len());
    let other = replayed.iter().zip(&live).position(|(replayed, live)| replayed != live);
    assert!(other.is_none(), "{:?} was {:?}", replayed[other.unwrap_or(0)], live[other.unwrap_or(0)]);
    assert_eq!(replayed.len(), live.len());
}

/// What lasts at the beginning of what is still held, and what is found after it, is found again, of the same containers.
#[test]
fn of_a_long_run_the_end_comes_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let reader = Reader::open(Path::new(INCIDENT)).expect("the fixture");
    let header = reader.header().clone();
    let (live, mut run) = said(reader, Some((16 << 10, 4 << 10)));
    let back = written(&directory.path().join("kept.ctrace"), &header, &mut run);
    let began_ns = back.header().started_ns;
    assert!(back.header().gone > 100 && back.header().facts.began_later, "{}", back.header().gone);
    let (replayed, _) = said(back, None);
    let found = |said: &[(u64, Output)]| -> Vec<_> {
        let findings = said.iter().filter_map(|(at_ns, output)| match output {
            Output::Finding(finding) => Some((*at_ns, finding)),
            _ => None,
        });
        let mut found = Vec::new();
        for (at_ns, finding) in findings {
            if finding.state != Some(State::Update) {
                found.push((at_ns, finding.code, finding.state, finding.container.clone()));
            }
        }
        found
    };
    let all = found(&live);
    // Nothing that was found in this incident had ended by then: so what is not held was told, or lasts.
    let lasts: Vec<_> = all.iter().filter(|(_, _, state, _)| *state == Some(State::Open)).collect();
    assert!(all.iter().all(|(at_ns, ..)| *at_ns < began_ns) && lasts.len() == 2, "{all:?}");
    let replayed: Vec<_> = found(&replayed).into_iter().map(|(_, code, state, of)| (code, state, of)).collect();
    assert_eq!(replayed, lasts.into_iter().cloned().map(|(_, code, state, of)| (code, state, of)).collect::<Vec<_>>());
}
