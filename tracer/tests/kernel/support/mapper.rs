//! A device-mapper target that can be suspended: what is asked of it then waits.

use std::{ffi::OsString, fs, path::Path};

use super::{disk::run, unique};

pub struct Mapped(String);

impl Mapped {
    /// Reads zeros, and forgets what is written.
    pub fn zero(mib: u64) -> Self {
        let _ = std::process::Command::new("modprobe").arg("dm-zero").output(); // it may be built in
        let name = format!("ctrace-test-{:x}", unique());
        dmsetup(&["create", &name, "--table", &format!("0 {} zero", mib << 11)]);
        Self(name)
    }

    /// `/dev/dm-0`: the kernel's own name of it.
    pub fn device(&self) -> String {
        let devices = fs::read_dir("/sys/block").expect("/sys").flatten().map(|entry| entry.file_name());
        let own = |name: &OsString| {
            let file = Path::new("/sys/block").join(name).join("dm/name");
            fs::read_to_string(file).is_ok_and(|name| name.trim() == self.0)
        };
        format!("/dev/{}", devices.into_iter().find(own).expect("the device").display())
    }

    /// Until what is given back is dropped.
    #[must_use]
    pub fn suspend(&self) -> Suspended {
        dmsetup(&["suspend", "--noflush", "--nolockfs", &self.0]);
        Suspended(self.0.clone())
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let _ = std::process::Command::new("dmsetup").args(["--noudevsync", "remove", "--retry", &self.0]).output();
    }
}

pub struct Suspended(String);

impl Drop for Suspended {
    fn drop(&mut self) {
        let _ = std::process::Command::new("dmsetup").args(["--noudevsync", "resume", &self.0]).output();
    }
}

/// Nobody answers for udev in a virtual machine.
fn dmsetup(arguments: &[&str]) {
    run("dmsetup", &[&["--noudevsync"], arguments].concat());
}
