//! Which calls does a file system refuse for want of space, quota or permission to write?
//!
//! `sys_exit` is hot: what it returned decides first, and nearly always ends it. Two programs there would cost twice as much, so
//! the end of a wait for a device (`sync.rs`) and what the network refuses (`refusals.rs`) are looked for here as well.

use aya_ebpf::{
    helpers::generated::{bpf_probe_read_kernel_str, bpf_probe_read_user_str},
    macros::{map, raw_tracepoint},
    maps::LruHashMap,
    programs::RawTracePointContext,
};
use tracer_common::{
    ABSENT,
    space::{
        EDQUOT, ENOSPC, EROFS, FOLD_NS, NAME_LEN, NAMES, ON_FILE, ON_PATH, PATH_LEN, Refused, RefusedCount, RefusedKey,
    },
};

use crate::{
    kernel::{
        cgroup,
        emit::{emit, now},
        layout,
        read::{NOWHERE, Ptr, follow, place, u16_at, u32_at, u64_at},
        syscall, task,
    },
    refusals, sync,
};

#[map]
static REFUSED: LruHashMap<RefusedKey, RefusedCount> = LruHashMap::with_max_entries(1, 0);

/// Where a call has what it is about: (argument of the path, of its directory), or (none, of the file).
#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    /// The path is that argument, relative to the working directory.
    Path(u32),
    /// The path is that argument, relative to the directory that the one before it names.
    PathAt(u32),
    /// The open file is that argument.
    File(u32),
    Nothing,
}

/// `raw_syscalls:sys_exit(struct pt_regs *regs, long ret)`.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn file_refused(ctx: RawTracePointContext) -> i32 {
    let returned = ctx.arg::<i64>(1);
    if returned <= 0 {
        let regs = ctx.arg::<u64>(0);
        sync::end(regs, returned);
        refused(regs, returned);
        refusals::refused(regs, returned);
    }
    0
}

#[inline(always)]
pub fn refused(regs: Ptr, returned: i64) {
    let errno = returned.wrapping_neg() as u64;
    if errno != u64::from(ENOSPC) && errno != u64::from(EDQUOT) && errno != u64::from(EROFS) {
        return;
    }
    let number = u64_at(place(regs, &layout::REGS_SYSCALL)) as u32;
    // A 32-bit program's numbers are others.
    if is_compat(regs) {
        return;
    }
    let about = if is_x86() { about_x86(number) } else { about_generic(number) };
    let (on, path, at) = match about {
        About::Path(argument) => (ON_PATH, syscall::argument(regs, argument), AT_FDCWD),
        About::PathAt(argument) => {
            (ON_PATH, syscall::argument(regs, argument), syscall::argument(regs, argument - 1) as i32)
        }
        About::File(argument) => (ON_FILE, NOWHERE, syscall::argument(regs, argument) as i32),
        About::Nothing => return,
    };
    if errno == u64::from(EROFS) && !is_sysctl(path) {
        return;
    }
    refuse(number, errno as u32, on, path, at);
}

const AT_FDCWD: i32 = -100;

#[inline(always)]
fn refuse(syscall: u32, errno: u32, on: u32, path: Ptr, at: i32) {
    let current = task::current();
    let dentry = if on == ON_FILE { follow(task::file(current, at), &layout::FILE_DENTRY) } else { NOWHERE };
    let block = follow(dentry, &layout::DENTRY_SB);
    let inode = follow(dentry, &layout::DENTRY_INODE);
    let device = u32_at(place(block, &layout::SB_DEV));
    let Some(count) = fold(RefusedKey { tgid: task::tgid(current), syscall, errno, device }) else { return };
    emit::<Refused>(cgroup::of(current), |record| {
        // SAFETY: a reserved record of this type; each field is written.
        unsafe {
            task::describe(current, &raw mut (*record).asker);
            (*record).syscall = syscall;
            (*record).errno = errno;
            (*record).count = count;
            (*record).on = on;
            (*record).at = at;
            (*record).magic = u64_at(place(block, &layout::SB_MAGIC));
            (*record).reserved = 0;
            (*record).device = device;
            (*record).mode = u32::from(u16_at(place(inode, &layout::INODE_MODE)));
            (*record).path = [0; PATH_LEN];
            let out = (&raw mut (*record).path).cast::<u8>();
            if on == ON_PATH {
                bpf_probe_read_user_str(out.cast(), PATH_LEN as u32, path as *const _);
            } else {
                names(dentry, out);
            }
        }
    });
}

