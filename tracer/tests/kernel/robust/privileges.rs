//! What a run holds, and what it leaves behind.

use std::{collections::BTreeSet, fs};

use aya::{maps::loaded_maps, programs::loaded_programs};
use caps::{CapSet, Capability};

use crate::{
    harness::Test,
    support::{ctrace::Ctrace, wait_until},
};

pub static TESTS: &[Test] = &[
    Test::core("robust::privileges::few_are_kept", few_are_kept),
    Test::core("robust::privileges::nothing_is_left_behind", nothing_is_left_behind),
];

const CAP_DAC_READ_SEARCH: u64 = 1 << 2;
const CAP_SYS_PTRACE: u64 = 1 << 19;
const CAP_PERFMON: u64 = 1 << 38;
const CAP_BPF: u64 = 1 << 39;

/// A bug in a parser must not be root's bug.
fn few_are_kept() {
    let ctrace = Ctrace::oom();
    let status = format!("/proc/{}/status", ctrace.pid());
    let field = |name: &str| {
        let text = fs::read_to_string(&status).expect("its status");
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(|value| value.trim().to_owned()))
            .expect("a field")
    };
    // Past kills and names are read with the privileges that takes: after that they go.
    wait_until("ctrace to drop its privileges", || (field("NoNewPrivs") == "1").then_some(()));
    let least = CAP_DAC_READ_SEARCH | CAP_SYS_PTRACE;
    let bits = |name: &str| u64::from_str_radix(&field(name), 16).expect("hex");
    // Kernels before 5.19 let nobody read a map without BPF.
    let with_maps = least | CAP_BPF | CAP_PERFMON;
    let kept = wait_until("the effective set to shrink", || {
        let kept = bits("CapEff");
        [least, with_maps].contains(&kept).then_some(kept)
    });
    assert_eq!(bits("CapPrm"), kept);
    assert_eq!((bits("CapInh"), bits("CapAmb")), (0, 0));
    assert!(kept == least || maps_need_privilege(), "CAP_BPF was kept, though maps can be read without");
    ctrace.stop();
}

/// 5.19 made it free to read a map that one holds: asked of the kernel with a map of one element.
fn maps_need_privilege() -> bool {
    const CREATE: i32 = 0;
    const LOOKUP: i32 = 1;
    const ARRAY: u32 = 2;
    #[repr(C, align(8))]
    struct Attributes([u32; 32]);
    let bpf = |command: i32, words: &[u32]| {
        let mut attributes = Attributes([0; 32]);
        attributes.0[..words.len()].copy_from_slice(words);
        // SAFETY: the attributes are as large as is said; those of a lookup point at `key` and `value`, which live.
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attributes, size_of::<Attributes>()) }
    };
    // Capabilities are the thread's own: the test keeps its.
    let ask = move || {
        let map = bpf(CREATE, &[ARRAY, 4, 8, 1]);
        assert!(map >= 0, "a map: {}", std::io::Error::last_os_error());
        for cap in [Capability::CAP_BPF, Capability::CAP_SYS_ADMIN] {
            caps::drop(None, CapSet::Effective, cap).expect("own capabilities");
        }
        let (key, mut value) = (0_u32, 0_u64);
        let halves = |address: u64| [address as u32, (address >> 32) as u32];
        let (key, value) = (halves(&raw const key as u64), halves(&raw mut value as u64));
        let refused = bpf(LOOKUP, &[map as u32, 0, key[0], key[1], value[0], value[1]]) != 0;
        // SAFETY: its own descriptor, used by nobody else.
        unsafe { libc::close(map as i32) };
        refused
    };
    std::thread::spawn(ask).join().expect("a thread")
}

/// No program, no map, no link stays when the process is gone: it pins nothing.
fn nothing_is_left_behind() {
    let ctrace = Ctrace::oom();
    let (programs, maps) = held_by(ctrace.pid().as_raw());
    assert!(programs.len() >= 5 && maps.len() >= 5, "{programs:?} {maps:?}");
    let present = |ids: &BTreeSet<u32>| ids.iter().copied().filter(|id| alive().contains(id)).collect::<Vec<_>>();
    assert_eq!(present(&programs).len(), programs.len());
    ctrace.stop();
    wait_until("its programs to be gone", || present(&programs).is_empty().then_some(()));
    wait_until("its maps to be gone", || {
        let left = loaded_maps().flatten().filter(|map| maps.contains(&map.id())).count();
        (left == 0).then_some(())
    });
}

fn alive() -> BTreeSet<u32> {
    loaded_programs().flatten().map(|program| program.id()).collect()
}

/// Ids of the programs and maps that a process holds by its descriptors.
fn held_by(pid: i32) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let (mut programs, mut maps) = (BTreeSet::new(), BTreeSet::new());
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("its descriptors").flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let id = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u32>().ok());
        programs.extend(id("prog_id:"));
        maps.extend(id("map_id:"));
    }
    (programs, maps)
}
