//! Cgroups with an io (v1: blkio) controller: on v1 in a hierarchy of their own, with the same paths.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    cgroups::{Group, Tree, is_v1},
    player::Player,
    wait_until,
};

const V1: &str = "/sys/fs/cgroup/blkio";

/// A [`Tree`] whose groups have an io controller too.
pub struct IoTree {
    pub tree: Tree,
    /// v1: the directories made in the blkio hierarchy, outermost first.
    made: Mutex<Vec<PathBuf>>,
}

fn directory(group: &Group) -> PathBuf {
    if is_v1() { Path::new(V1).join(group.path.trim_start_matches('/')) } else { group.directory() }
}

impl IoTree {
    pub fn new() -> Self {
        Self { tree: Tree::new(), made: Mutex::default() }
    }

    pub fn container(&self) -> Group {
        self.with_io(self.tree.container())
    }

    /// A cgroup of the host: no container's.
    pub fn host(&self, name: &str) -> Group {
        self.with_io(self.tree.group(name))
    }

    fn with_io(&self, group: Group) -> Group {
        if !is_v1() {
            let root = Path::new("/sys/fs/cgroup/cgroup.subtree_control");
            fs::write(root, "+io").expect("the io controller");
            let top = group.path.split('/').nth(1).expect("a path");
            fs::write(format!("/sys/fs/cgroup/{top}/cgroup.subtree_control"), "+io").expect("the io controller");
            self.tree.enable("io", &group);
            return group;
        }
        let mut at = PathBuf::from(V1);
        for name in group.path.split('/').filter(|name| !name.is_empty()) {
            at.push(name);
            if fs::create_dir(&at).is_ok() {
                self.made.lock().expect("nobody panics with it").push(at.clone());
            }
        }
        group
    }
}

impl Drop for IoTree {
    fn drop(&mut self) {
        let made = std::mem::take(self.made.get_mut().expect("nobody panics with it"));
        let gone = || {
            let processes = |at: &PathBuf| fs::read_to_string(at.join("cgroup.procs")).unwrap_or_default();
            // Whatever is in here was put here by this test.
            for pid in
                made.iter().map(processes).flat_map(|text| text.lines().map(str::parse).collect::<Vec<_>>()).flatten()
            {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            (made.iter().rev().filter(|at| fs::remove_dir(at).is_err() && at.exists()).count() == 0).then_some(())
        };
        if std::thread::panicking() {
            let _ = std::panic::catch_unwind(|| wait_until("the blkio cgroups to be empty", gone));
        } else {
            wait_until("the blkio cgroups to be empty", gone);
        }
    }
}

/// At most so many bytes a second written to a device; 0: as many as it can.
pub fn limit_writes(group: &Group, device: &str, bytes: u64) {
    let (file, text) = match bytes {
        _ if is_v1() => ("blkio.throttle.write_bps_device", format!("{device} {bytes}")),
        0 => ("io.max", format!("{device} wbps=max")),
        _ => ("io.max", format!("{device} wbps={bytes}")),
    };
    let file = directory(group).join(file);
    fs::write(&file, &text).unwrap_or_else(|error| panic!("{text:?} into {}: {error}", file.display()));
}

/// Gives the cgroup that share of each device by the files that this kernel has, which it names: io.cost's and BFQ's.
pub fn weigh(group: &Group, weight: u32) -> Vec<&'static str> {
    let names = if is_v1() { &["blkio.bfq.weight_device"][..] } else { &["io.weight", "io.bfq.weight"] };
    let own = |name: &&&str| directory(group).join(name).exists();
    let found: Vec<&str> = names.iter().filter(own).copied().collect();
    for name in &found {
        fs::write(directory(group).join(name), format!("default {weight}"))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    found
}

/// Plays the steps in a cgroup, its io controller included.
pub fn play(group: &Group, steps: &[&str]) -> Player {
    let enter = format!("enter={}", directory(group).display());
    Player::within(group, &std::iter::once(enter.as_str()).chain(steps.iter().copied()).collect::<Vec<_>>())
}
