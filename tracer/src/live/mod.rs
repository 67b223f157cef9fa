//! A live run: attaches, drives the pipeline with what the kernel and the files say, and shows what comes out.
//!
//! One thread, one loop. Whatever fails here ends the run with its reason; nothing runs in the background.

mod ancestry;
mod before;
mod caps;
mod cpu;
mod filter;
pub mod host;
mod io;
mod mem;
mod namespace;
mod net;
mod pids;
mod place;
#[cfg(feature = "sockets")]
mod sockets;
mod tcp;
mod view;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep_until},
};
use tracer_common::caps::WANT_NEW;

pub use self::filter::Rows;
use self::{
    before::Log,
    filter::Filter,
    host::{Ground, Host},
    view::View,
};
use crate::{
    containers::Table,
    findings::HostFacts,
    kernel::{
        diagnostics, host as machine,
        load::{Kernel, Wishes},
        plan::{self, Probe, Taken},
    },
    lenses::{ATTRIBUTION, Registered},
    model::{Container, Runtime, Timestamp},
    pipeline::{Note, Output, Pipeline, Question, Record},
    privileges,
    views::{caps::Format, lines},
};

/// Records taken from the ring before anything else gets its turn.
const BATCH: usize = 2048;
/// Losses, the clock and whatever waits for time are looked at this often.
const TICK: Duration = Duration::from_secs(1);
/// The wall clock was set if it moved against the boot clock by more than this.
const CLOCK_STEP_NS: i64 = 1_000_000;

/// `-vv` shows what the kernel side says about itself.
const DIAGNOSTICS: u8 = 2;

/// What to show, of whom, for how long.
pub struct Options {
    /// One, or all those that the overview is made of.
    pub lenses: Vec<&'static Registered>,
    pub container: Option<String>,
    /// For a container that is not here yet.
    pub wait: bool,
    /// Not what runs, but the next start of a container of that name.
    pub from_start: bool,
    pub runtime: Option<Runtime>,
    pub pid: Option<u32>,
    pub rows: Rows,
    /// From the moment all is attached.
    pub duration: Option<Duration>,
    pub ring_bytes: u32,
    pub show: Show,
    pub verbose: u8,
}

pub enum Show {
    Lines(lines::Style),
    Json,
    /// One report for each container at the end; all else goes to stderr.
    Caps {
        format: Format,
        style: lines::Style,
    },
    Tui {
        color: bool,
    },
}

