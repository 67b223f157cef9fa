//! The verdicts of one reading.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value, json};
use tracer_common::stall::{HIGH, HOST, LIMIT, StallKey};

use super::{
    past::{Past, Stalls},
    reading::{Level, Psi, Reading, StallTotal},
};
use crate::{
    containers::is_within,
    findings::{
        World,
        numbers::{Numbers, total},
        state::{Conditions, News},
    },
    model::{Code, Finding, Owner, Process, Severity, State, size, span},
};

pub const PAGE_CACHE: Code = Code("mem.page-cache");
pub const NEAR_LIMIT: Code = Code("mem.near-limit");
pub const RECLAIM_STALL: Code = Code("mem.reclaim-stall");
pub const HIGH_STALL: Code = Code("mem.high-stall");
pub const SWAPPING: Code = Code("mem.swapping");

/// Percent of the limit at which usage is at the limit, …
const FULL_PCT: u64 = 90;
/// … and at which what can't be reclaimed is near it.
const NEAR_PCT: u64 = 80;
/// Tasks' time within the window that is a stall, ns: a tenth of one task's.
const STALLED_NS: u64 = 200_000_000;
/// Swapped within the window, bytes.
const SWAPPED: u64 = 1 << 20;
/// Processes that a finding names.
const NAMED: usize = 5;

/// What the verdicts rest on.
pub struct Seen<'a> {
    pub reading: &'a Reading,
    pub past: &'a BTreeMap<Arc<str>, Past>,
    pub stalls: &'a Stalls,
    pub world: &'a World<'a>,
}

pub fn judge(seen: &Seen, conditions: &mut Conditions, said: &mut BTreeMap<String, Finding>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let containers = seen.containers();
    // A full level is one condition, however many containers are below it.
    let binding: BTreeSet<&str> =
        containers.iter().filter_map(|path| seen.reading.binding(path)).map(|(path, _)| path).collect();
    for path in binding {
        findings.extend(seen.full(path, conditions));
    }
    for path in &containers {
        findings.extend(seen.stalled(path, conditions));
        findings.extend(seen.high(path, conditions));
        findings.extend(seen.swapping(path, conditions));
    }
    for finding in &findings {
        said.insert(finding.id.clone(), finding.clone());
    }
    for (_, _, news) in conditions.over(seen.reading.at_ns) {
        findings.extend(said.remove(&news.id).map(|last| over(last, seen)));
    }
    findings
}

/// The last that was said, ended.
fn over(last: Finding, seen: &Seen) -> Finding {
    let summary = match last.code {
        PAGE_CACHE => "memory is no longer full of page cache",
        NEAR_LIMIT => "memory that can't be reclaimed is no longer near the limit",
        RECLAIM_STALL => "its tasks no longer stall in reclaim",
        HIGH_STALL => "it is no longer held at memory.high",
        _ => "it no longer swaps",
    };
    Finding { state: Some(State::Closed), time: seen.world.at(seen.reading.at_ns), summary: summary.to_owned(), ..last }
}

