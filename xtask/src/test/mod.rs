//! Every tier of the tests in order, from formatting to the oldest kernel.

mod deny;
mod engines;
mod host;
mod kernel;
mod tally;
mod tier;

use std::process::ExitCode;

use anyhow::{Result, bail};
use tier::Tiers;

use crate::{cargo, setup, vm};

#[derive(clap::Args)]
pub struct Args {
    /// Lints, unit tests and the core kernel tests on this machine's own kernel: no virtual machines
    #[arg(long, conflicts_with_all = ["kernels", "native"])]
    quick: bool,
    /// Only the kernel tests in these virtual machines (6.1,7.3); with --native on this machine's kernel, too
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    kernels: Vec<String>,
    /// Only the kernel tests on this machine's own kernel
    #[arg(long)]
    native: bool,
    /// Only the names that containerd's CRI plugin and engines' sockets give, on this machine's kernel: builds ctrace
    /// with the feature `sockets`
    #[arg(long, conflicts_with_all = ["quick", "kernels", "native", "list"])]
    cri: bool,
    /// Which kernel tests to run everywhere (by default all here, on 6.1 and on 7.3, and the core on other kernels)
    #[arg(long, value_enum)]
    list: Option<List>,
    /// Only tests whose name contains this, and no lints
    filter: Option<String>,
}

/// The kernel tests to run: all of them, or those that tell kernels apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum List {
    Full,
    Core,
    /// Those that use up a whole machine's memory: in a small one of their own
    HostOom,
    /// Those for a kernel that is locked down
    Lockdown,
    /// Engines under systemd, in a Debian of their own
    Systemd,
    /// What `--cri` runs
    #[value(skip)]
    Cri,
}

impl List {
    /// Only for a machine made for it.
    fn is_special(self) -> bool {
        matches!(self, Self::HostOom | Self::Lockdown | Self::Systemd)
    }
}

/// The oldest kernel that is widely used and the newest: all tests run on these.
const FULL: &[&str] = &["6.1", "7.3"];

/// Machines of their own kind, for what cannot be tried beside other tests; one kernel each is enough.
const SPECIAL: &[(&str, List)] = &[("6.12", List::HostOom), ("6.18", List::Lockdown), ("6.1", List::Systemd)];

/// What a call of `test` runs.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    lints: bool,
    licences: bool,
    unit_tests: bool,
    native: Option<List>,
    kernels: Vec<(String, List)>,
}

impl Plan {
    fn new(args: &Args) -> Self {
        let some_kernels_only = args.native || args.cri || !args.kernels.is_empty();
        let kernels = match (args.kernels.is_empty(), args.quick || some_kernels_only) {
            (false, _) => args.kernels.clone(),
            (true, true) => Vec::new(),
            (true, false) => vm::MATRIX.iter().map(ToString::to_string).collect(),
        };
        let list_of = |kernel: &str| if FULL.contains(&kernel) { List::Full } else { List::Core };
        let native = match (args.list, args.cri) {
            (Some(list), _) => list,
            (None, true) => List::Cri,
            (None, false) => {
                if args.quick {
                    List::Core
                } else {
                    List::Full
                }
            }
        };
        // Whoever names kernels or a list gets that, and no more.
        let special = if args.list.is_some() || some_kernels_only || args.quick { &[] } else { SPECIAL };
        Self {
            lints: !some_kernels_only && args.filter.is_none(),
            licences: !some_kernels_only && !args.quick && args.filter.is_none(),
            unit_tests: !some_kernels_only,
            native: (args.native || args.cri || !some_kernels_only).then_some(native).filter(|list| !list.is_special()),
            kernels: kernels
                .into_iter()
                .map(|kernel| {
                    let list = args.list.unwrap_or_else(|| list_of(&kernel));
                    (kernel, list)
                })
                .chain(special.iter().map(|(kernel, list)| ((*kernel).to_owned(), *list)))
                .collect(),
        }
    }
}

