//! Containers of LXC, without a /dev of the host's: LXC changes the owner of what it finds there.

use std::process::{Command, Stdio};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::{super::unique, Place, find, run};

pub struct Lxc {
    pub name: String,
    path: std::path::PathBuf,
    place: Place,
}

impl Lxc {
    /// Starts one with this program as its PID 1.
    pub fn started(memory: u64, program: &[&str]) -> Self {
        let place = Place::new();
        let name = format!("lxc-{:x}", unique());
        let path = place.dir.join("lxc");
        let controller = if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            "lxc.cgroup2.memory.max"
        } else {
            "lxc.cgroup.memory.limit_in_bytes"
        };
        let root = place.rootfs();
        let config = format!(
            "lxc.uts.name = {name}\nlxc.rootfs.path = dir:{}\nlxc.net.0.type = none\nlxc.autodev = 0\n\
             lxc.mount.auto = proc:rw\nlxc.tty.max = 0\nlxc.pty.max = 1\nlxc.apparmor.profile = unconfined\n\
             {controller} = {memory}\n",
            root.display()
        );
        place.write(&format!("lxc/{name}/config"), &config);
        let zero = (Mode::from_bits_truncate(0o666), makedev(1, 5));
        mknod(&root.join("dev/zero"), SFlag::S_IFCHR, zero.0, zero.1).expect("a device of its own");
        let lxc = Self { name, path, place };
        let log = lxc.place.dir.join("lxc.log");
        let mut start = lxc.command("lxc-start");
        start.arg("--daemon").arg("-o").arg(&log).arg("--").args(program);
        // Its files are no device of the host's.
        let status =
            start.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).status().expect("lxc-start");
        assert!(status.success(), "{}", std::fs::read_to_string(log).unwrap_or_default());
        lxc
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(find(program));
        command.arg("-P").arg(&self.path).arg("-n").arg(&self.name);
        command
    }

    /// Its PID 1, as the host counts.
    pub fn init(&self) -> i32 {
        run(self.command("lxc-info").args(["-p", "-H"])).trim().parse().expect("a pid")
    }
}

impl Drop for Lxc {
    fn drop(&mut self) {
        let _ = self.command("lxc-stop").arg("-k").output();
    }
}
