//! The rules that rewrite addresses, as the machine's own tools list them: `nft` for nftables, `iptables-legacy-save`
//! for the older tables. Read in the namespace that they apply in.

mod iptables;
mod nft;
mod run;

use std::{fs, net::IpAddr};

use serde::Serialize;

use self::run::run;
use super::{Address, Device, Map, Network, Placement, survey};
use crate::containers::HostFiles;

/// A rule that rewrites addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Inode of the namespace that it is in.
    pub netns: u64,
    /// `nftables` or `iptables-legacy`.
    pub from: &'static str,
    pub table: String,
    pub chain: String,
    /// `masquerade`, `snat`, `dnat`, `redirect`.
    pub action: String,
    /// As the tool shows it, or close to that.
    pub text: String,
    #[serde(skip)]
    pub source: Option<Only>,
    /// Where it sends to.
    #[serde(skip)]
    pub to: Option<IpAddr>,
}

/// A condition on an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Only {
    pub address: Address,
    pub not: bool,
}

/// What is known of one namespace's rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    pub rules: Vec<Rule>,
    /// What is not known of them, and why.
    pub unknown: Vec<String>,
}

/// All rules of a namespace.
pub fn read(files: &HostFiles, placement: &Placement, netns: u64) -> Rules {
    let mut rules = survey::within(files, placement, netns, here)
        .unwrap_or_else(|why| Rules { unknown: vec![why], ..Rules::default() });
    for rule in &mut rules.rules {
        rule.netns = netns;
    }
    rules
}

/// In the namespace that this thread is in.
fn here() -> Rules {
    let mut found = Rules::default();
    match run("nft", &["-j", "list", "ruleset"]).and_then(|text| nft::parse(&text)) {
        Ok(rules) => found.rules.extend(rules),
        Err(why) => found.unknown.push(format!("nftables: {why}")),
    }
    // Asked only where the kernel has such a table here: the tool would load a module for it.
    for (names, program) in [("ip_tables_names", "iptables-legacy-save"), ("ip6_tables_names", "ip6tables-legacy-save")]
    {
        let tables = match fs::read_to_string(format!("/proc/thread-self/net/{names}")) {
            Ok(tables) => tables,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                found.unknown.push(format!("iptables: {names} may not be read ({error})"));
                continue;
            }
        };
        if tables.lines().any(|table| table == "nat") {
            match run(program, &["-t", "nat"]) {
                Ok(text) => found.rules.extend(iptables::parse(&text)),
                Err(why) => found.unknown.push(format!("iptables: {why}")),
            }
        }
    }
    found
}

/// The namespaces whose rules a container's packets meet: its own, and those on the way.
pub fn namespaces(map: &Map, network: &Network) -> Vec<u64> {
    let way = network.way.iter().flatten().map(|stop| stop.device);
    // A macvlan's packets pass no rule of the namespace that its wire is in.
    let upper = |device: &Device| map.link(*device).is_some_and(super::Link::is_upper);
    let mut found: Vec<u64> = network.netns.into_iter().collect();
    for device in way {
        if upper(&device) {
            found.push(device.netns);
            break;
        }
        found.push(device.netns);
    }
    found.dedup();
    found
}

impl Network {
    /// The rules that apply to this container, of those of the namespaces that its packets pass.
    pub fn take_rules<'a>(&mut self, all: impl Iterator<Item = &'a Rules>) {
        let own = self.netns;
        let addresses: Vec<IpAddr> =
            self.interfaces.iter().flatten().flat_map(|one| one.addresses.iter().map(|address| address.ip)).collect();
        let (mut rules, mut unknown) = (Vec::new(), Vec::new());
        for namespace in all {
            let apply = |rule: &&Rule| self.host || Some(rule.netns) == own || applies(rule, &addresses);
            rules.extend(namespace.rules.iter().filter(apply).cloned());
            unknown.extend(namespace.unknown.iter().cloned());
        }
        unknown.sort();
        unknown.dedup();
        self.unknown.remove("nat");
        if !unknown.is_empty() {
            self.unknown.insert("nat", unknown.join("; "));
        }
        // No rule found, and not all of them seen: nothing is known.
        self.nat = (unknown.is_empty() || !rules.is_empty()).then_some(rules);
    }
}

/// Does it rewrite packets from or to one of these addresses, as far as its addresses tell?
fn applies(rule: &Rule, addresses: &[IpAddr]) -> bool {
    match rule.action.as_str() {
        "dnat" => rule.to.is_some_and(|to| addresses.contains(&to)),
        "redirect" => false, // to the namespace's own
        _ => match rule.source {
            Some(Only { address, not }) => {
                let mut same = addresses.iter().filter(|own| own.is_ipv4() == address.ip.is_ipv4());
                same.any(|own| address.covers(*own) != not)
            }
            None => true,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_rules_apply() {
        let own: Vec<IpAddr> = vec!["172.17.0.2".parse().expect("an address"), "fd00::2".parse().expect("an address")];
        let rule = |action: &str, source: Option<(&str, bool)>, to: Option<&str>| Rule {
            action: action.to_owned(),
            source: source.map(|(text, not)| Only { address: Address::parse(text).expect("an address"), not }),
            to: to.and_then(|to| to.parse().ok()),
            ..Rule::default()
        };
        for (rule, want) in [
            (rule("masquerade", Some(("172.17.0.0/16", false)), None), true),
            (rule("masquerade", Some(("172.18.0.0/16", false)), None), false),
            (rule("masquerade", Some(("172.17.0.0/16", true)), None), false),
            (rule("masquerade", Some(("10.0.0.0/8", true)), None), true),
            (rule("snat", Some(("fd00::/64", false)), None), true),
            (rule("masquerade", None, None), true),
            (rule("dnat", None, Some("172.17.0.2")), true),
            (rule("dnat", None, Some("172.17.0.3")), false),
            (rule("redirect", None, None), false),
        ] {
            assert_eq!(applies(&rule, &own), want, "{rule:?}");
        }
    }

    #[test]
    fn nothing_found_is_not_no_rule() {
        let mut network = Network { netns: Some(2), ..Network::default() };
        let unseen = Rules { unknown: vec!["nftables: nft is not on PATH".to_owned()], ..Rules::default() };
        network.take_rules([&unseen, &unseen].into_iter());
        assert_eq!(network.nat, None);
        assert_eq!(network.unknown["nat"], "nftables: nft is not on PATH");
        network.take_rules([&Rules::default()].into_iter());
        assert_eq!((network.nat, network.unknown.get("nat")), (Some(Vec::new()), None));
    }
}
