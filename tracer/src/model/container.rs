use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{Unknown, recorded};

/// A container, by its cgroup path: the path in a runtime's form *is* the container, whatever else is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// The runtime's own id: 64 hex digits for Docker, containerd's CRI, Podman and CRI-O; free text for ctr, runc, LXC;
    /// the unit's name for a systemd service.
    pub id: String,
    /// What a person called it; `None` while no file of the runtime says so (the reason is in `unknown`).
    pub name: Option<String>,
    /// `None` where the path has a container's form but not which runtime's (a Kubernetes pod under the cgroupfs driver).
    pub runtime: Option<Runtime>,
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// Kubernetes or Podman pod.
    pub pod: Option<String>,
    /// Path below the root of the hierarchy that carries the key (v2, else v1's memory), starting with `/`.
    pub cgroup: String,
    /// The containers around this one, innermost first: ids.
    pub ancestors: Vec<ContainerRef>,
    #[serde(default, skip_serializing_if = "Unknown::is_empty", deserialize_with = "recorded::unknown")]
    pub unknown: Unknown,
}

/// Enough of a container to point at it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRef {
    pub id: String,
    pub name: Option<String>,
    pub runtime: Option<Runtime>,
    pub cgroup: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runtime {
    Docker,
    Containerd,
    #[serde(rename = "cri-o")]
    CriO,
    Podman,
    Runc,
    Crun,
    Lxc,
    Nspawn,
    /// A systemd service or scope that is nobody's container: shown by its unit's name.
    Systemd,
}

impl Runtime {
    pub const ALL: [Self; 9] = [
        Self::Docker,
        Self::Containerd,
        Self::CriO,
        Self::Podman,
        Self::Runc,
        Self::Crun,
        Self::Lxc,
        Self::Nspawn,
        Self::Systemd,
    ];
}

impl FromStr for Runtime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = || Self::ALL.map(|runtime| runtime.to_string());
        Self::ALL
            .into_iter()
            .find(|runtime| runtime.to_string() == text)
            .ok_or_else(|| format!("one of {}", names().join(", ")))
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Podman => "podman",
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Lxc => "lxc",
            Self::Nspawn => "nspawn",
            Self::Systemd => "systemd",
        })
    }
}

impl Container {
    /// The shortest text by which a person knows it: `namespace/pod/name`, `pod/name`, the name, else the id's first 12.
    /// Not escaped: whoever writes it to a terminal does that.
    pub fn label(&self) -> String {
        let own = self.name.clone().unwrap_or_else(|| self.id.chars().take(12).collect());
        match (&self.namespace, &self.pod) {
            (Some(namespace), Some(pod)) => format!("{namespace}/{pod}/{own}"),
            (None, Some(pod)) => format!("{pod}/{own}"),
            _ => own,
        }
    }

    pub fn reference(&self) -> ContainerRef {
        ContainerRef {
            id: self.id.clone(),
            name: self.name.clone(),
            runtime: self.runtime,
            cgroup: self.cgroup.clone(),
        }
    }
}

/// A container shared by the many events that name it; `None` is the host.
pub type Owner = Option<Arc<Container>>;
