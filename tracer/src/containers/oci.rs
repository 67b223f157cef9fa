//! The OCI bundle's `config.json` and its annotations: what every runtime leaves on disk. Pure.

use std::collections::HashMap;

use oci_spec::runtime::Spec;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::facts::{Facts, bounded};
use crate::model::Runtime;

/// A bundle's `config.json`. The crate refuses the whole of a file for one word that it does not know (a capability or
/// seccomp action younger than itself): then what it does understand is taken part by part, and the parts left out are
/// named in the second value.
pub fn parse_spec(bytes: &[u8]) -> Result<(Spec, Vec<String>), String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let Value::Object(parts) = &value else { return Err("not a JSON object".to_owned()) };
    if let Ok(spec) = Spec::deserialize(&value) {
        return Ok((spec, Vec::new()));
    }
    let mut kept = Map::new();
    let mut left_out = Vec::new();
    for (name, part) in parts {
        match part {
            _ if understood(name, part) => {
                kept.insert(name.clone(), part.clone());
            }
            Value::Object(inner) => {
                // What `process` cannot be without.
                let base: Map<String, Value> =
                    inner.iter().filter(|(key, _)| ["cwd", "user"].contains(&key.as_str())).map(own).collect();
                let mut good = base.clone();
                for (key, inner) in inner {
                    let mut probe = base.clone();
                    probe.insert(key.clone(), inner.clone());
                    if understood(name, &Value::Object(probe)) {
                        good.insert(key.clone(), inner.clone());
                    } else {
                        left_out.push(format!("{name}.{key}"));
                    }
                }
                if understood(name, &Value::Object(good.clone())) {
                    kept.insert(name.clone(), Value::Object(good));
                } else {
                    left_out.push(name.clone());
                }
            }
            Value::Array(items) => {
                let good: Vec<Value> = items.iter().filter(|item| understood(name, &json!([item]))).cloned().collect();
                left_out.push(format!("{} of {name}", items.len() - good.len()));
                kept.insert(name.clone(), Value::Array(good));
            }
            _ => left_out.push(name.clone()),
        }
    }
    let spec = Spec::deserialize(Value::Object(kept)).map_err(|error| error.to_string())?;
    Ok((spec, left_out))
}

fn own((key, value): (&String, &Value)) -> (String, Value) {
    (key.clone(), value.clone())
}

fn understood(name: &str, part: &Value) -> bool {
    Spec::deserialize(json!({ name: part })).is_ok()
}

/// The cgroup that the bundle asks for, as the runtime was told it.
pub fn cgroups_path(spec: &Spec) -> Option<String> {
    let path = spec.linux().as_ref()?.cgroups_path().as_ref()?;
    Some(path.to_string_lossy().into_owned()).filter(|path| !path.is_empty())
}

/// Where one of the files that an engine makes for each container comes from: `/etc/hostname` and its like.
pub fn engine_directory(spec: &Spec) -> Option<String> {
    let mounts = spec.mounts().as_ref()?;
    mounts.iter().find_map(|mount| {
        let destination = mount.destination().to_str()?;
        let source = mount.source().as_ref()?.to_str()?;
        let (directory, file) = source.rsplit_once('/')?;
        let own = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"].contains(&destination)
            && ["hostname", "hosts", "resolv.conf"].contains(&file);
        (own && source.starts_with('/')).then(|| directory.to_owned())
    })
}

