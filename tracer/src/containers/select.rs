//! `--container X`: what a person wrote to the containers meant. Pure.

use std::{fmt, sync::Arc};

use super::table::Entry;
use crate::model::{Container, Runtime};

/// Shorter beginnings of an id are more likely a name that was mistyped.
const PREFIX_MIN: usize = 3;
const LISTED: usize = 10;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    One(Arc<Container>),
    /// A pod was named: its containers, without the pause container.
    Pod(Vec<Arc<Container>>),
}

impl Selection {
    pub fn containers(&self) -> &[Arc<Container>] {
        match self {
            Self::One(container) => std::slice::from_ref(container),
            Self::Pod(containers) => containers,
        }
    }
}

/// Why nothing can be said to be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unselected {
    /// Several fit: how to write each so that it alone is meant.
    Ambiguous { wanted: String, candidates: Vec<String> },
    /// None fits: names that look alike, nearest first.
    Unknown { wanted: String, nearest: Vec<String> },
}

impl std::error::Error for Unselected {}

/// Ready for a terminal: control characters are escaped.
impl fmt::Display for Unselected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ambiguous { wanted, candidates } => {
                writeln!(f, "{} containers are called {}:", candidates.len(), printable(wanted))?;
                for candidate in candidates.iter().take(LISTED) {
                    writeln!(f, "    {}", printable(candidate))?;
                }
                if candidates.len() > LISTED {
                    writeln!(f, "    and {} more", candidates.len() - LISTED)?;
                }
                write!(f, "Give one of these, or the beginning of its id.")
            }
            Self::Unknown { wanted, nearest } => {
                write!(f, "no container {} here", printable(wanted))?;
                if let Some((last, others)) = nearest.split_last() {
                    let others: Vec<String> = others.iter().map(|name| printable(name)).collect();
                    let others = if others.is_empty() { String::new() } else { others.join(", ") + " or " };
                    write!(f, "; did you mean {others}{}?", printable(last))?;
                } else {
                    write!(f, ".")?;
                }
                write!(f, "\n`ctrace containers` lists all that are here; --wait waits for one to appear.")
            }
        }
    }
}

fn printable(text: &str) -> String {
    let cut = text.floor_char_boundary(256);
    let escape =
        |letter: char| if letter.is_control() { letter.escape_default().to_string() } else { letter.to_string() };
    text[..cut].chars().map(escape).collect::<String>() + if cut < text.len() { "…" } else { "" }
}

/// Finds by cgroup path (from its `/`), name, whole id, unit (with `.service` or without), namespace/pod/container,
/// namespace/pod, pod/container, pod, and the beginning of an id: the first of these that fits anything decides.
pub fn select<'a>(wanted: &str, entries: impl IntoIterator<Item = Entry<'a>>) -> Result<Selection, Unselected> {
    let entries: Vec<Entry<'a>> = entries.into_iter().collect();
    let single: [&dyn Fn(&Container) -> bool; 5] = [
        &|container| wanted.starts_with('/') && container.cgroup == wanted.trim_end_matches('/'),
        &|container| container.name.as_deref() == Some(wanted) || container.id == wanted,
        &|container| {
            container.runtime == Some(Runtime::Systemd) && container.id.strip_suffix(".service") == Some(wanted)
        },
        &|container| {
            container.pod.is_some()
                && (container.label() == wanted || pod_and_name(container) == Some(wanted.to_owned()))
        },
        &|container| {
            // Last, after the pods: see below.
            wanted.len() >= PREFIX_MIN && container.id.starts_with(wanted) && super::is_generated(&container.id)
        },
    ];
    let fitting = |fits: &dyn Fn(&Container) -> bool| -> Vec<Arc<Container>> {
        entries.iter().map(|entry| entry.container).filter(|container| fits(container)).cloned().collect()
    };
    for fits in &single[..4] {
        match fitting(fits).as_slice() {
            [] => {}
            [one] => return Ok(Selection::One(one.clone())),
            several => return Err(ambiguous(wanted, several)),
        }
    }
    let of_pod = fitting(&|container| {
        container.pod.as_deref() == Some(wanted) || pod_path(container) == Some(wanted.to_owned())
    });
    if let Some(first) = of_pod.first() {
        if of_pod.iter().any(|other| other.namespace != first.namespace) {
            return Err(ambiguous(wanted, &of_pod));
        }
        let sandbox = |container: &Container| {
            let own = entries.iter().find(|entry| entry.container.cgroup == container.cgroup);
            own.and_then(|entry| entry.facts).is_some_and(|facts| facts.sandbox)
        };
        let (pause, mut containers): (Vec<_>, Vec<_>) = of_pod.into_iter().partition(|container| sandbox(container));
        if containers.is_empty() {
            containers = pause;
        }
        containers.sort_by(|one, other| one.cgroup.cmp(&other.cgroup));
        return Ok(Selection::Pod(containers));
    }
    match fitting(single[4]).as_slice() {
        [] => Err(Unselected::Unknown { wanted: wanted.to_owned(), nearest: nearest(wanted, &entries) }),
        [one] => Ok(Selection::One(one.clone())),
        several => Err(ambiguous(wanted, several)),
    }
}

