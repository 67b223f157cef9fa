//! The `ctrace` binary: arguments in, exit code out. 0 done; 1 it could not do it; 2 wrong usage.

mod cli;

use std::{
    collections::BTreeSet,
    fs,
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use cli::{Caps, CapsCommand, Cli, Command, Containers, Live, Record, Replay};
use tracer::{
    doctor,
    findings::{self, Explained},
    lenses::{self, Registered},
    listing,
    live::{self, Flow, Options},
    model::signal_name,
    recording, replay,
    run::{
        filter::{Asked, Rows},
        view::Show,
    },
    verify::Source,
    views::{
        caps::{Format, formatted},
        lines::Style,
    },
};

/// Where no lens says more.
const RING_KIB: u32 = 512;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let Some(command) = cli.command else { return exit_code(overview(cli.live)) };
    exit_code(match command {
        Command::Oom(options) => run(&lenses::oom::LENS, options, Rows::default()),
        Command::Exits { live, failed } => run(&lenses::exits::LENS, live, Rows { failed, ..Rows::default() }),
        Command::Signals { live, signal, to_init, ignored } => {
            let signals = signal.into_iter().map(signal_name).collect();
            run(&lenses::signals::LENS, live, Rows { signals, to_init, ignored, ..Rows::default() })
        }
        Command::Pids(options) => run(&lenses::pids::LENS, options, Rows::default()),
        Command::Mem(options) => run(&lenses::mem::LENS, options, Rows::default()),
        Command::Io(options) => run(&lenses::io::LENS, options, Rows::default()),
        Command::Cpu(options) => run(&lenses::cpu::LENS, options, Rows::default()),
        Command::Net { live, flow } => watch(vec![&lenses::net::LENS], live, Rows::default(), flow),
        Command::Caps(options) => caps(options),
        Command::Record(options) => record(options),
        Command::Replay(options) => replay_of(options).map(|()| ExitCode::SUCCESS),
        Command::Containers(options) => containers(options).map(|()| ExitCode::SUCCESS),
        Command::Explain { code } => explain(code.as_deref()).map(|()| ExitCode::SUCCESS),
        Command::Doctor { json } => doctor::run(json),
    })
}

fn exit_code(result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        // A person reads one line: what, then what to do. If stderr is closed as well, the exit code is all there is.
        let _ = writeln!(std::io::stderr(), "ctrace: {error:#}");
        ExitCode::FAILURE
    })
}

/// Every lens at once: what was found, and not each event.
fn overview(options: Live) -> Result<ExitCode> {
    let none = options.json || options.lines || !std::io::stdout().is_terminal();
    let mut lenses = lenses::overview();
    if !none {
        // A screen has a tab from which one container is watched.
        lenses.push(&lenses::caps::LENS);
    }
    watch(lenses, options, Rows { none, ..Rows::default() }, None)
}

fn run(lens: &'static Registered, options: Live, rows: Rows) -> Result<ExitCode> {
    watch(vec![lens], options, rows, None)
}

fn watch(lenses: Vec<&'static Registered>, options: Live, rows: Rows, flow: Option<Flow>) -> Result<ExitCode> {
    let terminal = std::io::stdout().is_terminal();
    let color = color(options.no_color);
    let show = if options.json {
        Show::Json
    } else if options.lines || !terminal || flow.is_some() {
        Show::Lines(Style { zone: jiff::tz::TimeZone::system(), color })
    } else {
        Show::Tui { color, report: None }
    };
    let ring_bytes = ring_bytes(&lenses, options.ring_kib);
    live(Options {
        lenses,
        asked: Asked {
            container: options.container,
            wait: options.wait,
            from_start: false,
            runtime: options.runtime,
            pid: options.pid,
            rows,
        },
        duration: options.duration,
        ring_bytes,
        show,
        verbose: options.verbose,
        flow,
        record: options.record.map(beside),
    })
}

/// `--record`: what is shown is kept as well.
fn beside(path: PathBuf) -> recording::Wish {
    recording::Wish { path, force: false, max_bytes: live::record::BESIDE_BYTES }
}

