//! The tiers that meet a kernel: one test program, run on this machine and in each virtual machine.

use std::{
    fs,
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{List, tally::Tally, tier::Log};
use crate::{
    build,
    cargo::{self, cargo},
    process,
    vm::{Machine, Root},
};

/// The test target, in tracer/tests/kernel/.
pub const TARGET: &str = "kernel";

/// A disk of 256 MiB that lets 4 MB a second through, so that writers really are throttled.
const DISK_SIZE: u64 = 256 << 20;
const DISK_OPTIONS: &str = "throttling.bps-total=4194304";

/// The variable of the tests that says where the daemons' root is.
const DAEMONS: &str = "CTRACE_DAEMONS";

/// Without link-time optimisation: built again after each change.
const PROFILE: &str = "tests";

/// The test program and the ctrace that it tests.
pub struct Program {
    tests: PathBuf,
    ctrace: PathBuf,
    /// The root file system of the containers of daemons.
    daemons: Option<PathBuf>,
}

impl Program {
    pub fn build(log: &mut Log, features: &[&str], daemons: Option<PathBuf>) -> Result<Self> {
        let ctrace = build::ctrace(PROFILE, features, build::Output::Little)?;
        let mut build = cargo();
        build.args([
            "test",
            "--profile",
            PROFILE,
            "--quiet",
            "-p",
            "tracer",
            "--test",
            TARGET,
            "--no-run",
            "--message-format=json",
        ]);
        if !features.is_empty() {
            build.arg("--features").arg(features.join(","));
        }
        let messages = build.stderr(log.file().try_clone()?).output().context("cannot run cargo")?;
        let text = String::from_utf8_lossy(&messages.stdout);
        let messages_of = |reason: &'static str| {
            text.lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .filter(move |m| m["reason"] == reason)
        };
        if !messages.status.success() {
            for message in
                messages_of("compiler-message").filter_map(|m| Some(m["message"]["rendered"].as_str()?.to_owned()))
            {
                print!("{message}");
            }
            bail!("the kernel tests don't build");
        }
        let tests = messages_of("compiler-artifact")
            .filter(|artifact| artifact["target"]["name"] == TARGET && artifact["target"]["kind"][0] == "test")
            .find_map(|artifact| artifact["executable"].as_str().map(PathBuf::from));
        Ok(Self { tests: tests.context("cargo built no kernel tests")?, ctrace, daemons })
    }

    /// On this machine's own kernel, as root.
    pub fn run_here(&self, log: &mut Log, list: List, filter: Option<&str>) -> Result<Option<Tally>> {
        let mut tests = process::as_root("env");
        tests.args(["-u", "LD_LIBRARY_PATH"]).arg(format!("CTRACE_BIN={}", self.ctrace.display()));
        tests.args(self.daemons.iter().map(|root| format!("{DAEMONS}={}", root.display())));
        // So that a test that hangs doesn't hang the others.
        tests.args(["timeout", "--foreground", "-k", "10", "1800"]).arg(&self.tests).args(arguments(list, filter));
        let good = log.run(tests.current_dir(cargo::workspace()))?;
        closing(log, good)
    }

    /// In a virtual machine that sees this machine's files, and so its tools. Some lists want a machine of their own kind.
    pub fn run_in(
        &self,
        log: &mut Log,
        kernel: &str,
        cpus: u32,
        list: List,
        filter: Option<&str>,
    ) -> Result<Option<Tally>> {
        let share = cargo::workspace().canonicalize()?;
        let disk = scratch_disk(kernel, list)?;
        let mut command = vec![in_guest(&self.tests, &share)?];
        command.extend(arguments(list, filter));
        let mut environment = vec![
            ("CTRACE_BIN".to_owned(), in_guest(&self.ctrace, &share)?),
            // The first disk is the root, if the root is one.
            ("CTRACE_TEST_DISK".to_owned(), if list == List::Systemd { "/dev/vdb" } else { "/dev/vda" }.to_owned()),
        ];
        // By its own mount even where it is within the share: layers can lie over that, not over a layer of layers.
        let daemons = self.daemons.iter().map(|root| (DAEMONS.to_owned(), format!("/host{}", root.display())));
        environment.extend(daemons);
        let machine = Machine {
            kernel: kernel.to_owned(),
            root: if list == List::Systemd { Root::Guest } else { Root::Host },
            memory: if list == List::HostOom { "448M" } else { "2G" }.to_owned(),
            cpus,
            disks: vec![format!("{},{DISK_OPTIONS}", disk.display())],
            append: match list {
                List::Full | List::Core | List::HostOom | List::Systemd | List::Cri => "",
                List::Lockdown => "lockdown=confidentiality",
            }
            .to_owned(),
            systemd: list == List::Systemd,
            timeout: Duration::from_mins(30),
            environment,
            share,
            refresh: false,
            icount: false,
            two_nodes: list == List::HostOom,
            command,
        };
        let outcome = machine.run(log.file());
        log.tally = Tally::of_kernel_tests(&log.text());
        closing(log, outcome?.code == 0)
    }
}

/// The count of the closing line; without one, the tests died.
fn closing(log: &mut Log, good: bool) -> Result<Option<Tally>> {
    log.tally = Tally::of_kernel_tests(&log.text());
    match log.tally {
        None => bail!("the kernel tests ended without their closing line"),
        Some(tally) if !good && tally.failed == 0 => bail!("the kernel tests failed, though no test of theirs did"),
        counted => Ok(counted),
    }
}

/// As the test program knows it.
fn name(list: List) -> &'static str {
    match list {
        List::Full => "full",
        List::Core => "core",
        List::HostOom => "host-oom",
        List::Lockdown => "lockdown",
        List::Systemd => "systemd",
        List::Cri => "cri",
    }
}

fn arguments(list: List, filter: Option<&str>) -> Vec<String> {
    ["--list", name(list)].into_iter().chain(filter).map(str::to_owned).collect()
}

/// The guest has the share at its own path, and all else below /host (its /tmp is its own).
fn in_guest(file: &Path, share: &Path) -> Result<String> {
    let file = file.canonicalize()?;
    let place = if file.starts_with(share) { String::new() } else { "/host".to_owned() };
    Ok(place + &file.to_string_lossy())
}

fn scratch_disk(kernel: &str, list: List) -> Result<PathBuf> {
    let disk = cargo::target_dir()?.join(format!("xtask-logs/disk-{kernel}-{}.img", name(list)));
    let _ = fs::remove_file(&disk);
    File::create(&disk)?.set_len(DISK_SIZE)?;
    Ok(disk)
}
