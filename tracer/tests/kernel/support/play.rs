//! The workload: this program as `kernel play STEP…`, one step after another. What a step makes (a child, a thread,
//! PID 1 of a new namespace) goes on with the steps behind it.
//!
//! | step | does |
//! |---|---|
//! | `enter=DIR` | moves into a cgroup |
//! | `netns=NAME` | enters a network namespace that has a name |
//! | `connect=ADDRESS:PORT=N`, … | talks TCP (see `support::tcp`) |
//! | `ask=ADDRESS:PORT=N`, … | talks DNS (see `support::dns`) |
//! | `pidns` | goes on as PID 1 of a new pid namespace; the old process waits and ends as it does |
//! | `child`, `fragile-child` | goes on in a child; the parent outlives it, or ends with it |
//! | `herd=N` | N children that only wait |
//! | `busy=N` | N children that do nothing but use a CPU |
//! | `bursts=N=MS=EVERY` | N children `burst` that use a CPU for MS of their own time at the beginning of each EVERY ms |
//! | `vfork` | waits for a child of vfork that neither execs nor ends: uninterruptible |
//! | `sharer` | another process in the same memory (`CLONE_VM` without `CLONE_THREAD`) that only waits |
//! | `thread`, `leaderless` | goes on in a thread that is not the leader, who waits, or is gone |
//! | `last-thread` | goes on in another thread, after the leader has ended |
//! | `nproc=N`, `pid-max=N` | its RLIMIT_NPROC; the `kernel.pid_max` that it sees |
//! | `comm=TEXT`, `uid=N`, `adj=N` | its name, user, `oom_score_adj` |
//! | `anon=MIB`, `shmem=MIB`, `anon`, `shmem` | touches memory page by page, and keeps it; without a number until killed |
//! | `default=N`, `ignore=N`, `handle=N`, `block=N` | what becomes of a signal |
//! | `unblock=N`, `sigwait=N` | takes it if it was sent meanwhile; waits for it |
//! | `kill=N` | sends a signal to PID 1 of its namespace |
//! | `flood=N` | sends itself so many SIGUSR1, some thousands a second |
//! | `volleys=N` | N signals a second, no two alike within a tenth of one, to children that ignore them; each second it writes `sent N` |
//! | `panic` | takes the terminal as ctrace does, and panics a second later |
//! | `segv`, `abort` | ends by a fault of its own: touches [`BAD_ADDRESS`]; `abort()` |
//! | `forks=N` | N children that end at once |
//! | `bomb=N` | asks N times for a child that only waits, and writes `tried MADE REFUSED` |
//! | `rival-bomb=N` | the same beside a rival, with children that end at once |
//! | `zombies=N`, `orphans=N` | N children that end and are not waited for; its own, or its children's |
//! | `leaderless-herd=N` | N children whose leader is gone and whose thread waits |
//! | `fsync=FILE` | writes a page, and waits until it is on the disk |
//! | `fsyncs=FILE=N`, `timed-fsync=FILE=MIB`, `sync-each-way=FILE` | the same again and again; with more, and says `waited NS`; by each call |
//! | `opened=FILE` | opens it, says `opened`, and reads a page of it after a line on stdin |
//! | `say=WORD` | writes `WORD PID TID`, as the host sees them |
//! | `await` | waits for a line on stdin |
//! | `pause`, `exit=N` | waits for ever; ends |
//! | `mounts`, `unmount=DIR`, `tmpfs=DIR`, `write=FILE=TEXT` | a mount namespace of its own, and what is in it |
//! | `caps`, `caps=without` | each capability's own program, with all of them or without its own; says `ready` and `done`, and waits for a line after each |
//! | `try=CAP` | one of them |
//! | `root=DIR` | has that directory as its root |
//! | `chroot` | changes its root directory for itself |
//! | `grow-stack` | lets its stack grow by a fault, opens a file that is not there, and asks for another root directory |
//! | `filter`, `keyctl` | from now on keyctl(2) is answered with EPERM by a seccomp filter; calls it |
//! | `userns` | a user namespace of its own, root in it |
//! | `nets`, `net-of=PID` | a network namespace of its own, or that of another process |
//! | `stage`, `keep-map` | see `support::net` |
//! | `exec` | becomes the program that the rest of the steps name |

