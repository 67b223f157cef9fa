//! What a container's engine says of its end, where a file says it. A hint beside the kernel's word, never the truth:
//! Docker's `OOMKilled` is set by a race, Podman's and containerd's only when the shim saw the event.
//!
//! | engine | file | says |
//! |---|---|---|
//! | Docker | `DATA_ROOT/containers/ID/config.v2.json` | `State.OOMKilled`, `ExitCode`, `StartedAt`, `FinishedAt` |
//! | containerd (CRI) | `ROOT/io.containerd.grpc.v1.cri/containers/ID/status` | `Reason` = `OOMKilled`, `ExitCode`, times in ns |
//! | CRI-O | `GRAPH_ROOT/overlay-containers/ID/userdata/state.json` | `oomKilled`, `exitCode`, `started`, `finished` |
//! | Podman | `GRAPH_ROOT/overlay-containers/ID/userdata/oom` (conmon), `RUN_ROOT/libpod/tmp/exits/ID` | its existence; the exit code |
//!
//! Not read: Podman's own record (a `SQLite` or bolt database) and what containerd knows of `ctr` containers (it keeps no
//! exit after the task is deleted).

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::Value;

use crate::model::{Runtime, Timestamp};

/// The engine's own verdict on the container's last run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub runtime: Runtime,
    /// `None`: the file does not say (a container that still runs, no `oom` file).
    pub oom_killed: Option<bool>,
    pub exit_code: Option<i64>,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    /// The file that says it.
    pub file: PathBuf,
}

/// Where an engine keeps its files: never assumed, always passed in.
#[derive(Clone, Copy, Debug)]
pub struct Roots<'a> {
    /// Docker's data root, containerd's root, the graph root of containers/storage.
    pub data: &'a Path,
    /// Podman's temporary directory (`…/libpod/tmp`), if known.
    pub run: Option<&'a Path>,
}

/// `read` gives a file's bytes: the live file system, or a recording. An id is one path element: anything else gives
/// `None`.
pub fn verdict(
    runtime: Runtime,
    id: &str,
    roots: Roots<'_>,
    read: &mut dyn FnMut(&Path) -> io::Result<Vec<u8>>,
) -> Option<Verdict> {
    if id.is_empty() || id.contains(['/', '\0']) || id.starts_with('.') {
        return None;
    }
    let userdata = || roots.data.join("overlay-containers").join(id).join("userdata");
    match runtime {
        Runtime::Docker => {
            let file = roots.data.join("containers").join(id).join("config.v2.json");
            docker(&json(&read(&file).ok()?)?, file)
        }
        Runtime::Containerd => {
            let file = roots.data.join("io.containerd.grpc.v1.cri/containers").join(id).join("status");
            containerd(&json(&read(&file).ok()?)?, file)
        }
        Runtime::CriO => {
            let file = userdata().join("state.json");
            crio(&json(&read(&file).ok()?)?, file)
        }
        Runtime::Podman => {
            let file = userdata().join("oom");
            let oom = read(&file).is_ok();
            let exit_code = roots.run.and_then(|run| {
                let text = read(&run.join("exits").join(id)).ok()?;
                String::from_utf8_lossy(&text).trim().parse().ok()
            });
            // conmon leaves no file where it saw nothing, and that is no proof of the contrary.
            (oom || exit_code.is_some()).then(|| Verdict {
                runtime,
                oom_killed: oom.then_some(true),
                exit_code,
                started: None,
                finished: None,
                file,
            })
        }
        Runtime::Runc | Runtime::Crun | Runtime::Lxc | Runtime::Nspawn | Runtime::Systemd => None,
    }
}

fn json(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice(bytes).ok()
}

fn docker(config: &Value, file: PathBuf) -> Option<Verdict> {
    let state = config.get("State")?;
    let running = state.get("Running").and_then(Value::as_bool).unwrap_or(false);
    Some(Verdict {
        runtime: Runtime::Docker,
        oom_killed: state.get("OOMKilled").and_then(Value::as_bool),
        exit_code: state.get("ExitCode").and_then(Value::as_i64).filter(|_| !running),
        started: time(state.get("StartedAt")),
        finished: time(state.get("FinishedAt")).filter(|_| !running),
        file,
    })
}

