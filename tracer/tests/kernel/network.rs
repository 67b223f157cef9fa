//! The network map, against real namespaces: pairs and bridges, macvlan, what is shared, what is hostile, what is held.

use std::fs;

use serde_json::{Value, json};

use tracer::kernel::host::boottime_ns;

use crate::{
    harness::{Lack, Test, in_virtual_machine, measured},
    support::{
        cgroups::{Group, Tree},
        ctrace::{Ctrace, binary},
        engines::{installed, run},
        net::{Actor, Stage, look},
        player::Player,
        wait_until,
    },
};

pub static TESTS: &[Test] = &[
    Test::core("network::a_pair_and_a_bridge", a_pair_and_a_bridge),
    Test::core("network::none_host_and_shared", none_host_and_shared),
    Test::core("network::it_is_kept_current_and_nothing_is_held", it_is_kept_current_and_nothing_is_held),
    Test::full("network::macvlan_and_ipvlan", macvlan_and_ipvlan),
    Test::full("network::a_pair_into_a_third_namespace", a_pair_into_a_third_namespace),
    Test::full("network::hostile_names", hostile_names),
    Test::full("network::rules_of_iptables", rules_of_iptables).needs(&[Lack::IptablesLegacy]),
    Test::full("network::rules_of_nftables", rules_of_nftables).needs(&[Lack::Nftables]),
    Test::full("network::a_thousand_pairs", a_thousand_pairs),
];

/// A bridge with an address, and a card: the outer end of a pair whose inner end nobody uses.
fn ground(stage: &Stage) {
    stage.ip("link add br0 type bridge");
    stage.ip("addr add 10.9.0.1/24 dev br0");
    stage.ip("link set br0 up");
    stage.ip("link add card type veth peer name wire");
    stage.ip("link set card up");
    stage.ip("link set wire up");
    stage.ip("addr add 192.0.2.2/24 dev card");
    stage.ip("route add default via 192.0.2.1");
}

/// A container behind a pair that is a port of the bridge.
fn bridged(stage: &Stage, group: &Group, outer: &str, address: &str) -> Actor {
    let actor = stage.container(group);
    stage.ip(&format!("link add {outer} type veth peer name eth0 netns {}", actor.pid));
    stage.ip(&format!("link set {outer} master br0 up"));
    stage.ip_of(&actor, "link set lo up");
    stage.ip_of(&actor, "link set eth0 up");
    stage.ip_of(&actor, &format!("addr add {address}/24 dev eth0"));
    stage.ip_of(&actor, "route add default via 10.9.0.1");
    actor
}

fn way(network: &Value) -> Vec<(&str, &str)> {
    let stops = network["way"].as_array().expect("a way").iter();
    stops.map(|stop| (stop["name"].as_str().expect("a name"), stop["role"].as_str().expect("a role"))).collect()
}

/// The interface of that name.
fn interface<'a>(network: &'a Value, name: &str) -> &'a Value {
    let all = network["interfaces"].as_array().expect("interfaces");
    all.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("no {name}: {network}"))
}

fn has(list: &Value, wanted: &str) -> bool {
    list.as_array().is_some_and(|list| list.iter().any(|item| item == wanted))
}

