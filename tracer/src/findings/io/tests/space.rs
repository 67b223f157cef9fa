//! Refused calls, copy-ups, and how full a root is.

use super::*;

fn call(errno: u32, on: u32, path: &str) -> Refused {
    let mut refused = Refused::zeroed();
    refused.header = fixture::header::<Refused>(T, WEB_CGROUP);
    refused.asker = fixture::web_task(512, "mysqld");
    (refused.syscall, refused.errno, refused.count, refused.on) = (libc::SYS_write as u32, errno, 3, on);
    (refused.device, refused.mode, refused.magic) = (8 << 20, 0o100_644, 0xef53);
    if on == ON_PATH {
        refused.path[..path.len()].copy_from_slice(path.as_bytes());
    } else {
        let names = path.rsplit('/').map(|name| if name.is_empty() { "/" } else { name });
        for (slot, name) in refused.path.chunks_mut(32).zip(names) {
            slot[..name.len()].copy_from_slice(name.as_bytes());
        }
    }
    refused
}

fn space(total: u64, free: u64) -> Space {
    Space { total_bytes: total, free_bytes: free, available_bytes: free, inodes: 1000, inodes_free: 500 }
}

fn place(kind: &str, space: Space) -> Place {
    Place {
        path: Some("/data/x".to_owned()),
        kind: Some(kind.to_owned()),
        mount: Some("/data".to_owned()),
        space: Some(space),
        ..Place::default()
    }
}

fn overlay(own: Space, disk: Space) -> Place {
    Place {
        upper: Some("/var/lib/docker/overlay2/x/diff".to_owned()),
        disk_kind: Some("xfs".to_owned()),
        disk_mount: Some("/var".to_owned()),
        disk: Some(disk),
        ..place("overlay", own)
    }
}

#[test]
fn which_layer_was_full() {
    let judge = |errno, place| Bench::new(2).refused(&call(errno, ON_FILE, "/data/x"), place);
    let found = judge(ENOSPC, place("tmpfs", space(MIB, 0)));
    assert_eq!(codes(&found), [("fs.no-space", State::Open)]);
    let evidence = &found[0].evidence;
    assert_eq!((&evidence["layer"], &evidence["used_bytes"]), (&"tmpfs".into(), &MIB.into()));
    assert_eq!(evidence["refused"], 3);
    assert_eq!(
        found[0].summary,
        "write of mysqld (pid 512) got ENOSPC: no space is left, tmpfs /data: 1.0 MiB of 1.0 MiB used"
    );
    assert!(found[0].fix[0].contains("--tmpfs /data:size="), "{:?}", found[0].fix);
    let layer = |errno, place| {
        let found = judge(errno, place);
        (found[0].code.0, found[0].evidence["layer"].as_str().unwrap_or("").to_owned())
    };
    assert_eq!(layer(ENOSPC, place("ext4", space(MIB, 0))), ("fs.no-space", "disk".to_owned()));
    let same = || overlay(space(MIB, 0), space(MIB, 0));
    assert_eq!(layer(ENOSPC, same()), ("fs.no-space", "overlay-upper".to_owned()));
    // XFS says ENOSPC where a project quota is used up; statfs tells of the quota then.
    assert_eq!(layer(ENOSPC, overlay(space(MIB, 0), space(99 * MIB, 50 * MIB))), ("fs.quota", "quota".to_owned()));
    assert_eq!(layer(EDQUOT, place("ext4", space(MIB, MIB))), ("fs.quota", "quota".to_owned()));
    let inodes = Space { inodes_free: 0, ..space(MIB, MIB / 2) };
    assert_eq!(layer(ENOSPC, place("ext4", inodes)), ("fs.no-space", "inodes".to_owned()));
    let unread = Place { unknown: Some("gone".to_owned()), ..Place::default() };
    let found = judge(ENOSPC, unread);
    assert_eq!(found[0].evidence["layer"], "unknown");
    assert_eq!(found[0].unknown["limit_bytes"], "gone");
    // An overlay whose disk is not asked is an overlay still.
    let unread = Place { disk: None, space: None, unknown: Some("not asked".to_owned()), ..same() };
    assert_eq!(judge(ENOSPC, unread)[0].unknown["disk_bytes"], "not asked");
    assert_eq!(judge(ENOSPC, place("ext4", space(MIB, 0)))[0].unknown["disk_bytes"], "it is on no overlay");
}

