//! After attach, what is not needed any more is dropped: a bug in a parser must not be root's bug.

use anyhow::{Context, Result};
use caps::{CapSet, Capability, CapsHashSet};

/// To read another task's stack.
pub const STACKS: &[Capability] = &[Capability::CAP_SYS_ADMIN];
/// To attach what was loaded.
pub const ATTACH: &[Capability] = &[Capability::CAP_BPF, Capability::CAP_PERFMON];
/// To enter a network namespace; and the machine's own tools, which are asked for its rules, get no more than is permitted
/// here: nft needs the second, iptables both.
pub const NETWORKS: &[Capability] = &[Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW];

/// Keeps CAP_DAC_READ_SEARCH (files of containers) and CAP_SYS_PTRACE (/proc of containers), and never gains anything
/// again. `needs_bpf`: maps cannot be read without the privilege for it (kernels before 5.19), or more will be attached.
/// `permitted_too`: stay permitted, not effective, see [`with`].
pub fn drop_to(needs_bpf: bool, permitted_too: &[Capability]) -> Result<()> {
    let mut keep: CapsHashSet = [Capability::CAP_DAC_READ_SEARCH, Capability::CAP_SYS_PTRACE].into_iter().collect();
    if needs_bpf {
        keep.insert(Capability::CAP_BPF);
        keep.insert(Capability::CAP_PERFMON);
    }
    let permitted = caps::read(None, CapSet::Permitted).context("reading the own capabilities")?;
    // A kernel or a caller that never gave one of them: nothing to keep.
    let keep: CapsHashSet = keep.intersection(&permitted).copied().collect();
    nix::sys::prctl::set_no_new_privs().context("setting no_new_privs")?;
    caps::clear(None, CapSet::Ambient).context("dropping ambient capabilities")?;
    caps::set(None, CapSet::Effective, &keep).context("dropping capabilities")?;
    let mut keep = keep;
    keep.extend(permitted_too.iter().filter(|cap| permitted.contains(cap)));
    caps::set(None, CapSet::Permitted, &keep).context("dropping capabilities")?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new()).context("dropping capabilities")?;
    Ok(())
}

/// Lowers the effective set alone, to try what works without; [`drop_to`] makes it final, [`raise`] undoes it.
pub fn lower_bpf() -> Result<()> {
    for cap in [Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_SYS_ADMIN] {
        caps::drop(None, CapSet::Effective, cap).context("lowering capabilities")?;
    }
    Ok(())
}

pub fn raise() -> Result<()> {
    let permitted = caps::read(None, CapSet::Permitted).context("reading the own capabilities")?;
    caps::set(None, CapSet::Effective, &permitted).context("raising capabilities")
}

/// The kernel shows another task's stack to CAP_SYS_ADMIN alone, and lets nobody else into a namespace.
pub fn with_sys_admin<T>(work: impl FnOnce() -> T) -> T {
    with(&[Capability::CAP_SYS_ADMIN], work)
}

/// Effective, in this thread, while `work` is done: those of them that were kept.
pub fn with<T>(privileges: &[Capability], work: impl FnOnce() -> T) -> T {
    let before = caps::read(None, CapSet::Effective);
    for privilege in privileges {
        // Not permitted: the work says what it lacks.
        let _ = caps::raise(None, CapSet::Effective, *privilege);
    }
    let done = work();
    if let Ok(before) = before {
        let _ = caps::set(None, CapSet::Effective, &before);
    }
    done
}