/// Runs until a signal, the duration's end, `q`, or until the reader of the output has gone away.
pub async fn run(options: Options) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("waiting for SIGINT")?;
    let mut kernel = attach(&options)?;
    let ground = Ground::find()?;
    let mut end = options.duration.map(|duration| Instant::now() + duration);
    let (is_oom, is_caps) = (runs(&options.lenses, "oom"), runs(&options.lenses, "caps"));
    let mut log = is_oom.then(Log::read);
    let mut view = View::open(&options.show, &options.lenses)?;
    // A wrong name ends the run before it says that it is ready.
    let waits = |probe: &Probe| probes(&options.lenses).any(|own| own.name == probe.name) && !kernel.attached(probe);
    // What is read from files instead counts from a first reading on: without that nothing is attached.
    let polls = waits(&plan::FORK_REFUSED);
    let eager = options.container.is_some() || polls;
    if !eager {
        view.show(&Output::Note(ready(&kernel.taken)))?;
        view.flush()?;
    }
    let (mut host, known) = Host::survey(ground);
    let mut clock = machine::boot_to_wall_ns();
    let lenses = options.lenses.iter().map(|lens| (lens.make)()).collect();
    let mut pipeline = Pipeline::new(Table::new(known), host_facts(&kernel, &host), clock, lenses);
    let mut out = Vec::new();
    pipeline.record(Record::Cgroups(host.cgroups()), machine::boottime_ns(), &mut out);
    answer(&mut pipeline, &mut host, &mut kernel, &mut out)?;
    out.clear(); // names found at the start are no news
    let mut filter = Filter::new(&options, &pipeline.containers)?;
    // What grows counts from a first reading on.
    pipeline.tick(machine::boottime_ns(), &mut out);
    answer(&mut pipeline, &mut host, &mut kernel, &mut out)?;
    if is_caps {
        let here = filter.here(&pipeline.containers);
        watch(&here, true, &mut pipeline, &host, &mut kernel, &mut out)?;
        answer(&mut pipeline, &mut host, &mut kernel, &mut out)?;
    }
    if eager {
        view.show(&Output::Note(ready(&kernel.taken)))?;
        view.flush()?;
    }
    if let Some(wanted) = filter.awaits() {
        out.push(Output::Note(note("waiting", format!("no container {wanted} here yet: waiting for it"))));
    }
    if let Some(log) = &mut log {
        for finding in log.findings(&pipeline.world(machine::boottime_ns()), &host) {
            pipeline.record(Record::Before(Box::new(finding)), machine::boottime_ns(), &mut out);
        }
    }
    if options.verbose >= DIAGNOSTICS && !diagnostics::BUILT_IN {
        let text = "-vv: a release build has no diagnostics in its kernel side; build with `cargo xtask build`";
        out.push(Output::Note(note("doubt", text.to_owned())));
    }
    for text in host.doubts.drain(..).chain(log.into_iter().flat_map(|log| log.doubts)) {
        out.push(Output::Note(note("doubt", text)));
    }
    drop_privileges(&mut kernel, &options.lenses)?;

    // SAFETY: the descriptor is owned by the AsyncFd from here on, and nobody else closes or replaces it.
    let ring = unsafe { AsyncFd::register_with_interest(kernel.ring_fd()?, Interest::READABLE) }
        .context("watching the ring")?;
    let mut lost_so_far = 0;
    let mut tick = Instant::now() + TICK;
    let mut look = Some(Instant::now());
    loop {
        answer(&mut pipeline, &mut host, &mut kernel, &mut out)?;
        let new = found(&mut filter, &pipeline, &mut out)?;
        if is_caps && !new.is_empty() {
            watch(&new, false, &mut pipeline, &host, &mut kernel, &mut out)?;
            answer(&mut pipeline, &mut host, &mut kernel, &mut out)?;
            // Waiting is no watching.
            end = options.duration.map(|duration| Instant::now() + duration);
        }
        for output in out.drain(..).filter(|output| filter.wants(output)) {
            view.show(&output)?;
        }
        view.flush()?;
        if view.is_over() {
            return view.close();
        }
        let now = Instant::now();
        let waits = filter.awaits().is_some() && is_caps;
        if end.is_some_and(|end| now >= end && !waits) || (is_caps && filter.is_over(&pipeline.containers)) {
            break;
        }
        let end = end.filter(|_| !waits);
        let now_ns = machine::boottime_ns();
        let due = pipeline.next_ns().map(|due| now + Duration::from_nanos(due.saturating_sub(now_ns)));
        let wake = [due, end, look].into_iter().flatten().fold(tick, Instant::min);
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            quit = view.input() => if quit? { return view.close() },
            ready = ring.readable() => {
                ready.context("watching the ring")?.clear_ready();
                look = Some(now);
            }
            () = sleep_until(wake) => {}
        }
        if look.is_some_and(|look| Instant::now() >= look) || Instant::now() >= tick {
            let emptied = kernel.drain(BATCH, |bytes| take(&mut pipeline, bytes, &mut out));
            let pause = if emptied { kernel.look_again() } else { Some(Duration::ZERO) };
            look = pause.map(|pause| Instant::now() + pause);
            out.extend(kernel.diagnostics().into_iter().map(|text| Output::Note(note("kernel", text))));
        }
        let now_ns = machine::boottime_ns();
        pipeline.tick(now_ns, &mut out);
        if Instant::now() >= tick {
            tick = Instant::now() + TICK;
            let offset = machine::boot_to_wall_ns();
            if (offset - clock).abs() > CLOCK_STEP_NS {
                clock = offset;
                pipeline.record(Record::Clock(offset), now_ns, &mut out);
            }
            lost_so_far += lost(&mut kernel, &mut pipeline, now_ns, &mut out)?;
            view.status(&pipeline, lost_so_far, TICK);
        }
    }
    out.extend(kernel.diagnostics().into_iter().map(|text| Output::Note(note("kernel", text))));
    // What is in the ring, or not ripe yet, happened in time, and is said.
    while !kernel.drain(BATCH, |bytes| take(&mut pipeline, bytes, &mut out)) {
        answer(&mut pipeline, &mut host, &mut kernel, &mut out)?;
    }
    let now_ns = machine::boottime_ns();
    lost(&mut kernel, &mut pipeline, now_ns, &mut out)?;
    pipeline.finish(now_ns, &mut out);
    answer(&mut pipeline, &mut host, &mut kernel, &mut out)?;
    found(&mut filter, &pipeline, &mut out)?;
    for output in out.drain(..).filter(|output| filter.wants(output)) {
        view.show(&output)?;
    }
    view.close()
}

