//! `fs.no-space`, `fs.quota`: calls that a file system refused.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};
use tracer_common::space::{EDQUOT, NAME_LEN, ON_FILE, Refused};

use super::reading::{Place, What, Where};
use crate::{
    containers::Space,
    events::{self, text},
    findings::{
        World,
        numbers::{Numbers, grow},
        state::{Conditions, News},
    },
    model::{Code, Container, Finding, Owner, Process, Severity, size},
};

pub const NO_SPACE: Code = Code("fs.no-space");
pub const QUOTA: Code = Code("fs.quota");

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
/// File systems without a size, which say ENOSPC and mean something else: cgroup, cgroup2, proc, sysfs, tracefs, debugfs,
/// bpf, mqueue's and anonymous inodes.
const NO_STORE: [u64; 9] =
    [0x0027_e0eb, 0x6367_7270, 0x9fa0, 0x6265_6572, 0x7472_6163, 0x6462_6720, 0xcafe_4a11, 0x1980_0202, 0x0904_1934];

/// Writers that a finding names.
const NAMED: usize = 5;

/// Places that are looked up for one cgroup a second: a container that has many processes refused must not keep ctrace busy.
const LOOK_UPS: u32 = 8;

/// Refused calls whose place is being asked for.
#[derive(Debug, Default)]
pub struct Refusals {
    open: BTreeMap<Where, Refused>,
    /// By cgroup: the second, and places looked up in it.
    asked: BTreeMap<u64, (u64, u32)>,
}

impl Refusals {
    /// What has to be known of the file, if the call is one that counts.
    pub fn refused(&mut self, refused: &Refused, world: &World) -> Option<Where> {
        let what = if refused.on == ON_FILE {
            let kind = refused.mode & S_IFMT;
            let known = events::known(refused.mode).is_some();
            // /dev/full, pipes, sockets: no file system is full there.
            if NO_STORE.contains(&refused.magic) || (known && kind != S_IFREG && kind != S_IFDIR) {
                return None;
            }
            // As the kernel has it within: 12 bits and 20.
            What::File { device: (refused.device >> 20, refused.device & 0xf_ffff), path: path_of(&refused.path) }
        } else {
            What::Path { at: refused.at, path: text(&refused.path) }
        };
        let second = refused.header.time_ns / 1_000_000_000;
        self.asked.retain(|_, (at, _)| *at == second);
        let asked = &mut self.asked.entry(refused.header.cgroup).or_insert((second, 0)).1;
        *asked += 1;
        if *asked > LOOK_UPS {
            return None;
        }
        let cgroup = world.containers.path(refused.header.cgroup).map(ToString::to_string);
        let place = Where { pid: refused.asker.tgid, cgroup, what };
        self.open.insert(place.clone(), *refused);
        Some(place)
    }

    pub fn placed(
        &mut self,
        place: &Where,
        found: &Place,
        now_ns: u64,
        world: &World,
        conditions: &mut Conditions,
    ) -> Option<Finding> {
        let refused = self.open.remove(place)?;
        // A path names its file system only now.
        if found.kind.as_deref().is_some_and(|kind| KINDS_WITHOUT_STORE.contains(&kind)) {
            return None;
        }
        Facts::of(&refused, found, world).full(now_ns, conditions)
    }
}

/// From the names that the kernel side read, innermost first.
pub fn path_of(names: &[u8]) -> String {
    let mut path = String::new();
    for name in names.chunks(NAME_LEN) {
        match text(name).as_str() {
            "/" => return if path.is_empty() { "/".to_owned() } else { path },
            "" => break,
            name if name.len() == NAME_LEN - 1 => path = format!("/{name}…{path}"),
            name => path = format!("/{name}{path}"),
        }
    }
    format!("/…{path}")
}

const KINDS_WITHOUT_STORE: [&str; 9] =
    ["proc", "sysfs", "cgroup", "cgroup2", "bpf", "tracefs", "debugfs", "mqueue", "configfs"];

