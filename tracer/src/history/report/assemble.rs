//! Lines to reports: which decision each line belongs to.

use super::{
    Constraint, Header, OomReport, Reports, Victim,
    line::{self, Line},
};
use crate::{
    containers::is_within,
    history::kmsg::{Record, unescape},
};

/// What unnamed lines mean now.
#[derive(Default)]
enum Section {
    #[default]
    None,
    Stats,
    /// The heads of the task table.
    Tasks(Vec<String>),
    /// `Mem-Info:`
    Host,
}

#[derive(Default)]
pub(super) struct Assembler {
    done: Reports,
    open: Option<OomReport>,
    section: Section,
    /// `constraint=…`, whose `pr_cont` parts may come as records of their own.
    summary: Option<String>,
}

impl Assembler {
    pub(super) fn push(&mut self, record: &Record) {
        if record.facility != 0 {
            return; // user space may write what it likes into the log
        }
        let text = record.text.as_str();
        if let Some(summary) = &mut self.summary
            && (record.continuation || text.starts_with(','))
            && !summary.rsplit_once(",pid=").is_some_and(|(_, rest)| rest.contains(",uid="))
        {
            summary.push_str(text);
            return;
        }
        match line::classify(text) {
            Line::Invoked { comm, gfp_mask, order, oom_score_adj } => {
                let report = self.start(record, Header::Whole);
                report.trigger_comm = Some(unescape(comm));
                report.gfp_mask = Some(gfp_mask.to_owned());
                report.order = order;
                report.trigger_oom_score_adj = oom_score_adj;
            }
            Line::Stack { pid } => {
                // The report's own dump is the first after its first line; a later one is somebody else's.
                if let Some(report) = self.open.as_mut().filter(|report| report.header == Header::Whole) {
                    report.trigger_pid.get_or_insert(pid);
                }
            }
            Line::Charge(name, charge) => {
                let report = self.before_kill(record);
                match name {
                    "memory" => report.memory = Some(charge),
                    "swap" => report.swap = Some(charge),
                    "memory+swap" => report.memsw = Some(charge),
                    "kmem" => report.kmem = Some(charge),
                    _ => {}
                }
            }
            Line::StatsFor(rest) => self.stats_for(rest, record),
            Line::LimitOf { task_memcg, oom_memcg } => {
                let report = self.before_kill(record);
                report.constraint = Some(Constraint::Memcg);
                report.task_memcg = Some(unescape(task_memcg));
                report.oom_memcg = Some(unescape(oom_memcg));
            }
            Line::TableHead(heads) => {
                self.before_kill(record);
                self.section = Section::Tasks(heads.into_iter().map(str::to_owned).collect());
            }
            Line::Summary(summary) => {
                self.before_kill(record);
                self.section = Section::None;
                self.summary = Some(summary.to_owned());
            }
            Line::Killed { memcg, victim } => self.killed(record, memcg, victim),
            Line::Exiting => {
                self.section = Section::None;
                if let Some(report) = self.open.as_mut().filter(|report| report.victims.is_empty()) {
                    report.no_victim = true;
                    self.close();
                }
            }
            Line::Group(path) => self.group(record, path),
            Line::Reaped { pid } => self.reaped(pid),
            Line::NoVictim => {
                self.before_kill(record).no_victim = true;
                self.close();
            }
            Line::Suppressed(count) => self.done.suppressed = self.done.suppressed.saturating_add(count),
            Line::Other => self.unnamed(text),
        }
    }

    pub(super) fn finish(mut self) -> Reports {
        self.close();
        self.done
    }

    fn start(&mut self, record: &Record, header: Header) -> &mut OomReport {
        self.close();
        self.open.insert(OomReport { seq: record.seq, usec: record.usec, header, ..OomReport::default() })
    }

    /// The report that a line from before the kill belongs to: without its beginning, where the log begins in it.
    fn before_kill(&mut self, record: &Record) -> &mut OomReport {
        if self.open.as_ref().is_none_or(|report| !report.victims.is_empty()) {
            return self.start(record, Header::Cut);
        }
        self.open.get_or_insert_default()
    }

