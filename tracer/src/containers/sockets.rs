//! Where engines answer questions. Like their files: by their own word, and only that of the host's own engines.

use std::collections::HashMap;

pub use super::engines::of_user;
use super::{
    engines::{Engines, Process},
    facts::{Facts, bounded},
    files::Files,
    oci,
};
use crate::model::Runtime;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    Docker,
    /// Kubernetes' container runtime interface.
    Cri,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    pub path: String,
    /// What a user's own engine says counts below that user's slice only.
    pub uid: u32,
    pub speaks: Speaks,
}

/// What an engine says of a container.
#[derive(Debug)]
pub struct Told {
    /// Of its PID 1, as the host sees it.
    pub pid: i64,
    pub name: Option<String>,
    pub runtime: Runtime,
    pub image: Option<String>,
    pub pod: Option<String>,
    pub namespace: Option<String>,
    pub labels: HashMap<String, String>,
    pub sandbox: bool,
}

impl Facts {
    /// Takes in what the engine behind `source` said of a container that no file names.
    pub fn hear(&mut self, told: Told, source: String) {
        self.sandbox |= told.sandbox;
        oci::annotate(self, &told.labels);
        let text = |own: &mut Option<String>, told: Option<String>| {
            *own = own.take().or_else(|| told.filter(|text| !text.is_empty()).map(|text| bounded(&text)));
        };
        text(&mut self.name, told.name);
        text(&mut self.image, told.image);
        text(&mut self.pod, told.pod);
        text(&mut self.namespace, told.namespace);
        self.runtime = self.runtime.or(Some(told.runtime));
        if self.name.is_some() {
            self.name_source = Some(source);
        }
        for (field, missing) in [
            ("name", self.name.is_none()),
            ("image", self.image.is_none()),
            ("pod", self.pod.is_none()),
            ("namespace", self.namespace.is_none()),
        ] {
            if !missing {
                self.unknown.remove(field);
            }
        }
    }
}

impl Engines {
    /// Takes in where a process that is an engine listens.
    pub(super) fn hear_socket(&mut self, files: &dyn Files, process: &Process) {
        let text = |path: &str| {
            let content = files.read_trusted(path, process.uid).ok()?;
            Some(String::from_utf8_lossy(&content.bytes).into_owned())
        };
        let (speaks, path) = match process.program {
            "dockerd" => {
                let unix = |host: &str| host.strip_prefix("unix://").map(str::to_owned);
                let stated = process.options(&["-H", "--host"]).into_iter().find_map(unix);
                let configured = || {
                    let config =
                        process.path(&["--config-file"]).unwrap_or_else(|| "/etc/docker/daemon.json".to_owned());
                    let config: serde_json::Value = serde_json::from_str(&text(&config)?).ok()?;
                    config.get("hosts")?.as_array()?.iter().find_map(|host| unix(host.as_str()?))
                };
                let usual = match process.uid {
                    0 => "/run/docker.sock".to_owned(),
                    uid => format!("/run/user/{uid}/docker.sock"),
                };
                (Speaks::Docker, stated.or_else(configured).unwrap_or(usual))
            }
            "containerd" => {
                let config =
                    process.path(&["--config", "-c"]).unwrap_or_else(|| "/etc/containerd/config.toml".to_owned());
                let configured = || address(&text(&config)?);
                let stated = process.path(&["--address", "-a"]).or_else(configured);
                (Speaks::Cri, stated.unwrap_or_else(|| "/run/containerd/containerd.sock".to_owned()))
            }
            _ => return,
        };
        let socket = Socket { path, uid: process.uid, speaks };
        if socket.path.starts_with('/') && self.sockets.len() < SOCKETS_CAP && !self.sockets.contains(&socket) {
            self.sockets.push(socket);
        }
    }
}

const SOCKETS_CAP: usize = 16;

/// `address` of `[grpc]` in containerd's TOML.
fn address(text: &str) -> Option<String> {
    let mut lines = text.lines().map(str::trim).skip_while(|line| *line != "[grpc]").skip(1);
    let own = lines.by_ref().take_while(|line| !line.starts_with('['));
    super::engines::toml_string(&own.collect::<Vec<_>>().join("\n"), "address")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::{Hierarchy, files::Memory, survey};

    #[test]
    fn what_an_engine_said() {
        let mut facts = Facts::default();
        facts.unknown.insert("name", "no file".into());
        let told = Told {
            pid: 7,
            name: Some("a".repeat(70_000)),
            runtime: Runtime::Docker,
            image: Some(String::new()),
            pod: None,
            namespace: Some("prod".into()),
            labels: [("io.kubernetes.pod.name".to_owned(), "shop-0".to_owned())].into(),
            sandbox: false,
        };
        facts.hear(told, "unix:///x".into());
        assert_eq!(facts.name.as_ref().map(String::len), Some(4096));
        assert_eq!((facts.image.as_deref(), facts.pod.as_deref()), (None, Some("shop-0")));
        assert_eq!(facts.namespace.as_deref(), Some("prod"));
        assert_eq!((facts.name_source.as_deref(), facts.unknown.get("name")), (Some("unix:///x"), None));
    }

    #[test]
    fn engines_say_where_they_listen() {
        let mut host = Memory::default();
        let own = "dockerd -H fd:// -H unix:///data/d.sock --host=tcp://0.0.0.0:1";
        host.process(10, "/usr/sbin/dockerd", own, "/", "/system.slice/docker.service", 0);
        host.file("/srv/daemon.json", r#"{"hosts":["tcp://x:1","unix:///data/e.sock"]}"#);
        host.process(11, "/usr/sbin/dockerd", "dockerd --config-file /srv/daemon.json", "/", "/", 0);
        host.process(12, "/usr/sbin/dockerd", "dockerd", "/", "/user.slice/user-1000.slice/x", 1000);
        let config = "address = '/no'\n[grpc]\n  uid = 0\n  address = \"/data/c.sock\"\n[ttrpc]\n  address = \"/no\"\n";
        host.file("/srv/c.toml", config);
        host.process(13, "/usr/bin/containerd", "containerd -c /srv/c.toml", "/", "/", 0);
        host.process(14, "/usr/bin/containerd", "containerd", "/", "/", 0);
        // In a container: no engine of this host.
        let inside = format!("/docker/{}", "a1".repeat(32));
        host.process(15, "/usr/sbin/dockerd", "dockerd -H unix:///evil.sock", "/", &inside, 0);
        let hierarchy = Hierarchy { controller: None, mount: "/sys/fs/cgroup".into(), root: "/".into() };
        let (engines, _) = survey(&host, &hierarchy);
        let mut found: Vec<_> = engines.sockets.iter().map(|one| (one.path.as_str(), one.uid, one.speaks)).collect();
        found.sort_by_key(|(path, ..)| *path);
        assert_eq!(
            found,
            [
                ("/data/c.sock", 0, Speaks::Cri),
                ("/data/d.sock", 0, Speaks::Docker),
                ("/data/e.sock", 0, Speaks::Docker),
                ("/run/containerd/containerd.sock", 0, Speaks::Cri),
                ("/run/user/1000/docker.sock", 1000, Speaks::Docker),
            ]
        );
        assert_eq!(address("[grpc]\n[ttrpc]\naddress = '/no'"), None);
    }
}