fn a_pair_and_a_bridge() {
    let (stage, tree) = (Stage::new(), Tree::new());
    ground(&stage);
    let (group, other) = (tree.container(), tree.container());
    let web = bridged(&stage, &group, "vethweb", "10.9.0.2");
    stage.ip_of(&web, "-6 addr add fd00:9::2/64 dev eth0 nodad");
    let api = bridged(&stage, &other, "vethapi", "10.9.0.3");
    let line = stage.one(&group);
    let network = &line["network"];
    assert_eq!((&line["network_mode"], &network["netns"]), (&json!("bridge"), &json!(stage.netns(web.pid))));
    let eth0 = interface(network, "eth0");
    assert_eq!(
        (&eth0["kind"], &eth0["mtu"], &eth0["up"], &eth0["lower_up"]),
        (&json!("veth"), &json!(1500), &json!(true), &json!(true))
    );
    assert!(has(&eth0["addresses"], "10.9.0.2/24") && has(&eth0["addresses"], "fd00:9::2/64"), "{eth0}");
    let peer = &eth0["peer"];
    assert_eq!(
        (&peer["name"], &peer["ifindex"], &peer["netns"], &peer["host"]),
        (&json!("vethweb"), &json!(stage.ifindex("vethweb")), &json!(stage.netns(1)), &json!(true))
    );
    assert_eq!((&peer["bridge"]["name"], &peer["bridge"]["ifindex"]), (&json!("br0"), &json!(stage.ifindex("br0"))));
    assert_eq!(
        way(network),
        [("eth0", "container-device"), ("vethweb", "host-veth"), ("br0", "bridge"), ("card", "uplink")]
    );
    assert_eq!(network["uplink"]["ifindex"], json!(stage.ifindex("card")));
    assert_eq!(stage.one(&other)["network"]["interfaces"][0]["peer"]["name"], "vethapi", "indexes repeat, ends do not");
    // What a person is told to write is what is shown afterwards.
    assert_eq!(peer["rps_cpus"], json!(["0"]), "{peer}");
    run(stage.program("sh").args(["-c", "echo 1 > /sys/class/net/vethweb/queues/rx-0/rps_cpus"]));
    assert_eq!(stage.one(&group)["network"]["interfaces"][0]["peer"]["rps_cpus"], json!(["1"]));
    let text = stage.containers(&[group.name()]).out.join("\n");
    assert!(text.contains("eth0 → vethweb → br0 → card → outside") && text.contains("port of br0"), "{text}");
    // Each part undone, in turn.
    stage.ip("link set br0 down");
    assert_eq!(interface(&stage.one(&group)["network"], "eth0")["peer"]["bridge"]["up"], json!(false));
    stage.ip("route del default via 192.0.2.1");
    let cut = stage.one(&group);
    assert_eq!(cut["network"]["uplink"], json!(null));
    assert_eq!(cut["network"]["unknown"]["uplink"], "there is no route to the outside");
    stage.ip("link set vethweb nomaster");
    assert_eq!(stage.one(&group)["network_mode"], "veth");
    stage.ip("link del vethweb");
    let none = stage.one(&group);
    assert_eq!((&none["network_mode"], &none["network"]["interfaces"]), (&json!("none"), &json!([])));
    drop((web, api));
}

fn none_host_and_shared() {
    let (stage, tree) = (Stage::new(), Tree::new());
    ground(&stage);
    let [alone, host, first, second] = [(); 4].map(|()| tree.container());
    let _alone = stage.container(&alone);
    let _host = stage.actor(&host, &[]);
    let landlord = bridged(&stage, &first, "vethweb", "10.9.0.2");
    let _guest = stage.actor(&second, &[&format!("net-of={}", landlord.pid)]);
    let none = stage.one(&alone);
    assert_eq!((&none["network_mode"], &none["network"]["interfaces"]), (&json!("none"), &json!([])));
    assert_eq!(none["network"]["unknown"]["uplink"], "it has no route to the outside");
    let on_host = stage.one(&host);
    assert_eq!((&on_host["network_mode"], &on_host["network"]["host"]), (&json!("host"), &json!(true)));
    assert_eq!(way(&on_host["network"]), [("card", "uplink")]);
    let names: Vec<&str> = on_host["network"]["interfaces"]
        .as_array()
        .expect("interfaces")
        .iter()
        .filter_map(|one| one["name"].as_str())
        .collect();
    assert!(names.contains(&"card") && names.contains(&"br0") && !names.contains(&"vethweb"), "{names:?}");
    let text = stage.containers(&[host.name()]).out.join("\n");
    assert!(text.contains("it is on the host's network"), "{text}");
    let guest = stage.one(&second);
    assert_eq!(guest["network_mode"], json!(format!("container:{}", &first.name()[..12])));
    assert_eq!(guest["network"]["shared_with"], json!([first.path]));
    let own = stage.one(&first);
    assert_eq!((&own["network_mode"], &own["network"]["netns"]), (&json!("bridge"), &guest["network"]["netns"]));
    assert_eq!(interface(&guest["network"], "eth0")["peer"]["name"], "vethweb");
}

fn macvlan_and_ipvlan() {
    let (stage, tree) = (Stage::new(), Tree::new());
    ground(&stage);
    let mut missing = Vec::new();
    for (kind, mode) in [("macvlan", "vepa"), ("ipvlan", "l3")] {
        let group = tree.container();
        let actor = stage.container(&group);
        if !stage.try_ip(&format!("link add link card name {kind}0 type {kind} mode {mode}")) {
            missing.push(kind);
            continue;
        }
        stage.ip(&format!("link set {kind}0 netns {}", actor.pid));
        stage.ip_of(&actor, &format!("link set {kind}0 up"));
        let line = stage.one(&group);
        let one = interface(&line["network"], &format!("{kind}0"));
        assert_eq!((&line["network_mode"], &one["kind"], &one["mode"]), (&json!(kind), &json!(kind), &json!(mode)));
        assert_eq!((&one["peer"]["name"], &one["peer"]["host"]), (&json!("card"), &json!(true)), "{one}");
        assert_eq!(way(&line["network"]), [(&*format!("{kind}0"), "container-device"), ("card", "uplink")]);
        stage.ip_of(&actor, &format!("link del {kind}0"));
        assert_eq!(stage.one(&group)["network_mode"], "none");
    }
    if !missing.is_empty() {
        assert!(!in_virtual_machine(), "a virtual machine's kernel has {missing:?}");
        measured(format!("this kernel was built without {}", missing.join(" and ")));
    }
}

