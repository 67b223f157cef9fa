//! Cgroups with a pids limit: on v1 in a hierarchy of their own, with the same paths.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    cgroups::{Group, Tree},
    player::Player,
    wait_until,
};

const V1: &str = "/sys/fs/cgroup/pids";
const V2: &str = "/sys/fs/cgroup";

/// A [`Tree`] whose groups have a pids controller too.
pub struct PidsTree {
    tree: Tree,
    /// v1: the directories made in the pids hierarchy, outermost first.
    made: std::sync::Mutex<Vec<PathBuf>>,
}

fn is_v1() -> bool {
    Path::new(V1).join("cgroup.procs").exists()
}

fn directory(group: &Group) -> PathBuf {
    Path::new(if is_v1() { V1 } else { V2 }).join(group.path.trim_start_matches('/'))
}

impl PidsTree {
    pub fn new() -> Self {
        Self { tree: Tree::new(), made: std::sync::Mutex::default() }
    }

    pub fn container(&self) -> Group {
        self.with_pids(self.tree.container())
    }

    pub fn container_below(&self, parent: &str) -> Group {
        self.with_pids(self.tree.container_below(parent))
    }

    /// A group that `container_below` made.
    pub fn parent(&self, name: &str) -> Group {
        self.with_pids(self.tree.group(name))
    }

    fn with_pids(&self, group: Group) -> Group {
        let mut at = PathBuf::from(if is_v1() { V1 } else { V2 });
        for name in group.path.split('/').filter(|name| !name.is_empty()) {
            if !is_v1() {
                write(&at.join("cgroup.subtree_control"), "+pids");
            }
            at.push(name);
            if is_v1() && fs::create_dir(&at).is_ok() {
                self.made.lock().expect("nobody panics with it").push(at.clone());
            }
        }
        group
    }
}

impl Drop for PidsTree {
    fn drop(&mut self) {
        let made = std::mem::take(self.made.get_mut().expect("nobody panics with it"));
        let gone = || {
            // Whatever is in here was put here by this test.
            for pid in made.iter().flat_map(|at| processes(at)) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            (made.iter().rev().filter(|at| fs::remove_dir(at).is_err() && at.exists()).count() == 0).then_some(())
        };
        if std::thread::panicking() {
            let _ = std::panic::catch_unwind(|| wait_until("the pids cgroups to be empty", gone));
        } else {
            wait_until("the pids cgroups to be empty", gone);
        }
    }
}

fn processes(cgroup: &Path) -> Vec<i32> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}

fn write(file: &Path, value: &str) {
    fs::write(file, value).unwrap_or_else(|error| panic!("{value:?} into {}: {error}", file.display()));
}

/// At most so many tasks in it.
pub fn limit(group: &Group, tasks: u64) {
    write(&directory(group).join("pids.max"), &tasks.to_string());
}

pub fn current(group: &Group) -> u64 {
    let file = directory(group).join("pids.current");
    fs::read_to_string(file).expect("a counter").trim().parse().expect("a number")
}

/// Plays the steps in a cgroup, its pids controller included.
pub fn play(group: &Group, steps: &[&str]) -> Player {
    let enter = format!("enter={}", directory(group).display());
    Player::within(group, &std::iter::once(enter.as_str()).chain(steps.iter().copied()).collect::<Vec<_>>())
}
