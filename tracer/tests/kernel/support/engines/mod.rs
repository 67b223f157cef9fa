//! Container engines, from the distribution's packages: started by a test with data roots of its own, ended by it, and
//! what they leave behind removed.

pub mod containerd;
pub mod docker;
pub mod lxc;
pub mod podman;
pub mod runc;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{unique, wait_until};
use crate::harness::detail;

/// Programs of the image.
const APPLETS: [&str; 8] = ["sh", "sleep", "dd", "true", "cat", "echo", "kill", "head"];
/// Parents that engines make at the top of a hierarchy, and leave there.
const PARENTS: [&str; 6] = ["docker", "default", "libpod_parent", "conmon", "kubepods", "lxc.pivot"];

/// A directory of this test's own, with a root file system in it: busybox, and nothing else. It goes with the test, and so
/// do mounts below it, and cgroups that engines left.
pub struct Place {
    pub dir: PathBuf,
    /// Parents in cgroup hierarchies that were not here before.
    parents: Vec<PathBuf>,
}

impl Place {
    pub fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("ctrace-engines-{:x}", unique()));
        let root = dir.join("rootfs");
        for name in ["bin", "proc", "sys", "dev", "etc", "tmp", "root"] {
            fs::create_dir_all(root.join(name)).expect("a root file system");
        }
        fs::copy(find("busybox"), root.join("bin/busybox")).expect("busybox");
        for name in APPLETS {
            symlink("busybox", root.join("bin").join(name)).expect("an applet");
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("users");
        let parents = hierarchies()
            .into_iter()
            .flat_map(|mount| PARENTS.map(|name| mount.join(name)))
            .filter(|parent| !parent.exists())
            .collect();
        Self { dir, parents }
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// A program of the host's in the root file system, with the libraries that it wants.
    pub fn add_program(&self, name: &str) {
        let program = find(name);
        let libraries = run(Command::new(find("ldd")).arg(&program));
        let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
        for (from, to) in libraries.map(|file| (file.clone(), file)).chain([(program, Path::new("/bin").join(name))]) {
            let to = self.rootfs().join(to.strip_prefix("/").expect("from the root"));
            fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
            fs::copy(from, to).expect("a copy");
        }
    }

    /// The root file system as engines import it.
    pub fn tar(&self) -> PathBuf {
        let tar = self.dir.join("image.tar");
        if !tar.exists() {
            run(Command::new(find("tar")).arg("-C").arg(self.rootfs()).arg("-cf").arg(&tar).arg("."));
        }
        tar
    }

    /// An archive with one image, in the form of `docker save`.
    #[cfg(feature = "sockets")]
    pub fn image(&self, name: &str) -> PathBuf {
        let layer = self.tar();
        let sum = run(Command::new(find("sha256sum")).arg(&layer));
        let sum = sum.split_whitespace().next().expect("a sum");
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Entrypoint": ["/bin/sleep", "600"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{sum}")]},
        });
        let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
        self.write("archive/config.json", &config.to_string());
        self.write("archive/manifest.json", &manifest.to_string());
        let parts = self.dir.join("archive");
        fs::copy(&layer, parts.join("layer.tar")).expect("a layer");
        let archive = self.dir.join("archive.tar");
        run(Command::new(find("tar")).arg("-C").arg(parts).arg("-cf").arg(&archive).arg("."));
        archive
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.dir.join(name);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(&file, text).expect("a file");
        file
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let below =
            mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|at| Path::new(at).starts_with(&self.dir));
        for at in below.collect::<Vec<_>>().into_iter().rev() {
            let _ = umount2(at, MntFlags::MNT_DETACH);
        }
        let _ = fs::remove_dir_all(&self.dir);
        for parent in &self.parents {
            let _ = fs::remove_dir(parent); // empty, else somebody else uses it by now
        }
    }
}

fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let of_cgroups = |line: &&str| line.contains(" - cgroup");
    mounts.lines().filter(of_cgroups).filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}

/// A program's path.
pub fn find(name: &str) -> PathBuf {
    installed(name).unwrap_or_else(|| panic!("{name} is not installed"))
}

pub fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin";
    path.split(':').map(|dir| Path::new(dir).join(name)).find(|file| file.is_file())
}

/// Runs to its end.
pub fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs to its end, which must be good; gives what it wrote.
pub fn run(command: &mut Command) -> String {
    let output = output(command);
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    assert!(output.status.success(), "{command:?}: {}: {}", output.status, said(&output.stderr));
    said(&output.stdout)
}

/// A daemon of this test.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub fn start(mut command: Command, log: PathBuf) -> Self {
        let file = fs::File::create(&log).expect("a log");
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a log")).stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let child = &mut self.child;
        let ended = || wait_until("the daemon to end", || child.try_wait().expect("a child"));
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(ended)).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(15).collect();
            detail(format!("{}, newest first:\n{}", self.log.display(), last.join("\n")));
        }
    }
}
