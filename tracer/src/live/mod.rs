//! A live run: attaches, drives the pipeline with what the kernel and the files say, and shows what comes out.
//!
//! One thread, one loop. Whatever fails here ends the run with its reason; nothing runs in the background.

mod ancestry;
mod before;
mod call;
mod caps;
mod cpu;
mod demand;
mod dns;
mod flow;
pub mod host;
mod io;
mod mem;
mod namespace;
mod net;
mod pids;
mod place;
mod program;
pub mod record;
mod sleeps;
#[cfg(feature = "sockets")]
mod sockets;
mod tcp;
mod writers;

use std::{collections::BTreeSet, io::Write, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use procfs::process::{MMPermissions, MMapPath, MemoryMap};
use serde_json::{Map, Value, json};
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep_until},
};
use tracer_common::caps::WANT_NEW;

pub use self::flow::Flow;
use self::{
    before::{Log, Witnesses},
    demand::Demand,
    host::{Ground, Host},
    record::Opening,
};
use crate::{
    containers::Table,
    findings::{self, HostFacts},
    kernel::{
        diagnostics, host as machine,
        load::{Kernel, Wishes},
        plan::{self, Probe, Taken},
    },
    lenses::{ATTRIBUTION, Registered},
    model::{Container, Timestamp},
    pipeline::{Note, Output, Pipeline, Question, Record},
    privileges,
    recording::{self, Kept, Recorder, Since},
    run::{
        Entry, Run,
        filter::Asked,
        view::{Show, View, host_title},
    },
    tui::Wish,
};

/// Records taken from the ring before anything else gets its turn.
const BATCH: usize = 2048;
/// Losses, the clock and whatever waits for time are looked at this often.
const TICK: Duration = Duration::from_secs(1);
/// The counters are read so often where kills go on meanwhile.
const LOOKS_BACK: usize = 4;
/// The wall clock was set if it moved against the boot clock by more than this.
const CLOCK_STEP_NS: i64 = 1_000_000;

/// `-vv` shows what the kernel side says about itself.
const DIAGNOSTICS: u8 = 2;

/// What to show, of whom, for how long.
pub struct Options {
    /// One, or all those that the overview is made of.
    pub lenses: Vec<&'static Registered>,
    pub asked: Asked,
    /// From the moment all is attached.
    pub duration: Option<Duration>,
    pub ring_bytes: u32,
    pub show: Show,
    pub verbose: u8,
    /// Whose packets are followed one by one.
    pub flow: Option<Flow>,
    pub record: Option<recording::Wish>,
}

