//! Loads the kernel side, attaches what a plan asks for, and reads what it sends.

use std::{
    borrow::Cow,
    cell::LazyCell,
    collections::BTreeMap,
    fs::File,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::FileExt,
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray, PerCpuHashMap, RingBuf},
    programs::{BtfTracePoint, FEntry, FExit, KProbe, Program, ProgramError, ProgramType, RawTracePoint, TracePoint},
    sys::{BpfHelper, is_helper_supported},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracer_common::{
    ABSENT, Kind,
    loss::{Cause, LossKey, Reader},
};

use super::{
    cast,
    demand::OnDemand,
    diagnostics::{self, Diagnostics},
    host::{self, Hierarchy},
    layout::{self, FACTS, Layout},
    maps::Shared,
    plan::{Branch, Hook, Probe, Taken, entry_of},
    targets::{self, Target},
    tracefs,
};
use crate::model::recorded::{self, Name};

/// What a run wants of the kernel side.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    pub probes: Vec<&'static Probe>,
    /// Those of them that are loaded, and attached only by [`Kernel::begin`].
    pub on_demand: Vec<&'static Probe>,
    /// Ring size in bytes, a power of two.
    pub ring_bytes: u32,
    /// Globals to set (`WANT_*`); what several set is or-ed.
    pub wants: Vec<(&'static str, u32)>,
    /// Entries of the maps that are wanted at more than their least size.
    pub maps: Vec<(&'static str, u32)>,
    /// The kernel side's own diagnostics; a release build has none.
    pub diagnostics: bool,
}

/// The kernel side, attached. Dropping it detaches everything.
pub struct Kernel {
    /// Holds the links: dropped, they are detached.
    pub(super) ebpf: Ebpf,
    pub(super) on_demand: Vec<OnDemand>,
    ring: RingBuf<MapData>,
    reader: Array<MapData, Shared<Reader>>,
    drains: u64,
    /// Times in a row that the ring was found empty.
    quiet: u32,
    lost: PerCpuHashMap<MapData, Shared<LossKey>, u64>,
    lost_elsewhere: PerCpuArray<MapData, u64>,
    counted: BTreeMap<(u32, u64, u32), u64>,
    skipped: BTreeMap<&'static str, u64>,
    diagnostics: Option<Diagnostics>,
    /// What the kernel says of the programs that are attached, by the probe's name.
    skips: Vec<(&'static str, Vec<File>)>,
    pub taken: Vec<Taken>,
    /// For those that have to be loaded again.
    pub(super) targets: Vec<Target>,
}

/// Records that did not reach user space, since the last time that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The record's kind by its name, or the probe whose program did not run.
    #[serde(deserialize_with = "recorded::name")]
    pub event: Name,
    /// `None`: not known, or of cgroups beyond those that can be counted one by one.
    pub cgroup: Option<u64>,
    pub cause: LossCause,
    pub count: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossCause {
    /// The ring was full.
    Full,
    /// The cgroup's own share of the ring was used up.
    Budget,
    /// The kernel skipped the program: it was at work on that CPU already. That is counted by program alone.
    Skipped,
}

/// In /proc/PID/fdinfo of a program (kernel/bpf/syscall.c, bpf_prog_show_fdinfo).
const RECURSION_MISSES: &str = "recursion_misses:";

/// While records come, the ring is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Made once, and only where something is hooked through it.
type Targets<'a> = LazyCell<Result<Btf>, Box<dyn FnOnce() -> Result<Btf> + 'a>>;

impl Kernel {
    /// Loads the object with this kernel's layout and attaches each probe by the first branch that works.
    ///
    /// # Errors
    /// One line that says what is missing and what to do.
    pub fn attach(wishes: &Wishes) -> Result<Self> {
        preflight()?;
        let branches = wishes.probes.iter().flat_map(|probe| probe.branches);
        let hooks: Vec<Hook> = branches.map(|branch| branch.hook).collect();
        let mut layout = Layout::of_this_kernel(&hooks)?;
        let hierarchy = Hierarchy::of_this_host();
        configure(&mut layout, &hierarchy, wishes);
        let globals: Vec<(&str, u32)> = layout.all().collect();
        let mut loader = loader();
        for (name, value) in &globals {
            loader.override_global(name, value, false);
        }
        let asked = wishes.diagnostics && diagnostics::BUILT_IN;
        let level = if asked { diagnostics::ALL } else { diagnostics::SILENT };
        loader.override_global(diagnostics::LEVEL, &level, false);
        for (map, entries) in &wishes.maps {
            loader.map_max_entries(map, *entries);
        }
        let object: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ctrace-ebpf"));
        let object = layout.cast.map_or(Cow::Borrowed(object), |cast| Cow::Owned(cast::calls(object, cast.function)));
        let mut ebpf = loader
            .map_max_entries("EVENTS", wishes.ring_bytes)
            .load(&object)
            .map_err(|error| refused(&error.into()))?;
        drop(loader);
        drop(object);
        let diagnostics = asked.then(|| Diagnostics::of(&mut ebpf)).transpose()?;
        let btf = Targets::new(Box::new(|| targets::btf_of(&layout.targets)));
        let waits = |probe: &Probe| wishes.on_demand.iter().any(|own| own.name == probe.name);
        let taken: Vec<Taken> =
            wishes.probes.iter().map(|probe| take(&mut ebpf, probe, waits(probe), &layout, &btf)).collect();
        drop(btf);
        let mut map = |name: &str| ebpf.take_map(name).with_context(|| format!("the kernel side has no map {name}"));
        let kernel = Self {
            ring: RingBuf::try_from(map("EVENTS")?)?,
            reader: Array::try_from(map("READER")?)?,
            lost: PerCpuHashMap::try_from(map("LOST")?)?,
            lost_elsewhere: PerCpuArray::try_from(map("LOST_ELSEWHERE")?)?,
            drains: 0,
            quiet: 0,
            counted: BTreeMap::new(),
            skipped: BTreeMap::new(),
            diagnostics,
            skips: taken.iter().map(|taken| (taken.probe.name, program_files(&ebpf, taken))).collect(),
            on_demand: taken.iter().filter(|taken| waits(taken.probe)).filter_map(OnDemand::of).collect(),
            taken,
            targets: layout.targets,
            ebpf,
        };
        give_memory_back();
        Ok(kernel)
    }

    /// A descriptor of its own that becomes readable when the ring has records.
    pub fn ring_fd(&self) -> Result<OwnedFd> {
        self.ring.as_fd().try_clone_to_owned().context("another descriptor for the ring")
    }

    /// Takes up to `most` records out of the ring, until `take` wants no more. True: the ring was emptied.
    pub fn drain(&mut self, most: usize, mut take: impl FnMut(Bytes) -> bool) -> bool {
        for taken in 0..most {
            let Some(record) = self.ring.next() else {
                self.drains += 1;
                self.quiet = if taken == 0 { self.quiet.saturating_add(1) } else { 0 };
                let asleep = u64::from(self.quiet > 0);
                // Where the privilege for it is gone, budgets are not renewed, which only matters in a flood, and
                // records wait for the next look.
                let _ = self.reader.set(0, Shared(Reader { epoch: self.drains, pressed: 0, asleep }), 0);
                return true;
            };
            if !take(Bytes::copy_from_slice(&record)) {
                break;
            }
        }
        false
    }

    /// When to drain again though the ring's descriptor says nothing: the kernel side wakes nobody who looks anyway.
    /// `None` once it has been told to wake, and had the time to see that.
    pub fn look_again(&self) -> Option<Duration> {
        (self.quiet < 2).then_some(LOOK_EVERY)
    }

    /// What the kernel side said about itself since this was last asked.
    pub fn diagnostics(&mut self) -> Vec<String> {
        self.diagnostics.as_mut().map(Diagnostics::take).unwrap_or_default()
    }

    /// What was lost since this was last asked.
    pub fn losses(&mut self) -> Result<Vec<Loss>> {
        let mut found = Vec::new();
        for entry in &self.lost {
            let (Shared(key), counts) = entry.context("reading the losses")?;
            let total: u64 = counts.iter().sum();
            let seen = self.counted.entry((key.kind, key.cgroup, key.cause)).or_default();
            if total > *seen {
                found.push(Loss {
                    event: Kind::from_u32(key.kind).map_or("unknown", Kind::name),
                    cgroup: Some(key.cgroup),
                    cause: if key.cause == Cause::Budget as u32 { LossCause::Budget } else { LossCause::Full },
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
                found.push(Loss { event: kind.name(), cgroup: None, cause: LossCause::Full, count: total - *seen });
                *seen = total;
            }
        }
        for (event, files) in &self.skips {
            let total: u64 = files.iter().map(recursion_misses).sum();
            let seen = self.skipped.entry(event).or_default();
            if total > *seen {
                found.push(Loss { event, cgroup: None, cause: LossCause::Skipped, count: total - *seen });
                *seen = total;
            }
        }
        Ok(found)
    }

    /// Can maps still be read?
    pub fn can_read_maps(&self) -> Result<()> {
        self.lost_elsewhere.get(&0, 0).map(|_| ()).context("reading a map")
    }

    /// Is it attached now?
    pub fn attached(&self, probe: &Probe) -> bool {
        !self.is_idle(&[probe]) && self.taken.iter().any(|taken| taken.probe.name == probe.name && taken.attached())
    }
}

/// What the kernel says of each program of a probe: held open, since /proc may be out of reach once privileges are dropped.
/// Nothing where it does not count what it skips (before 5.12).
fn program_files(ebpf: &Ebpf, taken: &Taken) -> Vec<File> {
    let file = |program: &str| {
        let fd = ebpf.program(program)?.fd().ok()?.as_fd().as_raw_fd();
        let file = File::open(format!("/proc/self/fdinfo/{fd}")).ok()?;
        read_at_start(&file).contains(RECURSION_MISSES).then_some(file)
    };
    let programs = taken.branch.map(|branch| branch.programs()).unwrap_or_default();
    programs.iter().filter_map(|program| file(program)).collect()
}

/// How often the kernel did not run a program because it was at work on that CPU already.
fn recursion_misses(file: &File) -> u64 {
    let text = read_at_start(file);
    let line = text.lines().find_map(|line| line.strip_prefix(RECURSION_MISSES));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

fn read_at_start(file: &File) -> String {
    let mut bytes = [0; 1024];
    let read = file.read_at(&mut bytes, 0).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..read]).into_owned()
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
    for global in FACTS.iter().filter(|global| global.starts_with("WANT_")) {
        let wanted = wishes.wants.iter().filter(|(wanted, _)| wanted == global).fold(0, |all, (_, value)| all | value);
        layout.set(global, wanted);
    }
    // Only programs that have a packet in hand ask for it.
    let have_packets = wishes.probes.iter().any(|probe| probe.needs.contains(&"SKB_DEV"));
    if !have_packets || !host::has_jit() || is_left_out(layout::CAST) {
        layout.cast = None;
    }
    layout.set("WORDS_TYPE", layout.cast.map_or(0, |cast| cast.words));
    layout.set("TICK_NS", host::tick_ns());
    layout.set("RING_BYTES", wishes.ring_bytes);
    layout.set("SELF_TGID", std::process::id());
    if layout.get("WANT_CAPS") != 0 || layout.get("WANT_NET_REFUSALS") != 0 {
        let has = is_helper_supported(ProgramType::RawTracePoint, BpfHelper::BPF_FUNC_task_pt_regs).unwrap_or(false);
        layout.set("HAS_TASK_PT_REGS", u32::from(has));
    }
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

/// Programs of the kernel side, between commas, that are not to be attached: so that a test can have what an older kernel
/// takes, and a person what works where a way is broken. It is said, as any other refusal is.
const LEFT_OUT: &str = "CTRACE_WITHOUT";

fn is_left_out(name: &str) -> bool {
    std::env::var(LEFT_OUT).is_ok_and(|names| names.split(',').any(|other| other == name))
}

/// `waits`: it is attached to see whether that works, and detached until it is wanted.
fn take(ebpf: &mut Ebpf, probe: &'static Probe, waits: bool, layout: &Layout, btf: &Targets) -> Taken {
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
        if is_left_out(branch.program) {
            taken.refused.push((branch.hook.to_string(), format!("left out: {LEFT_OUT} names it")));
            continue;
        }
        match attach(ebpf, branch, waits, btf) {
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

fn attach(ebpf: &mut Ebpf, branch: &Branch, waits: bool, btf: &Targets) -> Result<()> {
    let Hook::All(hooks) = branch.hook else { return attach_one(ebpf, branch.hook, branch.program, waits, btf) };
    for (hook, program) in hooks {
        if let Err(error) = attach_one(ebpf, *hook, program, false, btf) {
            // What is hooked by now goes with its program.
            for program in branch.programs() {
                unload(ebpf, &program);
            }
            return Err(anyhow!(explain(*hook, &error)));
        }
    }
    Ok(())
}

fn unload(ebpf: &mut Ebpf, program: &str) {
    // One that was never loaded says so, which is as good.
    let _ = match ebpf.program_mut(program) {
        Some(Program::RawTracePoint(program)) => program.unload(),
        Some(Program::BtfTracePoint(program)) => program.unload(),
        Some(Program::FEntry(program)) => program.unload(),
        Some(Program::TracePoint(program)) => program.unload(),
        Some(Program::KProbe(program)) => program.unload(),
        Some(Program::FExit(program)) => program.unload(),
        _ => Ok(()),
    };
}

/// `waits`: of [`take`].
fn attach_one(ebpf: &mut Ebpf, hook: Hook, name: &str, waits: bool, btf: &Targets) -> Result<()> {
    let program = ebpf.program_mut(name).with_context(|| format!("the kernel side has no program {name}"))?;
    match hook {
        Hook::RawTracepoint(tracepoint) => {
            let program: &mut RawTracePoint = program.try_into()?;
            program.load().map_err(verifier)?;
            let link = program.attach(tracepoint)?;
            if waits {
                program.detach(link)?;
            }
        }
        Hook::TypedTracepoint(tracepoint) => {
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(tracepoint, parsed(btf)?).map_err(verifier)?;
            let link = program.attach()?;
            if waits {
                program.detach(link)?;
            }
        }
        Hook::Tracepoints(category, names) => {
            let program: &mut TracePoint = program.try_into()?;
            program.load().map_err(verifier)?;
            tracefs::attach(program, category, names)?;
        }
        Hook::Kprobe(function) | Hook::Kretprobe(function) => {
            if !host::has_kprobes() {
                bail!("this kernel was built without kprobes (CONFIG_KPROBE_EVENTS)");
            }
            let program: &mut KProbe = program.try_into()?;
            loaded(program.load())?;
            let link = program.attach(function, 0)?;
            if waits {
                program.detach(link)?;
            }
        }
        Hook::KprobePair(function) => {
            attach_one(ebpf, Hook::Kretprobe(function), name, waits, btf)?;
            attach_one(ebpf, Hook::Kprobe(function), &entry_of(name), waits, btf)?;
        }
        Hook::Fentry(function) => {
            let program: &mut FEntry = program.try_into()?;
            program.load(function, parsed(btf)?).map_err(verifier)?;
            program.attach()?;
        }
        Hook::Fexit(function) => {
            let program: &mut FExit = program.try_into()?;
            program.load(function, parsed(btf)?).map_err(verifier)?;
            let link = program.attach()?;
            if waits {
                program.detach(link)?;
            }
        }
        Hook::All(_) => bail!("{hook} within others"),
    }
    Ok(())
}

/// One that is hooked at several places is loaded by then, and so is one whose way before found no function of its name.
fn loaded(result: Result<(), ProgramError>) -> Result<()> {
    match result {
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        result => result.map_err(verifier),
    }
}

fn parsed<'a>(btf: &'a Targets<'_>) -> Result<&'a Btf> {
    (**btf).as_ref().map_err(|error| anyhow!("{error:#}"))
}

/// The verifier's log goes into the error, its end first: that is where the reason stands.
fn verifier(error: ProgramError) -> anyhow::Error {
    if let ProgramError::LoadError { io_error, verifier_log } = &error {
        let log = verifier_log.to_string();
        if log.trim().is_empty() {
            // Refused before the verifier looked at it: no trampolines, say, as without ftrace.
            return anyhow!("this kernel does not take programs of this kind: {io_error}");
        }
        let tail: Vec<&str> = log.lines().rev().filter(|line| !line.is_empty()).take(12).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        return anyhow!("the kernel refused the program: {io_error}; {}", tail.join(" | "));
    }
    error.into()
}

fn explain(hook: Hook, error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    match hook {
        Hook::Kprobe(function)
        | Hook::Kretprobe(function)
        | Hook::KprobePair(function)
        | Hook::Fentry(function)
        | Hook::Fexit(function)
            if text.contains("No such file") || text.contains("not found in BTF") =>
        {
            format!("this kernel has no function {function} to hook (inlined or renamed)")
        }
        Hook::RawTracepoint(name) if text.contains("No such file") => format!("this kernel has no tracepoint {name}"),
        Hook::TypedTracepoint(name) if text.contains("No such file") || text.contains("not found in BTF") => {
            format!("this kernel has no tracepoint {name}")
        }
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
