//! `ctrace net`: packets hop by hop, a fault at each hop in turn, and what must be none.

mod dns;
mod flow;
mod netem;
mod path;
pub mod street;
mod tcp;

use crate::harness::Test;

pub static TESTS: &[&[Test]] = &[path::TESTS[0], tcp::TESTS, dns::TESTS, flow::TESTS, netem::TESTS];