/// The other end is in a namespace that no process is in, and behind that one the way goes on to the host.
fn a_pair_into_a_third_namespace() {
    let (stage, tree) = (Stage::new(), Tree::new());
    ground(&stage);
    stage.ip("netns add router");
    let group = tree.container();
    let actor = stage.container(&group);
    for words in [
        &format!("link add toweb netns router type veth peer name eth0 netns {}", actor.pid),
        "link add tohost netns router type veth peer name vethrt",
        "link set vethrt up",
        "-n router link set toweb up",
        "-n router link set tohost up",
        "-n router addr add 10.7.0.1/24 dev toweb",
        "-n router addr add 10.8.0.2/24 dev tohost",
        "-n router route add default via 10.8.0.1",
    ] {
        stage.ip(words);
    }
    stage.ip_of(&actor, "link set eth0 up");
    stage.ip_of(&actor, "addr add 10.7.0.2/24 dev eth0");
    stage.ip_of(&actor, "route add default via 10.7.0.1");
    let line = stage.one(&group);
    let peer = &interface(&line["network"], "eth0")["peer"];
    let router: u64 = run(stage.program("stat").args(["-c", "%i", "/run/netns/router"])).parse().expect("an inode");
    assert_eq!((&peer["name"], &peer["netns"], &peer["host"]), (&json!("toweb"), &json!(router), &json!(false)));
    assert!(peer["unknown"]["rps_cpus"].as_str().is_some_and(|why| why.contains("another namespace")), "{peer}");
    assert_eq!(
        way(&line["network"]).iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        ["eth0", "toweb", "tohost", "vethrt", "card"]
    );
    // It was entered, and is not held: without its name it goes, and with it the devices.
    stage.ip("netns del router");
    wait_until("the namespace's devices to go", || (!stage.try_ip("link show vethrt")).then_some(()));
    assert_eq!(stage.one(&group)["network_mode"], "none");
}

fn it_is_kept_current_and_nothing_is_held() {
    let (stage, tree) = (Stage::new(), Tree::new());
    ground(&stage);
    let (group, other) = (tree.container(), tree.container());
    let web = bridged(&stage, &group, "vethweb", "10.9.0.2");
    let mut keeper = stage.keeper();
    wait_until("the keeper", || keeper.heard("keeper is ready").then_some(()));
    let device = |lines: &[String], group: &Group| {
        let start = format!("device {} eth0 ", group.name());
        lines.iter().find_map(|line| line.strip_prefix(&start)).map(str::to_owned)
    };
    let quiet = settled(&mut keeper);
    assert!(device(&quiet, &group).is_some_and(|line| line.starts_with("vethweb 10.9.0.2/24")), "{quiet:?}");
    // On the host, inside the container, and a container more.
    let changed = |keeper: &mut _, what: &str, is_it: &dyn Fn(&[String]) -> bool| {
        wait_until(what, || Some(look(keeper)).filter(|lines| is_it(lines)))
    };
    stage.ip("link set vethweb down"); // older kernels rename none that is up
    stage.ip("link set vethweb name vethnew up");
    changed(&mut keeper, "the new name", &|lines| {
        device(lines, &group).is_some_and(|line| line.starts_with("vethnew "))
    });
    stage.ip_of(&web, "addr add 10.9.0.77/24 dev eth0");
    changed(&mut keeper, "the new address", &|lines| {
        device(lines, &group).is_some_and(|line| line.contains("10.9.0.77/24"))
    });
    let api = bridged(&stage, &other, "vethapi", "10.9.0.3");
    changed(&mut keeper, "the new container", &|lines| {
        device(lines, &other).is_some_and(|line| line.starts_with("vethapi "))
    });
    if installed("iptables-legacy").is_some() {
        let rule = "-A POSTROUTING -s 10.9.0.0/24 -j MASQUERADE";
        run(stage.program("iptables-legacy").args(["-t", "nat"]).args(rule.split(' ')));
        let rules = look(&mut keeper);
        assert!(rules.iter().any(|line| *line == format!("rule {rule}")), "with the privileges of a lens: {rules:?}");
    }
    // The namespace goes with its last process, and the outer end with it: nobody holds it.
    drop(web);
    wait_until("the outer end to go", || (!stage.try_ip("link show vethnew")).then_some(()));
    let after = changed(&mut keeper, "that it is gone", &|lines| device(lines, &group).is_none());
    let held: Vec<&String> = after.iter().filter(|line| line.starts_with("holds ")).collect();
    assert!(held.is_empty(), "{held:?}");
    // A thread that was joined may be seen for a moment more.
    changed(&mut keeper, "its threads to end", &|lines| lines.iter().any(|line| line == "threads 1"));
    drop(api);
}