/// Runs until a signal, the duration's end, `q`, or until the reader of the output has gone away.
pub async fn run(options: Options) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("waiting for SIGINT")?;
    let mut kernel = attach(&options)?;
    let ground = Ground::find()?;
    let mut recorder = options.record.as_ref().map(Recorder::create).transpose()?;
    let mut end = options.duration.map(|duration| Instant::now() + duration);
    let is_oom = runs(&options.lenses, "oom");
    // Asked for by name, or from a tab of the overview.
    let (is_caps, mut caps_tab) = match (runs(&options.lenses, "caps"), has_tabs(&options)) {
        (true, true) => (false, Some(caps::OnScreen::default())),
        (asked, _) => (asked, None),
    };
    let mut log = is_oom.then(Log::read);
    let (name, release, version) = (machine::name(), machine::release(), machine::Hierarchy::of_this_host().version);
    let mut view = View::open(&options.show, &options.lenses, &host_title(&name, &release, version), None)?;
    if is_caps {
        caps::returns(true, &mut kernel)?;
    }
    let ready = ready(&kernel);
    // A wrong name ends the run before it says that it is ready.
    let waits = |probe: &Probe| probes(&options.lenses).any(|own| own.name == probe.name) && !kernel.attached(probe);
    // What is read from files instead counts from a first reading on: without that nothing is attached.
    let polls = waits(&plan::FORK_REFUSED);
    let eager = options.asked.container.is_some() || polls;
    if !eager {
        view.show(&Output::Note(ready.clone()))?;
        view.flush()?;
    }
    let (mut host, known) = Host::survey(ground);
    let mut clock = machine::boot_to_wall_ns();
    let facts = host_facts(&kernel, &host);
    let opening = Opening::new(&options, facts.clone(), ready.clone());
    let since = Since {
        at_ns: machine::boottime_ns(),
        boot_to_wall_ns: clock,
        known: known.clone().into_iter().collect(),
        told: 0,
        first: true,
    };
    if let Some(recorder) = &mut recorder {
        opening.write(recorder, &since, 0);
    }
    // Where there is a key to keep it afterwards.
    let kept = matches!(options.show, Show::Tui { .. }).then(|| Kept::new(since)).transpose()?;
    let lenses = options.lenses.iter().map(|lens| (lens.make)()).collect();
    let pipeline = Pipeline::new(Table::new(known), facts, clock, lenses);
    let mut run = Run::new(pipeline, view, options.asked.clone(), recorder);
    run.kept = kept;
    run.record(Record::Cgroups(host.cgroups()), machine::boottime_ns());
    answer(&mut run, &mut host, &mut kernel)?;
    if let Err(error) = run.enter(Entry::Surveyed, machine::boottime_ns()) {
        // A wrong name: nothing was recorded.
        run.recorder.take().into_iter().for_each(Recorder::discard);
        return Err(error);
    }
    if let Some(recorder) = &mut run.recorder {
        recorder.arrive()?;
    }
    // What grows counts from a first reading on.
    run.enter(Entry::Tick, machine::boottime_ns())?;
    answer(&mut run, &mut host, &mut kernel)?;
    if is_caps {
        let here = run.filter().here(&run.pipeline.containers);
        watch(&here, true, &mut run, &host, &mut kernel)?;
        answer(&mut run, &mut host, &mut kernel)?;
    }
    if eager {
        run.view.show(&Output::Note(ready))?;
        run.view.flush()?;
    }
    if let Some(log) = &mut log {
        look_back(log, &mut run, &mut host, &mut kernel)?;
    }
    if options.verbose >= DIAGNOSTICS && !diagnostics::BUILT_IN {
        let text = "-vv: a release build has no diagnostics in its kernel side; build with `cargo xtask build`";
        say(&mut run, "doubt", text.to_owned())?;
    }
    for text in host.doubts.drain(..).chain(log.into_iter().flat_map(|log| log.doubts)) {
        say(&mut run, "doubt", text)?;
    }
    drop_privileges(&mut kernel, &options)?;
    give_back();

    // SAFETY: the descriptor is owned by the AsyncFd from here on, and nobody else closes or replaces it.
    let ring = unsafe { AsyncFd::register_with_interest(kernel.ring_fd()?, Interest::READABLE) }
        .context("watching the ring")?;
    let mut tick = Instant::now() + TICK;
    let mut look = Some(Instant::now());
    let mut keep = false;
    let mut demands = [Demand::of_the_scheduler(), Demand::of_packets(), Demand::of_syncs()];
    loop {
        let of_cpu = host.cpu.signs.are_there(machine::boottime_ns());
        for (demand, signs) in demands.iter_mut().zip([of_cpu, false, false]) {
            let looked = demand.tabs.iter().any(|tab| run.view.looks_at(tab));
            if let Some(text) = demand.follow(looked, signs, &mut kernel) {
                say(&mut run, "doubt", text)?;
            }
        }
        answer(&mut run, &mut host, &mut kernel)?;
        if let Some(tab) = &mut caps_tab {
            follow(tab, &mut run, &mut host, &mut kernel)?;
        }
        if is_caps {
            let new = run.look(machine::boottime_ns())?;
            if !new.is_empty() {
                watch(&new, false, &mut run, &host, &mut kernel)?;
                answer(&mut run, &mut host, &mut kernel)?;
                // Waiting is no watching.
                end = options.duration.map(|duration| Instant::now() + duration);
            }
        }
        run.enter(Entry::Shown, machine::boottime_ns())?;
        if run.view.is_over() {
            return close(run);
        }
        // Not before: a recording that ends with ctrace's life would hold what happened, and not that it was shown.
        if std::mem::take(&mut keep) && !record::keep(&mut run)? {
            break;
        }
        run.keep(machine::boottime_ns());
        let now = Instant::now();
        let waits = run.filter().awaits().is_some() && is_caps;
        if end.is_some_and(|end| now >= end && !waits) || (is_caps && run.filter().is_over(&run.pipeline.containers)) {
            break;
        }
        let end = end.filter(|_| !waits);
        let now_ns = machine::boottime_ns();
        let due = run.pipeline.next_ns().map(|due| now + Duration::from_nanos(due.saturating_sub(now_ns)));
        let wake = [due, end, look].into_iter().flatten().fold(tick, Instant::min);
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            wish = run.view.input() => match wish? {
                // What was seen until now is the result.
                Wish::Quit if run.view.shows_caps() => break,
                Wish::Quit => return close(run),
                Wish::Record => {
                    let text = record::toggle(&mut run, &opening);
                    if let Some(tui) = run.view.tui() {
                        tui.notice(text);
                    }
                    keep = true;
                }
                Wish::Nothing | Wish::Play(_) => {}
            },
            ready = ring.readable() => {
                ready.context("watching the ring")?.clear_ready();
                look = Some(now);
            }
            () = sleep_until(wake) => {}
        }
        if look.is_some_and(|look| Instant::now() >= look) || Instant::now() >= tick {
            let emptied = kernel.drain(BATCH, |bytes| take(&mut run, bytes));
            let pause = if emptied { kernel.look_again() } else { Some(Duration::ZERO) };
            look = pause.map(|pause| Instant::now() + pause);
            for text in kernel.diagnostics() {
                say(&mut run, "kernel", text)?;
            }
        }
        let now_ns = machine::boottime_ns();
        run.enter(Entry::Tick, now_ns)?;
        if Instant::now() >= tick {
            tick = Instant::now() + TICK;
            let offset = machine::boot_to_wall_ns();
            if (offset - clock).abs() > CLOCK_STEP_NS {
                clock = offset;
                run.record(Record::Clock(offset), now_ns);
            }
            lost(&mut kernel, &mut run, now_ns)?;
            let looked = caps_tab.as_ref().is_some_and(|tab| tab.has_watched() && run.view.looks_at("caps"));
            if looked || run.view.shows_caps() {
                let ask = Question::Caps(findings::caps::Ask::Totals);
                let counted = host.answer(&ask, &mut kernel, &run.pipeline.containers)?;
                run.record(Record::Answer(counted), now_ns);
            }
            run.view.status(&run.pipeline, run.lost, TICK);
            keep = true;
        }
    }
    for text in kernel.diagnostics() {
        say(&mut run, "kernel", text)?;
    }
    // What is in the ring, or not ripe yet, happened in time, and is said.
    while !kernel.drain(BATCH, |bytes| take(&mut run, bytes)) {
        answer(&mut run, &mut host, &mut kernel)?;
    }
    let now_ns = machine::boottime_ns();
    lost(&mut kernel, &mut run, now_ns)?;
    run.enter(Entry::Finish, now_ns)?;
    answer(&mut run, &mut host, &mut kernel)?;
    run.enter(Entry::Shown, machine::boottime_ns())?;
    close(run)
}

