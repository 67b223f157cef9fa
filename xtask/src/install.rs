//! Puts ctrace where `sudo ctrace` finds it.

use std::{path::PathBuf, process::Command, process::ExitCode};

use anyhow::Result;

use crate::{build, process};

#[derive(clap::Args)]
pub struct Args {
    /// ctrace goes to PREFIX/bin
    #[arg(long, default_value = "/usr/local")]
    prefix: PathBuf,
}

pub fn install(args: &Args) -> Result<ExitCode> {
    let binary = build::ctrace("release", &[], build::Output::Little)?;
    let bin = std::path::absolute(&args.prefix)?.join("bin");
    let place = |mut install: Command| process::output(install.args(["-D", "-m", "755", "-t"]).arg(&bin).arg(&binary));
    if process::is_root() || place(Command::new("install")).is_err() {
        place(process::as_root("install"))?;
    }
    eprintln!("{}", bin.join("ctrace").display());
    if !secure_path().contains(&bin) {
        eprintln!("sudo may not look there: call it by its path, sudo {}", bin.join("ctrace").display());
    }
    Ok(ExitCode::SUCCESS)
}

/// sudo's usual `secure_path`.
fn secure_path() -> [PathBuf; 6] {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from)
}
