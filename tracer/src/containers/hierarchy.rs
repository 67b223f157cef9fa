//! Which cgroup hierarchy carries the key, where it is mounted, and what is in it.

use super::{
    files::{Files, Refused},
    mounts::Mount,
    table::Seen,
};

/// Far above what a kernel can run, far below what would be felt.
const WALK_CAP: usize = 200_000;

/// The hierarchy whose cgroup ids identify containers: on v2 the default one; on v1 and hybrid hosts memory's, or where
/// there is none, that of pids. The kernel side uses the same rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// The v1 controller; `None` on v2.
    pub controller: Option<&'static str>,
    /// Where it is mounted, for reading.
    pub mount: String,
    /// The part of the hierarchy that is mounted there: `/`, or a container's own cgroup where only that can be seen.
    pub root: String,
}

impl Hierarchy {
    /// From the text of `/proc/PID/mountinfo`.
    pub fn detect(mountinfo: &str) -> Option<Self> {
        let mut best: Option<(u32, Self)> = None;
        for line in mountinfo.lines() {
            let Some((rank, found)) = hierarchy_of(line) else { continue };
            // The later of two mounts lies on top of the first; the whole hierarchy is worth more than a part.
            let whole = |hierarchy: &Self| hierarchy.root == "/";
            let better = best.as_ref().is_none_or(|(old_rank, old)| {
                rank > *old_rank
                    || (rank == *old_rank && (whole(&found) || !whole(old)) && found.mount.len() <= old.mount.len())
            });
            if better {
                best = Some((rank, found));
            }
        }
        best.map(|(_, hierarchy)| hierarchy)
    }

    /// The hierarchy that has a controller: a v1 one, else v2's.
    pub fn of_controller(mountinfo: &str, controller: &'static str) -> Option<Self> {
        let mut default = None;
        for mount in mountinfo.lines().filter_map(mount_of) {
            match mount.kind.as_str() {
                "cgroup" if mount.options.split(',').any(|option| option == controller) => {
                    return Some(Self { controller: Some(controller), mount: mount.at, root: mount.root });
                }
                "cgroup2" => {
                    default.get_or_insert(Self { controller: None, mount: mount.at, root: mount.root });
                }
                _ => {}
            }
        }
        default
    }

    /// A process's cgroup in this hierarchy, from the text of `/proc/PID/cgroup`.
    pub fn path_of<'a>(&self, proc_cgroup: &'a str) -> Option<&'a str> {
        proc_cgroup.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            let ours = match self.controller {
                Some(controller) => controllers.split(',').any(|name| name == controller),
                None => number == "0" && controllers.is_empty(),
            };
            ours.then(|| path.strip_suffix(" (deleted)").unwrap_or(path))
        })
    }

    /// The directory of a cgroup.
    pub fn directory(&self, path: &str) -> String {
        let inside = path.strip_prefix(self.root.trim_end_matches('/')).unwrap_or(path);
        format!("{}/{}", self.mount.trim_end_matches('/'), inside.trim_start_matches('/'))
            .trim_end_matches('/')
            .to_owned()
    }

    /// The cgroup of a directory, as runtimes write it into their state.
    pub fn path_of_directory(&self, directory: &str) -> Option<String> {
        let inside =
            directory.strip_prefix(self.mount.as_str()).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
        let path = format!("{}{}", self.root.trim_end_matches('/'), inside.trim_end_matches('/'));
        Some(if path.is_empty() { "/".to_owned() } else { path })
    }
}

/// A mount, its root as of the whole hierarchy.
fn mount_of(line: &str) -> Option<Mount> {
    let mount = Mount::of(line)?;
    // Out of the reader's cgroup namespace: a path relative to that, of no use as a prefix.
    let root = if mount.root.starts_with("/..") { "/".to_owned() } else { mount.root };
    Some(Mount { root, ..mount })
}

fn hierarchy_of(line: &str) -> Option<(u32, Hierarchy)> {
    let Mount { kind, options, root, at: mount, .. } = mount_of(line)?;
    let has = |controller: &str| options.split(',').any(|option| option == controller);
    let (rank, controller) = match kind.as_str() {
        "cgroup" if has("memory") => (3, Some("memory")),
        "cgroup" if has("pids") => (2, Some("pids")),
        "cgroup2" => (1, None),
        _ => return None,
    };
    Some((rank, Hierarchy { controller, mount, root }))
}