struct Facts<'a> {
    refused: &'a Refused,
    found: &'a Place,
    owner: Owner,
    cgroup: String,
    world: &'a World<'a>,
}

/// What said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    /// A project quota (or a user's) on the file system.
    Quota,
    Inodes,
    Blocks,
    Unknown,
}

impl<'a> Facts<'a> {
    fn of(refused: &'a Refused, found: &'a Place, world: &'a World<'a>) -> Self {
        let owner = world.containers.owner(refused.header.cgroup);
        let cgroup = world.containers.path(refused.header.cgroup).map(ToString::to_string);
        let subject = owner.as_ref().map(|container| container.cgroup.clone()).or(cgroup);
        Self { refused, found, owner, cgroup: subject.unwrap_or_else(|| "/".to_owned()), world }
    }

    fn layer(&self) -> Layer {
        if self.refused.errno == EDQUOT {
            return Layer::Quota;
        }
        let Some(space) = self.found.space else { return Layer::Unknown };
        // With a project quota statfs tells of the quota, and the whole disk has other numbers.
        if self.found.has_quota() {
            return Layer::Quota;
        }
        if space.inodes > 0 && space.inodes_free == 0 && space.available_bytes > 0 {
            Layer::Inodes
        } else {
            Layer::Blocks
        }
    }

    /// `tmpfs /scratch`, `overlay's upper /var/lib/… on ext4 /`.
    fn place(&self) -> String {
        let kind = self.found.kind.as_deref().unwrap_or("the file system");
        let mount = self.found.mount.as_deref().unwrap_or("(where is not known)");
        match (&self.found.disk_kind, &self.found.disk_mount) {
            (Some(disk_kind), Some(disk_mount)) => format!("the overlay's upper directory on {disk_kind} {disk_mount}"),
            _ => format!("{kind} {mount}"),
        }
    }

    fn full(&self, now_ns: u64, conditions: &mut Conditions) -> Option<Finding> {
        let layer = self.layer();
        let code = if layer == Layer::Quota { QUOTA } else { NO_SPACE };
        let place = self.place();
        let subject = format!("{} {place}", self.cgroup);
        let news = conditions.holds(code, &subject, self.refused.count, now_ns)?;
        let mut numbers = Numbers::default();
        let errno = if self.refused.errno == EDQUOT { "EDQUOT" } else { "ENOSPC" };
        numbers.set("errno", errno);
        numbers.set(
            "layer",
            match layer {
                Layer::Quota => "quota",
                Layer::Inodes => "inodes",
                Layer::Blocks => match self.found.kind.as_deref() {
                    Some("tmpfs") => "tmpfs",
                    Some("overlay") => "overlay-upper",
                    _ => "disk",
                },
                Layer::Unknown => "unknown",
            },
        );
        let why = self.found.unknown.clone().unwrap_or_else(|| "it could not be read".to_owned());
        let space = self.found.space;
        let blocks = layer != Layer::Inodes;
        numbers.put("limit_bytes", space.map(|space| space.total_bytes), &why);
        numbers.put("used_bytes", space.map(used), &why);
        numbers.put("available_bytes", space.map(|space| space.available_bytes), &why);
        numbers.put("inodes", space.map(|space| space.inodes), &why);
        numbers.put("inodes_free", space.map(|space| space.inodes_free), &why);
        numbers.put("path", self.found.path.clone(), &why);
        numbers.put("file_system", self.found.kind.clone(), &why);
        numbers.put("mount", self.found.mount.clone(), &why);
        let is_overlay = self.found.kind.as_deref() == Some("overlay");
        let no_overlay = if is_overlay { &why } else { "it is on no overlay" };
        numbers.put("upper", self.found.upper.clone(), no_overlay);
        numbers.put("disk_bytes", self.found.disk.map(|disk| disk.total_bytes), no_overlay);
        numbers.put("disk_used_bytes", self.found.disk.map(used), no_overlay);
        let writers = if layer == Layer::Blocks { self.writers() } else { None };
        let shown: Option<Vec<Value>> = writers.as_ref().map(|all| all.iter().take(NAMED).map(Writing::row).collect());
        numbers.put("writers", shown, "asked for only where no quota and no tmpfs of its own bounds the container");
        numbers.put("syscall", syscall_name(self.refused.syscall), "ctrace has no name for it");
        numbers.set("refused", self.refused.count);
        numbers.set("cgroup", self.cgroup.as_str());
        let process = events::process(&self.refused.asker);
        let of = match (space, blocks) {
            (Some(space), true) => format!("{} of {} used", size(used(space)), size(space.total_bytes)),
            (Some(space), false) => format!("all {} inodes used, {} free", space.inodes, size(space.available_bytes)),
            (None, _) => "how full it is is not known".to_owned(),
        };
        let what = match layer {
            Layer::Quota => "its quota is used up",
            Layer::Inodes => "no inode is left",
            _ => "no space is left",
        };
        let call = syscall_name(self.refused.syscall).unwrap_or("a call");
        let summary = format!("{call} of {} (pid {}) got {errno}: {what}, {place}: {of}", process.comm, process.pid);
        Some(self.finding(
            news,
            (code, Severity::Critical),
            process,
            summary,
            self.why(layer) + &most(writers.as_deref().unwrap_or_default()),
            self.fix(layer),
            numbers,
        ))
    }

