//! Who a container's user is to the host. Pure.

use serde::Serialize;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct User {
    /// As the container sees it; `None` where the map leaves it out.
    pub inside: Option<u32>,
    /// As the host sees it.
    pub outside: Option<u32>,
}

/// A line of `uid_map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct UidRange {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UserNs {
    /// Is it another than the host's?
    pub own: Option<bool>,
    /// Does the whole engine run as an ordinary user?
    pub rootless: Option<bool>,
    pub uid_map: Option<Vec<UidRange>>,
}

impl UserNs {
    /// From the links `/proc/PID/ns/user` and the text of `/proc/PID/uid_map`.
    pub(super) fn new(host: Option<&str>, own: Option<&str>, map: Option<&str>, cgroup: &str) -> Self {
        let own = host.zip(own).map(|(host, own)| host != own);
        let uid_map: Option<Vec<UidRange>> = map.map(|map| map.lines().filter_map(range).collect());
        let rootless = match (own, &uid_map) {
            (Some(false), _) => Some(false),
            (Some(true), Some(map)) => Some(is_users(cgroup) || maps_one_user(map)),
            _ => None,
        };
        Self { own, rootless, uid_map }
    }

    /// For tests of what is made of it.
    #[cfg(test)]
    pub fn read_from(host: &str, own: &str, map: &str) -> Self {
        Self::new(Some(host), Some(own), Some(map), "/")
    }

    /// What a uid of the host is called inside.
    pub(super) fn inside(&self, outside: u32) -> Option<u32> {
        if self.own == Some(false) {
            return Some(outside);
        }
        self.uid_map.as_ref()?.iter().find_map(|range| {
            let offset = outside.checked_sub(range.outside).filter(|offset| *offset < range.count)?;
            range.inside.checked_add(offset)
        })
    }

    /// Root of the container, as the host sees it.
    pub fn root_outside(&self) -> Option<u32> {
        if !self.own? {
            return Some(0);
        }
        let map = self.uid_map.as_ref()?;
        map.iter().find(|range| range.inside == 0 && range.count > 0).map(|range| range.outside)
    }
}

fn range(line: &str) -> Option<UidRange> {
    let mut fields = line.split_whitespace().map(str::parse);
    Some(UidRange { inside: fields.next()?.ok()?, outside: fields.next()?.ok()?, count: fields.next()?.ok()? })
}

/// An engine without root maps the container's root to its own user, one id; one with root maps ranges.
fn maps_one_user(map: &[UidRange]) -> bool {
    map.iter().any(|range| range.inside == 0 && range.count == 1 && range.outside != 0)
}

/// Below a user's own part of the tree: that user's systemd started it.
fn is_users(cgroup: &str) -> bool {
    let user = cgroup.strip_prefix("/user.slice/user-").and_then(|rest| rest.split_once(".slice"));
    user.is_some_and(|(uid, _)| uid.parse::<u32>().is_ok_and(|uid| uid != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_who() {
        let (host, own) = (Some("user:[1]"), Some("user:[2]"));
        let whole = "         0          0 4294967295\n";
        let remap = "         0     100000      65536\n";
        let rootless = "0 1000 1\n1 100000 65536\n";
        let keep_id = "0 100000 1000\n1000 1000 1\n1001 101000 64536\n";
        for (link, map, cgroup, outside, want) in [
            (host, whole, "/docker/a", 33, (Some(false), Some(false), Some(33), Some(0))),
            (own, remap, "/docker/a", 100_033, (Some(true), Some(false), Some(33), Some(100_000))),
            (own, remap, "/docker/a", 0, (Some(true), Some(false), None, Some(100_000))),
            (own, rootless, "/a", 1000, (Some(true), Some(true), Some(0), Some(1000))),
            (own, keep_id, "/user.slice/user-1000.slice/x", 1000, (Some(true), Some(true), Some(1000), Some(100_000))),
            (own, keep_id, "/user.slice/user-0.slice/x", 1000, (Some(true), Some(false), Some(1000), Some(100_000))),
            (own, whole, "/a", 0, (Some(true), Some(false), Some(0), Some(0))),
            (own, "", "/a", 0, (Some(true), Some(false), None, None)),
            (None, whole, "/a", 5, (None, None, Some(5), None)),
        ] {
            let userns = UserNs::new(host, link, Some(map), cgroup);
            let got = (userns.own, userns.rootless, userns.inside(outside), userns.root_outside());
            assert_eq!(got, want, "{map} {cgroup}");
        }
    }
}
