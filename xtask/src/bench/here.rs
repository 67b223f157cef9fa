//! The measuring itself: as root, on the kernel that it finds itself on, one group, round by round.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    checks,
    load::{self, Kind},
    procfs, stats,
    subjects::{self, Group, Maker, Subject},
    tcp,
    tool::{self, Tool},
};
use crate::process;

/// Subject, metric, one value a round.
pub type Samples = BTreeMap<String, BTreeMap<String, Vec<f64>>>;
/// Each subject that doesn't run here, and why.
pub type LeftOut = BTreeMap<String, String>;

#[derive(clap::Args)]
pub struct Args {
    group: String,
    #[arg(long)]
    ctrace: PathBuf,
    #[arg(long)]
    rounds: u32,
    #[arg(long)]
    out: PathBuf,
}

/// How much of each load, and at which rate a second (0: as fast as it can be).
fn amount(kind: Kind, in_guest: bool) -> (u32, u32) {
    match (kind, in_guest) {
        (Kind::Exits | Kind::Signals, false) => (20_000, 20_000),
        (Kind::Exits | Kind::Signals | Kind::Requests, true) => (500, 0),
        (Kind::Requests, false) => (20_000, 0),
        (Kind::Packets, _) => (200_000, 100_000),
        (Kind::Kills, false) => (20, 20),
        (Kind::Kills, true) => (10, 0),
        (Kind::Checks, _) => (1_000_000, 0),
        // It has its own.
        (Kind::Tcp, _) => (0, 0),
        (Kind::Wakeups | Kind::Floods, _) => (400_000, 0),
    }
}

