//! What does not fit into the ring is counted, by cgroup, and nothing else is lost: sent = seen + counted.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use serde_json::Value;
use tracer::{
    events::{self, Event},
    kernel::{
        load::{Kernel, LossCause, Wishes},
        plan,
    },
};

use crate::{
    harness::Test,
    support::{
        cgroups::{Group, Tree},
        ctrace::{self, Ctrace},
        player::Player,
    },
};

pub static TESTS: &[&[Test]] = &[&[
    Test::core("loss::exits_are_seen_or_counted", exits_are_seen_or_counted),
    Test::core("loss::a_flood_does_not_blind_the_others", a_flood_does_not_blind_the_others),
    Test::full("loss::a_stopped_ctrace_counts_kills", a_stopped_ctrace_counts_kills),
]];

/// An exit's record with the ring's own header.
const EXIT_BYTES: u32 = 128;

fn attach(ring_kib: u32) -> Kernel {
    let wishes = Wishes {
        probes: vec![&plan::EXIT],
        ring_bytes: ring_kib << 10,
        wants: vec![("WANT_ALL_EXITS", 1)],
        ..Wishes::default()
    };
    let kernel = Kernel::attach(&wishes).expect("the exit probe");
    assert!(kernel.attached(&plan::EXIT), "{:?}", kernel.taken);
    kernel
}

/// Exits seen and exits counted as lost.
#[derive(Debug, Default)]
struct Found {
    by_cgroup: BTreeMap<u64, (u64, u64)>,
    /// Kernels that preempt a raw tracepoint's program skip it where it is entered again on that CPU: counted by program.
    skipped: u64,
}

impl Found {
    fn of(&self, group: &Group) -> (u64, u64) {
        self.by_cgroup.get(&group.id()).copied().unwrap_or_default()
    }

    /// Reads what there is by now.
    fn read(&mut self, kernel: &mut Kernel) {
        kernel.drain(usize::MAX, |bytes| {
            match events::decode(&bytes).expect("a record") {
                Event::Exit(exit) => self.by_cgroup.entry(exit.header.cgroup).or_default().0 += 1,
                other => panic!("only exits were asked for: {other:?}"),
            }
            true
        });
        for loss in kernel.losses().expect("the losses") {
            assert_eq!(loss.event, "exit");
            if let Some(cgroup) = loss.cgroup {
                self.by_cgroup.entry(cgroup).or_default().1 += loss.count;
            } else {
                assert_eq!(loss.cause, LossCause::Skipped, "few cgroups are counted one by one");
                self.skipped += loss.count;
            }
        }
    }
}

/// Short processes in each cgroup, one after another.
fn exits(group: &Group, count: u32) {
    let forks = format!("forks={count}");
    let mut player = Player::within(group, &[forks.as_str()]);
    assert_eq!(player.ended().0.code(), Some(0));
}

/// Two ring sizes, three rates: what fits, somewhat more, and much more, all before the first is read.
fn exits_are_seen_or_counted() {
    for ring_kib in [16, 64] {
        let room = (ring_kib << 10) / EXIT_BYTES;
        for rate in [room / 8, room, room * 3] {
            let tree = Tree::new();
            let groups = [tree.container(), tree.container()];
            let mut kernel = attach(ring_kib);
            std::thread::scope(|scope| {
                for group in &groups {
                    scope.spawn(|| exits(group, rate));
                }
            });
            // A record that another CPU is still writing ends a reading: what stands behind it comes with the next.
            let sent_in_all = 2 * (u64::from(rate) + 1);
            let mut found = Found::default();
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
            loop {
                found.read(&mut kernel);
                let counted: u64 = groups.iter().map(|group| found.of(group)).map(|(seen, lost)| seen + lost).sum();
                if counted + found.skipped >= sent_in_all || std::time::Instant::now() >= deadline {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            for group in &groups {
                let (seen, lost) = found.of(group);
                // The process that started the others has ended as well.
                let sent = u64::from(rate) + 1;
                let skipped = sent.saturating_sub(seen + lost).min(found.skipped);
                assert_eq!(
                    seen + lost + skipped,
                    sent,
                    "ring of {ring_kib} KiB, {sent} sent: {seen} seen, {lost} counted as lost"
                );
                assert!(seen > 0, "a cgroup is never blind");
                assert_eq!(
                    lost > 0,
                    rate >= room,
                    "ring of {ring_kib} KiB, {sent} sent: {seen} seen, {lost} counted as lost"
                );
            }
            // Once it was read there is room again.
            exits(&groups[0], 3);
            let mut found = Found::default();
            found.read(&mut kernel);
            let (seen, lost) = found.of(&groups[0]);
            assert_eq!((seen + found.skipped.min(4 - seen), lost), (4, 0));
        }
    }
}

/// One cgroup fills the ring; the other's few records get through all the same.
fn a_flood_does_not_blind_the_others() {
    let tree = Tree::new();
    let (flooding, quiet) = (tree.container(), tree.container());
    let mut kernel = attach(64);
    let room = (64 << 10) / EXIT_BYTES;
    exits(&flooding, room * 2);
    exits(&quiet, room / 16);
    let mut found = Found::default();
    found.read(&mut kernel);
    let missing = |(seen, lost): (u64, u64), sent: u32| u64::from(sent) + 1 - seen - lost;
    let skipped = missing(found.of(&quiet), room / 16) + missing(found.of(&flooding), room * 2);
    assert!(skipped <= found.skipped, "{found:?}");
    assert_eq!(found.of(&quiet).1, 0, "{found:?}");
    let (seen, lost) = found.of(&flooding);
    assert!(lost > 0 && seen >= u64::from(room / 2), "half of the ring is anybody's: {found:?}");
}

/// The whole tool, stopped while it should read: each kill is told, or is in a line about losses, by its cgroup.
fn a_stopped_ctrace_counts_kills() {
    for ring_kib in ["4", "16"] {
        let tree = Tree::new();
        let groups = [tree.container().limited(8), tree.container().limited(8)];
        let ctrace = Ctrace::ready(ctrace::command(&["oom", "--json", "--ring-kib", ring_kib]));
        ctrace.signal(Signal::SIGSTOP);
        const KILLS: u64 = 8;
        for _ in 0..KILLS {
            for group in &groups {
                Player::within(group, &["anon"]).ended();
            }
        }
        ctrace.signal(Signal::SIGCONT);
        let said = ctrace.stop();
        let mut lost_in_all = 0;
        for group in &groups {
            assert_eq!(group.kills(), KILLS);
            let told = said.about(group).filter(|finding| finding["code"] == "oom.container-limit").count() as u64;
            let of_ours = |json: &&Value| {
                json["type"] == "loss" && json["event"] == "oom_victim" && json["cgroup"] == *group.path
            };
            let lost: u64 = said
                .lines
                .iter()
                .map(|line| &line.json)
                .filter(of_ours)
                .filter_map(|json| json["count"].as_u64())
                .sum();
            assert_eq!(
                told + lost,
                KILLS,
                "ring of {ring_kib} KiB: {told} told, {lost} counted as lost of {}",
                group.path
            );
            assert!(told > 0, "ring of {ring_kib} KiB: nothing told of {}", group.path);
            lost_in_all += lost;
        }
        assert!(lost_in_all > 0, "the ring of {ring_kib} KiB was not filled: the test did not test what it is for");
    }
}
