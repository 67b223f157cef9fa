//! Recordings of real events, replayed without root: what they say, and that no change to them is anybody's crash.

use std::{fs, io::Write, path::Path, process::Command, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use tracer::{
    replay::{Options, run},
    run::view::Show,
};

/// Made in a virtual machine (6.1) by `ctrace record`: a kill, an end with a status, twelve zombies, a throttled container.
const INCIDENT: &str = "tests/fixtures/recordings/incident.ctrace";

fn replayed(arguments: &[&str]) -> (String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ctrace"))
        .args(["replay", INCIDENT])
        .args(arguments)
        .env("TZ", "UTC")
        .output()
        .expect("ctrace runs");
    assert!(output.status.success(), "{output:?}");
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn as_lines_and_as_json() {
    let (lines, said) = replayed(&["--lines"]);
    assert_eq!(said, "");
    insta::assert_snapshot!("incident_lines", lines);
    let (json, said) = replayed(&["--json"]);
    assert_eq!(said, "");
    let codes: Vec<String> = json
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .filter(|line| line["type"] == "finding" && line["state"] != "update")
        .map(|line| format!("{} {} {}", line["code"], line["state"], line["container"]["id"]))
        .collect();
    insta::assert_snapshot!("incident_findings", codes.join("\n"));
    assert_eq!(replayed(&["--json"]).0, json, "it is the same each time");
}

/// The picture in the README is of this very recording, and of the screen as it is now.
#[test]
fn as_a_picture() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("incident.svg");
    replayed(&["--svg", &path.to_string_lossy(), "--size", "100x24"]);
    let (drawn, kept) = (fs::read_to_string(&path).expect("drawn"), fs::read_to_string("../docs/incident.svg"));
    assert!(drawn.contains("OOM: its own limit of 24.0 MiB was hit; shop-api (pid 163) was killed</text>"), "{drawn}");
    assert_eq!(drawn, kept.expect("docs/incident.svg"), "draw docs/incident.svg anew: README.md says how, with TZ=UTC");
}

/// The README's other picture: four containers that fail at once are read off the overview alone.
#[test]
fn an_outage_as_a_picture() {
    const OUTAGE: &str = "tests/fixtures/recordings/outage.ctrace";
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("outage.svg");
    let output = Command::new(env!("CARGO_BIN_EXE_ctrace"))
        .args(["replay", OUTAGE, "--svg", &path.to_string_lossy(), "--size", "140x24"])
        .env("TZ", "UTC")
        .output()
        .expect("ctrace runs");
    assert!(output.status.success(), "{output:?}");
    let drawn = fs::read_to_string(&path).expect("drawn");
    for (container, worst) in [
        ("a1a1a1a1a1a1", "OOM: its own limit of 24.0 MiB was hit; render"),
        ("b2b2b2b2b2b2", "write() was paused"),
        ("c3c3c3c3c3c3", "packets in"),
        ("d4d4d4d4d4d4", "forks were refused"),
    ] {
        assert!(drawn.contains(container) && drawn.contains(worst), "{container}: {drawn}");
    }
    let kept = fs::read_to_string("../docs/outage.svg").expect("docs/outage.svg");
    assert_eq!(drawn, kept, "draw docs/outage.svg anew: README.md says how, with TZ=UTC");
}

#[test]
fn one_lens_one_container_one_stretch_of_time() {
    let (all, _) = replayed(&["--json"]);
    let (oom, _) = replayed(&["oom", "--json"]);
    assert!(oom.contains("oom.container-limit") && !oom.contains("pids.zombies"));
    let (one, _) = replayed(&["--json", "--container", "c3c3"]);
    assert!(one.contains("pids.zombies") && !one.contains("oom.container-limit"));
    let (early, _) = replayed(&["--json", "--to", "4s"]);
    let (late, _) = replayed(&["--json", "--from", "4s"]);
    assert!(early.contains("oom.container-limit") && !early.contains("pids.zombies"));
    assert!(!late.contains("oom.container-limit") && late.contains("pids.zombies"));
    assert_eq!(format!("{early}{late}"), all);
}

fn replay_as(file: &Path, show: Show) -> anyhow::Result<()> {
    let options = Options { file: file.to_owned(), lens: None, container: None, from: Duration::ZERO, to: None, show };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(&options))
}

/// The header's frame, and then some lines in one more.
fn packed(lines: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for part in [&lines[..1], &lines[1..]] {
        let mut frame = zstd::Encoder::new(Vec::new(), 1).expect("memory");
        frame.include_checksum(true).expect("zstd has checksums");
        frame.write_all(&part.concat()).expect("memory");
        file.extend(frame.finish().expect("memory"));
    }
    file
}

