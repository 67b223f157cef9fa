//! Which system call a task is in: its registers at the top of its kernel stack (arch/*/include/asm/ptrace.h).

use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs};
use tracer_common::{
    ABSENT,
    caps::{COMPAT, NO_SYSCALL},
};

use super::{
    layout,
    read::{NOWHERE, Ptr, follow, place, u64_at, words_at},
};

/// Of the current task.
#[inline(always)]
pub fn number(current: Ptr) -> u32 {
    if layout::HAS_TASK_PT_REGS.load() == 1 {
        // SAFETY: the helpers take and give pointers of their own making.
        return at(unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as u64);
    }
    let offset = layout::REGS_IN_STACK.load();
    let stack = if offset == ABSENT { NOWHERE } else { follow(current, &layout::TASK_STACK) };
    at(stack.wrapping_add(u64::from(offset)))
}

/// Of these registers. `NO_SYSCALL` also where they are no user's: then this is no place of registers at all.
#[inline(always)]
pub fn at(registers: Ptr) -> u32 {
    if layout::REGS_CS.load() == ABSENT {
        return u64_at(place(registers, &layout::REGS_SYSCALL)) as u32;
    }
    // On x86 the number, the instruction and the segment stand together: one read.
    let [number, _, segment] = words_at(place(registers, &layout::REGS_SYSCALL));
    let number = number as u32;
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
