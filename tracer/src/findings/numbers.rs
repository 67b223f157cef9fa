//! The numbers of a row or a finding: each null with its reason beside it.

use std::borrow::Borrow;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::model::Unknown;

/// Of numbers from outside: where a recording is a forger's, the sum stays at the greatest there is.
pub fn total<N: Borrow<u64>>(numbers: impl IntoIterator<Item = N>) -> u64 {
    numbers.into_iter().fold(0, |sum, number| sum.saturating_add(*number.borrow()))
}

/// Likewise, one more.
pub fn grow(sum: &mut u64, by: u64) {
    *sum = sum.saturating_add(by);
}

#[derive(Debug, Default)]
pub struct Numbers {
    pub values: Map<String, Value>,
    pub unknown: Unknown,
}

impl Numbers {
    /// A number, or null and why.
    pub fn put(&mut self, key: &'static str, value: Option<impl Serialize>, why: &str) {
        if value.is_none() {
            self.unknown.insert(key, why.to_owned());
        }
        self.set(key, value);
    }

    /// What is known for sure.
    pub fn set(&mut self, key: &'static str, value: impl Serialize) {
        self.values.insert(key.to_owned(), json!(value));
    }
}
