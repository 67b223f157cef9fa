//! Where the file of a refused call is, and how full the file system is.
//!
//! A container may have mounted anything, also a file system whose server never answers: what is asked is chosen by the
//! text of the mount table alone, and no link is followed.

use std::sync::Arc;

use crate::{
    containers::{Files, Hierarchy, HostFiles, Mount, unescape},
    findings::io::{Place, What, Where},
};

const AT_FDCWD: i32 = -100;
/// Asking these may wait for a server, which may be a program of the container's.
const MAY_HANG: [&str; 9] = ["fuse", "nfs", "cifs", "smb", "ceph", "9p", "virtiofs", "glusterfs", "afs"];

pub fn may_hang(kind: &str) -> bool {
    MAY_HANG.iter().any(|other| kind.starts_with(other))
}

/// Who sees a file: the process that asked, else another of its cgroup, else the host.
struct Viewer {
    pid: Option<u32>,
    mounts: String,
}

pub fn find(wanted: &Where, files: &HostFiles, key: &Hierarchy, host_mounts: &str) -> Place {
    let mut viewers = viewers(wanted, files, key, host_mounts);
    let found = match &wanted.what {
        What::File { device, path } => viewers.find_map(|viewer| {
            let (mount, path) = of_device(&viewer.mounts, *device, path)?;
            Some((viewer, mount, path))
        }),
        What::Path { at, path } => path_of(wanted.pid, *at, path, files).and_then(|path| {
            let viewer = viewers.next()?;
            let mount = mount_of(&viewer.mounts, &path)?;
            Some((viewer, mount, path))
        }),
    };
    let Some((viewer, mount, path)) = found else {
        let unknown = Some("the process was gone before its files and mounts could be read".to_owned());
        return Place { unknown, ..Place::default() };
    };
    Place { path: Some(path), ..measured(&viewer, &mount, files, host_mounts) }
}

/// The file system that a container has as its root, as one of its processes sees it; `None`: it has none, or only such
/// as are not to be seen.
pub fn root_of(cgroups: &[Arc<str>], files: &HostFiles, key: &Hierarchy, host_mounts: &str) -> Option<Place> {
    let viewer = cgroups.iter().find_map(|cgroup| first_of(cgroup, files, key))?;
    let mount = mount_of(&viewer.mounts, "/")?;
    Some(measured(&viewer, &mount, files, host_mounts))
}

/// How full it is.
fn measured(viewer: &Viewer, mount: &Mount, files: &HostFiles, host_mounts: &str) -> Place {
    let mut place = Place {
        kind: Some(mount.kind.clone()),
        mount: Some(mount.at.clone()),
        device: Some(mount.device).filter(|_| mount.kind != "overlay"),
        ..Place::default()
    };
    // Neither it, nor any on the way to it.
    if around(&viewer.mounts, &mount.at).iter().any(|mount| may_hang(&mount.kind)) {
        place.unknown = Some(format!("a {} file system is not asked: it may not answer", mount.kind));
        return place;
    }
    if mount.kind == "overlay" {
        let upper = mount.options.split(',').find_map(|option| option.strip_prefix("upperdir="));
        place.upper = upper.map(unescape);
        let disk = place.upper.as_deref().and_then(|upper| mount_of(host_mounts, upper));
        if let Some(disk) = disk {
            place.device = Some(disk.device);
            (place.disk_kind, place.disk_mount) = (Some(disk.kind), Some(disk.at.clone()));
            // An overlay passes the question on.
            if let Some(other) = around(host_mounts, &disk.at).iter().find(|mount| may_hang(&mount.kind)) {
                place.unknown = Some(format!("a {} file system is not asked: it may not answer", other.kind));
                return place;
            }
            place.disk = files.space(None, &disk.at).ok();
        }
    }
    match files.space(viewer.pid, &mount.at) {
        Ok(space) => place.space = Some(space),
        Err(error) => place.unknown = Some(format!("{}: {error}", mount.at)),
    }
    place
}