    /// Containers that can write there, most first.
    fn writers(&self) -> Option<Vec<Writing>> {
        let mut by_owner: BTreeMap<String, Writing> = BTreeMap::new();
        for writer in self.found.writers.as_ref()? {
            let Some(container) = self.world.containers.owner_of_path(&writer.cgroup) else { continue };
            // What is charged to a cgroup is charged to all above it.
            let charged = writer.charged.filter(|_| container.cgroup == *writer.cgroup);
            let sum =
                by_owner.entry(container.cgroup.clone()).or_insert(Writing { container, charged: None, given: 0 });
            sum.charged = sum.charged.or(charged);
            grow(&mut sum.given, writer.given);
        }
        let mut writers: Vec<Writing> = by_owner.into_values().filter(|sum| sum.bytes() > 0).collect();
        writers.sort_by_key(|sum| std::cmp::Reverse(sum.bytes()));
        Some(writers)
    }

    fn why(&self, layer: Layer) -> String {
        match layer {
            Layer::Quota => "a quota bounds the directory, below what the disk has: the disk itself may have room".to_owned(),
            Layer::Inodes => "each file takes an inode, however small: there are too many files, not too much data".to_owned(),
            Layer::Blocks if self.found.kind.as_deref() == Some("tmpfs") => {
                "a tmpfs has a size of its own (half of the host's memory, where none is given), and counts as memory of the container as well".to_owned()
            }
            Layer::Blocks if self.found.disk.is_some() => {
                "what the container writes outside of volumes goes to its overlay's upper directory, on a disk of the host that all share: without a quota each can fill it".to_owned()
            }
            _ => "the file system is full, or keeps the rest for root".to_owned(),
        }
    }

    fn fix(&self, layer: Layer) -> Vec<String> {
        let upper = self.found.upper.as_deref().unwrap_or("the directory");
        match layer {
            Layer::Quota => vec![
                "raise the quota (docker run --storage-opt size=…, ephemeral-storage of the pod), or delete what is not needed".to_owned(),
                format!("`du -x {upper}` shows what holds it"),
            ],
            Layer::Inodes => vec![
                "delete small files (caches, sessions, spools); `df -i` shows inodes".to_owned(),
                "inodes of ext4 are fixed when it is made (mkfs -i); tmpfs has nr_inodes=".to_owned(),
            ],
            Layer::Blocks if self.found.kind.as_deref() == Some("tmpfs") => vec![
                format!(
                    "a larger one: --tmpfs {}:size=…, --shm-size for /dev/shm, sizeLimit of an emptyDir with medium Memory",
                    self.found.mount.as_deref().unwrap_or("/path")
                ),
                "or delete files there".to_owned(),
            ],
            _ => vec![
                format!("`du -x {upper}` shows what holds it; unused images, containers and logs: docker system df"),
                "bound each container: docker run --storage-opt size=… (overlay2 on XFS with pquota), ephemeral-storage limits".to_owned(),
            ],
        }
    }

