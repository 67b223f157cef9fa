//! Which connections, and which calls about addresses, does the network refuse?

use aya_ebpf::{
    helpers::generated::bpf_probe_read_user,
    macros::{fexit, map, raw_tracepoint, tracepoint},
    maps::LruPerCpuHashMap,
    programs::{FExitContext, RawTracePointContext, TracePointContext},
};
use tracer_common::{
    space::EROFS,
    task::Task,
    tcp::{
        AF_INET, AF_INET6, BIND_CALL, CONNECT_CALL, EADDRINUSE, EHOSTUNREACH, ENETUNREACH, LISTEN_CALL, Refusal,
        RefusalKey, SEND_CALL,
    },
};

use crate::{
    kernel::{
        cgroup, layout,
        read::{Ptr, place, u64_at},
        syscall, task,
    },
    space,
};

#[map]
static NET_REFUSALS: LruPerCpuHashMap<RefusalKey, Refusal> = LruPerCpuHashMap::with_max_entries(1, 0);

/// `long __x64_sys_connect(const struct pt_regs *regs)` and its like: a program for each, since one is for one function. Old kernels'
/// BTF does not say what the registers are, and then nobody may look at that argument.
macro_rules! functions_of_calls {
    ($($program:ident)*) => {
        $(
            #[fexit]
            pub fn $program(ctx: FExitContext) -> i32 {
                let result = ctx.arg::<i64>(1);
                if result < 0 {
                    returned(syscall::registers(), result);
                }
                0
            }
        )*
    };
}
functions_of_calls! {
    connect_returned
    bind_returned
    listen_returned
    sendto_returned
    open_returned
    openat_returned
    openat2_returned
}

/// `syscalls:sys_exit_connect` and its like, but not that of `sendto`: what the kernel writes down for a tracepoint of this kind
/// costs more than that call may.
#[tracepoint]
pub fn call_traced(ctx: TracePointContext) -> u32 {
    // SAFETY: `long ret` behind what all tracepoints have and the call's number (kernel/trace/trace_syscalls.c).
    if let Ok(result) = unsafe { ctx.read_at::<i64>(16) }
        && result < 0
    {
        returned(syscall::registers(), result);
    }
    0
}

/// … `sock:sock_send_length(struct sock *sk, int ret, int flags)` is, since 6.3.
#[raw_tracepoint(tracepoint = "sock_send_length")]
pub fn send_traced(ctx: RawTracePointContext) -> i32 {
    let result = i64::from(ctx.arg::<i32>(1));
    if result < 0 {
        let regs = syscall::registers();
        // Other calls send, too: they say themselves what came of it.
        if kind_of(syscall::at(regs)) == Some(SEND_CALL) {
            refused(regs, result);
        }
    }
    0
}

/// `raw_syscalls:sys_exit(struct pt_regs *regs, long ret)`, where there are neither.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn call_exited(ctx: RawTracePointContext) -> i32 {
    let result = ctx.arg::<i64>(1);
    if result < 0 {
        returned(ctx.arg::<u64>(0), result);
    }
    0
}

#[inline(always)]
fn returned(regs: Ptr, returned: i64) {
    if returned == -i64::from(EROFS) {
        space::refused(regs, returned);
    } else {
        refused(regs, returned);
    }
}

/// Errors that a socket was given later come with its end.
#[inline(always)]
pub fn refused(regs: Ptr, returned: i64) {
    let errno = returned.wrapping_neg() as u64;
    let is_meant =
        (errno >= u64::from(EADDRINUSE) && errno <= u64::from(ENETUNREACH)) || errno == u64::from(EHOSTUNREACH);
    if is_meant && layout::WANT_NET_REFUSALS.load() == 1 {
        call_refused(regs, errno as u32);
    }
}

/// A function of its own, for the stack of its caller.
#[inline(never)]
fn call_refused(regs: Ptr, errno: u32) {
    let Some(kind) = kind_of(syscall::at(regs)) else { return };
    let name = match kind {
        CONNECT_CALL | BIND_CALL => Some(&layout::REGS_ARG1),
        SEND_CALL => Some(&layout::REGS_ARG4),
        _ => None,
    };
    let current = task::current();
    let mut key =
        RefusalKey { cgroup: cgroup::of(current), netns: 0, family: 0, port: 0, address: [0; 16], kind, errno };
    if let Some(argument) = name {
        named(&mut key, u64_at(place(regs, argument)));
        // 0: the address could not be read, or the call named none: the socket has one. Paths and netlink ids are no addresses of the network.
        if key.family != 0 && key.family != AF_INET && key.family != AF_INET6 {
            return;
        }
    }
    refuse(key, Some(current), 0);
}

/// Of arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h. A 32-bit program's numbers are others: with the bit
/// of compatibility they are none of these.
#[inline(always)]
fn kind_of(call: u32) -> Option<u32> {
    let is_x86 = layout::REGS_CS.load() != tracer_common::ABSENT;
    Some(match (is_x86, call) {
        (true, 42) | (false, 203) => CONNECT_CALL,
        (true, 49) | (false, 200) => BIND_CALL,
        (true, 50) | (false, 201) => LISTEN_CALL,
        (true, 44) | (false, 206) => SEND_CALL,
        _ => return None,
    })
}

/// The address that a call named: `struct sockaddr_in`, `struct sockaddr_in6` (include/uapi/linux/in.h, in6.h).
#[inline(always)]
fn named(key: &mut RefusalKey, at: Ptr) {
    let mut name = [0_u8; 24];
    // SAFETY: the helper checks the address itself, writes at most that much, and zeroes it where it fails.
    unsafe {
        // The shorter one may be the last of what is mapped there.
        bpf_probe_read_user(name.as_mut_ptr().cast(), 16, at as *const _);
        key.family = u16::from_ne_bytes([name[0], name[1]]);
        if key.family == AF_INET6 {
            bpf_probe_read_user(name.as_mut_ptr().cast(), 24, at as *const _);
        }
    }
    key.port = u16::from_be_bytes([name[2], name[3]]);
    if key.family == AF_INET {
        key.address[..4].copy_from_slice(&name[4..8]);
    } else if key.family == AF_INET6 {
        key.address.copy_from_slice(&name[8..24]);
    } else {
        key.port = 0; // no address of the network: a path of AF_UNIX
    }
}

/// Counts one, by whom it was if that is known. `lost`: of [`Refusal`].
#[inline(always)]
pub fn refuse(key: RefusalKey, caller: Option<Ptr>, lost: u64) {
    let nothing: &Refusal = &NOTHING;
    let known = NET_REFUSALS.get_ptr_mut(key);
    if known.is_none() {
        let _ = NET_REFUSALS.insert(key, nothing, 0);
    }
    let Some(refusal) = known.or_else(|| NET_REFUSALS.get_ptr_mut(key)) else { return };
    // SAFETY: this CPU's own value.
    let refusal = unsafe { &mut *refusal };
    refusal.count += 1;
    refusal.lost += lost;
    if let Some(caller) = caller
        && refusal.count == 1
    {
        // SAFETY: a Task, within the map's value.
        unsafe { task::describe(caller, &raw mut refusal.who) };
    }
}

/// From here and not from the stack, which it would fill.
static NOTHING: Refusal = Refusal {
    count: 0,
    lost: 0,
    who: Task {
        tgid: 0,
        tid: 0,
        ns_pid: 0,
        ns_level: 0,
        ppid: 0,
        uid: 0,
        init: 0,
        init_exiting: 0,
        start_ns: 0,
        pidns: 0,
        flags: 0,
        comm: [0; 16],
    },
};