use std::{
    ffi::{CString, OsString},
    fs,
    io::{Read, Write},
    os::unix::{ffi::OsStrExt, ffi::OsStringExt, process::CommandExt},
    process::Command,
    ptr::null_mut,
    time::{Duration, Instant},
};

use super::{disk, dns, net, tcp, tmux};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::{
        prctl,
        resource::{Resource, setrlimit},
        signal::{SigHandler, SigSet, Signal, kill, raise, signal},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Gid, Pid, Uid, fork, pause, setgid, setuid},
};

use super::capable::{self, EXERCISES, Ground};

/// Takes so many KiB of stack, by faults and not by any call.
#[inline(never)]
fn grow_stack(kib: usize) {
    let mut room = [0_u8; 1024];
    std::hint::black_box(&mut room);
    if kib > 0 {
        grow_stack(kib - 1);
    }
    std::hint::black_box(&mut room);
}

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;
/// A limit that does not hold must not cost the machine its memory.
const ENOUGH_MIB: usize = 512;
/// The exit code of a hog that nobody stopped.
pub const NEVER_KILLED: i32 = 99;
/// What `segv` touches.
pub const BAD_ADDRESS: usize = 0x10;

pub fn play(steps: Vec<OsString>) -> ! {
    die_with_parent();
    go_on(&steps);
    std::process::exit(0)
}