fn close(mut run: Run) -> Result<()> {
    let ended = run.recorder.as_mut().map_or(Ok(()), Recorder::end);
    let alone = matches!(run.view, View::Nothing);
    // What was seen is told to its end, and the terminal given back, whatever became of the recording.
    run.view.close()?;
    ended?;
    if let Some(recorder) = run.recorder.filter(|_| alone) {
        writeln!(std::io::stderr(), "ctrace: {}, {} lost", recorder.summary(), run.lost)?;
    }
    Ok(())
}

/// A sentence of the run itself.
fn say(run: &mut Run, code: &'static str, text: String) -> Result<()> {
    run.enter(Entry::Said(note(code, text)), machine::boottime_ns())
}

fn runs(lenses: &[&Registered], name: &str) -> bool {
    lenses.iter().any(|lens| lens.name == name)
}

fn probes(lenses: &[&'static Registered]) -> impl Iterator<Item = &'static Probe> {
    lenses.iter().flat_map(|lens| lens.probes).copied()
}

fn has_tabs(options: &Options) -> bool {
    options.lenses.len() > 1 && matches!(options.show, Show::Tui { .. })
}

/// What is attached only while it is needed: on a screen with tabs. Whatever is written down is needed all the time.
fn on_demand(options: &Options) -> Vec<&'static Probe> {
    if !has_tabs(options) {
        // … but for what is too dear at times.
        return if runs(&options.lenses, "caps") { vec![&plan::CAP_OUTCOME] } else { Vec::new() };
    }
    options.lenses.iter().flat_map(|lens| lens.on_demand).copied().collect()
}

fn attach(options: &Options) -> Result<Kernel> {
    let mut wanted: Vec<&'static Probe> = probes(&options.lenses).chain(ATTRIBUTION.iter().copied()).collect();
    // Of a probe that lenses share the last place counts: what must be attached before it is.
    let mut seen = BTreeSet::new();
    wanted.reverse();
    wanted.retain(|probe| seen.insert(probe.name));
    wanted.reverse();
    if seen.contains(plan::FILE_REFUSED.name) {
        wanted.retain(|probe| probe.name != plan::CALL_REFUSED.name);
    }
    let mut wants: Vec<_> = options.lenses.iter().flat_map(|lens| lens.wants).copied().collect();
    if (options.asked.from_start || options.asked.wait) && runs(&options.lenses, "caps") {
        wants.push(("WANT_CAPS", WANT_NEW));
    }
    wants.extend(options.flow.iter().flat_map(Flow::wants));
    let maps = options.lenses.iter().flat_map(|lens| lens.maps).copied();
    let kernel = Kernel::attach(&Wishes {
        probes: wanted,
        on_demand: on_demand(options),
        ring_bytes: options.ring_bytes,
        wants,
        maps: maps.chain(options.flow.iter().flat_map(Flow::maps)).collect(),
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
fn take(run: &mut Run, bytes: bytes::Bytes) -> bool {
    let before = run.out.len();
    run.record(Record::Kernel(bytes), 0);
    !run.out[before..].iter().any(|output| matches!(output, Output::Ask(Question::Facts(..) | Question::Identity(..))))
}

/// Says what happened before ctrace was attached. What has happened since is in the ring: it is taken first, for log and
/// counters may have it too; and again while kills go on, so that the counters are of a moment that is known.
fn look_back(log: &mut Log, run: &mut Run, host: &mut Host, kernel: &mut Kernel) -> Result<()> {
    let mut witnesses = Witnesses::default();
    let mut counts = Vec::new();
    catch_up(&mut witnesses, run, host, kernel)?;
    for _ in 0..LOOKS_BACK {
        let before = witnesses.count();
        counts = before::counts(&run.pipeline.world(machine::boottime_ns()), host);
        catch_up(&mut witnesses, run, host, kernel)?;
        if witnesses.count() == before {
            break;
        }
    }
    let now_ns = machine::boottime_ns();
    for finding in log.findings(&counts, &witnesses, &run.pipeline.world(now_ns), host) {
        run.record(Record::Before(Box::new(finding)), now_ns);
    }
    Ok(())
}

/// Takes all that is in the ring.
fn catch_up(witnesses: &mut Witnesses, run: &mut Run, host: &mut Host, kernel: &mut Kernel) -> Result<()> {
    let until = Instant::now() + TICK;
    loop {
        let emptied = kernel.drain(BATCH, |bytes| {
            witnesses.hear(&bytes);
            take(run, bytes)
        });
        answer(run, host, kernel)?;
        if emptied || Instant::now() >= until {
            return Ok(());
        }
    }
}

/// Reads what the pipeline asks for, until it asks for nothing more.
fn answer(run: &mut Run, host: &mut Host, kernel: &mut Kernel) -> Result<()> {
    // An answer may raise further questions, but each about something new; the bound is against a loop of a bug's making.
    for _ in 0..8 {
        let questions: Vec<_> = run.out.extract_if(.., |output| matches!(output, Output::Ask(_))).collect();
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
            let answer = host.answer(&question, kernel, &run.pipeline.containers)?;
            run.record(Record::Answer(answer), machine::boottime_ns());
        }
    }
    Ok(())
}

/// Has the kernel side watch the capability checks of these containers.
fn watch(containers: &[Arc<Container>], ran: bool, run: &mut Run, host: &Host, kernel: &mut Kernel) -> Result<()> {
    for record in caps::watch(containers, ran, &run.pipeline.containers, host, kernel)? {
        run.record(record, machine::boottime_ns());
    }
    Ok(())
}

/// Watches the container that somebody looks at in the tab caps, and ends what is watched for nobody.
fn follow(tab: &mut caps::OnScreen, run: &mut Run, host: &mut Host, kernel: &mut Kernel) -> Result<()> {
    tab.end(&run.pipeline.containers, kernel);
    let Some(container) = tab.due(run.view.asks_for(), Instant::now()) else { return Ok(()) };
    match tab.begin(&container, kernel) {
        Ok(()) => {
            watch(&[container], true, run, host, kernel)?;
            answer(run, host, kernel)
        }
        Err(error) => {
            let text = format!("capability checks cannot be watched: {error:#}");
            if let Some(tui) = run.view.tui() {
                tui.notice(text.clone());
            }
            say(run, "doubt", text)
        }
    }
}

fn lost(kernel: &mut Kernel, run: &mut Run, now_ns: u64) -> Result<()> {
    for loss in kernel.losses()? {
        run.record(Record::Loss(loss), now_ns);
    }
    Ok(())
}

fn host_facts(kernel: &Kernel, host: &Host) -> HostFacts {
    HostFacts {
        page_bytes: machine::page_size(),
        cgroup_version: if host.hierarchy.controller.is_some() { 1 } else { 2 },
        attached: kernel.taken.iter().filter(|taken| taken.attached()).map(|taken| taken.probe.name).collect(),
        cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64),
        began_later: false,
    }
}

/// What the start needed goes back to the kernel: memory (BTF, the kernel log, runtimes' files), which glibc would keep, and
/// code that does not run again, which stays in the page cache alone.
fn give_back() {
    // SAFETY: no pointer of ours is touched: free pages alone are unmapped.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
    let maps = procfs::process::Process::myself().and_then(|own| own.maps());
    let code = |map: &&MemoryMap| {
        let (runs, changes) = (MMPermissions::EXECUTE | MMPermissions::PRIVATE, MMPermissions::WRITE);
        map.perms.contains(runs) && !map.perms.contains(changes) && matches!(map.pathname, MMapPath::Path(_))
    };
    for map in maps.iter().flat_map(|maps| maps.iter()).filter(code) {
        let (from, to) = map.address;
        // SAFETY: a private mapping of a file that nothing may write to: whatever is let go is read again when it is wanted.
        unsafe { libc::madvise(from as *mut libc::c_void, (to - from) as usize, libc::MADV_DONTNEED) };
    }
}

/// Kernels before 5.19 let nobody read a map without the privilege to load programs.
fn drop_privileges(kernel: &mut Kernel, options: &Options) -> Result<()> {
    privileges::lower_bpf()?;
    let needs_bpf = kernel.can_read_maps().is_err();
    privileges::raise()?;
    let stacks = if runs(&options.lenses, "cpu") { privileges::STACKS } else { &[] };
    let attach = if on_demand(options).is_empty() { &[] } else { privileges::ATTACH };
    privileges::drop_to(needs_bpf, &[stacks, attach].concat())
}

/// The first line of a live command: all is attached, and how.
fn ready(kernel: &Kernel) -> Note {
    let taken = &kernel.taken;
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
    let idle = taken.iter().filter(|taken| kernel.is_idle(&[taken.probe])).count();
    let when_needed = if idle > 0 { format!(", {idle} of them when they are needed") } else { String::new() };
    let mut ready = note("ready", format!("ready: {attached} of {} probes attached{when_needed}", taken.len()));
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
