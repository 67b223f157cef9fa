//! `ctrace net`: packets hop by hop, a fault at each hop in turn, and what must be none.

mod path;
mod street;

use crate::harness::Test;

pub static TESTS: &[&[Test]] = path::TESTS;
