//! A new container of the same spec for each trial, by the low-level runtime, in namespaces and a cgroup of its own. What
//! it writes into its root file system goes into a layer that is thrown away.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};
use serde_json::{Value, json};

use super::{
    Ended, Set, Stage, ending, go_on,
    home::{self, Home},
    program,
    watch::Watch,
};
use crate::{containers::select, findings::caps::Report, listing, model::Runtime};

pub struct Bundle {
    runtime: &'static str,
    spec: Value,
    rootfs: PathBuf,
    check: Vec<String>,
    /// All that is made stands in here.
    home: Home,
    trials: u32,
}

impl Bundle {
    /// # Errors
    /// There is no such container, or no spec of it that can be run again.
    pub fn of(wanted: &str, check: &[String]) -> Result<Self> {
        let (mut host, table) = listing::look()?;
        let selection = select(wanted, table.containers())?;
        let [container] = selection.containers() else {
            bail!("{wanted} is a pod: give one of its containers");
        };
        let entry = table.containers().find(|entry| entry.container.cgroup == container.cgroup);
        let facts = entry.and_then(|entry| entry.facts).cloned().unwrap_or_else(|| host.facts(container));
        let Some(bundle) = facts.bundle else {
            bail!(
                "the bundle that {wanted} was started from was not found: without its config.json no second one can be made"
            );
        };
        let path = format!("{bundle}/config.json");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let spec: Value = serde_json::from_str(&text).with_context(|| format!("{path} is no spec"))?;
        let root = spec["root"]["path"].as_str().with_context(|| format!("{path} names no root"))?;
        let rootfs = Path::new(&bundle).join(root);
        let runtime = if container.runtime == Some(Runtime::Crun) { "crun" } else { "runc" };
        let made = Self { runtime, spec, rootfs, check: check.to_vec(), home: Home::make()?, trials: 0 };
        // The layers are mounted where nobody else sees them, and gone with this process.
        unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace of its own (run it as root)")?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).context("mounts of its own")?;
        mount(Some("tmpfs"), &made.home.path, Some("tmpfs"), MsFlags::empty(), none)
            .context("a tmpfs for what is written")?;
        Ok(made)
    }

