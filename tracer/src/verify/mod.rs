//! `ctrace caps verify`: proves a set of capabilities. The user's check passes with it, and with each single capability
//! taken away it fails, or that one was not needed.

mod bundle;
mod home;
mod program;
mod watch;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use caps::{CapSet, Capability};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use serde::Serialize;

use crate::{findings::caps::Report, views};

/// In the kernel's order, each once.
pub type Set = Vec<Capability>;

/// Where the set comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Names between commas.
    Names(String),
    /// What `ctrace caps --json` or `--format json` wrote.
    Report(PathBuf),
    /// What a container of the same spec is seen to need while the check runs until it passes.
    Watch,
}

pub struct Options {
    /// A new container of the same spec for each trial; `None`: the check itself runs with fewer capabilities.
    pub container: Option<String>,
    pub set: Source,
    /// For one trial at most.
    pub timeout: Duration,
    pub check: Vec<String>,
    pub json: bool,
}

/// One run of the check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trial {
    pub set: Vec<String>,
    /// What was taken away for this one; `None`: nothing.
    pub without: Option<String>,
    pub passed: bool,
    pub took_ns: u64,
    /// How it ended, in words.
    pub how: String,
}

/// How one trial ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub passed: bool,
    pub took: Duration,
    pub how: String,
}

/// What the trials prove.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Proof {
    /// Without any one of these the check fails.
    pub required: Vec<String>,
    /// The check passes without all of these.
    pub tolerated: Vec<String>,
    /// One trial said this, the other that.
    pub unproven: Vec<String>,
    /// What the check cannot see.
    pub notes: Vec<String>,
    pub trials: Vec<Trial>,
}

/// Somewhere to try a set.
pub trait Stage {
    /// # Errors
    /// It could not be tried at all.
    fn run(&mut self, set: &Set, timeout: Duration) -> Result<Ended>;

    /// Runs it once with all that it has, watched.
    ///
    /// # Errors
    /// It cannot be watched, or does not pass even so.
    fn watch(&mut self, timeout: Duration) -> Result<Report>;

    /// A trial that a signal cut short says nothing.
    ///
    /// # Errors
    /// There was one.
    fn go_on(&self) -> Result<()> {
        go_on()
    }
}

/// A failed trial may not last longer than this many times the good one.
const SLOWER: u32 = 3;
const LEAST: Duration = Duration::from_secs(2);

/// Set by SIGINT, SIGTERM and SIGHUP: what was started is ended, and the run is over.
static ENDING: AtomicBool = AtomicBool::new(false);

fn ending() -> bool {
    ENDING.load(Ordering::Relaxed)
}

fn go_on() -> Result<()> {
    if ending() {
        bail!("ended by a signal: nothing is proven");
    }
    Ok(())
}

/// # Errors
/// The set does not pass the check, or nothing could be tried. One line, with what to do.
pub fn run(options: &Options) -> Result<()> {
    catch_signals()?;
    let mut stage: Box<dyn Stage> = match &options.container {
        Some(container) => Box::new(bundle::Bundle::of(container, &options.check)?),
        None => Box::new(program::Program::new(&options.check)),
    };
    let mut watched = None;
    let set = match &options.set {
        Source::Names(names) => parse(names)?,
        Source::Report(path) => needed(&read(path)?)?,
        Source::Watch => {
            let report = stage.watch(options.timeout)?;
            let set = needed(&report)?;
            watched = Some(format!(
                "the set is what it was seen to need, from its start, until the check passed with all {} that it is given: \
                 what it does later is not in it",
                report.granted.len()
            ));
            set
        }
    };
    let own = caps::read(None, CapSet::Bounding).context("reading the own capabilities")?;
    if let Some(lacking) = set.iter().find(|one| !own.contains(one)) {
        bail!("{lacking} cannot be given here: ctrace itself lacks it");
    }
    let mut proof = prove(&set, options.timeout, stage.as_mut())?;
    proof.notes.extend(watched);
    let text = if options.json {
        serde_json::to_string(&proof).context("writing the proof")? + "\n"
    } else {
        views::caps::proof(&proof)
    };
    std::io::stdout().write_all(text.as_bytes()).context("writing the output (is the disk full, or stdout closed?)")
}