/// # Safety
/// `out` has room for `NAMES` names.
#[inline(always)]
pub unsafe fn names(mut dentry: Ptr, out: *mut u8) {
    for i in 0..NAMES {
        let name = follow(dentry, &layout::DENTRY_NAME);
        // SAFETY: as the caller promised; the helper checks the address.
        unsafe { bpf_probe_read_kernel_str(out.add(i * NAME_LEN).cast(), NAME_LEN as u32, name as *const _) };
        // The root is its own parent: the same again, which is no part of the path.
        dentry = follow(dentry, &layout::DENTRY_PARENT);
    }
}

/// Counts one; gives the count so far if it is to be sent.
#[inline(always)]
fn fold(key: RefusedKey) -> Option<u64> {
    let at = now();
    let Some(count) = REFUSED.get_ptr_mut(key) else {
        let _ = REFUSED.insert(key, RefusedCount { count: 1, told_ns: at }, 0);
        return Some(1);
    };
    // SAFETY: the map's value; two CPUs that race for it may lose a count of one, or send a record more.
    let count = unsafe { &mut *count };
    count.count += 1;
    if at.wrapping_sub(count.told_ns) < FOLD_NS {
        return None;
    }
    count.told_ns = at;
    Some(count.count)
}

/// Does the path begin with `/proc/sys/`?
#[inline(always)]
fn is_sysctl(path: Ptr) -> bool {
    let mut start = [0_u8; 11];
    // SAFETY: the helper checks the address, and writes at most that size.
    let read = unsafe { bpf_probe_read_user_str(start.as_mut_ptr().cast(), 11, path as *const _) };
    read == 11 && start == *b"/proc/sys/\0"
}

/// Is this x86, whose system calls have numbers of their own? Its registers have names of their own.
#[inline(always)]
fn is_x86() -> bool {
    layout::REGS_CS.load() != ABSENT
}

#[inline(always)]
fn is_compat(regs: Ptr) -> bool {
    const USER32_CS: u16 = 0x23;
    is_x86() && u16_at(place(regs, &layout::REGS_CS)) == USER32_CS
}

/// arch/x86/entry/syscalls/syscall_64.tbl.
#[inline(always)]
fn about_x86(syscall: u32) -> About {
    match syscall {
        // write, close, pwrite64, writev, sendfile, fsync, fdatasync, ftruncate, fsetxattr, sync_file_range, fallocate,
        // pwritev, syncfs, pwritev2
        1 | 3 | 18 | 20 | 40 | 74 | 75 | 77 | 190 | 277 | 285 | 296 | 306 | 328 => About::File(0),
        // splice, copy_file_range
        275 | 326 => About::File(2),
        // open, truncate, mkdir, creat, mknod, setxattr, lsetxattr
        2 | 76 | 83 | 85 | 133 | 188 | 189 => About::Path(0),
        // rename, link, symlink
        82 | 86 | 88 => About::Path(1),
        // openat, mkdirat, mknodat, openat2
        257 | 258 | 259 | 437 => About::PathAt(1),
        // symlinkat
        266 => About::PathAt(2),
        // renameat, linkat, renameat2
        264 | 265 | 316 => About::PathAt(3),
        _ => About::Nothing,
    }
}

/// include/uapi/asm-generic/unistd.h.
#[inline(always)]
fn about_generic(syscall: u32) -> About {
    match syscall {
        // fsetxattr, ftruncate, fallocate, close, write, writev, pwrite64, pwritev, sendfile, fsync, fdatasync,
        // sync_file_range, syncfs, pwritev2
        7 | 46 | 47 | 57 | 64 | 66 | 68 | 70 | 71 | 82 | 83 | 84 | 267 | 287 => About::File(0),
        // splice, copy_file_range
        76 | 285 => About::File(2),
        // setxattr, lsetxattr, truncate
        5 | 6 | 45 => About::Path(0),
        // mknodat, mkdirat, openat, openat2
        33 | 34 | 56 | 437 => About::PathAt(1),
        // symlinkat
        36 => About::PathAt(2),
        // linkat, renameat, renameat2
        37 | 38 | 276 => About::PathAt(3),
        _ => About::Nothing,
    }
}