#[test]
fn a_large_or_a_long_copy_up_is_told() {
    let judge = |bytes: u64, took_ns: u64| {
        let mut copy = CopyUp::zeroed();
        copy.header = fixture::header::<CopyUp>(T, WEB_CGROUP);
        (copy.who, copy.bytes, copy.took_ns) = (fixture::web_task(512, "mysqld"), bytes, took_ns);
        for (slot, name) in copy.path.chunks_mut(32).zip(["ibdata1", "mysql", "/"]) {
            slot[..name.len()].copy_from_slice(name.as_bytes());
        }
        let mut bench = Bench::new(2);
        let mut out = Vec::new();
        bench.rule.event(&Event::CopyUp(Box::new(copy)), &bench.host.world(), &mut out);
        findings(out)
    };
    let found = judge(16 * MIB, MS);
    assert_eq!((found[0].code.0, found[0].state), ("fs.copy-up", None));
    let evidence = &found[0].evidence;
    assert_eq!((&evidence["path"], &evidence["bytes"]), (&"/mysql/ibdata1".into(), &(16 * MIB).into()));
    assert_eq!((&evidence["took_ns"], &evidence["cgroup"]), (&MS.into(), &WEB.into()));
    assert_eq!(
        found[0].summary,
        "mysqld waited 1 ms while all 16.0 MiB of /mysql/ibdata1 were copied up from the image, to be written"
    );
    assert_eq!(judge(MIB, 100 * MS).len(), 1, "long");
    assert!(judge(16 * MIB - 1, 100 * MS - 1).is_empty());
}

#[test]
fn who_wrote_most_to_a_full_disk_is_named() {
    let writer = |cgroup: &str, charged, given| Writer { cgroup: cgroup.into(), charged, given };
    let below = format!("{OTHER}/inner");
    let writers = || {
        // What is charged below the container is in its own number, and what is given is not; the last is of the host.
        Some(vec![
            writer(WEB, Some(MIB), 2 * MIB),
            writer(OTHER, Some(5 * MIB), MIB),
            writer(&below, Some(3 * MIB), MIB),
            writer("/", Some(90 * MIB), 90 * MIB),
        ])
    };
    let judge = |place: Place| Bench::new(2).refused(&call(ENOSPC, ON_FILE, "/data/x"), place);
    let found = judge(Place { writers: writers(), ..place("ext4", space(9 * MIB, 0)) });
    let named = found[0].evidence["writers"].as_array().expect("writers");
    let number = |at: usize, key: &str| named[at][key].as_u64();
    assert_eq!(named.len(), 2);
    assert_eq!((&named[0]["container"]["cgroup"], &named[1]["container"]["cgroup"]), (&OTHER.into(), &WEB.into()));
    assert_eq!((number(0, "charged_bytes"), number(0, "given_bytes")), (Some(5 * MIB), Some(2 * MIB)));
    assert_eq!((number(1, "charged_bytes"), number(1, "given_bytes")), (Some(MIB), Some(2 * MIB)));
    assert!(found[0].why.contains("most was written by") && found[0].why.contains("5.0 MiB"), "{}", found[0].why);
    let uncounted = judge(Place { writers: Some(vec![writer(WEB, None, MIB)]), ..place("ext4", space(MIB, 0)) });
    assert!(uncounted[0].evidence["writers"][0].get("charged_bytes").is_none(), "v1 charges nobody");
    let nobody = judge(Place { writers: Some(Vec::new()), ..place("ext4", space(MIB, 0)) });
    assert!(!nobody[0].why.contains("most was written"), "{}", nobody[0].why);
    // A quota bounds it: what others wrote has nothing to do with it.
    let bounded = Place { writers: writers(), ..overlay(space(MIB, 0), space(99 * MIB, 50 * MIB)) };
    let bounded = judge(bounded);
    assert!(bounded[0].evidence["writers"].is_null() && bounded[0].unknown.contains_key("writers"));
    // For whom they are read at all.
    let at = |place: Place| Place { device: Some((8, 1)), ..place }.disk_of_all();
    assert_eq!(at(place("ext4", space(MIB, 0))), Some((8, 1)));
    assert_eq!(at(overlay(space(MIB, 0), space(MIB, 0))), Some((8, 1)));
    assert_eq!(at(overlay(space(MIB, 0), space(2 * MIB, MIB))), None, "a quota");
    assert_eq!(at(place("tmpfs", space(MIB, 0))), None);
    assert_eq!(at(Place::default()), None);
}

