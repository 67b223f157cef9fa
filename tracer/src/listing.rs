//! `ctrace containers`: what is here now, from files and netlink alone. No kernel side, no privileges beyond those to read.

use std::{
    collections::HashMap,
    io::{self, Write},
};

use anyhow::{Context, Result};
use nix::unistd::geteuid;

use crate::{
    containers::{
        Entry, Table,
        inspect::{Inspected, Inspector},
        select,
    },
    findings,
    kernel::host as machine,
    live::host::{Ground, Host},
    model::{Finding, Runtime, Timestamp},
    network::{self, Map, Network, Placement, nat},
    pipeline::{Note, Output},
    views::{self, escape::escape, lines},
};

/// Notes below a table; all of them are in the JSON.
const NOTES: usize = 20;

/// More containers than this are shown without the rules of their own namespaces: a program is run for each.
const FEW: usize = 32;

type Row = (Inspected, Vec<Finding>);

pub struct Options {
    /// Name, id prefix, pod…: that one in full.
    pub container: Option<String>,
    pub runtime: Option<Runtime>,
    /// systemd's units, too.
    pub all: bool,
    pub json: bool,
    pub style: lines::Style,
}

/// # Errors
/// No cgroups are mounted; no container is called so, or several are; the output cannot be written.
pub fn run(options: &Options) -> Result<()> {
    let (mut host, table) = look()?;
    let entries = chosen(&table, options)?;
    let boot_ns = machine::boot_to_wall_ns();
    let now = Timestamp((machine::boottime_ns() as i64).saturating_add(boot_ns));
    let mountinfo = host.files().mountinfo();
    let inspector = Inspector::new(host.files(), &host.hierarchy, &mountinfo, &table, boot_ns);
    let mut networks = Networks::survey(&host, &table);
    let mut rows = Vec::new();
    let few = entries.len() <= FEW;
    for entry in entries {
        let mut inspected = inspector.inspect(entry);
        inspected.take_network(networks.of(&host, &inspected.container.cgroup, few));
        let findings = findings::containers::judge(&inspected, now);
        rows.push((inspected, findings));
    }
    let doubts: Vec<String> = host.doubts.drain(..).chain((!geteuid().is_root()).then(unprivileged)).collect();
    let page = if options.json { as_json(&rows, doubts, now) } else { as_text(&rows, doubts, options, now) };
    let mut out = io::stdout().lock();
    match out.write_all(page.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()), // `| head`
        written => written.context("writing the output (is the disk full, or stdout closed?)"),
    }
}

/// Every container that is here, with its name.
///
/// # Errors
/// No cgroups are mounted.
pub fn look() -> Result<(Host, Table)> {
    let (mut host, known) = Host::survey(Ground::find()?);
    let mut table = Table::new(known);
    table.seed(host.cgroups(), 0);
    for (id, container) in table.nameless() {
        table.named(id, host.facts(&container));
    }
    Ok((host, table))
}

/// The network map, and the rules that were read so far, by namespace.
struct Networks {
    placement: Placement,
    map: Map,
    rules: HashMap<u64, nat::Rules>,
}

impl Networks {
    fn survey(host: &Host, table: &Table) -> Self {
        let placement = Placement::find(host.files(), &host.hierarchy, table);
        let map = network::survey(host.files(), &placement);
        Self { placement, map, rules: HashMap::new() }
    }

    fn of(&mut self, host: &Host, cgroup: &str, own_rules: bool) -> Network {
        let mut network = Network::of(&self.map, cgroup);
        let mut passed = nat::namespaces(&self.map, &network);
        let left_out = nat::Rules {
            unknown: vec!["its own namespace's rules are read only where few containers are shown: name it".to_owned()],
            ..nat::Rules::default()
        };
        let mut rules = Vec::new();
        if !own_rules && !network.host {
            passed.retain(|netns| Some(*netns) != network.netns);
            rules.push(left_out);
        }
        for netns in passed {
            let read = || nat::read(host.files(), &self.placement, netns);
            rules.push(self.rules.entry(netns).or_insert_with(read).clone());
        }
        network.take_rules(rules.iter());
        network
    }
}

fn as_json(rows: &[Row], doubts: Vec<String>, now: Timestamp) -> String {
    let containers = rows.iter().map(|(inspected, _)| views::containers::json(inspected, now));
    let findings = rows.iter().flat_map(|(_, findings)| findings).cloned();
    let notes = doubts.into_iter().map(|text| Note { time: now, code: "doubt", text, fields: serde_json::Map::new() });
    let outputs = findings.map(|finding| Output::Finding(Box::new(finding))).chain(notes.map(Output::Note));
    let others = outputs.filter_map(|output| views::json::line(&output));
    containers.chain(others).map(|line| line + "\n").collect()
}

fn as_text(rows: &[Row], doubts: Vec<String>, options: &Options, now: Timestamp) -> String {
    let mut page = String::new();
    let mut notes = doubts;
    if options.container.is_some() {
        for (inspected, findings) in rows {
            page.push_str(&views::containers::block(inspected, now));
            let outputs = findings.iter().map(|finding| Output::Finding(Box::new(finding.clone())));
            page.extend(outputs.filter_map(|output| lines::text(&output, &options.style)));
        }
    } else {
        page.push_str(&views::containers::table(rows, now));
        page.push_str(&views::containers::verdicts(rows, &options.style));
        notes.extend(rows.iter().flat_map(|(inspected, _)| {
            inspected.notes.iter().map(|note| format!("{}: {note}", inspected.container.label()))
        }));
    }
    for note in notes.iter().take(NOTES) {
        page.push_str(&format!("note  {}\n", escape(note)));
    }
    if notes.len() > NOTES {
        page.push_str(&format!("note  and {} more: --json has all\n", notes.len() - NOTES));
    }
    page
}

/// What was asked for, in the order to show.
fn chosen<'a>(table: &'a Table, options: &Options) -> Result<Vec<Entry<'a>>> {
    let of_runtime = |entry: &Entry<'_>| options.runtime.is_none() || entry.container.runtime == options.runtime;
    let mut entries: Vec<Entry<'a>> = if let Some(wanted) = &options.container {
        let selection = select(wanted, table.containers().filter(of_runtime))?;
        let meant = |entry: &Entry<'_>| {
            selection.containers().iter().any(|container| container.cgroup == entry.container.cgroup)
        };
        table.containers().filter(meant).collect()
    } else {
        let unit = |entry: &Entry<'_>| entry.container.runtime == Some(Runtime::Systemd);
        let units = options.all || options.runtime == Some(Runtime::Systemd);
        table.containers().filter(|entry| of_runtime(entry) && (units || !unit(entry))).collect()
    };
    entries.sort_by_cached_key(|entry| {
        let unit = entry.container.runtime == Some(Runtime::Systemd);
        (unit, entry.container.label(), entry.container.cgroup.clone())
    });
    Ok(entries)
}

fn unprivileged() -> String {
    "not run as root: names, namespaces and users of other people's containers may be missing".to_owned()
}
