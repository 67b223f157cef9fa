use super::*;

const A: &str = "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1";
const B: &str = "b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2";
const SECOND: u64 = 1_000_000_000;

fn seen(id: u64, path: &str) -> Seen {
    Seen { id, path: path.to_owned() }
}

fn born(id: u64, parent: Option<u64>, path: &str, by: &str) -> Born {
    Born { id, parent, path: path.to_owned(), by: by.to_owned(), by_pid: 100 }
}

fn named(name: &str) -> Facts {
    Facts { name: Some(name.to_owned()), ..Facts::default() }
}

fn seeded(paths: &[(u64, &str)]) -> Table {
    let mut table = Table::default();
    table.seed(paths.iter().map(|&(id, path)| seen(id, path)), 0);
    table
}

fn id_of(table: &Table, cgroup: u64) -> String {
    match table.place(cgroup) {
        Place::Container(container) => container.id.clone(),
        Place::Host => "host".to_owned(),
        Place::Unknown => "unknown".to_owned(),
    }
}

#[test]
fn seeded_from_a_walk() {
    let a = format!("/docker/{A}");
    let table =
        seeded(&[(1, "/"), (2, "/docker"), (3, &a), (4, &format!("{a}/init.scope")), (5, "/system.slice/x.service")]);
    assert_eq!([1, 2, 3, 4, 5, 6].map(|id| id_of(&table, id)), ["host", "host", A, A, "x.service", "unknown"]);
    let (Place::Container(own), Place::Container(child)) = (table.place(3), table.place(4)) else {
        panic!("containers")
    };
    assert!(Arc::ptr_eq(&own, &child), "one container, shared");
    assert_eq!(own.name, None);
    assert!(own.unknown.contains_key("name"));
    assert_eq!(table.nameless().len(), 1, "units have no files to read");
    assert_eq!(table.owner_of_path(&a).map(|container| container.id.clone()).as_deref(), Some(A));
    assert_eq!(table.owner_of_path(&format!("{a}/unseen")).map(|c| c.id.clone()).as_deref(), Some(A));
    assert_eq!(table.owner_of_path("/unseen"), None);
}

#[test]
fn a_container_comes_is_named_and_goes() {
    let mut table = seeded(&[(1, "/"), (2, "/docker")]);
    let want = table.mkdir(&born(3, Some(2), &format!("docker/{A}"), "runc"), SECOND);
    assert!(matches!(want, Want::Facts(3, container) if container.cgroup == format!("/docker/{A}")));
    assert_eq!(table.mkdir(&born(4, Some(3), "a/sub", "sh"), SECOND), Want::Nothing);
    assert!(table.named(3, named("web")), "rows must be written again");
    assert!(!table.named(3, named("web")), "nothing new");
    assert_eq!(table.owner(4).and_then(|container| container.name.clone()).as_deref(), Some("web"));
    assert!(table.nameless().is_empty());
    table.rmdir(4, 2 * SECOND);
    table.rmdir(3, 2 * SECOND);
    assert_eq!(table.containers().count(), 0);
    assert_eq!(
        table.owner(3).and_then(|container| container.name.clone()).as_deref(),
        Some("web"),
        "named after its end"
    );
    table.expire(601 * SECOND);
    assert_eq!(id_of(&table, 3), A);
    table.expire(602 * SECOND);
    assert_eq!([3, 4].map(|id| id_of(&table, id)), ["unknown", "unknown"]);
    assert_eq!(table.len(), (2, 0));
}

#[test]
fn named_when_it_is_gone_already() {
    let mut table = seeded(&[(2, "/docker")]);
    table.mkdir(&born(3, Some(2), &format!("docker/{A}"), "runc"), 0);
    table.mkdir(&born(4, Some(3), "a/sub", "sh"), 0);
    table.rmdir(4, 1);
    table.rmdir(3, 1);
    assert!(table.named(3, named("short")));
    for id in [3, 4] {
        assert_eq!(table.owner(id).and_then(|container| container.name.clone()).as_deref(), Some("short"));
    }
    assert!(!table.named(99, named("nobody")));
}

