//! The tiers that need no kernel: formatting, lints and unit tests.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{tally::Tally, tier::Log};
use crate::{
    build,
    cargo::{self, cargo},
    process,
};

/// The target of the kernel side, and the only one whose lints need a standard library of its own.
const BPF: &[&str] = &["-p", "tracer-ebpf", "--target", "bpfel-unknown-none", "-Z", "build-std=core"];
const DENY_WARNINGS: &[&str] = &["--", "-D", "warnings"];

/// rustfmt, then clippy for both sides.
pub fn lints(log: &mut Log) -> Result<Option<Tally>> {
    log.expect(cargo().args(["fmt", "--all", "--check"]))?;
    let host = ["clippy", "--quiet", "--workspace", "--exclude", "tracer-ebpf", "--all-targets"];
    log.expect(cargo().args(host).args(DENY_WARNINGS))?;
    // Not among all targets: cargo does not run it by itself.
    let kernel = ["clippy", "--quiet", "--package", "tracer", "--test", super::kernel::TARGET];
    log.expect(cargo().args(kernel).args(DENY_WARNINGS))?;
    // A target folder of its own: RUSTC_BOOTSTRAP makes build scripts run again, here and then in the next build.
    let target = cargo::target_dir()?.join("bpf-lints");
    for features in ["", "log"] {
        let mut clippy = cargo();
        clippy.env("CARGO_TARGET_DIR", &target);
        clippy.args(["clippy", "--quiet"]).args(BPF).args(["--features", features]).args(DENY_WARNINGS);
        log.expect(clippy.env("RUSTC_BOOTSTRAP", "1"))?;
    }
    Ok(None)
}

/// The same for what only some features build.
pub fn of_features(log: &mut Log, features: &[&str]) -> Result<Option<Tally>> {
    let features = features.join(",");
    let clippy = ["clippy", "--quiet", "--package", "tracer", "--all-targets", "--features", &features];
    log.expect(cargo().args(clippy).args(DENY_WARNINGS))?;
    let good = log.run(cargo().args(["test", "--quiet", "--package", "tracer", "--lib", "--features", &features]))?;
    let tally = Tally::of_cargo_test(&log.text());
    log.tally = Some(tally);
    if !good && tally.failed == 0 {
        bail!("cargo test failed");
    }
    Ok(Some(tally))
}

/// The debug build with -vv: its kernel side passes the verifier, and what that says comes out.
pub fn diagnostics(_: &mut Log) -> Result<Option<Tally>> {
    let ctrace = build::ctrace("dev", &[], build::Output::Little)?;
    let mut ctrace = process::as_root(ctrace);
    ctrace.args(["exits", "-vv", "--json", "--for", "60s"]).stdout(Stdio::piped());
    let mut ctrace = ctrace.spawn().context("cannot run the debug build")?;
    let lines = BufReader::new(ctrace.stdout.take().context("no output")?).lines();
    let mut found = false;
    for line in lines {
        let line: Value = serde_json::from_str(&line?)?;
        if line["code"] == "ready" {
            Command::new("true").status()?;
        }
        if line["code"] == "kernel" && line["text"].as_str().is_some_and(|text| text.contains("exit of process")) {
            found = true;
            break;
        }
    }
    // Its reader is gone, so it ends with the next thing it says, or at the latest when its time is over.
    Command::new("true").status()?;
    let status = ctrace.wait()?;
    if !found || !status.success() {
        bail!("the debug build said nothing of its kernel side ({status})");
    }
    Ok(Some(Tally { passed: 1, ..Tally::default() }))
}

/// Everything that `cargo test` runs here, except the kernel tests.
pub fn unit_tests(log: &mut Log, filter: Option<&str>) -> Result<Option<Tally>> {
    let mut targets = vec!["--lib".to_owned(), "--bins".to_owned()];
    for test in cargo::test_targets()?.into_iter().filter(|name| name != super::kernel::TARGET) {
        targets.extend(["--test".to_owned(), test]);
    }
    let mut good = true;
    for targets in [targets, vec!["--doc".to_owned()]] {
        let mut test = cargo();
        test.args(["test", "--quiet", "--workspace", "--exclude", "tracer-ebpf", "--no-fail-fast"]);
        good &= log.run(test.args(targets).args(filter))?;
    }
    let tally = Tally::of_cargo_test(&log.text());
    log.tally = Some(tally);
    if !good && tally.failed == 0 {
        bail!("cargo test failed");
    }
    Ok(Some(tally))
}
