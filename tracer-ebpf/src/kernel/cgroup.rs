//! Which cgroup a task is in (include/linux/cgroup-defs.h).

use tracer_common::{ABSENT, UNKNOWN_U64};

use super::{
    layout,
    read::{Ptr, at, field, follow, place},
};

/// The `cgroup_subsys_state` of a task for one controller: in v2 that of the nearest ancestor where it is enabled.
#[inline(always)]
pub fn css(task: Ptr, subsys: u32) -> Option<Ptr> {
    if subsys == ABSENT {
        return None;
    }
    let set = follow(task, &layout::TASK_CGROUPS)?;
    let slot = place(set, &layout::CSS_SET_SUBSYS)?.wrapping_add(subsys as usize * 8);
    let css: u64 = at(slot)?;
    if css == 0 { None } else { Some(css as Ptr) }
}

/// The kernfs id of a cgroup.
#[inline(always)]
pub fn id(cgroup: Ptr) -> Option<u64> {
    field(follow(cgroup, &layout::CGROUP_KN)?, &layout::KERNFS_ID)
}

/// The id of the cgroup that a css belongs to.
#[inline(always)]
pub fn css_id(css: Ptr) -> Option<u64> {
    id(follow(css, &layout::CSS_CGROUP)?)
}

/// The key of a task's cgroup: the default hierarchy's on v2, else that of the controller which carries the key.
#[inline(always)]
pub fn of(task: Ptr) -> u64 {
    let subsys = layout::KEY_SUBSYS.load();
    let id = if subsys == ABSENT {
        follow(task, &layout::TASK_CGROUPS).and_then(|set| follow(set, &layout::CSS_SET_DFL_CGRP)).and_then(id)
    } else {
        css(task, subsys).and_then(css_id)
    };
    id.unwrap_or(UNKNOWN_U64)
}
