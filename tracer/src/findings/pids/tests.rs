use bytemuck::Zeroable;
use tracer_common::{
    Header, Kind, UNKNOWN_U32,
    pids::{ForkFailed, ForkRefused, Level as KernelLevel, NO_LIMIT},
    task::Task,
};

use super::*;
use crate::{
    containers::{Known, Seen, Table},
    findings::HostFacts,
    model::{Process, State},
    pipeline::Ancestor,
};

const SECOND: u64 = 1_000_000_000;
const WEB: u64 = 11;
const SLICE: u64 = 12;
const OTHER: u64 = 13;

fn web() -> String {
    format!("/slice/docker/{}", "ab".repeat(32))
}

/// The lens with one container in a slice, and another container beside it.
struct Bench {
    rule: Rule,
    table: Table,
    host: HostFacts,
    out: Vec<Output>,
}

impl Bench {
    fn new(hook: bool) -> Self {
        let mut table = Table::new(Known::default());
        let other = format!("/docker/{}", "cd".repeat(32));
        let seen = [(SLICE, "/slice".to_owned()), (WEB, web()), (OTHER, other)];
        table.seed(seen.map(|(id, path)| Seen { id, path }), 0);
        let attached = if hook { vec!["fork_refused"] } else { Vec::new() };
        let host = HostFacts { page_bytes: 4096, cgroup_version: 2, attached, cpus: 2, began_later: false };
        Self { rule: Rule::default(), table, host, out: Vec::new() }
    }

    fn with<T>(&mut self, now_ns: u64, work: impl FnOnce(&mut Rule, &World, &mut Vec<Output>) -> T) -> T {
        let world = World { containers: &self.table, host: &self.host, boot_to_wall_ns: 0, now_ns };
        work(&mut self.rule, &world, &mut self.out)
    }

    fn refused(&mut self, at_ns: u64, count: u64, levels: &[(u64, u64, u64)]) {
        let mut record = ForkRefused::zeroed();
        record.header = Header {
            kind: Kind::ForkRefused as u32,
            size: size_of::<ForkRefused>() as u32,
            time_ns: at_ns,
            cgroup: WEB,
        };
        record.asker = Task { tgid: 77, tid: 77, ns_pid: 7, comm: *b"bash\0\0\0\0\0\0\0\0\0\0\0\0", ..Task::zeroed() };
        record.count = count;
        record.depth = levels.len() as u32;
        for (slot, &(cgroup, current, limit)) in record.levels.iter_mut().zip(levels) {
            *slot = KernelLevel { cgroup, current, limit };
        }
        self.with(at_ns, |rule, world, out| rule.event(&Event::ForkRefused(Box::new(record)), world, out));
    }

    fn read(&mut self, at_ns: u64, reading: &Reading) -> Vec<Finding> {
        self.with(at_ns, |rule, world, out| rule.reading(reading, at_ns, world, out));
        let said = std::mem::take(&mut self.out);
        said.into_iter()
            .filter_map(|output| match output {
                Output::Finding(finding) => Some(*finding),
                _ => None,
            })
            .collect()
    }

    /// The counters of the slice and of the container, and what the kernel side counted.
    fn counts(&mut self, at_ns: u64, counts: Counts) -> Vec<Finding> {
        self.read(at_ns, &Reading::Counts(Counts { at_ns, same: true, host: host(), ..counts }))
    }

    fn zombies(&mut self, at_ns: u64, dead: Vec<Dead>) -> Vec<Finding> {
        self.waiting(at_ns, Waiting { dead, ..Waiting::default() })
    }

    fn waiting(&mut self, at_ns: u64, waiting: Waiting) -> Vec<Finding> {
        let parents = [50, 60].map(|pid| Ancestor { process: process(pid), cgroup: Some(web()) }).to_vec();
        self.read(at_ns, &Reading::Unreaped(Waiting { parents, ..waiting }))
    }
}

fn host() -> HostPids {
    HostPids { pid_max: Some(32_768), threads_max: Some(100_000), threads: Some(300) }
}

fn process(pid: u32) -> Process {
    Process { pid, tid: pid, ns_pid: Some(1), ppid: Some(1), comm: "node".to_owned(), uid: Some(0) }
}

