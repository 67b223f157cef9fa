//! Which files does an overlay copy up before they can be written, how large, and how long does that take?
//! (fs/overlayfs/copy_up.c)

use aya_ebpf::{
    macros::{kprobe, kretprobe, map},
    maps::LruHashMap,
    programs::{ProbeContext, RetProbeContext},
};
use tracer_common::{
    copy_up::{CopyUp, Copying, LEAST_BYTES},
    space::PATH_LEN,
};

use crate::{
    kernel::{
        cgroup,
        emit::{emit, now},
        layout,
        read::{NOWHERE, Ptr, follow},
        task,
    },
    space,
};

#[map]
static COPYING: LruHashMap<u32, Copying> = LruHashMap::with_max_entries(1, 0);

/// `int ovl_copy_up_file(struct ovl_fs *ofs, struct dentry *dentry, struct file *new_file, loff_t len[, bool datasync])`.
#[kprobe]
pub fn copied_up_entry(ctx: ProbeContext) -> u32 {
    begin(ctx.arg::<u64>(1).unwrap_or(NOWHERE), ctx.arg::<u64>(3).unwrap_or(0));
    0
}

#[kretprobe]
pub fn copied_up(ctx: RetProbeContext) -> u32 {
    end(ctx.ret::<i32>());
    0
}

/// Older: `int ovl_copy_up_data(struct ovl_fs *ofs, struct path *old, struct path *new, loff_t len)`.
#[kprobe]
pub fn copied_up_path_entry(ctx: ProbeContext) -> u32 {
    let old = ctx.arg::<u64>(1).unwrap_or(NOWHERE);
    begin(follow(old, &layout::PATH_DENTRY), ctx.arg::<u64>(3).unwrap_or(0));
    0
}

#[kretprobe]
pub fn copied_up_path(ctx: RetProbeContext) -> u32 {
    end(ctx.ret::<i32>());
    0
}

#[inline(always)]
fn begin(dentry: Ptr, bytes: u64) {
    if bytes >= LEAST_BYTES {
        let _ = COPYING.insert(task::current_tid(), Copying { at_ns: now(), dentry, bytes }, 0);
    }
}

#[inline(always)]
fn end(returned: i32) {
    let tid = task::current_tid();
    let Some(copying) = COPYING.get_ptr(tid) else { return };
    // SAFETY: the map's value, which only this thread writes; copied out at once.
    let copying = unsafe { *copying };
    let _ = COPYING.remove(tid);
    if returned != 0 {
        return;
    }
    let current = task::current();
    emit::<CopyUp>(cgroup::of(current), |record| {
        // SAFETY: a reserved record of this type; each field is written.
        unsafe {
            task::describe(current, &raw mut (*record).who);
            (*record).bytes = copying.bytes;
            (*record).took_ns = now().wrapping_sub(copying.at_ns);
            (*record).path = [0; PATH_LEN];
            space::names(copying.dentry, (&raw mut (*record).path).cast::<u8>());
        }
    });
}