fn incident_lines() -> Vec<Vec<u8>> {
    let content = zstd::decode_all(&fs::read(INCIDENT).expect("the fixture")[..]).expect("it is good");
    content.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

/// Whether its replay went well, and what was said on stderr.
fn ended(lines: &[Vec<u8>], from: Option<&str>) -> (bool, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("made.ctrace");
    fs::write(&path, packed(lines)).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ctrace"));
    command.args(["replay", "--lines"]).arg(&path);
    if let Some(from) = from {
        command.args(["--from", from]);
    }
    let output = command.output().expect("ctrace runs");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn with_header(change: impl FnOnce(&mut serde_json::Value)) -> Vec<Vec<u8>> {
    let mut lines = incident_lines();
    let mut header = serde_json::from_slice(&lines[0]).expect("JSON");
    change(&mut header);
    lines[0] = serde_json::to_vec(&header).expect("plain");
    lines[0].push(b'\n');
    lines
}

#[test]
fn a_container_that_was_gone_when_it_began_is_no_error() {
    let lines = with_header(|header| header["asked"]["container"] = "gone".into());
    assert_eq!(ended(&lines, None), (true, String::new()));
}

#[test]
fn a_lens_counts_once_however_often_it_is_named() {
    let lines = with_header(|header| header["lenses"] = serde_json::json!(["oom", "oom", "exits", "oom"]));
    assert_eq!(ended(&lines, None), (true, String::new()));
}

#[test]
fn a_stretch_of_time_in_which_there_is_nothing_is_refused() {
    let (ok, said) = ended(&incident_lines(), Some("1h"));
    assert!(!ok && said.starts_with("ctrace: --from 1h is beyond the end: this recording has "), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    let output = Command::new(env!("CARGO_BIN_EXE_ctrace"))
        .args(["replay", INCIDENT, "--lines", "--from", "3s", "--to", "2s"])
        .output()
        .expect("ctrace runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty());
    assert_eq!(said, "ctrace: --from 3s is not before --to 2s: nothing lies between them\n");
}

#[test]
fn what_is_never_shown_does_not_grow_without_bound() {
    let mut lines = incident_lines();
    lines.truncate(1);
    let said = br#"{"t":0,"in":{"said":{"time":"2026-11-24T13:15:28Z","code":"doubt","text":""}}}"#;
    lines.resize((1 << 18) + 2, [said.as_slice(), b"\n"].concat());
    let (ok, said) = ended(&lines, None);
    assert!(!ok && said.contains("never shown"), "{said}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    /// Not the bytes of the file, which checksums guard, but what an enemy would write: numbers, texts and records changed,
    /// lines left out, doubled and moved.
    #[test]
    fn a_forged_one_ends_well(changes in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..6, any::<prop::sample::Index>(), any::<u64>()), 1..40)) {
        let mut lines = incident_lines();
        for (line, how, at, number) in changes {
            let line = 1 + line.index(lines.len() - 1);
            match how {
                0 => drop(lines.remove(line)),
                1 => { let twice = lines[line].clone(); lines.insert(line, twice); }
                2 => { let other = 1 + at.index(lines.len() - 1); lines.swap(line, other); }
                3 => { let at = at.index(lines[line].len()); lines[line][at] = number as u8; }
                _ => {
                    let forged = [0, 1, u64::MAX, u64::MAX - 1, i64::MAX as u64, number, number >> 32, number >> 56];
                    forge(&mut lines[line], at, forged[(number % 8) as usize]);
                }
            }
        }
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("forged.ctrace");
        fs::write(&path, packed(&lines)).expect("a file");
        // It may be refused, and what is told is as wrong as what was written; it may not panic.
        prop_assert!(std::panic::catch_unwind(|| drawn(&path)).is_ok());
    }

    /// Every record of the kernel as it was but for its numbers, which are the greatest and smallest there are.
    #[test]
    fn one_with_extreme_numbers_ends_well(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0usize..EXTREMES.len()), 100..400)) {
        let mut lines = incident_lines();
        for (line, at, number) in changes {
            let line = 1 + line.index(lines.len() - 1);
            if !forge_record(&mut lines[line], at, EXTREMES[number]) {
                forge(&mut lines[line], at, EXTREMES[number]);
            }
        }
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("forged.ctrace");
        fs::write(&path, packed(&lines)).expect("a file");
        prop_assert!(std::panic::catch_unwind(|| drawn(&path)).is_ok());
    }
}

const EXTREMES: &[u64] =
    &[u64::MAX, u64::MAX - 1, u64::MAX / 2, i64::MIN as u64, i64::MIN as u64 + 1, u64::MAX / 1024, 0, 1];

/// Drawn, so that lists and their order are made of it as well.
fn drawn(path: &Path) -> anyhow::Result<()> {
    let show = Show::Picture { path: path.with_extension("svg"), size: (100, 30), color: false };
    replay_as(path, show)
}

/// Another number in a field of a kernel's record, behind its header; whether the line is one.
fn forge_record(line: &mut Vec<u8>, at: prop::sample::Index, number: u64) -> bool {
    const KEY: &str = "\"kernel\":\"";
    const HEADER: usize = 24;
    let text = String::from_utf8(line.clone()).expect("JSON");
    let Some(start) = text.find(KEY).map(|start| start + KEY.len()) else { return false };
    let end = start + text[start..].find('"').expect("it ends");
    let Ok(mut record) = STANDARD.decode(&text[start..end]) else { return false };
    let fields = (record.len().saturating_sub(HEADER)) / 8;
    if fields == 0 {
        return false;
    }
    let at = HEADER + at.index(fields) * 8;
    record[at..at + 8].copy_from_slice(&number.to_le_bytes());
    *line = format!("{}{}{}", &text[..start], STANDARD.encode(record), &text[end..]).into_bytes();
    true
}

/// Another number in the place of one; or another byte in a kernel's record.
fn forge(line: &mut Vec<u8>, at: prop::sample::Index, number: u64) {
    let starts: Vec<usize> =
        (1..line.len()).filter(|at| line[*at].is_ascii_digit() && matches!(line[at - 1], b':' | b',' | b'[')).collect();
    if starts.is_empty() {
        let at = at.index(line.len());
        line[at] = line[at].wrapping_add(1);
        return;
    }
    let start = starts[at.index(starts.len())];
    let end = (start..line.len()).find(|at| !line[*at].is_ascii_digit()).unwrap_or(line.len());
    line.splice(start..end, number.to_string().into_bytes());
}
