//! One container in full: what the kernel's files say of its processes and limits, beside what its runtime's files say.
//!
//! All is read through [`Files`], and a namespace is told from another by its link alone: none is opened, none entered.
//! What takes entering one, the network map, is made elsewhere and given to [`Inspected::take_network`].
//! What cannot be read is `None` with its reason in `unknown`.

mod capabilities;
mod limits;
mod network;
mod process;
mod userns;

use std::{collections::HashMap, sync::Arc};

use oci_spec::runtime::Spec;

pub use self::process::{Process, start_ticks};
pub use self::{
    capabilities::{CapabilitySets, Difference, names as capability_names},
    limits::Limits,
    network::FALLBACKS,
    userns::{UidRange, User, UserNs},
};
use self::{limits::Controllers, network::Modes};
use super::{Entry, Facts, Files, Hierarchy, Table, oci};
use crate::{
    model::{Container, Runtime, Timestamp, Unknown},
    network::Network,
};

/// What can be known of a running container. A limit that is `None` and not in `unknown` is no limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspected {
    pub container: Arc<Container>,
    pub facts: Facts,
    /// PID 1 of its pid namespace, as the host sees it.
    pub init_pid: Option<u32>,
    /// The process that all below is true of: PID 1, or where there is none, its oldest.
    pub main_pid: Option<u32>,
    pub processes: usize,
    /// Those that are uid 0 of the host.
    pub root_processes: usize,
    pub started: Option<Timestamp>,
    pub limits: Limits,
    pub user: User,
    pub userns: UserNs,
    pub capabilities: Option<CapabilitySets>,
    /// What the bundle asked for.
    pub spec_capabilities: Option<CapabilitySets>,
    /// Everything that this kernel gives to anybody: the host's own bounding set.
    pub all_capabilities: u64,
    pub no_new_privs: Option<bool>,
    /// `disabled`, `strict` or `filter`.
    pub seccomp: Option<&'static str>,
    /// Every capability and no seccomp filter: what `--privileged` makes.
    pub privileged: Option<bool>,
    pub network_mode: Option<String>,
    /// Beside `lo`.
    pub network_devices: Option<Vec<String>>,
    /// Its part of the network map, where one was made: the only thing here that needs namespaces to be entered.
    pub network: Option<Network>,
    pub rootfs_readonly: Option<bool>,
    /// Why something above is `None`, the container's own and its facts' reasons among them.
    pub unknown: Unknown,
    /// Doubts, one sentence each.
    pub notes: Vec<String>,
}

impl Inspected {
    /// What its devices say of the mode, where files told less: which kind they are, and that they are there at all.
    pub fn take_network(&mut self, network: Network) {
        if matches!(self.network_mode.as_deref(), None | Some("bridge" | "veth" | "none"))
            && let Some(mode) = network.mode()
        {
            self.network_mode = Some(mode);
            self.unknown.remove("network_mode");
        }
        self.unknown.remove("network");
        self.network = Some(network);
    }

    /// Has it all that there is, whatever it uses of it?
    pub fn has_every_capability(&self) -> bool {
        let all = self.all_capabilities;
        all != 0 && self.capabilities.is_some_and(|sets| capabilities::with_implied(sets.bounding) & all == all)
    }
}

/// Looks at containers one after another; what they share is read once.
pub struct Inspector<'a> {
    files: &'a dyn Files,
    hierarchy: &'a Hierarchy,
    controllers: Controllers,
    host: process::Namespaces,
    all_capabilities: u64,
    /// By the container's cgroup.
    processes: HashMap<String, Vec<Process>>,
    modes: Modes,
    /// Wall-clock time of the boot, ns.
    boot_ns: i64,
}

impl<'a> Inspector<'a> {
    /// `boot_ns`: the wall clock at boot, by which processes tell when they started.
    pub fn new(files: &'a dyn Files, hierarchy: &'a Hierarchy, mountinfo: &str, table: &Table, boot_ns: i64) -> Self {
        let mut processes: HashMap<String, Vec<Process>> = HashMap::new();
        for process in process::all(files, hierarchy) {
            if let Some(container) = table.owner_of_path(&process.cgroup) {
                processes.entry(container.cgroup.clone()).or_default().push(process);
            }
        }
        // Where no PID 1 tells, the oldest does.
        for processes in processes.values_mut().filter(|processes| process::init(processes).is_none()) {
            for process in processes {
                process.start = process::start_ticks(files, process.pid);
            }
        }
        let init = process::read(files, hierarchy, 1);
        Self {
            files,
            hierarchy,
            controllers: Controllers::of(mountinfo, hierarchy),
            host: process::Namespaces::of_host(files),
            all_capabilities: init.map_or(0, |init| init.capabilities.bounding),
            modes: Modes::survey(files, &processes, table),
            processes,
            boot_ns,
        }
    }

