//! A text for the screen, before it has a width: what stands where, and what it means to the reader.

use std::borrow::Cow;

use crate::model::Severity;

/// How loud a piece of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Quiet,
    Strong,
    Of(Severity),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// The verdict: its symbol before it.
    Answer(Severity, String),
    /// A label and what it is.
    Row(Cow<'static, str>, String, Tone),
    /// Small numbers side by side: what each is, and its value.
    Numbers(&'static str, Vec<(String, String)>),
    /// A number, and its share of a whole as a bar.
    Bar {
        label: &'static str,
        value: String,
        share: Option<f64>,
    },
    Heading(String),
    /// Text that flows; an empty line parts paragraphs.
    Text(String),
    Blank,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Doc {
    pub items: Vec<Item>,
}

impl Doc {
    pub fn answer(&mut self, severity: Severity, text: &str) {
        self.items.push(Item::Answer(severity, text.to_owned()));
    }

    pub fn row(&mut self, label: impl Into<Cow<'static, str>>, text: impl Into<String>) {
        self.items.push(Item::Row(label.into(), text.into(), Tone::Plain));
    }

    pub fn quiet(&mut self, label: impl Into<Cow<'static, str>>, text: impl Into<String>) {
        self.items.push(Item::Row(label.into(), text.into(), Tone::Quiet));
    }

    pub fn heading(&mut self, text: &str) {
        self.items.push(Item::Heading(text.to_owned()));
    }

    pub fn blank(&mut self) {
        self.items.push(Item::Blank);
    }

    pub fn push(&mut self, item: Item) {
        self.items.push(item);
    }
}
