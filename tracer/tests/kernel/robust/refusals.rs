//! Where it cannot work it says so in one line, with the next step, and the exit code that scripts wait for.

use std::{
    fs::{self, File},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command,
};

use caps::{CapSet, Capability};

use crate::{
    harness::{List, Test},
    support::{
        cgroups::Tree,
        ctrace::{self, Ctrace, Ended},
        player::{self, Player},
    },
};

pub static TESTS: &[Test] = &[
    Test::core("robust::refusals::not_root", not_root),
    Test::core("robust::refusals::without_cap_bpf", without_cap_bpf),
    Test::full("robust::refusals::cap_bpf_and_perfmon_are_enough", cap_bpf_and_perfmon_are_enough),
    Test::full("robust::refusals::unknown_container", unknown_container),
    Test::full("robust::refusals::nonsense", nonsense),
    Test::full("robust::refusals::no_btf", no_btf),
    Test::full("robust::refusals::no_cgroups", no_cgroups),
    Test::full("robust::refusals::the_disk_is_full", the_disk_is_full),
    Test::full("robust::refusals::tracefs_is_not_needed", tracefs_is_not_needed),
    Test::of(List::Lockdown, "robust::refusals::lockdown", lockdown),
];

/// Exit code 1, nothing on stdout, one line on stderr that holds each of `words`.
fn refused(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(ended.err.len(), 1, "one line: {ended:?}");
    assert!(ended.err[0].starts_with("ctrace: "), "{ended:?}");
    for word in words {
        assert!(ended.err[0].contains(word), "no word of {word:?}: {ended:?}");
    }
}

fn silent(ended: &Ended) {
    assert!(ended.out.is_empty(), "it said something before it knew that it could not work: {ended:?}");
}

fn not_root() {
    // The program may lie where only its builder can go.
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("own directory");
    let copy = dir.path().join("ctrace");
    fs::copy(ctrace::binary(), &copy).expect("a copy");
    for arguments in [&["oom"][..], &["oom", "--json"], &["oom", "--container", "x"]] {
        let mut command = Command::new(&copy);
        command.args(arguments).uid(65534).gid(65534);
        let ended = ctrace::run(command);
        refused(&ended, &["CAP_BPF", "sudo"]);
        silent(&ended);
    }
}

/// Root without some of root's capabilities.
fn lacking(arguments: &[&str], lacks: impl Fn(Capability) -> bool) -> Command {
    let mut command = ctrace::command(arguments);
    let dropped: Vec<Capability> = caps::all().into_iter().filter(|cap| lacks(*cap)).collect();
    let drop = move || {
        for cap in &dropped {
            // One that this kernel does not know is not there either.
            let _ = caps::drop(None, CapSet::Bounding, *cap);
        }
        Ok(())
    };
    // SAFETY: system calls on this process alone, between fork and exec.
    unsafe { command.pre_exec(drop) };
    command
}

fn without_cap_bpf() {
    use Capability::{CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN};
    let ended = ctrace::run(lacking(&["oom"], |cap| matches!(cap, CAP_BPF | CAP_SYS_ADMIN)));
    refused(&ended, &["CAP_BPF", "sudo"]);
    silent(&ended);
    assert!(!ended.err[0].contains("CAP_PERFMON"), "that one it has: {ended:?}");
    let ended = ctrace::run(lacking(&["oom"], |cap| matches!(cap, CAP_PERFMON | CAP_SYS_ADMIN)));
    refused(&ended, &["CAP_PERFMON"]);
    // doctor says the same, and more.
    let ended = ctrace::run(lacking(&["doctor"], |cap| matches!(cap, CAP_BPF | CAP_SYS_ADMIN)));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.out.iter().any(|line| line.contains("missing privileges") && line.contains("CAP_BPF")), "{ended:?}");
}

fn cap_bpf_and_perfmon_are_enough() {
    use Capability::{CAP_BPF, CAP_DAC_READ_SEARCH, CAP_PERFMON, CAP_SYS_PTRACE, CAP_SYS_RESOURCE, CAP_SYSLOG};
    let tree = Tree::new();
    // SYS_RESOURCE: before 5.11 maps count as locked memory.
    let enough = [CAP_BPF, CAP_PERFMON, CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_SYSLOG, CAP_SYS_RESOURCE];
    let ctrace = Ctrace::ready(lacking(&["oom", "--json"], |cap| !enough.contains(&cap)));
    let container = tree.container().limited(24);
    let mut hog = Player::within(&container, &["anon"]);
    hog.ended();
    ctrace.finding("oom.container-limit", &container);
    ctrace.stop();
}