    pub fn inspect(&self, entry: Entry<'_>) -> Inspected {
        let container = entry.container.clone();
        let facts = entry.facts.cloned().unwrap_or_default();
        let mut unknown = container.unknown.clone();
        for (field, reason) in &facts.unknown {
            unknown.entry(field).or_insert_with(|| reason.clone());
        }
        let none = Vec::new();
        let processes = self.processes.get(&container.cgroup).unwrap_or(&none);
        let init = process::init(processes);
        let main = init.or_else(|| process::oldest(processes));
        unknown.insert("network", "its network namespace was not entered".to_owned());
        if init.is_none() {
            unknown.insert("init_pid", no_init(&container, main));
        }
        let proc_cgroup = main.and_then(|main| self.files.text(&format!("/proc/{}/cgroup", main.pid)));
        let limits = self.controllers.limits(
            self.files,
            &container.cgroup,
            main.map(|main| main.cgroup.as_str()),
            proc_cgroup.as_deref(),
            &mut unknown,
        );
        let spec = self.spec(&facts, &mut unknown);
        let mut inspected = Inspected {
            init_pid: init.map(|init| init.pid),
            main_pid: main.map(|main| main.pid),
            processes: processes.len(),
            root_processes: processes.iter().filter(|process| process.uid == 0).count(),
            started: facts.started.or_else(|| self.started(main?.pid)),
            limits,
            user: User::default(),
            userns: UserNs::default(),
            capabilities: main.map(|main| main.capabilities),
            spec_capabilities: spec.as_ref().and_then(CapabilitySets::of_spec),
            all_capabilities: self.all_capabilities,
            no_new_privs: main.and_then(|main| main.no_new_privs),
            seccomp: main.and_then(|main| main.seccomp),
            privileged: None,
            network_mode: None,
            network_devices: None,
            network: None,
            rootfs_readonly: None,
            notes: facts.notes.clone(),
            container,
            facts,
            unknown,
        };
        self.standing(&mut inspected, main, spec.as_ref());
        self.network(&mut inspected, main);
        reasons(&mut inspected, main);
        inspected
    }

    /// User, user namespace, root file system, privilege: of the main process.
    fn standing(&self, inspected: &mut Inspected, main: Option<&Process>, spec: Option<&Spec>) {
        inspected.rootfs_readonly = spec.and_then(|spec| spec.root().as_ref()?.readonly());
        let Some(main) = main else { return };
        let own = process::Namespaces::of(self.files, main.pid);
        let map = self.files.text(&format!("/proc/{}/uid_map", main.pid));
        inspected.userns =
            UserNs::new(self.host.user.as_deref(), own.user.as_deref(), map.as_deref(), &inspected.container.cgroup);
        inspected.user = User { outside: Some(main.uid), inside: inspected.userns.inside(main.uid) };
        let mountinfo = self.files.text(&format!("/proc/{}/mountinfo", main.pid));
        if let Some(readonly) = mountinfo.as_deref().and_then(root_is_readonly) {
            inspected.rootfs_readonly = Some(readonly);
        }
        let seccomp = inspected.seccomp;
        inspected.privileged = (self.all_capabilities != 0 && seccomp.is_some())
            .then(|| inspected.has_every_capability() && seccomp == Some("disabled"));
    }

    fn network(&self, inspected: &mut Inspected, main: Option<&Process>) {
        let Some(main) = main else { return };
        let seen = self.modes.of(self.files, &self.host, main.pid, &inspected.container, &inspected.facts);
        inspected.network_devices = seen.devices;
        match seen.mode {
            Ok(mode) => inspected.network_mode = Some(mode),
            Err(reason) => drop(inspected.unknown.insert("network_mode", reason)),
        }
    }

