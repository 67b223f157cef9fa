//! The command line. What does not work yet is not here.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use tracer::{
    lenses::{self, Registered},
    live::Flow,
    model::{Runtime, signal_names, signal_number},
    views::caps::Format,
};

/// Which container, what happened, why, and what to do.
#[derive(Debug, Parser)]
#[command(name = "ctrace", version, about, max_term_width = 100, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// Without one: all that is found, the worst container first.
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub live: Live,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// OOM kills: who was killed, by whose limit, and why.
    Oom(Live),
    /// How every process ended, and why: OOM, a signal and its sender, the end of PID 1, a crash, a status.
    Exits {
        #[command(flatten)]
        live: Live,
        /// Leave out processes that ended with status 0.
        #[arg(long)]
        failed: bool,
    },
    /// Signals: who sends which to whom, and what the kernel makes of it.
    Signals {
        #[command(flatten)]
        live: Live,
        /// Only these signals (TERM, SIGKILL, 15, RTMIN+3); may be given several times.
        #[arg(long, value_name = "SIGNAL", value_parser = signal)]
        signal: Vec<u32>,
        /// Only signals to PID 1 of a container.
        #[arg(long)]
        to_init: bool,
        /// Only signals that the kernel dropped.
        #[arg(long)]
        ignored: bool,
    },
    /// Why it can't fork: refused forks, zombies, processes against every limit.
    Pids(Live),
    /// Is memory full of cache, or running out: use against every limit, reclaim, swap, stalls.
    Mem(Live),
    /// Who waits in write(), what devices and their limits do, which file system is full.
    Io(Live),
    /// CPU that is throttled, contended, or not the problem: use, quotas, waits, and what the load is made of.
    Cpu(Live),
    /// Where the packets stop: hop by hop from the container to the uplink and back, drops and their reasons.
    Net {
        #[command(flatten)]
        live: Live,
        /// Follow the packets from and to one end of a flow, one by one, through every device, to where they stop
        /// (tcp/10.0.0.2/80, udp/fd00::2/53, icmp/10.0.0.2): lines, also on a terminal.
        #[arg(long, value_name = "PROTOCOL/ADDRESS/PORT")]
        flow: Option<Flow>,
    },
    /// Which capabilities a container needs of those it has: used, refused, never asked for; the least set to paste.
    Caps(Caps),
    /// Keep what happens in a file, to be looked at again by `ctrace replay`: anywhere, without root.
    Record(Record),
    /// Look at a recording as if it happened now: the same screen, lines or JSON.
    Replay(Replay),
    /// Every container here: runtime, name, pod, limits, user, capabilities, network.
    Containers(Containers),
    /// The long text behind a finding, like `rustc --explain`.
    Explain {
        /// A code such as oom.child-killed; without one, all codes are listed.
        code: Option<String>,
    },
    /// What this kernel and host give, probe by probe: what attaches how, what is missing, what that costs.
    Doctor {
        /// One JSON object instead of text.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub struct Record {
    /// Which lenses; without one, all that `ctrace` alone shows.
    #[arg(value_name = "LENS", value_parser = lens)]
    pub lenses: Vec<&'static Registered>,
    /// The file to make.
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// Write over FILE if it is there.
    #[arg(long)]
    pub force: bool,
    /// Stop when the file has this size: 50MB, 2GiB.
    #[arg(long, value_name = "SIZE", default_value = "100MB", value_parser = size)]
    pub max_size: u64,
    /// A replay shows only this container, unless it is told otherwise: name, id prefix, namespace/pod, pod/container,
    /// unit, or cgroup path.
    #[arg(long, short, value_name = "X")]
    pub container: Option<String>,
    /// With --container: wait for one of that name to appear, where none is here.
    #[arg(long, requires = "container")]
    pub wait: bool,
    /// Likewise, only containers of this runtime.
    #[arg(long, value_name = "RUNTIME")]
    pub runtime: Option<Runtime>,
    /// Stop after this time, counted from the moment all is attached: 30s, 5m, 1h30m.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Size of the kernel's event ring in KiB, a power of two; by itself 512 or 1024.
    #[arg(long, value_name = "KIB", value_parser = ring_kib)]
    pub ring_kib: Option<u32>,
}

