use super::*;
use crate::{
    containers::{Seen, files::Memory},
    findings::containers::judge,
    model::Finding,
    network::{Address, Counters, Link, Map, Namespace, Network, Placed, PortState, Settings, nat},
    views,
};

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const MOUNTS: &str = "30 23 0:26 / /cg rw - cgroup2 cgroup2 rw\n";
const DOCKER: u64 = 0xa804_25fb;
const ALL: u64 = (1 << 41) - 1;

/// A process as /proc shows it.
struct Proc<'a> {
    pid: u32,
    ns_pids: &'a str,
    uid: u32,
    cgroup: &'a str,
    bounding: u64,
    user: &'a str,
    map: &'a str,
    net: &'a str,
}

fn proc(files: &mut Memory, process: &Proc<'_>) {
    let Proc { pid, ns_pids, uid, cgroup, bounding, user, map, net } = process;
    let mut file = |name: &str, text: &str| files.file(&format!("/proc/{pid}/{name}"), text);
    file(
        "status",
        &format!(
            "Name:\tx\nState:\tS\nUid:\t{uid}\t{uid}\t0\t0\nNSpid:\t{ns_pids}\nCapInh:\t0\nCapPrm:\t{bounding:x}\nCapEff:\t{bounding:x}\nCapBnd:\t{bounding:x}\nCapAmb:\t0\nNoNewPrivs:\t0\nSeccomp:\t0\n"
        ),
    );
    file("cgroup", &format!("0::{cgroup}\n"));
    file("stat", &format!("{pid} (a) b) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {pid}00 0 0"));
    file("uid_map", map);
    file(
        "mountinfo",
        "1 0 0:1 / / rw - overlay o rw\n2 1 0:1 / / ro,relatime - overlay o rw\n3 1 0:2 / /x rw - tmpfs t rw\n",
    );
    file("net/dev", "Inter-|\n face |\n    lo: 0\n  eth0: 0\n");
    file("net/dev_mcast", "7    eth0   1   0   01005e000001\n");
    files.links.insert(format!("/proc/{pid}/ns/user"), (*user).to_owned());
    files.links.insert(format!("/proc/{pid}/ns/net"), (*net).to_owned());
}

fn host() -> Memory {
    let mut files = Memory::default();
    let init = Proc {
        pid: 1,
        ns_pids: "1",
        uid: 0,
        cgroup: "/init.scope",
        bounding: ALL,
        user: "user:[1]",
        map: "0 0 4294967295",
        net: "net:[1]",
    };
    proc(&mut files, &init);
    files
}

const WEB: Proc<'static> = Proc {
    pid: 70,
    ns_pids: "70 1",
    uid: 0,
    cgroup: "",
    bounding: DOCKER,
    user: "user:[1]",
    map: "0 0 4294967295",
    net: "net:[2]",
};

fn inspect(files: &Memory, path: &str, facts: Facts) -> (Inspected, Vec<Finding>) {
    let hierarchy = Hierarchy::detect(MOUNTS).expect("mounted");
    let mut table = Table::default();
    table.seed([Seen { id: 2, path: path.to_owned() }], 0);
    table.named(2, facts);
    let inspector = Inspector::new(files, &hierarchy, MOUNTS, &table, 1_000_000_000);
    let inspected = inspector.inspect(table.containers().next().expect("one"));
    let findings = judge(&inspected, Timestamp(0));
    (inspected, findings)
}

fn named(name: &str) -> Facts {
    Facts { name: Some(name.to_owned()), ..Facts::default() }
}