/// How often the map had been read by then.
fn readings(lines: &[String]) -> u64 {
    let map = lines.iter().find_map(|line| line.strip_prefix("map ")).expect("a map");
    map.split(' ').next().expect("a number").parse().expect("a number")
}

/// A look at a map that nothing made to be read again. (The kernel goes on for a while after commands have ended: addresses
/// become final, bridges learn.)
fn settled(keeper: &mut Player) -> Vec<String> {
    wait_until("a map that stays", || {
        let (first, second) = (look(keeper), look(keeper));
        (readings(&first) == readings(&second)).then_some(second)
    })
}

fn hostile_names() {
    let (stage, tree) = (Stage::new(), Tree::new());
    ground(&stage);
    let group = tree.container();
    let actor = stage.container(&group);
    stage.ip(&format!("link add \u{1b}[31mevil type veth peer name h\u{202e}$(x) netns {}", actor.pid));
    let network = &stage.one(&group)["network"];
    assert_eq!(interface(network, "h\u{202e}$(x)")["peer"]["name"], "\u{1b}[31mevil", "JSON carries the name itself");
    for arguments in [&[group.name()][..], &[]] {
        let text = stage.containers(arguments).out.join("\n");
        assert!(!text.chars().any(|char| (char.is_control() && char != '\n') || char == '\u{202e}'), "raw: {text:?}");
    }
    let text = stage.containers(&[group.name()]).out.join("\n");
    assert!(text.contains("h\\u{202e}$(x)") && text.contains("\\x1b[31mevil"), "{text}");
}

fn rules_of_iptables() {
    let (stage, tree) = (Stage::new(), Tree::new());
    ground(&stage);
    let group = tree.container();
    let actor = bridged(&stage, &group, "vethweb", "10.9.0.2");
    let before = stage.one(&group);
    assert!(before["network"]["nat"].as_array().is_none_or(Vec::is_empty), "{before}");
    let iptables = |words: &str| run(stage.program("iptables-legacy").args(["-t", "nat"]).args(words.split(' ')));
    iptables("-A POSTROUTING -s 10.9.0.0/24 ! -o br0 -j MASQUERADE");
    iptables("-A POSTROUTING -s 10.10.0.0/24 -j MASQUERADE");
    iptables("-A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 10.9.0.2:80");
    iptables("-A PREROUTING -p tcp --dport 8081 -j DNAT --to-destination 10.9.0.3:80");
    let nat = &stage.one(&group)["network"]["nat"];
    let rules: Vec<(&str, u64)> = nat
        .as_array()
        .expect("rules")
        .iter()
        .map(|rule| (rule["action"].as_str().expect("an action"), rule["netns"].as_u64().expect("an inode")))
        .collect();
    let host = stage.netns(1);
    assert_eq!(rules, [("dnat", host), ("masquerade", host)], "only those that apply: {nat}");
    // Without nft it is said what is not known.
    let network = &stage.one(&group)["network"];
    let known = installed("nft").is_some();
    assert_eq!(network["unknown"]["nat"].is_string(), !known, "{network}");
    // One of the container's own.
    let own = [
        "--target",
        &actor.pid.to_string(),
        "--net",
        "iptables-legacy",
        "-t",
        "nat",
        "-A",
        "OUTPUT",
        "-p",
        "tcp",
        "-j",
        "REDIRECT",
        "--to-ports",
        "1",
    ];
    run(stage.program("nsenter").args(own));
    let nat = &stage.one(&group)["network"]["nat"];
    assert!(
        nat.as_array().is_some_and(|rules| rules
            .iter()
            .any(|rule| rule["netns"] == stage.netns(actor.pid) && rule["action"] == "redirect")),
        "{nat}"
    );
}

