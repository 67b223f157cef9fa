//! What programs are attached to by the kernel's types: functions, and tracepoints whose arguments the verifier knows.
//!
//! aya looks their ids up by name in a BTF of its own, and to parse the whole of the kernel's takes 20 ms and 25 MB. The ids
//! are known already: aya gets a BTF of as many types, of which only those that are wanted have a name.

use anyhow::{Context, Result};
use aya::Endianness;

use super::{btf::Btf, plan::Hook};

/// What stands in the kernel's BTF for a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Function(&'static str),
    /// `btf_trace_NAME`, a pointer to the type of the tracepoint's handlers.
    Tracepoint(String),
}

impl Wanted {
    /// Nothing where the hook is attached by its name alone.
    pub fn of(hook: &Hook) -> Vec<Self> {
        match *hook {
            Hook::Fentry(function) | Hook::Fexit(function) => vec![Self::Function(function)],
            Hook::TypedTracepoint(name) => vec![Self::Tracepoint(format!("btf_trace_{name}"))],
            Hook::All(hooks) => hooks.iter().flat_map(|(hook, _)| Self::of(hook)).collect(),
            Hook::RawTracepoint(_)
            | Hook::Tracepoints(..)
            | Hook::Kprobe(_)
            | Hook::Kretprobe(_)
            | Hook::KprobePair(_) => Vec::new(),
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Function(name) => name,
            Self::Tracepoint(name) => name,
        }
    }

    pub fn found_in(self, btf: &Btf) -> Option<Target> {
        let id = match &self {
            Self::Function(name) => btf.function(name),
            Self::Tracepoint(name) => btf.typedef(name),
        }?;
        Some(Target { what: self, id })
    }
}

/// … and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    what: Wanted,
    id: u32,
}

const HEADER: u32 = 24;
const TYPEDEF: u32 = 8 << 24;
const FUNC: u32 = 12 << 24;
/// A forward declaration: a type of the least size.
const FWD: u32 = 7 << 24;

/// A BTF in which nothing but these can be found, each by its id (Documentation/bpf/btf.rst).
///
/// # Errors
/// aya does not take it.
pub fn btf_of(targets: &[Target]) -> Result<aya::Btf> {
    let last = targets.iter().map(|target| target.id).max().unwrap_or_default();
    let mut types = vec![[0, FWD, 0]; last as usize];
    let mut strings = vec![0];
    for Target { what, id } in targets {
        let kind = if matches!(what, Wanted::Function(_)) { FUNC } else { TYPEDEF };
        // Ids begin at 1: 0 is void.
        if let Some(place) = (*id as usize).checked_sub(1).and_then(|at| types.get_mut(at)) {
            *place = [strings.len() as u32, kind, 0];
        }
        strings.extend_from_slice(what.name().as_bytes());
        strings.push(0);
    }
    let (types_len, strings_len) = (12 * last, strings.len() as u32);
    // The magic number with version 1, no flags; the header's length; where the types are, and the strings.
    let header = [0x0001_eb9f, HEADER, 0, types_len, types_len, strings_len];
    let words = header.into_iter().chain(types.into_iter().flatten());
    let mut bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    bytes.append(&mut strings);
    aya::Btf::parse(&bytes, Endianness::Little).context("making a BTF of what hooks are attached by")
}

#[cfg(test)]
mod tests {
    use aya_obj::btf::BtfKind;

    use super::*;

    #[test]
    fn each_is_found_by_its_id_and_nothing_else() {
        let function = Target { what: Wanted::Function("cap_capable"), id: 7 };
        let tracepoint = Target { what: Wanted::Tracepoint("btf_trace_sched_switch".to_owned()), id: 3 };
        let btf = btf_of(&[function, tracepoint]).unwrap();
        assert_eq!(btf.id_by_type_name_kind("cap_capable", BtfKind::Func).unwrap(), 7);
        assert_eq!(btf.id_by_type_name_kind("btf_trace_sched_switch", BtfKind::Typedef).unwrap(), 3);
        assert!(btf.id_by_type_name_kind("cap_capable", BtfKind::Typedef).is_err());
        assert!(btf.id_by_type_name_kind("vfs_read", BtfKind::Func).is_err());
        assert!(btf_of(&[]).unwrap().id_by_type_name_kind("x", BtfKind::Func).is_err());
    }
}
