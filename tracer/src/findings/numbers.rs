//! The numbers of a row or a finding: each null with its reason beside it.

use serde_json::{Map, Value};

use crate::model::Unknown;

#[derive(Debug, Default)]
pub struct Numbers {
    pub values: Map<String, Value>,
    pub unknown: Unknown,
}

impl Numbers {
    /// A number, or null and why.
    pub fn put<T: Into<Value>>(&mut self, key: &'static str, value: Option<T>, why: &str) {
        if value.is_none() {
            self.unknown.insert(key, why.to_owned());
        }
        self.values.insert(key.to_owned(), value.map_or(Value::Null, Into::into));
    }

    /// What is known for sure.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.values.insert(key.to_owned(), value.into());
    }
}
