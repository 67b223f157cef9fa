//! One small program for each capability: the call that needs it and nothing else.
#![expect(
    clippy::enum_glob_use,
    clippy::many_single_char_names,
    reason = "a table of capabilities, and the arguments of a raw call"
)]

use std::{
    ffi::CString,
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

use caps::{
    CapSet,
    Capability::{self, *},
    CapsHashSet,
};
use nix::{
    errno::Errno,
    libc::{self, c_long},
    sched::{CloneFlags, unshare},
    unistd::{Pid, Uid, setuid},
};

use super::play::forked;

/// What is there before anything is dropped.
pub struct Ground {
    folder: PathBuf,
    /// A process of another user.
    stranger: Pid,
    /// A shared memory segment of another user.
    segment: c_long,
    page: Box<[u8; 4096]>,
}

type Exercise = fn(&Ground) -> c_long;

/// (capability, the call that asks for it, the exercise: as a system call returns).
pub const EXERCISES: &[(Capability, &str, Exercise)] = &[
    (CAP_CHOWN, "chown", |ground| on(ground, "own", libc::SYS_chown, [33, 33, 0])),
    (CAP_DAC_OVERRIDE, "open", |ground| on(ground, "locked", libc::SYS_open, [libc::O_WRONLY.into(), 0, 0])),
    (CAP_FOWNER, "chmod", |ground| on(ground, "others", libc::SYS_chmod, [0o640, 0, 0])),
    (CAP_KILL, "kill", |ground| call(libc::SYS_kill, [ground.stranger.as_raw().into(), 0, 0, 0, 0])),
    (CAP_SETGID, "setgroups", |_| call(libc::SYS_setgroups, [1, [5_u32].as_ptr() as c_long, 0, 0, 0])),
    (CAP_SETUID, "setresuid", |_| call(libc::SYS_setresuid, [5, 5, 0, 0, 0])),
    (CAP_SETPCAP, "prctl", |_| call(libc::SYS_prctl, [libc::PR_CAPBSET_DROP.into(), 35, 0, 0, 0])),
    (CAP_NET_BIND_SERVICE, "bind", |_| {
        let address = [libc::AF_INET as u8, 0, 0, 81, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0_u8];
        let socket = call(libc::SYS_socket, [libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0, 0, 0]);
        call(libc::SYS_bind, [socket, address.as_ptr() as c_long, 16, 0, 0])
    }),
    (CAP_NET_RAW, "socket", |_| {
        let kind = [libc::AF_INET.into(), libc::SOCK_RAW.into(), libc::IPPROTO_ICMP.into(), 0, 0];
        call(libc::SYS_socket, kind)
    }),
    (CAP_NET_ADMIN, "setsockopt", |_| {
        let socket = call(libc::SYS_socket, [libc::AF_INET.into(), libc::SOCK_DGRAM.into(), 0, 0, 0]);
        let size = [1_i32 << 16];
        let option = [socket, libc::SOL_SOCKET.into(), libc::SO_RCVBUFFORCE.into(), size.as_ptr() as c_long, 4];
        call(libc::SYS_setsockopt, option)
    }),
    (CAP_SYS_CHROOT, "chroot", |_| call(libc::SYS_chroot, [c"/".as_ptr() as c_long, 0, 0, 0, 0])),
    (CAP_MKNOD, "mknod", |ground| {
        let null = [(libc::S_IFCHR | 0o600).into(), libc::makedev(1, 3) as c_long, 0];
        on(ground, "null", libc::SYS_mknod, null)
    }),
    (CAP_SYS_ADMIN, "sethostname", |_| call(libc::SYS_sethostname, [c"test".as_ptr() as c_long, 4, 0, 0, 0])),
    (CAP_SYS_TIME, "adjtimex", |_| {
        // struct timex, whose first word is `modes`: ADJ_OFFSET_SINGLESHOT, by nothing.
        let mut nothing = [0_u64; 32];
        nothing[0] = 0x8001;
        call(libc::SYS_adjtimex, [nothing.as_mut_ptr() as c_long, 0, 0, 0, 0])
    }),
    (CAP_SYS_RESOURCE, "prlimit64", |_| limit(libc::RLIMIT_NOFILE, 4096)),
    (CAP_SYS_NICE, "setpriority", |_| call(libc::SYS_setpriority, [0, 0, -5, 0, 0])),
    (CAP_SYS_PTRACE, "get_robust_list", |ground| {
        let mut found = [0_u64; 2];
        let (head, len) = (found.as_mut_ptr() as c_long, &raw mut found[1] as c_long);
        call(libc::SYS_get_robust_list, [ground.stranger.as_raw().into(), head, len, 0, 0])
    }),
    (CAP_IPC_LOCK, "mlock", |ground| call(libc::SYS_mlock, [ground.page.as_ptr() as c_long, 8, 0, 0, 0])),
    (CAP_IPC_OWNER, "shmat", |ground| call(libc::SYS_shmat, [ground.segment, 0, 0, 0, 0])),
    (CAP_LEASE, "fcntl", |ground| {
        let file = on(ground, "others", libc::SYS_open, [libc::O_RDONLY.into(), 0, 0]);
        call(libc::SYS_fcntl, [file, libc::F_SETLEASE.into(), libc::F_RDLCK.into(), 0, 0])
    }),
    // Answered with another error after the question, if that was granted.
    (CAP_SYS_PACCT, "acct", |_| {
        asked(call(libc::SYS_acct, [c"/no/such/file".as_ptr() as c_long, 0, 0, 0, 0]), Errno::ENOENT)
    }),
    (CAP_SETFCAP, "setxattr", |ground| {
        let value: [u32; 5] = [0x0200_0000, 1, 0, 0, 0]; // revision 2: chown, permitted
        let name = c"security.capability".as_ptr() as c_long;
        on(ground, "own", libc::SYS_setxattr, [name, value.as_ptr() as c_long, 20])
    }),
    // A handle of no file: stale, for whoever may ask.
    (CAP_DAC_READ_SEARCH, "open_by_handle_at", |ground| {
        let handle = [128_u32; 34]; // struct file_handle: its size, its type, and what the file system makes of it
        let folder = on(ground, "", libc::SYS_open, [libc::O_RDONLY.into(), 0, 0]);
        let opened = call(libc::SYS_open_by_handle_at, [folder, handle.as_ptr() as c_long, 0, 0, 0]);
        asked(opened, Errno::ESTALE)
    }),
    (CAP_SYSLOG, "syslog", |_| call(libc::SYS_syslog, [9, 0, 0, 0, 0])), // SYSLOG_ACTION_SIZE_UNREAD
    (CAP_BPF, "bpf", |_| {
        // BPF_BTF_LOAD, of nothing.
        let nothing = [0_u64; 4];
        asked(call(libc::SYS_bpf, [18, nothing.as_ptr() as c_long, 28, 0, 0]), Errno::EINVAL)
    }),
    (CAP_PERFMON, "perf_event_open", |_| {
        let clock = [1_u32, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]; // software, the kernel too
        call(libc::SYS_perf_event_open, [clock.as_ptr() as c_long, 0, -1, -1, 0])
    }),
    // A process number that is taken: whoever may choose one is told so.
    (CAP_CHECKPOINT_RESTORE, "clone3", |_| {
        let own = std::process::id();
        let mut arguments = [0_u64; 10];
        (arguments[4], arguments[8], arguments[9]) = (libc::SIGCHLD as u64, &raw const own as u64, 1);
        asked(call(libc::SYS_clone3, [arguments.as_ptr() as c_long, 80, 0, 0, 0]), Errno::EEXIST)
    }),
    // Without the magic numbers nothing happens.
    (CAP_SYS_BOOT, "reboot", |_| asked(call(libc::SYS_reboot, [0, 0, 0, 0, 0]), Errno::EINVAL)),
    (CAP_SYS_MODULE, "init_module", |_| {
        let nothing = c"".as_ptr() as c_long;
        asked(call(libc::SYS_init_module, [nothing, 0, nothing, 0, 0]), Errno::ENOEXEC)
    }),
    (CAP_SYS_RAWIO, "ioperm", |_| call(libc::SYS_ioperm, [0x80, 1, 1, 0, 0])),
    // In a session without a terminal there is nothing to hang up.
    (CAP_SYS_TTY_CONFIG, "vhangup", |_| {
        call(libc::SYS_setsid, [0; 5]);
        call(libc::SYS_vhangup, [0; 5])
    }),
    (CAP_WAKE_ALARM, "timerfd_create", |_| {
        call(libc::SYS_timerfd_create, [libc::CLOCK_BOOTTIME_ALARM.into(), 0, 0, 0, 0])
    }),
];

/// Those that no program here is for, with the reason.
pub const EXCUSED: &[(Capability, &str)] = &[
    (CAP_AUDIT_CONTROL, "the kernels of the machines here have no audit"),
    (CAP_AUDIT_READ, "likewise"),
    (CAP_AUDIT_WRITE, "likewise; cron's PAM asks for it, see caps::daemons"),
    (CAP_MAC_ADMIN, "no such LSM"),
    (CAP_MAC_OVERRIDE, "no such LSM"),
    (CAP_LINUX_IMMUTABLE, "not every kernel here has a file system with the flag"),
    (CAP_BLOCK_SUSPEND, "a refusal shows nowhere: the flag is dropped"),
    (CAP_FSETID, "a refusal costs a mode bit alone"),
    (CAP_NET_BROADCAST, "the kernel asks for it nowhere"),
];

/// Where SYS_ADMIN does as well, it has to be missing, too.
const SPLIT: [Capability; 4] = [CAP_BPF, CAP_PERFMON, CAP_CHECKPOINT_RESTORE, CAP_SYSLOG];

/// Does this kernel ask for it in that call at all?
pub fn is_asked(capability: Capability) -> bool {
    match capability {
        CAP_SYS_MODULE => Path::new("/proc/modules").exists(),
        // Nothing to allow: EINVAL from where there is such a call.
        CAP_SYS_RAWIO => call(libc::SYS_ioperm, [0, 0, 0, 0, 0]) == -1 && Errno::last() != Errno::ENOSYS,
        // 3 is Debian's own, and asks for SYS_ADMIN first.
        CAP_PERFMON => fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").is_ok_and(|text| text.trim() == "2"),
        _ => true,
    }
}

fn call(number: c_long, arguments: [c_long; 5]) -> c_long {
    let [a, b, c, d, e] = arguments;
    // SAFETY: the callers pass what the call wants, and pointers to what lives until it returns.
    unsafe { libc::syscall(number, a, b, c, d, e) }
}

fn on(ground: &Ground, name: &str, number: c_long, [a, b, c]: [c_long; 3]) -> c_long {
    let path = CString::new(ground.folder.join(name).into_os_string().into_encoded_bytes()).expect("no NUL");
    call(number, [path.as_ptr() as c_long, a, b, c, 0])
}

fn asked(result: c_long, after: Errno) -> c_long {
    if result < 0 && Errno::last() == after { 0 } else { result }
}

fn limit(resource: u32, hard: u64) -> c_long {
    let limit = [hard.min(64), hard];
    call(libc::SYS_prlimit64, [0, resource.into(), limit.as_ptr() as c_long, 0, 0])
}

impl Ground {
    /// With every capability still there, in namespaces of its own.
    pub fn prepare() -> Self {
        unshare(CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC).expect("namespaces");
        // The number that the host knows: every one of these is PID 1 of its own namespace.
        let own = fs::read_link("/proc/self").expect("/proc");
        let folder = PathBuf::from(format!("/dev/shm/ctrace-caps-{}", own.display()));
        fs::create_dir_all(&folder).expect("a folder");
        for (name, owner, mode) in [("own", 0, 0o600), ("locked", 33, 0o444), ("others", 33, 0o644)] {
            let file = folder.join(name);
            fs::write(&file, "text").expect("a file");
            chown(&file, Some(owner), Some(owner)).expect("another owner");
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("a mode");
        }
        // In an ipc namespace of its own any key is free.
        const KEY: c_long = 7;
        let stranger = forked(|| {
            setuid(Uid::from_raw(33)).expect("another user");
            call(libc::SYS_shmget, [KEY, 4096, (libc::IPC_CREAT | 0o600).into(), 0, 0]);
            loop {
                nix::unistd::pause();
            }
        });
        let segment = super::wait_until("another user's segment", || {
            let found = call(libc::SYS_shmget, [KEY, 0, 0, 0, 0]);
            (found >= 0).then_some(found)
        });
        limit(libc::RLIMIT_MEMLOCK, 0);
        limit(libc::RLIMIT_NOFILE, 1024);
        Self { folder, stranger, segment, page: Box::new([0; 4096]) }
    }

    /// Does it in a child that lacks `without`, and says `CAP_X RESULT`.
    pub fn exercise(&self, capability: Capability, without: Option<Capability>) {
        let (_, _, work) = EXERCISES.iter().find(|(own, ..)| *own == capability).expect("an exercise");
        let child = forked(|| {
            if let Some(without) = without {
                let gone = |one: &Capability| *one == without || (*one == CAP_SYS_ADMIN && SPLIT.contains(&without));
                keep(&all().into_iter().filter(|one| !gone(one)).collect());
            }
            let result = work(self);
            let errno = Errno::last();
            println!("{capability} {}", if result < 0 { format!("{errno:?}") } else { "0".to_owned() });
        });
        nix::sys::wait::waitpid(child, None).expect("a child");
    }

    pub fn end(self) {
        let _ = fs::remove_dir_all(&self.folder);
        call(libc::SYS_shmctl, [self.segment, libc::IPC_RMID.into(), 0, 0, 0]);
        let _ = nix::sys::signal::kill(self.stranger, nix::sys::signal::Signal::SIGKILL);
    }
}

/// All that this process has: machines may lack some.
pub fn all() -> CapsHashSet {
    caps::read(None, CapSet::Permitted).expect("the own set")
}

/// Nothing but these from now on, whatever is executed.
pub fn keep(set: &CapsHashSet) {
    for one in caps::all().difference(set) {
        let _ = caps::drop(None, CapSet::Bounding, *one);
    }
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new()).expect("fewer");
    caps::set(None, CapSet::Effective, set).expect("fewer");
    caps::set(None, CapSet::Permitted, set).expect("fewer");
}

