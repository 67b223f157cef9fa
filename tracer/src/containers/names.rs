//! The name of a container, from the files that its runtime left: no socket, no daemon asked.
//!
//! Files are looked for by the container's id, and believed only if they speak of its very cgroup: anybody may name a
//! cgroup like another container's id.

use super::{
    engines::{Conmon, Engines, Place, of_user},
    facts::{Facts, bounded},
    files::{Files, Refused},
    forms::is_slice,
    hierarchy::Hierarchy,
    known::Known,
    oci,
    path::classify,
    state,
};
use crate::model::{Container, Runtime};

/// Reads what the files of its runtime say of a container. Never fails: what is missing is said in `unknown`, what is
/// odd in `notes`.
pub fn read(files: &dyn Files, engines: &Engines, hierarchy: &Hierarchy, container: &Container) -> Facts {
    let mut facts = Facts::default();
    if !usable_as_name(&container.id) {
        facts.unknown.insert("name", "its id cannot be the name of a file".to_owned());
        return facts;
    }
    let mut search = Search { files, engines, hierarchy, container, facts, disbelieved: false };
    search.run();
    let Search { mut facts, disbelieved, .. } = search;
    if facts.name.is_none() {
        // A free-form id is the name; whoever made the cgroup gave it.
        match &container.name {
            Some(name) => {
                let file = facts.bundle.as_ref().map(|bundle| format!("{bundle}/config.json"));
                facts.name = Some(name.clone());
                facts.name_source = Some(file.unwrap_or_else(|| format!("cgroup {}", container.cgroup)));
            }
            None => drop(facts.unknown.insert("name", reason(container, disbelieved, &facts))),
        }
    }
    for (field, missing) in [
        ("image", facts.image.is_none()),
        ("stop_signal", facts.stop_signal.is_none()),
        ("started", facts.started.is_none()),
    ] {
        if missing {
            facts.unknown.insert(field, "no file of its runtime says it".to_owned());
        }
    }
    for (field, missing) in [("pod", facts.pod.is_none()), ("namespace", facts.namespace.is_none())] {
        if let Some(known) = container.unknown.get(field).filter(|_| missing) {
            let known = if field == "pod" { format!("{known}; ") } else { String::new() };
            facts.unknown.insert(field, format!("{known}no file of its runtime says it"));
        }
    }
    facts
}

fn reason(container: &Container, disbelieved: bool, facts: &Facts) -> String {
    match container.ancestors.first() {
        _ if disbelieved => "the files of that id speak of another cgroup".to_owned(),
        Some(outer) => format!(
            "it runs inside container {}, and only files of this host's own runtimes are read",
            outer.name.as_deref().unwrap_or(&outer.id)
        ),
        None if facts.name_source.is_none() && facts.bundle.is_some() => {
            "its bundle carries no name; containerd keeps it in its database".to_owned()
        }
        None => "no runtime's file on this host tells of it".to_owned(),
    }
}

struct Search<'a> {
    files: &'a dyn Files,
    engines: &'a Engines,
    hierarchy: &'a Hierarchy,
    container: &'a Container,
    facts: Facts,
    /// A file of this id was about another cgroup.
    disbelieved: bool,
}

