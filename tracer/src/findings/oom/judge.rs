//! From one decision of the OOM killer to what ctrace says of it.

use serde_json::{Value, json};
use tracer_common::{
    UNKNOWN_U64,
    oom::{
        Level, STAT_ANON, STAT_FILE, STAT_KERNEL_STACK, STAT_KMEM, STAT_PERCPU, STAT_SHMEM, STAT_SLAB_RECLAIMABLE,
        STAT_SLAB_UNRECLAIMABLE, STAT_SOCK, STAT_SWAP, VICTIM_ANNOUNCED, Victim,
    },
};

use super::{Case, World};
use crate::{
    containers::is_within,
    events::{known64, process},
    findings::numbers::total,
    model::{Code, Evidence, Finding, Owner, Severity, Unknown, size},
};

const CONSTRAINT_CPUSET: u32 = 1;
const CONSTRAINT_MEMORY_POLICY: u32 = 2;
/// `PAGE_COUNTER_MAX` is `LONG_MAX / PAGE_SIZE`: a counter that stands there has no limit.
const NO_LIMIT_PAGES: u64 = i64::MAX as u64 / 65_536;
/// Pages that each CPU may have charged ahead, or before 5.13 hold back of the statistics (`MEMCG_CHARGE_BATCH`).
const CHARGE_BATCH: u64 = 64;

/// Whose limit it was.
enum Whose {
    Own,
    Parent,
    Host,
    Cpuset,
}

/// The numbers of a decision, in bytes; `None` where unknown.
struct Numbers {
    limit: Option<u64>,
    usage: Option<u64>,
    anon: Option<u64>,
    file: Option<u64>,
    shmem: Option<u64>,
    kernel: Option<u64>,
    swap: Option<u64>,
}

/// One finding for the decision, and a second where PID 1 lives on behind it.
pub(super) fn judge(case: &Case, world: &World) -> Vec<Finding> {
    let number = case.number;
    let Some(first) = case.victims.first() else { return Vec::new() };
    let mut unknown = Unknown::new();
    let container = world.containers.owner(first.header.cgroup);
    let limiting = limiting(case, first);
    let (whose, limiting_cgroup) = whose(case, first, limiting.as_ref(), &container, world);
    let group = is_group_kill(first, limiting.as_ref());
    let numbers = numbers(case, first, limiting.as_ref(), world, &mut unknown);
    let init_alive = init_alive(case, first, world, &mut unknown);

    let (code, severity) = match (&whose, group) {
        (_, true) => ("oom.group-kill", Severity::Critical),
        (Whose::Own, _) => ("oom.container-limit", Severity::Critical),
        (Whose::Parent, _) => ("oom.parent-limit", Severity::Critical),
        (Whose::Host, _) => ("oom.host", Severity::Critical),
        (Whose::Cpuset, _) => ("oom.cpuset", Severity::Critical),
    };
    let evidence = evidence(case, first, &numbers, limiting_cgroup.as_deref(), init_alive, world, &mut unknown);
    let victim = process(&first.victim);
    let count = case.victims.len() + case.sharers.len();
    let killed = match count {
        1 => format!("{} (pid {}) was killed", victim.comm, victim.pid),
        _ => format!("{} (pid {}) and {} more were killed", victim.comm, victim.pid, count - 1),
    };
    let limit = numbers.limit.map_or_else(|| "unknown size".to_owned(), size);
    let where_limit = limiting_cgroup.as_deref().unwrap_or("an ancestor");
    let summary = match whose {
        Whose::Own => format!("OOM: its own limit of {limit} was hit; {killed}"),
        Whose::Parent => format!("OOM: the limit of {limit} of its parent {where_limit} was hit; {killed}"),
        Whose::Host => format!("OOM: the host ran out of memory; {killed}"),
        Whose::Cpuset => format!("OOM: the NUMA nodes it may use ran out of memory; {killed}"),
    };
    let id = id(number);
    let time = world.at(case.first_ns);
    let finding = Finding {
        code: Code(code),
        severity,
        id: id.clone(),
        state: None,
        time,
        container: container.clone(),
        process: Some(victim.clone()),
        summary,
        evidence,
        why: why(&whose, group, &numbers, first),
        fix: fix(&whose, group, &numbers, first, limiting_cgroup.as_deref(), world),
        refers_to: None,
        unknown,
    };
    let mut findings = vec![finding];
    if init_alive == Some(true) {
        findings.push(child_killed(&findings[0], number, first, count));
    }
    findings
}

