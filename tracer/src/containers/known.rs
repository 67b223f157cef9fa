//! Containers whose path says nothing: `runc run web` and `ctr run … web` make `/web` and `/default/web`.
//!
//! Only the runtime's own state on disk knows that such a cgroup is a container. What was read there is kept here, by
//! the container's cgroup path; the reading itself is elsewhere.

use std::collections::HashMap;

use crate::model::Runtime;
use serde::{Deserialize, Serialize};

/// State on disk is bounded by what a host can run; more is somebody filling a directory.
const CAP: usize = 65_536;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownContainer {
    pub id: String,
    pub runtime: Option<Runtime>,
    /// Path below the hierarchy's root, as the runtime's file states it.
    pub cgroup: String,
    /// The file that says so.
    pub source: String,
}

#[derive(Clone, Debug, Default)]
pub struct Known {
    by_path: HashMap<String, KnownContainer>,
}

impl Known {
    pub fn at(&self, path: &str) -> Option<&KnownContainer> {
        // Most hosts have none, and each prefix of each path is asked for.
        if self.by_path.is_empty() { None } else { self.by_path.get(path) }
    }

    /// Takes in one more; whether that changes anything.
    pub fn learn(&mut self, container: KnownContainer) -> bool {
        if container.cgroup.len() < 2 || !container.cgroup.starts_with('/') {
            return false; // the root is nobody's container
        }
        if self.by_path.get(&container.cgroup) == Some(&container) || self.by_path.len() >= CAP {
            return false;
        }
        self.by_path.insert(container.cgroup.clone(), container);
        true
    }

    /// The cgroup is gone: the next one of that path is another container, or none.
    pub fn forget(&mut self, path: &str) {
        self.by_path.remove(path);
    }

    pub fn iter(&self) -> impl Iterator<Item = &KnownContainer> {
        self.by_path.values()
    }

    pub fn len(&self) -> usize {
        self.by_path.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_path.is_empty()
    }
}

impl FromIterator<KnownContainer> for Known {
    fn from_iter<I: IntoIterator<Item = KnownContainer>>(containers: I) -> Self {
        let mut known = Self::default();
        for container in containers {
            known.learn(container);
        }
        known
    }
}

impl IntoIterator for Known {
    type Item = KnownContainer;
    type IntoIter = std::collections::hash_map::IntoValues<String, KnownContainer>;

    fn into_iter(self) -> Self::IntoIter {
        self.by_path.into_values()
    }
}