    /// The bundle's `config.json`, which the names were read from and which was found to be this container's.
    fn spec(&self, facts: &Facts, unknown: &mut Unknown) -> Option<Spec> {
        let mut missing = |why: String| {
            unknown.insert("capabilities_spec", why);
            None
        };
        let Some(bundle) = &facts.bundle else {
            return missing("the bundle that it was started from was not found".to_owned());
        };
        let path = format!("{bundle}/config.json");
        match self.files.read(&path) {
            Ok(content) => match oci::parse_spec(&content.bytes) {
                Ok((spec, _)) => Some(spec),
                Err(error) => missing(format!("{path}: {error}")),
            },
            Err(error) => missing(format!("{path}: {error}")),
        }
    }

    /// When the process started.
    fn started(&self, pid: u32) -> Option<Timestamp> {
        let ticks = process::start_ticks(self.files, pid)?;
        let tick_ns = 1_000_000_000 / i64::from(procfs_ticks());
        Some(Timestamp(self.boot_ns.checked_add(i64::try_from(ticks).ok()?.checked_mul(tick_ns)?)?))
    }

    /// The container's processes.
    pub fn processes(&self, container: &Container) -> &[Process] {
        self.processes.get(&container.cgroup).map_or(&[], Vec::as_slice)
    }

    /// The hierarchy by which containers are told here.
    pub fn hierarchy(&self) -> &Hierarchy {
        self.hierarchy
    }
}

/// A reason for each that is still missing.
fn reasons(inspected: &mut Inspected, main: Option<&Process>) {
    let why = match main {
        Some(main) => format!("/proc/{} does not say it, or may not be read (run as root)", main.pid),
        None => "it has no process".to_owned(),
    };
    let Inspected { unknown, facts, container, .. } = inspected;
    let mut missing = |field: &'static str, is: bool, why: &str| {
        if is {
            unknown.entry(field).or_insert_with(|| why.to_owned());
        } else {
            unknown.remove(field);
        }
    };
    missing("user", inspected.user.outside.is_none(), &why);
    missing("userns", inspected.userns.own.is_none(), &why);
    missing("capabilities", inspected.capabilities.is_none(), &why);
    missing("no_new_privs", inspected.no_new_privs.is_none(), &why);
    missing("seccomp", inspected.seccomp.is_none(), &why);
    missing("privileged", inspected.privileged.is_none(), &why);
    missing("network_mode", inspected.network_mode.is_none(), &why);
    missing("network_devices", inspected.network_devices.is_none(), &why);
    missing("rootfs_readonly", inspected.rootfs_readonly.is_none(), &why);
    missing("started", inspected.started.is_none(), &why);
    let unit = container.runtime == Some(Runtime::Systemd);
    let no_file = if unit { "a unit has none" } else { "no file of its runtime says it" };
    missing("image", facts.image.is_none(), no_file);
    missing("stop_signal", facts.stop_signal.is_none(), no_file);
    missing("name_source", facts.name_source.is_none(), if unit { "a unit's name is its cgroup's" } else { no_file });
    missing("capabilities_spec", inspected.spec_capabilities.is_none(), "its bundle's config.json names none");
}

/// `USER_HZ`: what /proc counts time in.
fn procfs_ticks() -> i32 {
    // SAFETY: asks for a constant of the system.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    i32::try_from(ticks).ok().filter(|ticks| *ticks > 0).unwrap_or(100)
}

fn no_init(container: &Container, main: Option<&Process>) -> String {
    match main {
        None => "it has no process".to_owned(),
        Some(main) if container.runtime == Some(Runtime::Systemd) => {
            format!("a unit has no pid namespace of its own; its oldest process is {}", main.pid)
        }
        Some(main) => {
            format!(
                "none of its processes is PID 1 of a pid namespace (it shares the host's or its pod's); its oldest is {}",
                main.pid
            )
        }
    }
}

/// From the text of `/proc/PID/mountinfo`: is what is mounted at `/` (last) for reading only?
fn root_is_readonly(mountinfo: &str) -> Option<bool> {
    let mut options = mountinfo.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(4);
        (fields.next()? == "/").then(|| fields.next()).flatten()
    });
    options.next_back().map(|options| options.split(',').any(|option| option == "ro"))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
