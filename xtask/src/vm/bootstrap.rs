//! A Debian in a folder, made by mmdebstrap from the machine's own mirror: nothing of the machine changes.

use std::path::Path;

use anyhow::Result;

use crate::{apt, process};

const SUITE: &str = "bookworm";

/// `packages` between commas; `hooks` run outside of the new root, which is their `$1`.
pub fn bootstrap(packages: &str, hooks: &[&str], root: &Path) -> Result<()> {
    let tools = [("mmdebstrap", "mmdebstrap"), ("arch-test", "arch-test")];
    let missing: Vec<_> =
        tools.iter().filter(|(tool, _)| process::find(tool).is_none()).map(|(_, name)| *name).collect();
    apt::install(&missing)?;
    process::output(process::as_root("rm").arg("-rf").arg(root))?;
    let mut bootstrap = process::as_root("mmdebstrap");
    bootstrap.args(["--quiet", "--variant=minbase", "--mode=root", "--components=main"]);
    bootstrap.arg(format!("--include={packages}")).arg("--aptopt=Acquire::Languages \"none\"");
    bootstrap.args(["doc", "man", "locale"].map(|folder| format!("--dpkgopt=path-exclude=/usr/share/{folder}/*")));
    bootstrap.args(hooks.iter().map(|hook| format!("--customize-hook={hook}")));
    bootstrap.arg(SUITE).arg(root).arg(apt::debian_source()?.uri);
    process::output(&mut bootstrap).map(|_| ())
}
