//! Cgroups with a share of the CPUs: on v1 in hierarchies of their own, with the same paths.

use std::{
    fs,
    path::{Path, PathBuf},
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

/// v1's hierarchies that matter here.
const V1: [&str; 3] = ["cpu", "cpuacct", "freezer"];
/// As many as v1 knows.
const MOST_SHARES: u64 = 262_144;
const MOUNT: &str = "/sys/fs/cgroup";

/// A [`Tree`] whose groups have a cpu controller too, and on v1 a freezer.
pub struct CpuTree {
    tree: Tree,
    /// v1: the directories made beside, outermost first.
    made: std::sync::Mutex<Vec<PathBuf>>,
}

fn hierarchies() -> Vec<PathBuf> {
    if is_v1() { V1.map(|name| Path::new(MOUNT).join(name)).to_vec() } else { vec![MOUNT.into()] }
}

fn directories(group: &Group) -> impl Iterator<Item = PathBuf> {
    let path = group.path.trim_start_matches('/').to_owned();
    hierarchies().into_iter().map(move |mount| mount.join(&path))
}

/// Of the cpu controller.
fn directory(group: &Group) -> PathBuf {
    directories(group).next().expect("a hierarchy")
}

/// This test, and what it starts: beside a tree that has nearly all of the weight neither it nor ctrace would run on a busy machine.
fn be_nice(nice: i32) {
    // SAFETY: no memory is passed.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
}

impl CpuTree {
    pub fn new() -> Self {
        if is_v1() {
            be_nice(-20);
        }
        Self { tree: Tree::new(), made: std::sync::Mutex::default() }
    }

    pub fn container(&self) -> Group {
        self.with_cpu(self.tree.container())
    }

    pub fn container_below(&self, parent: &str) -> Group {
        self.with_cpu(self.tree.container_below(parent))
    }

    /// A group that `container_below` made.
    pub fn parent(&self, name: &str) -> Group {
        self.with_cpu(self.tree.group(name))
    }

    fn with_cpu(&self, group: Group) -> Group {
        for mut at in hierarchies() {
            for name in group.path.split('/').filter(|name| !name.is_empty()) {
                if !is_v1() {
                    write(&at.join("cgroup.subtree_control"), "+cpu");
                }
                at.push(name);
                if is_v1() && fs::create_dir(&at).is_ok() {
                    self.made.lock().expect("nobody panics with it").push(at.clone());
                }
                // Whatever else runs on this machine counts little against what a test compares. A virtual one has
                // nothing else but ctrace, and that must run.
                let file = at.join("cpu.shares");
                if is_v1() && !group.path.ends_with(name) && file.exists() {
                    write(&file, &MOST_SHARES.to_string());
                }
            }
        }
        group
    }
}

impl Drop for CpuTree {
    fn drop(&mut self) {
        be_nice(0);
        let made = std::mem::take(self.made.get_mut().expect("nobody panics with it"));
        let gone = || {
            for at in &made {
                // Whatever is in here was put here by this test.
                for pid in processes(at) {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
            (made.iter().rev().filter(|at| fs::remove_dir(at).is_err() && at.exists()).count() == 0).then_some(())
        };
        if std::thread::panicking() {
            let _ = std::panic::catch_unwind(|| wait_until("the cpu cgroups to be empty", gone));
        } else {
            wait_until("the cpu cgroups to be empty", gone);
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

/// At most so much CPU time in each 100 ms.
pub fn quota(group: &Group, ms: u64) {
    quota_of(group, ms, 100);
}

/// … in each period of so many ms.
pub fn quota_of(group: &Group, ms: u64, period_ms: u64) {
    let (quota, period) = (ms * 1000, period_ms * 1000);
    if is_v1() {
        write(&directory(group).join("cpu.cfs_period_us"), &period.to_string());
        write(&directory(group).join("cpu.cfs_quota_us"), &quota.to_string());
    } else {
        write(&directory(group).join("cpu.max"), &format!("{quota} {period}"));
    }
}

/// Its part of full CPUs, as v1 counts it: 1024 is what everybody has.
pub fn shares(group: &Group, shares: u64) {
    if is_v1() {
        write(&directory(group).join("cpu.shares"), &shares.to_string());
    } else {
        write(&directory(group).join("cpu.weight"), &weight(shares).to_string());
    }
}

/// What `ctrace` calls its weight.
pub fn weight(shares: u64) -> u64 {
    if is_v1() { shares } else { (shares * 100 / 1024).clamp(1, 10_000) }
}

/// (`nr_periods`, `nr_throttled`) of cpu.stat.
pub fn periods(group: &Group) -> (u64, u64) {
    let text = fs::read_to_string(directory(group).join("cpu.stat")).expect("cpu.stat");
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).expect("a number");
    (field("nr_periods "), field("nr_throttled "))
}

/// How long it was throttled, as cpu.stat says.
pub fn throttled_ns(group: &Group) -> u64 {
    let text = fs::read_to_string(directory(group).join("cpu.stat")).expect("cpu.stat");
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    field("throttled_time ").or_else(|| Some(field("throttled_usec ")? * 1000)).expect("a number")
}

/// Whoever is in it stands still until this is dropped: on v1 nobody dies before that.
#[must_use]
pub fn freeze(group: &Group) -> Frozen {
    let directory = directories(group).last().expect("a hierarchy");
    let (file, frozen, thawed) =
        if is_v1() { ("freezer.state", "FROZEN", "THAWED") } else { ("cgroup.freeze", "1", "0") };
    let file = directory.join(file);
    write(&file, frozen);
    Frozen { file, thawed }
}

pub struct Frozen {
    file: PathBuf,
    thawed: &'static str,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        write(&self.file, self.thawed);
    }
}

/// Plays the steps in a cgroup, its other controllers included.
pub fn play(group: &Group, steps: &[&str]) -> Player {
    let enter: Vec<String> = directories(group).map(|at| format!("enter={}", at.display())).collect();
    Player::within(group, &enter.iter().map(String::as_str).chain(steps.iter().copied()).collect::<Vec<_>>())
}
