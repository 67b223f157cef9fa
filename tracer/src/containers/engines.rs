//! Where the engines of this host keep their files: never assumed, always asked of the engines' own processes. The
//! usual places come last, for what was started by nobody that still runs.
//!
//! A process is an engine only if it is the host's: in no container's cgroup, in the host's pid namespace, run by the
//! program of that name. What a user's own engine says counts for that user's containers alone.

use super::{
    files::Files,
    hierarchy::Hierarchy,
    known::{Known, KnownContainer},
    path::classify,
    state,
};
use crate::model::Runtime;

/// Directories and processes looked at: a host has a few engines, and may have thousands of shims.
const PLACES_CAP: usize = 256;
const CONMONS_CAP: usize = 16_384;
/// Containers with free-form ids, of each directory.
const STATES_CAP: usize = 4096;
pub(super) const TASKS: &str = "io.containerd.runtime.v2.task";

/// A directory of one engine, and whose engine it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub path: String,
    /// Files in it are believed if root or this user wrote them.
    pub uid: u32,
}

/// Podman's and CRI-O's monitor of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conmon {
    pub id: String,
    pub name: Option<String>,
    pub bundle: Option<String>,
    pub uid: u32,
    pub pid: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Engines {
    /// Docker's data roots: `containers/ID/config.v2.json`.
    pub docker: Vec<Place>,
    /// containerd's tasks: `NAMESPACE/ID/config.json`, `init.pid`.
    pub tasks: Vec<Place>,
    /// `ID/state.json`.
    pub runc: Vec<Place>,
    /// `ID/status`.
    pub crun: Vec<Place>,
    /// Roots of the storage library: `*-containers/containers.json`, `*-containers/ID/userdata/config.json`.
    pub storage: Vec<Place>,
    /// `NAME/config`.
    pub lxc: Vec<Place>,
    pub conmons: Vec<Conmon>,
    #[cfg(feature = "sockets")]
    pub sockets: Vec<super::sockets::Socket>,
    pub notes: Vec<String>,
}

/// The engines that run now, and the containers with free-form ids that they know.
pub fn survey(files: &dyn Files, hierarchy: &Hierarchy) -> (Engines, Known) {
    // The usual places first: they are root's, and tell of the containers whose processes must not be believed.
    let usual = Engines::usual(files);
    let mut known = Known::default();
    usual.states(files, hierarchy, &mut known);
    let mut engines = Engines::default();
    for item in files.list("/proc").map(|listing| listing.items).unwrap_or_default() {
        if let Ok(pid) = item.name.parse::<u32>()
            && let Some(process) = process(files, hierarchy, &known, pid)
        {
            engines.hear(files, &process);
            #[cfg(feature = "sockets")]
            engines.hear_socket(files, &process);
        }
    }
    engines.merge(usual);
    engines.states(files, hierarchy, &mut known);
    (engines, known)
}

pub(super) struct Process {
    pid: u32,
    pub uid: u32,
    pub program: &'static str,
    args: Vec<String>,
    cwd: Option<String>,
}

/// The process, if it is an engine of the host.
fn process(files: &dyn Files, hierarchy: &Hierarchy, known: &Known, pid: u32) -> Option<Process> {
    const PROGRAMS: [&str; 9] = [
        "dockerd",
        "containerd",
        "containerd-shim-runc-v2",
        "containerd-shim-runc-v1",
        "containerd-shim",
        "conmon",
        "lxc-start",
        "runc",
        "crun",
    ];
    let of = |name: &str| format!("/proc/{pid}/{name}");
    let exe = files.link(&of("exe")).ok()?;
    let exe = exe.strip_suffix(" (deleted)").unwrap_or(&exe); // upgraded while it runs
    let text =
        |name: &str| files.read(&of(name)).ok().map(|content| String::from_utf8_lossy(&content.bytes).into_owned());
    // runc and crun run from a copy of themselves that no container can reach: in a memfd, or in a mount of its own,
    // whose root is the program.
    let copied = exe == "/" || exe.starts_with("/memfd:");
    let cmdline = if copied { text("cmdline")? } else { String::new() };
    let name = (if copied { cmdline.split('\0').next()? } else { exe }).rsplit('/').next()?;
    let program = PROGRAMS.into_iter().find(|program| name == *program)?;
    if copied && !["runc", "crun"].contains(&program) {
        return None;
    }
    let status = text("status")?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    if field("NSpid").is_some_and(|pids| pids.split_whitespace().count() != 1) {
        return None; // of a pid namespace below
    }
    let inside = classify(hierarchy.path_of(&text("cgroup")?)?, known);
    if inside.is_some_and(|class| class.inner.runtime != Some(Runtime::Systemd)) {
        return None;
    }
    Some(Process {
        pid,
        uid: field("Uid")?.split_whitespace().nth(1)?.parse().ok()?,
        program,
        args: text("cmdline")?.split_terminator('\0').map(str::to_owned).collect(),
        cwd: files.link(&of("cwd")).ok(),
    })
}

