//! What each check is: needed, probed, denied, or another's.

use super::*;

#[test]
fn needed_is_what_was_granted_to_the_application() {
    let mut bench = Bench::new();
    bench.asked(Bench::key(Capability::CAP_CHOWN, "fchownat", how::OPTIONS_UNKNOWN));
    let report = bench.report();
    assert_eq!(report.needed, ["CAP_CHOWN"]);
    assert_eq!(report.unused, ["CAP_DAC_OVERRIDE", "CAP_NET_RAW", "CAP_SYS_ADMIN"]);
    let row = &report.evidence[0];
    assert_eq!((row.comm.as_deref(), row.syscall.as_deref(), row.count), (Some("nginx"), Some("fchownat"), 5));
    assert!(report.equal_root.contains_key("CAP_SYS_ADMIN") && !report.equal_root.contains_key("CAP_CHOWN"));
    assert_eq!((report.watched_ns, report.startup_seen, report.ended), (10 * SECOND, false, false));
    assert_eq!(bench.findings("caps.unused").len(), 1);
}

#[test]
fn probes_are_told_from_needs() {
    let key = |capability, syscall, how| verdict(Bench::key(capability, syscall, how)).0;
    let unknown = how::OPTIONS_UNKNOWN;
    assert_eq!(key(Capability::CAP_SYS_ADMIN, "mmap", how::QUIET), "probed");
    assert_eq!(key(Capability::CAP_SYS_ADMIN, "mmap", unknown), "probed");
    // The function tells it in calls that no list has.
    assert_eq!(key(Capability::CAP_SYS_ADMIN, "prctl", unknown), "probed");
    assert_eq!(key(Capability::CAP_SETPCAP, "capset", 0), "probed");
    assert_eq!(key(Capability::CAP_SETPCAP, "prctl", 0), "needed", "dropping from the bounding set");
    assert_eq!(key(Capability::CAP_FSETID, "fchmod", 0), "probed");
    assert_eq!(key(Capability::CAP_SYS_PTRACE, "read", how::QUIET), "probed");
    assert_eq!(key(Capability::CAP_SYS_PTRACE, "read", 0), "needed", "not quiet");
    assert_eq!(key(Capability::CAP_SYS_PTRACE, "ptrace", unknown), "needed");
    // A quiet check may be a need: seccomp(2) without no_new_privs.
    assert_eq!(key(Capability::CAP_NET_ADMIN, "seccomp", how::QUIET), "needed");
    assert_eq!(key(Capability::CAP_DAC_OVERRIDE, "openat", how::BORROWED), "probed");
    assert_eq!(
        key(Capability::CAP_DAC_OVERRIDE, "faccessat2", how::BORROWED),
        "needed",
        "access(2) asks as the real user"
    );
    assert_eq!(key(Capability::CAP_NET_ADMIN, "access", how::BORROWED), "probed", "overlayfs looks for its xattrs");
    assert_eq!(key(Capability::CAP_SYS_ADMIN, "mmap", how::DENIED | how::QUIET), "probed", "refused or not");
}

/// fork asks for SYS_ADMIN beyond RLIMIT_NPROC, and that is no accounting of memory: the stack tells them apart.
#[test]
fn a_limit_that_is_passed_is_no_accounting() {
    let probed = |call: &str, quiet, stack: &[&str]| {
        let stack: Vec<String> = stack.iter().map(|name| (*name).to_owned()).collect();
        rules::probe(Capability::CAP_SYS_ADMIN, call, quiet, &stack).is_some()
    };
    assert!(!probed("fork", None, &["copy_process", "kernel_clone"]));
    assert!(!probed("madvise", None, &["madvise_vma_behavior"]));
    assert!(probed("fork", None, &["__vm_enough_memory", "dup_mmap"]));
    assert!(probed("fork", None, &[]), "where the stack has no names the call tells");
    assert!(probed("fork", Some(true), &["inlined"]));
    assert!(!probed("fork", Some(false), &["copy_process"]));
}

