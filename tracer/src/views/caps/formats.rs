//! The minimal set in the form to paste.

use std::{fmt::Write, str::FromStr};

use serde_json::{Value, json};

use super::{Report, Style, name, not_exercised, seen, text};
use crate::views::{escape::escape, json as lines_json};

/// `--format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    Docker,
    Podman,
    Compose,
    K8s,
    Oci,
    Systemd,
    Json,
}

impl Format {
    pub const ALL: [(&'static str, Self); 8] = [
        ("text", Self::Text),
        ("docker", Self::Docker),
        ("podman", Self::Podman),
        ("compose", Self::Compose),
        ("k8s", Self::K8s),
        ("oci", Self::Oci),
        ("systemd", Self::Systemd),
        ("json", Self::Json),
    ];
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = Self::ALL.map(|(name, _)| name).join(", ");
        Self::ALL.iter().find(|(name, _)| *name == text).map(|(_, format)| *format).ok_or(format!("one of {names}"))
    }
}

/// What is for stdout, and what is to be said beside it.
pub fn formatted(report: &Report, format: Format, style: &Style) -> (String, String) {
    match format {
        Format::Text => (text(report, style), String::new()),
        Format::Json => {
            let line = lines_json::line(&crate::pipeline::Output::Caps(Box::new(report.clone())));
            (line.unwrap_or_default() + "\n", String::new())
        }
        _ => formatted_plain(report, format),
    }
}

/// The forms that are pasted. Where the form has no comments, they go beside it.
pub fn formatted_plain(report: &Report, format: Format) -> (String, String) {
    let mut comments = String::new();
    for line in about(report) {
        let _ = writeln!(comments, "# {line}");
    }
    let (body, can_comment) = body(report, format);
    if can_comment { (comments + &body, String::new()) } else { (body, comments) }
}

/// The text to paste, and whether it can hold comments.
pub fn body(report: &Report, format: Format) -> (String, bool) {
    let short: Vec<&str> = report.needed.iter().map(|name| name.strip_prefix("CAP_").unwrap_or(name)).collect();
    let listed = |indent: &str| -> String {
        let lines: Vec<String> = short.iter().map(|name| format!("{indent}- {name}\n")).collect();
        lines.concat()
    };
    let body = match format {
        Format::Text | Format::Json => String::new(),
        Format::Docker | Format::Podman => {
            let engine = if format == Format::Podman { "podman" } else { "docker" };
            let add: Vec<String> = short.iter().map(|name| format!(" --cap-add {name}")).collect();
            format!("{engine} run --cap-drop ALL{}\n", add.concat())
        }
        Format::Compose => {
            let mut body = "cap_drop:\n  - ALL\n".to_owned();
            if !short.is_empty() {
                body.push_str("cap_add:\n");
                body.push_str(&listed("  "));
            }
            body
        }
        Format::K8s => {
            let mut body = "securityContext:\n  capabilities:\n    drop:\n      - ALL\n".to_owned();
            if !short.is_empty() {
                body.push_str("    add:\n");
                body.push_str(&listed("      "));
            }
            body
        }
        Format::Oci => {
            let set = &report.needed;
            let none: &[String] = &[];
            // Of another user than root, only the ambient set reaches the program.
            let kept = if report.ambient { set.as_slice() } else { none };
            let sets = json!({"process": {"capabilities": {
                "bounding": set, "effective": set, "permitted": set, "inheritable": kept, "ambient": kept,
            }}});
            let text = serde_json::to_string_pretty(&sets).unwrap_or_default();
            return (text + "\n", false);
        }
        Format::Systemd => {
            let set = report.needed.join(" ");
            let mut body = format!("[Service]\nCapabilityBoundingSet={set}\n");
            if report.ambient {
                let _ = writeln!(body, "AmbientCapabilities={set}");
            }
            body
        }
    };
    (body, true)
}

