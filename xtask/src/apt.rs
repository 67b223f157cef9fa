//! Debian packages: installed from the machine's own sources, or fetched from other suites without touching them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{debian, process};

/// Installs packages by name, says so, and refreshes the lists only if the first try fails.
pub fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    if process::find("apt-get").is_none() {
        bail!("this needs {}: install them by your system's package manager (apt isn't there)", packages.join(", "));
    }
    eprintln!("installing {}", packages.join(" "));
    let install = || {
        let mut apt = process::as_root("env");
        apt.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=300", "install"]);
        apt.args(["-qq", "-y", "--no-install-recommends"]).args(packages);
        process::output(&mut apt)
    };
    if install().is_err() {
        process::output(process::as_root("apt-get").args(["update", "-qq"])).context("is the network there?")?;
        install().with_context(|| format!("cannot install {}; try it by hand", packages.join(" ")))?;
    }
    Ok(())
}

/// An apt of its own for some suites: own lists, own cache; the machine's configuration stays as it is.
pub struct PrivateApt {
    folder: PathBuf,
}

impl PrivateApt {
    /// Reads the suites' package lists. `cache` is where they stay.
    pub fn update(cache: &Path, suites: &[&str]) -> Result<Self> {
        if process::find("apt-get").is_none() {
            bail!("Debian's packages are needed, and apt-get isn't there");
        }
        let source = debian_source()?;
        let folder = cache.join("apt").join(suites.join("_"));
        fs::create_dir_all(folder.join("lists/partial"))?;
        fs::create_dir_all(folder.join("cache/archives/partial"))?;
        fs::write(folder.join("sources.list"), source.list(suites))?;
        let apt = Self { folder };
        process::output(apt.command("apt-get").args(["update", "-qq"])).with_context(|| {
            format!("cannot read Debian's package lists of {}: is the network there?", suites.join(" "))
        })?;
        Ok(apt)
    }

    /// Every package of the suites, as apt's own stanzas.
    pub fn dump_available(&self) -> Result<String> {
        process::output(self.command("apt-cache").arg("dumpavail"))
    }

    /// `PACKAGE | VERSION | SOURCE` lines.
    pub fn madison(&self, package: &str) -> Result<String> {
        process::output(self.command("apt-cache").args(["madison", package]))
    }

    /// Downloads packages (`NAME` or `NAME=VERSION`) and unpacks them into `target`, without installing anything.
    pub fn unpack(&self, packages: &[String], target: &Path) -> Result<()> {
        let debs = self.folder.join("debs");
        if debs.exists() {
            fs::remove_dir_all(&debs)?;
        }
        fs::create_dir_all(&debs)?;
        fs::create_dir_all(target)?;
        process::output(self.command("apt-get").args(["download", "-qq"]).args(packages).current_dir(&debs))
            .with_context(|| format!("cannot download {}", packages.join(" ")))?;
        for deb in fs::read_dir(&debs)? {
            process::output(Command::new("dpkg-deb").arg("-x").arg(deb?.path()).arg(target))?;
        }
        fs::remove_dir_all(&debs)?;
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let folder = self.folder.display();
        for option in [
            format!("Dir::Etc::sourcelist={folder}/sources.list"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            "Dir::Etc::preferences=/dev/null".to_owned(),
            "Dir::Etc::preferencesparts=/dev/null".to_owned(),
            format!("Dir::State::lists={folder}/lists"),
            format!("Dir::Cache={folder}/cache"),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command.stderr(Stdio::piped());
        command
    }
}

/// The mirror that this machine's apt uses (or `CTRACE_DEBIAN_MIRROR`).
pub fn debian_source() -> Result<debian::Source> {
    if let Ok(uri) = env::var("CTRACE_DEBIAN_MIRROR") {
        return Ok(debian::Source::new(&uri));
    }
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(parts) = fs::read_dir("/etc/apt/sources.list.d") {
        let mut parts: Vec<_> = parts.flatten().map(|part| part.path()).collect();
        parts.sort();
        files.extend(parts);
    }
    let mut texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    texts.find_map(|text| debian::Source::find(&text)).context(
        "no Debian mirror in this machine's apt sources: set CTRACE_DEBIAN_MIRROR to one, such as http://MIRROR/debian",
    )
}