/// Annotations of the bundle, or labels of Docker: both carry what the kubelet, Podman or nerdctl know.
pub(super) fn annotate(facts: &mut Facts, annotations: &HashMap<String, String>) {
    let first = |keys: &[&str]| {
        let value = keys.iter().find_map(|key| annotations.get(*key)).filter(|value| !value.is_empty());
        value.map(|value| bounded(value))
    };
    let kind =
        first(&["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType", "io.kubernetes.docker.type"]);
    facts.name = first(&["io.kubernetes.cri.container-name", "io.kubernetes.container.name", "nerdctl/name"])
        .or(facts.name.take());
    facts.sandbox |= matches!(kind.as_deref(), Some("sandbox" | "podsandbox"));
    let podman = annotations.get("io.container.manager").is_some_and(|manager| manager == "libpod");
    if facts.name.as_deref() == Some("POD") || (facts.name.is_none() && facts.sandbox && !podman) {
        facts.sandbox = true;
        facts.name = Some("pause".to_owned()); // no person named it; everybody calls it so
    }
    facts.pod = first(&["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"]).or(facts.pod.take());
    facts.namespace =
        first(&["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace", "io.kubernetes.cri-o.Namespace"])
            .or(facts.namespace.take());
    facts.image =
        first(&["io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName", "io.kubernetes.cri-o.Image"])
            .or(facts.image.take());
    let signal = first(&["org.opencontainers.image.stopSignal"]).and_then(|text| signal_name(&text));
    facts.stop_signal = signal.or(facts.stop_signal.take());
    facts.started = first(&["io.kubernetes.cri-o.Created"]).and_then(|text| moment(&text)).or(facts.started);
    facts.runtime = match annotations.get("io.container.manager").map(String::as_str) {
        Some("libpod") => Some(Runtime::Podman),
        Some("cri-o") => Some(Runtime::CriO),
        _ => facts.runtime,
    };
    facts.label(annotations.iter().map(|(key, value)| (key.as_str(), value.as_str())));
}

/// `15`, `TERM`, `SIGTERM` and `RTMIN+3` in one form. `None` for what is none.
pub fn signal_name(text: &str) -> Option<String> {
    use nix::sys::signal::Signal;
    const RTMIN: i32 = 34; // what libc leaves to programs
    let text = text.trim().to_ascii_uppercase();
    if let Ok(number) = text.parse::<i32>() {
        return match Signal::try_from(number) {
            Ok(signal) => Some(signal.as_str().to_owned()),
            Err(_) if number == RTMIN => Some("SIGRTMIN".to_owned()),
            Err(_) if (RTMIN..=64).contains(&number) => Some(format!("SIGRTMIN+{}", number - RTMIN)),
            Err(_) => None,
        };
    }
    let name = if text.starts_with("SIG") { text } else { format!("SIG{text}") };
    let real_time = name.strip_prefix("SIGRTM").is_some_and(|rest| {
        let offset = rest.strip_prefix("IN").or_else(|| rest.strip_prefix("AX"));
        let number = |text: &str| text.parse::<u8>().is_ok_and(|number| number < 31);
        offset.is_some_and(|text| text.is_empty() || text.strip_prefix(['+', '-']).is_some_and(number))
    });
    (real_time || name.parse::<Signal>().is_ok()).then_some(name)
}

