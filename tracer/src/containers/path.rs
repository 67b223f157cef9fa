//! From a cgroup path to the container that it is: pure.
//!
//! A path is walked from the root down. Each name may be a container in some runtime's form, the cgroup of a pod, a
//! systemd unit, or nothing in particular. The last container on the way is *the* container and owns all below it
//! (`init.scope`, libpod's `container`, the units of a systemd inside it); those before it are its ancestors.
//! What single names mean is in [`super::forms`].

use std::borrow::Cow;

use super::{
    forms::{beside, form, is_hex, is_unit, pod, pod_member},
    known::Known,
};
use crate::model::Runtime;

/// The kernel gives no longer path; what is longer comes from somewhere else, and is cut.
const PATH_CAP: usize = 4096;
/// More containers than that in each other are an attack on a list, not a set-up.
const NESTING_CAP: usize = 16;

/// One container on a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    pub id: String,
    /// `None` where the form is shared by several runtimes: a bare id below a pod or a custom cgroup parent.
    pub runtime: Option<Runtime>,
    /// The path up to and with the container's own cgroup.
    pub cgroup: String,
    pub pod: Option<PodKey>,
    /// Started by a kubelet, as far as the path tells.
    pub kubernetes: bool,
}

/// A pod as the path names it: never a person's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PodKey {
    /// The API object's uid, or for a static pod the hash of its manifest.
    Kubernetes(String),
    /// Podman's pod id, 64 hex digits.
    Podman(String),
}

/// The innermost container of a path, and those around it, innermost first. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classified {
    pub inner: Match,
    pub outer: Vec<Match>,
}

/// What a cgroup is in the tree: for saying whose limit it was that was hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Level {
    Root,
    /// Groups others: a slice, the kubelet's quality-of-service class, a runtime's parent directory.
    Slice,
    Pod(PodKey),
    /// A container's own cgroup.
    Container,
    /// Inside a container.
    Below,
    /// A systemd unit of the host.
    Unit,
}

/// Which container a cgroup belongs to; `None` is the host. A systemd unit of the host counts as one, with
/// [`Runtime::Systemd`] and its unit's name as id; one inside a container does not.
pub fn classify(path: &str, known: &Known) -> Option<Classified> {
    let path = normal(path);
    let mut walk = Walk::over(&path, known);
    match walk.hits.pop() {
        Some(inner) => {
            walk.hits.reverse();
            Some(Classified { inner, outer: walk.hits })
        }
        None => walk.unit.map(|inner| Classified { inner, outer: Vec::new() }),
    }
}

pub fn level(path: &str, known: &Known) -> Level {
    let path = normal(path);
    let walk = Walk::over(&path, known);
    let own = path.trim_end_matches('/');
    match (walk.hits.last(), walk.unit, walk.pod_here) {
        (Some(hit), ..) if hit.cgroup == own => Level::Container,
        (.., Some(pod)) => Level::Pod(pod),
        (Some(_), ..) => Level::Below,
        (None, Some(unit), _) if unit.cgroup == own => Level::Unit,
        _ if own.is_empty() => Level::Root,
        _ => Level::Slice,
    }
}

/// Is `path` the cgroup `of`, or below it?
pub fn is_within(path: &str, of: &str) -> bool {
    path.strip_prefix(of.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn normal(path: &str) -> Cow<'_, str> {
    let cut = path.floor_char_boundary(PATH_CAP);
    let path = &path[..cut];
    if path.starts_with('/') { Cow::Borrowed(path) } else { Cow::Owned(format!("/{path}")) }
}

/// State of the walk: what was met so far, and what the names to come mean because of it.
#[derive(Default)]
struct Walk {
    hits: Vec<Match>,
    unit: Option<Match>,
    pod: Option<PodKey>,
    /// The last name walked was the pod's own cgroup: what stands below it is a container, whatever its name.
    pod_here: Option<PodKey>,
    /// A kubelet's root was passed since the last container.
    kubepods: bool,
}

impl Walk {
    fn over(path: &str, known: &Known) -> Self {
        let mut walk = Self::default();
        let mut parents = ["", ""];
        let mut end = 0;
        for name in path.split('/') {
            end += name.len();
            if !name.is_empty() {
                walk.step(name, parents, &path[..end], known);
                parents = [name, parents[0]];
            }
            end += 1;
        }
        walk
    }

    fn step(&mut self, name: &str, parents: [&str; 2], path: &str, known: &Known) {
        // Podman puts its own monitor there too; a kubelet nothing but containers.
        let below_pod = matches!(self.pod_here.take(), Some(PodKey::Kubernetes(_)));
        if let Some(pod) = pod(name, parents[0], self.kubepods) {
            self.kubepods |= matches!(pod, PodKey::Kubernetes(_));
            self.pod = Some(pod.clone());
            self.pod_here = Some(pod);
            return;
        }
        if name.contains("kubepods") && !name.contains(':') {
            self.kubepods = true;
        }
        if beside(name) {
            return;
        }
        let form = form(name, parents).or_else(|| below_pod.then(|| pod_member(name)).flatten());
        let stated = known.at(path);
        let (id, runtime, kubernetes) = match (form, stated) {
            (Some(form), stated) => {
                if let Some(pod) = form.pod {
                    self.pod = Some(PodKey::Kubernetes(pod));
                }
                (form.id, form.runtime.or(stated.and_then(|known| known.runtime)), form.kubernetes)
            }
            (None, Some(stated)) => (stated.id.clone(), stated.runtime, false),
            (None, None) => {
                if self.hits.is_empty() && is_unit(name) {
                    self.unit = Some(Match {
                        id: name.to_owned(),
                        runtime: Some(Runtime::Systemd),
                        cgroup: path.to_owned(),
                        pod: None,
                        kubernetes: false,
                    });
                }
                return;
            }
        };
        self.hit(id, runtime, kubernetes, path);
    }

    fn hit(&mut self, id: String, runtime: Option<Runtime>, kubernetes: bool, path: &str) {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        // Podman's cgroupfs driver puts a pod at PARENT/POD-ID: a bare id, like a container's, until libpod's own
        // name stands below it.
        if runtime == Some(Runtime::Podman)
            && self
                .hits
                .last()
                .is_some_and(|last| last.runtime.is_none() && last.cgroup == parent && is_hex(&last.id, 64))
            && let Some(pod) = self.hits.pop()
        {
            self.pod = Some(PodKey::Podman(pod.id));
        }
        // A container's id again below itself is the same container, not one inside it.
        if self.hits.last().is_some_and(|last| last.id == id) || self.hits.len() >= NESTING_CAP {
            return;
        }
        let kubernetes = kubernetes || matches!(self.pod, Some(PodKey::Kubernetes(_)));
        self.hits.push(Match { id, runtime, cgroup: path.to_owned(), pod: self.pod.take(), kubernetes });
        self.kubepods = false;
    }
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