fn unknown_container() {
    let tree = Tree::new();
    let container = tree.container();
    let near = &container.name()[..12];
    let mistyped = format!("{}x", &near[..11]);
    let ended = ctrace::run(ctrace::command(&["oom", "--container", &mistyped]));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    silent(&ended);
    assert!(ended.err[0].starts_with("ctrace: ") && ended.err[0].contains(&mistyped), "{ended:?}");
    assert!(ended.err[0].contains(near), "the nearest name is missing: {ended:?}");
    let ended = ctrace::run(ctrace::command(&["oom", "--container", "\x1b[31m"]));
    assert!(ended.code == Some(1) && !ended.err.concat().contains('\x1b'), "{ended:?}");
}

fn nonsense() {
    for (arguments, word) in [
        (&["oom", "--for", "soon"][..], "30s"),
        (&["oom", "--for", "0s"], "30s"),
        (&["oom", "--for", "-5s"], ""),
        (&["oom", "--for", "1000000y"], "year"),
        (&["oom", "--ring-kib", "7"], "power of two"),
        (&["oom", "--pid", "0"], ""),
        (&["net", "--flow", "sctp/10.0.0.2/80"], "tcp, udp, icmp"),
        (&["net", "--flow", "tcp/10.0.0/80"], "address"),
        (&["net", "--flow", "tcp/10.0.0.2/65536"], "65535"),
        (&["net", "--flow", "icmp/10.0.0.2/1"], "no ports"),
        (&["oom", "--flow", "tcp/10.0.0.2/80"], "--flow"),
        (&["oom", "--json", "--lines"], "--lines"),
        (&["ooms"], "oom"),
        (&["--lines", "oom"], "--lines"),
    ] {
        let ended = ctrace::run(ctrace::command(arguments));
        assert!(ended.code == Some(2) && ended.out.is_empty(), "{arguments:?}: {ended:?}");
        assert!(ended.err.concat().contains(word), "{arguments:?}: no word of {word:?}: {ended:?}");
    }
    let ended = ctrace::run(ctrace::command(&["oom", "--pid", "4194305"])); // above any pid_max
    refused(&ended, &["4194305"]);
    let ended = ctrace::run(ctrace::command(&["explain", "oom.child-kill"]));
    refused(&ended, &["oom.child-killed"]);
    let ended = ctrace::run(ctrace::command(&["explain", "oom.child-killed"]));
    assert_eq!((ended.code, ended.err.len()), (Some(0), 0), "{ended:?}");
}

/// `ctrace` in mounts of its own.
fn with_mounts(steps: &[&str], arguments: &[&str]) -> Command {
    let binary = ctrace::binary().display().to_string();
    let exec = ["exec", &binary];
    let steps = ["mounts"].iter().chain(steps).chain(&exec).chain(arguments);
    player::command(steps.map(ToString::to_string).collect::<Vec<_>>())
}

fn no_btf() {
    let ended = ctrace::run(with_mounts(&["tmpfs=/sys/kernel/btf"], &["oom"]));
    refused(&ended, &["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF"]);
    silent(&ended);
}

fn no_cgroups() {
    let ended = ctrace::run(with_mounts(&["unmount=/sys/fs/cgroup"], &["oom"]));
    refused(&ended, &["cgroup", "mount"]);
    silent(&ended);
}

fn the_disk_is_full() {
    for mode in ["--json", "--lines"] {
        let full = File::options().write(true).open("/dev/full").expect("/dev/full");
        let mut command = ctrace::command(&["oom", mode]);
        command.stdout(full);
        let ended = ctrace::run_with_stdout(command);
        refused(&ended, &["disk full"]);
    }
}

fn tracefs_is_not_needed() {
    let tree = Tree::new();
    let steps = ["unmount=/sys/kernel/tracing", "unmount=/sys/kernel/debug/tracing", "unmount=/sys/kernel/debug"];
    let ctrace = Ctrace::ready(with_mounts(&steps, &["oom", "--json"]));
    let container = tree.container().limited(24);
    let mut hog = Player::within(&container, &["anon"]);
    hog.ended();
    ctrace.finding("oom.container-limit", &container);
    ctrace.stop();
}

fn lockdown() {
    let mode = fs::read_to_string("/sys/kernel/security/lockdown").expect("securityfs");
    assert!(mode.contains("[confidentiality]"), "this list is for a kernel booted so: {mode}");
    for arguments in [&["oom"][..], &["oom", "--json"]] {
        let ended = ctrace::run(ctrace::command(arguments));
        refused(&ended, &["lockdown=confidentiality", "lockdown=integrity"]);
        silent(&ended);
    }
    let ended = ctrace::run(ctrace::command(&["doctor", "--json"]));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.out[0].contains(r#""lockdown":"confidentiality""#), "{ended:?}");
}
