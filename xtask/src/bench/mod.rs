//! `cargo xtask bench`: what ctrace costs, beside tools that do a part of the same.

mod checks;
mod here;
mod load;
mod packets;
mod procfs;
mod report;
mod stats;
mod subjects;
mod table;
mod tcp;
mod tool;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result, bail};

pub use here::{Args as HereArgs, command as here};
use load::Kind;
pub use load::{Args as LoadArgs, command as load};
use subjects::{GROUPS, Group, Maker};

use crate::{
    apt, build, cargo, process,
    vm::{Machine, Root},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    Oom,
    Exits,
    Signals,
    Cpu,
    Io,
    Net,
    /// Of net, packets by the time that they take
    NetTimed,
    /// Of net, the group that takes the longest: TCP with and without each tool
    NetTcp,
    Caps,
    All,
}

#[derive(clap::Args)]
pub struct Args {
    /// What to measure
    #[arg(value_enum, default_value_t = What::All)]
    what: What,
    /// Rounds of each tool on this machine; three in the virtual one, ten pairs of runs with TCP, at least 15 of timed packets
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The kernel of the virtual machine, which OOM kills are measured in as well
    #[arg(long, value_name = "KERNEL", default_value = "6.1")]
    vm: String,
    /// Nothing in a virtual machine
    #[arg(long)]
    no_vm: bool,
}

/// Of packets that are timed by all that they cost: what else the machine does is more than a tool.
const FLOOD_ROUNDS: u32 = 15;

/// Instructions are counted, not timed, so rounds hardly differ.
const GUEST_ROUNDS: u32 = 3;

pub fn command(args: &Args) -> Result<ExitCode> {
    let wanted = |group: &&Group| match args.what {
        What::All => true,
        What::Oom => group.name.starts_with("oom"),
        What::Exits => group.name == "exits",
        What::Signals => group.name == "signals",
        What::Cpu => group.name == "cpu",
        What::Io => group.name == "io",
        What::Net => group.name.starts_with("net"),
        What::NetTimed => group.name == "net-timed",
        What::NetTcp => group.name == "net-tcp",
        What::Caps => group.name == "caps",
    };
    let groups = GROUPS.iter().filter(wanted).filter(|group| !(args.no_vm && group.in_guest));
    let ctrace = build::ctrace("release", &[], build::Output::Little)?;
    let mut sections = Vec::new();
    for group in groups {
        let needed = needed(group);
        let missing = needed.iter().filter(|(_, programs)| programs.iter().any(|name| process::find(name).is_none()));
        apt::install(&missing.map(|(package, _)| *package).collect::<Vec<_>>())?;
        let packages: Vec<_> = needed.into_keys().collect();
        let samples = cargo::target_dir()?.join(format!("xtask-logs/bench-{}.json", group.name));
        fs::create_dir_all(samples.parent().unwrap_or(Path::new(".")))?;
        let _ = fs::remove_file(&samples);
        let busy = fs::read_to_string("/proc/loadavg")?;
        let rounds = if group.loads == [Kind::Floods] { args.rounds.max(FLOOD_ROUNDS) } else { args.rounds };
        let kernel = if group.in_guest {
            in_guest(group, &ctrace, &samples, &args.vm)?
        } else {
            on_this_machine(group, &ctrace, &samples, rounds)?;
            process::output(Command::new("uname").arg("-r"))?.trim().to_owned()
        };
        let machine = report::machine(&kernel, group.in_guest, &packages);
        let often = match group.loads {
            [Kind::Tcp] => format!("{} pairs of runs of each", tcp::PAIRS),
            _ if group.in_guest => format!("{GUEST_ROUNDS} rounds"),
            _ => format!("{rounds} rounds"),
        };
        let machine =
            format!("{machine}; {often}; load average before it {}", busy.split(' ').next().unwrap_or_default());
        let found = fs::read_to_string(&samples).context("nothing was measured")?;
        let section = report::section(group, &serde_json::from_str(&found)?, &machine);
        println!("{section}");
        sections.push(section);
    }
    report::write(&sections)?;
    Ok(ExitCode::SUCCESS)
}

/// Debian's packages, each with the programs of it that run.
fn needed(group: &Group) -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut needed: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for subject in group.subjects {
        let package = match subject.maker {
            Maker::Libbpf => "libbpf-tools",
            Maker::Bpftrace => "bpftrace",
            Maker::Bcc => "bpfcc-tools",
            Maker::Ctrace | Maker::Nobody => continue,
        };
        needed.entry(package).or_default().extend(subject.command.first());
    }
    if group.loads.contains(&Kind::Tcp) {
        needed.entry("iperf3").or_default().push("iperf3");
    }
    needed
}

fn arguments(group: &Group, ctrace: &Path, out: &Path, rounds: u32) -> Vec<String> {
    let (ctrace, out) = (ctrace.display(), out.display());
    let words = ["bench-here", group.name].map(str::to_owned).into_iter();
    words.chain([format!("--ctrace={ctrace}"), format!("--rounds={rounds}"), format!("--out={out}")]).collect()
}

/// In a mount namespace, where tracefs can be mounted without a trace.
fn on_this_machine(group: &Group, ctrace: &Path, out: &Path, rounds: u32) -> Result<()> {
    let mut unshare = process::as_root("unshare");
    unshare.args(["--mount", "--propagation", "private", "--"]).arg(env::current_exe()?);
    unshare.args(arguments(group, ctrace, out, rounds));
    process::run(cargo::without_cargo_libraries(&mut unshare)?)
}

/// In a virtual machine that counts instructions; its kernel's release.
fn in_guest(group: &Group, ctrace: &Path, out: &Path, kernel: &str) -> Result<String> {
    let share = cargo::workspace().canonicalize()?;
    let place = |file: &Path| -> Result<PathBuf> {
        let parent = file.parent().context("a file is in a folder")?.canonicalize()?;
        let file = parent.join(file.file_name().context("a file has a name")?);
        if !file.starts_with(&share) {
            bail!("a virtual machine writes only to the checkout: let the target directory be in it");
        }
        Ok(file)
    };
    let mut command = vec![place(&env::current_exe()?)?.to_string_lossy().into_owned()];
    command.extend(arguments(group, &place(ctrace)?, &place(out)?, GUEST_ROUNDS));
    let machine = Machine {
        kernel: kernel.to_owned(),
        root: Root::Host,
        memory: "2G".to_owned(),
        cpus: 1,
        disks: Vec::new(),
        append: String::new(),
        systemd: false,
        timeout: Duration::from_mins(30),
        environment: Vec::new(),
        share,
        refresh: false,
        icount: true,
        two_nodes: false,
        command,
    };
    let outcome = machine.run(&mut std::io::stderr())?;
    if outcome.code != 0 {
        bail!("measuring in the virtual machine failed");
    }
    Ok(outcome.release)
}
