//! The live table: any cgroup id to its container. Sans-IO: what was seen, read and made is fed in, with the time.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    facts::{Facts, undressed},
    forms,
    known::{Known, KnownContainer},
    path::{self, Classified, is_within},
};
use crate::model::{Container, ContainerRef, Owner, Runtime};

/// Events of a container that is gone still come: buffered ones, a late exit, a packet.
const TOMB_NS: u64 = 600 * 1_000_000_000;
/// Each kind of tomb has its own bound, so that a host that makes and removes cgroups of its own all day does not push
/// the containers out.
const TOMBS: usize = 4096;
/// crun's own cgroup below the container's, for its processes.
const CRUN_SUBGROUP: &str = "container";

/// A cgroup that exists: its kernfs id (the inode of its directory) and its path below the hierarchy's root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub id: u64,
    pub path: String,
}

/// A `cgroup_mkdir` from the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Born {
    pub id: u64,
    pub parent: Option<u64>,
    /// The whole path where it starts with `/`, else its last names: `docker/0123…`.
    pub path: String,
    /// comm and pid (the tgid) of who made it: a bare runc's containers are known by that alone until its state is read.
    pub by: String,
    pub by_pid: u32,
}

/// Whose a cgroup is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Container(Arc<Container>),
    Host,
    /// The table never heard of the cgroup: made while events were lost, or gone for longer than tombs are kept.
    Unknown,
}

impl Place {
    /// For a field that has only container or host.
    pub fn owner(self) -> Owner {
        match self {
            Self::Container(container) => Some(container),
            Self::Host | Self::Unknown => None,
        }
    }
}

/// What a new cgroup makes worth reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    Nothing,
    /// A new container: read its runtime's files, then [`Table::named`] with the id of the cgroup.
    Facts(u64, Arc<Container>),
    /// A path that says nothing: it may be a container with a free-form id. Read the runtimes' states, then
    /// [`Table::learn`].
    Identity(u64, Arc<str>),
}

/// A live container, for lists and finders.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub cgroup_id: u64,
    pub container: &'a Arc<Container>,
    pub facts: Option<&'a Facts>,
}

#[derive(Debug, Default)]
pub struct Table {
    pub(super) known: Known,
    // Ordered, so that a recording gives what the run gave.
    pub(super) live: BTreeMap<u64, Cgroup>,
    pub(super) by_path: HashMap<Arc<str>, u64>,
    /// The containers of the live cgroups, by the path of their own cgroup.
    pub(super) owners: BTreeMap<Arc<str>, Owned>,
    pub(super) tombs: BTreeMap<u64, Tomb>,
    /// Oldest first: containers', and the host's.
    gone: [VecDeque<(u64, u64)>; 2],
    pub(super) generation: u64,
}

#[derive(Debug)]
pub(super) struct Cgroup {
    pub(super) path: Arc<str>,
    /// Key into `owners`.
    pub(super) owner: Option<Arc<str>>,
    /// Called a container only because this process made it, a runtime: should the same one make another below it, then
    /// it was a mere parent.
    provisional: Option<u32>,
}

#[derive(Clone, Debug)]
pub(super) struct Owned {
    pub(super) container: Arc<Container>,
    pub(super) facts: Option<Arc<Facts>>,
}

#[derive(Debug)]
pub(super) struct Tomb {
    died_ns: u64,
    pub(super) path: Arc<str>,
    pub(super) owner: Option<Owned>,
}

impl Table {
    /// A table that knows the free-form containers that runtimes told of on disk.
    pub fn new(known: Known) -> Self {
        Self { known, ..Self::default() }
    }

    /// Takes in what a walk of the hierarchy found. May come before, between or after the kernel's events.
    pub fn seed(&mut self, seen: impl IntoIterator<Item = Seen>, now_ns: u64) {
        for cgroup in seen {
            self.enter(cgroup.id, cgroup.path.into(), now_ns);
        }
    }

    /// What a walk would find: those that live, outer ones first.
    pub fn seen(&self) -> Vec<Seen> {
        let mut seen: Vec<Seen> =
            self.live.iter().map(|(&id, cgroup)| Seen { id, path: cgroup.path.to_string() }).collect();
        seen.sort_by(|one, other| one.path.cmp(&other.path));
        seen
    }

    /// Those that only their runtime's state tells of.
    pub fn known(&self) -> impl Iterator<Item = &KnownContainer> {
        self.known.iter()
    }

