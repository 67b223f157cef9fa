//! dockerd on a data root of its own. No bridge, no firewall rules: nothing of the machine changes.

use std::process::Command;

use super::{super::wait_until, Daemon, Place, find, output, run};

pub struct Docker {
    socket: String,
    /// Ends after its containers, and before its files are removed.
    _daemon: Daemon,
    pub place: Place,
}

pub const IMAGE: &str = "bb:1";

impl Docker {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With more options for the daemon.
    pub fn with(options: &[&str]) -> Self {
        let place = Place::new();
        let at = |name: &str| place.dir.join(name);
        let socket = format!("unix://{}", at("docker.sock").display());
        let mut dockerd = Command::new(find("dockerd"));
        dockerd.arg("--data-root").arg(at("data")).arg("--exec-root").arg(at("exec")).arg("--pidfile").arg(at("pid"));
        dockerd.args(["--host", &socket, "--iptables=false", "--bridge=none", "--storage-driver", "vfs"]).args(options);
        let daemon = Daemon::start(dockerd, at("dockerd.log"));
        let docker = Self { socket, _daemon: daemon, place };
        wait_until("dockerd", || {
            output(docker.command(&["version"]).arg("--format={{.Server.Version}}")).status.success().then_some(())
        });
        run(docker.command(&["import"]).arg(docker.place.tar()).arg(IMAGE));
        docker
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut docker = Command::new(find("docker"));
        docker.args(["--host", &self.socket]).args(arguments);
        docker
    }

    pub fn run(&self, arguments: &[&str]) -> String {
        run(&mut self.command(arguments))
    }

    /// Starts a container in the background, without a network unless `options` give it one; gives its id.
    pub fn detached(&self, name: &str, options: &[&str], program: &[&str]) -> String {
        let mut arguments = vec!["run", "--detach", "--name", name];
        arguments.extend(options);
        if !options.contains(&"--network") {
            arguments.extend(["--network", "none"]);
        }
        arguments.push(IMAGE);
        arguments.extend(program);
        self.run(&arguments)
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let all = output(&mut self.command(&["ps", "--all", "--quiet"])).stdout;
        let all = String::from_utf8_lossy(&all).into_owned();
        let ids: Vec<&str> = all.split_whitespace().collect();
        if !ids.is_empty() {
            let _ = output(self.command(&["rm", "--force"]).args(&ids));
        }
    }
}