/// The id of the finding about one decision.
pub(super) fn id(number: u64) -> String {
    format!("oom-{number}")
}

fn child_killed(of: &Finding, number: u64, first: &Victim, count: usize) -> Finding {
    let victim = process(&first.victim);
    let who = if count == 1 { victim.comm.clone() } else { format!("{} and {} more", victim.comm, count - 1) };
    let mut evidence = Evidence::new();
    for key in ["limit_bytes", "limiting_cgroup", "cgroup", "victims", "init_alive"] {
        evidence.insert(key.to_owned(), of.evidence.get(key).cloned().unwrap_or(Value::Null));
    }
    evidence.insert("init_pid".to_owned(), json!(first.victim.init));
    Finding {
        code: Code("oom.child-killed"),
        severity: Severity::Warning,
        id: format!("oom-{number}-child"),
        state: None,
        time: of.time,
        container: of.container.clone(),
        process: Some(victim),
        summary: format!("PID 1 is alive after the OOM kill of {who}: the container looks healthy and is not"),
        evidence,
        why: format!(
            "the kernel killed a child; PID 1 (pid {} on the host) was not chosen, so the runtime sees a running container and restarts nothing",
            first.victim.init
        ),
        fix: vec![
            "let PID 1 exit when a child it needs dies (wait for it, and exit with its status)".to_owned(),
            "or set memory.oom.group=1 on the container's cgroup (Kubernetes: the default on cgroup v2 since 1.28), so that all die together and the runtime restarts it".to_owned(),
            "add a liveness probe that asks the killed process, not PID 1".to_owned(),
        ],
        refers_to: Some(of.id.clone()),
        unknown: Unknown::new(),
    }
}

/// The level whose limit was hit: as the decision said, else as the counters showed when the victim was marked.
/// `None`: the host's memory.
fn limiting(case: &Case, first: &Victim) -> Option<Level> {
    if let Some(decision) = &case.decision {
        return (decision.host == 0).then_some(decision.level);
    }
    let cgroup = known64(first.stats_cgroup)?;
    first.levels.iter().take(first.depth as usize).find(|level| level.cgroup == cgroup).copied()
}

fn whose(
    case: &Case,
    first: &Victim,
    limiting: Option<&Level>,
    container: &Owner,
    world: &World,
) -> (Whose, Option<String>) {
    let constraint = case.decision.map_or(0, |decision| decision.constraint);
    let Some(level) = limiting else {
        let whose = if matches!(constraint, CONSTRAINT_CPUSET | CONSTRAINT_MEMORY_POLICY) {
            Whose::Cpuset
        } else {
            Whose::Host
        };
        return (whose, None);
    };
    let path = world.containers.path(level.cgroup).map(ToString::to_string);
    let own = match (container, &path) {
        (Some(container), Some(path)) => is_within(path, &container.cgroup),
        // The host's own cgroups, and those whose path nobody saw: the victim's own level is its own.
        _ => level.cgroup == first.header.cgroup || level.cgroup == first.levels[0].cgroup,
    };
    (if own { Whose::Own } else { Whose::Parent }, path)
}

/// The kernel kills the whole of the highest `memory.oom.group` cgroup between the victim and the limit.
fn is_group_kill(first: &Victim, limiting: Option<&Level>) -> bool {
    let levels = first.levels.iter().take(first.depth as usize);
    let mut below = Vec::new();
    for level in levels {
        below.push(level);
        if limiting.is_some_and(|limiting| limiting.cgroup == level.cgroup) {
            break;
        }
    }
    below.iter().any(|level| level.oom_group == 1)
}

