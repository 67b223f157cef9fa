use super::*;

const HOST: u64 = 1;

fn link(ifindex: u32, name: &str, kind: Option<&str>) -> Link {
    let kind = kind.map(str::to_owned);
    Link { ifindex, name: name.to_owned(), kind, up: true, lower_up: true, mtu: Some(1500), ..Link::default() }
}

/// One end of a pair: the other is that index in the namespace of that id.
fn veth(ifindex: u32, name: &str, other: u32, id: Option<i32>) -> Link {
    Link { link: Some(other), link_netnsid: id, ..link(ifindex, name, Some("veth")) }
}

fn port(link: Link, master: u32) -> Link {
    Link { master: Some(master), port: Some(PortState::Forwarding), ..link }
}

fn with(link: Link, addresses: &[&str]) -> Link {
    Link { addresses: addresses.iter().map(|text| Address::parse(text).expect("an address")).collect(), ..link }
}

fn namespace(inode: u64, links: Vec<Link>, way_out: &[u32], ids: &[(i32, u64)]) -> Namespace {
    Namespace {
        inode,
        links: links.into_iter().map(|link| (link.ifindex, link)).collect(),
        way_out: way_out.to_vec(),
        ids: ids.iter().copied().collect(),
        settings: Settings { ip_forward: Some(true), ..Settings::default() },
        problem: None,
    }
}

fn at(netns: u64, ifindex: u32) -> Device {
    Device { netns, ifindex }
}

fn placed(containers: &[(&str, u64)]) -> Vec<Placed> {
    containers.iter().map(|(cgroup, netns)| Placed { cgroup: (*cgroup).into(), netns: *netns }).collect()
}

fn names(map: &Map, way: &Way) -> Vec<String> {
    way.devices.iter().filter_map(|device| Some(map.link(*device)?.name.clone())).collect()
}

/// The host with a bridge and a card, and `/web` behind a pair.
fn bridged() -> Vec<Namespace> {
    vec![
        namespace(
            HOST,
            vec![
                link(1, "lo", None),
                with(link(2, "ens3", None), &["192.0.2.7/24"]),
                with(link(3, "docker0", Some("bridge")), &["172.17.0.1/16"]),
                port(Link { rps: Some(vec!["0".to_owned()]), ..veth(8, "veth1a", 7, Some(0)) }, 3),
            ],
            &[2],
            &[(0, 2)],
        ),
        namespace(
            2,
            vec![link(1, "lo", None), with(veth(7, "eth0", 8, Some(0)), &["172.17.0.2/16", "fd00::2/64"])],
            &[7],
            &[(0, HOST)],
        ),
    ]
}

#[test]
fn a_bridge() {
    let map = Map::of(Some(HOST), bridged(), placed(&[("/web", 2)]));
    let web: Vec<Arc<str>> = vec!["/web".into()];
    for (device, role) in [
        (at(2, 7), Role::ContainerDevice(web.clone())),
        (at(HOST, 8), Role::HostVeth(web)),
        (at(HOST, 3), Role::Bridge),
        (at(HOST, 2), Role::Uplink),
        (at(HOST, 1), Role::Other),
        (at(2, 1), Role::Other),
        (at(2, 99), Role::Other),
    ] {
        assert_eq!(map.role(device), role, "{device:?}");
    }
    let way = map.way(2);
    assert_eq!(names(&map, &way), ["eth0", "veth1a", "docker0", "ens3"]);
    assert_eq!((way.uplink, way.ends), (Some(at(HOST, 2)), None));
    assert_eq!((map.netns_of("/web"), map.netns_of("/other")), (Some(2), None));
    assert_eq!(map.netns_with("172.17.0.2".parse().expect("an address")), Some(2));
    assert_eq!(map.netns_with("fd00::2".parse().expect("an address")), Some(2));
    let network = Network::of(&map, "/web");
    assert_eq!(network.mode().as_deref(), Some("bridge"));
    let peer = network.interfaces.as_ref().and_then(|all| all.first()?.peer.clone()).expect("a peer");
    assert_eq!((peer.host, peer.name.as_str(), peer.device), (true, "veth1a", at(HOST, 8)));
    assert_eq!(
        peer.bridge.map(|bridge| (bridge.name, bridge.state)),
        Some(("docker0".to_owned(), Some(PortState::Forwarding)))
    );
    assert_eq!(network.forwarding.and_then(|settings| settings.ip_forward), Some(true));
}