#[test]
fn a_root_is_as_full_as_its_quota_says_and_no_walk_tells_else() {
    let row = |root: Option<Place>| {
        let mut bench = Bench::new(2);
        let of = root.into_iter().map(|root| (WEB.into(), root)).collect();
        let mut out = Vec::new();
        bench.rule.reading(&Reading::Roots(Roots { took_ns: 0, of }), T, &bench.host.world(), &mut out);
        let counts = Counts { at_ns: T, pauses: vec![pauses(42, 1, 1)], ..Counts::default() };
        bench.rule.reading(&Reading::Counts(Box::new(counts)), T, &bench.host.world(), &mut out);
        let own = |output| match output {
            Output::Sample(row) if row.cgroup.as_deref() == Some(WEB) => Some(*row),
            _ => None,
        };
        out.into_iter().find_map(own).expect("a row")
    };
    let numbers = |row: &crate::pipeline::SampleRow| {
        let keys = ["upper_limit_bytes", "upper_used_bytes", "upper_disk_bytes", "upper_disk_used_bytes"];
        let values = keys.map(|key| row.fields[key].as_u64());
        for key in keys.iter().filter(|key| row.fields[**key].is_null()) {
            assert!(row.unknown.contains_key(key), "{key} is null without a reason");
        }
        values.map(|bytes| bytes.map(|bytes| bytes / MIB))
    };
    let bounded = row(Some(overlay(space(4 * MIB, MIB), space(99 * MIB, 50 * MIB))));
    assert_eq!(numbers(&bounded), [Some(4), Some(3), Some(99), Some(49)]);
    assert_eq!(bounded.fields["upper"], "/var/lib/docker/overlay2/x/diff");
    let free = row(Some(overlay(space(99 * MIB, 50 * MIB), space(99 * MIB, 50 * MIB))));
    assert_eq!(numbers(&free), [None, None, Some(99), Some(49)]);
    assert!(free.unknown["upper_used_bytes"].contains("no quota"), "{:?}", free.unknown);
    let other = row(Some(place("ext4", space(MIB, 0))));
    assert_eq!(numbers(&other), [None; 4]);
    assert!(other.unknown["upper"].contains("no overlay"), "{:?}", other.unknown);
    assert!(row(None).unknown["upper"].contains("not read"));
    let unread = Place {
        unknown: Some("fuse is not asked".to_owned()),
        space: None,
        disk: None,
        ..overlay(space(0, 0), space(0, 0))
    };
    assert_eq!(row(Some(unread)).unknown["upper_used_bytes"], "fuse is not asked");
}

#[test]
fn roots_are_asked_for_now_and_then_with_all_cgroups_of_each() {
    let mut bench = Bench::new(2);
    let mut asked = |second: u64| {
        let mut out = Vec::new();
        bench.rule.tick(T + second * SECOND, &bench.host.world(), &mut out);
        out.into_iter().find_map(|output| match output {
            Output::Ask(Question::Io(Ask::Roots { of })) => Some(of),
            _ => None,
        })
    };
    let first = asked(0).expect("at once");
    assert_eq!(first.get(WEB).map(|cgroups| cgroups.iter().map(|path| &**path).collect()), Some(vec![WEB]));
    assert!(asked(9).is_none());
    assert!(asked(10).is_some());
}

