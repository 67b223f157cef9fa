//! A recording, run again: no root, no kernel, no files but this one.

mod player;

use std::{collections::BTreeSet, io::Write, path::PathBuf, time::Duration};

use anyhow::{Result, bail};

use self::player::{Player, wall};
use crate::{
    containers::Table,
    lenses::{self, Registered},
    pipeline::Pipeline,
    recording::{Ending, Header, Reader},
    run::{
        Run,
        filter::Asked,
        view::{Show, View, host_title},
    },
    tui::state::Position,
    views::escape::escape,
};

/// More cgroups than any host has: somebody made the file for that.
const CGROUPS: usize = 1 << 20;
/// More than ever comes out before it is shown: likewise.
const OUTPUTS: usize = 1 << 18;

pub struct Options {
    pub file: PathBuf,
    /// Those of the recording, where none is named.
    pub lens: Option<&'static Registered>,
    /// In place of what was asked for when it was recorded.
    pub container: Option<String>,
    /// Since its start.
    pub from: Duration,
    pub to: Option<Duration>,
    pub show: Show,
}

pub async fn run(options: &Options) -> Result<()> {
    let mut reader = Reader::open(&options.file)?;
    let lenses = lenses_of(reader.header(), options.lens)?;
    let header = reader.header().clone();
    let from_ns = position(&header, options.from);
    let to_ns = options.to.map(|to| position(&header, to));
    let tui = matches!(options.show, Show::Tui { .. });
    // It is read through once, before the terminal is taken: that takes time, and may fail.
    let drawn = tui || matches!(options.show, Show::Picture { .. });
    let last_ns = if drawn || !options.from.is_zero() { Reader::last_ns(&options.file)? } else { u64::MAX };
    within(options, from_ns, last_ns.max(header.started_ns), &header)?;
    let title = host_title(&header.host, &header.kernel, header.facts.cgroup_version);
    let view = View::open(&options.show, &lenses, &title, Some(header.started))?;
    if tui {
        return Player::new(options, reader, lenses, last_ns, view).play().await;
    }
    let mut run = start(&header, &lenses, asked(&header, options, lenses.len()), view);
    let mut at_ns = header.started_ns;
    for (time_ns, entry) in reader.by_ref() {
        at_ns = at_ns.max(time_ns);
        if to_ns.is_some_and(|to_ns| at_ns > to_ns) {
            break;
        }
        run.muted = at_ns < from_ns;
        if let Some(picture) = run.view.picture() {
            picture.at(wall(&header, at_ns), still(&header, at_ns, last_ns));
        }
        run.enter(entry, time_ns)?;
        sane(&run)?;
        if run.view.is_over() {
            break;
        }
    }
    let stopped = run.view.is_over() || to_ns.is_some_and(|to_ns| at_ns > to_ns);
    run.view.replayed(&run.pipeline, run.lost);
    run.view.close()?;
    if let Some(text) = (!stopped).then(|| said_of(reader.ending(), &header)).flatten() {
        writeln!(std::io::stderr(), "ctrace: {text}")?;
    }
    Ok(())
}

/// Is there anything in what was asked for?
fn within(options: &Options, from_ns: u64, last_ns: u64, header: &Header) -> Result<()> {
    let from = humantime::format_duration(options.from);
    if let Some(to) = options.to.filter(|to| *to <= options.from) {
        bail!("--from {from} is not before --to {}: nothing lies between them", humantime::format_duration(to));
    }
    if from_ns > last_ns {
        bail!("--from {from} is beyond the end: this recording has {}", length(header, last_ns));
    }
    Ok(())
}

/// Where a picture was taken.
fn still(header: &Header, at_ns: u64, last_ns: u64) -> Position {
    let seconds = |ns: u64| ns.saturating_sub(header.started_ns) / 1_000_000_000;
    Position { at_s: seconds(at_ns), of_s: seconds(last_ns), speed: Some(1), paused: true }
}

fn position(header: &Header, since: Duration) -> u64 {
    header.started_ns.saturating_add(since.as_nanos().try_into().unwrap_or(u64::MAX))
}

fn lenses_of(header: &Header, wanted: Option<&'static Registered>) -> Result<Vec<&'static Registered>> {
    if let Some(lens) = wanted {
        if !header.lenses.iter().any(|name| name == lens.name) {
            bail!("{} was not recorded; this recording holds: {}", lens.name, escape(&header.lenses.join(", ")));
        }
        return Ok(vec![lens]);
    }
    let mut seen = BTreeSet::new();
    let known: Vec<_> = header.lenses.iter().filter_map(|name| lenses::by_name(name)).collect();
    let known: Vec<_> = known.into_iter().filter(|lens| seen.insert(lens.name)).collect();
    if known.is_empty() {
        bail!("this recording holds no lens that this ctrace knows");
    }
    Ok(known)
}

fn asked(header: &Header, options: &Options, lenses: usize) -> Asked {
    let mut asked = header.asked.clone();
    // Where `w` began it, the container may have been gone already.
    asked.wait |= asked.container.is_some();
    // As live: of every lens at once, what is found is enough, but on a screen that has room for all.
    asked.rows.none = lenses > 1 && !matches!(options.show, Show::Tui { .. } | Show::Picture { .. });
    if let Some(container) = &options.container {
        asked.container = Some(container.clone());
        // It may come later.
        (asked.wait, asked.from_start) = (true, false);
    }
    asked
}

fn start(header: &Header, lenses: &[&'static Registered], asked: Asked, view: View) -> Run {
    let known = header.known.iter().cloned().collect();
    let lenses = lenses.iter().map(|lens| (lens.make)()).collect();
    let pipeline = Pipeline::new(Table::new(known), header.facts.clone(), header.boot_to_wall_ns, lenses);
    Run::new(pipeline, view, asked, None)
}

fn sane(run: &Run) -> Result<()> {
    if run.pipeline.containers.len().0 > CGROUPS {
        bail!("this recording tells of more than {CGROUPS} cgroups at once: no host has them, so it ends here");
    }
    if run.out.len() > OUTPUTS {
        bail!(
            "this recording tells of more than {OUTPUTS} things that were never shown: no run has them, so it ends here"
        );
    }
    Ok(())
}

/// For a person: how long it is until then.
fn length(header: &Header, at_ns: u64) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_millis(at_ns.saturating_sub(header.started_ns) / 1_000_000))
}

/// What a person should know of the end, if it is not a good one. Parts of the file may stand in it: it is escaped.
fn said_of(ending: &Ending, header: &Header) -> Option<String> {
    let length = length(header, ending.at_ns);
    if let Some(damage) = &ending.damage {
        let left = ending.bytes_left;
        let damage = escape(damage);
        return Some(format!("the recording is damaged after {length}: {damage}; its last {left} bytes were not read"));
    }
    if let Some(why) = &ending.skipped_why {
        let (count, why) = (ending.skipped, escape(why));
        return Some(format!(
            "{count} of its entries are not of a kind that this ctrace knows, and were left out ({why})"
        ));
    }
    (!ending.whole)
        .then(|| format!("the recording stops after {length}, without an end: ctrace was killed, or had no room"))
}