#[test]
fn the_same_path_again_is_another_life() {
    let path = format!("/docker/{A}");
    let mut table = seeded(&[(3, &path)]);
    table.named(3, named("old"));
    table.rmdir(3, 1);
    assert!(matches!(table.mkdir(&born(4, None, &path, "runc"), 2), Want::Facts(..)), "its files are read anew");
    table.named(4, named("new"));
    assert_eq!(table.owner(3).and_then(|c| c.name.clone()).as_deref(), Some("old"));
    assert_eq!(table.owner(4).and_then(|c| c.name.clone()).as_deref(), Some("new"));
    // And where the rmdir was lost.
    table.mkdir(&born(5, None, &path, "runc"), 3);
    assert_eq!(table.owner(4).and_then(|c| c.name.clone()).as_deref(), Some("new"));
    assert_eq!(table.owner(5).and_then(|c| c.name.clone()), None);
}

#[test]
fn only_the_last_names_travelled() {
    let mut table = Table::default();
    table.mkdir(&born(3, Some(77), &format!("docker/{A}"), "runc"), 0);
    assert_eq!(id_of(&table, 3), A);
    assert_eq!(table.path(3).map(ToString::to_string), Some(format!("/docker/{A}")));
}

fn stated(id: &str, runtime: Runtime, cgroup: &str) -> KnownContainer {
    KnownContainer { id: id.into(), runtime: Some(runtime), cgroup: cgroup.into(), source: "/run/test".into() }
}

#[test]
fn free_form_ids_are_learnt_late() {
    let mut table =
        seeded(&[(1, "/"), (2, "/default"), (3, "/default/c1"), (4, "/default/c1/sub"), (5, "/default/c10")]);
    assert_eq!(id_of(&table, 3), "host");
    assert!(table.learn(stated("c1", Runtime::Containerd, "/default/c1")));
    assert!(!table.learn(stated("c1", Runtime::Containerd, "/default/c1")));
    assert_eq!([2, 3, 4, 5].map(|id| id_of(&table, id)), ["host", "c1", "c1", "host"]);
    assert_eq!(table.owner(3).and_then(|c| c.name.clone()).as_deref(), Some("c1"), "a person chose that id");
    assert!(matches!(table.mkdir(&born(6, Some(2), "default/c2", "other"), 0), Want::Identity(6, _)));
    table.rmdir(6, 1);
    assert!(table.learn(stated("c2", Runtime::Containerd, "/default/c2")), "its state was read after its end");
    assert_eq!(id_of(&table, 6), "c2");
    table.rmdir(4, 1);
    table.rmdir(3, 1);
    assert_eq!(id_of(&table, 4), "c1");
    table.mkdir(&born(7, Some(2), "default/c1", "sh"), 2);
    assert_eq!(id_of(&table, 7), "host", "what was known of a path went with its cgroup");
    assert!(!table.learn(stated("all", Runtime::Runc, "/")), "the root is nobody's container");
}