/// RFC 3339 as Go writes it; Go's zero time is no moment.
pub fn moment(text: &str) -> Option<crate::model::Timestamp> {
    let moment: jiff::Timestamp = text.parse().ok()?;
    let nanoseconds = i64::try_from(moment.as_nanosecond()).ok()?;
    (nanoseconds > 0).then_some(crate::model::Timestamp(nanoseconds))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn annotated(pairs: &[(&str, &str)]) -> Facts {
        let mut facts = Facts::default();
        annotate(&mut facts, &pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect());
        facts
    }

    #[test]
    fn one_unknown_word_does_not_cost_the_name() {
        let text = br#"{"ociVersion":"1.9","hooks":7,"annotations":{"a":"b"},
            "process":{"cwd":"/","user":{"uid":0,"gid":0},"args":["x"],"capabilities":{"bounding":["CAP_FLY"]}},
            "mounts":[{"destination":"/etc/hostname","source":"/data/containers/x/hostname"},{"destination":5}],
            "linux":{"cgroupsPath":"/docker/x","seccomp":{"defaultAction":"SCMP_ACT_DANCE"},"namespaces":[{"type":"pid"}]}}"#;
        let (spec, left_out) = parse_spec(text).expect("most of it is good");
        assert_eq!(cgroups_path(&spec).as_deref(), Some("/docker/x"));
        assert_eq!(engine_directory(&spec).as_deref(), Some("/data/containers/x"));
        assert_eq!(spec.annotations().as_ref().and_then(|map| map.get("a")).map(String::as_str), Some("b"));
        assert!(spec.process().is_some());
        assert_eq!(left_out, ["hooks", "process.capabilities", "1 of mounts", "linux.seccomp"]);
    }

    #[test]
    fn malformed_is_an_error_and_no_panic() {
        for text in ["", "[", "[]", "null", "5", "\u{feff}{}", &"[".repeat(5000)] {
            assert!(parse_spec(text.as_bytes()).is_err(), "{}", &text[..text.len().min(9)]);
        }
        assert!(parse_spec(b"{}").is_ok());
    }

    #[test]
    fn kubernetes_annotations() {
        let cri = annotated(&[
            ("io.kubernetes.cri.container-type", "container"),
            ("io.kubernetes.cri.container-name", "app"),
            ("io.kubernetes.cri.sandbox-name", "shop-0"),
            ("io.kubernetes.cri.sandbox-namespace", "prod"),
            ("io.kubernetes.cri.image-name", "registry/app:1"),
        ]);
        assert_eq!(
            (cri.name.as_deref(), cri.pod.as_deref(), cri.namespace.as_deref()),
            (Some("app"), Some("shop-0"), Some("prod"))
        );
        assert_eq!((cri.image.as_deref(), cri.sandbox), (Some("registry/app:1"), false));
        let pause =
            annotated(&[("io.kubernetes.cri.container-type", "sandbox"), ("io.kubernetes.cri.sandbox-name", "shop-0")]);
        assert_eq!((pause.name.as_deref(), pause.sandbox), (Some("pause"), true));
        let crio = annotated(&[
            ("io.container.manager", "cri-o"),
            ("io.kubernetes.cri-o.ContainerType", "container"),
            ("io.kubernetes.container.name", "app"),
            ("io.kubernetes.pod.name", "shop-0"),
            ("io.kubernetes.pod.namespace", "prod"),
            ("io.kubernetes.cri-o.Created", "2026-11-24T04:09:13.307209099Z"),
            ("org.opencontainers.image.stopSignal", "SIGQUIT"),
        ]);
        assert_eq!(
            (crio.runtime, crio.name.as_deref(), crio.stop_signal.as_deref()),
            (Some(Runtime::CriO), Some("app"), Some("SIGQUIT"))
        );
        assert!(crio.started.is_some());
        let docker = annotated(&[("io.kubernetes.container.name", "POD"), ("io.kubernetes.docker.type", "podsandbox")]);
        assert_eq!((docker.name.as_deref(), docker.sandbox), (Some("pause"), true));
        assert_eq!(annotated(&[("nerdctl/name", "web")]).name.as_deref(), Some("web"));
        assert_eq!(annotated(&[]), Facts::default());
    }

    #[test]
    fn signals() {
        for (text, want) in [
            ("15", Some("SIGTERM")),
            ("SIGQUIT", Some("SIGQUIT")),
            ("int", Some("SIGINT")),
            ("37", Some("SIGRTMIN+3")),
            ("RTMIN+3", Some("SIGRTMIN+3")),
            ("SIGRTMIN", Some("SIGRTMIN")),
            ("0", None),
            ("99", None),
            ("SIGNONE", None),
            ("", None),
            ("RTMINé", None),
        ] {
            assert_eq!(signal_name(text).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn moments() {
        assert_eq!(moment("1970-01-01T00:00:01Z").map(|time| time.0), Some(1_000_000_000));
        assert_eq!(moment("2026-11-24T04:08:52.79592618+01:00").map(|time| time.0 % 1000), Some(180));
        assert_eq!(moment("0001-01-01T00:00:00Z"), None);
        assert_eq!(moment("soon"), None);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in any::<Vec<u8>>(), text in any::<String>()) {
            drop(parse_spec(&bytes));
            signal_name(&text);
            signal_name(&format!("SIGRTMIN{text}"));
            moment(&text);
        }
    }
}
