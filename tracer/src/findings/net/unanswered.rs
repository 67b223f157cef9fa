//! net.dropped, inferred: packets leave by the uplink with the container's own address, and nothing comes back. Nobody drops
//! them here: that the address means nothing outside is the likeliest reason.

use std::collections::BTreeMap;

use tracer_common::hops::{HopKey, IN, OUT, RECEIVE, XMIT};

use super::{
    Hop, HopTotal, Seen,
    dropped::{DROPPED, PACKETS},
};
use crate::{
    findings::{
        numbers::Numbers,
        state::{Conditions, News},
        window::Total,
    },
    model::{Finding, Severity, span},
};

/// Above the EtherType. Of the others nobody need ever answer.
const TCP: u32 = 6;

pub fn judge(seen: &Seen, conditions: &mut Conditions) -> Vec<Finding> {
    let recent = seen.hops.within(|key| key.protocol >> 16 == TCP && seen.owners.contains_key(&key.container));
    // Whatever comes to a container within the window: answers.
    let answered = |container: u32| {
        recent.iter().any(|(key, _)| key.container == container && key.flow == IN && key.direction == RECEIVE)
    };
    let mut left: BTreeMap<(u32, u32, u32), HopTotal> = BTreeMap::new();
    for (key, total) in recent.iter().filter(|(key, total)| leaves(seen, key, total)) {
        left.entry((key.container, key.netns, key.ifindex)).or_insert_with(|| total_of(total)).add(total);
    }
    let mut findings = Vec::new();
    for ((container, netns, ifindex), total) in left {
        if total.untranslated < PACKETS || answered(container) {
            continue;
        }
        let subject = format!("{container} unanswered {netns} {ifindex}");
        if let Some(news) = conditions.holds(DROPPED, &subject, total.untranslated, seen.counts.at_ns) {
            findings.push(finding(seen, news, container, netns, &total));
        }
    }
    findings
}

/// Where packets leave the host whose only trace of a container is its address: the first device that is no other's end.
fn leaves(seen: &Seen, key: &HopKey, total: &HopTotal) -> bool {
    key.flow == OUT
        && key.direction == XMIT
        && total.untranslated > 0
        && seen.role(key.container, key.netns, key.ifindex, &total.device) == Hop::Uplink
}

/// Nothing yet, on that device.
fn total_of(total: &HopTotal) -> HopTotal {
    HopTotal { device: total.device.clone(), ..HopTotal::default() }
}

fn finding(seen: &Seen, news: News, container: u32, netns: u32, total: &HopTotal) -> Finding {
    let owner = seen.owner(container);
    let device = &total.device.name;
    let mut numbers = Numbers::default();
    let nobody = "no packet was dropped here: it is inferred from the counts";
    numbers.set("hop", Hop::Uplink.name());
    numbers.put("reason", None::<&str>, nobody);
    numbers.put("location", None::<&str>, nobody);
    numbers.set("packets", total.untranslated);
    numbers.set("inferred", true);
    numbers.set("device", device);
    numbers.set("netns", netns);
    numbers.set("window_ns", seen.hops.length_ns());
    numbers.set("protocol", "tcp");
    numbers.put("first_packet", None::<&str>, nobody);
    let cgroup = owner.as_ref().map(|owner| owner.cgroup.clone());
    numbers.put("cgroup", cgroup, "no container is in that network namespace any more");
    Finding {
        code: DROPPED,
        severity: Severity::Warning,
        id: news.id,
        state: Some(news.state),
        time: seen.world.at(seen.counts.at_ns),
        container: owner,
        process: None,
        summary: format!(
            "{} TCP packets left by {device} within {} with the container's own address as their source, and nothing came back",
            total.untranslated,
            span(seen.hops.length_ns())
        ),
        evidence: numbers.values,
        why: "nothing translates the container's address on the way out, so who is outside may have no way back to it (inferred: \
              it may as well not answer)"
            .to_owned(),
        fix: vec![
            "see whether NAT is there: nft list table ip nat, or iptables -t nat -L POSTROUTING -v -n".to_owned(),
            format!(
                "translate it: iptables -t nat -A POSTROUTING -s THE_CONTAINERS_NETWORK -o {} -j MASQUERADE; or give the outside a route back",
                if device.chars().all(|c| c.is_ascii_alphanumeric() || "-_.@".contains(c)) { device } else { "DEVICE" }
            ),
        ],
        refers_to: None,
        unknown: numbers.unknown,
    }
}