impl Seen<'_> {
    /// The cgroups of containers, those that were read.
    pub fn containers(&self) -> Vec<&str> {
        let owned = |path: &str| self.owner(path).is_some_and(|container| container.cgroup == path);
        self.reading.levels.keys().map(|path| &**path).filter(|path| owned(path)).collect()
    }

    pub fn owner(&self, path: &str) -> Owner {
        self.world.containers.owner_of_path(path)
    }

    /// At the limit, of cache or of what can't be reclaimed.
    fn full(&self, path: &str, conditions: &mut Conditions) -> Option<Finding> {
        let level = self.reading.levels.get(path).filter(|level| level.stat_is_fresh())?;
        let (limit, usage) = (level.limit.filter(|limit| *limit > 0)?, level.usage?);
        let held = usage.saturating_sub(level.reclaimable(self.reading.swap_free)?);
        let clean = level
            .cache()?
            .saturating_sub(level.stat.dirty.unwrap_or(0))
            .saturating_sub(level.stat.writeback.unwrap_or(0));
        let code = if held.saturating_mul(100) >= limit.saturating_mul(NEAR_PCT) {
            NEAR_LIMIT
        } else if usage.saturating_mul(100) >= limit.saturating_mul(FULL_PCT) && clean.saturating_mul(2) >= usage {
            PAGE_CACHE
        } else {
            return None;
        };
        let number = if code == NEAR_LIMIT { held } else { usage };
        let news = conditions.holds(code, path, number, self.reading.at_ns)?;
        let whose = self.whose(path);
        let mut facts = self.facts(path, &whose.cgroup);
        facts.numbers.set("unreclaimable_bytes", held);
        facts.numbers.set("cache_bytes", clean);
        let percent = |part: u64| part.saturating_mul(100) / limit.max(1);
        let of = if whose.own { "its limit".to_owned() } else { format!("the limit of its parent {path}") };
        if code == PAGE_CACHE {
            return Some(facts.finding(
                news,
                (code, Severity::Info),
                format!(
                    "memory is at {} % of {of} of {}, and {} of it is page cache: not a leak",
                    percent(usage),
                    size(limit),
                    size(clean)
                ),
                "the kernel keeps file pages after I/O as long as nobody needs the memory, and drops them first: usage at the limit is normal for whatever reads or writes files".to_owned(),
                vec![
                    format!("nothing: judge by the working set ({}) and anon ({})", shown(level.working_set()), shown(level.stat.anon)),
                    "where the same files are read again and again (see refaults), a higher limit keeps more of them in memory".to_owned(),
                ],
            ));
        }
        let growth = self.past.get(path).and_then(Past::anon_growth);
        let to_limit = growth.filter(|growth| *growth >= 1.0);
        let to_limit = to_limit.map(|growth| (limit.saturating_sub(held) as f64 / growth * 1e9) as u64);
        facts.numbers.put(
            "anon_growth_bytes_per_s",
            growth.map(|growth| growth.round() as i64),
            "it was not watched for long enough",
        );
        facts.numbers.put(
            "time_to_limit_ns",
            to_limit,
            "anonymous memory does not grow, or was not watched for long enough",
        );
        let soon = to_limit.map_or_else(String::new, |left| format!("; at the rate of now full in {}", span(left)));
        Some(facts.finding(
            news,
            (code, Severity::Warning),
            format!(
                "{} of {of} of {} can't be reclaimed ({} %){soon}",
                size(held),
                size(limit),
                percent(held)
            ),
            "anonymous memory, shared memory and kernel memory stay until their owner frees them; at the limit the kernel first drops the little cache that is left, over and over, then kills".to_owned(),
            vec![
                format!("raise the limit above {}, or find what holds {} of anonymous memory", size(held.saturating_mul(5) / 4), shown(level.stat.anon)),
                "a heap that is sized by the host (JVM, Go, Node): set -XX:MaxRAMPercentage, GOMEMLIMIT, --max-old-space-size below the limit".to_owned(),
            ],
        ))
    }

    /// Time in reclaim.
    fn stalled(&self, path: &str, conditions: &mut Conditions) -> Option<Finding> {
        let of = |kind: u32| self.stalls_of(path, &[kind]);
        let (own, host) = (Sum::of(&of(LIMIT)), Sum::of(&of(HOST)));
        let all = own.total_ns.saturating_add(host.total_ns);
        if all < STALLED_NS {
            return None;
        }
        let news = conditions.holds(RECLAIM_STALL, path, all, self.reading.at_ns)?;
        let bound = self.reading.binding(path).map_or(path, |(level, _)| level).to_owned();
        let mut facts = self.facts(&bound, path);
        facts.stall(&Sum {
            total_ns: all,
            count: own.count.saturating_add(host.count),
            worst_ns: own.worst_ns.max(host.worst_ns),
        });
        facts.numbers.set("host_stalled_ns", host.total_ns);
        facts.processes(&self.stalls_of(path, &[LIMIT, HOST]));
        facts.rates();
        let window = self.stalls.length_ns();
        let by_host = host.total_ns > own.total_ns;
        let where_ = if by_host {
            "the host is short of memory".to_owned()
        } else if bound == path {
            "at its own limit".to_owned()
        } else {
            format!("at the limit of {bound}")
        };
        let level = self.reading.levels.get(bound.as_str());
        let fix = if by_host {
            vec![
                "find who fills the host (`ctrace mem`, the largest anon), give it a limit, or move something away"
                    .to_owned(),
            ]
        } else {
            vec![
                format!(
                    "raise the limit: the working set ({}) does not fit with room for the cache it uses",
                    shown(level.and_then(Level::working_set))
                ),
                "v2: a memory.high some 10 % below memory.max lets reclaim begin earlier".to_owned(),
                "writers of large files: O_DIRECT, or posix_fadvise(POSIX_FADV_DONTNEED) behind the data".to_owned(),
            ]
        };
        Some(facts.finding(
            news,
            (RECLAIM_STALL, Severity::Warning),
            format!("its tasks spent {} of {} in reclaim, {where_}; the longest {}", span(all), span(window), span(own.worst_ns.max(host.worst_ns))),
            "a task that needs a page and finds the limit reached must free pages itself before it goes on: the time is missing in whatever it was doing".to_owned(),
            fix,
        ))
    }

    /// Held at memory.high.
    fn high(&self, path: &str, conditions: &mut Conditions) -> Option<Finding> {
        let level = self.reading.levels.get(path)?;
        let hooked = self.world.attached("over_high_begin") && self.world.attached("over_high_end");
        let sum = Sum::of(&self.stalls_of(path, &[HIGH]));
        let events =
            self.past.get(path).and_then(|past| past.grown(|level| level.high_events)).map(|(events, _)| events);
        let held = if hooked { sum.total_ns >= STALLED_NS } else { events.is_some_and(|events| events > 0) };
        if !held {
            return None;
        }
        let number = if hooked { sum.total_ns } else { 1 };
        let news = conditions.holds(HIGH_STALL, path, number, self.reading.at_ns)?;
        let bound = self.reading.chain(path).find(|(_, level)| level.high.is_some()).map_or(path, |(path, _)| path);
        let mut facts = self.facts(bound, path);
        let high = self.reading.levels.get(bound).and_then(|level| level.high);
        facts.numbers.put("high_bytes", high, "no level has a memory.high any more");
        facts.numbers.put("high_events", events, "memory.events was not read twice yet");
        if hooked {
            facts.stall(&sum);
            facts.processes(&self.stalls_of(path, &[HIGH]));
        } else {
            for key in ["stalled_ns", "stalls", "worst_ns"] {
                facts.numbers.put(key, None::<u64>, "this kernel lets nothing hook into mem_cgroup_handle_over_high");
            }
        }
        facts.rates();
        let time = if hooked {
            format!("its tasks were held for {} of {}", span(sum.total_ns), span(self.stalls.length_ns()))
        } else {
            "its tasks are held".to_owned()
        };
        Some(facts.finding(
            news,
            (HIGH_STALL, Severity::Warning),
            format!("{time} at memory.high ({} of {})", shown(level.usage), shown(high)),
            "above memory.high nobody is killed: on its way back to user mode each task reclaims, and then sleeps, the longer the further above (up to 2 s each time)".to_owned(),
            vec![
                format!("raise memory.high above {}, or take it away (MemoryHigh= of the unit, requests and limits of the pod)", shown(level.usage)),
                "or let it use less: the kernel slows it down instead of killing it, and that is what you see".to_owned(),
            ],
        ))
    }

    /// Anonymous memory going out or coming back.
    fn swapping(&self, path: &str, conditions: &mut Conditions) -> Option<Finding> {
        let (level, past) = (self.reading.levels.get(path)?, self.past.get(path)?);
        let page = self.world.host.page_bytes;
        let pages = |count: fn(&Level) -> Option<u64>| past.grown(count).map(|(grown, _)| grown.saturating_mul(page));
        let out = pages(|level| level.stat.swap_out).or_else(|| past.grown(|level| level.swap).map(|(grown, _)| grown));
        let back = pages(|level| level.stat.swap_in.or(level.stat.refault_anon));
        let moved = out.unwrap_or(0).saturating_add(back.unwrap_or(0));
        if moved < SWAPPED {
            return None;
        }
        let news = conditions.holds(SWAPPING, path, moved, self.reading.at_ns)?;
        let bound = self.reading.binding(path).map_or(path, |(level, _)| level).to_owned();
        let mut facts = self.facts(&bound, path);
        let window = past.grown(|_| Some(0)).map_or(1.0, |(_, window)| window.as_secs_f64());
        let rate = |bytes: Option<u64>| bytes.map(|bytes| (bytes as f64 / window) as u64);
        facts.numbers.put("swap_out_bytes_per_s", rate(out), "this kernel does not count it for a cgroup");
        facts.numbers.put("swap_in_bytes_per_s", rate(back), "this kernel does not count it for a cgroup");
        facts.numbers.put("swap_free_bytes", self.reading.swap_free, "/proc/meminfo was not read");
        let v1 = self.world.host.cgroup_version == 1;
        let knob = if v1 {
            format!(
                "memory.swappiness of the cgroup is {}: 0 keeps it from swapping (docker run --memory-swappiness 0)",
                number(level.swappiness)
            )
        } else {
            "memory.swap.max 0 keeps it from swapping (docker run --memory-swap as large as --memory): then it is killed instead".to_owned()
        };
        Some(facts.finding(
            news,
            (SWAPPING, Severity::Warning),
            format!(
                "it swaps: {} out and {} in within {window:.1} s; {} of it are in swap",
                shown(out),
                shown(back),
                shown(level.swap)
            ),
            "there is no cache left that would be cheaper to drop: anonymous pages go to swap, and each that is needed again costs a read".to_owned(),
            vec![format!("raise the limit, or let it use less: {} of anonymous memory and {} in swap do not fit", shown(level.stat.anon), shown(level.swap)), knob],
        ))
    }

    pub fn stalls_of(&self, path: &str, kinds: &[u32]) -> BTreeMap<StallKey, StallTotal> {
        let containers = self.world.containers;
        self.stalls.within(|key| {
            kinds.contains(&key.kind) && containers.path(key.cgroup).is_some_and(|own| is_within(own, path))
        })
    }

    /// Who is meant where a level is full: its own container, else the one below that holds most.
    fn whose(&self, level: &str) -> Whose {
        let held = |path: &str| {
            let level = &self.reading.levels.get(path)?;
            Some(level.usage?.saturating_sub(level.cache().unwrap_or(0)))
        };
        if self.owner(level).is_some_and(|container| container.cgroup == level) {
            return Whose { cgroup: level.to_owned(), own: true };
        }
        let below = self.containers().into_iter().filter(|path| is_within(path, level));
        let most = below.max_by_key(|path| held(path)).unwrap_or(level);
        Whose { cgroup: most.to_owned(), own: false }
    }

    fn facts(&self, limiting: &str, cgroup: &str) -> Facts<'_> {
        let mut facts = Facts { seen: self, numbers: Numbers::default(), cgroup: cgroup.to_owned(), process: None };
        let level = self.reading.levels.get(limiting).cloned().unwrap_or_default();
        facts.numbers.put("limit_bytes", level.limit, "no level has a limit");
        facts.numbers.put("usage_bytes", level.usage, "it was not read");
        let stat = &level.stat;
        for (key, value) in [("anon_bytes", stat.anon), ("file_bytes", stat.file), ("shmem_bytes", stat.shmem)] {
            facts.numbers.put(key, value, "memory.stat was not read");
        }
        facts.numbers.put("working_set_bytes", level.working_set(), "memory.stat was not read");
        facts.numbers.put(
            "kernel_bytes",
            level.stat.kernel.or(level.kernel),
            "this kernel does not count it for a cgroup",
        );
        facts.numbers.put("swap_bytes", level.swap, "this kernel counts no swap for a cgroup");
        facts.numbers.set("limiting_cgroup", limiting);
        facts.numbers.set("cgroup", cgroup);
        facts
    }
}