#[test]
fn a_container_in_full() {
    let mut files = host();
    let path = format!("/docker/{ID}");
    proc(&mut files, &Proc { cgroup: &path, ..WEB });
    proc(&mut files, &Proc { pid: 71, ns_pids: "71 2", uid: 33, cgroup: &path, ..WEB });
    for (file, text) in
        [("memory.max", "67108864"), ("memory.current", "1572864"), ("pids.max", "max"), ("pids.current", "2")]
    {
        files.file(&format!("/cg{path}/{file}"), text);
    }
    files.file("/bundle/config.json", r#"{"process":{"cwd":"/","user":{"uid":0,"gid":0},"capabilities":{"bounding":["CAP_CHOWN"],"effective":["CAP_CHOWN"]}}}"#);
    for (file, text) in [("ifindex", "8"), ("iflink", "7")] {
        files.file(&format!("/sys/devices/virtual/net/veth1/{file}"), text);
    }
    files.links.insert("/sys/devices/virtual/net/veth1/master".into(), "../docker0".into());
    let facts = Facts { bundle: Some("/bundle".into()), image: Some("nginx:1".into()), ..named("we\nb\x1b[31m") };
    let (inspected, findings) = inspect(&files, &path, facts);
    assert_eq!((inspected.init_pid, inspected.processes, inspected.root_processes), (Some(70), 2, 1));
    assert_eq!(inspected.network_mode.as_deref(), Some("bridge"));
    assert_eq!(inspected.started, Some(Timestamp(71_000_000_000)));
    assert_eq!((inspected.rootfs_readonly, inspected.privileged), (Some(true), Some(false)));
    assert_eq!(findings.iter().map(|finding| finding.code.0).collect::<Vec<_>>(), ["sec.host-root"]);
    let now = Timestamp(100_000_000_000);
    let json = valid_json(&inspected, now);
    insta::assert_json_snapshot!("container", json);
    insta::assert_snapshot!("block", views::containers::block(&inspected, now));
    insta::assert_snapshot!("table", views::containers::table(&[(inspected, findings)], now));
}

fn valid_json(inspected: &Inspected, now: Timestamp) -> serde_json::Value {
    let json: serde_json::Value = serde_json::from_str(&views::containers::json(inspected, now)).expect("JSON");
    let schema = serde_json::from_str(include_str!("../../../../docs/json.schema.json")).expect("JSON");
    let schema = jsonschema::validator_for(&schema).expect("a schema");
    let errors: Vec<String> = schema.iter_errors(&json).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    json
}

#[test]
fn on_the_network() {
    let mut files = host();
    let path = format!("/docker/{ID}");
    proc(&mut files, &Proc { cgroup: &path, ..WEB });
    let (mut inspected, _) = inspect(&files, &path, named("web"));
    assert_eq!(inspected.network_mode, None, "no file tells it");
    let map = bridged(&path);
    let mut network = Network::of(&map, &path);
    let rule = nat::Rule {
        netns: 1,
        from: "iptables-legacy",
        table: "nat".into(),
        chain: "POSTROUTING".into(),
        action: "masquerade".into(),
        text: "-A POSTROUTING -s 172.17.0.0/16 -o \"\u{1b}[31m\" -j MASQUERADE".into(),
        ..nat::Rule::default()
    };
    let unseen = vec!["nftables: nft is not on PATH: install it to see these rules".to_owned()];
    network.take_rules([nat::Rules { rules: vec![rule], unknown: unseen }].iter());
    inspected.take_network(network);
    let now = Timestamp(100_000_000_000);
    insta::assert_json_snapshot!("network", valid_json(&inspected, now)["network"]);
    let block = views::containers::block(&inspected, now);
    let from = block.find("  network ").expect("a line");
    insta::assert_snapshot!("network_block", &block[from..]);
    assert!(!block.chars().any(|char| char.is_control() && char != '\n'), "raw: {block:?}");
    // Its namespace could not be entered: each null has its reason.
    let (mut unread, _) = inspect(&files, &path, named("web"));
    let problem = Some("may not be entered".to_owned());
    let closed = Namespace { inode: 2, problem, ..Namespace::default() };
    let placed = vec![Placed { cgroup: path.as_str().into(), netns: 2 }];
    unread.take_network(Network::of(&Map::of(Some(1), vec![closed], placed), &path));
    let json = valid_json(&unread, now);
    assert_eq!(
        (&json["network_mode"], &json["network"]["interfaces"]),
        (&serde_json::Value::Null, &serde_json::Value::Null)
    );
    assert_eq!(json["network"]["unknown"]["interfaces"], "may not be entered");
    assert!(views::containers::block(&unread, now).contains("unknown: may not be entered"));
}

/// The container behind a pair whose outer end has a hostile name and is a port of a bridge; the way leads to a card.
fn bridged(path: &str) -> Map {
    let link = |ifindex: u32, name: &str, kind: &str| Link {
        ifindex,
        name: name.to_owned(),
        kind: (!kind.is_empty()).then(|| kind.to_owned()),
        mtu: Some(1500),
        up: true,
        lower_up: true,
        rx_queues: Some(2),
        tx_queues: Some(2),
        rp_filter: Some(0),
        counters: Some(Counters { rx_packets: 3, tx_packets: 5, tx_dropped: 1, ..Counters::default() }),
        ..Link::default()
    };
    let address = |text: &str| Address::parse(text).into_iter().collect::<Vec<_>>();
    let namespace = |inode: u64, links: Vec<Link>, out: u32, other: u64| Namespace {
        inode,
        links: links.into_iter().map(|link| (link.ifindex, link)).collect(),
        way_out: vec![out],
        ids: [(0, other)].into(),
        settings: Settings { ip_forward: Some(true), rp_filter: Some(2), ..Settings::default() },
        problem: None,
    };
    let outer = Link {
        link: Some(7),
        link_netnsid: Some(0),
        master: Some(3),
        port: Some(PortState::Forwarding),
        rps: Some(vec!["0".to_owned()]),
        ..link(8, "ve\u{1b}[31m", "veth")
    };
    let bridge = Link { addresses: address("172.17.0.1/16"), ..link(3, "docker0", "bridge") };
    let inner =
        Link { link: Some(8), link_netnsid: Some(0), addresses: address("172.17.0.2/16"), ..link(7, "eth0", "veth") };
    let host = namespace(1, vec![link(1, "lo", ""), link(2, "ens3", ""), bridge, outer], 2, 2);
    let own = namespace(2, vec![link(1, "lo", ""), inner], 7, 1);
    Map::of(Some(1), vec![host, own], vec![Placed { cgroup: path.into(), netns: 2 }])
}

#[test]
fn a_network_belongs_to_who_was_there_first() {
    let mut files = host();
    // The one with the later path is the older one.
    let (younger, older) = (format!("/docker/{ID}"), format!("/docker/{}", ID.replace('0', "f")));
    proc(&mut files, &Proc { cgroup: &older, ..WEB });
    proc(&mut files, &Proc { pid: 71, ns_pids: "71 1", cgroup: &younger, ..WEB });
    let hierarchy = Hierarchy::detect(MOUNTS).expect("mounted");
    let mut table = Table::default();
    table.seed([Seen { id: 2, path: younger.clone() }, Seen { id: 3, path: older.clone() }], 0);
    table.named(2, named("guest"));
    table.named(3, named("landlord"));
    let inspector = Inspector::new(&files, &hierarchy, MOUNTS, &table, 1_000_000_000);
    let mode = |cgroup: &str| {
        let entry = table.containers().find(|entry| entry.container.cgroup == cgroup).expect("it is listed");
        inspector.inspect(entry).network_mode
    };
    assert_eq!(mode(&younger).as_deref(), Some("container:landlord"));
    assert_eq!(mode(&older), None, "its own: a device that no file tells of");
}

#[test]
fn everything_and_a_user_namespace() {
    let path = format!("/docker/{ID}");
    let mut files = host();
    proc(&mut files, &Proc { cgroup: &path, bounding: ALL, net: "net:[1]", ..WEB });
    let (inspected, findings) = inspect(&files, &path, named("priv"));
    assert_eq!((inspected.privileged, inspected.network_mode.as_deref()), (Some(true), Some("host")));
    assert_eq!(findings.iter().map(|finding| finding.code.0).collect::<Vec<_>>(), ["caps.privileged", "sec.host-root"]);
    let mut files = host();
    let map = "0 1000 1\n1 100000 65536\n";
    proc(&mut files, &Proc { cgroup: &path, uid: 1000, bounding: ALL, user: "user:[5]", map, ..WEB });
    let (inspected, findings) = inspect(&files, &path, named("rootless"));
    assert_eq!(inspected.user, User { inside: Some(0), outside: Some(1000) });
    assert_eq!(inspected.userns.rootless, Some(true));
    assert!(findings.is_empty(), "{findings:?}");
}

#[test]
fn without_a_process_each_null_has_its_reason() {
    let (inspected, findings) = inspect(&host(), &format!("/docker/{ID}"), named("gone"));
    assert!(findings.is_empty());
    assert_eq!((inspected.init_pid, inspected.main_pid), (None, None));
    for field in [
        "init_pid",
        "user",
        "userns",
        "capabilities",
        "network_mode",
        "seccomp",
        "privileged",
        "rootfs_readonly",
        "started",
    ] {
        assert_eq!(inspected.unknown.get(field).map(String::as_str), Some("it has no process"), "{field}");
    }
}

#[test]
fn the_host_s_pid_namespace_has_no_pid_1_of_the_container() {
    let path = format!("/docker/{ID}");
    let mut files = host();
    proc(&mut files, &Proc { pid: 500, ns_pids: "500", cgroup: &path, ..WEB });
    proc(&mut files, &Proc { pid: 80, ns_pids: "80", cgroup: &path, ..WEB });
    let (inspected, _) = inspect(&files, &path, named("pidhost"));
    assert_eq!((inspected.init_pid, inspected.main_pid), (None, Some(80)));
    assert!(inspected.unknown["init_pid"].contains("its oldest is 80"));
}