    fn stats_for(&mut self, rest: &str, record: &Record) {
        let report = self.before_kill(record);
        if let Some(path) = rest.strip_suffix(':') {
            report.oom_memcg = Some(unescape(path));
            self.section = Section::Stats;
            return;
        }
        // Old v1: one line for each cgroup of the tree, each its own numbers.
        for (name, bytes) in rest.split_once(": ").into_iter().flat_map(|(_, pairs)| line::old_stats(pairs)) {
            let sum = report.stats.entry(name.to_owned()).or_default();
            *sum = sum.saturating_add(bytes);
        }
    }

    fn unnamed(&mut self, text: &str) {
        let Some(report) = &mut self.open else { return };
        match &self.section {
            Section::Stats => report.stats.extend(line::stats(text).map(|(name, value)| (name.to_owned(), value))),
            Section::Tasks(heads) => {
                let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
                report.tasks.extend(line::row(text, &heads));
                return;
            }
            Section::Host => {
                let pairs = text.split("\\x0a").flat_map(str::split_whitespace).filter_map(|pair| pair.split_once(':'));
                let known = pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
                // Lines by node and zone follow with the same names, in kB: they don't parse as plain numbers.
                for (name, value) in known.filter(|_| !text.starts_with("Node ")) {
                    report.host.entry(name).or_insert(value);
                }
            }
            Section::None => {}
        }
        if text.starts_with("Mem-Info:") {
            self.section = Section::Host;
        }
        for (name, value) in [
            ("ram", text.strip_suffix(" pages RAM")),
            ("reserved", text.strip_suffix(" pages reserved")),
            ("swap_total_kb", text.strip_prefix("Total swap = ").and_then(|rest| rest.strip_suffix("kB"))),
            ("swap_free_kb", text.strip_prefix("Free swap  = ").and_then(|rest| rest.strip_suffix("kB"))),
        ] {
            if let Some(value) = value.and_then(|value| value.parse().ok()) {
                report.host.insert(name.to_owned(), value);
            }
        }
    }

    fn killed(&mut self, record: &Record, memcg: Option<bool>, mut victim: Victim) {
        self.settle();
        self.section = Section::None;
        let belongs = self.open.as_ref().is_some_and(|report| {
            let same_kind = match (memcg, report.constraint) {
                (Some(memcg), Some(constraint)) => memcg == (constraint == Constraint::Memcg),
                _ => true,
            };
            let in_turn = report.victims.is_empty()
                // All of the group are candidates, so they are in the table; without one, all that follows is the group's.
                || report.group.is_some()
                    && (report.tasks.is_empty()
                        || report.tasks.iter().any(|row| row.pid == victim.pid || row.tgid == victim.pid));
            same_kind && in_turn
        });
        let report = if belongs {
            self.open.get_or_insert_default()
        } else {
            let report = self.start(record, Header::Suppressed);
            report.constraint = memcg.filter(|memcg| *memcg).map(|_| Constraint::Memcg);
            report
        };
        report.counted += 1;
        if report.victims.is_empty() {
            report.usec = record.usec;
        }
        if report.victims.iter().all(|known| known.pid != victim.pid) {
            victim.tgid = report.tasks.iter().find(|row| row.pid == victim.pid).map(|row| row.tgid);
            report.victims.push(victim);
        }
    }

    /// Stands between the chosen victim's line and the others'. A second one in a report is a further decision's, whose
    /// header was suppressed and whose chosen victim was taken for one of this group.
    fn group(&mut self, record: &Record, path: &str) {
        let stray = match &mut self.open {
            Some(report) if report.group.is_some() && report.victims.len() > 1 => {
                report.counted -= 1;
                report.victims.pop()
            }
            _ => None,
        };
        if let Some(victim) = stray {
            let report = self.start(record, Header::Suppressed);
            report.constraint = Some(Constraint::Memcg);
            report.counted = 1;
            report.victims.push(victim);
        }
        if self.open.is_none() {
            self.start(record, Header::Cut);
        }
        if let Some(report) = &mut self.open {
            report.group = Some(unescape(path));
        }
    }

