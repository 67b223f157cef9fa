//! LXC, with containers in a directory of this test's own.

use std::process::Command;

use super::{Place, find, output, run};

pub struct Lxc {
    place: Place,
    pub name: String,
}

impl Lxc {
    /// Starts a container in the background.
    pub fn start(name: &str, program: &str) -> Self {
        let place = Place::new();
        let rootfs = place.rootfs();
        // LXC takes the mode 0700 to what its standard files are, unless they are the container's own /dev/null: without
        // the host's one in there, that would be the host's.
        let config = format!(
            "lxc.uts.name = box\nlxc.rootfs.path = dir:{}\nlxc.net.0.type = empty\nlxc.init.cmd = {program}\n\
             lxc.mount.auto = proc:mixed\nlxc.autodev = 0\n\
             lxc.mount.entry = /dev/null dev/null none bind,create=file 0 0\nlxc.apparmor.profile = unconfined\n\
             lxc.cap.drop = sys_module\nlxc.signal.halt = SIGQUIT\n",
            rootfs.display()
        );
        place.write(&format!("lxc/{name}/config"), &config);
        let lxc = Self { place, name: name.to_owned() };
        let mode = || std::fs::metadata("/dev/null").expect("a device").permissions();
        let before = mode();
        run(lxc.command("lxc-start").arg("--daemon"));
        if mode() != before {
            std::fs::set_permissions("/dev/null", before).expect("to be root");
            panic!("LXC changed the mode of the host's /dev/null");
        }
        lxc
    }

    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(find(program));
        command.arg("--lxcpath").arg(self.place.dir.join("lxc")).args(["--name", &self.name]);
        command
    }

    /// Where its rootfs is, as its file states it.
    pub fn image(&self) -> String {
        format!("dir:{}", self.place.rootfs().display())
    }
}

impl Drop for Lxc {
    fn drop(&mut self) {
        let _ = output(self.command("lxc-stop").arg("--kill"));
    }
}