    pub fn mkdir(&mut self, born: &Born, now_ns: u64) -> Want {
        self.expire(now_ns);
        let parent = born.parent.and_then(|id| self.live.get(&id));
        let path: Arc<str> = match parent {
            Some(parent) => {
                let name = born.path.rsplit('/').next().unwrap_or_default();
                format!("{}/{name}", parent.path.trim_end_matches('/')).into()
            }
            None if born.path.starts_with('/') => born.path.as_str().into(),
            None => format!("/{}", born.path).into(),
        };
        let provisional = self.made_by_runtime(born, &path);
        self.enter(born.id, path.clone(), now_ns);
        if provisional {
            self.settle(born.id); // a walk may have seen it before this event told who made it
        }
        let Some(cgroup) = self.live.get_mut(&born.id) else { return Want::Nothing };
        cgroup.provisional = provisional.then_some(born.by_pid);
        match &cgroup.owner {
            Some(owner) if **owner == *path => match self.owners.get(owner) {
                Some(owned) if owned.facts.is_none() && owned.container.runtime != Some(Runtime::Systemd) => {
                    Want::Facts(born.id, owned.container.clone())
                }
                _ => Want::Nothing,
            },
            Some(_) => Want::Nothing,
            None => Want::Identity(born.id, path),
        }
    }

    /// The cgroup is gone. What is known of it stays for ten minutes.
    pub fn rmdir(&mut self, id: u64, now_ns: u64) {
        self.expire(now_ns);
        let Some(cgroup) = self.live.remove(&id) else { return };
        let owner = cgroup.owner.as_ref().and_then(|path| self.owners.get(path)).cloned();
        if self.by_path.get(&cgroup.path) == Some(&id) {
            self.by_path.remove(&cgroup.path);
            self.known.forget(&cgroup.path);
            // Not where the container's own cgroup lives on and this was one below it.
            self.owners.remove(&cgroup.path);
        }
        let queue = &mut self.gone[usize::from(owner.is_none())];
        queue.push_back((now_ns, id));
        let oldest = if queue.len() > TOMBS { queue.pop_front() } else { None };
        if let Some((died_ns, id)) = oldest {
            self.bury(id, died_ns);
        }
        self.tombs.insert(id, Tomb { died_ns: now_ns, path: cgroup.path, owner });
    }

    /// A container that the path did not show, from a runtime's state on disk. Whether rows already shown change.
    pub fn learn(&mut self, container: KnownContainer) -> bool {
        let path = container.cgroup.clone();
        if !self.known.learn(container) {
            return false;
        }
        let within = |cgroup: &str| is_within(cgroup, &path);
        let ids: Vec<u64> = self.live.iter().filter(|(_, cgroup)| within(&cgroup.path)).map(|(&id, _)| id).collect();
        self.generation += 1;
        let mut changed = self.restate(&path);
        for id in ids {
            changed |= self.settle(id);
        }
        // One that came and went before its state was read.
        for tomb in self.tombs.values_mut().filter(|tomb| within(&tomb.path)) {
            let owned = path::classify(&tomb.path, &self.known).map(|classified| Owned {
                container: Arc::new(undressed(&classified, |path| reference(&self.owners, path))),
                facts: None,
            });
            if let Some(owned) = owned
                && tomb.owner.as_ref().is_none_or(|old| old.container.cgroup != owned.container.cgroup)
            {
                tomb.owner = Some(owned);
                changed = true;
            }
        }
        changed
    }

    /// What the runtime's files say of the container that has this cgroup. Whether rows already shown change.
    pub fn named(&mut self, cgroup_id: u64, facts: Facts) -> bool {
        let facts = Arc::new(facts);
        let old = match (self.live.get(&cgroup_id), self.tombs.get_mut(&cgroup_id)) {
            (Some(Cgroup { owner: Some(owner), .. }), _) => self.owners.get_mut(owner),
            (None, Some(tomb)) => tomb.owner.as_mut(),
            _ => None,
        };
        let Some(owned) = old else { return false };
        let before = owned.container.clone();
        let dressed = facts.dress(&before);
        let changed = dressed != *before;
        *owned = Owned { container: if changed { Arc::new(dressed) } else { before.clone() }, facts: Some(facts) };
        let after = owned.clone();
        if changed {
            self.generation += 1;
            self.spread(&before, &after);
        }
        changed
    }

    /// Forgets those that are gone for ten minutes.
    pub fn expire(&mut self, now_ns: u64) {
        for queue in 0..self.gone.len() {
            while let Some(&(died_ns, id)) = self.gone[queue].front()
                && now_ns.saturating_sub(died_ns) >= TOMB_NS
            {
                self.gone[queue].pop_front();
                self.bury(id, died_ns);
            }
        }
    }

    /// An id that came back to life, and died again, has a younger tomb: that one stays.
    fn bury(&mut self, id: u64, died_ns: u64) {
        if self.tombs.get(&id).is_some_and(|tomb| tomb.died_ns == died_ns) {
            self.tombs.remove(&id);
        }
    }