/// What the set rests on.
fn about(report: &Report) -> Vec<String> {
    let mut lines = vec![format!(
        "{}: {}; {} of {} granted capabilities needed",
        name(report),
        seen(report),
        report.needed.len(),
        report.granted.len()
    )];
    if report.evidence.is_empty() {
        lines.push("NOTHING WAS ASKED FOR IN THIS TIME: watch longer, or from its start (--from-start)".to_owned());
    }
    if let Some(words) = not_exercised(report) {
        lines.push(format!("not exercised while watching: {words}"));
    }
    if !report.denied.is_empty() {
        lines.push(format!("asked for and refused, not added: {}", report.denied.join(" ")));
    }
    if report.ambient && !report.needed.is_empty() {
        lines.push(match by_file(report) {
            Some(comm) => format!(
                "it does not run as root: the file of {comm} gives it all of these, so no_new_privs has to stay off"
            ),
            None => "it does not run as root: capabilities reach it through the ambient set or file capabilities alone"
                .to_owned(),
        });
    }
    lines.extend(
        report.warnings.iter().map(|warning| format!("{}: {}", escape(&warning.code), escape(&warning.summary))),
    );
    if report.uncounted > 0 {
        lines.push(format!("{} checks found no room and are not in here", report.uncounted));
    }
    lines
}