    /// Comes seconds later, from a kernel thread, in the midst of whatever is written then.
    fn reaped(&mut self, pid: u32) {
        let reports = self.open.iter_mut().chain(self.done.reports.iter_mut().rev());
        if let Some(victim) = reports.flat_map(|report| &mut report.victims).find(|victim| victim.pid == pid) {
            victim.reaped = true;
        }
    }

    fn close(&mut self) {
        self.settle();
        self.section = Section::None;
        self.done.reports.extend(self.open.take());
    }

    /// Takes the summary apart once all its parts are there.
    fn settle(&mut self) {
        if let (Some(summary), Some(report)) = (self.summary.take(), &mut self.open) {
            summarise(&summary, report);
        }
    }
}

/// `constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=own,mems_allowed=0,oom_memcg=/a,task_memcg=/a/b,task=hog,pid=1,uid=0`;
/// `global_oom` in the place of `oom_memcg=` where there is none.
fn summarise(summary: &str, report: &mut OomReport) {
    let field = |from: &str, to: &str| line::between(summary, from, to).map(unescape);
    report.constraint = match summary.strip_prefix("constraint=").and_then(|rest| rest.split(',').next()) {
        Some("CONSTRAINT_NONE") => Some(Constraint::None),
        Some("CONSTRAINT_CPUSET") => Some(Constraint::Cpuset),
        Some("CONSTRAINT_MEMORY_POLICY") => Some(Constraint::MemoryPolicy),
        Some("CONSTRAINT_MEMCG") => Some(Constraint::Memcg),
        _ => report.constraint,
    };
    report.nodemask = field(",nodemask=", ",cpuset=");
    report.cpuset = field(",cpuset=", ",mems_allowed=");
    let Some((_, rest)) = summary.split_once(",mems_allowed=") else { return };
    // Node lists contain commas: the list ends where a word begins.
    let end = rest.find(|char: char| char.is_ascii_alphabetic()).unwrap_or(rest.len());
    report.mems_allowed = Some(rest[..end].trim_end_matches(',').to_owned());
    let paths = without_task(&rest[end..]);
    if let Some(both) = paths.strip_prefix("oom_memcg=") {
        let (limiting, own) = two_paths(both);
        // The name of a cpuset stands before the paths and can be made to look like them. The line of the statistics
        // names the limiting cgroup alone: where the two differ, nothing of this is believed.
        let limiting = unescape(limiting);
        if report.oom_memcg.as_ref().is_none_or(|known| *known == limiting) {
            report.oom_memcg = Some(limiting);
            report.task_memcg = own.map(unescape);
        }
    } else if let Some((_, own)) = paths.split_once("task_memcg=") {
        report.task_memcg = Some(unescape(own));
    }
}

/// Cuts `,task=NAME,pid=…` off: the first place from which a name of at most 15 bytes follows. (A name can be chosen by
/// anybody, and contain `,task=`; a path that long before its end is the engine's.)
fn without_task(text: &str) -> &str {
    let tail = text.rfind(",pid=").unwrap_or(text.len());
    let name_fits = |at: &usize| {
        // An escaped byte is four.
        let name = text.get(*at + ",task=".len()..tail);
        name.is_some_and(|name| name.len() - 3 * name.matches("\\x").count().min(name.len() / 4) <= 15)
    };
    let cut = text.match_indices(",task=").map(|(at, _)| at).find(name_fits);
    &text[..cut.unwrap_or(tail)]
}

/// Splits `/a,task_memcg=/a/b` where the second lies in the first, as it must.
fn two_paths(text: &str) -> (&str, Option<&str>) {
    const KEY: &str = ",task_memcg=";
    let splits = || text.match_indices(KEY).map(|(at, _)| (&text[..at], &text[at + KEY.len()..]));
    let inside = |(limiting, own): &(&str, &str)| is_within(own, limiting);
    let split = splits().find(inside).or_else(|| splits().next());
    split.map_or((text, None), |(limiting, own)| (limiting, Some(own)))
}
