//! A device-mapper target that can be suspended: what is asked of it then waits.

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

    pub fn device(&self) -> String {
        format!("/dev/mapper/{}", self.0)
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