fn level(id: u64, path: &str, current: u64, limit: Option<u64>) -> Level {
    Level { id, path: path.to_owned(), current, limit, ..Level::default() }
}

fn levels(web_now: u64, slice_now: u64) -> Vec<Level> {
    vec![level(SLICE, "/slice", slice_now, Some(100)), level(WEB, &web(), web_now, Some(20))]
}

/// Children of `parent` that ended, one every `gap_ns`, the last at `last_ns`.
fn dead(count: u32, parent: u32, last_ns: u64, gap_ns: u64) -> Vec<Dead> {
    (0..count)
        .map(|number| Dead {
            stat: Stat { pid: 1000 + number, state: 'Z', ppid: parent, threads: 1, ..Stat::default() },
            exit_ns: Some(last_ns - u64::from(number) * gap_ns),
            parent: Some(parent),
            key: Some(WEB),
            cgroup: None,
        })
        .collect()
}

fn states(findings: &[Finding]) -> Vec<(&str, State)> {
    findings.iter().filter_map(|finding| Some((finding.id.as_str(), finding.state?))).collect()
}

#[test]
fn a_refusal_at_its_own_limit_opens_grows_and_closes() {
    let mut bench = Bench::new(true);
    let full = [(WEB, 20, 20), (SLICE, 60, 100), (1, 300, NO_LIMIT)];
    bench.refused(SECOND, 1, &full);
    assert!(matches!(bench.out[..], [Output::Ask(Question::Pids(Ask::Counts { events: false, .. }))]));
    let open = bench.counts(SECOND + 1, Counts { levels: levels(20, 60), ..Counts::default() });
    assert_eq!(states(&open), [("pids-limit-1", State::Open)]);
    let finding = &open[0];
    assert_eq!(finding.code.0, "pids.limit");
    assert_eq!(finding.summary, "a fork was refused, last to bash (pid 77): 20 of 20 pids are in use, its own limit");
    assert_eq!(finding.container.as_ref().map(|container| container.cgroup.clone()), Some(web()));
    let evidence = &finding.evidence;
    assert_eq!(evidence["limit"], 20);
    assert_eq!(evidence["current"], 20);
    assert_eq!(evidence["limiting_cgroup"], web());
    assert_eq!(evidence["whose"], "own");
    assert_eq!(evidence["asker"]["process"]["pid"], 77);
    assert_eq!(evidence["refused"], 1);
    assert!(finding.fix.iter().any(|fix| fix.contains("docker update --pids-limit 64")), "{:?}", finding.fix);
    // Two records and what the kernel side counted behind them: 500 in all, and no update within the second.
    bench.refused(SECOND + 100_000_000, 80, &full);
    bench.refused(SECOND + 200_000_000, 300, &full);
    let counted = |count| Counts { levels: levels(20, 60), refusals: [(WEB, count)].into(), ..Counts::default() };
    assert_eq!(states(&bench.counts(SECOND + 300_000_000, counted(500))), []);
    let update = bench.counts(2 * SECOND, counted(500));
    assert_eq!(states(&update), [("pids-limit-1", State::Update)]);
    assert_eq!(update[0].evidence["refused"], 500);
    // A record from before that reading adds nothing.
    bench.refused(SECOND + 290_000_000, 490, &full);
    assert_eq!(states(&bench.counts(4 * SECOND, counted(500))), []);
    assert_eq!(states(&bench.counts(11 * SECOND, counted(500))), []);
    let closed = bench.counts(12 * SECOND + 400_000_000, counted(500));
    assert_eq!(states(&closed), [("pids-limit-1", State::Closed)]);
    assert!(closed[0].summary.contains("500 refused in all"), "{}", closed[0].summary);
    // The next one is another finding, and counts from there.
    bench.refused(20 * SECOND, 501, &full);
    let again = bench.counts(20 * SECOND + 1, counted(501));
    assert_eq!(states(&again), [("pids-limit-2", State::Open)]);
    assert_eq!(again[0].evidence["refused"], 1);
}

