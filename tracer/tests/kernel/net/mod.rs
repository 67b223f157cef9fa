//! `ctrace net`: packets hop by hop, a fault at each hop in turn, and what must be none.

mod busy;
mod counts;
mod dns;
mod flow;
mod neighbours;
mod netem;
mod path;
mod places;
pub mod street;
mod tcp;

use crate::harness::Test;

pub static TESTS: &[&[Test]] = &[
    path::TESTS[0],
    counts::TESTS,
    neighbours::TESTS,
    places::TESTS,
    busy::TESTS,
    tcp::TESTS,
    dns::TESTS,
    flow::TESTS,
    netem::TESTS,
];