#[test]
fn of_a_pair_without_a_bridge_and_of_a_card_on_the_bridge() {
    let mut routed = bridged();
    let end = routed[0].links.get_mut(&8).expect("there");
    (end.master, end.port) = (None, None);
    let map = Map::of(Some(HOST), routed, placed(&[("/web", 2)]));
    assert_eq!(names(&map, &map.way(2)), ["eth0", "veth1a", "ens3"]);
    assert_eq!(Network::of(&map, "/web").mode().as_deref(), Some("veth"));
    // As virtual machines' bridges are: the host's own address is the bridge's.
    let mut bridge = bridged();
    bridge[0].links.get_mut(&2).expect("there").master = Some(3);
    bridge[0].way_out = vec![3];
    let map = Map::of(Some(HOST), bridge, placed(&[("/web", 2)]));
    let way = map.way(2);
    assert_eq!(
        (names(&map, &way), way.uplink),
        (["eth0", "veth1a", "docker0", "ens3"].map(str::to_owned).to_vec(), Some(at(HOST, 2)))
    );
    assert_eq!((map.role(at(HOST, 2)), map.role(at(HOST, 3))), (Role::Uplink, Role::Bridge));
}

#[test]
fn macvlan_and_ipvlan() {
    for (kind, mode) in [("macvlan", "macvlan"), ("macvtap", "macvlan"), ("ipvlan", "ipvlan")] {
        let upper = Link { link: Some(2), link_netnsid: Some(0), mode: Some("bridge"), ..link(5, "eth0", Some(kind)) };
        let inner = namespace(2, vec![link(1, "lo", None), upper], &[5], &[(0, HOST)]);
        let host = namespace(HOST, vec![link(1, "lo", None), link(2, "ens3", None)], &[2], &[]);
        let map = Map::of(Some(HOST), vec![host, inner], placed(&[("/web", 2)]));
        let network = Network::of(&map, "/web");
        assert_eq!(network.mode().as_deref(), Some(mode));
        let way = map.way(2);
        assert_eq!((names(&map, &way), way.uplink), (["eth0", "ens3"].map(str::to_owned).to_vec(), Some(at(HOST, 2))));
        assert_eq!(map.role(at(2, 5)), Role::ContainerDevice(vec!["/web".into()]));
        assert_eq!(nat::namespaces(&map, &network), [2], "no rule of the host's sees it");
    }
}

#[test]
fn none_host_and_shared() {
    let mut namespaces = bridged();
    namespaces.push(namespace(3, vec![link(1, "lo", None), link(2, "tunl0", Some("ipip"))], &[], &[]));
    let map = Map::of(Some(HOST), namespaces, placed(&[("/web", 2), ("/none", 3), ("/agent", HOST), ("/side", 2)]));
    let none = Network::of(&map, "/none");
    assert_eq!((none.mode().as_deref(), none.uplink.is_none()), (Some("none"), true));
    assert_eq!(none.unknown["uplink"], "it has no route to the outside");
    let agent = Network::of(&map, "/agent");
    assert_eq!((agent.mode().as_deref(), agent.host, agent.shared_with.len()), (Some("host"), true, 0));
    let shown: Vec<&str> = agent.interfaces.iter().flatten().map(|one| one.name.as_str()).collect();
    assert_eq!(shown, ["ens3", "docker0"], "the containers' ends are theirs");
    assert_eq!(agent.uplink.map(|stop| stop.name).as_deref(), Some("ens3"));
    assert!(advice::host_network(&Network::of(&map, "/agent")).is_some());
    assert!(advice::host_network(&none).is_none());
    assert_eq!(Network::of(&map, "/web").shared_with, ["/side".into()]);
    assert_eq!(map.role(at(HOST, 8)), Role::HostVeth(vec!["/side".into(), "/web".into()]));
    assert_eq!(map.role(at(HOST, 2)), Role::Uplink, "whoever shares it");
    let gone = Network::of(&map, "/gone");
    assert_eq!((gone.netns, gone.mode()), (None, None));
    assert!(["netns", "interfaces", "way", "uplink", "nat"].iter().all(|field| gone.unknown.contains_key(field)));
}

/// An engine in a container: `/pod` in `/node` on the host.
fn nested() -> Vec<Namespace> {
    let mut namespaces = bridged();
    let node = &mut namespaces[1];
    let own = [link(3, "cni0", Some("bridge")), port(veth(9, "vethpod", 2, Some(4)), 3)];
    node.links.extend(own.map(|link| (link.ifindex, link)));
    node.ids.insert(4, 9);
    namespaces.push(namespace(9, vec![link(1, "lo", None), veth(2, "eth0", 9, Some(0))], &[2], &[(0, 2)]));
    namespaces
}

