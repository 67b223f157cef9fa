//! Bundles for a bare runc or crun.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use super::{super::unique, Place, find, output};

/// An OCI bundle, to be changed before it is run.
pub struct Bundle {
    runtime: &'static str,
    pub id: String,
    pub dir: PathBuf,
    pub config: Value,
}

impl Bundle {
    /// Runs `program` as PID 1 of its own namespaces, as the host's root.
    pub fn new(place: &Place, runtime: &'static str, id: &str, program: &[&str]) -> Self {
        // A /dev of its own: many share the root file system, and runtimes make devices.
        let mounts = json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        ]);
        let namespaces: Vec<Value> = ["pid", "mount", "ipc", "uts"].map(|kind| json!({"type": kind})).into();
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": 0, "gid": 0},
                "args": program,
                "env": ["PATH=/bin"],
                "cwd": "/",
                "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
            },
            "root": {"path": place.rootfs(), "readonly": false},
            "hostname": "test",
            "mounts": mounts,
            "linux": {"cgroupsPath": format!("/{id}"), "namespaces": namespaces},
        });
        Self { runtime, id: id.to_owned(), dir: place.dir.join(format!("bundle-{:x}", unique())), config }
    }

    pub fn command(&self, verb: &[&str]) -> Command {
        let mut runc = Command::new(find(self.runtime));
        runc.args(verb);
        runc
    }

    /// Writes the bundle; gives the command that runs it.
    pub fn runner(&self, options: &[&str]) -> Command {
        std::fs::create_dir_all(&self.dir).expect("a bundle");
        std::fs::write(self.dir.join("config.json"), self.config.to_string()).expect("a bundle");
        let mut runc = self.command(&["run"]);
        runc.args(options).arg("--bundle").arg(&self.dir).arg(&self.id);
        runc.stdin(Stdio::null());
        runc
    }

    /// Starts it in the background; gives the pid of its PID 1 as the host sees it.
    pub fn detached(&self) -> u64 {
        let file = self.dir.join("pid");
        let mut runc = self.runner(&["--detach", "--pid-file", &file.display().to_string()]);
        // Its descriptors become the container's: a pipe would be held open.
        let log = std::fs::File::create(self.dir.join("log")).expect("a log");
        runc.stdout(log.try_clone().expect("a log")).stderr(log);
        let status = runc.status().expect("it is installed");
        let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        assert!(status.success(), "{runc:?}: {status}: {log}");
        std::fs::read_to_string(file).expect("a pid").trim().parse().expect("a pid")
    }

    pub fn remove(&self) {
        let _ = output(&mut self.command(&["delete", "--force", &self.id]));
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.remove();
    }
}