#[test]
fn the_file_is_named_as_the_kernel_side_read_it() {
    let asked = |refused: Refused| {
        let mut out = Vec::new();
        let mut bench = Bench::new(2);
        bench.rule.event(&Event::FileRefused(Box::new(refused)), &bench.host.world(), &mut out);
        match out.pop() {
            Some(Output::Ask(Question::Io(Ask::Place { wanted, .. }))) => Some(wanted),
            _ => None,
        }
    };
    let file = |path: &str| What::File { device: (8, 0), path: path.to_owned() };
    let wanted = asked(call(ENOSPC, ON_FILE, "/data/x")).expect("a file");
    assert_eq!((wanted.pid, wanted.cgroup.as_deref(), wanted.what), (512, Some(WEB), file("/data/x")));
    let deep = asked(call(ENOSPC, ON_FILE, "/1/2/3/4/5/6/7/8/9")).expect("a file");
    assert_eq!(deep.what, file("/…/2/3/4/5/6/7/8/9"));
    let long = format!("/{}", "n".repeat(31));
    assert_eq!(asked(call(ENOSPC, ON_FILE, &long)).expect("a file").what, file(&format!("{long}…")));
    // Not a file system that can be full: a device, and a cgroup's file.
    assert_eq!(asked(Refused { mode: 0o020_666, ..call(ENOSPC, ON_FILE, "/full") }), None);
    assert_eq!(asked(Refused { magic: 0x6367_7270, ..call(ENOSPC, ON_FILE, "/x") }), None);
}

#[test]
fn many_refused_processes_do_not_cost_a_look_up_each() {
    let mut bench = Bench::new(2);
    let mut ask = |pid: u32, at_ns: u64| {
        let mut refused = call(ENOSPC, ON_FILE, "/data/x");
        (refused.asker.tgid, refused.header.time_ns) = (pid, at_ns);
        let mut out = Vec::new();
        bench.rule.event(&Event::FileRefused(Box::new(refused)), &bench.host.world(), &mut out);
        out.len()
    };
    assert_eq!((0..100).map(|pid| ask(pid, T)).sum::<usize>(), 8);
    assert_eq!(ask(200, T + SECOND), 1, "and a second later it is looked again");
}

#[test]
fn a_full_file_system_is_one_condition_and_closes() {
    let mut bench = Bench::new(2);
    let full = || place("ext4", space(MIB, 0));
    let first = bench.refused(&call(ENOSPC, ON_FILE, "/data/x"), full());
    assert_eq!(codes(&first), [("fs.no-space", State::Open)]);
    assert!(bench.refused(&call(ENOSPC, ON_FILE, "/data/y"), full()).is_empty(), "the same, a moment later");
    let closed = bench.counts(6, Counts::default());
    assert_eq!(codes(&closed), [("fs.no-space", State::Closed)]);
    assert_eq!(closed[0].id, first[0].id);
    // A path of a file system without a size is known by the mount table alone.
    assert!(bench.refused(&call(ENOSPC, ON_PATH, "/proc/x"), place("proc", space(0, 0))).is_empty());
}

#[test]
fn a_read_only_sysctl_comes_with_three_forms() {
    let mut bench = Bench::new(2);
    let found = bench.refused(&call(EROFS, ON_PATH, "/proc/sys/net/core/somaxconn"), Place::default());
    assert_eq!(codes(&found), [("net.sysctl-readonly", State::Open)]);
    assert_eq!(found[0].evidence["sysctl"], "net.core.somaxconn");
    assert_eq!(found[0].fix.len(), 3);
    assert!(bench.refused(&call(EROFS, ON_PATH, "/etc/passwd"), Place::default()).is_empty());
    // Another lens that stands on the same rule says the very same, and closes it at the same tick.
    let mut other = crate::findings::sysctl::Rule::default();
    let event = Event::FileRefused(Box::new(call(EROFS, ON_PATH, "/proc/sys/net/core/somaxconn")));
    assert_eq!(other.event(&event, &bench.host.world()).as_ref(), found.first());
    let mut ticked = |now_ns: u64| {
        let mut out = Vec::new();
        bench.rule.tick(now_ns, &bench.host.world(), &mut out);
        let own: Vec<Finding> = out
            .into_iter()
            .filter_map(|output| match output {
                Output::Finding(finding) => Some(*finding),
                _ => None,
            })
            .collect();
        assert_eq!(own, other.tick(now_ns, &bench.host.world()));
        own
    };
    assert_eq!(codes(&ticked(T + SECOND)), []);
    assert_eq!(codes(&ticked(T + 9 * SECOND)), [("net.sysctl-readonly", State::Closed)]);
}