#[test]
fn the_lowest_full_level_is_to_blame() {
    let mut bench = Bench::new(true);
    bench.refused(SECOND, 1, &[(WEB, 15, 20), (SLICE, 100, 100), (1, 300, 300)]);
    let open = bench.counts(SECOND + 1, Counts { levels: levels(15, 100), ..Counts::default() });
    assert_eq!(open[0].evidence["limiting_cgroup"], "/slice");
    assert_eq!(open[0].evidence["whose"], "parent");
    assert_eq!(open[0].evidence["limit"], 100);
    assert!(open[0].summary.contains("the limit of its parent /slice"), "{}", open[0].summary);
    assert_eq!(open[0].evidence["inferred"], false);
}

#[test]
fn a_full_cgroup_that_refused_nobody_is_silent_and_so_is_another() {
    let mut bench = Bench::new(true);
    let full = Counts { levels: levels(20, 100), refusals: [(WEB, 0)].into(), ..Counts::default() };
    assert!(bench.counts(SECOND, full).is_empty());
    // A refusal in another container does not touch this one's finding.
    bench.refused(2 * SECOND, 1, &[(OTHER, 5, 5)]);
    let mut other = levels(20, 100);
    other.push(level(OTHER, "/docker/other", 5, Some(5)));
    let open = bench.counts(2 * SECOND + 1, Counts { levels: other, ..Counts::default() });
    assert_eq!(states(&open), [("pids-limit-1", State::Open)]);
    assert_eq!(open[0].evidence["limiting_cgroup"], "/docker/other");
}

#[test]
fn no_level_without_room_is_an_inference_and_none_with_a_limit_another_cgroup() {
    let mut bench = Bench::new(true);
    bench.refused(SECOND, 1, &[(WEB, 17, 20), (SLICE, 60, 100)]);
    let open = bench.counts(SECOND + 1, Counts { levels: levels(17, 60), ..Counts::default() });
    assert_eq!(open[0].evidence["limiting_cgroup"], web());
    assert_eq!(open[0].evidence["inferred"], true);
    let mut bench = Bench::new(true);
    bench.refused(SECOND, 1, &[(WEB, 17, NO_LIMIT)]);
    let open = bench.counts(SECOND + 1, Counts { levels: vec![level(WEB, &web(), 17, None)], ..Counts::default() });
    assert!(open[0].unknown["limiting_cgroup"].contains("CLONE_INTO_CGROUP"));
}

#[test]
fn what_the_ring_lost_is_known_from_the_count() {
    let mut bench = Bench::new(true);
    let counted = || Counts { levels: levels(20, 60), refusals: [(WEB, 9)].into(), ..Counts::default() };
    // Its record may be in the ring still.
    assert!(bench.counts(SECOND, counted()).is_empty());
    let open = bench.counts(2 * SECOND, counted());
    assert_eq!(states(&open), [("pids-limit-1", State::Open)]);
    assert_eq!(open[0].evidence["refused"], 9);
    assert!(open[0].unknown.contains_key("asker"));
}

#[test]
fn without_a_hook_the_events_file_tells() {
    let mut bench = Bench::new(false);
    bench.with(SECOND, |rule, world, out| rule.tick(SECOND, world, out));
    assert!(
        bench.out.iter().any(|output| matches!(output, Output::Ask(Question::Pids(Ask::Counts { events: true, .. }))))
    );
    bench.out.clear();
    let counted = |web_max, slice_max, web_now, slice_now| {
        let mut levels = levels(web_now, slice_now);
        (levels[0].refused, levels[1].refused) = (Some(slice_max), Some(web_max));
        Counts { levels, events: true, ..Counts::default() }
    };
    // What was counted before ctrace came is no news.
    assert!(bench.counts(SECOND, counted(5, 2, 20, 60)).is_empty());
    assert!(bench.counts(2 * SECOND, counted(5, 2, 20, 60)).is_empty());
    let open = bench.counts(3 * SECOND, counted(12, 2, 20, 60));
    assert_eq!(states(&open), [("pids-limit-1", State::Open)]);
    assert_eq!(open[0].evidence["refused"], 7);
    assert_eq!(open[0].evidence["limiting_cgroup"], web());
    assert!(open[0].unknown["asker"].contains("pids.events"));
    // A cgroup that came since counts from nothing.
    let mut bench = Bench::new(false);
    bench.counts(SECOND, Counts { events: true, ..Counts::default() });
    let open = bench.counts(2 * SECOND, counted(3, 0, 20, 60));
    assert_eq!(open[0].evidence["refused"], 3);
    // v1 counts in the asker's cgroup, whoever's limit it was.
    let mut bench = Bench::new(false);
    bench.counts(SECOND, counted(0, 0, 10, 60));
    let open = bench.counts(2 * SECOND, counted(3, 0, 10, 100));
    assert_eq!(open[0].evidence["limiting_cgroup"], "/slice");
    // Newer v2 counts where the limit is and all the way up: only the level's own counter tells whose limit it was.
    let mut bench = Bench::new(false);
    let local = |here: u64| {
        let mut counts = counted(here, here, 20, 60);
        (counts.levels[0].refused_here, counts.levels[1].refused_here) = (Some(0), Some(here));
        counts
    };
    bench.counts(SECOND, local(0));
    let open = bench.counts(2 * SECOND, local(4));
    assert_eq!(states(&open), [("pids-limit-1", State::Open)]);
    assert_eq!(open[0].evidence["limiting_cgroup"], web());
    assert_eq!(open[0].evidence["refused"], 4);
}