fn numbers(case: &Case, first: &Victim, limiting: Option<&Level>, world: &World, unknown: &mut Unknown) -> Numbers {
    let page = world.host.page_bytes;
    let pages = |count: i64| (count >= 0).then(|| (count as u64).saturating_mul(page));
    let bytes = |count: i64| u64::try_from(count).ok();
    let stat = |index: usize| first.stats[index];
    let Some(level) = limiting else {
        let total =
            case.decision.and_then(|decision| known64(decision.total_pages)).map(|total| total.saturating_mul(page));
        let reason = "the host's memory ran out, not a cgroup's";
        for key in ["usage_bytes", "anon_bytes", "file_bytes", "shmem_bytes", "kernel_bytes", "swap_bytes"] {
            unknown.insert(key, reason.to_owned());
        }
        if total.is_none() {
            unknown.insert("limit_bytes", "no hook on oom_kill_process says how much memory was at stake".to_owned());
        }
        return Numbers { limit: total, usage: None, anon: None, file: None, shmem: None, kernel: None, swap: None };
    };
    let limited = |max: u64| (max < NO_LIMIT_PAGES).then(|| max.saturating_mul(page));
    let v1 = world.host.cgroup_version == 1;
    // On v1 it may be memory and swap together that is limited.
    let memory_short = level.max.saturating_sub(level.usage) <= level.swap_max.saturating_sub(level.swap_usage);
    let (limit, usage) = if v1 && !memory_short && level.swap_max != UNKNOWN_U64 {
        (limited(level.swap_max), known64(level.swap_usage).map(|usage| usage.saturating_mul(page)))
    } else {
        (limited(level.max), known64(level.usage).map(|usage| usage.saturating_mul(page)))
    };
    if limit.is_none() {
        unknown.insert("limit_bytes", "the cgroup has no limit now: it was lifted, or the kill was forced".to_owned());
    }
    // Before `memory.kernel` (5.18): the kinds of kernel memory that such kernels count per cgroup.
    let kernel = pages(stat(STAT_KMEM)).or_else(|| {
        let kinds = [
            bytes(stat(STAT_SLAB_RECLAIMABLE)),
            bytes(stat(STAT_SLAB_UNRECLAIMABLE)),
            bytes(stat(STAT_KERNEL_STACK)).map(|kib| kib.saturating_mul(1024)),
            bytes(stat(STAT_PERCPU)),
        ];
        kinds.iter().any(Option::is_some).then(|| total(kinds.into_iter().flatten()))
    });
    let mut numbers = Numbers {
        limit,
        usage,
        anon: pages(stat(STAT_ANON)),
        file: pages(stat(STAT_FILE)),
        shmem: pages(stat(STAT_SHMEM)),
        kernel,
        swap: if v1 {
            pages(stat(STAT_SWAP))
        } else {
            known64(level.swap_usage).map(|usage| usage.saturating_mul(page))
        },
    };
    let reason = if numbers.anon.is_none() {
        Some("this kernel keeps memcg statistics where ctrace cannot find them (ctrace doctor says why)".to_owned())
    } else if is_stale(&numbers, first, level, world) {
        Some("stale: the kernel flushes these statistics for its own report, and had suppressed that report (many kills in a row)".to_owned())
    } else {
        None
    };
    if let Some(reason) = reason {
        (numbers.anon, numbers.file, numbers.shmem, numbers.kernel) = (None, None, None, None);
        for key in ["anon_bytes", "file_bytes", "shmem_bytes", "kernel_bytes"] {
            unknown.insert(key, reason.clone());
        }
    }
    if numbers.swap.is_none() {
        unknown.insert("swap_bytes", "this kernel counts no swap per cgroup".to_owned());
    }
    numbers
}

/// What is charged is in one of the parts, but for what the CPUs hold back: where much is missing, the kernel did not
/// flush its statistics.
fn is_stale(numbers: &Numbers, first: &Victim, level: &Level, world: &World) -> bool {
    let page = world.host.page_bytes;
    let Some(usage) = known64(level.usage).map(|usage| usage.saturating_mul(page)) else { return false };
    let sockets = u64::try_from(first.stats[STAT_SOCK]).map_or(0, |count| count.saturating_mul(page));
    let parts = [numbers.anon, numbers.file, numbers.kernel, Some(sockets)];
    // Before `memory.kernel` (5.18) some kinds of kernel memory, such as page tables, are in none of them.
    let uncounted = if first.stats[STAT_KMEM] < 0 { usage / 4 } else { usage / 16 };
    let held_back = CHARGE_BATCH.saturating_mul(world.host.cpus).saturating_mul(page);
    usage > total(parts.into_iter().flatten().chain([uncounted, held_back]))
}

/// Does PID 1 of the first victim's pid namespace live on? `None` in the host's own namespace, and where it is unread.
fn init_alive(case: &Case, first: &Victim, world: &World, unknown: &mut Unknown) -> Option<bool> {
    let task = &first.victim;
    let mut cannot = |why: &str| {
        unknown.insert("init_alive", why.to_owned());
        None
    };
    if task.ns_level == 0 {
        return cannot("the victim ran in the host's pid namespace: there is no PID 1 of the container");
    }
    if task.init == u32::MAX || task.ns_level == u32::MAX {
        return cannot("the pid namespace of the victim could not be read");
    }
    if !world.attached("exit") {
        return cannot("exits are not traced on this kernel");
    }
    let was_victim = case.victims.iter().any(|victim| victim.victim.tgid == task.init)
        || case.sharers.iter().any(|sharer| sharer.victim.tgid == task.init);
    let is_gone = case.gone.iter().any(|(pid, _)| *pid == task.init);
    Some(!was_victim && !is_gone && task.init_exiting == 0)
}

