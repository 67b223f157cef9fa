//! Hot hooks that are attached only while somebody looks: their programs are loaded with the others, and cost nothing.

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    programs::{RawTracePoint, raw_trace_point::RawTracePointLink},
};

use super::{
    load::Kernel,
    plan::{Hook, Probe, Taken},
};

/// A probe that comes and goes.
pub(super) struct OnDemand {
    probe: &'static str,
    program: &'static str,
    tracepoint: &'static str,
    /// Dropped, it is detached.
    link: Option<RawTracePointLink>,
}

impl OnDemand {
    /// `None`: no way to attach it works here, or it is no tracepoint.
    pub(super) fn of(taken: &Taken) -> Option<Self> {
        let branch = taken.branch?;
        let Hook::RawTracepoint(tracepoint) = branch.hook else { return None };
        Some(Self { probe: taken.probe.name, program: branch.program, tracepoint, link: None })
    }

    pub(super) fn is_idle(&self, probe: &str) -> bool {
        self.probe == probe && self.link.is_none()
    }

    fn attach(&mut self, ebpf: &mut Ebpf) -> Result<()> {
        let program = ebpf.program_mut(self.program).with_context(|| format!("no program {}", self.program))?;
        let program: &mut RawTracePoint = program.try_into()?;
        let id = program.attach(self.tracepoint).with_context(|| format!("attaching {}", self.tracepoint))?;
        self.link = Some(program.take_link(id)?);
        Ok(())
    }
}

impl Kernel {
    /// Could these be attached, and is one of them not?
    pub fn is_idle(&self, probes: &[&Probe]) -> bool {
        probes.iter().any(|probe| self.on_demand.iter().any(|own| own.is_idle(probe.name)))
    }

    /// Attaches those that are not. Needs the privileges to load programs.
    ///
    /// # Errors
    /// The kernel refuses: then none of them is attached.
    pub fn begin(&mut self, probes: &[&Probe]) -> Result<()> {
        let attached = self
            .on_demand
            .iter_mut()
            .filter(|own| probes.iter().any(|probe| own.is_idle(probe.name)))
            .try_for_each(|own| own.attach(&mut self.ebpf));
        if attached.is_err() {
            self.end(probes);
        }
        attached
    }

    /// Detaches those that come and go.
    pub fn end(&mut self, probes: &[&Probe]) {
        for own in &mut self.on_demand {
            if probes.iter().any(|probe| probe.name == own.probe) {
                own.link = None;
            }
        }
    }
}