/// A fork that failed where no limit is reached a moment later.
#[test]
fn a_cgroup_with_room_again_is_no_other_limit() {
    let counted = |refused| {
        let mut levels = levels(19, 60);
        (levels[0].refused, levels[1].refused) = (Some(0), Some(refused));
        Counts { levels, events: true, ..Counts::default() }
    };
    let said = |refused: u64| {
        let mut bench = Bench::new(false);
        bench.counts(SECOND, counted(0));
        let header = Header { time_ns: 2 * SECOND, cgroup: WEB, ..Header::zeroed() };
        let unread = ForkFailed { pids: UNKNOWN_U32, pid_max: UNKNOWN_U32, ..ForkFailed::zeroed() };
        let failed = Event::ForkFailed(ForkFailed { header, count: 1, from: WEB, ..unread });
        bench.with(2 * SECOND, |rule, world, out| rule.event(&failed, world, out));
        let looked = Reading::Asker(Asker { from: WEB, ..Asker::default() });
        assert!(bench.read(2 * SECOND, &looked).is_empty(), "it may be the cgroup's");
        // Counts from before it know nothing of it.
        assert!(bench.counts(2 * SECOND - 1, counted(0)).is_empty());
        let said = bench.counts(3 * SECOND, counted(refused));
        assert!(bench.counts(4 * SECOND, counted(refused)).is_empty());
        said
    };
    assert_eq!(states(&said(1)), [("pids-limit-1", State::Open)]);
    assert_eq!(states(&said(0)), [("pids-limit-host-1", State::Open)]);
}

#[test]
fn twelve_old_zombies_of_one_parent_open_and_close() {
    let mut bench = Bench::new(true);
    bench.counts(SECOND, Counts { levels: levels(14, 60), ..Counts::default() });
    let at = 100 * SECOND;
    let open = bench.zombies(at, dead(12, 50, at - 4 * SECOND, 1_000_000));
    assert_eq!(states(&open), [("pids-zombies-1", State::Open)]);
    let finding = &open[0];
    assert_eq!(finding.evidence["zombies"], 12);
    assert_eq!(finding.evidence["parent"]["process"]["pid"], 50);
    assert_eq!(finding.evidence["limit"], 20);
    assert_eq!(finding.evidence["current"], 14);
    assert_eq!(finding.evidence["growth_per_s"], 0.0);
    assert_eq!(
        finding.summary,
        "12 zombies: node (pid 50) does not reap its children; stable; 14 of 20 pids are in use"
    );
    assert_eq!(finding.container.as_ref().map(|container| container.cgroup.clone()), Some(web()));
    assert!(finding.fix[0].contains("--init"), "its parent is PID 1: {:?}", finding.fix);
    assert!(bench.zombies(at + SECOND, dead(12, 50, at - 4 * SECOND, 1_000_000)).is_empty());
    let closed = bench.zombies(at + 2 * SECOND, dead(9, 50, at - 4 * SECOND, 1_000_000));
    assert_eq!(states(&closed), [("pids-zombies-1", State::Closed)]);
}

