//! A live run: attaches, drives the pipeline with what the kernel and the files say, and shows what comes out.
//!
//! One thread, one loop. Whatever fails here ends the run with its reason; nothing runs in the background.

use std::{
    fs,
    io::{self, Write},
    os::fd::{AsRawFd, RawFd},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep_until},
};

use crate::{
    containers::{self, Engines, HostFiles, Selection, Table},
    findings::HostFacts,
    kernel::{
        host,
        load::{Kernel, Wishes},
        plan::Taken,
    },
    lenses::{ATTRIBUTION, Registered},
    model::{Finding, Timestamp},
    pipeline::{Answer, Note, Output, Pipeline, Question, Record},
    privileges,
    tui::Tui,
    views::{json, lines},
};

/// Records taken from the ring before anything else gets its turn.
const BATCH: usize = 2048;
/// Losses, the clock and whatever waits for time are looked at this often.
const TICK: Duration = Duration::from_secs(1);
/// The wall clock was set if it moved against the boot clock by more than this.
const CLOCK_STEP_NS: i64 = 1_000_000;

/// What to show, of whom, for how long.
pub struct Options {
    pub lenses: Vec<&'static Registered>,
    pub container: Option<String>,
    pub pid: Option<u32>,
    /// From the moment all is attached.
    pub duration: Option<Duration>,
    pub ring_bytes: u32,
    pub show: Show,
}

pub enum Show {
    Lines(lines::Style),
    Json,
    Tui { color: bool },
}

/// Where what ctrace says goes.
enum View {
    Lines(lines::Style),
    Json,
    Tui(Box<Tui>),
}

/// Which findings are wanted.
struct Filter {
    /// Cgroup paths of the selected containers.
    cgroups: Option<Vec<String>>,
    pid: Option<u32>,
}

/// Runs until a signal, the duration's end, `q`, or the reader of the output going away.
pub async fn run(options: Options) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("waiting for SIGINT")?;
    let mut kernel = attach(&options)?;
    let history = crate::history::Log::read();

    let files = HostFiles::here();
    let mut host = Host::survey(&files)?;
    let mut clock = host::boot_to_wall_ns();
    let mut pipeline = pipeline(&kernel, &options, clock, host.known());
    let mut out = Vec::new();
    pipeline.record(Record::Cgroups(host.cgroups()), host::boottime_ns(), &mut out);
    answer(&mut pipeline, &mut host, &mut out);
    out.clear(); // Names found at the start are no news.
    let filter = Filter::new(&options, &pipeline)?;
    privileges::drop_to_what_a_lens_needs(&options)?;

    let mut view = View::open(&options.show)?;
    view.show(&Output::Note(ready(&kernel.taken)), &pipeline)?;
    for note in host.notes(&kernel.taken) {
        view.show(&Output::Note(note), &pipeline)?;
    }
    if options.lenses.iter().any(|lens| lens.name == "oom") {
        for finding in history.findings(&pipeline.world(), &files) {
            pipeline.record(Record::Before(Box::new(finding)), host::boottime_ns(), &mut out);
        }
    }
    let end = options.duration.map(|duration| Instant::now() + duration);
    let ring = AsyncFd::with_interest(Ring(kernel.ring_fd()), Interest::READABLE).context("watching the ring")?;
    let mut tick = Instant::now() + TICK;
    loop {
        answer(&mut pipeline, &mut host, &mut out);
        for output in out.drain(..) {
            if filter.wants(&output) && view.show(&output, &pipeline)?.is_over() {
                return view.close();
            }
        }
        view.flush()?;
        let now_ns = host::boottime_ns();
        let due = pipeline.next_ns().map(|due| Instant::now() + Duration::from_nanos(due.saturating_sub(now_ns)));
        let wake = [Some(tick), due, end].into_iter().flatten().min().unwrap_or(tick);
        tokio::select! {
            biased;
            _ = terminate.recv() => return view.close(),
            _ = interrupt.recv() => return view.close(),
            quit = view.input() => if quit? { return view.close(); },
            ready = ring.readable() => {
                let mut ready = ready.context("watching the ring")?;
                let emptied = kernel.drain(BATCH, |bytes| pipeline.record(Record::Kernel(bytes), 0, &mut out));
                if emptied {
                    ready.clear_ready();
                }
            }
            () = sleep_until(wake) => {}
        }
        let now_ns = host::boottime_ns();
        pipeline.tick(now_ns, &mut out);
        let now = Instant::now();
        if now >= tick {
            tick = now + TICK;
            let offset = host::boot_to_wall_ns();
            if (offset - clock).abs() > CLOCK_STEP_NS {
                clock = offset;
                pipeline.record(Record::Clock(offset), now_ns, &mut out);
            }
            for loss in kernel.losses()? {
                pipeline.record(Record::Loss(loss), now_ns, &mut out);
            }
        }
        if end.is_some_and(|end| now >= end) {
            // What is in the ring or not ripe yet happened in time, and is said.
            kernel.drain(usize::MAX, |bytes| pipeline.record(Record::Kernel(bytes), 0, &mut out));
            for loss in kernel.losses()? {
                pipeline.record(Record::Loss(loss), now_ns, &mut out);
            }
            while let Some(due) = pipeline.next_ns() {
                pipeline.tick(due, &mut out);
            }
            answer(&mut pipeline, &mut host, &mut out);
            for output in out.drain(..) {
                if filter.wants(&output) && view.show(&output, &pipeline)?.is_over() {
                    break;
                }
            }
            return view.close();
        }
    }
}