#[derive(Debug, Args)]
pub struct Replay {
    /// As `ctrace record`, `--record` or the key w wrote it.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Only this lens; without one, all that was recorded.
    #[arg(value_name = "LENS", value_parser = lens)]
    pub lens: Option<&'static Registered>,
    /// Only this container: name, id prefix, namespace/pod, pod/container, unit, or cgroup path.
    #[arg(long, short, value_name = "X")]
    pub container: Option<String>,
    /// Begin this long after the start of the recording: 30s, 5m, 1h30m.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub from: Option<Duration>,
    /// End this long after the start of the recording.
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "duration")]
    pub to: Option<Duration>,
    /// End this long after --from.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Lines, also on a terminal.
    #[arg(long, conflicts_with = "json")]
    pub lines: bool,
    /// One JSON object a line (documented in docs/json.md).
    #[arg(long)]
    pub json: bool,
    /// The screen as it is at the end (or at --to), as a picture.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "lines"])]
    pub svg: Option<PathBuf>,
    /// Of that picture, in characters.
    #[arg(long, value_name = "WxH", default_value = "100x30", value_parser = screen, requires = "svg")]
    pub size: (u16, u16),
    /// No colour (as NO_COLOR in the environment does).
    #[arg(long)]
    pub no_color: bool,
}

