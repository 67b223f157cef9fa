//! `ctrace net`.

mod tcp;

use crate::harness::Test;

pub static TESTS: &[&[Test]] = &[tcp::TESTS];
