//! Which system call a task is in: its registers at the top of its kernel stack (arch/*/include/asm/ptrace.h).

use aya_ebpf::helpers::generated::{bpf_get_current_pid_tgid, bpf_get_current_task_btf, bpf_task_pt_regs};
use tracer_common::{
    ABSENT,
    caps::{COMPAT, NO_SYSCALL},
};

use super::{
    layout,
    read::{NOWHERE, Ptr, follow, known, place, u64_at, words_at},
    task,
};

/// The current task and its call.
pub struct Caller {
    /// Process and thread id, as `bpf_get_current_pid_tgid` gives them.
    pub thread: u64,
    /// The credentials that it acts for: `current->real_cred`.
    pub cred: Ptr,
    pub number: u32,
}

/// Read together: each helper costs what ten loads do, and where the task's type is known two of them are enough.
#[inline(always)]
pub fn caller() -> Caller {
    if layout::HAS_TASK_PT_REGS.load() == 1 {
        // SAFETY: the helpers take and give pointers of their own making.
        return unsafe {
            let task = bpf_get_current_task_btf();
            let registers = bpf_task_pt_regs(task) as Ptr;
            let number = known::u64(registers, &layout::REGS_SYSCALL);
            let segment = if is_x86() { known::u64(registers, &layout::REGS_CS) } else { 0 };
            let task = task as Ptr;
            let (process, thread) = (known::u32(task, &layout::TASK_TGID), known::u32(task, &layout::TASK_PID));
            Caller {
                thread: u64::from(process) << 32 | u64::from(thread),
                cred: known::u64(task, &layout::TASK_REAL_CRED),
                number: of(number, segment),
            }
        };
    }
    // SAFETY: takes no argument and cannot fail.
    let thread = unsafe { bpf_get_current_pid_tgid() };
    Caller { thread, cred: follow(task::current(), &layout::TASK_REAL_CRED), number: at(in_stack()) }
}

/// The registers with which the current task came into the kernel.
#[inline(always)]
pub fn registers() -> Ptr {
    if layout::HAS_TASK_PT_REGS.load() == 1 {
        // SAFETY: the helpers take and give pointers of their own making.
        unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) as Ptr }
    } else {
        in_stack()
    }
}

#[inline(always)]
fn in_stack() -> Ptr {
    let offset = layout::REGS_IN_STACK.load();
    let stack = if offset == ABSENT { NOWHERE } else { follow(task::current(), &layout::TASK_STACK) };
    stack.wrapping_add(u64::from(offset))
}

#[inline(always)]
fn is_x86() -> bool {
    layout::REGS_CS.load() != ABSENT
}

/// Of these registers.
#[inline(always)]
pub fn at(registers: Ptr) -> u32 {
    if is_x86() {
        // The number, the instruction and the segment stand together: one read.
        let [number, _, segment] = words_at(place(registers, &layout::REGS_SYSCALL));
        of(number, segment)
    } else {
        of(u64_at(place(registers, &layout::REGS_SYSCALL)), 0)
    }
}

/// `NO_SYSCALL` also where the registers are no user's: then theirs is no place of registers at all.
#[inline(always)]
fn of(number: u64, segment: u64) -> u32 {
    let number = number as u32;
    if !is_x86() {
        return number;
    }
    match segment as u32 & 0xffff {
        0x33 => number,
        0x23 if number != NO_SYSCALL => number | COMPAT,
        _ => NO_SYSCALL,
    }
}

/// What a call was given.
#[inline(always)]
pub fn argument(registers: Ptr, number: u32) -> u64 {
    match number {
        0 => u64_at(place(registers, &layout::REGS_ARG0)),
        1 => u64_at(place(registers, &layout::REGS_ARG1)),
        2 => u64_at(place(registers, &layout::REGS_ARG2)),
        _ => u64_at(place(registers, &layout::REGS_ARG3)),
    }
}