/// What the kernel has a name for in no list: the function decides, where it has a name.
#[test]
fn a_mount_is_no_overcommit() {
    let mut bench = Bench::new();
    bench.asked(Bench::key(Capability::CAP_SYS_ADMIN, "mount", how::OPTIONS_UNKNOWN));
    bench.with(T, |rule, _, out| rule.finish(T, out));
    let names = Reading::Symbols(Err("hidden".to_owned()));
    bench.with(T, |rule, world, out| rule.reading(&names, T, world, out));
    let report = bench.out.iter().find_map(|output| match output {
        Output::Caps(report) => Some(report.clone()),
        _ => None,
    });
    let report = report.expect("a report");
    assert_eq!(report.needed, ["CAP_SYS_ADMIN"]);
    assert_eq!(report.unknown["stack"], "hidden");
}

#[test]
fn the_runtime_exec_and_other_namespaces_are_kept_apart() {
    let own = Bench::key(Capability::CAP_CHOWN, "fchownat", 0);
    let of = |origin: Origin, relation: Relation, how| {
        verdict(CheckKey { origin: origin as u8, relation: relation as u8, how, ..own }).0
    };
    assert_eq!(of(Origin::Application, Relation::Own, 0), "needed");
    assert_eq!(of(Origin::Runtime, Relation::Own, 0), "runtime");
    assert_eq!(of(Origin::Exec, Relation::Own, 0), "exec");
    assert_eq!(of(Origin::Application, Relation::Outer, how::DENIED), "other_namespace");
    assert_eq!(of(Origin::Application, Relation::Inner, 0), "other_namespace");
    // None of them makes the set larger.
    let mut bench = Bench::new();
    bench.asked(CheckKey { origin: Origin::Exec as u8, ..own });
    let report = bench.report();
    assert_eq!((report.needed.len(), report.exec.as_slice()), (0, &["CAP_CHOWN".to_owned()][..]));
    assert!(report.unused.contains(&"CAP_CHOWN".to_owned()));
}

#[test]
fn a_refusal_is_judged_by_what_became_of_the_call() {
    let denied = how::DENIED | how::OPTIONS_UNKNOWN;
    let judged = |capability, syscall: &str, all: &[Capability], granted: &[Capability], result| {
        let mut bench = Bench::new();
        bench.asked(Bench::key(capability, syscall, denied));
        bench.came(syscall, all, granted, result);
        let findings = bench.findings("caps.denied").len();
        let report = bench.report();
        (report.evidence[0].verdict.clone(), findings)
    };
    let is = |verdict: &str, findings| (verdict.to_owned(), findings);
    use Capability::{CAP_AUDIT_WRITE, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SETUID, CAP_SYS_TIME};
    assert_eq!(judged(CAP_SYS_TIME, "clock_settime", &[CAP_SYS_TIME], &[], -1), is("denied", 1));
    // setuid asks first, and then finds that the id is the process's own.
    assert_eq!(judged(CAP_SETUID, "setuid", &[CAP_SETUID], &[], 0), is("probed", 0));
    assert_eq!(judged(CAP_DAC_READ_SEARCH, "openat", &[CAP_DAC_READ_SEARCH], &[CAP_DAC_OVERRIDE], 3), is("probed", 0));
    assert_eq!(judged(CAP_DAC_READ_SEARCH, "openat", &[CAP_DAC_READ_SEARCH], &[], -13), is("denied", 1));
    let both = [CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE];
    assert_eq!(judged(CAP_DAC_OVERRIDE, "openat", &both, &[], -13), is("denied", 2));
    // The refusal is in the netlink ack.
    assert_eq!(judged(CAP_AUDIT_WRITE, "sendto", &[CAP_AUDIT_WRITE], &[], 0), is("denied", 1));
}

#[test]
fn refused_in_one_call_and_used_in_another_is_needed() {
    let mut bench = Bench::new();
    bench.asked(Bench::key(Capability::CAP_NET_RAW, "socket", how::DENIED));
    bench.asked(Bench::key(Capability::CAP_NET_RAW, "setsockopt", 0));
    let report = bench.report();
    assert_eq!((report.needed, report.denied.len()), (vec!["CAP_NET_RAW".to_owned()], 0));
}

#[test]
fn one_alternative_is_said_to_do_for_the_other() {
    let mut bench = Bench::new();
    let both = [Capability::CAP_DAC_READ_SEARCH, Capability::CAP_DAC_OVERRIDE];
    bench.asked(Bench::key(both[1], "openat", how::DENIED));
    bench.came("openat", &both, &[], -13);
    let row = &bench.report().evidence[0];
    assert!(row.reason.contains("CAP_DAC_READ_SEARCH would do"), "{}", row.reason);
    assert_eq!(row.results, ["EACCES"]);
}