/// From now on this call is answered with EPERM by a seccomp filter.
pub fn filter(number: c_long) {
    let statement = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        statement(0x20, 0, 0, 0),               // load the call's number
        statement(0x15, number as u32, 0, 1),   // is it this one?
        statement(0x06, 0x0005_0000 | 1, 0, 0), // EPERM
        statement(0x06, 0x7fff_0000, 0, 0),     // let it pass
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    assert_eq!(call(libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS.into(), 1, 0, 0, 0]), 0);
    let filter = [libc::PR_SET_SECCOMP.into(), 2, &raw const program as c_long, 0, 0];
    assert_eq!(call(libc::SYS_prctl, filter), 0, "a filter");
}

/// Reads a file that nobody may: root may by either of two capabilities, and gives the one away that is asked for first.
pub fn read_by_override() {
    let file = std::env::temp_dir().join(format!("ctrace-unreadable-{}", Pid::this()));
    fs::write(&file, "x").expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o0)).expect("nobody's");
    caps::drop(None, CapSet::Effective, CAP_DAC_READ_SEARCH).expect("one capability less");
    let opened = fs::File::open(&file);
    fs::remove_file(&file).expect("the file to go");
    opened.expect("root may");
}

/// `N,M`: N times a host's name that is too long, and M times a domain's, in turns of a hundred. CAP_SYS_ADMIN is asked
/// for first, and then nothing comes of it.
pub fn name_hosts(text: &str) {
    const TOO_LONG: usize = 65;
    const TURN: usize = 100;
    let (hosts, domains) = text.split_once(',').expect("two numbers");
    let left = [hosts, domains].map(|number| number.parse::<usize>().expect("a number"));
    let name = [b'x' as libc::c_char; TOO_LONG];
    let calls = [libc::sethostname, libc::setdomainname];
    for turn in 0..left[0].max(left[1]).div_ceil(TURN) {
        for (call, count) in calls.iter().zip(left) {
            for _ in 0..count.saturating_sub(turn * TURN).min(TURN) {
                // SAFETY: the name is as long as is said.
                assert_eq!(unsafe { call(name.as_ptr(), TOO_LONG) }, -1);
            }
        }
    }
}