/// One pass: what the check passes without stays away, so that what is left is minimal. (More never hurts: a set that
/// fails has no subset that passes.)
///
/// # Errors
/// The check does not pass with the whole set, or a trial could not be made.
pub fn prove(set: &Set, timeout: Duration, stage: &mut dyn Stage) -> Result<Proof> {
    let mut proof = Proof::default();
    let whole = stage.run(set, timeout)?;
    stage.go_on()?;
    proof.trials.push(trial(set, None, &whole));
    if !whole.passed {
        bail!(
            "the check does not pass with this set ({}): {}. Is it right with all that the container has? Watch again while \
             it is done: ctrace caps --from-start",
            names(set),
            whole.how
        );
    }
    let patience = (whole.took * SLOWER).max(LEAST).min(timeout);
    let mut left = set.clone();
    for one in set {
        let fewer: Set = left.iter().filter(|other| *other != one).copied().collect();
        let mut again = Vec::new();
        // A failure may be an accident, a pass is none: who failed once is asked again.
        for _ in 0..2 {
            let ended = stage.run(&fewer, patience)?;
            stage.go_on()?;
            proof.trials.push(trial(&fewer, Some(*one), &ended));
            again.push(ended.passed);
            if ended.passed {
                break;
            }
        }
        match again.as_slice() {
            [true] => {
                proof.tolerated.push(one.to_string());
                left = fewer;
            }
            [false, true] => proof.unproven.push(one.to_string()),
            _ => proof.required.push(one.to_string()),
        }
    }
    proof.notes.extend(caution(&proof.tolerated));
    Ok(proof)
}

/// Programs ask for these to give power up: one that is refused and goes on all the same does so with more power.
pub const GIVE_UP: [&str; 4] = ["CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_SYS_CHROOT"];

fn caution(tolerated: &[String]) -> Option<String> {
    let risky: Vec<&str> = tolerated.iter().map(String::as_str).filter(|name| GIVE_UP.contains(name)).collect();
    (!risky.is_empty()).then(|| {
        format!(
            "{}: the check passes without, but programs use it to give power up, and may go on as root without it: see as \
             which user it runs before leaving it away",
            risky.join(", ")
        )
    })
}

fn trial(set: &Set, without: Option<Capability>, ended: &Ended) -> Trial {
    Trial {
        set: set.iter().map(ToString::to_string).collect(),
        without: without.map(|one| one.to_string()),
        passed: ended.passed,
        took_ns: u64::try_from(ended.took.as_nanos()).unwrap_or(u64::MAX),
        how: ended.how.clone(),
    }
}

