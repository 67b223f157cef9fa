//! An hour of incidents, replayed at full speed: memory as the allocator counts it is bounded.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fs,
    io::Write,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use tracer::{
    replay::{Options, run},
    run::view::Show,
};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all is done by the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(held, Ordering::Relaxed);
        // SAFETY: passed on as it came.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: passed on as it came.
        unsafe { System.dealloc(pointer, layout) }
    }
}

const INCIDENT: &str = "tests/fixtures/recordings/incident.ctrace";
const HOUR: Duration = Duration::from_hours(1);

fn later(value: &mut Value, ns: u64) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match (key.as_str(), value.as_u64()) {
                    ("at_ns" | "since_ns" | "exit_ns", Some(then)) => *value = (then + ns).into(),
                    // Of memory it is a number.
                    ("kernel", _) if value.is_string() => {
                        let text = value.as_str().expect("base64");
                        let mut record = STANDARD.decode(text).expect("base64");
                        let then = u64::from_le_bytes(record[8..16].try_into().expect("eight"));
                        record[8..16].copy_from_slice(&(then + ns).to_le_bytes());
                        *value = STANDARD.encode(record).into();
                    }
                    _ => later(value, ns),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| later(value, ns)),
        _ => {}
    }
}

/// The incident again and again until so much time has gone.
fn repeated(path: &Path, until: Duration) {
    let content = zstd::decode_all(&fs::read(INCIDENT).expect("the fixture")[..]).expect("it is good");
    let lines: Vec<&[u8]> = content.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    let entries: Vec<Value> = lines[1..].iter().map(|line| serde_json::from_slice(line).expect("JSON")).collect();
    let times: Vec<u64> = entries.iter().filter_map(|entry| entry["t"].as_u64()).filter(|t| *t > 0).collect();
    let length = times.iter().max().expect("some") - times.iter().min().expect("some");
    let mut file = fs::File::create(path).expect("a file");
    let mut frame = |lines: &[u8]| {
        let frame = zstd::encode_all(lines, 1).expect("memory");
        file.write_all(&frame).expect("room");
    };
    frame(&[lines[0], b"\n"].concat());
    for round in 0..(until.as_nanos() as u64).div_ceil(length) {
        let mut part = Vec::new();
        for entry in entries.iter().filter(|entry| round == 0 || !matches!(entry["in"].as_str(), Some("surveyed"))) {
            if matches!(entry["in"].as_str(), Some("finish" | "end")) {
                continue;
            }
            let mut entry = entry.clone();
            if let Some(then) = entry["t"].as_u64().filter(|then| *then > 0) {
                entry["t"] = (then + round * length).into();
            }
            later(&mut entry["in"], round * length);
            serde_json::to_writer(&mut part, &entry).expect("memory");
            part.push(b'\n');
        }
        frame(&part);
    }
    frame(b"{\"t\":0,\"in\":\"end\"}\n");
}

/// The most that is held while so much time is replayed.
fn most(until: Duration) -> usize {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("hours.ctrace");
    repeated(&file, until);
    let options = Options { file, lens: None, container: None, from: Duration::ZERO, to: None, show: Show::Nothing };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let before = HELD.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    runtime.block_on(run(&options)).expect("it is good");
    MOST.load(Ordering::Relaxed) - before
}

#[test]
fn an_hour_takes_no_more_than_a_few_minutes() {
    let (minutes, hour) = (most(HOUR / 12), most(HOUR));
    eprintln!("{minutes} bytes for five minutes, {hour} for an hour");
    assert!(hour < 16 << 20, "{hour} bytes");
    // Tombs and windows are full by then.
    assert!(hour < minutes * 2, "{minutes} bytes grew to {hour}");
}