    fn enter(&mut self, id: u64, path: Arc<str>, now_ns: u64) {
        if self.live.get(&id).is_some_and(|cgroup| cgroup.path == path) {
            return; // the walk and the event told the same
        }
        // Another cgroup of the same path: its rmdir was lost.
        if let Some(&old) = self.by_path.get(&path)
            && old != id
        {
            let stated = self.known.at(&path).cloned(); // of the new one
            self.rmdir(old, now_ns);
            if let Some(stated) = stated {
                self.known.learn(stated);
            }
        }
        self.tombs.remove(&id);
        self.by_path.insert(path.clone(), id);
        self.live.insert(id, Cgroup { path, owner: None, provisional: None });
        self.settle(id);
    }

    /// Finds the owner of a live cgroup (again); whether it changed.
    fn settle(&mut self, id: u64) -> bool {
        let Some(cgroup) = self.live.get_mut(&id) else { return false };
        let classified = path::classify(&cgroup.path, &self.known);
        let owner = classified.map(|classified| {
            let key: Arc<str> = if *classified.inner.cgroup == *cgroup.path {
                cgroup.path.clone()
            } else {
                classified.inner.cgroup.as_str().into()
            };
            if !self.owners.contains_key(&key) {
                let container = Arc::new(undressed(&classified, |path| reference(&self.owners, path)));
                self.owners.insert(key.clone(), Owned { container, facts: None });
            }
            key
        });
        let changed = owner != cgroup.owner;
        self.generation += u64::from(changed);
        let old = std::mem::replace(&mut cgroup.owner, owner);
        // What was a container until now, by provision.
        if changed
            && let Some(old) = old
            && !self.live.values().any(|cgroup| cgroup.owner.as_ref() == Some(&old))
        {
            self.owners.remove(&old);
        }
        changed
    }

    /// A container that is one already, of which more is known now than who made it.
    fn restate(&mut self, path: &str) -> bool {
        let Some(classified) = path::classify(path, &self.known).filter(|class| class.inner.cgroup == path) else {
            return false;
        };
        let container = undressed(&classified, |path| reference(&self.owners, path));
        let Some(owned) = self.owners.get_mut(path) else { return false };
        let before = owned.container.clone();
        let container = match &owned.facts {
            Some(facts) => facts.dress(&container),
            None => container,
        };
        if container == *before {
            return false;
        }
        owned.container = Arc::new(container);
        let after = owned.clone();
        self.spread(&before, &after);
        true
    }

    /// A bare runc or crun container lives for 10 ms, and its state is gone when it could be read: but the runtime
    /// itself made the cgroup. Parents that it makes on the way are told from it by what it makes below them.
    fn made_by_runtime(&mut self, born: &Born, path: &str) -> bool {
        let runtime = match born.by.as_str() {
            by if by.starts_with("runc") => Runtime::Runc,
            "crun" => Runtime::Crun,
            _ => return false,
        };
        let (parent_path, name) = path.rsplit_once('/').unwrap_or_default();
        let of_host =
            |class: Option<Classified>| class.is_none_or(|class| class.inner.runtime == Some(Runtime::Systemd));
        let parent = born.parent.or_else(|| self.by_path.get(parent_path).copied());
        if let Some(parent) = parent
            && let Some(cgroup) = self.live.get_mut(&parent)
            && cgroup.provisional == Some(born.by_pid)
            && name != CRUN_SUBGROUP
        {
            cgroup.provisional = None;
            self.known.forget(parent_path);
            self.settle(parent);
        }
        // Inside a container anybody may call himself runc.
        if forms::is_parent_name(name) || name == CRUN_SUBGROUP || !of_host(path::classify(path, &self.known)) {
            return false;
        }
        self.known.learn(KnownContainer {
            id: name.to_owned(),
            runtime: Some(runtime),
            cgroup: path.to_owned(),
            source: format!("made by {runtime}"),
        })
    }

    /// Others that show this container: tombs of cgroups that were below it, and containers inside it.
    fn spread(&mut self, before: &Arc<Container>, after: &Owned) {
        let refers = |container: &Container| container.ancestors.iter().any(|outer| outer.cgroup == before.cgroup);
        let update = |owned: &mut Owned| {
            if Arc::ptr_eq(&owned.container, before) {
                *owned = after.clone();
            } else if refers(&owned.container) {
                let container = Arc::make_mut(&mut owned.container);
                for outer in container.ancestors.iter_mut().filter(|outer| outer.cgroup == before.cgroup) {
                    *outer = after.container.reference();
                }
            }
        };
        self.owners.values_mut().for_each(update);
        self.tombs.values_mut().filter_map(|tomb| tomb.owner.as_mut()).for_each(update);
    }
}

pub(super) fn reference(owners: &BTreeMap<Arc<str>, Owned>, path: &str) -> Option<ContainerRef> {
    owners.get(path).map(|owned| owned.container.reference())
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
