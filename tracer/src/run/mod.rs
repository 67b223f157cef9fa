//! A run, from where records enter to what is shown: one way, and everything that goes it can be recorded. Live feeds it
//! from the kernel and from files, replay from a recording; nothing in here knows which.

pub mod filter;
pub mod view;

use std::sync::Arc;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Map;

use self::{
    filter::{Asked, Filter},
    view::View,
};
use crate::{
    model::Container,
    pipeline::{Answer, Note, Output, Pipeline, Record},
    recording::{Kept, Recorder, Since},
};

/// Something that enters a run, at a time of the records' clock. The order is all that matters: the same entries give the
/// same outputs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    Record(Record),
    /// Time passes.
    Tick,
    /// Said by the run itself: ready, doubts.
    Said(Note),
    /// What was here at the start has been looked at: it is no news.
    Surveyed,
    /// Containers that are meant are looked for.
    Look,
    /// What came out until now is shown.
    Shown,
    /// No more will happen: what was kept for the end is said.
    Finish,
    /// The recording is whole.
    End,
}

pub struct Run {
    pub pipeline: Pipeline,
    pub view: View,
    /// Came out, and was not shown yet.
    pub out: Vec<Output>,
    asked: Asked,
    /// From [`Entry::Surveyed`] on.
    filter: Filter,
    pub recorder: Option<Recorder>,
    /// What entered of late, where somebody may want to keep it afterwards.
    pub kept: Option<Kept>,
    pub lost: u64,
    /// What comes out is not shown: a replay is on its way to where it was asked to begin.
    pub muted: bool,
}

impl Run {
    pub fn new(pipeline: Pipeline, view: View, asked: Asked, recorder: Option<Recorder>) -> Self {
        Self {
            pipeline,
            view,
            out: Vec::new(),
            asked,
            filter: Filter::default(),
            recorder,
            kept: None,
            lost: 0,
            muted: false,
        }
    }

    /// The one place where anything enters.
    ///
    /// # Errors
    /// No container is called as was asked for, or several are; the output cannot be written.
    pub fn enter(&mut self, entry: Entry, now_ns: u64) -> Result<()> {
        match entry {
            Entry::Record(record) => self.record(record, now_ns),
            Entry::Look => drop(self.look(now_ns)?),
            other => {
                self.tap(&other, now_ns);
                match other {
                    Entry::Tick => self.pipeline.tick(now_ns, &mut self.out),
                    Entry::Said(note) => self.out.push(Output::Note(note)),
                    Entry::Surveyed => self.surveyed(now_ns)?,
                    Entry::Shown => self.show(now_ns)?,
                    Entry::Finish => self.pipeline.finish(now_ns, &mut self.out),
                    Entry::Record(_) | Entry::Look | Entry::End => {}
                }
            }
        }
        Ok(())
    }

    pub fn record(&mut self, record: Record, now_ns: u64) {
        let entry = Entry::Record(record);
        self.tap(&entry, now_ns);
        let Entry::Record(record) = entry else { return };
        if let Record::Loss(loss) = &record {
            self.lost = self.lost.saturating_add(loss.count);
        }
        self.pipeline.record(record, now_ns, &mut self.out);
    }

    /// Containers that are meant and that were not here before: said before what happened in them.
    ///
    /// # Errors
    /// Several came at once where one was waited for.
    pub fn look(&mut self, now_ns: u64) -> Result<Vec<Arc<Container>>> {
        self.tap(&Entry::Look, now_ns);
        self.found(now_ns)
    }

    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    fn tap(&mut self, entry: &Entry, now_ns: u64) {
        if let Some(recorder) = &mut self.recorder {
            recorder.enter(entry, now_ns);
        }
        if let Some(kept) = &mut self.kept {
            kept.enter(entry, now_ns);
        }
    }

    /// Lets what is kept begin anew from what is here now, where it is time for that. Nothing may be waiting to be shown.
    pub fn keep(&mut self, now_ns: u64) {
        let Some(kept) = self.kept.as_mut().filter(|kept| kept.is_due()) else { return };
        let containers = &self.pipeline.containers;
        let known = containers.known().cloned().collect();
        let boot_to_wall_ns = self.pipeline.boot_to_wall_ns();
        let told = self.view.tui().map_or(0, |tui| tui.told());
        let since = Since { at_ns: now_ns, boot_to_wall_ns, known, told, first: false };
        let facts = containers.containers().filter_map(|entry| {
            let answer = Answer::Facts(entry.cgroup_id, Box::new(entry.facts?.clone()));
            Some(Entry::Record(Record::Answer(answer)))
        });
        let cgroups = Entry::Record(Record::Cgroups(containers.seen()));
        let so_far = self.pipeline.so_far().map(|answer| Entry::Record(Record::Answer(answer)));
        kept.begin(since, std::iter::once(cgroups).chain(facts).chain(so_far).chain([Entry::Surveyed]));
    }

    fn surveyed(&mut self, now_ns: u64) -> Result<()> {
        self.out.clear();
        self.filter = Filter::new(&self.asked, &self.pipeline.containers)?;
        if let Some(wanted) = self.filter.awaits() {
            let text = format!("no container {wanted} here yet: waiting for it");
            self.out.push(Output::Note(self.note("waiting", text, now_ns)));
        }
        Ok(())
    }

    fn found(&mut self, now_ns: u64) -> Result<Vec<Arc<Container>>> {
        let new = self.filter.look(&self.pipeline.containers)?;
        for (at, container) in new.iter().enumerate() {
            let text = format!("here is {}: {}", container.label(), container.cgroup);
            let mut found = self.note("found", text, now_ns);
            found.fields.insert("container".to_owned(), serde_json::to_value(container).unwrap_or_default());
            self.out.insert(at, Output::Note(found));
        }
        Ok(new)
    }

    fn show(&mut self, now_ns: u64) -> Result<()> {
        self.found(now_ns)?;
        for output in self.out.drain(..) {
            if !self.muted && self.filter.wants(&output) {
                self.view.show(&output)?;
            }
        }
        self.view.flush()
    }

    fn note(&self, code: &'static str, text: String, now_ns: u64) -> Note {
        Note { time: self.pipeline.world(now_ns).at(now_ns), code, text, fields: Map::new() }
    }
}

#[cfg(test)]
mod kept_tests;
