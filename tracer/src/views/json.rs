//! One object a line, as documented in docs/json.md and checked against docs/json.schema.json by `tests/json_schema.rs`.

use serde::Serialize;

use crate::pipeline::Output;

/// The contract's version.
pub const VERSION: u32 = 1;

#[derive(Serialize)]
struct Line<'a, T: Serialize> {
    v: u32,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(flatten)]
    body: &'a T,
}

/// The line for an output, without its newline; `None` for what is no output to users.
pub fn line(output: &Output) -> Option<String> {
    match output {
        Output::Finding(finding) => Some(render("finding", finding)),
        Output::Event(event) => Some(render("event", event)),
        Output::Sample(sample) => Some(render("sample", sample)),
        Output::Note(note) => Some(render("note", note)),
        Output::Loss(loss) => Some(render("loss", loss)),
        Output::Caps(report) => Some(render("caps", report)),
        Output::CapsSoFar(_) | Output::Ask(_) => None,
    }
}

fn render<T: Serialize>(kind: &str, body: &T) -> String {
    // Keys are strings and numbers finite: there is nothing that could fail.
    serde_json::to_string(&Line { v: VERSION, kind, body }).unwrap_or_default()
}
