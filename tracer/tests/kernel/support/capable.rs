//! One small program for each capability: the call that needs it and nothing else.
//!
//! Not here, with the reason: AUDIT_CONTROL, AUDIT_READ, AUDIT_WRITE (the kernels of the machines here have no audit),
//! MAC_ADMIN, MAC_OVERRIDE (no such LSM), LINUX_IMMUTABLE (no file system here with the flag), SYS_MODULE (not every
//! kernel has modules), SYS_RAWIO (its calls are not in every kernel),
//! SYS_TTY_CONFIG (hangs up the terminal), BLOCK_SUSPEND (a refusal shows nowhere), BPF, PERFMON,
//! CHECKPOINT_RESTORE, SYSLOG (SYS_ADMIN does for each, on some kernels), DAC_READ_SEARCH (DAC_OVERRIDE does for it), FSETID (a refusal costs a
//! mode bit alone), SYS_BOOT (no test should).
#![expect(
    clippy::enum_glob_use,
    clippy::many_single_char_names,
    reason = "a table of capabilities, and the arguments of a raw call"
)]

use std::{
    ffi::CString,
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::PathBuf,
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
    (CAP_WAKE_ALARM, "timerfd_create", |_| {
        call(libc::SYS_timerfd_create, [libc::CLOCK_BOOTTIME_ALARM.into(), 0, 0, 0, 0])
    }),
];

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
                keep(&all().into_iter().filter(|one| *one != without).collect());
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