fn ring_bytes(lenses: &[&'static Registered], wanted_kib: Option<u32>) -> u32 {
    wanted_kib.unwrap_or_else(|| lenses.iter().map(|lens| lens.ring_kib).max().unwrap_or(RING_KIB)) * 1024
}

fn record(options: Record) -> Result<ExitCode> {
    let mut lenses = if options.lenses.is_empty() { lenses::overview() } else { options.lenses };
    let mut seen = BTreeSet::new();
    lenses.retain(|lens| seen.insert(lens.name));
    if options.container.is_none() && seen.contains(lenses::caps::LENS.name) {
        bail!("caps needs --container: it watches what one container asks for; `ctrace containers` lists those here");
    }
    let ring_bytes = ring_bytes(&lenses, options.ring_kib);
    live(Options {
        lenses,
        asked: Asked { container: options.container, wait: options.wait, runtime: options.runtime, ..Asked::default() },
        duration: options.duration,
        ring_bytes,
        show: Show::Nothing,
        verbose: 0,
        flow: None,
        record: Some(recording::Wish { path: options.output, force: options.force, max_bytes: options.max_size }),
    })
}

fn replay_of(options: Replay) -> Result<()> {
    let color = color(options.no_color);
    let show = if let Some(path) = options.svg {
        Show::Picture { path, size: options.size, color: !options.no_color }
    } else if options.json {
        Show::Json
    } else if options.lines || !std::io::stdout().is_terminal() {
        Show::Lines(Style { zone: jiff::tz::TimeZone::system(), color })
    } else {
        Show::Tui { color, report: None }
    };
    let from = options.from.unwrap_or_default();
    let to = options.to.or_else(|| Some(from + options.duration?));
    event_loop()?.block_on(replay::run(&replay::Options {
        file: options.file,
        lens: options.lens,
        container: options.container,
        from,
        to,
        show,
    }))
}

fn live(options: Options) -> Result<ExitCode> {
    event_loop()?.block_on(live::run(options))?;
    Ok(ExitCode::SUCCESS)
}

fn event_loop() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the event loop")
}

fn caps(options: Caps) -> Result<ExitCode> {
    let style = Style { zone: jiff::tz::TimeZone::system(), color: color(options.no_color) };
    if let Some(CapsCommand::Verify(verify)) = options.verify {
        tracer::verify::run(&tracer::verify::Options {
            container: verify.container,
            set: match (verify.set, verify.from) {
                (Some(names), _) => Source::Names(names),
                (None, Some(path)) => Source::Report(path),
                (None, None) => Source::Watch,
            },
            timeout: verify.timeout,
            check: verify.check,
            json: verify.format == "json",
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let format = options.format.unwrap_or_default();
    if !options.merge.is_empty() {
        return merge(&options.merge, format, &style).map(|()| ExitCode::SUCCESS);
    }
    // A form is asked for to be pasted or piped; it is written at the end, and nothing else.
    let show = if options.json {
        Show::Json
    } else if options.format.is_none() && std::io::stdout().is_terminal() {
        Show::Tui { color: style.color, report: Some(style) }
    } else {
        Show::Caps { format, style }
    };
    live(Options {
        lenses: vec![&lenses::caps::LENS],
        asked: Asked {
            container: options.container,
            from_start: options.from_start,
            runtime: options.runtime,
            ..Asked::default()
        },
        duration: options.duration,
        ring_bytes: options.ring_kib * 1024,
        show,
        verbose: 0,
        flow: None,
        record: options.record.map(beside),
    })
}

fn merge(files: &[PathBuf], format: Format, style: &Style) -> Result<()> {
    let mut reports = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        // One object of --format json, or the last of the lines of --json.
        let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        let report = serde_json::from_str(line)
            .with_context(|| format!("{} is not what `ctrace caps --format json` writes", file.display()))?;
        reports.push(report);
    }
    let all = findings::caps::merge(reports).context("nothing to merge")?;
    let (text, aside) = formatted(&all, format, style);
    std::io::stderr().write_all(aside.as_bytes()).context("writing to stderr")?;
    std::io::stdout().write_all(text.as_bytes()).context("writing the output (is the disk full, or stdout closed?)")
}

fn containers(options: Containers) -> Result<()> {
    let style = Style { zone: jiff::tz::TimeZone::system(), color: color(options.no_color) };
    listing::run(&listing::Options {
        container: options.container,
        runtime: options.runtime,
        all: options.all,
        json: options.json,
        style,
    })
}

fn color(no_color: bool) -> bool {
    let wanted = !no_color && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    wanted && std::io::stdout().is_terminal()
}
/// Long text is for reading, on any terminal.
const WIDTH: usize = 80;

fn explain(code: Option<&str>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let Some(code) = code else {
        let width = findings::all().map(|known| known.code.0.len()).max().unwrap_or(0);
        for known in findings::all() {
            writeln!(out, "{:width$}  {}", known.code.0, known.title)?;
        }
        return Ok(());
    };
    let Some(Explained { code, severity, lens, title, text }) = findings::all().find(|known| known.code.0 == code)
    else {
        let mut near: Vec<&str> = findings::all().map(|known| known.code.0).collect();
        near.sort_by(|a, b| strsim::jaro_winkler(b, code).total_cmp(&strsim::jaro_winkler(a, code)));
        near.truncate(3);
        bail!("there is no finding {code:?}; nearest: {}. `ctrace explain` lists all", near.join(", "));
    };
    let severity = format!("{severity:?}").to_lowercase();
    writeln!(out, "{} ({severity}, ctrace {lens})\n{}", code.0, textwrap::fill(title, WIDTH))?;
    for paragraph in text.split("\n\n") {
        writeln!(out, "\n{}", textwrap::fill(&paragraph.replace('\n', " "), WIDTH))?;
    }
    Ok(())
}