impl Process {
    /// The value of an option; the last one counts.
    fn option(&self, names: &[&str]) -> Option<&str> {
        self.options(names).pop()
    }

    /// An option's values, in the forms `--name value` and `--name=value`.
    pub fn options(&self, names: &[&str]) -> Vec<&str> {
        let args = self.args.iter().enumerate().skip(1);
        let values = args.filter_map(|(index, arg)| match arg.split_once('=') {
            Some((name, value)) if names.contains(&name) => Some(value),
            None if names.contains(&arg.as_str()) => self.args.get(index + 1).map(String::as_str),
            _ => None,
        });
        values.collect()
    }

    /// conmon's `--runtime-arg --root --runtime-arg=/run/x`, and `--runtime-arg --root=/run/x`.
    fn runtime_root(&self) -> Option<String> {
        let mut passed = Vec::new();
        for (index, arg) in self.args.iter().enumerate() {
            match arg.strip_prefix("--runtime-arg") {
                Some("") => passed.extend(self.args.get(index + 1).map(String::as_str)),
                Some(value) => passed.extend(value.strip_prefix('=')),
                None => {}
            }
        }
        let at = passed.iter().position(|arg| arg.split('=').next() == Some("--root"))?;
        let value = passed[at].split_once('=').map(|(_, value)| value).or_else(|| passed.get(at + 1).copied())?;
        self.absolute(value)
    }

    /// A path of its command line, which may be relative to where it was started.
    pub fn path(&self, names: &[&str]) -> Option<String> {
        self.option(names).and_then(|path| self.absolute(path))
    }

    fn absolute(&self, path: &str) -> Option<String> {
        if path.starts_with('/') {
            return Some(path.trim_end_matches('/').to_owned());
        }
        self.cwd.as_ref().map(|cwd| format!("{}/{path}", cwd.trim_end_matches('/')))
    }
}

impl Engines {
    fn usual(files: &dyn Files) -> Self {
        let places = |paths: &[&str]| paths.iter().map(|path| Place { path: (*path).to_owned(), uid: 0 }).collect();
        let mut engines = Self {
            docker: places(&["/var/lib/docker"]),
            tasks: places(&[
                &format!("/run/containerd/{TASKS}"),
                &format!("/run/docker/containerd/daemon/{TASKS}"),
                &format!("/run/k3s/containerd/{TASKS}"),
            ]),
            runc: places(&["/run/runc", "/run/docker/runtime-runc/moby"]),
            crun: places(&["/run/crun"]),
            storage: places(&["/var/lib/containers/storage"]),
            lxc: places(&["/var/lib/lxc"]),
            ..Self::default()
        };
        // The shim gives runc one root for each of containerd's namespaces.
        for namespace in files.list("/run/containerd/runc").map(|listing| listing.items).unwrap_or_default() {
            add(&mut engines.runc, format!("/run/containerd/runc/{}", namespace.name), 0);
        }
        engines
    }