fn viewers<'a>(
    wanted: &'a Where,
    files: &'a HostFiles,
    key: &'a Hierarchy,
    host_mounts: &'a str,
) -> impl Iterator<Item = Viewer> + 'a {
    let others = wanted.cgroup.iter().filter_map(move |cgroup| first_of(cgroup, files, key));
    let host = std::iter::once_with(|| Viewer { pid: None, mounts: host_mounts.to_owned() });
    viewer(wanted.pid, files).into_iter().chain(others).chain(host)
}

/// `None`: it is gone.
fn viewer(pid: u32, files: &HostFiles) -> Option<Viewer> {
    let content = files.read(&format!("/proc/{pid}/mountinfo")).ok()?;
    let mounts = String::from_utf8_lossy(&content.bytes).into_owned();
    (!mounts.is_empty()).then_some(Viewer { pid: Some(pid), mounts })
}

/// The first process of a cgroup that is there.
fn first_of(cgroup: &str, files: &HostFiles, key: &Hierarchy) -> Option<Viewer> {
    let procs = files.read(&format!("{}/cgroup.procs", key.directory(cgroup))).ok()?;
    String::from_utf8_lossy(&procs.bytes).lines().find_map(|pid| viewer(pid.parse().ok()?, files))
}

/// A path that a process named, as it sees it.
fn path_of(pid: u32, at: i32, path: &str, files: &HostFiles) -> Option<String> {
    if path.starts_with('/') {
        return Some(clean(path));
    }
    let from = if at == AT_FDCWD { format!("/proc/{pid}/cwd") } else { format!("/proc/{pid}/fd/{at}") };
    Some(clean(&format!("{}/{path}", files.link(&from).ok()?)))
}

/// Where a file system is mounted so that a path in it can be seen, and the path from there.
fn of_device(mounts: &str, device: (u32, u32), path: &str) -> Option<(Mount, String)> {
    let inside = |mount: &Mount| {
        let rest = if mount.root == "/" { Some(path) } else { path.strip_prefix(&mount.root) }?;
        Some(format!("{}{rest}", mount.at.trim_end_matches('/')))
    };
    let mut found = mounts.lines().filter_map(Mount::of).filter(|mount| mount.device == device);
    let (mut cut, mut whole) = (None, None);
    // A path that is cut at its beginning cannot tell which part it is in: any mount will do.
    for mount in found.by_ref() {
        match inside(&mount) {
            Some(path) => whole = Some((mount, path)),
            None => cut = Some((mount, path.to_owned())),
        }
    }
    whole.or(cut)
}