struct Whose {
    cgroup: String,
    own: bool,
}

struct Sum {
    count: u64,
    total_ns: u64,
    worst_ns: u64,
}

impl Sum {
    fn of(stalls: &BTreeMap<StallKey, StallTotal>) -> Self {
        Self {
            count: total(stalls.values().map(|stall| stall.count)),
            total_ns: total(stalls.values().map(|stall| stall.total_ns)),
            worst_ns: stalls.values().map(|stall| stall.worst_ns).max().unwrap_or(0),
        }
    }
}

/// The numbers of one finding.
struct Facts<'a> {
    seen: &'a Seen<'a>,
    numbers: Numbers,
    /// The container's.
    cgroup: String,
    /// The one that stalled longest.
    process: Option<Process>,
}

impl Facts<'_> {
    fn stall(&mut self, sum: &Sum) {
        self.numbers.set("stalled_ns", sum.total_ns);
        self.numbers.set("stalls", sum.count);
        self.numbers.set("worst_ns", sum.worst_ns);
        self.numbers.set("window_ns", self.seen.stalls.length_ns());
    }

    /// Those that stalled longest.
    fn processes(&mut self, stalls: &BTreeMap<StallKey, StallTotal>) {
        let mut worst: Vec<&StallTotal> = stalls.values().filter(|stall| stall.who.is_some()).collect();
        worst.sort_by_key(|stall| std::cmp::Reverse(stall.total_ns));
        let rows: Vec<Value> = worst
            .iter()
            .take(NAMED)
            .map(|stall| json!({"process": stall.who, "stalls": stall.count, "stalled_ns": stall.total_ns}))
            .collect();
        self.numbers.set("processes", rows);
        self.process = worst.first().and_then(|stall| stall.who.clone());
    }

    /// What reclaim costs besides time.
    fn rates(&mut self) {
        let past = self.seen.past.get(self.cgroup.as_str());
        let per_s = |count: fn(&Level) -> Option<u64>| past.and_then(|past| past.per_s(count)).map(|rate| rate as u64);
        let refaults = per_s(|level| Some(level.stat.refault_file? + level.stat.refault_anon.unwrap_or(0)));
        self.numbers.put(
            "refaults_per_s",
            refaults,
            "not read twice yet, or this kernel does not count it for a cgroup",
        );
        let psi = past.and_then(|past| {
            past.per_s(|level| if let Psi::On { some_us, .. } = level.psi { Some(some_us) } else { None })
        });
        let level = self.seen.reading.levels.get(self.cgroup.as_str());
        let pct = psi.map(|us_per_s| (us_per_s / 1e4 * 10.0).round() / 10.0);
        self.numbers.put("psi_some_pct", pct, no_psi(level.map_or(Psi::Absent, |level| level.psi)));
    }

    fn finding(
        self,
        news: News,
        (code, severity): (Code, Severity),
        summary: String,
        why: String,
        fix: Vec<String>,
    ) -> Finding {
        Finding {
            code,
            severity,
            id: news.id,
            state: Some(news.state),
            time: self.seen.world.at(self.seen.reading.at_ns),
            container: self.seen.owner(&self.cgroup),
            process: self.process,
            summary,
            evidence: self.numbers.values,
            why,
            fix,
            refers_to: None,
            unknown: self.numbers.unknown,
        }
    }
}

/// Why there is no pressure to show.
pub fn no_psi(psi: Psi) -> &'static str {
    match psi {
        Psi::On { .. } => "not read twice yet",
        Psi::Off => "PSI is built and off: boot with psi=1",
        Psi::Absent => "this kernel, or cgroup v1, has no pressure for a cgroup",
    }
}

fn shown(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "unknown".to_owned(), size)
}

fn number(value: Option<u64>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
}
