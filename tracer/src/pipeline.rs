//! The one path of data: records in, what ctrace says out. Live and replay both drive this; nothing here knows which.
//!
//! Sans-IO: what has to be read from files is asked for ([`Output::Ask`]) and comes back as an [`Answer`], a record
//! like any other, so that a recording replays it.

mod late;

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tracer_common::signal::FoldKey;

use self::late::{Due, Late};
use crate::{
    containers::{Born, Facts, KnownContainer, Seen, Table, Want},
    events::{self, Event, known64, text},
    findings::{HostFacts, World, caps, cpu, io, mem, net, oom::HungReading, pids},
    kernel::load::{Loss, LossCause},
    lenses::Lens,
    model::{
        Container, Finding, Owner, Process, Timestamp, Unknown,
        recorded::{self, Name},
    },
};

/// Something that enters.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// As it came out of the ring.
    Kernel(#[serde(with = "recorded::binary")] Bytes),
    /// What a walk of the hierarchy found.
    Cgroups(Vec<Seen>),
    Answer(Answer),
    Loss(Loss),
    /// To add to a record's time to get wall-clock time, ns.
    Clock(i64),
    /// Something that was known before the kernel side was attached.
    Before(Box<Finding>),
}

/// What was read because it was asked for. The first two are the pipeline's own; the rest go to the lenses.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The runtime's files about the container with this cgroup.
    Facts(u64, Box<Facts>),
    /// What runtimes' state on disk says of cgroups whose path says nothing.
    Identity(Vec<KnownContainer>),
    /// The process and its parents up to PID 1, nearest first, and the engine behind a runtime's shim.
    Ancestry(u32, Vec<Ancestor>),
    SignalTotals(Vec<(FoldKey, u64)>),
    /// Counts, limits and who is dead.
    Pids(Box<pids::Reading>),
    /// The memory cgroups, and stalls in the kernel.
    Mem(Box<mem::Reading>),
    /// Pauses, requests, limits; where a file is.
    Io(Box<io::Reading>),
    /// Use of the CPUs, and who is blocked.
    Cpu(Box<cpu::Reading>),
    /// Packets, hop by hop.
    Net(Box<net::Reading>),
    OomControl(Vec<HungReading>),
    /// What is watched, its sets, what was counted.
    Caps(Box<caps::Reading>),
}

/// One process on the way from a process to PID 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    pub process: Process,
    /// In the hierarchy that carries the key; `None` where it was gone before that was read.
    pub cgroup: Option<String>,
}

/// Something to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    Facts(u64, Arc<Container>),
    Identity(u64, Arc<str>),
    /// Of the process with this pid.
    Ancestry(u32),
    /// How many there were by now.
    SignalTotals(Vec<FoldKey>),
    Pids(pids::Ask),
    Mem(mem::Ask),
    Io(io::Ask),
    Cpu(cpu::Ask),
    Net(net::Ask),
    /// Of these v1 cgroups.
    OomControl(Vec<Arc<str>>),
    Caps(caps::Ask),
}

/// Something that leaves.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    Finding(Box<Finding>),
    /// A row of a lens: an exit, a signal.
    Event(Box<EventRow>),
    /// A number that was taken at a time.
    Sample(Box<SampleRow>),
    Note(Note),
    Loss(LossNote),
    /// What a container needs of its capabilities: at the end.
    Caps(Box<caps::Report>),
    /// The same while it is watched, for a screen.
    CapsSoFar(Box<caps::Report>),
    Ask(Question),
}

/// One event as a user sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EventRow {
    pub time: Timestamp,
    /// `exit`, `signal`.
    pub event: &'static str,
    /// Of the process that it happened to.
    pub container: Owner,
    /// Its cgroup, for filters and for processes of the host.
    pub cgroup: Option<String>,
    pub process: Option<Process>,
    #[serde(flatten)]
    pub fields: Map<String, Value>,
    #[serde(skip_serializing_if = "Unknown::is_empty")]
    pub unknown: Unknown,
}

/// Numbers of one container at one time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SampleRow {
    pub time: Timestamp,
    /// The lens that took it.
    pub sample: &'static str,
    pub container: Owner,
    pub cgroup: Option<String>,
    #[serde(flatten)]
    pub fields: Map<String, Value>,
    #[serde(skip_serializing_if = "Unknown::is_empty")]
    pub unknown: Unknown,
}

/// Something worth a line that is no finding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    pub time: Timestamp,
    #[serde(deserialize_with = "recorded::name")]
    pub code: Name,
    /// For a person; not escaped.
    pub text: String,
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

