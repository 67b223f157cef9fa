//! The kernel side of ctrace: one file per question asked of the kernel.
#![no_std]
#![no_main]
#![allow(clippy::needless_pass_by_value, reason = "a program's context is passed by value: aya's macros call it so")]
#![expect(
    clippy::inline_always,
    reason = "the verifier of 5.10 wants small call depth, and pruned branches fold only when inlined"
)]

mod block;
mod caps;
mod cgroup_life;
mod copy_up;
mod cpu;
mod dirty;
mod dns;
mod dropped;
mod flow;
mod hops;
mod kernel;
mod oom;
mod origin;
mod pids;
mod process_life;
mod refusals;
mod signal;
mod space;
mod stall;
mod sync;
mod tcp;

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// As in the kernel's own list of GPL-compatible licences (include/linux/license.h).
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