fn go_on(steps: &[OsString]) {
    for (at, step) in steps.iter().enumerate() {
        let rest = &steps[at + 1..];
        let bytes = step.as_bytes();
        let (verb, value) = match bytes.iter().position(|byte| *byte == b'=') {
            Some(at) => (&bytes[..at], &bytes[at + 1..]),
            None => (bytes, &[][..]),
        };
        let verb = String::from_utf8_lossy(verb);
        let text = String::from_utf8_lossy(value);
        let number = || text.parse::<usize>().unwrap_or_else(|_| panic!("{verb} wants a number, not {text:?}"));
        match &*verb {
            "enter" => fs::write(format!("{text}/cgroup.procs"), "0").expect("entering the cgroup"),
            "netns" => {
                let namespace = fs::File::open(format!("/run/netns/{text}")).expect("a namespace of that name");
                setns(namespace, CloneFlags::CLONE_NEWNET).expect("entering it");
            }
            "connect" => tcp::connect(&text),
            "try-for" => tcp::try_for(&text),
            "hold" => tcp::hold(&text),
            "serve" => tcp::serve(&text),
            "listen-only" => tcp::listen_only(&text),
            "take-port" => tcp::take_port(&text),
            "listen-twice" => tcp::listen_twice(&text),
            "take-path-twice" => tcp::take_path_twice(),
            "send-to" => tcp::send_to(&text),
            "stream" => tcp::stream(&text),
            "ask" => dns::ask(&text),
            "ask-and-hear" => dns::ask_and_hear(&text),
            "answer" => dns::answer(&text),
            "resolve" => dns::resolve(&text),
            "answer-the-second" => dns::answer_the_second(&text),
            "ask-from-pages" => dns::ask_from_pages(&text),
            "be-silent" => dns::be_silent(&text),
            "ask-nothing" => dns::ask_nothing(&text),
            "answer-from-pages" => dns::answer_from_pages(&text),
            "mislead" => dns::mislead(&text),
            "pidns" => {
                unshare(CloneFlags::CLONE_NEWPID).expect("a pid namespace");
                fork_and(|child| end_as(child));
            }
            "child" => fork_and(|_| {
                while waitpid(None, None).is_ok() {}
                for_ever()
            }),
            "orphan" => {
                let parent = Pid::this();
                // SAFETY: one thread only, so nothing is locked in the child.
                if let ForkResult::Parent { .. } = unsafe { fork() }.expect("a child") {
                    std::process::exit(0);
                }
                super::wait_until("the parent to be gone", || (Pid::parent() != parent).then_some(()));
            }
            "fragile-child" => fork_and(|child| end_as(child)),
            "herd" => {
                for _ in 0..number() {
                    forked(|| for_ever());
                }
            }
            "busy" => {
                for _ in 0..number() {
                    forked(|| {
                        loop {
                            std::hint::spin_loop();
                        }
                    });
                }
            }
            "bursts" => bursts(&text),
            "vfork" => vfork(),
            "sharer" => sharer(),
            "thread" => {
                let rest = rest.to_vec();
                std::thread::spawn(move || go_on(&rest)).join().expect("the thread's steps");
                for_ever()
            }
            "leaderless" => {
                let rest = rest.to_vec();
                std::thread::spawn(move || go_on(&rest));
                // SAFETY: ends this thread alone, with nothing of it borrowed by the other.
                unsafe { libc::syscall(libc::SYS_exit, 0) };
            }
            "last-thread" => {
                let rest = rest.to_vec();
                std::thread::spawn(move || {
                    while !leader_is_gone() {
                        std::thread::yield_now();
                    }
                    go_on(&rest);
                    std::process::exit(0)
                });
                // SAFETY: ends this thread alone; it holds nothing that the other one wants.
                unsafe { libc::syscall(libc::SYS_exit, 0) };
            }
            "default" | "ignore" | "handle" | "block" => {
                let number = Signal::try_from(number() as i32).expect("a signal");
                let handler = match &*verb {
                    "ignore" => SigHandler::SigIgn,
                    "handle" => SigHandler::Handler(nothing),
                    _ => SigHandler::SigDfl,
                };
                // SAFETY: the handler does nothing.
                unsafe { signal(number, handler) }.expect("a disposition");
                if verb == "block" {
                    SigSet::from(number).thread_block().expect("a mask");
                }
            }
            "unblock" => {
                let number = Signal::try_from(number() as i32).expect("a signal");
                SigSet::from(number).thread_unblock().expect("a mask");
            }
            "sigwait" => {
                let number = Signal::try_from(number() as i32).expect("a signal");
                SigSet::from(number).wait().expect("the signal");
            }
            "kill" => kill(Pid::from_raw(1), Signal::try_from(number() as i32).expect("a signal")).expect("PID 1"),
            "flood" => {
                for _ in 0..number() {
                    kill(Pid::this(), Signal::SIGUSR1).expect("itself");
                    std::thread::sleep(Duration::from_micros(20));
                }
            }
            "volleys" => volleys(number()),
            "segv" => {
                prctl::set_dumpable(false).expect("no core");
                let bad = std::ptr::without_provenance_mut::<u8>(BAD_ADDRESS);
                // SAFETY: none. The fault is the purpose.
                unsafe { bad.write_volatile(1) };
            }
            "abort" => {
                prctl::set_dumpable(false).expect("no core");
                let _ = raise(Signal::SIGABRT);
            }
            "comm" => prctl::set_name(&CString::new(value).expect("no NUL")).expect("a name"),
            "uid" => {
                setgid(Gid::from_raw(number() as u32)).expect("another group");
                setuid(Uid::from_raw(number() as u32)).expect("another user");
            }
            "nproc" => {
                let limit = number() as u64;
                setrlimit(Resource::RLIMIT_NPROC, limit, limit).expect("a lower limit");
            }
            // Of its pid namespace, where that has its own.
            "pid-max" => fs::write("/proc/sys/kernel/pid_max", text.as_bytes()).expect("another pid_max"),
            "adj" => fs::write("/proc/self/oom_score_adj", text.as_bytes()).expect("another oom_score_adj"),
            "anon" | "shmem" => {
                let (mib, end) = if value.is_empty() { (ENOUGH_MIB, true) } else { (number(), false) };
                for _ in 0..mib {
                    touch(if verb == "shmem" { libc::MAP_SHARED } else { libc::MAP_PRIVATE });
                }
                if end {
                    std::process::exit(NEVER_KILLED);
                }
            }
            "drip" => {
                for _ in 0..number() {
                    touch(libc::MAP_PRIVATE);
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
            // The file of so many MiB is read over and over.
            "churn" => disk::churn(&text),
            "file" => disk::write_file(&text),
            "burst" => disk::burst(&text),
            "direct" => disk::direct(&text),
            "fill" => disk::fill(&text),
            "fill-inodes" => disk::fill_inodes(&text),
            "fsync" => disk::write_and_sync(&text),
            "fsyncs" => disk::syncs(&text),
            "timed-fsync" => disk::timed_sync(&text),
            "sync-each-way" => disk::sync_each_way(&text),
            // Opened before, so that only the read waits for whoever serves it.
            "opened" => {
                let file = fs::File::open(&*text).expect("a file");
                say("opened");
                listen();
                disk::read_page(&file);
            }
            "32-bit" => disk::be_of_32_bits(&text),
            "refused-each-way" => disk::refused_each_way(&text),
            "refused-often" => disk::refused_often(&text),
            "open-to-write" => disk::open_to_write(&text),
            "read-only" => {
                let none = None::<&str>;
                mount(Some(&*text), &*text, none, MsFlags::MS_BIND, none).expect("a bind mount");
                let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
                mount(none, &*text, none, flags, none).expect("a read-only mount");
            }
            "forks" => {
                for _ in 0..number() {
                    let child = forked(|| {});
                    let _ = waitpid(child, None);
                }
            }
            "bomb" => bomb(number(), || for_ever()),
            "rival-bomb" => {
                // Has no use for what it hears: it lives as long as its parent.
                forked(|| {
                    loop {
                        try_to_fork(|| std::process::exit(0));
                    }
                });
                bomb(number(), || std::process::exit(0));
            }
            "zombies" => {
                for _ in 0..number() {
                    forked(|| std::process::exit(0));
                }
            }
            "orphans" => {
                let count = number();
                let parent = forked(|| {
                    for _ in 0..count {
                        forked(|| std::process::exit(0));
                    }
                    std::process::exit(0)
                });
                waitpid(parent, None).expect("their parent ends");
            }
            "leaderless-herd" => {
                for _ in 0..number() {
                    forked(|| {
                        std::thread::spawn(|| for_ever());
                        // SAFETY: ends this thread alone, with nothing of it borrowed by the other.
                        unsafe { libc::syscall(libc::SYS_exit, 0) };
                        for_ever()
                    });
                }
            }
            "name-hosts" => capable::name_hosts(&text),
            "caps" => {
                let ground = Ground::prepare();
                say("ready");
                listen();
                for (capability, ..) in EXERCISES {
                    ground.exercise(*capability, (text == "without").then_some(*capability));
                }
                say("done");
                listen();
                ground.end();
                say("over");
            }
            "try" => {
                let ground = Ground::prepare();
                ground.exercise(text.parse().expect("a capability"), None);
                ground.end();
            }
            "read-by-override" => capable::read_by_override(),
            "root" => {
                nix::unistd::chdir(&*text).expect("a directory");
                nix::unistd::chroot(".").expect("another root");
            }
            "pagemap" => {
                let mut file = fs::File::open("/proc/self/pagemap").expect("the own pages");
                setuid(Uid::from_raw(number() as u32)).expect("another user");
                file.read_exact(&mut [0; 8]).expect("the first page");
            }
            "chroot" => nix::unistd::chroot("/").expect("another root"),
            "grow-stack" => {
                grow_stack(2048);
                let missing = c"/no/such/file".as_ptr();
                // SAFETY: a path that ends; by itself, so that nothing comes between the fault and this call.
                assert_eq!(unsafe { libc::open(missing, libc::O_RDONLY) }, -1, "it is not there");
                let _ = nix::unistd::chroot("/"); // whoever may not is refused
            }
            "filter" => capable::filter(libc::SYS_keyctl),
            "keyctl" => {
                // SAFETY: a call without a pointer.
                let result = unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 0) };
                println!("keyctl {result} 0");
            }
            "keyctl-often" => loop {
                // SAFETY: a call without a pointer.
                unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 0) };
                std::thread::sleep(Duration::from_millis(20));
            },
            "calls" => {
                for _ in 0..number() {
                    // SAFETY: a call without a pointer, of which libc keeps no result.
                    unsafe { libc::syscall(libc::SYS_getppid) };
                }
            }
            "userns" => {
                // All users may be mapped from outside alone, and not before it is there.
                let own = Pid::this();
                let outside = forked(|| {
                    let map = |file: &str| fs::write(format!("/proc/{own}/{file}"), "0 0 4294967295");
                    super::wait_until("the user namespace", || map("uid_map").ok());
                    map("gid_map").expect("a map of groups");
                });
                unshare(CloneFlags::CLONE_NEWUSER).expect("a user namespace");
                waitpid(outside, None).expect("a child");
            }
            "say" => say(&text),
            "await" => listen(),
            "pause" => for_ever(),
            "panic" => tmux::panicking(),
            "exit" => std::process::exit(number() as i32),
            "mounts" => {
                unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
                let none = None::<&str>;
                mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
            }
            "unmount" => {
                let _ = umount2(&*text, MntFlags::MNT_DETACH); // it may not be mounted at all
            }
            "tmpfs" => {
                let (at, options) = text.split_once('=').unwrap_or((&*text, ""));
                mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options)).expect("a tmpfs");
            }
            // AT=FOLDER: its folders lower, upper and work.
            "overlay" => {
                let (at, folder) = text.split_once('=').expect("AT=FOLDER");
                let options = format!("lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work");
                mount(Some("overlay"), at, Some("overlay"), MsFlags::empty(), Some(&*options)).expect("an overlay");
            }
            "net-of" => {
                let net = fs::File::open(format!("/proc/{text}/ns/net")).expect("a process");
                setns(net, CloneFlags::CLONE_NEWNET).expect("its network namespace");
            }
            "nets" => unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace"),
            "stage" => net::set_stage(),
            "keep-map" => net::keep_map(),
            "write" => {
                let (file, content) = text.split_once('=').expect("write=FILE=TEXT");
                fs::create_dir_all(std::path::Path::new(file).parent().expect("a folder")).expect("a folder");
                fs::write(file, content).expect("a file");
            }
            "exec" => {
                let error = Command::new(&rest[0]).args(&rest[1..]).exec();
                panic!("{}: {error}", rest[0].display());
            }
            _ => panic!("no such step: {}", OsString::from_vec(bytes.to_vec()).display()),
        }
    }
}