fn containerd(status: &Value, file: PathBuf) -> Option<Verdict> {
    let nanoseconds = |key| status.get(key).and_then(Value::as_i64).filter(|time| *time > 0).map(Timestamp);
    status.get("ExitCode")?;
    let finished = nanoseconds("FinishedAt");
    let reason = status.get("Reason").and_then(Value::as_str);
    Some(Verdict {
        runtime: Runtime::Containerd,
        oom_killed: finished.and(reason).map(|reason| reason == "OOMKilled"),
        exit_code: finished.and_then(|_| status.get("ExitCode").and_then(Value::as_i64)),
        started: nanoseconds("StartedAt"),
        finished,
        file,
    })
}

fn crio(state: &Value, file: PathBuf) -> Option<Verdict> {
    state.get("status")?;
    let finished = time(state.get("finished"));
    Some(Verdict {
        runtime: Runtime::CriO,
        // Left out where it is false.
        oom_killed: finished.map(|_| state.get("oomKilled").and_then(Value::as_bool).unwrap_or(false)),
        exit_code: state.get("exitCode").and_then(Value::as_i64),
        started: time(state.get("started")),
        finished,
        file,
    })
}

/// RFC 3339; Go's zero time (year 1) is "never".
fn time(value: Option<&Value>) -> Option<Timestamp> {
    let moment: jiff::Timestamp = value?.as_str()?.parse().ok()?;
    i64::try_from(moment.as_nanosecond()).ok().filter(|time| *time > 0).map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(runtime: Runtime, files: &[(&str, &str)]) -> Option<Verdict> {
        let roots = Roots { data: Path::new("/data"), run: Some(Path::new("/run")) };
        verdict(runtime, "abc", roots, &mut |path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| text.as_bytes().to_vec()).ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    #[test]
    fn docker_says_it_in_its_config() {
        let text = r#"{"ID":"abc","State":{"Running":false,"OOMKilled":true,"ExitCode":137,
            "StartedAt":"2026-01-02T03:04:05.5Z","FinishedAt":"2026-01-02T03:04:06Z"}}"#;
        let verdict = judge(Runtime::Docker, &[("/data/containers/abc/config.v2.json", text)]).unwrap();
        assert_eq!((verdict.oom_killed, verdict.exit_code), (Some(true), Some(137)));
        assert_eq!(verdict.finished.unwrap().0 - verdict.started.unwrap().0, 500_000_000);
    }

    #[test]
    fn a_running_container_has_no_exit() {
        let text = r#"{"State":{"Running":true,"OOMKilled":false,"ExitCode":0,
            "StartedAt":"2026-01-02T03:04:05Z","FinishedAt":"0001-01-01T00:00:00Z"}}"#;
        let verdict = judge(Runtime::Docker, &[("/data/containers/abc/config.v2.json", text)]).unwrap();
        assert_eq!((verdict.exit_code, verdict.finished), (None, None));
    }

    #[test]
    fn the_others_say_it_elsewhere() {
        let status = r#"{"Version":"v1","Pid":0,"StartedAt":5,"FinishedAt":9,"ExitCode":137,"Reason":"OOMKilled"}"#;
        let path = "/data/io.containerd.grpc.v1.cri/containers/abc/status";
        let verdict = judge(Runtime::Containerd, &[(path, status)]).unwrap();
        assert_eq!((verdict.oom_killed, verdict.finished), (Some(true), Some(Timestamp(9))));

        let state = r#"{"status":"stopped","finished":"2026-01-02T03:04:06Z","exitCode":1}"#;
        let path = "/data/overlay-containers/abc/userdata/state.json";
        assert_eq!(judge(Runtime::CriO, &[(path, state)]).unwrap().oom_killed, Some(false));

        let verdict = judge(Runtime::Podman, &[("/run/exits/abc", "137\n")]).unwrap();
        assert_eq!((verdict.oom_killed, verdict.exit_code), (None, Some(137)));
        assert_eq!(judge(Runtime::Podman, &[]), None);
        assert_eq!(judge(Runtime::Runc, &[]), None);
    }

    #[test]
    fn an_id_is_no_path() {
        let roots = Roots { data: Path::new("/data"), run: None };
        let read = &mut |_: &Path| -> io::Result<Vec<u8>> { panic!("read") };
        assert_eq!(verdict(Runtime::Docker, "../x", roots, read), None);
    }
}