/// Records that were lost, since the last time that was said.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LossNote {
    pub time: Timestamp,
    pub event: &'static str,
    pub container: Owner,
    /// `None`: cgroups beyond those that can be counted one by one.
    pub cgroup: Option<String>,
    pub count: u64,
    /// `ring full`, or `the cgroup's share of the ring`; of what is summed in the kernel which table had no room.
    pub cause: &'static str,
}

/// Lenses that stand on the same rule come to the same finding, of the same record: it is told once.
fn told_once(out: &mut Vec<Output>, from: usize) {
    let mut at = from;
    while at < out.len() {
        if matches!(out[at], Output::Finding(_)) && out[from..at].contains(&out[at]) {
            out.remove(at);
        } else {
            at += 1;
        }
    }
}

/// Containers, lenses and the clock.
pub struct Pipeline {
    pub containers: Table,
    host: HostFacts,
    boot_to_wall_ns: i64,
    lenses: Vec<Box<dyn Lens>>,
    late: Late,
    /// Records that could not be decoded.
    pub undecodable: u64,
    pub records: u64,
}

impl Pipeline {
    pub fn new(containers: Table, host: HostFacts, boot_to_wall_ns: i64, lenses: Vec<Box<dyn Lens>>) -> Self {
        Self { containers, host, boot_to_wall_ns, lenses, late: Late::default(), undecodable: 0, records: 0 }
    }

    /// Takes one record in. `now_ns` is the records' clock (`CLOCK_BOOTTIME`).
    pub fn record(&mut self, record: Record, now_ns: u64, out: &mut Vec<Output>) {
        match record {
            Record::Kernel(bytes) => self.kernel(&bytes, out),
            Record::Cgroups(seen) => {
                self.containers.seed(seen, now_ns);
                out.extend(
                    self.containers
                        .nameless()
                        .into_iter()
                        .map(|(id, container)| Output::Ask(Question::Facts(id, container))),
                );
            }
            Record::Answer(Answer::Facts(id, facts)) => {
                let before = self.containers.owner(id).map(|container| container.label());
                // Nothing was shown of a new container before its files were looked at for the first time.
                let late = self.late.was_shown(id);
                let nameless = facts.name.is_none();
                let changed = self.containers.named(id, *facts);
                if nameless {
                    self.late.nameless(id, now_ns);
                } else {
                    self.late.settled(id);
                }
                if changed
                    && late
                    && let Some(container) = self.containers.owner(id)
                    && Some(container.label()) != before
                {
                    let mut fields = Map::new();
                    fields.insert("container".to_owned(), serde_json::to_value(&container).unwrap_or_default());
                    let text = format!("{} is {}", container.cgroup, container.label());
                    out.push(Output::Note(Note { time: self.world(now_ns).at(now_ns), code: "named", text, fields }));
                }
            }
            Record::Answer(Answer::Identity(known)) => {
                for container in known {
                    let id = self.containers.id_of_path(&container.cgroup);
                    if self.containers.learn(container)
                        && let Some(id) = id
                    {
                        self.late.shown(id); // as something else, until now
                    }
                }
                out.extend(
                    self.containers
                        .nameless()
                        .into_iter()
                        .map(|(id, container)| Output::Ask(Question::Facts(id, container))),
                );
            }
            Record::Answer(answer) => {
                let world = World {
                    containers: &self.containers,
                    host: &self.host,
                    boot_to_wall_ns: self.boot_to_wall_ns,
                    now_ns,
                };
                for lens in &mut self.lenses {
                    lens.answer(&answer, now_ns, &world, out);
                }
            }
            Record::Loss(loss) => out.push(Output::Loss(self.loss(&loss, now_ns))),
            Record::Clock(offset) => self.boot_to_wall_ns = offset,
            Record::Before(finding) => out.push(Output::Finding(finding)),
        }
    }

    /// Lets time pass: what is ripe is said.
    pub fn tick(&mut self, now_ns: u64, out: &mut Vec<Output>) {
        self.containers.expire(now_ns);
        self.look_again(now_ns, out);
        let world =
            World { containers: &self.containers, host: &self.host, boot_to_wall_ns: self.boot_to_wall_ns, now_ns };
        let from = out.len();
        for lens in &mut self.lenses {
            lens.tick(now_ns, &world, out);
        }
        told_once(out, from);
    }

