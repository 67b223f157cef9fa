//! Dropped packets, as the kernel side counts them: in network namespaces of the test's own.

use std::{
    fs,
    net::UdpSocket,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    thread,
};

use nix::{
    libc,
    sched::{CloneFlags, CpuSet, sched_setaffinity, unshare},
    unistd::Pid,
};
use tracer::kernel::{
    btf::Btf,
    btf_file::BtfFile,
    load::{Kernel, Wishes},
    plan,
};
use tracer_common::{
    UNKNOWN_U32,
    dropped::{DropKey, Drops},
};

use crate::harness::Test;

pub static TESTS: &[&[Test]] = &[&[
    Test::core("drops::closed_port", closed_port),
    Test::core("drops::delivered_is_no_drop", delivered_is_no_drop),
    Test::core("drops::first_is_kept", first_is_kept),
]];

const MAP: u32 = 1024;
const PACKETS: u64 = 7;
/// Nobody listens there in a namespace that was just made.
const CLOSED: u16 = 4711;
const IPV4: u32 = 0x0800;
const LOOPBACK: u32 = 1;

fn kernel() -> Kernel {
    let wishes = Wishes {
        probes: vec![&plan::PACKET_DROP],
        ring_bytes: 1 << 16,
        maps: vec![("DROPS", MAP)],
        ..Wishes::default()
    };
    let kernel = Kernel::attach(&wishes).expect("the kernel side");
    assert!(kernel.attached(&plan::PACKET_DROP), "{:?}", kernel.taken);
    kernel
}

/// Runs something on a thread in a network namespace of its own; gives the namespace's inode.
fn in_own_network(run: fn()) -> u32 {
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        loopback_up();
        run();
        fs::metadata("/proc/thread-self/ns/net").expect("this thread's namespace").ino() as u32
    });
    thread.join().expect("the thread in its namespace")
}

fn loopback_up() {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    // SAFETY: plain numbers and arrays: zeros are one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the request outlives the call, and has the shape that this request takes.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw mut request) };
    assert_eq!(result, 0, "lo up: {}", std::io::Error::last_os_error());
}

/// UDP in IPv4 that was dropped in that namespace, or in none that is known: each place with the sum of all CPUs. Each CPU's sample is of UDP to
/// that port.
fn udp(kernel: &Kernel, netns: u32, port: u16) -> Vec<(DropKey, u64)> {
    let is_meant = |drops: &Drops| {
        let header = usize::from(drops.first[0] & 0xf) * 4;
        drops.first[9] == libc::IPPROTO_UDP as u8
            && drops.first.get(header + 2..header + 4) == Some(&port.to_be_bytes())
    };
    let entries = kernel.entries_per_cpu::<DropKey, Drops>("DROPS", MAP as usize).expect("the map");
    let here = entries.into_iter().filter(|(key, _)| [netns, UNKNOWN_U32].contains(&key.netns) && key.protocol == IPV4);
    here.filter_map(|(key, values)| {
        let packets = values.iter().filter(|drops| is_meant(drops)).map(|drops| drops.packets).sum();
        (packets > 0).then_some((key, packets))
    })
    .collect()
}

/// What this kernel's own BTF calls it.
fn reason(name: &str) -> Option<u32> {
    let data = BtfFile::of_this_kernel().expect("the kernel's BTF");
    let btf = Btf::parse(&data, &["skb_drop_reason"]).expect("the kernel's BTF");
    Some(btf.enumerator("skb_drop_reason", name)? as u32)
}

fn closed_port() {
    let kernel = kernel();
    let netns = in_own_network(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        for _ in 0..PACKETS {
            socket.send_to(b"to nobody", ("127.0.0.1", CLOSED)).expect("sent: loopback takes it");
        }
    });
    let found = udp(&kernel, netns, CLOSED);
    let [(key, packets)] = found[..] else { panic!("not one place of drops in {netns}: {found:?}") };
    assert_eq!((packets, key.netns, key.ifindex), (PACKETS, netns, LOOPBACK), "{key:?}");
    assert_eq!(key.reason, reason("SKB_DROP_REASON_NO_SOCKET").unwrap_or(UNKNOWN_U32), "{key:?}");
    assert!(key.location != 0 && key.location != u64::MAX, "{key:?}");
}

/// Of those that are counted together the first is the sample.
fn first_is_kept() {
    let kernel = kernel();
    let netns = in_own_network(|| {
        // Each CPU has its own first one.
        let mut cpus = CpuSet::new();
        cpus.set(0).expect("there is a first one");
        sched_setaffinity(Pid::from_raw(0), &cpus).expect("this thread's own");
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        for number in 0..PACKETS {
            let port = if number == 0 { CLOSED } else { CLOSED + 1 };
            socket.send_to(b"to nobody", ("127.0.0.1", port)).expect("sent: loopback takes it");
        }
    });
    let found = udp(&kernel, netns, CLOSED);
    let [(_, packets)] = found[..] else { panic!("not one place of drops in {netns}: {found:?}") };
    assert_eq!(packets, PACKETS, "by the first");
}

fn delivered_is_no_drop() {
    let kernel = kernel();
    let netns = in_own_network(|| {
        let receiver = UdpSocket::bind(("127.0.0.1", CLOSED)).expect("a port in an empty namespace");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        for _ in 0..PACKETS {
            sender.send_to(b"to somebody", ("127.0.0.1", CLOSED)).expect("sent");
            receiver.recv(&mut [0; 16]).expect("received");
        }
    });
    let found = udp(&kernel, netns, CLOSED);
    assert!(found.is_empty(), "{found:?}");
}