/// The hidden command: measures one group and writes the samples as JSON.
pub fn command(args: &Args) -> Result<ExitCode> {
    let group = subjects::by_name(&args.group).with_context(|| format!("no group {}", args.group))?;
    mount_tracefs()?;
    // Where the load itself is timed, counting its programs' time would be in it.
    let timed = group.loads.iter().any(|kind| kind.is_timed());
    let _counted = if timed { None } else { Some(stats::enable()?) };
    let _container = if group.loads == [Kind::Checks] { Some(checks::Container::make()?) } else { None };
    let folder = std::env::temp_dir().join(format!("ctrace-bench-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let samples = measure(group, args, &folder.join("output"));
    let _ = fs::remove_dir_all(&folder);
    fs::write(&args.out, serde_json::to_string(&samples?)?)?;
    Ok(ExitCode::SUCCESS)
}

/// The peers' tracepoints need it. Ours goes with the mount namespace that this runs in.
fn mount_tracefs() -> Result<()> {
    if Path::new("/sys/kernel/tracing/events").exists() || Path::new("/sys/kernel/debug/tracing/events").exists() {
        return Ok(());
    }
    process::output(Command::new("mount").args(["-t", "tracefs", "tracefs", "/sys/kernel/tracing"])).map(|_| ())
}

fn measure(group: &Group, args: &Args, output: &Path) -> Result<(Samples, LeftOut)> {
    let help = process::output(Command::new(&args.ctrace).arg("--help"))?;
    let (mut samples, mut left_out) = (Samples::new(), LeftOut::new());
    let mut leave_out = |subject: &Subject, why: String| {
        eprintln!("{}: left out, {why}", subject.name);
        left_out.insert(subject.name.to_owned(), why);
    };
    let mut runs = Vec::new();
    for subject in group.subjects {
        if let Some(lens) = subjects::missing_lens(subject, &help) {
            leave_out(subject, format!("ctrace has no {lens} yet"));
            continue;
        }
        if subject.maker == Maker::Nobody {
            runs.push((subject, 0));
            continue;
        }
        // A run that isn't counted: files get cached, and it shows what being attached looks like.
        let mut tool = Tool::start(subject, &args.ctrace, output)?;
        let quiet = Duration::from_millis(if group.in_guest { 8000 } else { 1500 });
        match tool.attachments_at_rest(quiet) {
            Ok(attachments) => runs.push((subject, attachments)),
            Err(error) => leave_out(subject, format!("{error:#}")),
        }
        let _ = tool.stop();
    }
    if runs.is_empty() {
        bail!("none of {}'s tools runs here", group.name);
    }
    let mut tcp = if group.loads == [Kind::Tcp] { Some(tcp::Load::start()?) } else { None };
    let rounds = if tcp.is_some() { tcp::PAIRS } else { args.rounds };
    for number in 1..=rounds {
        for (subject, attachments) in &runs {
            eprint!("\r{}: round {number} of {rounds}, {:24}", group.name, subject.name);
            let found = match &mut tcp {
                Some(load) => pair(load, subject, *attachments, number, &args.ctrace, output),
                None => round(group, subject, *attachments, &args.ctrace, output),
            };
            let of_subject = samples.entry(subject.name.to_owned()).or_default();
            for (metric, value) in found.with_context(|| format!("measuring {}", subject.name))? {
                of_subject.entry(metric).or_default().push(value);
            }
        }
    }
    eprintln!();
    Ok((samples, left_out))
}

/// A run without the tool and one with it, back to back; which comes first alternates.
fn pair(
    load: &mut tcp::Load,
    subject: &Subject,
    attachments: usize,
    number: u32,
    ctrace: &Path,
    output: &Path,
) -> Result<Vec<(String, f64)>> {
    let with = |load: &mut tcp::Load| {
        let mut tool = Tool::start(subject, ctrace, output)?;
        if subject.maker != Maker::Nobody {
            tool.attached(attachments)?;
        }
        let found = load.run()?;
        tool.stop()?;
        Ok::<_, anyhow::Error>(found)
    };
    let (without, with) = if number.is_multiple_of(2) {
        (load.run()?, with(load)?)
    } else {
        let with = with(load)?;
        (load.run()?, with)
    };
    Ok(tcp::beside(&without, &with).into_iter().collect())
}

fn round(
    group: &Group,
    subject: &Subject,
    attachments: usize,
    ctrace: &Path,
    output: &Path,
) -> Result<Vec<(String, f64)>> {
    let mut found = Vec::new();
    let mut note = |metric: String, value: f64| found.push((metric, value));
    let mut tool = Tool::start(subject, ctrace, output)?;
    if subject.maker == Maker::Nobody {
        for kind in group.loads {
            let (count, rate) = amount(*kind, group.in_guest);
            let seconds = load::run(*kind, count, rate)?;
            note(format!("{}s/s", kind.event()), f64::from(count) / seconds);
            note(format!("asked ns/{}", kind.event()), seconds * 1e9 / f64::from(count));
        }
        return Ok(found);
    }
    note("attached ms".to_owned(), tool.attached(attachments)?.as_secs_f64() * 1e3);
    thread::sleep(Duration::from_secs(2));
    let (steady, peak) = procfs::memory(tool.pid())?;
    note("steady MB".to_owned(), steady);
    note("peak MB".to_owned(), peak);
    note("verified".to_owned(), procfs::programs(tool.pid()).verified_insns as f64);

    let mut sent = 0;
    for kind in group.loads {
        let (count, rate) = amount(*kind, group.in_guest);
        let (cpu, before) = (procfs::cpu_ns(tool.pid()), procfs::programs(tool.pid()));
        let seconds = load::run(*kind, count, rate)?;
        tool.settle();
        let (cpu, after) = (procfs::cpu_ns(tool.pid()) - cpu, procfs::programs(tool.pid()));
        let event = kind.event();
        let each = |total: u64| total as f64 / f64::from(count);
        note(format!("{event}s/s"), f64::from(count) / seconds);
        note(format!("asked ns/{event}"), seconds * 1e9 / f64::from(count));
        if subject.watches.contains(kind) {
            let (ns, hits) = (after.run_time_ns - before.run_time_ns, after.run_cnt - before.run_cnt);
            note(format!("kernel ns/{event}"), each(ns));
            note(format!("hits/{event}"), each(hits));
            note(format!("ns/hit of {event}"), ns as f64 / hits.max(1) as f64);
            note(format!("cpu ns/{event}"), each(cpu));
        }
        sent += count;
    }
    let (_, loaded) = procfs::memory(tool.pid())?;
    note("loaded peak MB".to_owned(), loaded);
    let (shown, lost) = tool::shown_and_lost(&tool.stop()?);
    if subject.line_each {
        // The load's own process ends as well.
        note("missing".to_owned(), f64::from(sent).max(shown as f64) - shown as f64);
    }
    note("said lost".to_owned(), lost as f64);
    Ok(found)
}