/// The child goes on with the steps; the parent does `parent` with its pid.
fn fork_and(parent: impl FnOnce(Pid)) {
    // SAFETY: one thread only, so nothing is locked in the child.
    match unsafe { fork() }.expect("a child") {
        ForkResult::Parent { child } => {
            parent(child);
            std::process::exit(0)
        }
        ForkResult::Child => die_with_parent(),
    }
}

extern "C" fn nothing(_: libc::c_int) {}

/// The leader is a zombie until its last thread ends.
fn leader_is_gone() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("/proc");
    status.lines().any(|line| line.starts_with("State:") && line.contains('Z'))
}

/// A child that does `work` and nothing else.
pub fn forked(work: impl FnOnce()) -> Pid {
    // SAFETY: one thread only, so nothing is locked in the child.
    match unsafe { fork() }.expect("a child") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            die_with_parent();
            work();
            std::process::exit(0)
        }
    }
}

/// Asks for more children than it may have.
fn bomb(tries: usize, child: fn() -> std::convert::Infallible) {
    let (mut made, mut refused) = (0, 0);
    for _ in 0..tries {
        if try_to_fork(child) {
            made += 1;
        } else {
            refused += 1;
        }
    }
    println!("tried {made} {refused}");
}

/// False: it was refused. Children that ended are waited for on the way.
fn try_to_fork(child: fn() -> std::convert::Infallible) -> bool {
    // SAFETY: one thread only, so nothing is locked in the child.
    let made = match unsafe { fork() } {
        Ok(ForkResult::Parent { .. }) => true,
        Ok(ForkResult::Child) => {
            die_with_parent();
            match child() {}
        }
        Err(Errno::EAGAIN) => false,
        Err(other) => panic!("fork: {other}"),
    };
    while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status != WaitStatus::StillAlive) {}
    made
}