#[test]
fn eperm_without_a_capability_is_said_once_and_not_of_harmless_calls() {
    let mut bench = Bench::new();
    bench.came("keyctl", &[], &[], -1);
    bench.came("keyctl", &[], &[], -1);
    bench.came("setsid", &[], &[], -1);
    bench.came("keyctl", &[Capability::CAP_SYS_ADMIN], &[], -1);
    let found = bench.findings("caps.not-a-capability");
    let [finding] = &found[..] else { panic!("{} findings", found.len()) };
    assert!(finding.summary.contains("keyctl") && finding.why.contains("seccomp"), "{finding:?}");
    assert_eq!(bench.findings("caps.denied").len(), 1, "the one with a refusal");
    let report = bench.report();
    assert_eq!(report.not_a_capability.len(), 2, "{:?}", report.not_a_capability);
}

#[test]
fn asked_of_the_host_there_is_nothing_to_add() {
    let mut bench = Bench::new();
    let key = CheckKey { relation: Relation::Outer as u8, ..Bench::key(Capability::CAP_MKNOD, "mknodat", how::DENIED) };
    bench.asked(key);
    bench.came("mknodat", &[Capability::CAP_MKNOD], &[], -1);
    let found = bench.findings("caps.denied");
    assert_eq!(found[0].evidence["other_namespace"], true);
    assert!(found[0].fix[0].starts_with("nothing to add"));
}

#[test]
fn a_capability_that_is_newer_than_this_build() {
    let mut bench = Bench::new();
    bench.asked(CheckKey { capability: 61, ..Bench::key(Capability::CAP_CHOWN, "fchownat", 0) });
    assert_eq!(bench.report().needed, ["CAP_61"]);
}

/// The same program as the container's own and by `docker exec`: each refusal is judged by its own calls.
#[test]
fn a_refusal_is_not_judged_by_what_came_by_exec() {
    let mut bench = Bench::new();
    bench.asked(Bench::key(Capability::CAP_SETUID, "setuid", how::DENIED));
    bench.came("setuid", &[Capability::CAP_SETUID], &[], 0);
    let mut outcome = Outcome::zeroed();
    outcome.header = fixture::header::<Outcome>(T, WEB_CGROUP);
    outcome.task = web_task(502, "nginx");
    outcome.key = OutcomeKey {
        cgroup: WEB_CGROUP,
        image: 7,
        denied: Capability::CAP_SETUID.bitmask(),
        granted: 0,
        syscall: call("setuid"),
        result: -1,
        origin: Origin::Exec as u32,
        reserved: 0,
    };
    bench.with(T, |rule, world, out| rule.event(&Event::CapOutcome(Box::new(outcome)), world, out));
    let report = bench.report();
    assert_eq!((report.probed, report.denied.len()), (vec!["CAP_SETUID".to_owned()], 0));
}

#[test]
fn names_of_calls() {
    assert_eq!(syscall_name(NO_SYSCALL), None);
    assert_eq!(syscall_name(call("openat")).as_deref(), Some("openat"));
    assert_eq!(syscall_name(5 | COMPAT).as_deref(), Some("32-bit call 5"));
    assert_eq!(syscall_name(9999).as_deref(), Some("call 9999"));
}