/// Does the text name this container, or its pod, in whole words? (Not by the beginning of its id: that names one
/// container, not all of a name.)
pub fn is_called(wanted: &str, container: &Container) -> bool {
    (wanted.starts_with('/') && container.cgroup == wanted.trim_end_matches('/'))
        || container.name.as_deref() == Some(wanted)
        || container.id == wanted
        || (container.runtime == Some(Runtime::Systemd) && container.id.strip_suffix(".service") == Some(wanted))
        || (container.pod.is_some()
            && (container.label() == wanted
                || container.pod.as_deref() == Some(wanted)
                || pod_path(container).as_deref() == Some(wanted)
                || pod_and_name(container).as_deref() == Some(wanted)))
}

fn pod_path(container: &Container) -> Option<String> {
    Some(format!("{}/{}", container.namespace.as_ref()?, container.pod.as_ref()?))
}

fn pod_and_name(container: &Container) -> Option<String> {
    Some(format!("{}/{}", container.pod.as_ref()?, container.name.as_ref()?))
}

/// Each with its id, for the names are alike.
fn ambiguous(wanted: &str, several: &[Arc<Container>]) -> Unselected {
    let describe = |container: &Arc<Container>| {
        let id: String = container.id.chars().take(12).collect();
        let runtime = container.runtime.map_or_else(String::new, |runtime| format!(" ({runtime})"));
        let own = if super::is_generated(&container.id) { id } else { container.cgroup.clone() };
        format!("{own}  {}{runtime}", container.label())
    };
    let mut candidates: Vec<String> = several.iter().map(describe).collect();
    candidates.sort();
    Unselected::Ambiguous { wanted: wanted.to_owned(), candidates }
}

fn nearest(wanted: &str, entries: &[Entry<'_>]) -> Vec<String> {
    // Edit distance costs the product of the lengths.
    let short = |text: &str| text[..text.floor_char_boundary(128)].to_lowercase();
    let wanted = short(wanted);
    let mut ranked: Vec<(f64, String)> = Vec::new();
    for container in entries.iter().map(|entry| entry.container) {
        let unit = container.id.strip_suffix(".service").map(str::to_owned);
        let names = [container.name.clone(), container.pod.clone(), pod_path(container), unit, Some(container.label())];
        for name in names.into_iter().flatten() {
            let text = short(&name);
            let alike = strsim::normalized_damerau_levenshtein(&wanted, &text);
            let part = wanted.len() >= PREFIX_MIN && text.contains(&wanted);
            if (alike >= 0.5 || part) && !ranked.iter().any(|(_, other)| *other == name) {
                ranked.push((alike + f64::from(u8::from(part)), name));
            }
        }
    }
    ranked.sort_by(|(one, a), (other, b)| other.total_cmp(one).then_with(|| a.cmp(b)));
    ranked.into_iter().map(|(_, name)| name).take(3).collect()
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