pub fn command(args: &Args) -> Result<ExitCode> {
    setup::ensure()?;
    let plan = Plan::new(args);
    let filter = args.filter.as_deref();
    let name = |kernel: &str, list: List| match list {
        List::HostOom => format!("kernel tests on {kernel}, out of memory"),
        List::Lockdown => format!("kernel tests on {kernel}, locked down"),
        List::Systemd => format!("kernel tests on {kernel}, engines under systemd"),
        List::Full | List::Core | List::Cri => format!("kernel tests on {kernel}"),
    };
    let mut tiers = Tiers::new(cargo::target_dir()?.join("xtask-logs"))?;
    if plan.lints {
        tiers.run("lints", host::lints);
    }
    if plan.licences {
        // It takes two to six minutes to compile: too long for a look at what changes with the dependencies alone.
        if deny::CARGO_DENY.is_there() {
            tiers.run("licences", deny::deny);
        } else {
            println!("== licences\n   left out: cargo-deny isn't there; `cargo xtask deny` brings it");
        }
    }
    if plan.unit_tests {
        tiers.run("unit tests", |log| host::unit_tests(log, filter));
    }
    if plan.unit_tests && filter.is_none() {
        tiers.run("diagnostics of the debug build", host::diagnostics);
    }
    if cargo::test_targets()?.iter().any(|name| name == kernel::TARGET) {
        let lists = plan.native.into_iter().chain(plan.kernels.iter().map(|(_, list)| *list));
        let daemons = engines::ensure(&lists.collect::<Vec<_>>(), filter);
        let features = if args.cri { &["sockets"][..] } else { &[] };
        if args.cri {
            tiers.run("lints and unit tests of what asks sockets", |log| host::of_features(log, features));
        }
        let mut program = None;
        tiers.run("build of the kernel tests", |log| {
            program = Some(kernel::Program::build(log, features, daemons)?);
            Ok(None)
        });
        if let Some(program) = program {
            if let Some(list) = plan.native {
                tiers.run("kernel tests here", |log| program.run_here(log, list, filter));
            }
            // Alone with two processors, so that ctrace and what it watches run at the same time; or two machines
            // with one processor each, which take less than half the time of one after another with two.
            let (alone, in_pairs): (Vec<_>, Vec<_>) = plan.kernels.iter().partition(|(_, list)| *list == List::Full);
            for (kernel, list) in alone {
                tiers.run(&name(kernel, *list), |log| program.run_in(log, kernel, 2, *list, filter));
            }
            let machine = |(kernel, list): &(String, List)| {
                let (kernel, list, program) = (kernel.clone(), *list, &program);
                (name(&kernel, list), move |log: &mut tier::Log| program.run_in(log, &kernel, 1, list, filter))
            };
            tiers.run_in_pairs(in_pairs.into_iter().map(machine).collect());
        }
    } else {
        println!("== kernel tests\n   left out: there is no test target `{}` yet", kernel::TARGET);
    }
    let sum = tiers.close();
    if sum.passed + sum.failed + sum.skipped == 0 {
        bail!("no test ran: none of these lists has {} in its name", filter.unwrap_or("anything"));
    }
    Ok(if sum.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The tier of that name alone.
pub fn licences() -> Result<ExitCode> {
    let mut tiers = Tiers::new(cargo::target_dir()?.join("xtask-logs"))?;
    tiers.run("licences", deny::deny);
    Ok(if tiers.close().failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn plan(line: &str) -> Plan {
        Plan::new(&Line::parse_from(format!("test {line}").split_whitespace()).args)
    }

    fn lists(plan: &Plan) -> Vec<(&str, List)> {
        plan.kernels.iter().map(|(kernel, list)| (kernel.as_str(), *list)).collect()
    }

    #[test]
    fn everything_by_default() {
        let plan = plan("");
        assert!(plan.lints && plan.licences && plan.unit_tests);
        assert_eq!(plan.native, Some(List::Full));
        let (full, core) = (List::Full, List::Core);
        let (host_oom, lockdown) = (List::HostOom, List::Lockdown);
        assert_eq!(
            lists(&plan),
            [
                ("5.10", core),
                ("6.1", full),
                ("6.12", core),
                ("6.18", core),
                ("7.3", full),
                ("6.12", host_oom),
                ("6.18", lockdown),
                ("6.1", List::Systemd)
            ]
        );
    }

    #[test]
    fn quick_has_no_machines_and_a_filter_no_lints() {
        assert_eq!(
            plan("--quick"),
            Plan { lints: true, licences: false, unit_tests: true, native: Some(List::Core), kernels: vec![] }
        );
        assert!(!plan("oom").lints && plan("oom").unit_tests && plan("oom").kernels.len() == 8);
    }

    #[test]
    fn named_kernels_are_all_that_runs() {
        let some = plan("--kernels 6.1,6.12 oom");
        assert!(!some.lints && !some.unit_tests && some.native.is_none());
        assert_eq!(lists(&some), [("6.1", List::Full), ("6.12", List::Core)]);
        assert_eq!(lists(&plan("--kernels 6.12 --list full")), [("6.12", List::Full)]);
        assert_eq!(
            plan("--native"),
            Plan { lints: false, licences: false, unit_tests: false, native: Some(List::Full), kernels: vec![] }
        );
        assert_eq!(plan("--native --kernels 7.3").native, Some(List::Full));
        assert_eq!(plan("--cri"), Plan { native: Some(List::Cri), ..plan("--native") });
    }

    #[test]
    fn this_machine_is_never_used_up() {
        assert_eq!(plan("--list host-oom").native, None);
        assert_eq!(plan("--native --list host-oom").native, None);
        assert_eq!(plan("--list systemd").native, None);
        assert_eq!(lists(&plan("--kernels 6.1 --list host-oom")), [("6.1", List::HostOom)]);
    }
}