fn runs(lenses: &[&Registered], name: &str) -> bool {
    lenses.iter().any(|lens| lens.name == name)
}

fn probes(lenses: &[&'static Registered]) -> impl Iterator<Item = &'static Probe> {
    lenses.iter().flat_map(|lens| lens.probes).copied()
}

fn attach(options: &Options) -> Result<Kernel> {
    let mut wanted: Vec<&'static Probe> = probes(&options.lenses).chain(ATTRIBUTION.iter().copied()).collect();
    // Of a probe that lenses share the last place counts: what must be attached before it is.
    let mut seen = BTreeSet::new();
    wanted.reverse();
    wanted.retain(|probe| seen.insert(probe.name));
    wanted.reverse();
    let mut wants: Vec<_> = options.lenses.iter().flat_map(|lens| lens.wants).copied().collect();
    if (options.from_start || options.wait) && runs(&options.lenses, "caps") {
        wants.push(("WANT_CAPS", WANT_NEW));
    }
    let kernel = Kernel::attach(&Wishes {
        probes: wanted,
        ring_bytes: options.ring_bytes,
        wants,
        maps: options.lenses.iter().flat_map(|lens| lens.maps).copied().collect(),
        diagnostics: options.verbose >= DIAGNOSTICS,
    })?;
    let is_lost = |taken: &&Taken| !taken.attached() && taken.probe.without.is_none();
    // The overview does without what is missing, and says so where it is ready.
    if let ([lens], Some(taken)) = (options.lenses.as_slice(), kernel.taken.iter().find(is_lost)) {
        let reasons: Vec<String> = taken.refused.iter().map(|(way, why)| format!("{way}: {why}")).collect();
        anyhow::bail!(
            "ctrace {} cannot work on this kernel: {} ({}). `ctrace doctor` tells more",
            lens.name,
            taken.probe.name,
            reasons.join("; ")
        );
    }
    Ok(kernel)
}

/// Takes a record; whether the next one may follow at once. A new container's files are read first: what it does is told
/// with its name, and it may live for 10 ms.
fn take(pipeline: &mut Pipeline, bytes: bytes::Bytes, out: &mut Vec<Output>) -> bool {
    let before = out.len();
    pipeline.record(Record::Kernel(bytes), 0, out);
    !out[before..].iter().any(|output| matches!(output, Output::Ask(Question::Facts(..) | Question::Identity(..))))
}

/// Reads what the pipeline asks for, until it asks for nothing more.
fn answer(pipeline: &mut Pipeline, host: &mut Host, kernel: &mut Kernel, out: &mut Vec<Output>) -> Result<()> {
    // An answer may raise further questions, but each about something new; the bound is against a loop of a bug's making.
    for _ in 0..8 {
        let questions: Vec<_> = out.extract_if(.., |output| matches!(output, Output::Ask(_))).collect();
        if questions.is_empty() {
            break;
        }
        let mut surveyed = false;
        for output in questions {
            let Output::Ask(question) = output else { continue };
            // One survey answers for every path that says nothing.
            if matches!(question, Question::Identity(..)) && std::mem::replace(&mut surveyed, true) {
                continue;
            }
            let answer = host.answer(&question, kernel, &pipeline.containers)?;
            pipeline.record(Record::Answer(answer), machine::boottime_ns(), out);
        }
    }
    Ok(())
}

/// Containers that are meant and that were not here before: said before what happened in them.
fn found(filter: &mut Filter, pipeline: &Pipeline, out: &mut Vec<Output>) -> Result<Vec<Arc<Container>>> {
    let new = filter.look(&pipeline.containers)?;
    for (at, container) in new.iter().enumerate() {
        let mut found = note("found", format!("here is {}: {}", container.label(), container.cgroup));
        found.fields.insert("container".to_owned(), serde_json::to_value(container).unwrap_or_default());
        out.insert(at, Output::Note(found));
    }
    Ok(new)
}

/// Has the kernel side watch the capability checks of these containers.
fn watch(
    containers: &[Arc<Container>],
    ran: bool,
    pipeline: &mut Pipeline,
    host: &Host,
    kernel: &mut Kernel,
    out: &mut Vec<Output>,
) -> Result<()> {
    for record in caps::watch(containers, ran, &pipeline.containers, host, kernel)? {
        pipeline.record(record, machine::boottime_ns(), out);
    }
    Ok(())
}

fn lost(kernel: &mut Kernel, pipeline: &mut Pipeline, now_ns: u64, out: &mut Vec<Output>) -> Result<u64> {
    let mut count = 0;
    for loss in kernel.losses()? {
        count += loss.count;
        pipeline.record(Record::Loss(loss), now_ns, out);
    }
    Ok(count)
}

fn host_facts(kernel: &Kernel, host: &Host) -> HostFacts {
    HostFacts {
        page_bytes: machine::page_size(),
        cgroup_version: if host.hierarchy.controller.is_some() { 1 } else { 2 },
        attached: kernel.taken.iter().filter(|taken| taken.attached()).map(|taken| taken.probe.name).collect(),
        cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64),
    }
}

/// Kernels before 5.19 let nobody read a map without the privilege to load programs.
fn drop_privileges(kernel: &mut Kernel, lenses: &[&Registered]) -> Result<()> {
    privileges::lower_bpf()?;
    let needs_bpf = kernel.can_read_maps().is_err();
    privileges::raise()?;
    privileges::drop_to(needs_bpf, runs(lenses, "cpu"))
}

/// The first line of a live command: all is attached, and how.
fn ready(taken: &[Taken]) -> Note {
    let mut probes = Map::new();
    let mut unknown = Map::new();
    for taken in taken {
        let hook = taken.branch.map(|branch| branch.hook.to_string());
        if hook.is_none() {
            let why = taken.refused.first().map_or_else(String::new, |(_, why)| why.clone());
            unknown.insert(taken.probe.name.to_owned(), Value::String(why));
        }
        probes.insert(taken.probe.name.to_owned(), json!(hook));
    }
    let attached = taken.iter().filter(|taken| taken.attached()).count();
    let mut ready = note("ready", format!("ready: {attached} of {} probes attached", taken.len()));
    ready.fields.insert("probes".to_owned(), Value::Object(probes));
    if !unknown.is_empty() {
        ready.fields.insert("unknown".to_owned(), Value::Object(unknown));
    }
    ready
}

fn note(code: &'static str, text: String) -> Note {
    let time = Timestamp((machine::boottime_ns() as i64).saturating_add(machine::boot_to_wall_ns()));
    Note { time, code, text, fields: Map::new() }
}
