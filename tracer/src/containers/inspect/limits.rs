//! A container's limits and what it uses of them: cgroup v1, v2 and both at once.

use serde::Serialize;

use super::{super::Files, Hierarchy};
use crate::model::Unknown;

/// `None` is no limit, unless `unknown` says that it could not be read.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Limits {
    pub memory_bytes: Option<u64>,
    pub memory_used_bytes: Option<u64>,
    /// The lowest of its own limit and those above it, and whose that is.
    pub memory_effective_bytes: Option<u64>,
    pub memory_effective_cgroup: Option<String>,
    pub pids_max: Option<u64>,
    pub pids_used: Option<u64>,
    pub cpu_quota_cpus: Option<f64>,
    /// cgroup v2.
    pub cpu_weight: Option<u64>,
    /// cgroup v1.
    pub cpu_shares: Option<u64>,
    pub cpuset_cpus: Option<String>,
}

/// Where each controller's files are.
pub struct Controllers {
    key: Hierarchy,
    memory: Option<Hierarchy>,
    pids: Option<Hierarchy>,
    cpu: Option<Hierarchy>,
    cpuset: Option<Hierarchy>,
}

/// v1 writes `no limit` as the largest number of whole pages.
const V1_NO_LIMIT: u64 = i64::MAX as u64 - (1 << 16);

enum Limit {
    Of(u64),
    None,
    Unread,
}

/// Where a container is in each hierarchy.
struct Place<'a> {
    files: &'a dyn Files,
    cgroup: &'a str,
    key: &'a Hierarchy,
    /// The main process's cgroup in the key's hierarchy, below the container's own by what it made itself.
    main: Option<&'a str>,
    /// The text of its `/proc/PID/cgroup`.
    proc_cgroup: Option<&'a str>,
}

impl Controllers {
    pub fn of(mountinfo: &str, key: &Hierarchy) -> Self {
        let of = |name| Hierarchy::of_controller(mountinfo, name);
        Self { key: key.clone(), memory: of("memory"), pids: of("pids"), cpu: of("cpu"), cpuset: of("cpuset") }
    }

    pub fn limits(
        &self,
        files: &dyn Files,
        cgroup: &str,
        main: Option<&str>,
        proc_cgroup: Option<&str>,
        unknown: &mut Unknown,
    ) -> Limits {
        let place = Place { files, cgroup, key: &self.key, main, proc_cgroup };
        let mut limits = Limits::default();
        place.memory(self.memory.as_ref(), &mut limits, unknown);
        place.pids(self.pids.as_ref(), &mut limits, unknown);
        place.cpu(self.cpu.as_ref(), &mut limits, unknown);
        if let Some((_, directory)) = place.directory(self.cpuset.as_ref()) {
            let cpus = |name: &str| files.text(&format!("{directory}/{name}")).map(|text| text.trim().to_owned());
            limits.cpuset_cpus = cpus("cpuset.cpus").filter(|cpus| !cpus.is_empty());
        }
        limits
    }
}

