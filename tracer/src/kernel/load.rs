//! Loads the kernel side, attaches what a plan asks for, and reads what it sends.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    thread,
};

use anyhow::{Context, Result, anyhow, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray, PerCpuHashMap, RingBuf},
    programs::{KProbe, Program, ProgramError, RawTracePoint},
};
use bytes::Bytes;
use tracer_common::{
    ABSENT, Kind,
    loss::{Cause, LossKey},
    pids::{Refusals, Unreaped},
    signal::{Fold, FoldKey},
};

use super::{
    host::{self, Hierarchy},
    layout::Layout,
    plan::{self, Branch, Hook, Probe, Taken},
};

/// What a run wants of the kernel side.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    pub probes: Vec<&'static Probe>,
    /// Ring size in bytes, a power of two.
    pub ring_bytes: u32,
    /// Every exit, not only those that follow an OOM kill.
    pub all_exits: bool,
    /// Which signals: `signal::SCOPE_*`.
    pub signal_scope: u32,
}

/// The kernel side, attached. Dropping it detaches everything.
pub struct Kernel {
    ebpf: Ebpf,
    ring: RingBuf<MapData>,
    epoch: Array<MapData, u64>,
    drains: u64,
    lost: PerCpuHashMap<MapData, Key, u64>,
    lost_elsewhere: PerCpuArray<MapData, u64>,
    folds: HashMap<MapData, SignalKey, SignalFold>,
    unreaped: HashMap<MapData, u32, Dead>,
    refusals: HashMap<MapData, u64, ForksRefused>,
    counted: BTreeMap<(u32, u64, u32), u64>,
    pub taken: Vec<Taken>,
}

/// Records that did not reach user space, since the last time that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    pub kind: Option<Kind>,
    /// `None`: of cgroups beyond those that can be counted one by one.
    pub cgroup: Option<u64>,
    /// It was the cgroup's own share of the ring that was used up, not the ring.
    pub budget: bool,
    pub count: u64,
}

/// `LossKey` in aya's terms.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Key(LossKey);
/// `FoldKey` in aya's terms.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct SignalKey(FoldKey);
// SAFETY: `FoldKey` is `bytemuck::Pod`: plain bytes, no padding.
unsafe impl aya::Pod for SignalKey {}
/// `Fold` in aya's terms.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct SignalFold(Fold);
// SAFETY: `Fold` is `bytemuck::Pod`: plain bytes, no padding.
unsafe impl aya::Pod for SignalFold {}
/// `Unreaped` in aya's terms.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Dead(Unreaped);
// SAFETY: `Unreaped` is `bytemuck::Pod`: plain bytes, no padding.
unsafe impl aya::Pod for Dead {}
/// `Refusals` in aya's terms.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct ForksRefused(Refusals);
// SAFETY: `Refusals` is `bytemuck::Pod`: plain bytes, no padding.
unsafe impl aya::Pod for ForksRefused {}

// SAFETY: `LossKey` is `bytemuck::Pod`: plain bytes, no padding.
unsafe impl aya::Pod for Key {}

/// Cgroups whose refusals are kept, and as many again, should the walk of them start anew.
const REFUSALS: usize = 2048;
/// Processes that may wait to be reaped at once; the sweep of /proc finds those beyond.
const UNREAPED: u32 = 16_384;

impl Wishes {
    /// Whoever asks which processes were reaped wants to know which were not.
    fn unreaped(&self) -> bool {
        self.probes.iter().any(|probe| probe.name == plan::PROCESS_FREE.name)
    }
}

