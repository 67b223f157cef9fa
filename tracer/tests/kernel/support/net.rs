//! A stage: namespaces of this test's own in which its PID 1 is the host, so that nothing of this machine's network is
//! touched. Its devices are made by `ip`, its containers are processes of the workload in cgroups.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;
use tracer::{
    live::host::{Ground, Host},
    network::{Cache, Network, nat},
    privileges,
};

use super::{
    cgroups::Group,
    ctrace::{Ended, binary, run as run_ctrace, with_us},
    engines::{output, run},
    player::{Player, enter, program},
    wait_until,
};

pub struct Stage {
    /// Its PID 1 lives as long as this.
    _player: Player,
    /// As this machine sees it.
    pid: u64,
}

/// A container on a stage.
pub struct Actor {
    /// It lives as long as this.
    _player: Player,
    /// As the stage sees it.
    pub pid: u64,
}

impl Stage {
    pub fn new() -> Self {
        let player = Player::bare(&["nets", "mounts", "pidns", "say=host", "stage", "say=ready", "pause"]);
        let pid = player.said("host").pid;
        player.said("ready");
        let stage = Self { _player: player, pid };
        stage.ip("link set lo up");
        stage
    }

    /// A program on the stage.
    pub fn program(&self, program: &str) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--target", &self.pid.to_string(), "--net", "--mount", "--pid", "--", program]);
        with_us(&mut nsenter);
        nsenter
    }

    pub fn ip(&self, words: &str) -> String {
        run(self.program("ip").args(words.split(' ')))
    }

    /// Could it be done?
    pub fn try_ip(&self, words: &str) -> bool {
        output(self.program("ip").args(words.split(' '))).status.success()
    }

    /// The same in the network namespace of one of its processes.
    pub fn ip_of(&self, actor: &Actor, words: &str) -> String {
        let target = actor.pid.to_string();
        run(self.program("nsenter").args(["--target", &target, "--net", "ip"]).args(words.split(' ')))
    }

    /// Many commands at once.
    pub fn batch(&self, lines: &str) {
        let file = std::env::temp_dir().join(format!("ctrace-ip-{:x}", super::unique()));
        fs::write(&file, lines).expect("a file");
        run(self.program("ip").arg("-batch").arg(&file));
        let _ = fs::remove_file(&file);
    }

    /// A process in a cgroup, in a network namespace of its own.
    pub fn container(&self, group: &Group) -> Actor {
        self.actor(group, &["nets"])
    }

    /// The same after other steps.
    pub fn actor(&self, group: &Group, steps: &[&str]) -> Actor {
        let mut player = self.program(&program());
        let enter = enter(group);
        player.args(["play", &enter]).args(steps).args(["say=here", "pause"]);
        let player = Player::of(player);
        let pid = player.said("here").pid;
        Actor { _player: player, pid }
    }

    /// `ctrace containers …` there.
    pub fn containers(&self, arguments: &[&str]) -> Ended {
        let mut ctrace = self.program(&binary().canonicalize().expect("ctrace").display().to_string());
        ctrace.arg("containers").args(arguments);
        run_ctrace(ctrace)
    }

    /// What `ctrace containers --json` says of one.
    pub fn one(&self, group: &Group) -> Value {
        let ended = self.containers(&["--json", group.name()]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        serde_json::from_str(ended.out.first().expect("a line")).expect("JSON")
    }

    /// The map, kept by a process there: see [`keep_map`].
    pub fn keeper(&self) -> Player {
        let mut player = self.program(&program());
        player.args(["play", "keep-map"]);
        Player::of(player)
    }

    /// The inode of the network namespace of a process there.
    pub fn netns(&self, pid: u64) -> u64 {
        let link = run(self.program("readlink").arg(format!("/proc/{pid}/ns/net")));
        link.trim_start_matches("net:[").trim_end_matches(']').parse().expect("an inode")
    }

    /// The index of a device there.
    pub fn ifindex(&self, device: &str) -> u64 {
        run(self.program("cat").arg(format!("/sys/class/net/{device}/ifindex"))).parse().expect("a number")
    }
}

/// The step `stage`: as PID 1 of a pid namespace with mounts of its own, /proc and /sys show this one's.
pub fn set_stage() {
    let none = None::<&str>;
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    let aside = std::env::temp_dir().join(format!("ctrace-stage-{:x}", super::unique()));
    fs::create_dir(&aside).expect("a folder");
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).expect("a proc file system");
    mount(Some("/sys/fs/cgroup"), &aside, none, bind, none).expect("the cgroups, aside");
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).expect("a sysfs of the own devices");
    mount(Some(&aside), "/sys/fs/cgroup", none, bind, none).expect("the cgroups, back");
    umount2(&aside, MntFlags::MNT_DETACH).expect("it is mounted");
    fs::remove_dir(&aside).expect("it is empty");
    fs::create_dir_all("/run/netns").expect("a folder");
    mount(Some("tmpfs"), "/run/netns", Some("tmpfs"), MsFlags::empty(), none).expect("a place for namespaces");
}

/// The step `keep-map`: for each line on stdin looks at the map, and writes `map READINGS MICROSECONDS`, the devices of
/// each container, the host's rules, and the namespaces that this process holds; then `end`. After the first look it has
/// the privileges of a lens.
pub fn keep_map() {
    let (host, known) = Host::survey(Ground::find().expect("cgroups"));
    drop(known);
    let mut cache = Cache::default();
    let mut now = Instant::now();
    println!("keeper is ready");
    while std::io::stdin().read_line(&mut String::new()).is_ok_and(|read| read > 0) {
        // The pace is not what is looked at here.
        now += Duration::from_mins(10);
        let mut table = tracer::containers::Table::default();
        let (seen, _) = tracer::containers::walk(host.files(), &host.hierarchy);
        table.seed(seen, 0);
        let start = Instant::now();
        let map = cache.current(host.files(), &host.hierarchy, &table, now);
        let took = start.elapsed().as_micros();
        let mut lines = Vec::new();
        for entry in table.containers() {
            let network = Network::of(map, &entry.container.cgroup);
            for one in network.interfaces.iter().flatten() {
                let addresses: Vec<String> = one.addresses.iter().map(ToString::to_string).collect();
                let peer = one.peer.as_ref().map_or("-", |peer| &peer.name);
                lines.push(format!("device {} {} {peer} {}", entry.container.id, one.name, addresses.join(",")));
            }
        }
        let rules = nat::read(host.files(), cache.placement(), cache.map().host().expect("a host"));
        lines.extend(rules.rules.iter().map(|rule| format!("rule {}", rule.text)));
        println!("map {} {took}", cache.readings);
        for line in &lines {
            println!("{line}");
        }
        for fd in fs::read_dir("/proc/self/fd").expect("its own").flatten() {
            let target = fs::read_link(fd.path()).unwrap_or_default().display().to_string();
            if target.starts_with("net:") {
                println!("holds {target}");
            }
        }
        println!("threads {}", fs::read_dir("/proc/self/task").expect("its own").count());
        println!("end");
        if cache.readings == 1 {
            privileges::drop_to(false, privileges::NETWORKS).expect("fewer privileges");
        }
    }
}

/// One look of a keeper: all that it wrote.
pub fn look(keeper: &mut Player) -> Vec<String> {
    let ends = |lines: &[String]| lines.iter().filter(|line| *line == "end").count();
    let before = keeper.lines();
    keeper.go();
    let lines = wait_until("a look at the map", || {
        let lines = keeper.lines();
        (ends(&lines) > ends(&before)).then_some(lines)
    });
    lines[before.len()..].to_vec()
}
