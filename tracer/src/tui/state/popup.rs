//! What lies over the list: the top one gets the keys, Esc takes it away.

use super::history::Row;
use crate::model::Code;

#[derive(Debug)]
pub struct Popup {
    pub kind: Kind,
    /// The first line that is shown.
    pub scroll: usize,
}

#[derive(Debug)]
pub enum Kind {
    /// All about one finding. Its own copy: it stays while the list moves on and forgets.
    Page(Box<Row>),
    Explain(Code),
    /// What ctrace said besides findings.
    Notes,
    Help,
}

impl Popup {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, scroll: 0 }
    }
}