    #[expect(clippy::too_many_arguments, reason = "they are the parts of one finding")]
    fn finding(
        &self,
        news: News,
        (code, severity): (Code, Severity),
        process: Process,
        summary: String,
        why: String,
        fix: Vec<String>,
        numbers: Numbers,
    ) -> Finding {
        Finding {
            code,
            severity,
            id: news.id,
            state: Some(news.state),
            time: self.world.at(self.refused.header.time_ns),
            container: self.owner.clone(),
            process: Some(process),
            summary,
            evidence: numbers.values,
            why,
            fix,
            refers_to: None,
            unknown: numbers.unknown,
        }
    }
}

/// What a container wrote, as far as it is counted.
struct Writing {
    container: Arc<Container>,
    charged: Option<u64>,
    given: u64,
}

impl Writing {
    /// Each of the two lacks what the other may have: what is not on the disk yet, and what ended processes wrote.
    fn bytes(&self) -> u64 {
        self.charged.unwrap_or(0).max(self.given)
    }

    fn row(&self) -> Value {
        let mut row = json!({"container": self.container, "given_bytes": self.given});
        if let Some(charged) = self.charged {
            row["charged_bytes"] = json!(charged);
        }
        row
    }
}

/// `; of the containers that can write there, web wrote most (…)`.
fn most(writers: &[Writing]) -> String {
    let named: Vec<String> =
        writers.iter().take(2).map(|sum| format!("{} {}", sum.container.label(), size(sum.bytes()))).collect();
    if named.is_empty() {
        return String::new();
    }
    format!(
        "; of the containers that can write there, most was written by {} (as counted: what was overwritten or deleted since is in it, and what living processes wrote elsewhere)",
        named.join(", then ")
    )
}

pub fn used(space: Space) -> u64 {
    space.total_bytes.saturating_sub(space.free_bytes)
}

/// Those of this architecture that the kernel side tells.
fn syscall_name(number: u32) -> Option<&'static str> {
    Some(match i64::from(number) {
        libc::SYS_write => "write",
        libc::SYS_close => "close",
        libc::SYS_pwrite64 => "pwrite64",
        libc::SYS_writev => "writev",
        libc::SYS_sendfile => "sendfile",
        libc::SYS_fsync => "fsync",
        libc::SYS_fdatasync => "fdatasync",
        libc::SYS_ftruncate => "ftruncate",
        libc::SYS_truncate => "truncate",
        libc::SYS_fsetxattr => "fsetxattr",
        libc::SYS_setxattr => "setxattr",
        libc::SYS_lsetxattr => "lsetxattr",
        libc::SYS_sync_file_range => "sync_file_range",
        libc::SYS_fallocate => "fallocate",
        libc::SYS_pwritev => "pwritev",
        libc::SYS_pwritev2 => "pwritev2",
        libc::SYS_syncfs => "syncfs",
        libc::SYS_splice => "splice",
        libc::SYS_copy_file_range => "copy_file_range",
        libc::SYS_openat => "openat",
        libc::SYS_openat2 => "openat2",
        libc::SYS_mkdirat => "mkdirat",
        libc::SYS_mknodat => "mknodat",
        libc::SYS_symlinkat => "symlinkat",
        libc::SYS_linkat => "linkat",
        libc::SYS_renameat2 => "renameat2",
        other => return old_name(other),
    })
}

#[cfg(target_arch = "x86_64")]
fn old_name(number: i64) -> Option<&'static str> {
    Some(match number {
        libc::SYS_open => "open",
        libc::SYS_creat => "creat",
        libc::SYS_mkdir => "mkdir",
        libc::SYS_mknod => "mknod",
        libc::SYS_rename => "rename",
        libc::SYS_renameat => "renameat",
        libc::SYS_link => "link",
        libc::SYS_symlink => "symlink",
        _ => return None,
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn old_name(_: i64) -> Option<&'static str> {
    None
}
