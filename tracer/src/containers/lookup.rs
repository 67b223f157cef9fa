//! What can be asked of the live table.

use std::sync::Arc;

use super::{
    facts::{Facts, undressed},
    path::{self, Level, is_within},
    table::{Entry, Place, Table, Tomb, reference},
};
use crate::model::{Container, Owner, Runtime};

impl Table {
    pub fn place(&self, cgroup_id: u64) -> Place {
        if let Some(cgroup) = self.live.get(&cgroup_id) {
            let owned = cgroup.owner.as_ref().and_then(|owner| self.owners.get(owner));
            return owned.map_or(Place::Host, |owned| Place::Container(owned.container.clone()));
        }
        match self.tombs.get(&cgroup_id) {
            Some(Tomb { owner: Some(owned), .. }) => Place::Container(owned.container.clone()),
            Some(_) => Place::Host,
            None => Place::Unknown,
        }
    }

    /// Container or host; the host also where the cgroup is unknown. Use [`Table::place`] where that must be told.
    pub fn owner(&self, cgroup_id: u64) -> Owner {
        self.place(cgroup_id).owner()
    }

    /// For a path from `/proc/PID/cgroup`: also one that the table has not seen.
    pub fn owner_of_path(&self, path: &str) -> Owner {
        match self.by_path.get(path) {
            Some(&id) => self.owner(id),
            None => path::classify(path, &self.known).map(|classified| {
                let own = self.owners.get(classified.inner.cgroup.as_str());
                own.map_or_else(
                    || Arc::new(undressed(&classified, |path| reference(&self.owners, path))),
                    |owned| owned.container.clone(),
                )
            }),
        }
    }

    pub fn facts(&self, cgroup_id: u64) -> Option<&Facts> {
        match self.live.get(&cgroup_id) {
            Some(cgroup) => self.owners.get(cgroup.owner.as_ref()?)?.facts.as_deref(),
            None => self.tombs.get(&cgroup_id)?.owner.as_ref()?.facts.as_deref(),
        }
    }

    pub fn path(&self, cgroup_id: u64) -> Option<&Arc<str>> {
        let live = self.live.get(&cgroup_id).map(|cgroup| &cgroup.path);
        live.or_else(|| self.tombs.get(&cgroup_id).map(|tomb| &tomb.path))
    }

    /// The live cgroups at a path and below.
    pub fn within(&self, path: &str) -> Vec<u64> {
        self.live.iter().filter(|(_, cgroup)| is_within(&cgroup.path, path)).map(|(&id, _)| id).collect()
    }

    pub fn id_of_path(&self, path: &str) -> Option<u64> {
        self.by_path.get(path).copied()
    }

    /// What kind of cgroup it is: whose limit was hit.
    pub fn level(&self, cgroup_id: u64) -> Option<Level> {
        self.path(cgroup_id).map(|path| path::level(path, &self.known))
    }

    /// The live containers, units included, by path.
    pub fn containers(&self) -> impl Iterator<Item = Entry<'_>> {
        self.owners.iter().filter_map(|(path, owned)| {
            let cgroup_id = *self.by_path.get(path)?;
            Some(Entry { cgroup_id, container: &owned.container, facts: owned.facts.as_deref() })
        })
    }

    /// The containers that are gone, as far back as tombs are kept.
    pub fn gone(&self) -> impl Iterator<Item = Entry<'_>> {
        self.tombs.iter().filter_map(|(&cgroup_id, tomb)| {
            let owned = tomb.owner.as_ref().filter(|owned| *owned.container.cgroup == *tomb.path)?;
            Some(Entry { cgroup_id, container: &owned.container, facts: owned.facts.as_deref() })
        })
    }

    /// Changes whenever a container came, or more became known of one.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Those whose files were not read yet; units have none.
    pub fn nameless(&self) -> Vec<(u64, Arc<Container>)> {
        self.containers()
            .filter(|entry| entry.facts.is_none() && entry.container.runtime != Some(Runtime::Systemd))
            .map(|entry| (entry.cgroup_id, entry.container.clone()))
            .collect()
    }

    /// The paths of the live cgroups, in no order.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.by_path.keys().map(AsRef::as_ref)
    }

    /// Number of live cgroups, and of tombs.
    pub fn len(&self) -> (usize, usize) {
        (self.live.len(), self.tombs.len())
    }

    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }
}
