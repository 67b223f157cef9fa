//! The five sets of a process, and those that a bundle asked for. Pure.

use std::str::FromStr;

use caps::Capability;
use oci_spec::runtime::{Capabilities, Spec};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Bit n is capability n of the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilitySets {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub bounding: u64,
    pub ambient: u64,
}

/// One set of PID 1 against the same set of the bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    pub beyond_spec: u64,
    pub below_spec: u64,
}

impl CapabilitySets {
    /// From the text of `/proc/PID/status`; `None` where a set is missing.
    pub(super) fn of_status(status: &str) -> Option<Self> {
        let set = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            u64::from_str_radix(line.trim(), 16).ok()
        };
        Some(Self {
            effective: set("CapEff")?,
            permitted: set("CapPrm")?,
            inheritable: set("CapInh")?,
            bounding: set("CapBnd")?,
            ambient: set("CapAmb")?,
        })
    }

    pub(super) fn of_spec(spec: &Spec) -> Option<Self> {
        let asked = spec.process().as_ref()?.capabilities().as_ref()?;
        let mask = |set: &Option<Capabilities>| {
            let bit = |one: &oci_spec::runtime::Capability| Capability::from_str(&format!("CAP_{one}")).ok();
            set.iter().flatten().filter_map(bit).fold(0, |mask, one| mask | one.bitmask())
        };
        Some(Self {
            effective: mask(asked.effective()),
            permitted: mask(asked.permitted()),
            inheritable: mask(asked.inheritable()),
            bounding: mask(asked.bounding()),
            ambient: mask(asked.ambient()),
        })
    }

    /// In the order in which people read them: (name, set).
    pub fn named(&self) -> [(&'static str, u64); 5] {
        [
            ("effective", self.effective),
            ("permitted", self.permitted),
            ("bounding", self.bounding),
            ("inheritable", self.inheritable),
            ("ambient", self.ambient),
        ]
    }

    pub fn json(&self) -> Value {
        self.named().into_iter().map(|(name, set)| (name.to_owned(), json!(names(set)))).collect()
    }

    /// What it has beyond the bundle's sets and what it lacks of them: the bounding one, which no exec changes, and the
    /// effective one, which an ordinary user loses.
    pub fn against(&self, spec: &Self) -> [(&'static str, Difference); 2] {
        let difference = |own: u64, spec: u64| Difference { beyond_spec: own & !spec, below_spec: spec & !own };
        [
            ("bounding", difference(self.bounding, spec.bounding)),
            ("effective", difference(self.effective, spec.effective)),
        ]
    }
}

/// The set with what is in it under an older name: PERFMON, BPF (5.8) and CHECKPOINT_RESTORE (5.9) were split from
/// SYS_ADMIN, and the kernel still takes either. An engine older than the kernel knows nothing of them.
pub fn with_implied(set: u64) -> u64 {
    let mask = |capabilities: &[Capability]| capabilities.iter().fold(0, |mask, one| mask | one.bitmask());
    let split = mask(&[Capability::CAP_PERFMON, Capability::CAP_BPF, Capability::CAP_CHECKPOINT_RESTORE]);
    if set & mask(&[Capability::CAP_SYS_ADMIN]) == 0 { set } else { set | split }
}

/// `CAP_CHOWN`, by number; those younger than this list are `CAP_41`.
pub fn names(set: u64) -> Vec<String> {
    let name = |bit: u32| {
        let known = caps::all().into_iter().find(|known| u32::from(known.index()) == bit);
        known.map_or_else(|| format!("CAP_{bit}"), |known| known.to_string())
    };
    (0..u64::BITS).filter(|bit| set & (1 << bit) != 0).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::oci::parse_spec;

    #[test]
    fn read_from_both_sides() {
        let status = "Name:\tx\nCapInh:\t0\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n";
        let own = CapabilitySets::of_status(status).expect("five sets");
        assert_eq!(names(own.effective).len(), 14);
        assert_eq!(names(own.effective)[..2], ["CAP_CHOWN", "CAP_DAC_OVERRIDE"]);
        assert_eq!(CapabilitySets::of_status("CapEff:\t1\n"), None);
        let (spec, _) = parse_spec(
            br#"{"process":{"cwd":"/","user":{"uid":0,"gid":0},"capabilities":{"bounding":["CAP_CHOWN","CAP_SYS_RESOURCE"],"effective":["CAP_CHOWN"]}}}"#,
        )
        .expect("good");
        let asked = CapabilitySets::of_spec(&spec).expect("it asks");
        let [(_, bounding), (_, effective)] = own.against(&asked);
        assert_eq!(names(bounding.below_spec), ["CAP_SYS_RESOURCE"]);
        assert_eq!(names(effective.beyond_spec).len(), 13);
        assert_eq!(names(1 << 63 | 1), ["CAP_CHOWN", "CAP_63"]);
    }
}
