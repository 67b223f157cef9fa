//! Podman as root, with storage of its own.

use std::process::Command;

use super::{Place, find, output, run};

pub struct Podman {
    pub place: Place,
}

pub const IMAGE: &str = "localhost/bb:1";

impl Podman {
    pub fn new() -> Self {
        Self::with("cgroupfs", "runc")
    }

    pub fn with(cgroup_manager: &str, runtime: &str) -> Self {
        let place = Place::new();
        // The defaults ask for more open files than a machine without CAP_SYS_RESOURCE gives.
        let config = format!(
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n[engine]\n\
             cgroup_manager = \"{cgroup_manager}\"\nruntime = \"{runtime}\"\nevents_logger = \"none\"\n"
        );
        place.write("containers.conf", &config);
        let podman = Self { place };
        run(podman.command(&["import", "--quiet"]).arg(podman.place.tar()).arg(IMAGE));
        podman
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut podman = Command::new(find("podman"));
        podman.env("CONTAINERS_CONF", self.place.dir.join("containers.conf"));
        podman.arg("--root").arg(self.place.dir.join("storage")).arg("--runroot").arg(self.place.dir.join("run"));
        podman.arg("--tmpdir").arg(self.place.dir.join("tmp"));
        podman.args(["--storage-driver", "vfs"]).args(arguments);
        // conmon leaves a file `oom` where it was started.
        podman.current_dir(&self.place.dir);
        podman
    }

    pub fn run(&self, arguments: &[&str]) -> String {
        run(&mut self.command(arguments))
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = output(&mut self.command(&["rm", "--all", "--force", "--time", "0"]));
        let _ = output(&mut self.command(&["pod", "rm", "--all", "--force"]));
    }
}