#[test]
fn growing_zombies_say_how_fast_and_how_long_it_lasts() {
    let mut bench = Bench::new(true);
    bench.counts(SECOND, Counts { levels: levels(10, 60), ..Counts::default() });
    let at = 100 * SECOND;
    // Two a second, and still coming.
    let young = vec![(50, at - 2_500_000_000), (50, at - 2_000_000_000), (50, at - 1_500_000_000), (50, at - SECOND)];
    let open =
        bench.waiting(at, Waiting { dead: dead(12, 50, at - 3 * SECOND, SECOND / 2), young, ..Waiting::default() });
    assert_eq!(open[0].evidence["growth_per_s"], 2.0);
    assert_eq!(open[0].evidence["time_to_limit_ns"], 5 * SECOND);
    assert!(open[0].summary.contains("growing by 2.0 a second"), "{}", open[0].summary);
    assert!(open[0].summary.ends_with("the limit is reached in 5 s"), "{}", open[0].summary);
    let later = at + SECOND;
    let update = bench.zombies(later, dead(14, 50, later - 3 * SECOND, SECOND / 2));
    assert_eq!(states(&update), [("pids-zombies-1", State::Update)]);
}

#[test]
fn nine_zombies_young_ones_and_leaders_of_living_threads_are_silent() {
    let at = 100 * SECOND;
    let old = at - 4 * SECOND;
    assert!(Bench::new(true).zombies(at, dead(9, 50, old, 1)).is_empty(), "nine");
    assert!(Bench::new(true).zombies(at, dead(40, 50, at - 2 * SECOND, 1)).is_empty(), "young");
    let mut two = dead(16, 50, old, 1);
    for dead in two.iter_mut().skip(8) {
        (dead.stat.ppid, dead.parent) = (60, Some(60));
    }
    assert!(Bench::new(true).zombies(at, two).is_empty(), "eight below each of two parents");
    let mut leaders = dead(12, 50, old, 1);
    for dead in &mut leaders {
        dead.stat.threads = 2;
    }
    assert!(Bench::new(true).zombies(at, leaders).is_empty(), "leaders whose threads run");
    let mut running = dead(12, 50, old, 1);
    for dead in &mut running {
        dead.stat.state = 'S';
    }
    assert!(Bench::new(true).zombies(at, running).is_empty(), "the ids belong to living processes now");
    let mut orphans = dead(12, 1, old, 1);
    for dead in &mut orphans {
        dead.parent = Some(50);
    }
    let mut bench = Bench::new(true);
    assert!(bench.zombies(at, orphans.clone()).is_empty(), "inherited a moment ago");
    assert_eq!(bench.zombies(at + 3 * SECOND, orphans).len(), 1);
}

#[test]
fn zombies_from_before_attach_are_found_by_the_sweep_and_age_from_there() {
    let mut bench = Bench::new(true);
    bench.with(SECOND, |rule, world, out| rule.tick(SECOND, world, out));
    let asked = |wanted: &Ask, out: &[Output]| out.contains(&Output::Ask(Question::Pids(wanted.clone())));
    assert!(asked(&Ask::Sweep, &bench.out), "once at the start");
    let strip = |mut dead: Vec<Dead>| {
        for dead in &mut dead {
            (dead.exit_ns, dead.parent, dead.key) = (None, None, None);
        }
        dead
    };
    let dead = strip(dead(12, 50, SECOND, 1));
    bench.read(SECOND, &Reading::Sweep(Sweep { dead: dead.clone(), ..Sweep::default() }));
    bench.with(2 * SECOND, |rule, world, out| rule.tick(2 * SECOND, world, out));
    assert!(asked(&Ask::Unreaped { known: (1000..1012).collect() }, &bench.out));
    assert!(!asked(&Ask::Sweep, &bench.out), "not every tick");
    assert!(bench.zombies(2 * SECOND, dead.clone()).is_empty());
    let open = bench.zombies(4 * SECOND, dead);
    assert_eq!(open[0].evidence["zombies"], 12);
    assert!(open[0].unknown.contains_key("growth_per_s"));
}

