//! The kernel's own report of a kill: the truth that `ctrace` is measured by.

use std::path::Path;

use tracer::history::{
    kmsg,
    report::{self, OomReport},
};

use super::wait_until;

/// The report of the decision that killed this process (or thread).
pub fn report_of(pid: u64) -> OomReport {
    wait_until(&format!("the kernel to log the kill of {pid}"), || {
        let mut records = Vec::new();
        kmsg::read(Path::new(kmsg::DEVICE), |raw| records.extend(kmsg::parse(raw))).expect("the kernel log");
        let reports = report::reports(&records).reports;
        // Pids come again: the latest.
        reports.into_iter().rev().find(|report| report.victims.iter().any(|victim| u64::from(victim.pid) == pid))
    })
}
