//! One virtual machine: booted for one command, whose output and exit code come back.

use std::{
    env, fs,
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail};

use super::{
    cache::{Cache, RunFolder},
    guest,
    host::Host,
    initramfs,
    kernel::Kernel,
};
use crate::process::{self, shell_word};

const INIT: &str = include_str!("init.sh");

/// No `AppArmor`, which Docker would want profiles for; nokaslr and tsc=reliable spare time. On a busy
/// host the emulated timer comes too late for the kernel's check of it: 5.10 panics then.
const KERNEL_COMMAND_LINE: &str = "console=ttyS0 panic=-1 lsm=landlock,lockdown,yama,bpf mitigations=off nokaslr \
    cgroup_no_v1=all random.trust_cpu=on tsc=reliable no_timer_check";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Root {
    /// busybox alone; static programs run
    Busybox,
    /// The host's files, so that whatever is installed here runs; changes are in memory
    Host,
    /// A Debian with docker, containerd, podman, runc and crun
    Guest,
}

/// What to boot. The share is mounted read-write at its own path and is where the command starts.
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own about one machine")]
pub struct Machine {
    pub kernel: String,
    pub root: Root,
    pub memory: String,
    pub cpus: u32,
    /// Memory in two NUMA nodes, half and half; the processors are the first one's.
    pub two_nodes: bool,
    /// Raw images, `FILE[,OPTION=VALUE…]` as QEMU's -drive takes them.
    pub disks: Vec<String>,
    pub append: String,
    pub systemd: bool,
    pub timeout: Duration,
    pub share: PathBuf,
    pub refresh: bool,
    /// One instruction is one nanosecond of the guest's clock: slower, but time is then a count of work.
    pub icount: bool,
    pub command: Vec<String>,
    pub environment: Vec<(String, String)>,
}

pub struct Outcome {
    /// `uname -r`.
    pub release: String,
    pub code: u8,
    /// From QEMU's start to the command's.
    pub boot: Duration,
    pub total: Duration,
}

impl Machine {
    /// Boots, writes the command's output to `sink` as it comes, and returns when the machine is off.
    pub fn run(&self, sink: &mut dyn Write) -> Result<Outcome> {
        let cache = Cache::open()?;
        let lock = cache.lock()?;
        let host = Host::ready(&cache)?;
        let kernel = Kernel::get(&cache, &self.kernel, self.refresh)?;
        let initramfs = initramfs::initramfs(&cache, &host, &kernel)?;
        let image = if self.root == Root::Guest { Some(guest::image(&cache)?) } else { None };
        drop(lock);

        let folder = cache.run_folder()?;
        let run = folder.path();
        fs::write(run.join("init.sh"), self.init_script(run, &kernel))?;
        fs::write(run.join("command"), self.command_script())?;
        let files = HostFiles::serve(&host, run)?;
        let mut qemu = self.qemu(&host, run);
        qemu.arg("-kernel").arg(kernel.folder.join("vmlinuz")).arg("-initrd").arg(initramfs);
        if let Some(image) = image {
            qemu.arg("-drive").arg(format!("file={},format=raw,if=virtio,cache=unsafe,snapshot=on", image.display()));
        }
        for disk in &self.disks {
            qemu.arg("-drive").arg(format!("file={disk},format=raw,if=virtio,cache=unsafe"));
        }
        let (clock, start) = (SystemTime::now(), Instant::now());
        let mut qemu = qemu.spawn().context("cannot start QEMU")?;
        let mut output = qemu.stdout.take().context("QEMU's output")?;
        let mut buffer = [0; 8192];
        while let count @ 1.. = output.read(&mut buffer)? {
            sink.write_all(&buffer[..count])?;
            sink.flush()?;
        }
        let status = qemu.wait()?;
        drop(files);
        let total = start.elapsed();
        let boot = fs::metadata(run.join("started")).and_then(|file| file.modified());
        let boot = boot.ok().and_then(|boot| boot.duration_since(clock).ok()).unwrap_or(total);
        match folder.read("rc").trim().parse() {
            Ok(code) => Ok(Outcome { release: kernel.release, code, boot, total }),
            Err(_) if status.code() == Some(124) => {
                let lines = if folder.read("started").is_empty() { 40 } else { 0 };
                let last = last_words(&folder, lines);
                bail!("{}: timed out after {} s{last}", kernel.release, self.timeout.as_secs())
            }
            Err(_) => {
                let last = last_words(&folder, 40);
                bail!("{}: the guest died without an exit code ({status}){last}", kernel.release)
            }
        }
    }