fn clean(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

/// The mount that a path is on: the innermost, and of several at one place the last.
pub fn mount_of(mounts: &str, path: &str) -> Option<Mount> {
    around(mounts, path).pop()
}

/// The mounts that a path passes, outermost first.
fn around(mounts: &str, path: &str) -> Vec<Mount> {
    let mut around: Vec<Mount> =
        mounts.lines().filter_map(Mount::of).filter(|mount| is_below(path, &mount.at)).collect();
    around.sort_by_key(|mount| mount.at.len()); // stable: the later of two at one place stays behind
    around
}

fn is_below(path: &str, at: &str) -> bool {
    at == "/" || path == at || path.strip_prefix(at).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
1 0 0:1 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/var/up\\040per,workdir=/w
2 1 0:2 / /data rw - ext4 /dev/vdb rw
3 1 0:3 / /data/tmp rw - tmpfs tmpfs rw,size=4k
4 1 0:4 / /data/tmp rw - tmpfs tmpfs rw,size=8k
5 1 0:5 / /mnt rw - fuse.sshfs x rw
";

    #[test]
    fn the_innermost_and_latest_mount() {
        let at = |path: &str| mount_of(MOUNTS, path).map(|mount| (mount.at, mount.options));
        assert_eq!(at("/data/tmp/x").map(|(_, options)| options).as_deref(), Some("rw,size=8k"));
        assert_eq!(at("/data/tmpx").map(|(at, _)| at).as_deref(), Some("/data"));
        assert_eq!(at("/etc/x").map(|(at, _)| at).as_deref(), Some("/"));
        assert!(mount_of("", "/x").is_none());
        let around: Vec<String> = around(MOUNTS, "/data/tmp").into_iter().map(|mount| mount.at).collect();
        assert_eq!(around, ["/", "/data", "/data/tmp", "/data/tmp"]);
    }

    #[test]
    fn paths_are_cleaned_by_name() {
        assert_eq!(clean("/a/./b/../c//d"), "/a/c/d");
        assert_eq!(clean("/../.."), "/");
    }

    #[test]
    fn the_mount_of_a_file_by_its_device() {
        let at = |device, path: &str| of_device(MOUNTS, device, path).map(|(mount, path)| (mount.kind, path));
        assert_eq!(at((0, 2), "/a/b"), Some(("ext4".to_owned(), "/data/a/b".to_owned())));
        assert_eq!(at((0, 1), "/a"), Some(("overlay".to_owned(), "/a".to_owned())));
        assert_eq!(at((9, 9), "/a"), None);
        let part = "7 1 8:1 /vol/x /srv rw - ext4 /dev/sda1 rw\n";
        let at = |path: &str| of_device(part, (8, 1), path).map(|(_, path)| path);
        assert_eq!(at("/vol/x/y").as_deref(), Some("/srv/y"));
        assert_eq!(at("/…/y").as_deref(), Some("/…/y"));
    }

    /// A container's root, as the process of this test: its cgroup is a folder with that one in it.
    #[test]
    fn the_root_of_a_cgroup_without_processes_is_not_the_hosts() {
        let files = HostFiles::here();
        let folder = tempfile::tempdir().expect("a folder");
        let key =
            Hierarchy { controller: None, mount: folder.path().to_string_lossy().into_owned(), root: "/".to_owned() };
        let procs = |name: &str, text: &str| {
            let at = folder.path().join(name);
            std::fs::create_dir_all(&at).and_then(|()| std::fs::write(at.join("cgroup.procs"), text)).expect("a file");
        };
        procs("empty", "");
        procs("gone", &format!("{}\n", u32::MAX));
        procs("here", &format!("{}\n", std::process::id()));
        let of = |names: &[&str]| {
            let cgroups: Vec<Arc<str>> = names.iter().map(|name| (*name).into()).collect();
            root_of(&cgroups, &files, &key, "1 0 0:1 / / rw - hostfs x rw\n")
        };
        assert_eq!(of(&["/empty", "/gone", "/none"]), None);
        let own = of(&["/empty", "/here"]).expect("its root");
        assert_eq!(own.mount.as_deref(), Some("/"));
        assert!(own.kind.is_some_and(|kind| kind != "hostfs"));
    }

    /// This very process, on whatever its files are.
    #[test]
    fn a_path_of_a_living_process_has_a_place_and_one_of_a_dead_one_has_a_reason() {
        let files = HostFiles::here();
        let key = Hierarchy { controller: None, mount: "/nowhere".to_owned(), root: "/".to_owned() };
        let wanted = |pid| Where { pid, cgroup: None, what: What::Path { at: AT_FDCWD, path: "x/../y".to_owned() } };
        let found = find(&wanted(std::process::id()), &files, &key, "");
        let cwd = std::env::current_dir().expect("a directory");
        assert_eq!(found.path.as_deref().map(std::path::Path::new), Some(cwd.join("y").as_path()));
        assert!(found.kind.is_some() && found.mount.is_some());
        let gone = find(&wanted(u32::MAX), &files, &key, "");
        assert!(gone.path.is_none() && gone.unknown.is_some());
    }
}