/// All cgroups of the hierarchy, parents first, and notes on what could not be read. One `readdir` per cgroup: the
/// entries of a cgroup file system carry the ids.
pub fn walk(files: &dyn Files, hierarchy: &Hierarchy) -> (Vec<Seen>, Vec<String>) {
    let mut seen = Vec::new();
    let mut notes = Vec::new();
    let mut open = vec![(None, hierarchy.root.trim_end_matches('/').to_owned())];
    while let Some((id, path)) = open.pop() {
        if seen.len() >= WALK_CAP {
            notes.push(format!("only the first {WALK_CAP} cgroups were read"));
            break;
        }
        let listing = match files.list(&hierarchy.directory(&path)) {
            Ok(listing) => listing,
            Err(Refused::Missing) if id.is_some() => continue, // gone since its parent was read
            Err(error) => {
                notes.push(format!("cgroup {path}: {error}"));
                continue;
            }
        };
        seen.push(Seen {
            id: id.unwrap_or(listing.inode),
            path: if path.is_empty() { "/".to_owned() } else { path.clone() },
        });
        open.extend(listing.items.iter().map(|item| (Some(item.inode), format!("{path}/{}", item.name))));
    }
    (seen, notes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::files::HostFiles;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const V2: &str = "24 23 0:21 / /proc rw - proc proc rw\n30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    fn hierarchy(controller: Option<&'static str>, mount: &str, root: &str) -> Hierarchy {
        Hierarchy { controller, mount: mount.into(), root: root.into() }
    }

    #[test]
    fn found_in_mountinfo() {
        let no_memory: String =
            HYBRID.lines().filter(|line| !line.contains("memory")).map(|line| line.to_owned() + "\n").collect();
        for (text, want) in [
            (V2, Some(hierarchy(None, "/sys/fs/cgroup", "/"))),
            (HYBRID, Some(hierarchy(Some("memory"), "/sys/fs/cgroup/memory", "/"))),
            (&no_memory, Some(hierarchy(Some("pids"), "/sys/fs/cgroup/pids", "/"))),
            (
                "35 31 0:32 /docker/x /my\\040cgroup ro - cgroup cgroup rw,memory",
                Some(hierarchy(Some("memory"), "/my cgroup", "/docker/x")),
            ),
            ("35 31 0:32 /../.. /sys/fs/cgroup ro - cgroup2 cgroup rw", Some(hierarchy(None, "/sys/fs/cgroup", "/"))),
            // A container's bind mount of a part does not count where the whole is there.
            (
                "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n90 23 0:26 /docker/x /srv rw - cgroup2 cgroup2 rw",
                Some(hierarchy(None, "/sys/fs/cgroup", "/")),
            ),
            ("", None),
            ("nonsense - cgroup2\n1 2 3 - cgroup2 a b", None),
        ] {
            assert_eq!(Hierarchy::detect(text), want, "{text}");
        }
    }

    #[test]
    fn a_process_s_own_cgroup() {
        let v1 = hierarchy(Some("memory"), "/sys/fs/cgroup/memory", "/");
        let v2 = hierarchy(None, "/sys/fs/cgroup", "/");
        let text = "9:name=systemd:/\n4:cpu,memory:/docker/a:b\n0::/x (deleted)\n";
        assert_eq!(v1.path_of(text), Some("/docker/a:b"));
        assert_eq!(v2.path_of(text), Some("/x"));
        assert_eq!(v1.path_of("0::/x"), None);
        assert_eq!(v2.path_of("garbage\n0:"), None);
    }

    #[test]
    fn directories_and_paths() {
        let whole = hierarchy(None, "/sys/fs/cgroup", "/");
        let part = hierarchy(Some("memory"), "/sys/fs/cgroup/memory", "/docker/x");
        assert_eq!(whole.directory("/"), "/sys/fs/cgroup");
        assert_eq!(whole.directory("/a/b"), "/sys/fs/cgroup/a/b");
        assert_eq!(part.directory("/docker/x/y"), "/sys/fs/cgroup/memory/y");
        assert_eq!(whole.path_of_directory("/sys/fs/cgroup/a/").as_deref(), Some("/a"));
        assert_eq!(whole.path_of_directory("/sys/fs/cgroup").as_deref(), Some("/"));
        assert_eq!(whole.path_of_directory("/sys/fs/cgroups/a"), None);
        assert_eq!(part.path_of_directory("/sys/fs/cgroup/memory/y").as_deref(), Some("/docker/x/y"));
    }

    #[test]
    fn a_walk_takes_ids_and_paths() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("cg/a/b")).expect("writable");
        std::fs::write(dir.path().join("cg/a/memory.max"), "max").expect("writable");
        let (seen, notes) = walk(&HostFiles::below(dir.path()), &hierarchy(None, "/cg", "/"));
        let inode = |path: &str| {
            use std::os::unix::fs::MetadataExt;
            std::fs::metadata(dir.path().join(path)).expect("there").ino()
        };
        let want = [(inode("cg"), "/"), (inode("cg/a"), "/a"), (inode("cg/a/b"), "/a/b")];
        assert_eq!(seen, want.map(|(id, path)| Seen { id, path: path.to_owned() }));
        assert!(notes.is_empty());
        let (seen, notes) = walk(&HostFiles::below(dir.path()), &hierarchy(None, "/nowhere", "/"));
        assert!(seen.is_empty() && notes.len() == 1, "{notes:?}");
    }
}
