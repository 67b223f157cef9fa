//! One line of an OOM report: what it is, and its values. Formats of `mm/oom_kill.c` and `mm/memcontrol.c`, 4.x to 7.x.

use super::{Charge, TaskRow, Victim};
use crate::history::kmsg::unescape;

pub(super) enum Line<'a> {
    /// `X invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0`
    Invoked {
        comm: &'a str,
        gfp_mask: &'a str,
        order: Option<i32>,
        oom_score_adj: Option<i16>,
    },
    /// `CPU: 0 [UID: 0] PID: 166 Comm: hog …`, of any stack dump.
    Stack {
        pid: u32,
    },
    /// `memory: usage 24576kB, limit 24576kB, failcnt 35`; also swap (v2), memory+swap and kmem (v1).
    Charge(&'a str, Charge),
    /// `Memory cgroup stats for /own:`, on old v1 kernels with `name:NKB …` behind it.
    StatsFor(&'a str),
    /// `Task in /a/b killed as a result of limit of /a` (before 5.0).
    LimitOf {
        task_memcg: &'a str,
        oom_memcg: &'a str,
    },
    /// The heads of the task table, after `[  pid  ]`.
    TableHead(Vec<&'a str>),
    /// `oom-kill:constraint=…` and what is known of its continuation.
    Summary(&'a str),
    /// `Memory cgroup out of memory: Killed process …`
    Killed {
        memcg: Option<bool>,
        victim: Victim,
    },
    /// `Memory cgroup out of memory: OOM victim 5 (x) is already exiting. Skip killing the task`
    Exiting,
    /// `Tasks in /x are going to be killed due to memory.oom.group set`
    Group(&'a str),
    Reaped {
        pid: u32,
    },
    NoVictim,
    /// `oom_kill_process: 3 callbacks suppressed`
    Suppressed(u64),
    Other,
}

const MEMCG: &str = "Memory cgroup out of memory: ";
const HOST: [&str; 2] = ["Out of memory: ", "Out of memory (oom_kill_allocating_task): "];

pub(super) fn classify(text: &str) -> Line<'_> {
    known(text).unwrap_or(Line::Other)
}

fn known(text: &str) -> Option<Line<'_>> {
    // A name has at most 15 bytes: none can contain this, so the first place is the right one.
    if let Some((comm, rest)) = text.split_once(" invoked oom-killer: ") {
        return Some(Line::Invoked {
            comm,
            gfp_mask: between(rest, "gfp_mask=", ", ").unwrap_or_default(),
            order: number(rest, "order="),
            oom_score_adj: number(rest, "oom_score_adj="),
        });
    }
    let (memcg, rest) = if let Some(rest) = text.strip_prefix(MEMCG) {
        (Some(true), rest)
    } else if let Some(rest) = HOST.iter().find_map(|prefix| text.strip_prefix(prefix)) {
        (Some(false), rest)
    } else {
        (None, text)
    };
    if let Some(rest) = rest.strip_prefix("Killed process ") {
        return Some(Line::Killed { memcg, victim: victim(rest)? });
    }
    if memcg.is_some() && rest.starts_with("OOM victim ") {
        return Some(Line::Exiting);
    }
    if text.starts_with("Out of memory and no killable processes") {
        return Some(Line::NoVictim);
    }
    if let Some(rest) = text.strip_prefix("oom_reaper: reaped process ") {
        return Some(Line::Reaped { pid: leading(rest)? });
    }
    if let Some(rest) = text.strip_prefix("Tasks in ") {
        return rest.strip_suffix(" are going to be killed due to memory.oom.group set").map(Line::Group);
    }
    if let Some(rest) = text.strip_prefix("Task in ") {
        let (task_memcg, oom_memcg) = rest.split_once(" killed as a result of limit of ")?;
        return Some(Line::LimitOf { task_memcg, oom_memcg });
    }
    if let Some(rest) = text.strip_prefix("Memory cgroup stats for ") {
        return Some(Line::StatsFor(rest));
    }
    if let Some(rest) = text.strip_prefix("oom-kill:") {
        return Some(Line::Summary(rest));
    }
    if let Some(rest) = text.strip_suffix(" callbacks suppressed") {
        return rest.strip_prefix("oom_kill_process: ")?.parse().ok().map(Line::Suppressed);
    }
    if let Some(rest) = text.strip_prefix("CPU: ") {
        return Some(Line::Stack { pid: number(rest, " PID: ")? });
    }
    if let Some((_, heads)) = text.strip_prefix('[').and_then(|rest| rest.split_once("pid")) {
        return heads.trim_start().strip_prefix(']').map(|heads| Line::TableHead(heads.split_whitespace().collect()));
    }
    let (name, rest) = text.split_once(": usage ")?;
    Some(Line::Charge(name, charge(rest)?))
}

/// `166 (hog) total-vm:25672kB, anon-rss:23436kB, …`. The name stands between the first ` (` and the last `) total-vm:`:
/// behind the real one no text of a user's follows.
fn victim(text: &str) -> Option<Victim> {
    let (pid, rest) = text.split_once(" (")?;
    let (comm, numbers) = match rest.rfind(") total-vm:") {
        Some(at) => rest.split_at(at),
        None => (rest.strip_suffix(')').unwrap_or(rest), ""),
    };
    let bytes = |key| number::<u64>(numbers, key).map(kib);
    Some(Victim {
        pid: pid.trim_end_matches(',').parse().ok()?,
        tgid: None,
        comm: unescape(comm),
        uid: number(numbers, "UID:"),
        total_vm_bytes: bytes("total-vm:"),
        anon_bytes: bytes("anon-rss:"),
        file_bytes: bytes("file-rss:"),
        shmem_bytes: bytes("shmem-rss:"),
        pgtables_bytes: bytes("pgtables:"),
        oom_score_adj: number(numbers, "oom_score_adj:"),
        reaped: false,
    })
}

/// `usage` was cut off: `24576kB, limit 24576kB, failcnt 35`.
fn charge(text: &str) -> Option<Charge> {
    let limit = kib(number(text, "limit ")?);
    // PAGE_COUNTER_MAX: LONG_MAX in pages.
    let limit_bytes = (limit < (i64::MAX as u64) & !0xffff).then_some(limit);
    Some(Charge { usage_bytes: kib(leading(text)?), limit_bytes, failcnt: number(text, "failcnt ") })
}

/// `[    166]     0   166     6418     6116     5859        1       256    90112        0             0 hog`: numbers in
/// the order of the heads, one space, then the name, which may itself begin with spaces. Memory in pages.
pub(super) fn row(text: &str, heads: &[&str]) -> Option<TaskRow> {
    let (pid, mut rest) = text.strip_prefix('[')?.split_once(']')?;
    let mut row = TaskRow { pid: pid.trim().parse().ok()?, ..TaskRow::default() };
    for head in heads {
        if *head == "name" {
            row.comm = unescape(rest.strip_prefix(' ').unwrap_or(rest));
            return Some(row);
        }
        rest = rest.trim_start();
        let end = rest.find(' ').unwrap_or(rest.len());
        let value: i64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        match *head {
            "uid" => row.uid = value as u32,
            "tgid" => row.tgid = value as u32,
            "total_vm" => row.total_vm_pages = value as u64,
            "rss" => row.rss_pages = value as u64,
            "rss_anon" => row.anon_pages = Some(value as u64),
            "rss_file" => row.file_pages = Some(value as u64),
            "rss_shmem" => row.shmem_pages = Some(value as u64),
            "pgtables_bytes" => row.pgtables_bytes = Some(value as u64),
            "swapents" => row.swap_pages = value as u64,
            "oom_score_adj" => row.oom_score_adj = value as i16,
            _ => {} // nr_ptes, nr_pmds of old kernels
        }
    }
    None
}

/// `name value` lines of a stats dump. Until 6.1 at least all are one record with escaped newlines, which the kernel cuts
/// where it gets too long (`LOG_LINE_MAX`, about 1,000 bytes): a last number there may lack digits, and is left out.
pub(super) fn stats(text: &str) -> impl Iterator<Item = (&str, u64)> {
    const NEWLINE: &str = "\\x0a";
    let length = text.len() - 3 * text.matches(NEWLINE).count();
    let whole = if length < 940 { text } else { text.rsplit_once(NEWLINE).map_or("", |(whole, _)| whole) };
    whole.split(NEWLINE).filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        let named = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if named { Some((name, value.parse().ok()?)) } else { None }
    })
}

/// `cache:844KB rss:521136KB …`: old v1 kernels, one line a cgroup of the tree.
pub(super) fn old_stats(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.split_whitespace().filter_map(|pair| {
        let (name, value) = pair.split_once(':')?;
        Some((name, kib(value.strip_suffix("KB")?.parse().ok()?)))
    })
}

pub(super) fn kib(value: u64) -> u64 {
    value.saturating_mul(1024)
}

pub(super) fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(from)?;
    Some(rest.split_once(to).map_or(rest, |(value, _)| value))
}

/// The number behind `key`, up to what is none.
pub(super) fn number<T: std::str::FromStr>(text: &str, key: &str) -> Option<T> {
    leading(text.split_once(key)?.1)
}

pub(super) fn leading<T: std::str::FromStr>(text: &str) -> Option<T> {
    let end = text
        .char_indices()
        .find(|(at, char)| !(char.is_ascii_digit() || (*at == 0 && *char == '-')))
        .map_or(text.len(), |(at, _)| at);
    text[..end].parse().ok()
}