impl Place<'_> {
    /// The container's path in that hierarchy, and its directory.
    fn directory(&self, hierarchy: Option<&Hierarchy>) -> Option<(String, String)> {
        let hierarchy = hierarchy?;
        let path = if hierarchy.controller == self.key.controller {
            self.cgroup.to_owned()
        } else if let (Some(main), Some(proc_cgroup)) = (self.main, self.proc_cgroup) {
            // The process may have gone into a cgroup below: by the same names in each hierarchy, or in this one alone.
            let below = main.strip_prefix(self.cgroup).unwrap_or_default();
            let path = hierarchy.path_of(proc_cgroup)?;
            path.strip_suffix(below).unwrap_or(path).to_owned()
        } else {
            self.cgroup.to_owned()
        };
        let directory = hierarchy.directory(&path);
        Some((path, directory))
    }

    fn number(&self, directory: &str, file: &str) -> Option<u64> {
        self.files.text(&format!("{directory}/{file}"))?.trim().parse().ok()
    }

    fn limit(&self, directory: &str, file: &str) -> Limit {
        let Some(text) = self.files.text(&format!("{directory}/{file}")) else { return Limit::Unread };
        match text.trim().parse() {
            Ok(number) if number < V1_NO_LIMIT => Limit::Of(number),
            Err(_) if text.trim() != "max" => Limit::Unread,
            _ => Limit::None,
        }
    }

    fn memory(&self, hierarchy: Option<&Hierarchy>, limits: &mut Limits, unknown: &mut Unknown) {
        let Some((path, directory)) = self.directory(hierarchy) else {
            unknown.insert("limits.memory_bytes", NOT_MOUNTED.to_owned());
            unknown.insert("limits.memory_used_bytes", NOT_MOUNTED.to_owned());
            return;
        };
        let v1 = hierarchy.is_some_and(|hierarchy| hierarchy.controller.is_some());
        let (max, used) =
            if v1 { ("memory.limit_in_bytes", "memory.usage_in_bytes") } else { ("memory.max", "memory.current") };
        match self.limit(&directory, max) {
            Limit::Of(limit) => limits.memory_bytes = Some(limit),
            Limit::None => {}
            Limit::Unread => drop(unknown.insert("limits.memory_bytes", not_there(&directory, max))),
        }
        limits.memory_used_bytes = self.number(&directory, used);
        if limits.memory_used_bytes.is_none() {
            unknown.insert("limits.memory_used_bytes", not_there(&directory, used));
        }
        let mut above = Some(path.as_str());
        while let (Some(own), Some(hierarchy)) = (above.filter(|own| !own.is_empty()), hierarchy) {
            if let Limit::Of(limit) = self.limit(&hierarchy.directory(own), max)
                && limits.memory_effective_bytes.is_none_or(|lowest| limit < lowest)
            {
                limits.memory_effective_bytes = Some(limit);
                limits.memory_effective_cgroup = Some(own.to_owned());
            }
            above = own.rsplit_once('/').map(|(above, _)| above);
        }
    }

    fn pids(&self, hierarchy: Option<&Hierarchy>, limits: &mut Limits, unknown: &mut Unknown) {
        let Some((_, directory)) = self.directory(hierarchy) else {
            unknown.insert("limits.pids_max", NOT_MOUNTED.to_owned());
            unknown.insert("limits.pids_used", NOT_MOUNTED.to_owned());
            return;
        };
        match self.limit(&directory, "pids.max") {
            Limit::Of(limit) => limits.pids_max = Some(limit),
            Limit::None => {}
            Limit::Unread => drop(unknown.insert("limits.pids_max", not_there(&directory, "pids.max"))),
        }
        limits.pids_used = self.number(&directory, "pids.current");
        if limits.pids_used.is_none() {
            unknown.insert("limits.pids_used", not_there(&directory, "pids.current"));
        }
    }

    fn cpu(&self, hierarchy: Option<&Hierarchy>, limits: &mut Limits, unknown: &mut Unknown) {
        let Some((_, directory)) = self.directory(hierarchy) else {
            unknown.insert("limits.cpu_quota_cpus", NOT_MOUNTED.to_owned());
            unknown.insert("limits.cpu_weight", NOT_MOUNTED.to_owned());
            return;
        };
        if hierarchy.is_some_and(|hierarchy| hierarchy.controller.is_some()) {
            unknown.insert("limits.cpu_weight", "cgroup v1 has cpu_shares instead".to_owned());
            limits.cpu_shares = self.number(&directory, "cpu.shares");
            let quota = self.files.text(&format!("{directory}/cpu.cfs_quota_us"));
            match quota.as_deref().map(|quota| quota.trim().parse::<i64>()) {
                Some(Ok(quota)) => {
                    let period = self.number(&directory, "cpu.cfs_period_us");
                    limits.cpu_quota_cpus = u64::try_from(quota).ok().and_then(|quota| cpus(quota, period?));
                }
                _ => drop(unknown.insert("limits.cpu_quota_cpus", not_there(&directory, "cpu.cfs_quota_us"))),
            }
            return;
        }
        limits.cpu_weight = self.number(&directory, "cpu.weight");
        if limits.cpu_weight.is_none() {
            unknown.insert("limits.cpu_weight", not_there(&directory, "cpu.weight"));
        }
        let max = self.files.text(&format!("{directory}/cpu.max"));
        match max.as_deref().map(|max| max.trim().split_once(' ')) {
            Some(Some((quota, period))) => {
                limits.cpu_quota_cpus = quota.parse().ok().and_then(|quota| cpus(quota, period.parse().ok()?));
            }
            _ => drop(unknown.insert("limits.cpu_quota_cpus", not_there(&directory, "cpu.max"))),
        }
    }
}

const NOT_MOUNTED: &str = "that controller is mounted nowhere here";