impl Kernel {
    /// Loads the object with this kernel's layout and attaches each probe by the first branch that works.
    ///
    /// # Errors
    /// One line that says what is missing and what to do.
    pub fn attach(wishes: &Wishes) -> Result<Self> {
        preflight()?;
        let mut layout = Layout::of_this_kernel()?;
        let hierarchy = Hierarchy::of_this_host();
        configure(&mut layout, &hierarchy, wishes);
        let globals: Vec<(&str, u32)> = layout.all().collect();
        let mut loader = loader();
        for (name, value) in &globals {
            loader.override_global(name, value, false);
        }
        let mut ebpf = loader
            .map_max_entries("EVENTS", wishes.ring_bytes)
            .map_max_entries("UNREAPED", if wishes.unreaped() { UNREAPED } else { 1 })
            .load(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ctrace-ebpf")))
            .map_err(|error| refused(&error.into()))?;
        drop(loader);
        let taken: Vec<Taken> = wishes.probes.iter().map(|probe| take(&mut ebpf, probe, &layout)).collect();
        let mut map = |name: &str| ebpf.take_map(name).with_context(|| format!("the kernel side has no map {name}"));
        let kernel = Self {
            ring: RingBuf::try_from(map("EVENTS")?)?,
            epoch: Array::try_from(map("EPOCH")?)?,
            lost: PerCpuHashMap::try_from(map("LOST")?)?,
            lost_elsewhere: PerCpuArray::try_from(map("LOST_ELSEWHERE")?)?,
            folds: HashMap::try_from(map("FOLDS")?)?,
            unreaped: HashMap::try_from(map("UNREAPED")?)?,
            refusals: HashMap::try_from(map("REFUSALS")?)?,
            drains: 0,
            counted: BTreeMap::new(),
            taken,
            ebpf,
        };
        give_memory_back();
        Ok(kernel)
    }

    /// A descriptor of its own that becomes readable when the ring has records.
    pub fn ring_fd(&self) -> Result<OwnedFd> {
        self.ring.as_fd().try_clone_to_owned().context("another descriptor for the ring")
    }

    /// Takes up to `most` records out of the ring. True: the ring was emptied.
    pub fn drain(&mut self, most: usize, mut take: impl FnMut(Bytes)) -> bool {
        self.drain_while(most, |record| {
            take(record);
            true
        })
    }

    /// The same, until `take` wants no more.
    pub fn drain_while(&mut self, most: usize, mut take: impl FnMut(Bytes) -> bool) -> bool {
        for _ in 0..most {
            let Some(record) = self.ring.next() else {
                self.drains += 1;
                // Where the privilege for it is gone, budgets are not renewed: they only matter in a flood.
                let _ = self.epoch.set(0, self.drains, 0);
                return true;
            };
            if !take(Bytes::copy_from_slice(&record)) {
                break;
            }
        }
        false
    }

    /// What was lost since this was last asked.
    pub fn losses(&mut self) -> Result<Vec<Loss>> {
        let mut found = Vec::new();
        for entry in &self.lost {
            let (Key(key), counts) = entry.context("reading the losses")?;
            let total: u64 = counts.iter().sum();
            let seen = self.counted.entry((key.kind, key.cgroup, key.cause)).or_default();
            if total > *seen {
                found.push(Loss {
                    kind: Kind::from_u32(key.kind),
                    cgroup: Some(key.cgroup),
                    budget: key.cause == Cause::Budget as u32,
                    count: total - *seen,
                });
                *seen = total;
            }
        }
        for kind in Kind::ALL {
            let counts = self.lost_elsewhere.get(&(kind as u32), 0).context("reading the losses")?;
            let total: u64 = counts.iter().sum();
            let seen = self.counted.entry((kind as u32, u64::MAX, 0)).or_default();
            if total > *seen {
                found.push(Loss { kind: Some(kind), cgroup: None, budget: false, count: total - *seen });
                *seen = total;
            }
        }
        Ok(found)
    }

    /// How many signals of each kind there were; a kind that the kernel side has forgotten is left out.
    pub fn signal_totals(&self, kinds: &[FoldKey]) -> Vec<(FoldKey, u64)> {
        kinds.iter().filter_map(|kind| Some((*kind, self.folds.get(&SignalKey(*kind), 0).ok()?.0.total))).collect()
    }

    /// Processes that ended and were not reaped, by process id.
    pub fn unreaped(&self) -> BTreeMap<u32, Unreaped> {
        // Where the key that was read last has vanished, the walk starts again: hence the bound, and no list.
        let entries = self.unreaped.iter().take(2 * UNREAPED as usize);
        entries.map_while(Result::ok).map(|(pid, Dead(dead))| (pid, dead)).collect()
    }

    /// Refused forks so far, by the pids cgroup of those who asked.
    pub fn refusals(&self) -> BTreeMap<u64, u64> {
        let entries = self.refusals.iter().take(REFUSALS).map_while(Result::ok);
        entries.map(|(cgroup, ForksRefused(refusals))| (cgroup, refusals.count)).collect()
    }

    /// Can maps still be read?
    pub fn can_read_maps(&self) -> Result<()> {
        self.lost_elsewhere.get(&0, 0).map(|_| ()).context("reading a map")
    }

    pub fn attached(&self, probe: &Probe) -> bool {
        self.taken.iter().any(|taken| taken.probe.name == probe.name && taken.attached())
    }

    /// Ids of the loaded programs, for measurements: (program, id).
    pub fn program_ids(&self) -> Vec<(String, u32)> {
        self.ebpf.programs().filter_map(|(name, program)| Some((name.to_owned(), program_id(program)?))).collect()
    }
}

fn program_id(program: &Program) -> Option<u32> {
    match program {
        Program::RawTracePoint(program) => program.info().ok().map(|info| info.id()),
        Program::KProbe(program) => program.info().ok().map(|info| info.id()),
        _ => None,
    }
}

/// What can be said before anything is tried, in the order in which a person can mend it.
fn preflight() -> Result<()> {
    let missing = host::missing_privileges();
    if !missing.is_empty() {
        bail!("ctrace needs {} to attach to the kernel: run it with sudo", missing.join(" and "));
    }
    if !host::has_btf() {
        bail!(
            "this kernel does not show its layout (/sys/kernel/btf/vmlinux is missing): ctrace needs a kernel built with \
             CONFIG_DEBUG_INFO_BTF=y, and /sys mounted"
        );
    }
    if host::lockdown().as_deref() == Some("confidentiality") {
        bail!(
            "the kernel is locked down (lockdown=confidentiality) and lets no BPF program read its memory: boot with \
             lockdown=integrity or none"
        );
    }
    Ok(())
}

fn configure(layout: &mut Layout, hierarchy: &Hierarchy, wishes: &Wishes) {
    match hierarchy.controller.as_deref() {
        // The index is found where MEMORY_SUBSYS was; pids carries the key only where there is no memory controller.
        Some("memory") => layout.set("KEY_SUBSYS", layout.get("MEMORY_SUBSYS")),
        Some(_) => layout.set("KEY_SUBSYS", layout.get("PIDS_SUBSYS")),
        None => layout.set("KEY_SUBSYS", ABSENT),
    }
    layout.set("KEY_HIERARCHY", hierarchy.id);
    layout.set("WANT_ALL_EXITS", u32::from(wishes.all_exits));
    layout.set("SIGNAL_SCOPE", wishes.signal_scope);
    layout.set("WANT_UNREAPED", u32::from(wishes.unreaped()));
    layout.set("RING_BYTES", wishes.ring_bytes);
    layout.set("SELF_TGID", std::process::id());
}

/// aya's loader parses the whole of the kernel's BTF when it is made (24 ms, 25 MB), even where nothing needs it. It
/// looks for the file by its path, so it is made in a thread whose root directory has no such path.
fn loader() -> EbpfLoader<'static> {
    let blind = thread::spawn(|| {
        use nix::{sched, unistd};
        let hidden = sched::unshare(sched::CloneFlags::CLONE_FS).is_ok() && unistd::chroot("/sys").is_ok();
        hidden.then(EbpfLoader::new)
    });
    let mut loader = blind.join().ok().flatten().unwrap_or_default();
    loader.btf(None);
    loader
}