#[test]
fn what_runc_makes_is_a_container() {
    let mut table = seeded(&[(1, "/"), (9, "/system.slice/job.service")]);
    assert!(matches!(table.mkdir(&born(2, Some(1), "/c1", "runc"), 0), Want::Facts(2, _)));
    assert_eq!(table.owner(2).map(|c| (c.id.clone(), c.runtime)), Some(("c1".to_owned(), Some(Runtime::Runc))));
    // The parent of a container is made by runc too, and is told from it by what comes next.
    table.mkdir(&born(3, Some(1), "/apps", "runc:[0:PARENT]"), 0);
    assert_eq!(id_of(&table, 3), "apps");
    table.mkdir(&born(4, Some(3), "apps/c2", "runc"), 0);
    table.mkdir(&born(5, Some(3), "apps/c3", "runc"), 0);
    assert_eq!([3, 4, 5].map(|id| id_of(&table, id)), ["host", "c2", "c3"]);
    assert!(table.owner(4).is_some_and(|c| c.ancestors.is_empty()));
    table.mkdir(&born(6, Some(1), "/docker", "runc"), 0);
    assert_eq!(id_of(&table, 6), "host");
    table.mkdir(&born(7, Some(9), "job.service/c4", "crun"), 0);
    assert_eq!(id_of(&table, 7), "c4");
    // Inside a container anybody may call himself runc.
    table.mkdir(&Born { by_pid: 666, ..born(8, Some(2), "c1/fake", "runc") }, 0);
    assert_eq!([2, 8].map(|id| id_of(&table, id)), ["c1", "c1"]);
    table.mkdir(&born(11, Some(2), "c1/container", "crun"), 0);
    assert_eq!([2, 11].map(|id| id_of(&table, id)), ["c1", "c1"]);
    table.mkdir(&born(10, Some(1), "/plain", "bash"), 0);
    assert_eq!(id_of(&table, 10), "host");
    // The engine's own file says more than who made it.
    assert!(table.learn(stated("c1", Runtime::Containerd, "/c1")));
    assert_eq!(table.owner(2).and_then(|c| c.runtime), Some(Runtime::Containerd));
}

#[test]
fn seen_by_the_walk_before_its_event() {
    let mut table = seeded(&[(1, "/"), (2, "/c1")]);
    assert_eq!(id_of(&table, 2), "host");
    table.mkdir(&born(2, Some(1), "/c1", "runc"), 0);
    assert_eq!(id_of(&table, 2), "c1");
}

#[test]
fn names_reach_the_containers_inside() {
    let outer = format!("/docker/{A}");
    let mut table = seeded(&[(2, &outer), (3, &format!("{outer}/docker/{B}"))]);
    assert!(table.named(2, named("kind-node")));
    let inner = table.owner(3).expect("a container");
    assert_eq!(inner.id, B);
    assert_eq!(inner.ancestors.len(), 1);
    assert_eq!(inner.ancestors[0].name.as_deref(), Some("kind-node"));
    assert_eq!(inner.name, None);
}

#[test]
fn tombs_are_bounded_and_the_hosts_do_not_push_out_containers() {
    let mut table = seeded(&[(1, "/")]);
    table.mkdir(&born(2, Some(1), &format!("/{A}"), "x"), 0);
    table.rmdir(2, 0);
    for id in 10..20_000 {
        table.mkdir(&born(id, Some(1), &format!("/job-{id}"), "sh"), id);
        table.rmdir(id, id);
    }
    assert_eq!(id_of(&table, 2), A);
    assert_eq!(table.len(), (1, TOMBS + 1));
    assert_eq!([10, 19_999].map(|id| id_of(&table, id)), ["unknown", "host"]);
}

#[test]
fn five_thousand_idle_cgroups() {
    let paths: Vec<Seen> =
        (0..5000).map(|id| seen(id, &format!("/user.slice/user-{id}.slice/session-{id}.scope"))).collect();
    // Of this thread alone: a busy machine takes its time.
    let cpu = || std::time::Duration::from(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID.now().expect("a clock"));
    let start = cpu();
    let mut table = Table::default();
    table.seed(paths, 0);
    assert_eq!(table.len().0, 5000);
    assert!(table.nameless().is_empty());
    let took = cpu().saturating_sub(start);
    assert!(took.as_millis() < 500, "{took:?}");
}

#[test]
fn as_json() {
    let table = seeded(&[(3, &format!("/kubepods/burstable/pod0a1b2c3d-1111-2222-3333-444455556666/{A}"))]);
    let json = serde_json::to_value(table.owner(3)).expect("plain values");
    assert_eq!(json["name"], serde_json::Value::Null);
    for field in ["name", "runtime", "pod", "namespace"] {
        assert!(json["unknown"][field].is_string(), "{field}: {json}");
    }
}
