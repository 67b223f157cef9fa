//! What this machine gives: kernel, cgroup hierarchy, privileges, lock-down.

use std::{fs, path::Path};

use serde::Serialize;

/// The cgroup hierarchy whose ids name containers: v2's, or v1's memory (else pids) controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hierarchy {
    /// 1 or 2.
    pub version: u8,
    /// The v1 controller that carries the key.
    pub controller: Option<String>,
    /// The kernel's number of this hierarchy; v2's is 0.
    pub id: u32,
}

impl Hierarchy {
    pub fn of_this_host() -> Self {
        Self::parse(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default())
    }

    /// From the text of /proc/PID/cgroup: `id:controllers:path` a line, `0::path` for v2.
    pub fn parse(text: &str) -> Self {
        let of = |wanted: &str| {
            text.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':');
                let (id, controllers) = (fields.next()?, fields.next()?);
                controllers.split(',').any(|controller| controller == wanted).then(|| id.parse().ok())?
            })
        };
        let v1 = ["memory", "pids"].into_iter().find_map(|controller| Some((controller, of(controller)?)));
        match v1 {
            Some((controller, id)) => Self { version: 1, controller: Some(controller.to_owned()), id },
            None => Self { version: 2, controller: None, id: 0 },
        }
    }
}

/// What the machine is called.
pub fn name() -> String {
    nix::unistd::gethostname().map_or_else(|_| "host".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Kernel release, as `uname -r` gives it. Shown, never decided by.
pub fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// The kernel's lock-down mode: `none`, `integrity`, `confidentiality`; `None` where the kernel has no such thing or
/// securityfs is not there to ask.
pub fn lockdown() -> Option<String> {
    let text = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    let start = text.find('[')? + 1;
    let end = start + text[start..].find(']')?;
    Some(text[start..end].to_owned())
}

pub fn has_btf() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists()
}

/// Can kprobes be had? The perf type is there exactly when CONFIG_KPROBE_EVENTS is.
pub fn has_kprobes() -> bool {
    Path::new("/sys/bus/event_source/devices/kprobe/type").exists()
}

/// Are BPF programs compiled? Those that call the kernel's functions have to be. It can be switched off only where the kernel was
/// built so that there is the switch.
pub fn has_jit() -> bool {
    fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").is_ok_and(|text| text.trim() != "0")
}

/// Capabilities that attaching needs and this process lacks.
pub fn missing_privileges() -> Vec<&'static str> {
    use caps::{CapSet, Capability, has_cap};
    let has = |cap| has_cap(None, CapSet::Effective, cap).unwrap_or(false);
    if has(Capability::CAP_SYS_ADMIN) {
        return Vec::new();
    }
    [(Capability::CAP_BPF, "CAP_BPF"), (Capability::CAP_PERFMON, "CAP_PERFMON")]
        .into_iter()
        .filter_map(|(cap, name)| (!has(cap)).then_some(name))
        .collect()
}

/// Bytes of a page.
pub fn page_size() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().map_or(4096, |size| size as u64)
}

/// Nanoseconds of a jiffy: what the coarse clocks go by.
pub fn tick_ns() -> u32 {
    nix::time::clock_getres(nix::time::ClockId::CLOCK_MONOTONIC_COARSE).map_or(4_000_000, |tick| tick.tv_nsec() as u32)
}

/// Nanoseconds to add to `CLOCK_BOOTTIME` to get wall-clock time.
pub fn boot_to_wall_ns() -> i64 {
    let read = |clock| nix::time::clock_gettime(clock).map_or(0, |at| at.tv_sec() * 1_000_000_000 + at.tv_nsec());
    read(nix::time::ClockId::CLOCK_REALTIME) - read(nix::time::ClockId::CLOCK_BOOTTIME)
}

/// Now, on the clock of the kernel side's records.
pub fn boottime_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map_or(0, |at| at.tv_sec() as u64 * 1_000_000_000 + at.tv_nsec() as u64)
}

/// What this thread has used of a processor, ns: the cost of work, however long it had to wait for its turn.
pub fn cpu_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map_or(0, |used| used.tv_sec() as u64 * 1_000_000_000 + used.tv_nsec() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_that_carries_the_key() {
        let v2 = Hierarchy { version: 2, controller: None, id: 0 };
        let v1 = |controller: &str, id| Hierarchy { version: 1, controller: Some(controller.to_owned()), id };
        assert_eq!(Hierarchy::parse("0::/user.slice\n"), v2);
        assert_eq!(Hierarchy::parse("9:name=systemd:/\n4:memory:/x\n1:cpu,cpuacct:/\n0::/\n"), v1("memory", 4));
        assert_eq!(Hierarchy::parse("8:pids:/\n1:cpu,cpuacct:/\n"), v1("pids", 8));
        // Hybrid in systemd's sense: v1 only for naming, controllers on v2.
        assert_eq!(Hierarchy::parse("1:name=systemd:/\n0::/\n"), v2);
        assert_eq!(Hierarchy::parse(""), v2);
    }
}