const SHARED: &str = "it shares the memory of another victim";

fn evidence(
    case: &Case,
    first: &Victim,
    numbers: &Numbers,
    limiting_cgroup: Option<&str>,
    init_alive: Option<bool>,
    world: &World,
    unknown: &mut Unknown,
) -> Evidence {
    let page = world.host.page_bytes;
    let rss = |pages: i64| (pages.max(0) as u64).saturating_mul(page);
    let mut victims: Vec<Value> = case
        .victims
        .iter()
        .map(|victim| {
            json!({
                "process": process(&victim.victim),
                "anon_bytes": rss(victim.rss_anon_pages),
                "file_bytes": rss(victim.rss_file_pages),
                "shmem_bytes": rss(victim.rss_shmem_pages),
                "oom_score_adj": victim.oom_score_adj,
            })
        })
        .collect();
    victims.extend(case.sharers.iter().map(|sharer| {
        json!({
            "process": process(&sharer.victim),
            "anon_bytes": null,
            "file_bytes": null,
            "shmem_bytes": null,
            "oom_score_adj": sharer.oom_score_adj,
            "unknown": {"anon_bytes": SHARED, "file_bytes": SHARED, "shmem_bytes": SHARED},
        })
    }));
    let cgroup = world.containers.path(first.header.cgroup).map(ToString::to_string);
    if cgroup.is_none() {
        unknown.insert("cgroup", "gone before its path was seen".to_owned());
    }
    if limiting_cgroup.is_none() {
        let why = if case.decision.is_some_and(|decision| decision.host == 1) || known64(first.stats_cgroup).is_none() {
            "it was the host's memory, not a cgroup's limit"
        } else {
            "gone before its path was seen"
        };
        unknown.insert("limiting_cgroup", why.to_owned());
    }
    let (asked, asked_cgroup) = case
        .decision
        .as_ref()
        .map_or((&first.trigger, first.trigger_cgroup), |decision| (&decision.trigger, decision.trigger_cgroup));
    let mut trigger = json!({"process": process(asked), "container": world.containers.owner(asked_cgroup)});
    if case.decision.is_none() {
        let lost = first.flags & VICTIM_ANNOUNCED != 0;
        let why =
            if lost { LOST_DECISION } else { "only a hook on oom_kill_process sees it, and this kernel has none" };
        unknown.insert("order", why.to_owned());
        if lost {
            trigger["unknown"] = json!({"ns_pid": LOST_DECISION, "ppid": LOST_DECISION, "uid": LOST_DECISION});
        }
    }
    let mut evidence = Evidence::new();
    for (key, value) in [
        ("limit_bytes", json!(numbers.limit)),
        ("usage_bytes", json!(numbers.usage)),
        ("anon_bytes", json!(numbers.anon)),
        ("file_bytes", json!(numbers.file)),
        ("shmem_bytes", json!(numbers.shmem)),
        ("kernel_bytes", json!(numbers.kernel)),
        ("swap_bytes", json!(numbers.swap)),
        ("limiting_cgroup", json!(limiting_cgroup)),
        ("cgroup", json!(cgroup)),
        ("victims", Value::Array(victims)),
        ("trigger", trigger),
        ("init_alive", json!(init_alive)),
        ("order", json!(case.decision.map(|decision| decision.order))),
        ("inferred", json!(case.decision.is_none())),
    ] {
        evidence.insert(key.to_owned(), value);
    }
    evidence
}

const LOST_DECISION: &str = "the record of the decision itself was lost";

fn why(whose: &Whose, group: bool, numbers: &Numbers, first: &Victim) -> String {
    let mut why = match (whose, numbers.usage) {
        (Whose::Host, _) => {
            "free memory of the whole host was used up; the kernel chose the process with the highest badness (its memory, moved by oom_score_adj)".to_owned()
        }
        (Whose::Cpuset, _) => {
            "the memory of the NUMA nodes in cpuset.mems (or the memory policy) was used up, though others may have some".to_owned()
        }
        (_, Some(usage)) => composition(numbers, usage),
        (_, None) => "the limit was hit and nothing could be reclaimed".to_owned(),
    };
    if matches!(whose, Whose::Parent) {
        why.push_str("; the limit belongs to an ancestor, so siblings' memory counts as well");
    }
    if group {
        why.push_str("; memory.oom.group is set, so every process of the group was killed with the victim");
    }
    if first.oom_score_adj > 0 && !group {
        why.push_str(&format!("; oom_score_adj {} made it the preferred victim", first.oom_score_adj));
    }
    why
}

