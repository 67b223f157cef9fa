//! What each runtime writes about its containers, from bytes to values. Pure.

use std::collections::HashMap;

use serde_json::Value;

use super::{
    facts::{Facts, bounded},
    hierarchy::Hierarchy,
    oci::{annotate, moment, signal_name},
};
use crate::model::{Runtime, Timestamp};

/// A low-level runtime's own record of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The container's cgroup, in the hierarchy that was asked for.
    pub cgroup: Option<String>,
    pub bundle: Option<String>,
    pub started: Option<Timestamp>,
}

fn json(bytes: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str().filter(|text| !text.is_empty())
}

/// runc: `ROOT/ID/state.json`, with one directory per hierarchy, and the bundle among the labels.
pub fn runc(bytes: &[u8], hierarchy: &Hierarchy) -> Result<Record, String> {
    let value = json(bytes)?;
    let directory = value.get("cgroup_paths").and_then(|paths| paths.get(hierarchy.controller.unwrap_or_default()));
    let labels = value.pointer("/config/labels").and_then(Value::as_array);
    let bundle = labels.and_then(|labels| labels.iter().find_map(|label| label.as_str()?.strip_prefix("bundle=")));
    Ok(Record {
        cgroup: directory.and_then(Value::as_str).and_then(|directory| hierarchy.path_of_directory(directory)),
        bundle: bundle.map(bounded),
        started: text(&value, "/created").and_then(moment),
    })
}

/// crun: `ROOT/ID/status`. Its cgroup path is that of all hierarchies, and ends in the subgroup that it adds.
pub fn crun(bytes: &[u8]) -> Result<Record, String> {
    let value = json(bytes)?;
    let cgroup = text(&value, "/cgroup-path").map(|path| format!("/{}", path.trim_matches('/')));
    Ok(Record {
        cgroup: cgroup.map(|path| match path.strip_suffix("/container") {
            Some(own) if !own.is_empty() => own.to_owned(),
            _ => path,
        }),
        bundle: text(&value, "/bundle").map(bounded),
        started: text(&value, "/created").and_then(moment),
    })
}

/// Docker: `DATA-ROOT/containers/ID/config.v2.json`. An error also where it is the file of another container.
pub fn docker(bytes: &[u8], id: &str) -> Result<Facts, String> {
    let value = json(bytes)?;
    match text(&value, "/ID") {
        Some(own) if own == id => {}
        own => return Err(format!("it is about container {}", bounded(own.unwrap_or("?")))),
    }
    let labels: HashMap<String, String> = value
        .pointer("/Config/Labels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    let mut facts = Facts {
        name: text(&value, "/Name").map(|name| bounded(name.strip_prefix('/').unwrap_or(name))),
        runtime: Some(Runtime::Docker),
        image: text(&value, "/Config/Image").map(bounded),
        // Docker's own default, which it does not write down.
        stop_signal: Some(
            text(&value, "/Config/StopSignal").and_then(signal_name).unwrap_or_else(|| "SIGTERM".to_owned()),
        ),
        started: text(&value, "/State/StartedAt").and_then(moment),
        ..Facts::default()
    };
    annotate(&mut facts, &labels);
    Ok(facts)
}

/// The storage library of Podman and CRI-O: `ROOT/*-containers/containers.json`, all containers in one file.
pub fn storage(bytes: &[u8], id: &str) -> Result<Option<Facts>, String> {
    let value = json(bytes)?;
    let Some(own) = value.as_array().into_iter().flatten().find(|own| text(own, "/id") == Some(id)) else {
        return Ok(None);
    };
    let metadata = text(own, "/metadata").and_then(|text| json(text.as_bytes()).ok()).unwrap_or_default();
    let name = text(&metadata, "/name").or_else(|| text(own, "/names/0"));
    Ok(Some(Facts { name: name.map(bounded), image: text(&metadata, "/image-name").map(bounded), ..Facts::default() }))
}

