//! Cgroups with memory limits, the same in v1 and v2. All are below a directory of their own at the top of the
//! hierarchy: removed at the end, with whatever runs in them.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{unique, wait_until};

const V1: &str = "/sys/fs/cgroup/memory";
const V2: &str = "/sys/fs/cgroup";

/// Is memory limited by cgroup v1 here?
pub fn is_v1() -> bool {
    Path::new(V1).join("memory.limit_in_bytes").exists()
}

fn mount() -> &'static Path {
    Path::new(if is_v1() { V1 } else { V2 })
}

/// A part of the hierarchy that is this test's own.
pub struct Tree {
    path: String,
}

/// One cgroup of a [`Tree`].
#[derive(Clone, Debug)]
pub struct Group {
    /// Below the root of the hierarchy.
    pub path: String,
}

impl Tree {
    pub fn new() -> Self {
        let tree = Self { path: format!("/ctrace-test-{:x}", unique()) };
        make(&tree.path);
        tree
    }

    /// A cgroup by its path in this tree; those above it are made as well.
    pub fn group(&self, name: &str) -> Group {
        let mut path = self.path.clone();
        for name in name.split('/') {
            if !is_v1() {
                write(&directory(&path).join("cgroup.subtree_control"), "+memory");
            }
            path = format!("{path}/{name}");
            make(&path);
        }
        Group { path }
    }

    /// A cgroup with a container's path.
    pub fn container(&self) -> Group {
        self.group(&format!("docker/{}", container_id()))
    }

    /// Gives a cgroup of this tree another v2 controller.
    pub fn enable(&self, controller: &str, group: &Group) {
        let own = group.path.strip_prefix(&self.path).expect("a cgroup of this tree");
        let names: Vec<&str> = own.split('/').collect();
        for depth in 1..names.len() {
            let parent = format!("{}{}", self.path, names[..depth].join("/"));
            write(&directory(&parent).join("cgroup.subtree_control"), &format!("+{controller}"));
        }
    }

    /// A container below a parent of its own in this tree.
    pub fn container_below(&self, parent: &str) -> Group {
        self.group(&format!("{parent}/docker/{}", container_id()))
    }
}

/// An id as Docker makes them.
pub fn container_id() -> String {
    // Spread over the digits, so that the beginnings of two ids differ.
    let digits = |salt: u64| (unique() ^ salt << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (1..=4).map(|salt| format!("{:016x}", digits(salt))).collect()
}

impl Group {
    pub fn directory(&self) -> PathBuf {
        directory(&self.path)
    }

    /// The last name of the path: the container's id.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// The id by which the kernel side knows it.
    pub fn id(&self) -> u64 {
        fs::metadata(self.directory()).expect("the cgroup is there").ino()
    }

    pub fn limited(self, mib: u64) -> Self {
        let file = if is_v1() { "memory.limit_in_bytes" } else { "memory.max" };
        self.set(file, &(mib << 20).to_string());
        self
    }

    pub fn set(&self, file: &str, value: &str) {
        write(&self.directory().join(file), value);
    }

    pub fn get(&self, file: &str) -> String {
        let file = self.directory().join(file);
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    }

    /// What is charged to it now.
    pub fn usage_bytes(&self) -> u64 {
        let file = if is_v1() { "memory.usage_in_bytes" } else { "memory.current" };
        self.get(file).trim().parse().expect("a number")
    }

    /// Kills that the kernel counted here.
    pub fn kills(&self) -> u64 {
        let text = self.get(if is_v1() { "memory.oom_control" } else { "memory.events" });
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok());
        count.expect("a count of kills")
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let mut all = Vec::new();
        below(&directory(&self.path), &mut all);
        for at in &all {
            let _ = fs::write(at.join("memory.oom_control"), "0"); // else who waits for memory cannot be killed on some kernels
        }
        let gone = || {
            // Whatever is in here was put here by this test.
            for pid in all.iter().flat_map(|at| processes(at)) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            // The innermost first.
            let left = all.iter().rev().filter(|at| fs::remove_dir(at).is_err() && at.exists()).count();
            (left == 0).then_some(())
        };
        if std::thread::panicking() {
            // The test has failed already: a second panic would end the program.
            let _ = std::panic::catch_unwind(|| wait_until("the cgroups to be empty", gone));
        } else {
            wait_until("the cgroups to be empty", gone);
        }
    }
}

/// A directory and all below it, outermost first.
fn below(top: &Path, all: &mut Vec<PathBuf>) {
    all.push(top.to_owned());
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            below(&entry.path(), all);
        }
    }
}

fn processes(cgroup: &Path) -> Vec<i32> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}

fn directory(path: &str) -> PathBuf {
    mount().join(path.trim_start_matches('/'))
}

fn make(path: &str) {
    let directory = directory(path);
    match fs::create_dir(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => panic!("{}: {error}", directory.display()),
        _ => {}
    }
}

fn write(file: &Path, value: &str) {
    fs::write(file, value).unwrap_or_else(|error| panic!("{value:?} into {}: {error}", file.display()));
}