fn die_with_parent() {
    prctl::set_pdeathsig(Signal::SIGKILL).expect("a signal at the parent's death");
}

/// Waits for a child, and ends as a shell does with it.
fn end_as(child: Pid) -> ! {
    let code = match waitpid(child, None) {
        Ok(WaitStatus::Exited(_, code)) => code,
        Ok(WaitStatus::Signaled(_, signal, _)) => 128 + signal as i32,
        other => panic!("the child ended strangely: {other:?}"),
    };
    std::process::exit(code)
}

fn for_ever() -> ! {
    loop {
        pause();
    }
}

fn listen() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("a line on stdin");
}

fn say(word: &str) {
    // The numbers of the host: /proc is its own, whatever namespace this is in.
    let number = |link: &str| fs::read_link(link).expect("/proc").file_name().map(OsString::from).unwrap_or_default();
    let (pid, tid) = (number("/proc/self"), number("/proc/thread-self"));
    let mut out = std::io::stdout();
    writeln!(out, "{word} {} {}", pid.display(), tid.display()).and_then(|()| out.flush()).expect("stdout");
}

/// One MiB more, written page by page, never given back.
fn touch(kind: i32) {
    // SAFETY: a new mapping, written within its bounds.
    unsafe {
        let at = libc::mmap(null_mut(), MIB, libc::PROT_READ | libc::PROT_WRITE, kind | libc::MAP_ANONYMOUS, -1, 0);
        assert!(at != libc::MAP_FAILED, "no memory to map");
        for page in (0..MIB).step_by(PAGE) {
            at.cast::<u8>().add(page).write_volatile(1);
        }
    }
}

