//! containerd with root and state of its own, and `ctr`.

use std::process::Command;

use super::{super::wait_until, Daemon, Place, find, output, run};

pub struct Containerd {
    socket: String,
    /// Ends after its containers, and before its files are removed.
    _daemon: Daemon,
    pub place: Place,
}

impl Containerd {
    pub fn start() -> Self {
        Self::with("disabled_plugins = [\"io.containerd.grpc.v1.cri\"]", "")
    }

    /// With its CRI plugin, for pods on the host's network: there is no other here.
    #[cfg(feature = "sockets")]
    pub fn with_cri(image: &str) -> Self {
        let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
        Self::with(
            "",
            &format!(
                "[{cri}]\nsandbox_image = \"{image}\"\nrestrict_oom_score_adj = true\ndisable_apparmor = true\n\
                 disable_hugetlb_controller = true\ntolerate_missing_hugetlb_controller = true\n\
                 [{cri}.containerd]\nsnapshotter = \"native\"\n"
            ),
        )
    }

    fn with(first: &str, last: &str) -> Self {
        let place = Place::new();
        let at = |name: &str| place.dir.join(name).display().to_string();
        let socket = at("containerd.sock");
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\n{first}\n[grpc]\naddress = \"{socket}\"\n\
             [ttrpc]\naddress = \"{socket}.ttrpc\"\n{last}\n",
            at("root"),
            at("state")
        );
        let config = place.write("containerd.toml", &config);
        let mut containerd = Command::new(find("containerd"));
        containerd.arg("--config").arg(config);
        let daemon = Daemon::start(containerd, place.dir.join("containerd.log"));
        let containerd = Self { socket, _daemon: daemon, place };
        wait_until("containerd", || output(&mut containerd.command(&["version"])).status.success().then_some(()));
        containerd
    }

    #[cfg(feature = "sockets")]
    pub fn socket(&self) -> &str {
        &self.socket
    }

    /// An image of the root file system, for the plugin as well.
    #[cfg(feature = "sockets")]
    pub fn import(&self, image: &str) {
        let archive = self.place.image(image);
        run(self.command(&["--namespace", "k8s.io", "images", "import", "--snapshotter", "native"]).arg(archive));
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut ctr = Command::new(find("ctr"));
        ctr.args(["--address", &self.socket]).args(arguments);
        ctr
    }

    /// `ctr run` of the root file system; ends with the container, unless it is detached.
    pub fn run(&self, id: &str, options: &[&str], program: &[&str]) -> std::process::Output {
        let mut ctr = self.command(&["run", "--rootfs"]);
        ctr.args(options).arg(self.place.rootfs()).arg(id).args(program);
        output(&mut ctr)
    }

    pub fn detached(&self, id: &str, options: &[&str], program: &[&str]) {
        let mut ctr = self.command(&["run", "--detach", "--rootfs"]);
        ctr.args(options).arg(self.place.rootfs()).arg(id).args(program);
        run(&mut ctr);
    }

    pub fn remove(&self, id: &str) {
        let _ = output(&mut self.command(&["tasks", "kill", "--signal", "SIGKILL", id]));
        wait_until(&format!("the task {id} to be gone"), || {
            let removed = output(&mut self.command(&["tasks", "rm", "--force", id])).status.success();
            let list = output(&mut self.command(&["tasks", "list", "--quiet"])).stdout;
            (removed || !String::from_utf8_lossy(&list).lines().any(|line| line == id)).then_some(())
        });
        let _ = output(&mut self.command(&["containers", "rm", id]));
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for namespace in ["default", "k8s.io"] {
            let list = output(&mut self.command(&["--namespace", namespace, "tasks", "list", "--quiet"])).stdout;
            for id in String::from_utf8_lossy(&list).lines() {
                let _ = output(&mut self.command(&["--namespace", namespace, "tasks", "rm", "--force", id]));
                let _ = output(&mut self.command(&["--namespace", namespace, "containers", "rm", id]));
            }
        }
    }
}
