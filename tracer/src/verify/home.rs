//! A run's own directory, and the end of what is in it: also of what a run left that was killed before it could clean up.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::containers::Mount;

/// Where they are, one for each process.
const ABOVE: &str = "/run";
const NAME: &str = "ctrace-verify-";
/// Rounds of killing: what is killed may fork meanwhile, and takes a moment to go.
const ROUNDS: usize = 100;

/// Locked for as long as its process lives, however that ends: one that nobody holds is left over.
pub struct Home {
    pub path: PathBuf,
    _lock: File,
}

impl Home {
    /// # Errors
    /// It cannot be made: nobody is root, or /run is read-only.
    pub fn make() -> Result<Self> {
        clear_leftovers();
        let path = Path::new(ABOVE).join(format!("{NAME}{}", std::process::id()));
        let making = || format!("making {} (run it as root)", path.display());
        fs::create_dir(&path).with_context(making)?;
        let lock = File::open(&path).with_context(making)?;
        lock.lock().with_context(making)?;
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// What the container of this process's trial is called.
pub fn trial(number: u32) -> String {
    format!("{NAME}{}-{number}", std::process::id())
}

/// The cgroup of a trial: at the top, since the runtime removes the last level alone, and in a form that is known as a
/// container's, by ctrace too.
pub fn cgroup(name: &str) -> String {
    format!("/runc-{name}.scope")
}

fn clear_leftovers() {
    for entry in fs::read_dir(ABOVE).into_iter().flatten().flatten() {
        let Some(pid) = owner(&entry.file_name().to_string_lossy()) else { continue };
        let Ok(directory) = File::open(entry.path()) else { continue };
        if directory.try_lock().is_ok() {
            end(|trial| owner(trial) == Some(pid));
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Whose a directory is, or a trial.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(NAME)?.split('-').next()?.parse().ok()
}

/// Kills what runs in the cgroups of these trials, and removes them.
pub fn end(trials: impl Fn(&str) -> bool) {
    let hierarchies = hierarchies(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
    for _ in 0..ROUNDS {
        let mut groups = Vec::new();
        for entry in hierarchies.iter().filter_map(|path| fs::read_dir(path).ok()).flatten().flatten() {
            let name = entry.file_name();
            let trial = name.to_str().and_then(|name| name.strip_prefix("runc-")?.strip_suffix(".scope"));
            if trial.is_some_and(&trials) {
                within(&entry.path(), &mut groups);
            }
        }
        if groups.is_empty() {
            return;
        }
        for group in groups {
            let pids = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            for pid in pids.lines().filter_map(|pid| pid.parse::<i32>().ok()).filter(|pid| *pid > 0) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let _ = fs::remove_dir(group);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Where cgroups are mounted whole.
fn hierarchies(mountinfo: &str) -> Vec<PathBuf> {
    let mounts = mountinfo.lines().filter_map(Mount::of);
    let whole = mounts.filter(|mount| mount.root == "/" && matches!(mount.kind.as_str(), "cgroup" | "cgroup2"));
    whole.map(|mount| PathBuf::from(mount.at)).collect()
}

/// A cgroup and those below it, these first.
fn within(group: &Path, groups: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            within(&entry.path(), groups);
        }
    }
    groups.push(group.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_are_a_runs() {
        assert_eq!(owner("ctrace-verify-12"), Some(12));
        assert_eq!(owner(&trial(3)), Some(std::process::id()));
        assert_eq!(owner("ctrace-verify-x"), None);
        assert_eq!(owner("ctrace-verify-"), None);
        assert_eq!(owner("docker"), None);
        assert_eq!(cgroup("ctrace-verify-1-2"), "/runc-ctrace-verify-1-2.scope");
    }

    #[test]
    fn cgroups_that_are_mounted_whole() {
        let mountinfo = "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n\
                         31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                         32 24 0:27 /docker/x /mnt rw - cgroup cgroup rw,memory\n\
                         33 24 0:28 / /run rw - tmpfs tmpfs rw\n";
        assert_eq!(hierarchies(mountinfo), [Path::new("/sys/fs/cgroup"), Path::new("/sys/fs/cgroup/memory")]);
    }

    #[test]
    fn what_is_below_a_cgroup_comes_before_it() {
        let top = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(top.path().join("a/b")).expect("folders");
        fs::write(top.path().join("a/cgroup.procs"), "").expect("a file");
        let mut groups = Vec::new();
        within(&top.path().join("a"), &mut groups);
        assert_eq!(groups, [top.path().join("a/b"), top.path().join("a")]);
    }
}