/// The program whose file gives all that is needed.
fn by_file(report: &Report) -> Option<String> {
    let gives = |file: &&Value| {
        let permitted = file["permitted"].as_array();
        permitted.is_some_and(|set| report.needed.iter().all(|name| set.contains(&json!(name))))
    };
    let file = report.sets.as_ref()?["files"].as_array()?.iter().find(gives)?;
    Some(escape(file["comm"].as_str()?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::caps::{Evidence, Warning};

    fn report(needed: &[&str]) -> Report {
        Report {
            container: json!({"id": "3f2a91c07d11aa", "name": "web\u{1b}[31m", "runtime": "docker"}),
            granted: vec!["CAP_CHOWN".to_owned(), "CAP_KILL".to_owned()],
            needed: needed.iter().map(|name| (*name).to_owned()).collect(),
            evidence: vec![Evidence {
                capability: Some("CAP_CHOWN".to_owned()),
                verdict: "needed".to_owned(),
                comm: Some("a\u{7}b".to_owned()),
                count: 1,
                ..Evidence::default()
            }],
            watched_ns: 61_000_000_000,
            startup_seen: true,
            not_exercised: vec!["reload".to_owned(), "stop".to_owned()],
            ..Report::default()
        }
    }

    #[test]
    fn each_form_holds_the_set_and_nothing_else() {
        let pasted = |format, needed: &[&str]| body(&report(needed), format).0;
        let two = ["CAP_CHOWN", "CAP_SETUID"];
        assert_eq!(pasted(Format::Docker, &two), "docker run --cap-drop ALL --cap-add CHOWN --cap-add SETUID\n");
        assert_eq!(pasted(Format::Podman, &[]), "podman run --cap-drop ALL\n");
        assert_eq!(pasted(Format::Compose, &two), "cap_drop:\n  - ALL\ncap_add:\n  - CHOWN\n  - SETUID\n");
        assert_eq!(pasted(Format::Compose, &[]), "cap_drop:\n  - ALL\n");
        assert_eq!(
            pasted(Format::K8s, &two[..1]),
            "securityContext:\n  capabilities:\n    drop:\n      - ALL\n    add:\n      - CHOWN\n"
        );
        assert_eq!(pasted(Format::Systemd, &two), "[Service]\nCapabilityBoundingSet=CAP_CHOWN CAP_SETUID\n");
        let oci: serde_json::Value = serde_json::from_str(&pasted(Format::Oci, &two)).expect("JSON alone");
        assert_eq!(oci["process"]["capabilities"]["bounding"], json!(two));
        assert_eq!(oci["process"]["capabilities"]["ambient"], json!([]));
    }

    /// Of another user than root, only the ambient set reaches the program.
    #[test]
    fn another_user_gets_them_through_the_ambient_set() {
        let other = Report { ambient: true, ..report(&["CAP_CHOWN"]) };
        let (oci, aside) = formatted_plain(&other, Format::Oci);
        let oci: serde_json::Value = serde_json::from_str(&oci).expect("JSON alone");
        assert_eq!(oci["process"]["capabilities"]["ambient"], json!(["CAP_CHOWN"]));
        assert!(aside.contains("does not run as root") && aside.lines().all(|line| line.starts_with("# ")));
        assert!(body(&other, Format::Systemd).0.contains("AmbientCapabilities=CAP_CHOWN"));
    }

    /// What a file gives is said beside the set, and what keeps it from doing so.
    #[test]
    fn files_and_warnings_are_shown() {
        let style = Style { zone: jiff::tz::TimeZone::UTC, color: false };
        let file =
            json!({"pid": 7, "comm": "pi\u{7}ng", "permitted": ["CAP_NET_RAW"], "inheritable": [], "effective": true});
        let of = |needed: &[&str], no_new_privs: bool, granted: &str| Report {
            sets: Some(json!({"init": {}, "files": [file], "no_new_privs": no_new_privs})),
            granted: vec![granted.to_owned()],
            ambient: true,
            warnings: vec![Warning {
                code: "sec.host-root".to_owned(),
                severity: "info".to_owned(),
                summary: "container root is host root".to_owned(),
            }],
            ..report(needed)
        };
        let own = of(&["CAP_NET_RAW"], false, "CAP_NET_RAW");
        let table = formatted(&own, Format::Text, &style).0;
        assert!(table.contains("\nsec.host-root    container root is host root\n"), "{table}");
        assert!(table.contains("pi\\x07ng (7): its file gives CAP_NET_RAW\n"), "{table}");
        let docker = formatted(&own, Format::Docker, &style).0;
        assert!(docker.contains("# it does not run as root: the file of pi\\x07ng gives it all of these"), "{docker}");
        assert!(docker.contains("# sec.host-root: container root"), "{docker}");
        // Another one is needed as well: the file alone is not enough.
        let more = formatted(&of(&["CAP_CHOWN", "CAP_NET_RAW"], false, "CAP_NET_RAW"), Format::Docker, &style).0;
        assert!(more.contains("through the ambient set or file capabilities alone"), "{more}");
        let held = formatted(&of(&["CAP_NET_RAW"], true, "CAP_NET_RAW"), Format::Text, &style).0;
        assert!(held.contains("gives CAP_NET_RAW; not with no_new_privs, which is on"), "{held}");
        let beyond = formatted(&of(&["CAP_NET_RAW"], false, "CAP_KILL"), Format::Text, &style).0;
        assert!(beyond.contains("; without CAP_NET_RAW in the bounding set its exec is EPERM"), "{beyond}");
    }

    #[test]
    fn what_it_rests_on_is_said_and_nothing_hostile_gets_through() {
        let style = Style { zone: jiff::tz::TimeZone::UTC, color: false };
        let (docker, _) = formatted(&report(&["CAP_CHOWN"]), Format::Docker, &style);
        assert!(docker.starts_with("# web\\x1b[31m: watched 61 s from its start; 1 of 2 granted"), "{docker}");
        assert!(docker.contains("# not exercised while watching: reload, graceful stop\n"), "{docker}");
        let (table, _) = formatted(&report(&["CAP_CHOWN"]), Format::Text, &style);
        assert!(table.contains("a\\x07b") && !table.contains('\u{1b}') && !table.contains('\u{7}'), "{table}");
        assert!(table.contains("docker run --cap-drop ALL --cap-add CHOWN\n"), "{table}");
        let nothing = Report { evidence: Vec::new(), ..report(&[]) };
        assert!(formatted(&nothing, Format::K8s, &style).0.contains("# NOTHING WAS ASKED FOR"));
        assert!("dokcer".parse::<Format>().is_err());
    }
}