#[test]
fn an_engine_in_a_container() {
    let map = Map::of(Some(HOST), nested(), placed(&[("/node", 2), ("/pod", 9)]));
    assert_eq!(names(&map, &map.way(9)), ["eth0", "vethpod", "cni0", "eth0", "veth1a", "docker0", "ens3"]);
    assert_eq!(map.role(at(9, 2)), Role::ContainerDevice(vec!["/pod".into()]));
    assert_eq!(map.role(at(2, 9)), Role::HostVeth(vec!["/pod".into()]));
    assert_eq!(map.role(at(2, 7)), Role::ContainerDevice(vec!["/node".into()]), "not the outer end of the pod's");
    assert_eq!(map.role(at(HOST, 8)), Role::HostVeth(vec!["/node".into()]));
    let pod = Network::of(&map, "/pod");
    let peer = pod.interfaces.as_ref().and_then(|all| all.first()?.peer.clone()).expect("a peer");
    assert_eq!((peer.host, peer.device), (false, at(2, 9)));
    assert!(peer.unknown["rps_cpus"].contains("another namespace"), "{peer:?}");
    assert_eq!(nat::namespaces(&map, &pod), [9, 2, HOST]);
}

#[test]
fn one_side_s_id_is_enough() {
    let mut namespaces = nested();
    namespaces[2].ids.clear(); // the pod's own
    let map = Map::of(Some(HOST), namespaces, placed(&[("/node", 2), ("/pod", 9)]));
    assert_eq!(map.end_of(at(9, 2)), Ok(at(2, 9)));
}

#[test]
fn indexes_repeat_and_ends_go() {
    // Two containers whose devices have the same index, and a third whose outer end was made anew meanwhile.
    let mut namespaces = bridged();
    let host = namespaces[0].links.clone();
    namespaces[0]
        .links
        .extend([(9, port(veth(9, "veth2b", 7, Some(1)), 3)), (10, port(veth(10, "veth3c", 40, Some(2)), 3))]);
    namespaces[0].ids.extend([(1, 3), (2, 4)]);
    namespaces.push(namespace(3, vec![veth(7, "eth0", 9, Some(0))], &[7], &[(0, HOST)]));
    namespaces.push(namespace(4, vec![veth(7, "eth0", 10, Some(0))], &[7], &[(0, HOST)]));
    let map = Map::of(Some(HOST), namespaces, placed(&[("/web", 2), ("/api", 3), ("/new", 4)]));
    assert_eq!((map.end_of(at(2, 7)), map.end_of(at(3, 7))), (Ok(at(HOST, 8)), Ok(at(HOST, 9))));
    assert!(map.end_of(at(4, 7)).is_err());
    let way = map.way(4);
    assert!(
        way.uplink.is_none() && way.ends.as_ref().is_some_and(|why| why.starts_with("the other end is not known")),
        "{way:?}"
    );
    assert_eq!(Network::of(&map, "/new").mode(), None, "not `veth`: its end may be a bridge's port");
    // A namespace that could not be entered is known by its host's end alone.
    let unread = Namespace { inode: 2, problem: Some("may not be entered".to_owned()), ..Namespace::default() };
    let host = Namespace { links: host, ..bridged().swap_remove(0) };
    let map = Map::of(Some(HOST), vec![host, unread], placed(&[("/web", 2)]));
    assert_eq!(map.way(2).ends.as_deref(), Some("may not be entered"));
    let network = Network::of(&map, "/web");
    assert_eq!((network.interfaces.as_ref(), network.unknown["way"].as_str()), (None, "may not be entered"));
}

#[test]
fn a_loop_ends() {
    // Two namespaces that each leave by the other, and an address that two have.
    let a = namespace(2, vec![with(veth(2, "a0", 2, Some(0)), &["10.0.0.1/24"])], &[2], &[(0, 3)]);
    let b = namespace(3, vec![with(veth(2, "b0", 2, Some(0)), &["10.0.0.1/24"])], &[2], &[(0, 2)]);
    let map = Map::of(Some(HOST), vec![a, b], placed(&[("/a", 2), ("/b", 3)]));
    assert_eq!(map.way(2).ends.as_deref(), Some("the route leads back"));
    assert_eq!(map.netns_with("10.0.0.1".parse().expect("an address")), None, "two have it");
}

#[test]
fn addresses() {
    let covers = |net: &str, ip: &str| Address::parse(net).expect(net).covers(ip.parse().expect("an address"));
    assert!(covers("172.17.0.0/16", "172.17.255.1") && !covers("172.17.0.0/16", "172.18.0.1"));
    assert!(covers("0.0.0.0/0", "1.2.3.4") && !covers("0.0.0.0/0", "::1"));
    assert!(covers("fd00::/8", "fdff::1") && covers("::/0", "1::") && !covers("fd00::1", "fd00::2"));
    assert!(covers("10.0.0.0/255.255.0.0", "10.0.9.9") && !covers("10.0.0.0/255.255.0.0", "10.1.0.0"));
    for wrong in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "x/8", "10.0.0.0/"] {
        assert_eq!(Address::parse(wrong), None, "{wrong}");
    }
}