/// Each row of the table of probes, and what is nearly one.
#[test]
fn each_probe_has_its_row() {
    use Capability::{
        CAP_FSETID, CAP_IPC_LOCK, CAP_NET_ADMIN, CAP_SETPCAP, CAP_SYS_ADMIN, CAP_SYS_MODULE, CAP_SYS_PTRACE,
        CAP_SYS_RESOURCE, CAP_SYS_TTY_CONFIG, CAP_SYSLOG,
    };
    let of = |capability, call, quiet, stack: &[&str]| {
        let stack: Vec<String> = stack.iter().map(|name| (*name).to_owned()).collect();
        rules::probe(capability, call, quiet, &stack).map(|row| row.source)
    };
    let anywhere = |capability, call| of(capability, call, None, &[]);
    let below = |capability, call, function| of(capability, call, None, &[function]);
    let memory = Some("mm/util.c __vm_enough_memory, security/commoncap.c cap_vm_enough_memory");
    assert_eq!(below(CAP_SYS_ADMIN, "clone", "__vm_enough_memory"), memory);
    assert_eq!(anywhere(CAP_SYS_ADMIN, "clone"), None, "a namespace");
    assert_eq!(anywhere(CAP_SYS_ADMIN, "brk"), memory);
    assert_eq!(of(CAP_SYS_ADMIN, "brk", Some(false), &[]), None);
    let capset = "security/commoncap.c cap_capset, cap_inh_is_capped";
    assert_eq!((anywhere(CAP_SETPCAP, "capset"), anywhere(CAP_SETPCAP, "prctl")), (Some(capset), None));
    assert!(anywhere(CAP_FSETID, "chmod").is_some_and(|source| source.contains("setattr_prepare")));
    assert!(anywhere(CAP_SYS_PTRACE, "read").is_some_and(|source| source.contains("do_task_stat")));
    assert_eq!(of(CAP_SYS_PTRACE, "read", Some(false), &[]), None);
    assert_eq!(anywhere(CAP_SYS_PTRACE, "ptrace"), None);
    assert!(below(CAP_SYSLOG, "read", "restricted_pointer").is_some_and(|source| source.contains("vsprintf")));
    assert_eq!(below(CAP_SYSLOG, "read", "do_syslog"), None);
    assert!(anywhere(CAP_SYS_ADMIN, "statmount").is_some_and(|source| source.contains("do_statmount")));
    assert_eq!(anywhere(CAP_SYS_ADMIN, "mount"), None);
    let device = Some("net/core/dev_ioctl.c dev_load");
    assert_eq!(below(CAP_NET_ADMIN, "ioctl", "dev_load"), device);
    assert_eq!(below(CAP_NET_ADMIN, "ioctl", "dev_ioctl"), None, "it changes the device");
    assert_eq!(anywhere(CAP_SYS_MODULE, "socket"), device);
    assert_eq!(anywhere(CAP_SYS_MODULE, "init_module"), None);
    assert!(anywhere(CAP_NET_ADMIN, "recvmsg").is_some_and(|source| source.contains("inet_diag")));
    assert_eq!(anywhere(CAP_NET_ADMIN, "sendmsg"), None);
    assert!(anywhere(CAP_IPC_LOCK, "io_uring_setup").is_some_and(|source| source.contains("io_uring")));
    assert_eq!(anywhere(CAP_IPC_LOCK, "mlock"), None);
    for capability in [CAP_SYS_RESOURCE, CAP_SYS_ADMIN] {
        assert!(anywhere(capability, "pipe2").is_some_and(|source| source.contains("fs/pipe.c")));
    }
    assert_eq!(anywhere(CAP_SYS_RESOURCE, "prlimit64"), None);
    assert!(below(CAP_SYS_TTY_CONFIG, "ioctl", "vt_ioctl").is_some_and(|source| source.contains("vt_ioctl")));
    assert_eq!(below(CAP_SYS_TTY_CONFIG, "ioctl", "tty_ioctl"), None);
}

/// Refused the first and granted the second, whatever else the call failed of: one is enough.
#[test]
fn each_alternative_does() {
    use Capability::{
        CAP_BPF, CAP_CHECKPOINT_RESTORE, CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_NET_ADMIN, CAP_NET_RAW,
        CAP_PERFMON, CAP_SYS_ADMIN, CAP_SYS_NICE, CAP_SYS_RESOURCE, CAP_SYSLOG,
    };
    let judged = |first, second| {
        let mut bench = Bench::new();
        bench.asked_below(Bench::key(first, "openat", how::DENIED), OVERCOMMIT - 1);
        bench.came("openat", &[first], &[second], -1);
        bench.report().evidence[0].verdict.clone()
    };
    for (first, second) in [
        (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE),
        (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH),
        (CAP_PERFMON, CAP_SYS_ADMIN),
        (CAP_BPF, CAP_SYS_ADMIN),
        (CAP_CHECKPOINT_RESTORE, CAP_SYS_ADMIN),
        (CAP_SYSLOG, CAP_SYS_ADMIN),
        (CAP_NET_ADMIN, CAP_SYS_ADMIN),
        (CAP_NET_RAW, CAP_NET_ADMIN),
        (CAP_SYS_RESOURCE, CAP_SYS_ADMIN),
        (CAP_SYS_ADMIN, CAP_SYS_NICE),
    ] {
        assert_eq!(judged(first, second), "probed", "{first}, {second}");
        assert_eq!(judged(first, CAP_CHOWN), "denied", "{first}: another one does not do");
    }
}
