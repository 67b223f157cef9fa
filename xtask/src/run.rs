//! Builds ctrace and becomes it: the same terminal, signals and exit code, as root.

use std::{ffi::OsString, os::unix::process::CommandExt, process::ExitCode};

use anyhow::{Context, Result};

use crate::{build, cargo, process};

/// What follows `run` is ctrace's, word by word, whatever it is.
pub fn ctrace_arguments(args: &[OsString]) -> Option<&[OsString]> {
    match args.split_first() {
        Some((task, rest)) if task == "run" => Some(rest),
        _ => None,
    }
}

/// A release build is the only kind that `run` makes; a leading `--release` says so once more.
fn without_release(args: &[OsString]) -> &[OsString] {
    match args.split_first() {
        Some((flag, rest)) if flag == "--release" => rest,
        _ => args,
    }
}

pub fn run(args: &[OsString]) -> Result<ExitCode> {
    let binary = build::ctrace("release", &[], build::Output::Little)?;
    let mut ctrace = process::as_root(&binary);
    ctrace.args(without_release(args));
    // In place of xtask: nothing stands between ctrace and its terminal, Ctrl-C or exit code.
    let error = cargo::without_cargo_libraries(&mut ctrace)?.exec();
    Err(error).with_context(|| format!("cannot run {}", process::line(&ctrace)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(Into::into).collect()
    }

    fn passed_on(text: &str) -> Option<Vec<OsString>> {
        ctrace_arguments(&words(text)).map(|args| without_release(args).to_vec())
    }

    #[test]
    fn every_word_after_run_is_ctraces() {
        for args in ["oom --json -v", "--help", "-- --", "exec -- sh -c x", "--json --release", "-V", "run run"] {
            assert_eq!(passed_on(&format!("run {args}")), Some(words(args)));
            assert_eq!(passed_on(&format!("run --release {args}")), Some(words(args)));
        }
        assert_eq!(passed_on("run"), Some(vec![]));
        assert_eq!(passed_on("run --release --release"), Some(words("--release")));
    }

    #[test]
    fn other_tasks_are_claps() {
        for args in ["", "build", "--help", "build run", "running"] {
            assert_eq!(passed_on(args), None);
        }
    }
}