    /// Takes in what one process says.
    fn hear(&mut self, files: &dyn Files, process: &Process) {
        let uid = process.uid;
        match process.program {
            "dockerd" => self.dockerd(files, process),
            "containerd" => {
                let config =
                    process.path(&["--config", "-c"]).unwrap_or_else(|| "/etc/containerd/config.toml".to_owned());
                let text = files
                    .read_trusted(&config, uid)
                    .map(|content| String::from_utf8_lossy(&content.bytes).into_owned());
                let stated = text.ok().and_then(|text| toml_string(&text, "state"));
                let state = process.path(&["--state"]).or_else(|| process.absolute(&stated?));
                add(&mut self.tasks, format!("{}/{TASKS}", state.as_deref().unwrap_or("/run/containerd")), uid);
            }
            "conmon" => self.conmon(process),
            // In the foreground it lives as long as its container.
            "runc" | "crun" => {
                if let Some(root) = process.path(&["--root"]) {
                    add(if process.program == "runc" { &mut self.runc } else { &mut self.crun }, root, uid);
                }
            }
            "lxc-start" => {
                // In the background it calls itself `[lxc monitor] LXCPATH NAME`.
                let monitor = process.args.first().and_then(|title| title.strip_prefix("[lxc monitor] "));
                let told = monitor.and_then(|rest| rest.rsplit_once(' ')).map(|(path, _)| path.to_owned());
                if let Some(path) = told.or_else(|| process.path(&["-P", "--lxcpath"])) {
                    add(&mut self.lxc, path, uid);
                }
            }
            // A shim works in its container's bundle: TASKS/NAMESPACE/ID.
            _ => {
                let bundle = process.cwd.as_deref().unwrap_or_default();
                if let Some((tasks, _)) = bundle.rsplit_once('/').and_then(|(namespace, _)| namespace.rsplit_once('/'))
                    && tasks.ends_with(TASKS)
                {
                    add(&mut self.tasks, tasks.to_owned(), uid);
                }
            }
        }
    }

    fn dockerd(&mut self, files: &dyn Files, process: &Process) {
        let config = process.path(&["--config-file"]).unwrap_or_else(|| "/etc/docker/daemon.json".to_owned());
        let config = files.read_trusted(&config, process.uid).ok();
        let config: serde_json::Value =
            config.and_then(|content| serde_json::from_slice(&content.bytes).ok()).unwrap_or_default();
        let stated = |names: &[&str]| {
            names.iter().find_map(|name| config.get(name)?.as_str()).and_then(|path| process.absolute(path))
        };
        let data = process.path(&["--data-root", "-g", "--graph"]).or_else(|| stated(&["data-root", "graph"]));
        let exec = process.path(&["--exec-root"]).or_else(|| stated(&["exec-root"]));
        // What it does not say is root's usual place, which is looked at anyway, or a user's, which the shims tell.
        if let Some(data) = data {
            add(&mut self.docker, data, process.uid);
        }
        if let Some(exec) = exec {
            add(&mut self.tasks, format!("{exec}/containerd/daemon/{TASKS}"), process.uid);
            add(&mut self.runc, format!("{exec}/runtime-runc/moby"), process.uid);
        }
    }

    fn conmon(&mut self, process: &Process) {
        let Some(id) = process.option(&["-c", "--cid"]) else { return };
        let bundle = process.path(&["-b", "--bundle"]);
        // ROOT/DRIVER-containers/ID/userdata
        if let Some(root) = bundle.as_deref().and_then(|bundle| {
            let (containers, _) = bundle.strip_suffix("/userdata")?.rsplit_once('/')?;
            let (root, driver) = containers.rsplit_once('/')?;
            driver.ends_with("-containers").then_some(root)
        }) {
            add(&mut self.storage, root.to_owned(), process.uid);
        }
        let runtime = process.option(&["-r", "--runtime"]).and_then(|path| path.rsplit('/').next());
        let root = process.runtime_root();
        let usual = |name: &str| {
            if process.uid == 0 { format!("/run/{name}") } else { format!("/run/user/{}/{name}", process.uid) }
        };
        match runtime {
            Some("runc") => add(&mut self.runc, root.unwrap_or_else(|| usual("runc")), process.uid),
            Some("crun") => add(&mut self.crun, root.unwrap_or_else(|| usual("crun")), process.uid),
            _ => {}
        }
        if self.conmons.len() < CONMONS_CAP {
            let name = process.option(&["-n", "--name"]).map(super::facts::bounded);
            self.conmons.push(Conmon { id: id.to_owned(), name, bundle, uid: process.uid, pid: process.pid });
        }
    }

    fn merge(&mut self, other: Self) {
        for (own, others) in [
            (&mut self.docker, other.docker),
            (&mut self.tasks, other.tasks),
            (&mut self.runc, other.runc),
            (&mut self.crun, other.crun),
            (&mut self.storage, other.storage),
            (&mut self.lxc, other.lxc),
        ] {
            for place in others {
                add(own, place.path, place.uid);
            }
        }
    }