fn not_there(directory: &str, file: &str) -> String {
    format!("no {file} in {directory}: the controller is not on for it, or the container is gone")
}

fn cpus(quota: u64, period: u64) -> Option<f64> {
    (period > 0).then(|| quota as f64 / period as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::files::Memory;

    const HYBRID: &str = "\
32 31 0:29 / /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /cg/memory rw - cgroup cgroup rw,memory
39 31 0:36 / /cg/pids rw - cgroup cgroup rw,pids
41 31 0:38 / /cg/unified rw - cgroup2 cgroup2 rw
";
    const V2: &str = "30 23 0:26 / /cg rw - cgroup2 cgroup2 rw,nsdelegate\n";

    fn limits(mountinfo: &str, files: &Memory, cgroup: &str, main: Option<(&str, &str)>) -> (Limits, Unknown) {
        let key = Hierarchy::detect(mountinfo).expect("mounted");
        let mut unknown = Unknown::new();
        let (main, proc_cgroup) = main.unzip();
        (Controllers::of(mountinfo, &key).limits(files, cgroup, main, proc_cgroup, &mut unknown), unknown)
    }

    #[test]
    fn v2() {
        let mut files = Memory::default();
        for (file, text) in [
            ("pod/memory.max", "1000\n"),
            ("pod/c/memory.max", "max\n"),
            ("pod/c/memory.current", "400\n"),
            ("pod/c/pids.max", "max\n"),
            ("pod/c/pids.current", "7\n"),
            ("pod/c/cpu.max", "150000 100000\n"),
            ("pod/c/cpu.weight", "79\n"),
            ("pod/c/cpuset.cpus", "0-1\n"),
        ] {
            files.file(&format!("/cg/{file}"), text);
        }
        let (limits, unknown) = limits(V2, &files, "/pod/c", None);
        assert_eq!((limits.memory_bytes, limits.memory_used_bytes), (None, Some(400)));
        assert_eq!(
            (limits.memory_effective_bytes, limits.memory_effective_cgroup.as_deref()),
            (Some(1000), Some("/pod"))
        );
        assert_eq!((limits.pids_max, limits.pids_used), (None, Some(7)));
        assert_eq!((limits.cpu_quota_cpus, limits.cpu_weight), (Some(1.5), Some(79)));
        assert_eq!(limits.cpuset_cpus.as_deref(), Some("0-1"));
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn v1_where_each_hierarchy_has_its_own_path() {
        let mut files = Memory::default();
        for (file, text) in [
            ("memory/eng/c/memory.limit_in_bytes", "67108864\n"),
            ("memory/eng/c/memory.usage_in_bytes", "4096\n"),
            ("memory/eng/memory.limit_in_bytes", "9223372036854771712\n"),
            ("pids/c/pids.max", "100\n"),
            ("pids/c/pids.current", "2\n"),
            ("cpu/c/cpu.cfs_quota_us", "-1\n"),
            ("cpu/c/cpu.cfs_period_us", "100000\n"),
            ("cpu/c/cpu.shares", "1024\n"),
        ] {
            files.file(&format!("/cg/{file}"), text);
        }
        let text = "4:memory:/eng/c/init.scope\n3:pids:/c/init.scope\n2:cpu,cpuacct:/c\n0::/c\n";
        let (limits, unknown) = limits(HYBRID, &files, "/eng/c", Some(("/eng/c/init.scope", text)));
        assert_eq!((limits.memory_bytes, limits.memory_used_bytes), (Some(64 << 20), Some(4096)));
        assert_eq!(limits.memory_effective_cgroup.as_deref(), Some("/eng/c"));
        assert_eq!((limits.pids_max, limits.pids_used), (Some(100), Some(2)));
        assert_eq!((limits.cpu_quota_cpus, limits.cpu_weight, limits.cpu_shares), (None, None, Some(1024)));
        assert_eq!(unknown.keys().copied().collect::<Vec<_>>(), ["limits.cpu_weight"]);
    }

    #[test]
    fn what_cannot_be_read_is_no_missing_limit() {
        let (limits, unknown) = limits(V2, &Memory::default(), "/c", None);
        assert_eq!(limits, Limits::default());
        for field in ["limits.memory_bytes", "limits.pids_max", "limits.cpu_quota_cpus", "limits.cpu_weight"] {
            assert!(unknown.contains_key(field), "{field}: {unknown:?}");
        }
    }
}
