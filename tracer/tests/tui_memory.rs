//! The TUI's memory after a hundred thousand findings, as the allocator counts it.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use jiff::tz::TimeZone;
// The samples say `crate::model`, as the library's own tests read them.
use tracer::model;
use tracer::{
    model::{Runtime, Timestamp},
    pipeline::Output,
    tui::{panel, state::App},
};

#[path = "../src/tui/samples.rs"]
#[expect(dead_code, reason = "the samples are shared: each user takes what it needs")]
mod samples;

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all is done by the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: passed on as it came.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: passed on as it came.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn finding() -> model::Finding {
    samples::kill(&samples::Kill {
        code: "oom.container-limit",
        number: 1,
        now: samples::NOON,
        ago: 0,
        container: Some(samples::container(Some("load"), Runtime::Docker, 1)),
        victims: &[("stress", 1000, 60), ("stress", 1001, 20)],
        limit_mib: 64,
        parts: [95, 1, 0, 4],
        init_alive: Some(false),
    })
    .remove(0)
}

#[test]
fn a_hundred_thousand_findings_fit_the_budget() {
    let mut app = App::new(String::new(), TimeZone::UTC, &panel::tabs(&["oom"]), Timestamp(samples::NOON));
    let template = finding();
    let before = HELD.load(Ordering::Relaxed);
    let mut largest = 0;
    for number in 0..100_000 {
        let mut finding = template.clone();
        finding.id = format!("oom-{number}");
        // Each of a container of its own, as on a bad day.
        finding.container = template.container.as_deref().cloned().map(Arc::new);
        app.show(&Output::Finding(Box::new(finding)), Timestamp(samples::NOON));
        if number % 1000 == 0 {
            largest = largest.max(HELD.load(Ordering::Relaxed) - before);
        }
    }
    let held = app.history.rows().count();
    let weighed = app.history.bytes();
    eprintln!("{held} rows, weighed {weighed}, at most {largest} bytes");
    assert_eq!(held as u64 + app.history.gone, 100_000);
    assert!(largest < 6 << 20, "{largest} bytes");
    assert!(weighed * 2 > largest && weighed < largest * 2, "weighed {weighed}, it is {largest}");
}