fn rules_of_nftables() {
    let (stage, tree) = (Stage::new(), Tree::new());
    ground(&stage);
    let group = tree.container();
    let _actor = bridged(&stage, &group, "vethweb", "10.9.0.2");
    let nft = |words: &str| run(stage.program("nft").arg(words));
    nft(
        "table ip nat { chain post { type nat hook postrouting priority 100; }; chain pre { type nat hook prerouting priority -100; }; }",
    );
    let before = stage.one(&group);
    assert_eq!(before["network"]["nat"], json!([]), "nothing applies, and that is known: {before}");
    nft("add rule ip nat post ip saddr 10.9.0.0/24 oifname != \"br0\" masquerade");
    nft("add rule ip nat post ip saddr 10.10.0.0/24 masquerade");
    nft("add rule ip nat pre tcp dport 8080 dnat to 10.9.0.2:80");
    let nat = &stage.one(&group)["network"]["nat"];
    let mut texts: Vec<&str> =
        nat.as_array().expect("rules").iter().map(|rule| rule["text"].as_str().expect("a text")).collect();
    texts.sort_unstable();
    assert_eq!(texts, ["ip saddr 10.9.0.0/24 oifname != br0 masquerade", "tcp dport 8080 dnat to 10.9.0.2:80"]);
    // Where the program is not there, it is not known.
    let nft = fs::canonicalize(installed("nft").expect("it is installed")).expect("a path");
    run(stage.program("mount").args(["--bind", "/dev/null"]).arg(nft));
    let network = &stage.one(&group)["network"];
    assert_eq!(network["nat"], json!(null));
    assert!(network["unknown"]["nat"].as_str().is_some_and(|why| why.contains("nft is not on PATH")), "{network}");
}

fn a_thousand_pairs() {
    let count = if in_virtual_machine() { 200 } else { 1000 };
    let (stage, tree) = (Stage::new(), Tree::new());
    ground(&stage);
    let group = tree.container();
    let actor = stage.container(&group);
    let pid = actor.pid;
    let lines: String = (0..count)
        .map(|number| format!("link add v{number} master br0 type veth peer name e{number} netns {pid}\n"))
        .collect();
    stage.batch(&lines);
    let mut keeper = stage.keeper();
    wait_until("the keeper", || keeper.heard("keeper is ready").then_some(()));
    let first = look(&mut keeper);
    let own = format!("device {} ", group.name());
    let paired = first.iter().filter_map(|line| line.strip_prefix(&own)).filter(|line| !line.contains(" - ")).count();
    assert_eq!(paired, count, "each with its other end");
    let took = |lines: &[String]| -> u64 {
        let map = lines.iter().find_map(|line| line.strip_prefix("map ")).expect("a map");
        map.rsplit(' ').next().expect("a number").parse().expect("microseconds")
    };
    let again = settled(&mut keeper);
    measured(format!(
        "{count} pairs: the map in {:.1} ms, a look at it when nothing changed {:.1} ms",
        took(&first) as f64 / 1000.0,
        took(&again) as f64 / 1000.0
    ));
    let limit = if in_virtual_machine() { 10_000_000 } else { 1_000_000 };
    assert!(took(&first) < limit, "{} µs", took(&first));
    // A start beside them.
    let mut net = stage.program(&binary().canonicalize().expect("ctrace").display().to_string());
    net.args(["net", "--json", "--for", "1s"]);
    let start = boottime_ns();
    let mut ctrace = Ctrace::ready(net);
    let ready = ctrace.wait_for("the ready note", |line| line.json["code"] == "ready");
    let ms = (ready.at_ns - start) as f64 / 1e6;
    measured(format!("{count} pairs: ctrace net is ready after {ms:.1} ms"));
    assert!(ms * 1000.0 < limit as f64, "{ms} ms");
    ctrace.wait_for("the container's numbers", |line| {
        line.json["sample"] == "net" && line.json["container"]["id"] == group.name()
    });
    assert_eq!(ctrace.exited().code(), Some(0));
    // And each in a namespace of its own.
    let apart = count / 5;
    let lines: String = (0..apart)
        .map(|number| format!("netns add n{number}\nlink add a{number} type veth peer name b netns n{number}\n"))
        .collect();
    stage.batch(&lines);
    let (before, more) = (readings(&again), look(&mut keeper));
    assert!(readings(&more) > before, "the host's events tell");
    let ms = took(&more) as f64 / 1000.0;
    measured(format!("{apart} namespaces more, with a pair each: the map in {ms:.1} ms"));
    assert!(took(&more) < limit, "{ms} ms");
}