    /// Containers that only their runtime's record makes known: those whose ids are free text.
    fn states(&self, files: &dyn Files, hierarchy: &Hierarchy, known: &mut Known) {
        for (places, runtime, file) in
            [(&self.runc, Runtime::Runc, "state.json"), (&self.crun, Runtime::Crun, "status")]
        {
            for place in places {
                for id in free_ids(files, &place.path) {
                    let source = format!("{}/{id}/{file}", place.path);
                    let Ok(content) = files.read_trusted(&source, place.uid) else { continue };
                    let record = match runtime {
                        Runtime::Runc => state::runc(&content.bytes, hierarchy),
                        _ => state::crun(&content.bytes),
                    };
                    if let Some(cgroup) = record.ok().and_then(|record| record.cgroup)
                        && of_user(&cgroup, place.uid)
                    {
                        known.learn(KnownContainer { id, runtime: Some(runtime), cgroup, source });
                    }
                }
            }
        }
        // After runc: whose container it is says more than who runs it.
        for place in &self.tasks {
            for namespace in files.list(&place.path).map(|listing| listing.items).unwrap_or_default() {
                let directory = format!("{}/{}", place.path, namespace.name);
                for id in free_ids(files, &directory) {
                    if let Some(container) = task(files, hierarchy, &directory, id, place.uid) {
                        known.learn(container);
                    }
                }
            }
        }
    }
}

/// A task of containerd: its first process says where it is, for on v1 that is below containerd's own cgroup.
fn task(files: &dyn Files, hierarchy: &Hierarchy, directory: &str, id: String, uid: u32) -> Option<KnownContainer> {
    let source = format!("{directory}/{id}/config.json");
    let (spec, _) = super::oci::parse_spec(&files.read_trusted(&source, uid).ok()?.bytes).ok()?;
    let asked = super::oci::cgroups_path(&spec).unwrap_or_else(|| format!("/{id}"));
    let pid = files.read_trusted(&format!("{directory}/{id}/init.pid"), uid).ok();
    let pid: Option<u32> = pid.and_then(|content| String::from_utf8_lossy(&content.bytes).trim().parse().ok());
    let actual = pid.and_then(|pid| files.read(&format!("/proc/{pid}/cgroup")).ok()).and_then(|content| {
        let text = String::from_utf8_lossy(&content.bytes).into_owned();
        super::names::own_cgroup(hierarchy.path_of(&text)?, &asked, &id)
    });
    let cgroup = actual.or_else(|| asked.starts_with('/').then_some(asked))?;
    of_user(&cgroup, uid).then_some(KnownContainer { id, runtime: Some(Runtime::Containerd), cgroup, source })
}

/// Entries of a directory that a person may have named; ids that runtimes make up are told by the path.
fn free_ids(files: &dyn Files, directory: &str) -> Vec<String> {
    let items = files.list(directory).map(|listing| listing.items).unwrap_or_default();
    items.into_iter().map(|item| item.name).filter(|name| !super::is_generated(name)).take(STATES_CAP).collect()
}

/// A user's own engine speaks for that user's part of the tree alone.
pub fn of_user(cgroup: &str, uid: u32) -> bool {
    uid == 0 || cgroup.starts_with(&format!("/user.slice/user-{uid}.slice/"))
}

fn add(places: &mut Vec<Place>, path: String, uid: u32) {
    let place = Place { path, uid };
    if place.path.starts_with('/') && !places.contains(&place) && places.len() < PLACES_CAP {
        places.push(place);
    }
}

/// A top-level `key = "value"` of a TOML file: all that is wanted of containerd's.
pub(super) fn toml_string(text: &str, key: &str) -> Option<String> {
    let top = text.lines().map(str::trim).take_while(|line| !line.starts_with('['));
    top.filter_map(|line| line.split_once('=')).find(|(name, _)| name.trim() == key).and_then(|(_, value)| {
        let value = value.trim();
        let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
        value[1..].split(quote).next().filter(|value| !value.is_empty()).map(str::to_owned)
    })
}

#[cfg(test)]
#[path = "engines_tests.rs"]
mod tests;
