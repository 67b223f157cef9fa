//! How a container is on the network, for a person: its interfaces with their other ends, the way out, the rules.

use std::fmt::Write;

use crate::{
    containers::inspect::Inspected,
    network::{End, Interface, Network, Settings, Stop, advice},
};

/// Interfaces and rules that are shown; all of them are in the JSON.
const MOST: usize = 12;
/// A rule's text can be as long as who made it wants.
const RULE: usize = 300;

pub fn network(inspected: &Inspected, because: &dyn Fn(&str, &str) -> String, line: &mut dyn FnMut(&str, &str)) {
    let mut mode = inspected.network_mode.clone().unwrap_or_else(|| because("network_mode", "unknown"));
    let Some(network) = &inspected.network else {
        if let Some(devices) = inspected.network_devices.as_ref().filter(|devices| !devices.is_empty()) {
            let _ = write!(mode, "   {}", devices.join(" "));
        }
        return line("network", &mode);
    };
    let why = |field: &str| network.unknown.get(field).map_or("not known", String::as_str);
    match network.shared_with.len() {
        0 => {}
        1 => mode.push_str("   shared with another container"),
        others => drop(write!(mode, "   shared with {others} other containers")),
    }
    line("network", &mode);
    if let Some(text) = advice::host_network(network) {
        line("", text);
    }
    let Some(interfaces) = &network.interfaces else { return line("", &format!("unknown: {}", why("interfaces"))) };
    for one in interfaces.iter().take(MOST) {
        line("", &interface(one));
        if let Some(end) = &one.peer {
            line("", &format!("  {} {}", if one.kind == "veth" { "↔" } else { "on" }, other_end(end)));
        } else if one.kind == "veth" {
            line("", &format!("  ↔ unknown: {}", one.unknown.get("peer").map_or("not known", String::as_str)));
        }
    }
    if interfaces.len() > MOST {
        line("", &format!("and {} more: --json has all", interfaces.len() - MOST));
    }
    if !interfaces.is_empty() {
        line("way out", &way(network, why("uplink")));
    }
    if let Some(settings) = network.forwarding.or_else(|| network.settings.filter(|_| network.host)) {
        line("forwarding", &forwarding(settings));
    }
    rules(network, why("nat"), line);
}

/// `eth0 (7)  veth, 10.9.0.2/24, MTU 1500, up`
fn interface(one: &Interface) -> String {
    let mut parts = vec![one.kind.clone() + &one.mode.map_or_else(String::new, |mode| format!(" ({mode})"))];
    parts.extend(one.addresses.iter().map(ToString::to_string));
    parts.extend(one.mtu.map(|mtu| format!("MTU {mtu}")));
    parts.push(state(one.up, one.lower_up).to_owned());
    parts.extend(one.counters.map(|count| {
        let dropped = match (count.rx_dropped, count.tx_dropped) {
            (0, 0) => String::new(),
            (rx, tx) => format!(", dropped {rx} in, {tx} out"),
        };
        format!("{} packets in, {} out{dropped}", count.rx_packets, count.tx_packets)
    }));
    format!("{} ({})  {}", one.name, one.ifindex, parts.join(", "))
}

/// `veth1a2b (8, on the host), up, port of br0: forwarding, 1 queue, RPS off`
fn other_end(end: &End) -> String {
    let place = if end.host { "on the host".to_owned() } else { format!("in net namespace {}", end.device.netns) };
    let mut parts = vec![format!("{} ({}, {place})", end.name, end.device.ifindex)];
    parts.push(state(end.up, end.lower_up).to_owned());
    if let Some(port) = &end.bridge {
        let state = port.state.map(|state| format!(": {}", format!("{state:?}").to_lowercase())).unwrap_or_default();
        let down = if port.up { "" } else { " (which is down)" };
        parts.push(format!("port of {}{down}{state}", port.name));
    }
    parts.extend(end.rps_cpus.as_ref().map(|masks| {
        let on = masks.iter().any(|mask| advice::is_set(mask));
        let rps = if on { format!("RPS {}", masks.join(" ")) } else { "RPS off".to_owned() };
        format!("{} queue{}, {rps}", masks.len(), if masks.len() == 1 { "" } else { "s" })
    }));
    parts.join(", ")
}

fn state(up: bool, lower_up: bool) -> &'static str {
    match (up, lower_up) {
        (true, true) => "up",
        (true, false) => "up without carrier",
        (false, _) => "DOWN",
    }
}

fn way(network: &Network, why: &str) -> String {
    let name = |stop: &Stop| stop.name.clone() + if stop.up { "" } else { " (DOWN)" };
    let mut names: Vec<String> = network.way.iter().flatten().map(name).collect();
    match &network.uplink {
        Some(_) => names.push("outside".to_owned()),
        None => names.push(format!("? ({why})")),
    }
    names.join(" → ")
}

fn forwarding(settings: Settings) -> String {
    let on = |value: Option<bool>| match value {
        Some(true) => "on",
        Some(false) => "off",
        None => "unknown",
    };
    let mut text = format!("IPv4 {}, IPv6 {}", on(settings.ip_forward), on(settings.ipv6_forwarding));
    if let Some(filter) = settings.rp_filter {
        let _ = write!(text, ", rp_filter {filter}");
    }
    if let Some(called) = settings.bridge_nf_call_iptables {
        let _ = write!(text, ", bridged packets {} iptables", if called { "pass" } else { "do not pass" });
    }
    text
}

fn rules(network: &Network, why: &str, line: &mut dyn FnMut(&str, &str)) {
    let Some(rules) = &network.nat else { return line("NAT", &format!("unknown: {why}")) };
    if rules.is_empty() {
        line("NAT", "no rule rewrites its addresses");
    }
    for (at, rule) in rules.iter().take(MOST).enumerate() {
        let whose = if Some(rule.netns) == network.netns && !network.host { "its own " } else { "" };
        let text = &rule.text[..rule.text.floor_char_boundary(RULE)];
        let place = if rule.from == "nftables" { format!("{} {}: ", rule.table, rule.chain) } else { String::new() };
        line(if at == 0 { "NAT" } else { "" }, &format!("{whose}{}   {place}{text}", rule.action));
    }
    if rules.len() > MOST {
        line("", &format!("and {} more: --json has all", rules.len() - MOST));
    }
    if let Some(part) = network.unknown.get("nat") {
        line("", &format!("not known: {part}"));
    }
}
