//! The TUI with findings that never happened, to be looked at: `cargo run --example tui [-- flood]`.
//!
//! `flood` adds a thousand findings a second, `empty` has none, `panic` panics, to see the terminal given back.

// The samples say `crate::model`, as the library's own tests read them.
use tracer::model;

#[path = "../src/tui/samples.rs"]
#[expect(dead_code, reason = "the samples are shared: each user takes what it needs")]
mod samples;

use std::{io, time::Duration};

use tokio::time::{Instant, interval};
use tracer::{
    model::Runtime,
    pipeline::Output,
    tui::{Settings, Status, Tui, Wish, panel},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let wish = std::env::args().nth(1).unwrap_or_default();
    let mut tui = Tui::open(Settings {
        color: std::env::var_os("NO_COLOR").is_none(),
        title: "oom · node-7 · 6.12 · cgroup v2".to_owned(),
        zone: jiff::tz::TimeZone::UTC,
        tabs: panel::tabs(&["oom"]),
        replay: None,
    })?;
    if wish != "empty" {
        for finding in samples::afternoon(now()) {
            tui.show(&Output::Finding(Box::new(finding)));
        }
    }
    tui.status(Status { events_per_s: 1234.0, lost: 0, containers: 41, cpu_pct: 0.6, rss_bytes: 14 << 20 });
    let mut tick = interval(Duration::from_millis(1));
    let start = Instant::now();
    let mut number = 100;
    loop {
        tokio::select! {
            biased;
            wish = tui.input() => if wish? == Wish::Quit { return tui.close() },
            _ = tick.tick(), if wish == "flood" => {
                number += 1;
                for finding in flood(number) {
                    tui.show(&Output::Finding(Box::new(finding)));
                }
            }
            () = tokio::time::sleep_until(start + Duration::from_secs(2)), if wish == "panic" => panic!("as asked for"),
        }
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_nanosecond() as i64
}

fn flood(number: u64) -> Vec<model::Finding> {
    let name = format!("load-{}", number % 40);
    samples::kill(&samples::Kill {
        code: "oom.container-limit",
        number,
        now: now(),
        ago: 0,
        container: Some(samples::container(Some(&name), Runtime::Docker, number % 40)),
        victims: &[("stress", 1000 + number as u32, 60)],
        limit_mib: 64,
        parts: [95, 1, 0, 4],
        init_alive: Some(number.is_multiple_of(2)),
    })
}