    /// When the next thing is due, by the records' clock.
    pub fn next_ns(&self) -> Option<u64> {
        self.lenses.iter().filter_map(|lens| lens.next_ns()).chain(self.late.next_ns()).min()
    }

    /// What runtimes may have written by now.
    fn look_again(&mut self, now_ns: u64, out: &mut Vec<Output>) {
        for due in self.late.due(now_ns) {
            match due {
                Due::Survey(id, path) => out.push(Output::Ask(Question::Identity(id, path))),
                Due::Facts(id) => {
                    let container = self.containers.owner(id);
                    out.extend(container.map(|container| Output::Ask(Question::Facts(id, container))));
                }
            }
        }
    }

    /// No more will come: the lenses say what they have, as if time passed, and ask for what they kept for the end.
    pub fn finish(&mut self, now_ns: u64, out: &mut Vec<Output>) {
        let from = out.len();
        while let Some(due_ns) = self.lenses.iter().filter_map(|lens| lens.next_ns()).min() {
            let world = World {
                containers: &self.containers,
                host: &self.host,
                boot_to_wall_ns: self.boot_to_wall_ns,
                now_ns: due_ns,
            };
            for lens in &mut self.lenses {
                lens.tick(due_ns, &world, out);
            }
        }
        let world =
            World { containers: &self.containers, host: &self.host, boot_to_wall_ns: self.boot_to_wall_ns, now_ns };
        for lens in &mut self.lenses {
            lens.finish(now_ns, &world, out);
        }
        told_once(out, from);
    }

    /// What a recording that begins now must be told besides what is here.
    pub fn so_far(&self) -> impl Iterator<Item = Answer> {
        self.lenses.iter().filter_map(|lens| lens.so_far())
    }

    pub fn boot_to_wall_ns(&self) -> i64 {
        self.boot_to_wall_ns
    }

    pub fn world(&self, now_ns: u64) -> World<'_> {
        World { containers: &self.containers, host: &self.host, boot_to_wall_ns: self.boot_to_wall_ns, now_ns }
    }

    fn kernel(&mut self, bytes: &Bytes, out: &mut Vec<Output>) {
        self.records += 1;
        let Ok(event) = events::decode(bytes) else {
            self.undecodable += 1;
            return;
        };
        let now_ns = event.header().time_ns;
        // What is due before this happened is said first: the order is that of the records, live and replayed.
        if self.next_ns().is_some_and(|due| due <= now_ns) {
            self.tick(now_ns, out);
        }
        match &event {
            Event::CgroupMkdir(mkdir) => {
                let name = text(&mkdir.name);
                let parent_name = text(&mkdir.parent_name);
                // One level below the root the parent's name is empty, and the path is whole.
                let path = if mkdir.level <= 1 { format!("/{name}") } else { format!("{parent_name}/{name}") };
                let born = Born {
                    id: mkdir.header.cgroup,
                    parent: known64(mkdir.parent),
                    path,
                    by: text(&mkdir.maker.comm),
                    by_pid: mkdir.maker.tgid,
                };
                match self.containers.mkdir(&born, now_ns) {
                    Want::Nothing => {}
                    Want::Facts(id, container) => {
                        self.late.expect(id);
                        out.push(Output::Ask(Question::Facts(id, container)));
                    }
                    Want::Identity(id, path) => {
                        self.late.unknown(id, path, now_ns);
                        self.look_again(now_ns, out);
                    }
                }
            }
            Event::CgroupRmdir(rmdir) => {
                self.late.settled(rmdir.header.cgroup);
                self.containers.rmdir(rmdir.header.cgroup, now_ns);
            }
            _ => {}
        }
        let world =
            World { containers: &self.containers, host: &self.host, boot_to_wall_ns: self.boot_to_wall_ns, now_ns };
        let from = out.len();
        for lens in &mut self.lenses {
            lens.event(&event, &world, out);
        }
        told_once(out, from);
    }

    fn loss(&self, loss: &Loss, now_ns: u64) -> LossNote {
        LossNote {
            time: self.world(now_ns).at(now_ns),
            event: loss.event,
            container: loss.cgroup.and_then(|cgroup| self.containers.owner(cgroup)),
            cgroup: loss.cgroup.and_then(|cgroup| self.containers.path(cgroup).map(ToString::to_string)),
            count: loss.count,
            cause: match loss.cause {
                LossCause::Full => "the ring was full",
                LossCause::Budget => "the cgroup's share of the ring was used up",
                LossCause::Skipped => "the kernel skipped the program, which was at work on that CPU already",
            },
        }
    }
}
