//! What ctrace is made of: licences, sources and known holes of its dependencies.

use anyhow::Result;

use super::{tally::Tally, tier::Log};
use crate::{cargo::cargo, setup::Tool};

pub const CARGO_DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2" };

pub fn deny(log: &mut Log) -> Result<Option<Tally>> {
    CARGO_DENY.ensure()?;
    let deny = |check: &[&str]| {
        let mut deny = cargo();
        deny.args(["deny", "--log-level", "error", "check", "--hide-inclusion-graph"]).args(check);
        deny
    };
    log.expect(&mut deny(&["licenses", "bans", "sources"]))?;
    let before = log.text().len();
    if !log.run(&mut deny(&["advisories"]))? {
        if !log.text()[before..].contains("failed to fetch advisory database") {
            anyhow::bail!("a dependency has a known hole");
        }
        println!("   advisories left out: their database cannot be fetched here");
    }
    Ok(None)
}