#[test]
fn a_refusal_names_the_zombies_that_hold_the_pids() {
    let mut bench = Bench::new(true);
    let at = 100 * SECOND;
    bench.zombies(at, dead(15, 50, at - 4 * SECOND, 1));
    bench.refused(at, 1, &[(WEB, 20, 20)]);
    let open = bench.counts(at + 1, Counts { levels: levels(20, 60), ..Counts::default() });
    assert_eq!(open[0].evidence["zombies"], 15);
    assert_eq!(open[0].evidence["parent"]["process"]["comm"], "node");
    assert!(open[0].fix[0].contains("wait for its children"), "{:?}", open[0].fix);
}

#[test]
fn samples_sum_the_cgroups_of_a_container_and_show_the_nearest_level() {
    let mut bench = Bench::new(true);
    let at = 100 * SECOND;
    bench.zombies(at, dead(3, 50, at - 4 * SECOND, 1));
    let states = States { running: 1, sleeping: 4, ..States::default() };
    let groups = [web(), format!("{}/inner", web())]
        .map(|cgroup| Group { cgroup: cgroup.as_str().into(), states, processes: 5, threads: 8 })
        .to_vec();
    let mut levels = levels(19, 60);
    levels[0].limit = Some(61);
    let reading = Reading::Counts(Counts { groups, levels, same: true, host: host(), ..Counts::default() });
    bench.with(at, |rule, world, out| rule.reading(&reading, at, world, out));
    let rows: Vec<_> = bench
        .out
        .iter()
        .filter_map(|output| match output {
            Output::Sample(row) => Some(row),
            _ => None,
        })
        .collect();
    assert_eq!(rows.len(), 2);
    let fields = &rows[0].fields;
    assert_eq!(fields["states"], serde_json::json!({"R": 2, "S": 8, "D": 0, "T": 0, "Z": 3, "I": 0}));
    assert_eq!((&fields["processes"], &fields["threads"]), (&13.into(), &19.into()));
    assert_eq!(fields["current"], 19);
    assert_eq!(fields["limit"], 20);
    assert_eq!(fields["levels"][1]["cgroup"], "/slice");
    assert!(rows[1].container.is_none());
    assert_eq!(rows[1].fields["pid_max"], 32_768);
}

#[test]
fn readings_that_take_long_come_less_often() {
    let mut bench = Bench::new(true);
    bench.with(SECOND, |rule, world, out| rule.tick(SECOND, world, out));
    bench.counts(SECOND, Counts { took_ns: SECOND / 10, ..Counts::default() });
    bench.out.clear();
    let asked =
        |out: &[Output]| out.iter().any(|output| matches!(output, Output::Ask(Question::Pids(Ask::Counts { .. }))));
    bench.with(5 * SECOND, |rule, world, out| rule.tick(5 * SECOND, world, out));
    assert!(!asked(&bench.out));
    bench.with(6 * SECOND, |rule, world, out| rule.tick(6 * SECOND, world, out));
    assert!(asked(&bench.out));
}

#[test]
fn paths_of_two_hierarchies() {
    let counts = Counts {
        levels: vec![
            level(1, "/runc-a", 1, Some(5)),
            Level { key: Some("/caller/runc-a/x".to_owned()), ..level(2, "/runc-a/x", 1, None) },
        ],
        ..Counts::default()
    };
    assert_eq!(counts.pids_path("/caller/runc-a"), "/runc-a");
    assert_eq!(counts.pids_path("/docker/b"), "/docker/b");
    let chain: Vec<u64> = counts.chain("/runc-a/x").map(|level| level.id).collect();
    assert_eq!(chain, [2, 1]);
    assert_eq!(counts.chain("/runc-ab").count(), 0);
}

#[test]
fn stat_of_any_command() {
    let line = "42 (a) b) (c) Z 7 42 42 0 -1 4228108 0 0 0 0 0 0 0 0 20 0 3 0 9876 0 0";
    let stat = Stat::parse(line).expect("a stat line");
    assert_eq!((stat.pid, stat.comm.as_str(), stat.state, stat.ppid), (42, "a) b) (c", 'Z', 7));
    assert_eq!((stat.threads, stat.start_ticks), (3, 9876));
    assert!(!stat.is_zombie());
    for broken in ["", "42", "42 (x)", "42 (x) Z", "x (y) Z 1"] {
        assert_eq!(Stat::parse(broken), None, "{broken}");
    }
}
