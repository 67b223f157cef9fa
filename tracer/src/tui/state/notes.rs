//! What ctrace said besides findings: a few, the newest kept. Losses of one kind are one line, with their sum.

use std::collections::VecDeque;

use crate::{model::Timestamp, pipeline::LossNote};

const KEPT: usize = 200;

#[derive(Clone, Debug)]
pub struct Said {
    pub time: Timestamp,
    /// Not escaped.
    pub text: String,
    pub is_loss: bool,
    /// Of a loss: what it was, and how many by now.
    loss: Option<(String, u64)>,
}

#[derive(Debug, Default)]
pub struct Notes {
    said: VecDeque<Said>,
}

impl Notes {
    /// Newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Said> {
        self.said.iter().rev()
    }

    pub(super) fn say(&mut self, time: Timestamp, text: String) {
        self.push(Said { time, text, is_loss: false, loss: None });
    }

    /// A loss that goes on is told every second: it stays one line.
    pub(super) fn lost(&mut self, loss: &LossNote) {
        let whose = match (&loss.container, &loss.cgroup) {
            (Some(container), _) => container.label(),
            (None, Some(cgroup)) => format!("host {cgroup}"),
            (None, None) => "cgroups that could not be told apart".to_owned(),
        };
        let what = format!("{} of {whose}: {}", loss.event, loss.cause);
        let same = self.said.iter().position(|said| said.loss.as_ref().is_some_and(|(other, _)| *other == what));
        let before = same.and_then(|at| self.said.remove(at)).and_then(|said| said.loss).map_or(0, |(_, count)| count);
        let count = before.saturating_add(loss.count);
        self.push(Said {
            time: loss.time,
            text: format!("lost {count} × {what}"),
            is_loss: true,
            loss: Some((what, count)),
        });
    }

    fn push(&mut self, said: Said) {
        if self.said.len() == KEPT {
            self.said.pop_front();
        }
        self.said.push_back(said);
    }
}
