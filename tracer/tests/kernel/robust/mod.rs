//! Bad input, bad places, and how a run begins and ends.

pub mod doctor;
mod ends;
mod privileges;
mod refusals;

use crate::harness::Test;

pub static TESTS: &[&[Test]] = &[refusals::TESTS, ends::TESTS, privileges::TESTS, doctor::TESTS];
