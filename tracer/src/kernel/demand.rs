//! Hot hooks that are attached only while somebody looks: their programs are loaded with the others, and cost nothing.

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf,
    programs::{
        BtfTracePoint, FExit, KProbe, RawTracePoint, fexit::FExitLink, kprobe::KProbeLink,
        raw_trace_point::RawTracePointLink, tp_btf::BtfTracePointLink,
    },
};

use super::{
    load::Kernel,
    plan::{Hook, Probe, Taken, entry_of},
    targets::{self, Target},
};

/// A probe that comes and goes.
pub(super) struct OnDemand {
    probe: &'static str,
    program: &'static str,
    hook: Hook,
    link: Option<Link>,
}

/// Dropped, it is detached.
#[expect(dead_code, reason = "held, and never looked at")]
enum Link {
    Tracepoint(RawTracePointLink),
    Typed(BtfTracePointLink),
    Return(FExitLink),
    Pair(KProbeLink, KProbeLink),
}

impl OnDemand {
    /// `None`: no way to attach it works here, or by none that comes and goes.
    pub(super) fn of(taken: &Taken) -> Option<Self> {
        let branch = taken.branch?;
        let can_wait = matches!(
            branch.hook,
            Hook::RawTracepoint(_) | Hook::TypedTracepoint(_) | Hook::Fexit(_) | Hook::KprobePair(_)
        );
        can_wait.then_some(Self { probe: taken.probe.name, program: branch.program, hook: branch.hook, link: None })
    }

    pub(super) fn is_idle(&self, probe: &str) -> bool {
        self.probe == probe && self.link.is_none()
    }

    fn attach(&mut self, ebpf: &mut Ebpf, targets: &[Target]) -> Result<()> {
        self.link =
            Some(link(ebpf, targets, self.program, self.hook).with_context(|| format!("attaching {}", self.hook))?);
        Ok(())
    }
}

fn link(ebpf: &mut Ebpf, targets: &[Target], name: &str, hook: Hook) -> Result<Link> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
    Ok(match hook {
        Hook::RawTracepoint(tracepoint) => {
            let program: &mut RawTracePoint = program.try_into()?;
            let id = program.attach(tracepoint)?;
            Link::Tracepoint(program.take_link(id)?)
        }
        Hook::TypedTracepoint(_) => {
            let program: &mut BtfTracePoint = program.try_into()?;
            let id = program.attach()?;
            Link::Typed(program.take_link(id)?)
        }
        Hook::Fexit(function) => {
            let program: &mut FExit = program.try_into()?;
            let id = if let Ok(id) = program.attach() {
                id
            } else {
                // Before 5.13 a program that was attached once is attached no more.
                program.unload()?;
                program.load(function, &targets::btf_of(targets)?)?;
                program.attach()?
            };
            Link::Return(program.take_link(id)?)
        }
        Hook::KprobePair(function) => {
            let mut kprobe = |name: &str| -> Result<KProbeLink> {
                let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
                let program: &mut KProbe = program.try_into()?;
                let id = program.attach(function, 0)?;
                Ok(program.take_link(id)?)
            };
            Link::Pair(kprobe(name)?, kprobe(&entry_of(name))?)
        }
        other => bail!("{other} does not come and go"),
    })
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
            .try_for_each(|own| own.attach(&mut self.ebpf, &self.targets));
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