fn take(ebpf: &mut Ebpf, probe: &'static Probe, layout: &Layout) -> Taken {
    let mut taken = Taken { probe, branch: None, refused: Vec::new() };
    if let Some(global) =
        probe.needs.iter().find(|global| matches!(layout.get(global), ABSENT) || missing(layout, global))
    {
        let why = layout
            .absent
            .get(global)
            .cloned()
            .unwrap_or_else(|| format!("{global} was not found in this kernel's BTF"));
        taken.refused.push(("every way".to_owned(), why));
        return taken;
    }
    for branch in probe.branches {
        match attach(ebpf, branch) {
            Ok(()) => {
                taken.branch = Some(*branch);
                break;
            }
            Err(error) => taken.refused.push((branch.hook.to_string(), explain(branch.hook, &error))),
        }
    }
    taken
}

/// Facts that are 0 where the kernel lacks them.
fn missing(layout: &Layout, global: &str) -> bool {
    global == "MARK_VICTIM_HAS_TASK" && layout.get(global) == 0
}

fn attach(ebpf: &mut Ebpf, branch: &Branch) -> Result<()> {
    let program = ebpf
        .program_mut(branch.program)
        .with_context(|| format!("the kernel side has no program {}", branch.program))?;
    match branch.hook {
        Hook::RawTracepoint(name) => {
            let program: &mut RawTracePoint = program.try_into()?;
            program.load().map_err(verifier)?;
            program.attach(name)?;
        }
        Hook::Kprobe(function) | Hook::Kretprobe(function) => {
            if !host::has_kprobes() {
                bail!("this kernel was built without kprobes (CONFIG_KPROBE_EVENTS)");
            }
            let program: &mut KProbe = program.try_into()?;
            program.load().map_err(verifier)?;
            program.attach(function, 0)?;
        }
    }
    Ok(())
}

/// The verifier's log goes into the error, its end first: that is where the reason stands.
fn verifier(error: ProgramError) -> anyhow::Error {
    if let ProgramError::LoadError { io_error, verifier_log } = &error {
        let log = verifier_log.to_string();
        let tail: Vec<&str> = log.lines().rev().filter(|line| !line.is_empty()).take(12).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        return anyhow!("the kernel refused the program: {io_error}; {}", tail.join(" | "));
    }
    error.into()
}

fn explain(hook: Hook, error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    match hook {
        Hook::Kprobe(function) | Hook::Kretprobe(function) if text.contains("No such file") => {
            format!("this kernel has no function {function} to hook (inlined or renamed)")
        }
        Hook::RawTracepoint(name) if text.contains("No such file") => format!("this kernel has no tracepoint {name}"),
        _ => text,
    }
}

fn refused(error: &anyhow::Error) -> anyhow::Error {
    let text = format!("{error:#}");
    if text.contains("Operation not permitted") || text.contains("EPERM") {
        return anyhow!(
            "the kernel refused BPF ({text}): run ctrace as root outside a container, or with CAP_BPF and CAP_PERFMON"
        );
    }
    if text.contains("Cannot allocate memory") {
        return anyhow!(
            "the kernel refused memory for the BPF maps ({text}): on kernels before 5.11 raise `ulimit -l`"
        );
    }
    anyhow!("the kernel side could not be loaded: {text}")
}

/// What was needed to load lies freed in the heap: give it back.
fn give_memory_back() {
    // SAFETY: no arguments that matter; glibc's own function, which may be called at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