/// What fills the limit, in words.
fn composition(numbers: &Numbers, usage: u64) -> String {
    let share = |part: Option<u64>| part.map(|part| part as f64 / usage.max(1) as f64);
    let droppable = match (numbers.file, numbers.shmem) {
        (Some(file), Some(shmem)) => Some(file.saturating_sub(shmem)),
        _ => None,
    };
    let cache = droppable.map_or_else(
        || "what could be dropped is not known".to_owned(),
        |bytes| {
            if bytes < 1 << 20 {
                "there was no page cache left to drop".to_owned()
            } else {
                format!("{} of page cache were in use or could not be dropped in time", size(bytes))
            }
        },
    );
    match (share(numbers.anon), share(numbers.shmem), share(numbers.kernel)) {
        (Some(anon), ..) if anon >= 0.8 => {
            format!("anonymous memory alone fills the limit ({:.0} %); {cache}", anon * 100.0)
        }
        (_, Some(shmem), _) if shmem >= 0.4 => {
            format!(
                "shared memory (tmpfs, /dev/shm, SysV) holds {:.0} % and cannot be dropped, only swapped",
                shmem * 100.0
            )
        }
        (.., Some(kernel)) if kernel >= 0.4 => {
            format!(
                "kernel memory holds {:.0} % (slab, stacks, sockets): many files, processes or connections",
                kernel * 100.0
            )
        }
        (Some(anon), ..) => format!("anonymous memory is {:.0} % of it; {cache}", anon * 100.0),
        _ => "the limit was hit and reclaim found nothing; the split is not known".to_owned(),
    }
}

fn fix(
    whose: &Whose,
    group: bool,
    numbers: &Numbers,
    first: &Victim,
    limiting_cgroup: Option<&str>,
    world: &World,
) -> Vec<String> {
    let comm = process(&first.victim).comm;
    let rss = (first.rss_anon_pages.max(0) as u64)
        .saturating_add(first.rss_shmem_pages.max(0) as u64)
        .saturating_mul(world.host.page_bytes);
    let mut fix = Vec::new();
    match whose {
        Whose::Own | Whose::Parent => {
            if let (Some(limit), Some(usage)) = (numbers.limit, numbers.usage) {
                // It is short by what was asked for at least; a tenth more is room to see what it really wants.
                let roomy = limit.max(usage).saturating_add(limit.max(usage) / 10);
                let of = if matches!(whose, Whose::Parent) {
                    format!(" of {}", limiting_cgroup.unwrap_or("the parent"))
                } else {
                    String::new()
                };
                fix.push(format!(
                    "raise the limit{of} above {} ({} more), or make {comm} use less (it held {})",
                    size(roomy),
                    size(roomy - limit),
                    size(rss)
                ));
            } else {
                fix.push(format!("raise the limit, or make {comm} use less (it held {})", size(rss)));
            }
            if numbers
                .shmem
                .zip(numbers.usage)
                .is_some_and(|(shmem, usage)| shmem.saturating_mul(10) >= usage.saturating_mul(4))
            {
                fix.push("bound the tmpfs: docker run --shm-size, Kubernetes emptyDir.sizeLimit; files there count as memory".to_owned());
            }
            if numbers.swap == Some(0) {
                fix.push("no swap was used: a little (memory.swap.max, docker --memory-swap) turns short peaks into slowness".to_owned());
            }
        }
        Whose::Host => {
            fix.push(
                "give every container a memory limit, so that the one that grows is the one that is killed".to_owned(),
            );
            fix.push(format!("{comm} held {}: move it, shrink it, or add memory or swap to the host", size(rss)));
        }
        Whose::Cpuset => {
            fix.push(
                "widen cpuset.mems, or move some of the load to other NUMA nodes (numastat -m shows them)".to_owned(),
            );
        }
    }
    if group {
        fix.push(
            "memory.oom.group=0 would kill only the largest process, and leave the rest running without it".to_owned(),
        );
    }
    fix
}
