//! Virtual machines with Debian's kernels, under QEMU's own emulation: no KVM is needed.

mod bootstrap;
mod cache;
pub mod daemons;
mod guest;
mod host;
mod initramfs;
mod kernel;
mod machine;
mod prefix;

use std::{env, io, process::ExitCode, time::Duration};

use anyhow::Result;

pub use kernel::MATRIX;
pub use machine::{Machine, Outcome, Root};

#[derive(clap::Args)]
pub struct Args {
    /// Kernels: a series (6.12) for its newest, or one version (6.18.15+deb13); all of the matrix if none is named
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// The guest's memory
    #[arg(long, default_value = "1536M")]
    mem: String,
    /// The guest's processors
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// What the guest's / is
    #[arg(long, value_enum, default_value_t = Root::Busybox)]
    root: Root,
    /// A raw disk image as /dev/vda (vdb with the guest root), with options of QEMU's -drive after a comma
    #[arg(long, value_name = "FILE")]
    disk: Vec<String>,
    /// More for the kernel's command line
    #[arg(long, value_name = "ARGS", default_value = "", allow_hyphen_values = true)]
    append: String,
    /// Boot the root's systemd, and run the command as a service of it
    #[arg(long)]
    systemd: bool,
    /// Seconds after which a machine is stopped
    #[arg(long, value_name = "S", default_value_t = 600)]
    timeout: u64,
    /// Look for newer kernels than the cached ones
    #[arg(long)]
    refresh: bool,
    /// What to run as root in the guest, in the current directory (which is shared read-write)
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Every kernel in turn; the exit code is that of the first that failed.
pub fn command(args: &Args) -> Result<ExitCode> {
    let matrix = || MATRIX.iter().map(ToString::to_string).collect();
    let kernels: Vec<String> = if args.kernels.is_empty() { matrix() } else { args.kernels.clone() };
    let mut first_failure = 0;
    for kernel in &kernels {
        let prefix = if kernels.len() > 1 { format!("{kernel}| ") } else { String::new() };
        let mut sink = prefix::Prefixed::new(io::stdout(), prefix);
        let code = match args.machine(kernel)?.run(&mut sink) {
            Ok(Outcome { release, code, boot, total }) => {
                eprintln!(
                    "{release}: booted in {:.1} s, {:.1} s in all, exit code {code}",
                    boot.as_secs_f64(),
                    total.as_secs_f64()
                );
                code
            }
            Err(error) if kernels.len() > 1 => {
                eprintln!("error: {error:#}");
                125
            }
            Err(error) => return Err(error),
        };
        if first_failure == 0 {
            first_failure = code;
        }
    }
    Ok(ExitCode::from(first_failure))
}

impl Args {
    fn machine(&self, kernel: &str) -> Result<Machine> {
        Ok(Machine {
            kernel: kernel.to_owned(),
            root: self.root,
            memory: self.mem.clone(),
            cpus: self.cpus,
            disks: self.disk.clone(),
            append: self.append.clone(),
            systemd: self.systemd,
            timeout: Duration::from_secs(self.timeout),
            share: env::current_dir()?.canonicalize()?,
            refresh: self.refresh,
            icount: false,
            two_nodes: false,
            command: self.command.clone(),
            environment: Vec::new(),
        })
    }
}
