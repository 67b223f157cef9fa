//! Which cgroup a task is in (include/linux/cgroup-defs.h).

use aya_ebpf::helpers::generated::bpf_get_current_cgroup_id;
use tracer_common::ABSENT;

use super::{
    layout,
    read::{NOWHERE, Ptr, follow, place, u64_at},
};

/// The `cgroup_subsys_state` of a task for one controller: in v2 that of the nearest ancestor where it is enabled.
#[inline(always)]
pub fn css(task: Ptr, subsys: u32) -> Ptr {
    if subsys == ABSENT {
        return NOWHERE;
    }
    let set = follow(task, &layout::TASK_CGROUPS);
    u64_at(place(set, &layout::CSS_SET_SUBSYS).wrapping_add(u64::from(subsys) * 8))
}

/// The kernfs id of a cgroup.
#[inline(always)]
pub fn id(cgroup: Ptr) -> u64 {
    u64_at(place(follow(cgroup, &layout::CGROUP_KN), &layout::KERNFS_ID))
}

/// The id of the cgroup that a css belongs to.
#[inline(always)]
pub fn css_id(css: Ptr) -> u64 {
    id(follow(css, &layout::CSS_CGROUP))
}

/// … of the current task: on v2 the kernel has a way of its own.
#[inline(always)]
pub fn of_current(task: Ptr) -> u64 {
    if layout::KEY_SUBSYS.load() == ABSENT {
        // SAFETY: takes no argument and cannot fail.
        return unsafe { bpf_get_current_cgroup_id() };
    }
    of(task)
}

/// The key of a task's cgroup: the default hierarchy's on v2, else that of the controller which carries the key.
#[inline(always)]
pub fn of(task: Ptr) -> u64 {
    let subsys = layout::KEY_SUBSYS.load();
    if subsys == ABSENT {
        id(follow(follow(task, &layout::TASK_CGROUPS), &layout::CSS_SET_DFL_CGRP))
    } else {
        css_id(css(task, subsys))
    }
}