/// The name of a pod of Podman, which stands in its database alone: both of its kinds (bolt, `SQLite`) hold the pod's
/// JSON as it is.
pub fn podman_pod(database: &[u8], id: &str) -> Option<String> {
    let start = format!(r#"{{"id":"{id}","name":"#).into_bytes();
    let at = database.windows(start.len()).position(|window| window == start)? + start.len();
    let rest = &database[at..database.len().min(at + 4096)];
    serde_json::Deserializer::from_slice(rest).into_iter::<String>().next()?.ok().filter(|name| !name.is_empty())
}

/// LXC: `LXCPATH/NAME/config`, lines of `key = value`.
pub fn lxc(bytes: &[u8]) -> Facts {
    let content = String::from_utf8_lossy(bytes);
    let value = |key: &str| {
        let of_key = |line: &str| {
            line.split_once('=').filter(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().to_owned())
        };
        content.lines().rev().find_map(of_key).filter(|value| !value.is_empty())
    };
    Facts {
        runtime: Some(Runtime::Lxc),
        image: value("lxc.rootfs.path").map(|path| bounded(&path)),
        // LXC's own default asks an init to power down.
        stop_signal: Some(
            value("lxc.signal.halt").and_then(|text| signal_name(&text)).unwrap_or_else(|| "SIGPWR".to_owned()),
        ),
        ..Facts::default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v1() -> Hierarchy {
        Hierarchy { controller: Some("memory"), mount: "/sys/fs/cgroup/memory".into(), root: "/".into() }
    }

    #[test]
    fn runc_on_both_hierarchies() {
        let bytes = br#"{"id":"bare","created":"2026-11-24T04:08:53.265974092Z","cgroup_paths":{"":"/sys/fs/cgroup/unified/bare",
            "memory":"/sys/fs/cgroup/memory/caller/bare"},"config":{"labels":["x=y","bundle=/srv/b1"]}}"#;
        let record = runc(bytes, &v1()).expect("good");
        assert_eq!((record.cgroup.as_deref(), record.bundle.as_deref()), (Some("/caller/bare"), Some("/srv/b1")));
        assert!(record.started.is_some());
        let v2 = Hierarchy { controller: None, mount: "/sys/fs/cgroup".into(), root: "/".into() };
        let bytes = br#"{"cgroup_paths":{"":"/sys/fs/cgroup/system.slice/runc-web.scope"}}"#;
        assert_eq!(runc(bytes, &v2).expect("good").cgroup.as_deref(), Some("/system.slice/runc-web.scope"));
        assert_eq!(runc(b"{}", &v2), Ok(Record::default()));
    }

    #[test]
    fn crun_without_its_subgroup() {
        for (path, want) in [("/bare", "/bare"), ("user.slice/crun-x.scope/container", "/user.slice/crun-x.scope")] {
            let bytes =
                format!(r#"{{"pid":7,"cgroup-path":"{path}","bundle":"/srv/b","created":"2026-11-24T04:08:53Z"}}"#);
            assert_eq!(crun(bytes.as_bytes()).expect("good").cgroup.as_deref(), Some(want));
        }
        assert_eq!(crun(br#"{"cgroup-path":""}"#).expect("good").cgroup, None);
    }

    #[test]
    fn docker_s_file_is_believed_for_its_own_container_only() {
        let bytes =
            br#"{"ID":"abc","Name":"/web","Config":{"Image":"nginx:1","Labels":{"team":"shop"},"StopSignal":"QUIT"},
            "State":{"StartedAt":"2026-11-24T04:08:52.79592618Z"}}"#;
        let facts = docker(bytes, "abc").expect("good");
        assert_eq!((facts.name.as_deref(), facts.image.as_deref()), (Some("web"), Some("nginx:1")));
        assert_eq!((facts.stop_signal.as_deref(), facts.labels["team"].as_str()), (Some("SIGQUIT"), "shop"));
        assert!(docker(bytes, "other").is_err());
        let bare = docker(br#"{"ID":"abc","Config":null,"State":5,"Name":7}"#, "abc").expect("lenient");
        assert_eq!((bare.name, bare.stop_signal.as_deref(), bare.started), (None, Some("SIGTERM"), None));
    }

    #[test]
    fn storage_s_list() {
        let bytes = br#"[{"id":"a","names":["pweb"],"metadata":"{\"image-name\":\"localhost/bb:1\",\"name\":\"pweb\"}"},{"id":"b","names":["only"]},5]"#;
        let find = |id| storage(bytes, id).expect("good").map(|facts| (facts.name, facts.image));
        assert_eq!(find("a"), Some((Some("pweb".into()), Some("localhost/bb:1".into()))));
        assert_eq!(find("b"), Some((Some("only".into()), None)));
        assert_eq!(find("c"), None);
    }

    #[test]
    fn podman_s_database() {
        let database = b"\0\xff{\"id\":\"aa\",\"name\":\"other\"}\x01{\"id\":\"bb\",\"name\":\"sh\\\"op\",\"labels\":{}}\0{\"id\":\"cc\",\"name\":\"cut";
        let name = |id| podman_pod(database, id);
        assert_eq!((name("bb").as_deref(), name("cc"), name("dd")), (Some("sh\"op"), None, None));
    }

    #[test]
    fn lxc_s_config() {
        let facts = lxc(b"# c\nlxc.rootfs.path = dir:/srv/web\nlxc.signal.halt=SIGTERM\nlxc.signal.halt = 37\n");
        assert_eq!((facts.image.as_deref(), facts.stop_signal.as_deref()), (Some("dir:/srv/web"), Some("SIGRTMIN+3")));
        assert_eq!(lxc(b"").stop_signal.as_deref(), Some("SIGPWR"));
    }

    #[test]
    fn names_are_bounded_and_raw() {
        let name = format!("/{}\\n\\u001b[31m", "x".repeat(70_000));
        let long = docker(format!(r#"{{"ID":"a","Name":"{name}"}}"#).as_bytes(), "a").expect("good");
        assert_eq!(long.name.map(|name| name.len()), Some(4096));
        let raw = docker(br#"{"ID":"a","Name":"/a\n\u001b[31m"}"#, "a").expect("good");
        assert_eq!(raw.name.as_deref(), Some("a\n\u{1b}[31m"));
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in any::<Vec<u8>>()) {
            drop((runc(&bytes, &v1()), crun(&bytes), docker(&bytes, "a"), storage(&bytes, "a"), podman_pod(&bytes, "a")));
            lxc(&bytes);
        }
    }
}
