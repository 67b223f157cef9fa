use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    forms,
    path::{Classified, Match, PodKey},
};
use crate::model::{Container, ContainerRef, Runtime, Timestamp, Unknown, recorded};

/// Reason beside a null name until the files were read.
const NOT_READ: &str = "its runtime's files were not read yet";

/// What a runtime's files say of one container, bounded and raw (views escape). What they don't say is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// What a person called it.
    pub name: Option<String>,
    pub runtime: Option<Runtime>,
    pub image: Option<String>,
    /// Kubernetes or Podman pod.
    pub pod: Option<String>,
    /// Kubernetes namespace; for other containers of containerd, none.
    pub namespace: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// As the runtime will send it at a stop: `SIGTERM`, `SIGRTMIN+3`.
    pub stop_signal: Option<String>,
    pub started: Option<Timestamp>,
    /// The pause container of a pod, which holds its namespaces.
    pub sandbox: bool,
    /// Directory of the OCI bundle, whose `config.json` is what the container was started with.
    pub bundle: Option<String>,
    /// The file that the name was read from.
    pub name_source: Option<String>,
    /// Why something above is `None`.
    #[serde(deserialize_with = "recorded::unknown")]
    pub unknown: Unknown,
    /// Doubts, and files that could not be used: for a person, one sentence each.
    pub notes: Vec<String>,
}

/// Names and values of a person are shorter; what is longer is cut.
const TEXT_CAP: usize = 4096;
const LABELS_CAP: usize = 128;

/// A text of a file, cut to what is kept.
pub(super) fn bounded(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_CAP)].to_owned()
}

impl Facts {
    pub(super) fn label<'a>(&mut self, labels: impl Iterator<Item = (&'a str, &'a str)>) {
        for (key, value) in labels {
            if self.labels.len() == LABELS_CAP {
                self.notes.push(format!("only {LABELS_CAP} of its labels were kept"));
                return;
            }
            self.labels.insert(bounded(key), bounded(value));
        }
    }

    /// The container with what these facts add. A name that the container has already by its path is kept only where
    /// the facts have none.
    pub(super) fn dress(&self, container: &Container) -> Container {
        let mut dressed = container.clone();
        let known = |field: &'static str, unknown: &mut Unknown| {
            unknown.remove(field);
        };
        if self.name.is_some() {
            dressed.name.clone_from(&self.name);
            known("name", &mut dressed.unknown);
        }
        // runc and crun are what other engines run their containers with.
        let low = matches!(dressed.runtime, None | Some(Runtime::Runc | Runtime::Crun));
        if low && self.runtime.is_some() {
            dressed.runtime = self.runtime;
            known("runtime", &mut dressed.unknown);
        }
        if self.pod.is_some() {
            dressed.pod.clone_from(&self.pod);
            known("pod", &mut dressed.unknown);
        }
        if self.namespace.is_some() {
            dressed.namespace.clone_from(&self.namespace);
            known("namespace", &mut dressed.unknown);
        }
        for (field, reason) in &self.unknown {
            let null = match *field {
                "name" => dressed.name.is_none(),
                "runtime" => dressed.runtime.is_none(),
                "pod" => dressed.pod.is_none(),
                "namespace" => dressed.namespace.is_none(),
                _ => false, // of the facts, not of the container
            };
            if null {
                dressed.unknown.insert(field, reason.clone());
            }
        }
        dressed
    }
}

/// The container as its path alone tells it. `known` gives what is known of those around it, by cgroup path.
pub(super) fn undressed(classified: &Classified, known: impl Fn(&str) -> Option<ContainerRef>) -> Container {
    let Match { id, runtime, cgroup, pod, .. } = &classified.inner;
    let mut unknown = Unknown::new();
    // Where ids are free text, the id is what a person called it.
    let name = (!forms::is_generated(id)).then(|| id.clone());
    if name.is_none() {
        unknown.insert("name", NOT_READ.to_owned());
    }
    if runtime.is_none() {
        unknown.insert("runtime", "several runtimes use a path of this form".to_owned());
    }
    match pod {
        Some(PodKey::Kubernetes(uid)) => {
            unknown.insert("pod", format!("only its uid is known: {uid}"));
            unknown.insert("namespace", NOT_READ.to_owned());
        }
        Some(PodKey::Podman(id)) => {
            unknown.insert("pod", format!("only its id is known: {id}"));
        }
        None => {}
    }
    let ancestors = classified.outer.iter().map(|outer| {
        known(&outer.cgroup).unwrap_or_else(|| ContainerRef {
            id: outer.id.clone(),
            name: (!forms::is_generated(&outer.id)).then(|| outer.id.clone()),
            runtime: outer.runtime,
            cgroup: outer.cgroup.clone(),
        })
    });
    Container {
        id: id.clone(),
        name,
        runtime: *runtime,
        namespace: None,
        pod: None,
        cgroup: cgroup.clone(),
        ancestors: ancestors.collect(),
        unknown,
    }
}
