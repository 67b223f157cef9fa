use serde::{Deserialize, Deserializer, Serialize, de::Error};
use serde_json::{Map, Value};

use super::{Owner, Process, Timestamp, Unknown, recorded};
use crate::findings;

/// The numbers behind a finding: key (with its unit) to value, in the order to show. Null where unknown.
pub type Evidence = Map<String, Value>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Critical,
    Warning,
    Info,
}

/// Where a state finding stands. Point findings have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Open,
    Update,
    Closed,
}

/// What ctrace says: one verdict about one container, with its numbers, its reason and its cure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    pub code: Code,
    pub severity: Severity,
    /// Unique within a run; others refer to it.
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    pub time: Timestamp,
    pub container: Owner,
    pub process: Option<Process>,
    /// One line, with the decisive number. Not escaped.
    pub summary: String,
    pub evidence: Evidence,
    pub why: String,
    pub fix: Vec<String>,
    pub refers_to: Option<String>,
    #[serde(default, skip_serializing_if = "Unknown::is_empty", deserialize_with = "recorded::unknown")]
    pub unknown: Unknown,
}

/// The codes of findings: a contract with users. Add, never rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub &'static str);

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let code = String::deserialize(from)?;
        let known = findings::all().find(|known| known.code.0 == code);
        known.map(|known| known.code).ok_or_else(|| D::Error::custom("a code that this ctrace does not know"))
    }
}
