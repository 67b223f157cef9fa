//! The host's files, as far as the pipeline asks for them: cgroups, engines, what runtimes say of containers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tracer_common::signal::{Fold, FoldKey};

use super::{ancestry, caps, cpu, io, mem, namespace, net, pids};
use crate::{
    containers::{self, Engines, Facts, Files, Hierarchy, HostFiles, Known, Seen, Table},
    findings::oom::HungReading,
    history::counters,
    kernel::{load::Kernel, symbols::Symbols},
    model::Container,
    pipeline::{Answer, Question},
};

pub struct Host {
    files: HostFiles,
    pub hierarchy: Hierarchy,
    engines: Engines,
    /// No engines are looked for before this.
    next_survey: Instant,
    pids: pids::Reader,
    io: io::Reader,
    pub cpu: cpu::Reader,
    net: net::Reader,
    /// Opened with all privileges, which decide what it shows.
    symbols: Symbols,
    #[cfg(feature = "sockets")]
    sockets: super::sockets::Sockets,
    /// Sentences for a person about what could not be read.
    pub doubts: Vec<String>,
}

/// What every reading stands on; found before anything is said to be ready.
pub struct Ground {
    files: HostFiles,
    hierarchy: Hierarchy,
    mountinfo: String,
    doubts: Vec<String>,
}

impl Ground {
    /// # Errors
    /// No cgroup hierarchy is mounted.
    pub fn find() -> Result<Self> {
        let doubts = namespace::become_the_hosts();
        let files = HostFiles::here();
        let mountinfo = files.mountinfo();
        let hierarchy = Hierarchy::detect(&mountinfo)
            .context("no cgroup hierarchy is mounted here (looked in mountinfo): mount /sys/fs/cgroup, or run ctrace on the host")?;
        Ok(Self { files, hierarchy, mountinfo, doubts })
    }
}

impl Host {
    /// Looks around: which engines run, which containers have free-form ids.
    pub fn survey(ground: Ground) -> (Self, Known) {
        let Ground { files, hierarchy, mountinfo, doubts } = ground;
        let started = Instant::now();
        let (engines, known) = containers::survey(&files, &hierarchy);
        let (pids, io, cpu) =
            (pids::Reader::new(&mountinfo), io::Reader::new(&mountinfo), cpu::Reader::new(&mountinfo));
        let host = Self {
            files,
            hierarchy,
            engines,
            next_survey: pause_after(started),
            pids,
            io,
            cpu,
            net: net::Reader::default(),
            symbols: Symbols::open(),
            #[cfg(feature = "sockets")]
            sockets: super::sockets::Sockets::default(),
            doubts,
        };
        (host, known)
    }

    /// Every cgroup that exists.
    pub fn cgroups(&mut self) -> Vec<Seen> {
        let (seen, doubts) = containers::walk(&self.files, &self.hierarchy);
        self.doubts.extend(doubts);
        seen
    }

    /// What the runtime's files say of a container; where they don't name it, its engine (feature `sockets`).
    pub fn facts(&mut self, container: &Container) -> Facts {
        let mut facts = containers::read_facts(&self.files, &self.engines, &self.hierarchy, container);
        if facts.name.is_none() && container.ancestors.is_empty() && Instant::now() >= self.next_survey {
            // Its engine may be younger than the last look at them.
            self.look_for_engines();
            facts = containers::read_facts(&self.files, &self.engines, &self.hierarchy, container);
        }
        #[cfg(feature = "sockets")]
        self.sockets.complete(&mut facts, &self.files, &self.engines, &self.hierarchy, container);
        facts
    }

    /// Containers with free-form ids, as they stand now.
    pub fn known(&mut self) -> Known {
        self.look_for_engines()
    }

    fn look_for_engines(&mut self) -> Known {
        let started = Instant::now();
        let (engines, known) = containers::survey(&self.files, &self.hierarchy);
        self.engines = engines;
        self.next_survey = pause_after(started);
        known
    }

