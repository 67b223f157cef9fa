//! One tier of the tests: a header, a log, and a line with the outcome.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::tally::{Tally, last_words};
use crate::process;

/// Runs tiers one after another and adds up what they found.
pub struct Tiers {
    logs: PathBuf,
    sum: Tally,
    /// Of each tier where something failed or was unsteady.
    last_words: Vec<(String, Vec<String>)>,
}

impl Tiers {
    pub fn new(logs: PathBuf) -> Result<Self> {
        fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        Ok(Self { logs, sum: Tally::default(), last_words: Vec::new() })
    }

    /// A tier that fails without a failing test counts as one failure. Its whole log is shown then, and kept in any case.
    pub fn run(&mut self, name: &str, work: impl FnOnce(&mut Log) -> Outcome) {
        println!("== {name}");
        let done = Done::of(&self.logs, name, work);
        self.report(name, done);
    }

    /// Two at a time: worth it for work that keeps one processor busy. Reported as they end.
    pub fn run_in_pairs<W: FnOnce(&mut Log) -> Outcome + Send>(&mut self, tiers: Vec<(String, W)>) {
        let logs = self.logs.clone();
        let waiting = Mutex::new(tiers.into_iter());
        let (ended, reports) = mpsc::channel();
        thread::scope(|scope| {
            for ended in [ended.clone(), ended] {
                scope.spawn(|| {
                    let ended = ended;
                    loop {
                        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
                        let Some((name, work)) = next else { break };
                        let done = Done::of(&logs, &name, work);
                        let _ = ended.send((name, done));
                    }
                });
            }
            for (name, done) in reports {
                println!("== {name}");
                self.report(&name, done);
            }
        });
    }

    fn report(&mut self, name: &str, done: Done) {
        let Done { mut tally, error, log, took } = done;
        let failed = error.is_some() || tally.is_some_and(|tally| tally.failed > 0);
        if failed {
            if let Some(log) = &log {
                print!("{}", log.text());
            }
            if let Some(error) = error {
                println!("error: {error:#}");
            }
            let tally = tally.get_or_insert_default();
            tally.failed = tally.failed.max(1);
        }
        let counts = tally.map_or_else(String::new, |tally| format!(": {tally}"));
        let verdict = if failed { "FAILED" } else { "ok" };
        println!("   {verdict}{counts} ({:.0} s)", took.as_secs_f64());
        if let (true, Some(log)) = (failed, &log) {
            println!("   log: {}", log.path.display());
        }
        self.sum += tally.unwrap_or_default();
        let words = log.map_or_else(Vec::new, |log| last_words(&log.text()));
        if failed || !words.is_empty() {
            self.last_words.push((name.to_owned(), words));
        }
    }

    /// The closing line, and before it what failed: nobody has to look for it in all that was said.
    pub fn close(&self) -> Tally {
        for (name, words) in &self.last_words {
            println!("== again, of {name}:");
            for line in words {
                println!("   {line}");
            }
        }
        println!("ctrace: {}", self.sum);
        self.sum
    }

    #[cfg(test)]
    fn sum(&self) -> Tally {
        self.sum
    }
}

/// What a tier counted, if it counts; an error if it broke.
type Outcome = Result<Option<Tally>>;

struct Done {
    tally: Option<Tally>,
    error: Option<anyhow::Error>,
    log: Option<Log>,
    took: Duration,
}

impl Done {
    fn of(logs: &Path, name: &str, work: impl FnOnce(&mut Log) -> Outcome) -> Self {
        let start = Instant::now();
        let (tally, error, log) = match Log::create(logs, name).map(|mut log| (work(&mut log), log)) {
            Ok((Ok(tally), log)) => (tally, None, Some(log)),
            Ok((Err(error), log)) => (log.tally, Some(error), Some(log)),
            Err(error) => (None, Some(error), None),
        };
        Self { tally, error, log, took: start.elapsed() }
    }
}

/// Everything that a tier's programs say, in order.
pub struct Log {
    path: PathBuf,
    file: File,
    /// What was counted before something failed.
    pub tally: Option<Tally>,
}

impl Log {
    fn create(logs: &Path, name: &str) -> Result<Self> {
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
        let path = logs.join(name + ".log");
        let file = File::options().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        file.set_len(0)?;
        Ok(Self { path, file, tally: None })
    }

    /// Runs it with both its outputs going here; whether it succeeded.
    pub fn run(&mut self, command: &mut Command) -> Result<bool> {
        writeln!(self.file, "$ {}", process::line(command))?;
        let status =
            command.stdin(Stdio::null()).stdout(self.file.try_clone()?).stderr(self.file.try_clone()?).status();
        let status = status.with_context(|| format!("cannot run {}", process::line(command)))?;
        if !status.success() {
            writeln!(self.file, "$ {status}")?;
        }
        Ok(status.success())
    }

    /// The same, where failure ends the tier.
    pub fn expect(&mut self, command: &mut Command) -> Result<()> {
        if !self.run(command)? {
            bail!("`{}` failed", process::line(command));
        }
        Ok(())
    }

    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.path).unwrap_or_default()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum_of(name: &str, work: impl FnOnce(&mut Log) -> Outcome) -> Tally {
        let logs = std::env::temp_dir().join(format!("xtask-tier-{}-{name}", std::process::id()));
        let mut tiers = Tiers::new(logs.clone()).unwrap();
        tiers.run(name, work);
        fs::remove_dir_all(logs).unwrap();
        tiers.sum()
    }

    #[test]
    fn a_tier_that_breaks_is_one_failure_and_keeps_its_counts() {
        let counted = Tally { passed: 3, skipped: 1, ..Tally::default() };
        assert_eq!(sum_of("ok", |_| Ok(Some(counted))), counted);
        assert_eq!(sum_of("lints", |log| log.expect(&mut Command::new("true")).map(|()| None)), Tally::default());
        assert_eq!(sum_of("broken", |log| log.expect(&mut Command::new("false")).map(|()| None)).failed, 1);
        let partly = |log: &mut Log| {
            log.tally = Some(counted);
            bail!("died")
        };
        assert_eq!(sum_of("partly", partly), Tally { failed: 1, ..counted });
    }

    #[test]
    fn pairs_run_every_tier_and_two_at_once() {
        let logs = std::env::temp_dir().join(format!("xtask-pairs-{}", std::process::id()));
        let mut tiers = Tiers::new(logs.clone()).unwrap();
        let meet = std::sync::Barrier::new(2);
        let work = |_: &mut Log| {
            meet.wait();
            Ok(Some(Tally { passed: 1, ..Tally::default() }))
        };
        tiers.run_in_pairs((0..4).map(|n| (format!("pair {n}"), work)).collect());
        fs::remove_dir_all(logs).unwrap();
        assert_eq!(tiers.sum().passed, 4);
    }
}
