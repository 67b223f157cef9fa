//! Which cgroups come and go? (kernel/cgroup/cgroup.c)

use aya_ebpf::{helpers::generated::bpf_probe_read_kernel_str, macros::raw_tracepoint, programs::RawTracePointContext};
use tracer_common::cgroup::{Mkdir, NAME_LEN, Rmdir};

use crate::{
    kernel::{
        cgroup,
        emit::{emit, emit_at_once},
        layout,
        read::{Ptr, follow, place, u32_at, u64_at},
        task,
    },
    origin,
};

/// Is it in the hierarchy that carries the key? On v1 each controller's hierarchy makes its own.
#[inline(always)]
fn carries_key(cgroup: Ptr) -> bool {
    u32_at(place(follow(cgroup, &layout::CGROUP_ROOT), &layout::CGROUP_ROOT_HIERARCHY)) == layout::KEY_HIERARCHY.load()
}

/// `cgroup:cgroup_mkdir(struct cgroup *cgrp, const char *path)`.
#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
pub fn cgroup_mkdir(ctx: RawTracePointContext) -> i32 {
    let cgroup = task::argument(&ctx, 0);
    if !carries_key(cgroup) {
        return 0;
    }
    let node = follow(cgroup, &layout::CGROUP_KN);
    let parent = follow(node, &layout::KERNFS_PARENT);
    let name_at = follow(node, &layout::KERNFS_NAME);
    origin::made(cgroup::id(cgroup), u64_at(place(parent, &layout::KERNFS_ID)), name_at);
    emit_at_once::<Mkdir>(cgroup::id(cgroup), |record| {
        // SAFETY: a reserved record of this type.
        unsafe {
            (*record).parent = u64_at(place(parent, &layout::KERNFS_ID));
            (*record).level = u32_at(place(cgroup, &layout::CGROUP_LEVEL));
            (*record).reserved = 0;
            task::describe(task::current(), &raw mut (*record).maker);
            name(node, &raw mut (*record).name);
            name(parent, &raw mut (*record).parent_name);
        }
    });
    0
}

/// `cgroup:cgroup_rmdir(struct cgroup *cgrp, const char *path)`.
#[raw_tracepoint(tracepoint = "cgroup_rmdir")]
pub fn cgroup_rmdir(ctx: RawTracePointContext) -> i32 {
    let cgroup = task::argument(&ctx, 0);
    if carries_key(cgroup) {
        origin::gone(cgroup::id(cgroup));
        emit::<Rmdir>(cgroup::id(cgroup), |_| ());
    }
    0
}

/// A kernfs node's name, NUL-terminated; empty where it cannot be read.
#[inline(always)]
#[expect(
    clippy::cast_ptr_alignment,
    reason = "a name stands at a multiple of 8 within its record, and records in the ring do too"
)]
fn name(node: Ptr, out: *mut [u8; NAME_LEN]) {
    // SAFETY: `out` is a field of a reserved record, NAME_LEN bytes long and 8-byte aligned; the helper checks the source
    // itself. What it leaves behind the NUL is cleared first, so that no stale byte of the ring leaves: by words, and not
    // as a memset, which the verifier walks byte by byte.
    unsafe {
        for word in 0..NAME_LEN / 8 {
            out.cast::<u64>().add(word).write_volatile(0);
        }
        bpf_probe_read_kernel_str(out.cast(), NAME_LEN as u32, follow(node, &layout::KERNFS_NAME) as *const _);
    }
}