/// One after another to 60 children with 30 signals each, a thousandth of a second's share at once.
fn volleys(per_second: usize) {
    let signals = || libc::SIGRTMIN()..libc::SIGRTMIN() + 30;
    // Inherited, so that none comes before it is ignored.
    for number in signals() {
        // SAFETY: no handler is a handler of any kind.
        unsafe { libc::signal(number, libc::SIG_IGN) };
    }
    let children: Vec<_> = (0..60).map(|_| forked(|| for_ever())).collect();
    let mut kinds = signals().flat_map(|number| children.iter().map(move |child| (child, number))).cycle();
    let (start, mut sent) = (Instant::now(), 0);
    let mut said = 0;
    loop {
        let due = (start.elapsed().as_micros() as usize).saturating_mul(per_second) / 1_000_000;
        for (child, number) in kinds.by_ref().take(due.saturating_sub(sent)) {
            // SAFETY: a system call with two numbers.
            unsafe { libc::kill(child.as_raw(), number) };
            sent += 1;
        }
        if start.elapsed().as_secs() > said {
            said = start.elapsed().as_secs();
            println!("sent {sent}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn bursts(what: &str) {
    let numbers: Vec<u64> = what.split('=').map(|word| word.parse().expect("N=MS=EVERY")).collect();
    let own_ns = || clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
    for _ in 0..numbers[0] {
        forked(|| {
            prctl::set_name(c"burst").expect("a name");
            let every = numbers[2] * 1_000_000;
            loop {
                let begun = own_ns();
                while own_ns() - begun < numbers[1] * 1_000_000 {}
                // All at the same time again.
                let rest = every - clock_ns(libc::CLOCK_MONOTONIC) % every;
                std::thread::sleep(Duration::from_nanos(rest));
            }
        });
    }
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the time into the structure that it is given.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Sleeps in the kernel until its child execs or ends, which it does not.
fn vfork() {
    extern "C" fn wait(_: *mut libc::c_void) -> libc::c_int {
        loop {
            // SAFETY: a plain system call; it touches nothing but errno.
            unsafe { libc::pause() };
        }
    }
    let stack = Box::leak(vec![0_u8; 64 * 1024].into_boxed_slice());
    let top = stack.as_mut_ptr_range().end;
    // SAFETY: a stack of its own, 16-byte aligned as a large allocation's end is; `wait` never returns.
    unsafe { libc::clone(wait, top.cast(), libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD, null_mut()) };
}

/// A process of its own in this very memory.
fn sharer() {
    extern "C" fn wait(_: *mut libc::c_void) -> libc::c_int {
        loop {
            // SAFETY: a plain system call; it touches nothing but errno.
            unsafe { libc::pause() };
        }
    }
    let stack = Box::leak(vec![0_u8; 64 * 1024].into_boxed_slice());
    let top = stack.as_mut_ptr_range().end;
    // SAFETY: a stack of its own, 16-byte aligned as a large allocation's end is; `wait` never returns.
    let pid = unsafe { libc::clone(wait, top.cast(), libc::CLONE_VM | libc::SIGCHLD, null_mut()) };
    assert!(pid > 0, "no sharer");
    println!("sharer {pid} {pid}");
}
