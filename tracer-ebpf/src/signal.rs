//! Who sends which signal to whom, and what does the kernel make of it? (kernel/signal.c)

use aya_ebpf::{macros::map, macros::raw_tracepoint, maps::LruHashMap, programs::RawTracePointContext};
use tracer_common::{
    UNKNOWN_U32, UNKNOWN_U64,
    signal::{Dropped, FOLD_NS, Fold, FoldKey, IGNORED_BY_DEFAULT, SCOPE_ALL, STOPS_BY_DEFAULT, Signal},
};

use crate::kernel::{
    cgroup,
    emit::{emit, now},
    layout,
    read::{Ptr, follow, i32_at, place, u32_at, u64_at},
    task,
};

const SIGKILL: u32 = 9;
const SIGCHLD: u32 = 17;
const SIGSTOP: u32 = 19;
/// `SEND_SIG_NOINFO`, `SEND_SIG_PRIV` (include/linux/sched/signal.h): no siginfo to read behind the pointer.
const SEND_SIG_NOINFO: u64 = 0;
const SEND_SIG_PRIV: u64 = 1;
const SI_USER: i32 = 0;
const SI_QUEUE: i32 = -1;
const SI_TKILL: i32 = -6;
const SI_KERNEL: i32 = 0x80;
const SIGNAL_UNKILLABLE: u32 = 0x40;
const SIG_DFL: u64 = 0;
const SIG_IGN: u64 = 1;

/// Kinds of signals seen lately: a timer at 10 kHz is one record in `FOLD_NS`, and its count.
#[map]
static FOLDS: LruHashMap<FoldKey, Fold> = LruHashMap::with_max_entries(8192, 0);

/// `signal:signal_generate(int sig, struct kernel_siginfo *info, struct task_struct *task, int group, int result)`, in
/// the sender's context where a process sent it.
#[raw_tracepoint(tracepoint = "signal_generate")]
pub fn signal(ctx: RawTracePointContext) -> i32 {
    let signal = ctx.arg::<u32>(0);
    let info = ctx.arg::<u64>(1);
    let target = task::argument(&ctx, 2);
    let result = ctx.arg::<u32>(4);
    let process = follow(target, &layout::TASK_SIGNAL);
    let unkillable = u32_at(place(process, &layout::SIGNAL_FLAGS)) & SIGNAL_UNKILLABLE;
    let handler = handler(target, signal);
    if layout::WANT_SIGNALS.load() & SCOPE_ALL == 0 {
        let quiet = (IGNORED_BY_DEFAULT | STOPS_BY_DEFAULT) >> (signal.wrapping_sub(1) & 63) & 1;
        let may_end = signal == SIGKILL || (quiet == 0 && (handler == SIG_DFL || unkillable != 0));
        if !may_end {
            return 0;
        }
    }
    let code = match info {
        SEND_SIG_NOINFO => SI_USER,
        SEND_SIG_PRIV => SI_KERNEL,
        _ => i32_at(place(info, &layout::SIGINFO_CODE)),
    };
    let by_process = matches!(code, SI_USER | SI_QUEUE | SI_TKILL) && signal != SIGCHLD;
    let sender = task::current();
    let key =
        FoldKey { target: task::tgid(target), sender: if by_process { task::tgid(sender) } else { 0 }, signal, result };
    let Some(total) = fold(key) else { return 0 };
    emit::<Signal>(cgroup::of(target), |record| {
        // SAFETY: a reserved record of this type.
        unsafe {
            task::describe(target, &raw mut (*record).target);
            task::describe(sender, &raw mut (*record).sender);
            (*record).sender_cgroup = cgroup::of(sender);
            (*record).signal = signal;
            (*record).code = code;
            (*record).result = result;
            (*record).disposition = match handler {
                SIG_DFL => 0,
                SIG_IGN => 1,
                UNKNOWN_U64 => UNKNOWN_U32,
                _ => 2,
            };
            let mask = u64_at(place(target, &layout::TASK_BLOCKED));
            (*record).blocked = (mask >> (signal.wrapping_sub(1) & 63)) as u32 & 1;
            (*record).unkillable = unkillable / SIGNAL_UNKILLABLE;
            (*record).total = total;
            (*record).address =
                if info > SEND_SIG_PRIV { u64_at(place(info, &layout::SIGINFO_ADDR)) } else { UNKNOWN_U64 };
        }
    });
    0
}

/// `signal:signal_deliver(int sig, struct kernel_siginfo *info, struct k_sigaction *ka)`: current takes a signal off its
/// queue, whatever becomes of it then. sigwait and signalfd do not come by here: what they take is not dropped.
#[raw_tracepoint(tracepoint = "signal_deliver")]
pub fn signal_dropped(ctx: RawTracePointContext) -> i32 {
    let signal = ctx.arg::<u32>(0);
    let handler = u64_at(place(ctx.arg::<u64>(2), &layout::KSIGACTION_HANDLER));
    // Those two come from outside, and are never dropped here.
    if handler != SIG_DFL || signal == SIGKILL || signal == SIGSTOP {
        return 0;
    }
    if IGNORED_BY_DEFAULT >> (signal.wrapping_sub(1) & 63) & 1 == 1 {
        return 0;
    }
    let current = task::current();
    let flags = u32_at(place(follow(current, &layout::TASK_SIGNAL), &layout::SIGNAL_FLAGS));
    if flags & SIGNAL_UNKILLABLE == 0 {
        return 0;
    }
    emit::<Dropped>(cgroup::of(current), |record| {
        // SAFETY: a reserved record of this type; each field is written.
        unsafe {
            task::describe(current, &raw mut (*record).target);
            (*record).signal = signal;
            (*record).reserved = 0;
        }
    });
    0
}

/// Counts one; gives the count so far if it is to be sent.
#[inline(always)]
fn fold(key: FoldKey) -> Option<u64> {
    let at = now();
    let Some(fold) = FOLDS.get_ptr_mut(key) else {
        let _ = FOLDS.insert(key, Fold { sent_ns: at, total: 1 }, 0);
        return Some(1);
    };
    // SAFETY: the map's value; two CPUs that race for it may lose a count of one, or send a record more.
    let fold = unsafe { &mut *fold };
    fold.total += 1;
    if at.wrapping_sub(fold.sent_ns) < FOLD_NS {
        return None;
    }
    fold.sent_ns = at;
    Some(fold.total)
}

/// `sighand->action[signal - 1].sa.sa_handler`.
#[inline(always)]
fn handler(target: Ptr, signal: u32) -> u64 {
    let actions = place(follow(target, &layout::TASK_SIGHAND), &layout::SIGHAND_ACTION);
    let size = u64::from(layout::KSIGACTION_SIZE.load());
    u64_at(place(actions.wrapping_add(u64::from(signal.wrapping_sub(1) & 63) * size), &layout::KSIGACTION_HANDLER))
}