impl Search<'_> {
    fn run(&mut self) {
        let (engines, id) = (self.engines, self.container.id.as_str());
        // The record of the low-level runtime: the only one that states the cgroup itself, and it knows the bundle.
        let record = self.record();
        let conmon =
            engines.conmons.iter().find(|conmon| conmon.id == id && of_user(&self.container.cgroup, conmon.uid));
        let confirmed = record.is_some();
        let mut bundles: Vec<(String, u32)> = Vec::new();
        bundles.extend(record);
        if let Some(Conmon { bundle: Some(bundle), uid, .. }) = conmon {
            bundles.push((bundle.clone(), *uid));
        }
        for place in &engines.tasks {
            for namespace in self.names_in(&place.path) {
                bundles.push((format!("{}/{namespace}/{id}", place.path), place.uid));
            }
        }
        for (directory, uid) in self.storages() {
            bundles.push((format!("{directory}/{id}/userdata"), uid));
        }
        let bundled = bundles.iter().any(|(bundle, uid)| self.bundle(bundle, *uid, confirmed));
        // Without a bundle's word for the cgroup, the path's own must do: a form that the engine itself gives.
        let plain = self.container.ancestors.is_empty() && !self.disbelieved;
        if bundled || confirmed || plain {
            if matches!(self.container.runtime, None | Some(Runtime::Docker)) && self.facts.image.is_none() {
                for Place { path, uid } in &engines.docker {
                    self.docker(&format!("{path}/containers/{id}"), *uid);
                }
            }
            if matches!(self.container.runtime, Some(Runtime::Podman | Runtime::CriO)) {
                self.storage_lists();
                self.podman_pod();
                if let Some(Conmon { name: Some(name), pid, .. }) = conmon
                    && self.facts.name.is_none()
                {
                    self.facts.name = Some(bounded(name));
                    self.facts.name_source = Some(format!("/proc/{pid}/cmdline"));
                }
            }
            if self.container.runtime == Some(Runtime::Lxc) {
                self.lxc();
            }
        }
    }

    fn record(&mut self) -> Option<(String, u32)> {
        let (engines, id) = (self.engines, &self.container.id);
        let runc = engines.runc.iter().map(|place| (place, "state.json"));
        let crun = engines.crun.iter().map(|place| (place, "status"));
        for (Place { path, uid }, file) in runc.chain(crun) {
            let source = format!("{path}/{id}/{file}");
            let Some(bytes) = self.fetch(&source, *uid) else { continue };
            let record = if file == "status" { state::crun(&bytes) } else { state::runc(&bytes, self.hierarchy) };
            match record {
                Ok(record)
                    if record.cgroup.as_ref() == Some(&self.container.cgroup)
                        && of_user(&self.container.cgroup, *uid) =>
                {
                    self.facts.started = self.facts.started.or(record.started);
                    return Some((record.bundle?, *uid));
                }
                Ok(record) => self.disbelieve(&source, record.cgroup.as_deref()),
                Err(error) => self.facts.notes.push(format!("{source}: {error}")),
            }
        }
        None
    }

    /// Reads a bundle; whether it is this container's.
    fn bundle(&mut self, bundle: &str, uid: u32, confirmed: bool) -> bool {
        let source = format!("{bundle}/config.json");
        let Some(bytes) = self.fetch(&source, uid) else { return false };
        let (spec, left_out) = match oci::parse_spec(&bytes) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.facts.notes.push(format!("{source}: {error}"));
                return false;
            }
        };
        let asked = oci::cgroups_path(&spec);
        let ours = confirmed || (of_user(&self.container.cgroup, uid) && states(asked.as_deref(), self.container));
        if !ours {
            self.disbelieve(&source, asked.as_deref());
            return false;
        }
        if !left_out.is_empty() {
            self.facts.notes.push(format!("{source}: not understood: {}", bounded(&left_out.join(", "))));
        }
        self.facts.bundle = Some(bundle.to_owned());
        self.facts.runtime = self.facts.runtime.or_else(|| self.engine_of(bundle));
        if let Some(annotations) = spec.annotations() {
            oci::annotate(&mut self.facts, annotations);
            if self.facts.name.is_some() {
                self.facts.name_source = Some(source);
            }
        }
        // Docker's own files, wherever its data root is.
        if matches!(self.container.runtime, None | Some(Runtime::Docker))
            && let Some(directory) = oci::engine_directory(&spec)
        {
            self.docker(&directory, uid);
        }
        true
    }

    /// Whose bundle it is, by where it is: the low-level runtime's record leads there as well.
    fn engine_of(&self, bundle: &str) -> Option<Runtime> {
        let below = |place: &Place| bundle.strip_prefix(&place.path)?.strip_prefix('/')?.split_once('/');
        let (namespace, _) = self.engines.tasks.iter().find_map(below)?;
        Some(if namespace == "moby" { Runtime::Docker } else { Runtime::Containerd })
    }

    fn docker(&mut self, directory: &str, uid: u32) {
        let source = format!("{directory}/config.v2.json");
        let Some(bytes) = self.fetch(&source, uid) else { return };
        match state::docker(&bytes, &self.container.id) {
            Ok(facts) => self.take(facts, source),
            Err(error) => self.facts.notes.push(format!("{source}: {error}")),
        }
    }

    fn storage_lists(&mut self) {
        for (directory, uid) in self.storages() {
            // Containers that are removed when they end are in the second.
            for file in ["containers.json", "volatile-containers.json"] {
                let source = format!("{directory}/{file}");
                let Some(bytes) = self.fetch(&source, uid) else { continue };
                match state::storage(&bytes, &self.container.id) {
                    Ok(Some(facts)) => return self.take(facts, source),
                    Ok(None) => {}
                    Err(error) => self.facts.notes.push(format!("{source}: {error}")),
                }
            }
        }
    }

    fn podman_pod(&mut self) {
        let Some(id) = self.facts.labels.get("io.kubernetes.cri-o.SandboxID").cloned() else { return };
        if self.facts.pod.is_some() || self.facts.runtime != Some(Runtime::Podman) {
            return;
        }
        for Place { path, uid } in &self.engines.storage {
            for file in ["db.sql", "libpod/bolt_state.db"] {
                let database = self.fetch(&format!("{path}/{file}"), *uid);
                if let Some(name) = database.and_then(|bytes| state::podman_pod(&bytes, &id)) {
                    self.facts.pod = Some(bounded(&name));
                    return;
                }
            }
        }
        self.facts.unknown.insert("pod", format!("only its id was found: {}", bounded(&id)));
    }

    fn lxc(&mut self) {
        for Place { path, uid } in &self.engines.lxc {
            let source = format!("{path}/{}/config", self.container.id);
            if let Some(bytes) = self.fetch(&source, *uid) {
                return self.take(state::lxc(&bytes), source);
            }
        }
    }

    /// What another file says, where none before it did.
    fn take(&mut self, other: Facts, source: String) {
        let own = &mut self.facts;
        if own.name.is_none() && other.name.is_some() {
            own.name = other.name;
            own.name_source = Some(source);
        }
        own.runtime = own.runtime.or(other.runtime);
        own.image = own.image.take().or(other.image);
        own.pod = own.pod.take().or(other.pod);
        own.namespace = own.namespace.take().or(other.namespace);
        own.stop_signal = own.stop_signal.take().or(other.stop_signal);
        own.started = other.started.or(own.started);
        own.sandbox |= other.sandbox;
        own.labels.extend(other.labels);
        own.notes.extend(other.notes);
    }

    fn disbelieve(&mut self, source: &str, stated: Option<&str>) {
        self.disbelieved = true;
        let stated = stated.map_or("no cgroup".to_owned(), |path| format!("cgroup {}", bounded(path)));
        self.facts.notes.push(format!("not believed: {source} speaks of {stated}, not of {}", self.container.cgroup));
    }

    /// A file's bytes; nothing where there is none, and a note where it cannot be used.
    fn fetch(&mut self, path: &str, uid: u32) -> Option<Vec<u8>> {
        match self.files.read_trusted(path, uid) {
            Ok(content) => Some(content.bytes),
            Err(Refused::Missing) => None,
            Err(error) => {
                self.facts.notes.push(format!("{path}: {error}"));
                None
            }
        }
    }

    fn names_in(&self, directory: &str) -> Vec<String> {
        let items = self.files.list(directory).map(|listing| listing.items).unwrap_or_default();
        items.into_iter().map(|item| item.name).take(64).collect()
    }

    /// `ROOT/DRIVER-containers` of each storage root: overlay, vfs, btrfs.
    fn storages(&self) -> Vec<(String, u32)> {
        if !matches!(self.container.runtime, Some(Runtime::Podman | Runtime::CriO)) {
            return Vec::new();
        }
        let drivers = |place: &Place| {
            let named = self.names_in(&place.path).into_iter().filter(|name| name.ends_with("-containers"));
            named.map(|name| (format!("{}/{name}", place.path), place.uid)).collect::<Vec<_>>()
        };
        self.engines
            .storage
            .iter()
            .filter(|place| of_user(&self.container.cgroup, place.uid))
            .flat_map(drivers)
            .collect()
    }
}

