//! `ctrace oom`: for each rule kills that it must tell, and near misses on which it must stay silent.

mod group;
mod init;
mod own;
mod parent;
mod past;
mod victims;

use crate::{
    harness::Test,
    support::{cgroups::Tree, ctrace::Ctrace, player::Player},
};

pub static TESTS: &[&[Test]] = &[own::TESTS, parent::TESTS, group::TESTS, init::TESTS, victims::TESTS, past::TESTS];

/// A kill that comes after a near miss: once ctrace tells it, it has seen all that came before.
fn sentinel(ctrace: &Ctrace, tree: &Tree) {
    let sentinel = tree.container().limited(8);
    let mut hog = Player::within(&sentinel, &["anon"]);
    hog.ended();
    ctrace.finding("oom.container-limit", &sentinel);
}
