//! What the tests share: cgroups, the workload, the `ctrace` under test, and the kernel's own word.

pub mod capable;
pub mod cgroups;
pub mod cpu;
pub mod ctrace;
pub mod disk;
pub mod dns;
pub mod engines;
pub mod evidence;
pub mod fuse;
pub mod io;
pub mod kernel_log;
pub mod mapper;
pub mod net;
pub mod pids;
pub mod play;
pub mod player;
pub mod pty;
pub mod tcp;
pub mod tmux;

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::harness::in_virtual_machine;

/// How long to wait for what must come. Generous: where it comes in time, nothing waits.
pub fn patience() -> Duration {
    Duration::from_secs(if in_virtual_machine() { 60 } else { 30 })
}

/// Waits until `look` finds something.
///
/// # Panics
/// When patience ends.
pub fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + patience();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited {} s for {what}", patience().as_secs());
        thread::sleep(Duration::from_millis(5));
    }
}

/// A number that no other test, here or in a run beside this one, has.
pub fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    u64::from(std::process::id()) << 20 | NEXT.fetch_add(1, Ordering::Relaxed)
}