/// An id becomes part of file names here.
fn usable_as_name(id: &str) -> bool {
    !id.is_empty() && id.len() <= 255 && id != "." && id != ".." && !id.contains(['/', '\0'])
}

/// Does a bundle that asks for this cgroup speak of this container?
fn states(asked: Option<&str>, container: &Container) -> bool {
    let Some(asked) = asked else {
        // runc's default: the id below the caller's own cgroup.
        return container.ancestors.is_empty() && container.cgroup.rsplit('/').next() == Some(container.id.as_str());
    };
    own_cgroup(&container.cgroup, asked, &container.id).as_deref() == Some(container.cgroup.as_str())
}

/// The part of a process's cgroup path that is the container's own, if the bundle asked for `asked`: the same path, or
/// on v1 that path below the engine's own cgroup, but never below another container; for the systemd driver
/// `SLICE:PREFIX:ID`, the scope in that slice.
pub(super) fn own_cgroup(path: &str, asked: &str, id: &str) -> Option<String> {
    let mut parts = asked.splitn(3, ':');
    let tail = match (parts.next(), parts.next(), parts.next()) {
        (Some(slice), Some(prefix), Some(name)) if !asked.starts_with('/') => {
            let unit = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}-{name}") };
            let unit = if is_slice(&unit) { unit } else { format!("{unit}.scope") };
            let in_slice =
                if slice.is_empty() || slice == "-.slice" { format!("/{unit}") } else { format!("/{slice}/{unit}") };
            // The cgroupfs driver takes the same words for a directory's name.
            if component_end(path, &in_slice).is_some() { in_slice } else { format!("/{asked}") }
        }
        _ if asked.trim_matches('/').is_empty() => format!("/{id}"),
        _ => format!("/{}", asked.trim_matches('/')),
    };
    let end = component_end(path, &tail)?;
    let above = &path[..end - tail.len()];
    let inside = classify(above, &Known::default()).is_some_and(|class| class.inner.runtime != Some(Runtime::Systemd));
    (!inside).then(|| path[..end].to_owned())
}

/// Where `tail` ends in `path`, as whole names; the last place.
fn component_end(path: &str, tail: &str) -> Option<usize> {
    path.rmatch_indices(tail)
        .map(|(start, tail)| start + tail.len())
        .find(|&end| end == path.len() || path[end..].starts_with('/'))
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