#[derive(Debug, Args)]
pub struct Containers {
    /// This one in full: name, id prefix, namespace/pod, pod/container, unit, or cgroup path.
    #[arg(value_name = "X")]
    pub container: Option<String>,
    /// Only those of this runtime.
    #[arg(long, value_name = "RUNTIME")]
    pub runtime: Option<Runtime>,
    /// systemd's services and scopes, too: they have cgroups and limits, but are no containers.
    #[arg(long, conflicts_with = "container")]
    pub all: bool,
    /// One JSON object a line (documented in docs/json.md).
    #[arg(long)]
    pub json: bool,
    /// No colour (as NO_COLOR in the environment does).
    #[arg(long)]
    pub no_color: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Caps {
    #[command(subcommand)]
    pub verify: Option<CapsCommand>,
    /// Of this container: name, id prefix, namespace/pod, pod/container, unit, or cgroup path.
    #[arg(long, short, value_name = "X", required_unless_present = "merge")]
    pub container: Option<String>,
    /// Not of the one that runs: wait for the next start of a container of that name, and watch from its first exec.
    #[arg(long)]
    pub from_start: bool,
    /// The result alone, at the end: a table, or the set to paste. Without it a terminal shows the watch as it goes.
    #[arg(long, value_name = "text|docker|podman|compose|k8s|oci|systemd|json")]
    pub format: Option<Format>,
    /// Unite what several watches found (files of --format json), instead of watching.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["container", "from_start", "json"])]
    pub merge: Vec<PathBuf>,
    /// Only containers of this runtime: docker, containerd, podman, …; systemd for units.
    #[arg(long, value_name = "RUNTIME")]
    pub runtime: Option<Runtime>,
    /// Stop after this time, counted from the moment the container is watched: 30s, 5m, 1h30m.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Duration>,
    /// One JSON object a line as things happen, the report as the last one (documented in docs/json.md).
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    /// Record it as well, for `ctrace replay`.
    #[arg(long, value_name = "FILE", conflicts_with = "merge")]
    pub record: Option<PathBuf>,
    /// No colour (as NO_COLOR in the environment does).
    #[arg(long)]
    pub no_color: bool,
    /// Size of the kernel's event ring in KiB, a power of two.
    #[arg(long, value_name = "KIB", default_value = "1024", value_parser = ring_kib)]
    pub ring_kib: u32,
}

#[derive(Debug, Subcommand)]
pub enum CapsCommand {
    /// Proves a set: CHECK passes with it, and fails with each single capability less, or that one was not needed.
    ///
    /// With --container, a new container of the same spec is started for each trial, and CHECK runs on the host in its
    /// network namespace (CTRACE_PID, CTRACE_CONTAINER in the environment) until it ends with 0. Without, CHECK itself
    /// runs with fewer capabilities.
    Verify(Verify),
}

#[derive(Debug, Args)]
pub struct Verify {
    /// Of which the spec is taken: name, id prefix, cgroup path.
    #[arg(long, short, value_name = "X")]
    pub container: Option<String>,
    /// The set: CHOWN,SETUID; or none. Without --set and --from, a container of the same spec is watched first, from its
    /// start, until CHECK passes.
    #[arg(long, value_name = "SET", required_unless_present_any = ["from", "container"])]
    pub set: Option<String>,
    /// The set that `ctrace caps --json` (or --format json) found: the file that it wrote.
    #[arg(long, value_name = "FILE", conflicts_with = "set")]
    pub from: Option<PathBuf>,
    /// For one trial.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
    /// A table, or one JSON object.
    #[arg(long, value_name = "text|json", default_value = "text", value_parser = ["text", "json"])]
    pub format: String,
    /// A command that ends with 0 where all is well.
    #[arg(last = true, required = true, value_name = "CHECK")]
    pub check: Vec<String>,
}

/// Options of every live command.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own on the command line")]
pub struct Live {
    /// Only this container: name, id prefix, namespace/pod, pod/container, unit, or cgroup path.
    #[arg(long, short, value_name = "X")]
    pub container: Option<String>,
    /// With --container: wait for one of that name to appear, where none is here.
    #[arg(long, requires = "container")]
    pub wait: bool,
    /// Only containers of this runtime: docker, containerd, podman, …; systemd for units.
    #[arg(long, value_name = "RUNTIME")]
    pub runtime: Option<Runtime>,
    /// Only this process and its descendants (pid as the host sees it).
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Option<u32>,
    /// Stop after this time, counted from the moment all is attached: 30s, 5m, 1h30m.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Lines, also on a terminal.
    #[arg(long, conflicts_with = "json")]
    pub lines: bool,
    /// One JSON object a line (documented in docs/json.md).
    #[arg(long)]
    pub json: bool,
    /// No colour (as NO_COLOR in the environment does).
    #[arg(long)]
    pub no_color: bool,
    /// Record it as well, for `ctrace replay`.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Size of the kernel's event ring in KiB, a power of two; by itself 512 or 1024.
    #[arg(long, value_name = "KIB", value_parser = ring_kib)]
    pub ring_kib: Option<u32>,
    /// -vv: what the kernel side says about itself, in a debug build.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 30s, 5m or 1h30m"))?;
    if duration.is_zero() {
        return Err("a run of no time sees nothing; write it as 30s, 5m or 1h30m".to_owned());
    }
    if duration > Duration::from_hours(366 * 24) {
        return Err("longer than a year; leave --for away to run until Ctrl-C".to_owned());
    }
    Ok(duration)
}

fn ring_kib(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(kib) if kib.is_power_of_two() && (4..=1 << 20).contains(&kib) => Ok(kib),
        _ => Err("a power of two from 4 to 1048576 (KiB)".to_owned()),
    }
}

/// `100x30`. No screen has more than some hundreds of either.
fn screen(text: &str) -> Result<(u16, u16), String> {
    let side = |side: &str| side.parse().ok().filter(|side| (20..=400).contains(side));
    let sides = text.split_once('x').and_then(|(width, height)| Some((side(width)?, side(height)?)));
    sides.ok_or_else(|| "a size is columns x rows, each from 20 to 400: 100x30".to_owned())
}

fn lens(name: &str) -> Result<&'static Registered, String> {
    lenses::by_name(name).ok_or_else(|| {
        let names: Vec<&str> = lenses::REGISTERED.iter().map(|lens| lens.name).collect();
        format!("one of {}", names.join(", "))
    })
}

/// `100MB`, `2GiB`, `500k`; a bare number is bytes.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "m" | "mb" => 1000 * 1000,
        "g" | "gb" => 1000 * 1000 * 1000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err("write it as 50MB or 2GiB".to_owned()),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| "write it as 50MB or 2GiB".to_owned())
}

fn signal(text: &str) -> Result<u32, String> {
    signal_number(text).ok_or_else(|| format!("no such signal; one of {}", signal_names()))
}