fn names(set: &Set) -> String {
    if set.is_empty() {
        return "none".to_owned();
    }
    set.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// `CHOWN,CAP_SETUID`, or `none`.
fn parse(text: &str) -> Result<Set> {
    if text == "none" || text.is_empty() {
        return Ok(Set::new());
    }
    text.split(',').map(capability).collect::<Result<Set>>().map(ordered)
}

fn capability(name: &str) -> Result<Capability> {
    let name = name.trim().to_uppercase();
    let name = if name.starts_with("CAP_") { name } else { format!("CAP_{name}") };
    name.parse().ok().with_context(|| format!("there is no capability {name} (a file of ctrace caps goes with --from)"))
}

/// A report on its own, or as the last of the lines of `--json`.
fn read(path: &Path) -> Result<Report> {
    let content = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let line = content.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    serde_json::from_str(line)
        .with_context(|| format!("{} is not what `ctrace caps --json` or `--format json` writes", path.display()))
}

fn needed(report: &Report) -> Result<Set> {
    if report.evidence.is_empty() {
        bail!(
            "nothing was asked for in that watch, so its set says nothing: watch from the start, or give one by --set"
        );
    }
    report.needed.iter().map(|name| capability(name)).collect::<Result<Set>>().map(ordered)
}

fn ordered(mut set: Set) -> Set {
    set.sort_by_key(Capability::index);
    set.dedup();
    set
}

fn catch_signals() -> Result<()> {
    extern "C" fn end(_: libc::c_int) {
        ENDING.store(true, Ordering::Relaxed);
    }
    let action = SigAction::new(SigHandler::Handler(end), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler stores one flag.
        let before = unsafe { sigaction(signal, &action) }.context("catching signals")?;
        if matches!(before.handler(), SigHandler::SigIgn) {
            // Under nohup it goes on.
            // SAFETY: as it was.
            unsafe { sigaction(signal, &before) }.context("catching signals")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use Capability::{CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_KILL};

    use super::*;

    /// Passes where the function says so; counts its trials, of which a signal cuts short that of the last number.
    struct Fake<F>(F, usize, usize);

    impl<F: FnMut(&Set, usize) -> bool> Stage for Fake<F> {
        fn run(&mut self, set: &Set, _: Duration) -> Result<Ended> {
            self.1 += 1;
            let passed = (self.0)(set, self.1);
            Ok(Ended { passed, took: Duration::from_millis(5), how: "ended".to_owned() })
        }

        fn watch(&mut self, _: Duration) -> Result<Report> {
            bail!("not here")
        }

        fn go_on(&self) -> Result<()> {
            if self.1 == self.2 {
                bail!("ended by a signal")
            }
            Ok(())
        }
    }

    fn proven(set: &[Capability], passes: impl FnMut(&Set, usize) -> bool) -> Result<Proof> {
        prove(&set.to_vec(), Duration::from_secs(1), &mut Fake(passes, 0, 0))
    }

    #[test]
    fn required_is_what_the_check_fails_without() {
        let proof = proven(&[CAP_CHOWN, CAP_KILL], |set, _| set.contains(&CAP_CHOWN)).expect("it passes");
        assert_eq!(
            (proof.required, proof.tolerated, proof.unproven.len()),
            (vec!["CAP_CHOWN".to_owned()], vec!["CAP_KILL".to_owned()], 0)
        );
        assert!(proof.notes.is_empty());
        let without: Vec<_> = proof.trials.iter().map(|trial| (trial.without.as_deref(), trial.passed)).collect();
        let twice = (Some("CAP_CHOWN"), false);
        assert_eq!(without, [(None, true), twice, twice, (Some("CAP_KILL"), true)]);
    }

    /// Apache serves as root where setuid is refused: the check passes, and the user should know.
    #[test]
    fn what_gives_power_up_is_not_left_away_unseen() {
        let proof = proven(&[CAP_KILL, Capability::CAP_SETUID], |_, _| true).expect("it passes");
        assert_eq!(proof.tolerated.len(), 2);
        assert!(proof.notes[0].starts_with("CAP_SETUID: the check passes without"), "{:?}", proof.notes);
    }

    /// Either one does: after the first is gone the second is required, and what is left is minimal.
    #[test]
    fn of_two_that_do_for_each_other_one_is_required() {
        let either = |set: &Set, _| set.contains(&CAP_DAC_OVERRIDE) || set.contains(&CAP_DAC_READ_SEARCH);
        let proof = proven(&[CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH], either).expect("it passes");
        assert_eq!((proof.required.len(), proof.tolerated.len()), (1, 1));
    }

    #[test]
    fn what_fails_once_and_passes_then_is_unproven() {
        let proof = proven(&[CAP_CHOWN], |_, trial| trial != 2).expect("it passes");
        assert_eq!(proof.unproven, ["CAP_CHOWN"]);
        assert!(proof.required.is_empty() && proof.tolerated.is_empty());
    }

    /// The check fails because it was ended: whether it needs the capability is not known, also of the last one.
    #[test]
    fn a_trial_that_a_signal_cut_short_proves_nothing() {
        let ended_in = |trial| {
            let set = vec![CAP_CHOWN, CAP_KILL];
            let mut stage = Fake(|set: &Set, own| own != trial && set.contains(&CAP_CHOWN), 0, trial);
            prove(&set, Duration::from_secs(1), &mut stage).map_err(|error| error.to_string())
        };
        // The whole, twice without CHOWN, and without KILL.
        for trial in 1..=4 {
            assert_eq!(ended_in(trial), Err("ended by a signal".to_owned()), "in trial {trial}");
        }
        assert!(ended_in(5).is_ok(), "there is no fifth");
    }

    #[test]
    fn a_set_that_is_not_enough_is_no_proof() {
        let error = proven(&[CAP_CHOWN], |_, _| false).expect_err("it fails");
        assert!(error.to_string().contains("does not pass with this set (CAP_CHOWN)"), "{error}");
    }

    #[test]
    fn sets_from_the_command_line() {
        assert_eq!(parse("chown,CAP_KILL").expect("two"), [CAP_CHOWN, CAP_KILL]);
        assert_eq!(parse("kill,chown,KILL").expect("two"), [CAP_CHOWN, CAP_KILL]);
        assert_eq!(parse("none").expect("none"), Set::new());
        assert!(parse("chwon").expect_err("a mistake").to_string().contains("no capability CAP_CHWON"));
    }

    #[test]
    fn sets_from_a_file() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let report = Report {
            needed: vec!["CAP_KILL".to_owned()],
            evidence: vec![crate::findings::caps::Evidence::default()],
            ..Report::default()
        };
        let line = serde_json::to_string(&report).expect("plain");
        let of = |text: &str| {
            fs::write(file.path(), text).expect("writable");
            read(file.path()).and_then(|report| needed(&report))
        };
        assert_eq!(of(&line).expect("a report"), [CAP_KILL]);
        assert_eq!(of(&format!("{{\"type\":\"note\"}}\n{line}\n")).expect("lines, the report last"), [CAP_KILL]);
        assert!(of("{}").is_err());
        // Younger than this build: it cannot be tried, and that is said.
        let younger = line.replace("CAP_KILL", "CAP_63");
        assert!(of(&younger).expect_err("unknown").to_string().contains("CAP_63"));
        // A watch that saw nothing is no set of none.
        let nothing = serde_json::to_string(&Report { evidence: Vec::new(), ..report }).expect("plain");
        assert!(of(&nothing).expect_err("nothing").to_string().contains("nothing was asked for"));
    }
}
