//! The kernel's own count of what BPF programs cost.

use std::os::fd::{FromRawFd, OwnedFd};

use anyhow::{Context, Result};

/// `bpf_cmd` in include/uapi/linux/bpf.h, since 5.8.
const BPF_ENABLE_STATS: libc::c_int = 32;

/// Runs are counted and timed as long as the descriptor lives, and so no longer than this process, however it ends.
/// (The sysctl `kernel.bpf_stats_enabled` does the same, but would stay.)
pub fn enable() -> Result<OwnedFd> {
    // A union of which this command reads the first word: BPF_STATS_RUN_TIME, 0.
    let attributes = [0u32; 32];
    // SAFETY: a struct of the size that is told; the descriptor that comes back is nobody else's.
    unsafe {
        let fd = libc::syscall(libc::SYS_bpf, BPF_ENABLE_STATS, &raw const attributes, 4);
        if fd < 0 {
            return Err(std::io::Error::last_os_error()).context("the kernel counts no BPF runs (since 5.8, as root)");
        }
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}