    /// # Errors
    /// A map of the kernel side could not be read. What files do not tell is in the answer.
    pub fn answer(&mut self, question: &Question, kernel: &mut Kernel, table: &Table) -> Result<Answer> {
        Ok(match question {
            Question::Facts(id, container) => Answer::Facts(*id, Box::new(self.facts(container))),
            Question::Ancestry(pid) => Answer::Ancestry(*pid, ancestry::read(&self.files, &self.hierarchy, *pid)),
            Question::SignalTotals(kinds) => Answer::SignalTotals(signal_totals(kinds, kernel)?),
            Question::Pids(ask) => {
                Answer::Pids(Box::new(self.pids.answer(ask, &self.files, &self.hierarchy, kernel)?))
            }
            Question::Mem(ask) => Answer::Mem(Box::new(mem::read(ask, &self.files, &self.hierarchy, kernel)?)),
            Question::Io(ask) => Answer::Io(Box::new(self.io.answer(ask, &self.files, &self.hierarchy, kernel)?)),
            Question::Cpu(ask) => {
                Answer::Cpu(Box::new(self.cpu.answer(ask, &self.files, &self.hierarchy, kernel, &self.symbols)?))
            }
            Question::Net(ask) => {
                Answer::Net(Box::new(self.net.answer(ask, &self.files, &self.hierarchy, &self.symbols, kernel)?))
            }
            Question::OomControl(cgroups) => {
                Answer::OomControl(cgroups.iter().map(|cgroup| self.oom_control(cgroup)).collect())
            }
            Question::Caps(ask) => Answer::Caps(Box::new(caps::answer(ask, &self.symbols, table, self, kernel)?)),
            Question::Identity(..) => {
                // A path that says nothing may be a new container of a runtime without an engine: its state is on disk.
                Answer::Identity(self.look_for_engines().into_iter().collect())
            }
        })
    }

    fn oom_control(&self, cgroup: &Arc<str>) -> HungReading {
        let directory = self.hierarchy.directory(cgroup);
        let text = |file: &str| {
            let content = self.files.read(&format!("{directory}/{file}")).ok()?;
            Some(String::from_utf8_lossy(&content.bytes).into_owned())
        };
        let control = text("memory.oom_control").map(|text| counters::parse_oom_control(&text));
        let number = |file: &str| control.filter(|control| control.under_oom).and(text(file)?.trim().parse().ok());
        HungReading {
            cgroup: Arc::clone(cgroup),
            control,
            limit_bytes: number("memory.limit_in_bytes"),
            usage_bytes: number("memory.usage_in_bytes"),
        }
    }

    /// The processes in a cgroup.
    pub fn pids(&self, cgroup: &str) -> Vec<u32> {
        let file = format!("{}/cgroup.procs", self.hierarchy.directory(cgroup));
        let content = self.files.read(&file).map(|content| content.bytes).unwrap_or_default();
        String::from_utf8_lossy(&content).lines().filter_map(|line| line.parse().ok()).collect()
    }

    pub fn files(&self) -> &HostFiles {
        &self.files
    }

    pub fn engines(&self) -> &Engines {
        &self.engines
    }
}

/// All of /proc is read to find engines: at most a twentieth of the time goes into it.
fn pause_after(started: Instant) -> Instant {
    Instant::now() + (started.elapsed() * 19).max(Duration::from_millis(100))
}

/// How many signals of each kind there were; a kind that the kernel side has forgotten is left out.
fn signal_totals(kinds: &[FoldKey], kernel: &Kernel) -> Result<Vec<(FoldKey, u64)>> {
    let mut totals = Vec::new();
    for kind in kinds {
        totals.extend(kernel.entry::<FoldKey, Fold>("FOLDS", *kind)?.map(|fold| (*kind, fold.total)));
    }
    Ok(totals)
}