    /// A fresh layer over the root file system.
    fn layer(&self, at: &Path) -> Result<()> {
        for name in ["upper", "work", "rootfs"] {
            fs::create_dir_all(at.join(name)).context("a layer's directories")?;
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            escaped(&self.rootfs),
            at.join("upper").display(),
            at.join("work").display()
        );
        mount(Some("overlay"), &at.join("rootfs"), Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .with_context(|| format!("a layer over {}", self.rootfs.display()))
    }

    fn runtime(&self) -> Command {
        let mut command = Command::new(self.runtime);
        command.arg("--root").arg(self.home.path.join("state"));
        command
    }

    /// Ends a trial's container, also one that is on its way still and that the runtime does not know yet.
    fn end(&self, container: &mut Child, name: &str) {
        gone(container, RUNTIME, || {
            let mut delete = self.runtime();
            let _ = delete.args(["delete", "--force", name]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        });
        // What the runtime did not bring to an end.
        home::end(|trial| trial == name);
    }

    /// Runs the check against a running container until it passes.
    fn check(&self, container: &mut Child, pid_file: &Path, name: &str, timeout: Duration) -> Result<Ended> {
        let start = Instant::now();
        let mut last = "the check was not run".to_owned();
        loop {
            if let Some(status) = container.try_wait().context("waiting for the container")? {
                return Ok(Ended {
                    passed: false,
                    took: start.elapsed(),
                    how: format!("the container ended: {status}"),
                });
            }
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() || ending() {
                return Ok(Ended { passed: false, took: start.elapsed(), how: last });
            }
            if let Some(pid) = fs::read_to_string(pid_file).ok().and_then(|text| text.trim().parse::<u32>().ok()) {
                let mut command = Command::new(&self.check[0]);
                command.args(&self.check[1..]).env("CTRACE_PID", pid.to_string()).env("CTRACE_CONTAINER", name);
                let network = File::open(format!("/proc/{pid}/ns/net"));
                if let Ok(network) = network {
                    // SAFETY: one system call on a descriptor that is open, between fork and exec.
                    unsafe { command.pre_exec(move || Ok(setns(&network, CloneFlags::CLONE_NEWNET)?)) };
                }
                let ended = program::wait(command, left)?;
                if ended.passed {
                    return Ok(Ended { took: start.elapsed(), ..ended });
                }
                // One that ran out of time says less than the one before it.
                if ended.took < left || last.starts_with("the check was") {
                    last = format!("the check: {}", ended.how);
                }
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Asks for its end until it has come; one that stays for longer than `patience` is killed.
fn gone(container: &mut Child, patience: Duration, mut delete: impl FnMut()) {
    let start = Instant::now();
    loop {
        delete();
        if !matches!(container.try_wait(), Ok(None)) {
            break;
        }
        if start.elapsed() > patience {
            let _ = container.kill();
            let _ = container.wait();
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A path as overlayfs reads it among its options.
fn escaped(path: &Path) -> String {
    let mut text = path.display().to_string();
    for special in ['\\', ':', ','] {
        text = text.replace(special, &format!("\\{special}"));
    }
    text
}

/// A runtime that does not delete a container in this time is killed with it.
const RUNTIME: Duration = Duration::from_secs(5);

impl Stage for Bundle {
    fn run(&mut self, set: &Set, timeout: Duration) -> Result<Ended> {
        self.trials += 1;
        let name = home::trial(self.trials);
        let at = self.home.path.join(&name);
        self.layer(&at)?;
        let spec = reduced(&self.spec, set, &name);
        fs::write(at.join("config.json"), spec.to_string()).context("writing a spec")?;
        let pid_file = at.join("pid");
        let log = File::create(at.join("log")).context("a log")?;
        let mut container = self
            .runtime()
            .args(["run", "--pid-file"])
            .arg(&pid_file)
            .arg("--bundle")
            .arg(&at)
            .arg(&name)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("a log")?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run {}", self.runtime))?;
        let ended = self.check(&mut container, &pid_file, &name, timeout);
        self.end(&mut container, &name);
        let _ = umount2(&at.join("rootfs"), MntFlags::MNT_DETACH);
        let mut ended = ended?;
        if !ended.passed && ended.how.starts_with("the container ended") {
            let log = fs::read_to_string(at.join("log")).unwrap_or_default();
            if let Some(line) = log.lines().rfind(|line| !line.trim().is_empty()) {
                ended.how = format!("{}: {}", ended.how, line.chars().take(200).collect::<String>());
            }
        }
        let _ = fs::remove_dir_all(&at);
        Ok(ended)
    }

    fn watch(&mut self, timeout: Duration) -> Result<Report> {
        let given = given(&self.spec)?;
        let watch = Watch::start(&home::trial(self.trials + 1))?;
        let ended = self.run(&given, timeout)?;
        go_on()?;
        if !ended.passed {
            bail!("the check does not even pass with all that the container is given: {}", ended.how);
        }
        watch.report()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = umount2(&self.home.path, MntFlags::MNT_DETACH);
    }
}

/// What the spec gives, of what can be given on.
fn given(spec: &Value) -> Result<Set> {
    let own = caps::read(None, caps::CapSet::Bounding).context("reading the own capabilities")?;
    let names = spec["process"]["capabilities"]["bounding"].as_array().into_iter().flatten();
    let names = names.filter_map(|name| name.as_str()?.parse::<caps::Capability>().ok());
    let mut set: Set = names.filter(|one| own.contains(one)).collect();
    set.sort_by_key(caps::Capability::index);
    Ok(set)
}

/// The same container with other capabilities: in a cgroup and a network of its own, without the engine's hooks.
fn reduced(spec: &Value, set: &Set, name: &str) -> Value {
    let mut spec = spec.clone();
    let names: Vec<String> = set.iter().map(ToString::to_string).collect();
    let root = spec["process"]["user"]["uid"].as_u64().unwrap_or(0) == 0;
    let kept = if root { json!([]) } else { json!(names) };
    spec["process"]["capabilities"] = json!({
        "bounding": names, "effective": names, "permitted": names, "inheritable": kept, "ambient": kept,
    });
    spec["process"]["terminal"] = json!(false);
    spec["root"]["path"] = json!("rootfs");
    if let Some(whole) = spec.as_object_mut() {
        whole.remove("hooks");
    }
    if let Some(linux) = spec["linux"].as_object_mut() {
        linux.insert("cgroupsPath".to_owned(), json!(home::cgroup(name)));
        // Joining the other's network would find its ports taken.
        for namespace in linux.get_mut("namespaces").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(namespace) = namespace.as_object_mut() {
                namespace.remove("path");
            }
        }
    }
    spec
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use caps::Capability;

    use super::*;

    /// A runtime that does not know the container yet, or never lets it go.
    #[test]
    fn a_container_that_the_runtime_does_not_delete_is_killed() {
        let start = || Command::new("sleep").arg("1000").process_group(0).spawn().expect("sleep");
        let mut container = start();
        let mut asked = 0;
        gone(&mut container, Duration::from_millis(50), || asked += 1);
        let ended = container.try_wait().expect("its status").expect("it has ended");
        assert_eq!((ended.signal(), asked > 1), (Some(9), true), "asked {asked} times");
        // One that is on its way still is asked again, and not killed.
        let mut container = start();
        let pid = nix::unistd::Pid::from_raw(container.id().cast_signed());
        let mut asked = 0;
        gone(&mut container, Duration::from_secs(1000), || {
            asked += 1;
            if asked == 3 {
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it lives");
            }
        });
        let ended = container.try_wait().expect("its status").expect("it has ended");
        assert_eq!((ended.signal(), asked >= 3), (Some(15), true), "asked {asked} times");
    }

    #[test]
    fn a_path_among_the_options_of_a_mount() {
        assert_eq!(escaped(Path::new("/var/lib/a b")), "/var/lib/a b");
        assert_eq!(escaped(Path::new("/a:b,c\\d")), "/a\\:b\\,c\\\\d");
    }

    #[test]
    fn the_same_spec_with_another_set() {
        let spec = json!({
            "process": {"terminal": true, "user": {"uid": 0}, "args": ["x"], "capabilities": {"bounding": ["CAP_KILL"]}},
            "root": {"path": "/data/merged"}, "hooks": {"prestart": []},
            "linux": {"cgroupsPath": "/docker/x", "namespaces": [{"type": "network", "path": "/var/run/netns/x"}, {"type": "pid"}]},
        });
        let set = vec![Capability::CAP_CHOWN];
        let one = reduced(&spec, &set, "n");
        let caps = &one["process"]["capabilities"];
        assert_eq!((&caps["bounding"], &caps["ambient"]), (&json!(["CAP_CHOWN"]), &json!([])));
        assert_eq!((&one["root"]["path"], &one["process"]["args"]), (&json!("rootfs"), &json!(["x"])));
        assert_eq!(one["linux"]["namespaces"], json!([{"type": "network"}, {"type": "pid"}]));
        assert_eq!((one.get("hooks"), &one["linux"]["cgroupsPath"]), (None, &json!("/runc-n.scope")));
        let mut other = spec;
        other["process"]["user"]["uid"] = json!(33);
        assert_eq!(reduced(&other, &set, "n")["process"]["capabilities"]["ambient"], json!(["CAP_CHOWN"]));
    }
}