    fn qemu(&self, host: &Host, run: &Path) -> Command {
        let mut qemu = dying_with_us("timeout");
        qemu.args(["--foreground", "-k", "3"]).arg(self.timeout.as_secs().to_string()).arg(&host.qemu);
        for folder in &host.firmware {
            qemu.arg("-L").arg(folder);
        }
        // Nehalem is a third faster under TCG than max.
        let thread = if self.icount { "single" } else { "multi" };
        qemu.arg("-accel").arg(format!("tcg,thread={thread},tb-size=512"));
        if self.icount {
            qemu.args(["-icount", "shift=0,sleep=off"]);
        }
        qemu.args(["-cpu", "Nehalem", "-smp", &self.cpus.to_string(), "-m", &self.memory]);
        qemu.args(memory(&self.memory, self.cpus, self.two_nodes));
        qemu.args(["-nodefaults", "-display", "none", "-no-reboot", "-vga", "none"]);
        qemu.arg("-chardev").arg(format!("socket,id=fs,path={}", run.join("fs.sock").display()));
        qemu.args(["-device", "vhost-user-fs-pci,chardev=fs,tag=hostfs,queue-size=1024"]);
        qemu.arg("-serial").arg(format!("file:{}", run.join("console.log").display()));
        qemu.args(["-chardev", "stdio,id=out,signal=off", "-device", "virtio-serial-pci"]);
        qemu.args(["-device", "virtconsole,chardev=out", "-append"]);
        qemu.arg(format!("{KERNEL_COMMAND_LINE} vmrun={} {}", run.display(), self.append));
        qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log(run, "qemu.log"));
        qemu
    }

    fn init_script(&self, run: &Path, kernel: &Kernel) -> String {
        let root = match self.root {
            Root::Busybox => "busybox",
            Root::Host => "host",
            Root::Guest => "guest",
        };
        let systemd = if self.systemd { "1" } else { "" };
        let word = |path: &Path| shell_word(&path.to_string_lossy());
        let (run, share, kernel) = (word(run), word(&self.share), word(&kernel.folder));
        format!("RUN={run} SHARE={share} KERNEL={kernel} ROOT={root} SYSTEMD={systemd}\n{INIT}")
    }

    fn command_script(&self) -> String {
        let passed_on =
            env::vars().filter(|(name, _)| ["RUST_LOG", "RUST_BACKTRACE", "CARGO_TERM_COLOR"].contains(&&**name));
        let mut script = format!("cd {} || exit 125\n", shell_word(&self.share.to_string_lossy()));
        for (name, value) in passed_on.chain(self.environment.iter().cloned()) {
            script.extend(["export ", &name, "=", &shell_word(&value), "\n"]);
        }
        let words: Vec<_> = self.command.iter().map(|word| shell_word(word)).collect();
        script + "exec " + &words.join(" ") + "\n"
    }
}

/// The guest's memory, shared with virtiofsd: one piece, or one for each of two NUMA nodes.
fn memory(size: &str, cpus: u32, two_nodes: bool) -> Vec<String> {
    let backend = |id: &str, size: &str| format!("memory-backend-memfd,id={id},size={size},share=on");
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let digits = size.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let (Ok(whole), true) = (digits.parse::<u64>(), two_nodes) else {
        return words(&["-machine", "q35,memory-backend=mem", "-object", &backend("mem", size)]);
    };
    let half = format!("{}{}", whole / 2, &size[digits.len()..]);
    let last = cpus.saturating_sub(1);
    words(&[
        "-machine",
        "q35",
        "-object",
        &backend("mem0", &half),
        "-object",
        &backend("mem1", &half),
        "-numa",
        &format!("node,nodeid=0,cpus=0-{last},memdev=mem0"),
        "-numa",
        "node,nodeid=1,memdev=mem1",
    ])
}

/// virtiofsd, serving the host's files to one machine.
struct HostFiles(Child);

impl HostFiles {
    fn serve(host: &Host, run: &Path) -> Result<Self> {
        let socket = run.join("fs.sock");
        let program = &host.virtiofsd;
        // It reads as root whatever the guest's root reads.
        let mut virtiofsd = if process::is_root() { dying_with_us(program) } else { process::as_root(program) };
        virtiofsd.arg(format!("--socket-path={}", socket.display()));
        if !process::is_root() {
            let group = process::output(Command::new("id").arg("-gn"))?;
            virtiofsd.arg(format!("--socket-group={}", group.trim()));
        }
        // cache=always: else every exec in the guest reads its file again.
        // QEMU's own one calls itself otherwise, and without root doesn't even do that.
        let version = process::output(Command::new(program).arg("--version"));
        if version.map_or(true, |version| version.contains("virtiofsd version")) {
            virtiofsd.args(["-o", "source=/", "-o", "sandbox=chroot", "-o", "cache=always", "-o", "xattr"]);
            virtiofsd.args(["-o", "no_posix_lock"]);
        } else {
            virtiofsd.args(["--shared-dir=/", "--sandbox=chroot", "--cache=always", "--xattr"]);
        }
        virtiofsd
            .arg("--thread-pool-size=4")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log(run, "virtiofsd.log"));
        let mut files = Self(virtiofsd.spawn().context("cannot start virtiofsd")?);
        for _ in 0..500 {
            if socket.exists() {
                return Ok(files);
            }
            if files.0.try_wait()?.is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let said = fs::read_to_string(run.join("virtiofsd.log")).unwrap_or_default();
        bail!("virtiofsd did not start: {}", said.trim())
    }
}

impl Drop for HostFiles {
    fn drop(&mut self) {
        // It ends by itself with the machine; this is for the machine that never started.
        if self.0.kill().is_ok() {
            let _ = self.0.wait();
        }
    }
}

/// A program that gets SIGTERM when xtask goes, however it goes.
fn dying_with_us(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

fn log(run: &Path, name: &str) -> Stdio {
    File::create(run.join(name)).map_or_else(|_| Stdio::null(), Stdio::from)
}

/// The end of what QEMU and the guest's kernel said; the kernel's only where it is the one that failed.
fn last_words(folder: &RunFolder, lines: usize) -> String {
    let mut last = String::new();
    for (name, lines) in [("qemu.log", 20), ("console.log", lines)] {
        let text = folder.read(name);
        let all: Vec<_> = text.lines().collect();
        for line in &all[all.len().saturating_sub(lines)..] {
            last.extend(["\n    ", line]);
        }
    }
    last
}
