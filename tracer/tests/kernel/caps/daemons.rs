//! Real daemons of Debian's packages, each in a container of runc's with Docker's default capabilities and with a check of
//! its own: what is seen from the start is enough, and of what the check requires nothing can be left away.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

use nix::{
    mount::{MsFlags, mount},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::report;
use crate::{
    harness::{Lack, Test, measured},
    support::{
        ctrace::{Ctrace, command, run, with_us},
        engines::{Place, output, runc::Bundle},
        evidence, unique, wait_until,
    },
};

pub static TESTS: &[Test] = &[
    Test::full("caps::daemons::haproxy", haproxy).needs(&[Lack::Runc, Lack::Daemons]),
    Test::full("caps::daemons::beside_capable", beside_capable).needs(&[
        Lack::Runc,
        Lack::Daemons,
        Lack::Kprobes,
        Lack::Capable,
    ]),
    Test::native("caps::daemons::apache2", apache2).needs(HERE),
    Test::native("caps::daemons::unbound", unbound).needs(HERE),
    Test::native("caps::daemons::vsftpd", vsftpd).needs(HERE),
    Test::native("caps::daemons::rsyslog", rsyslog).needs(HERE),
    Test::native("caps::daemons::cron", cron).needs(HERE),
    Test::native("caps::daemons::ping", ping).needs(HERE),
    Test::native("caps::daemons::iperf3", iperf3).needs(HERE),
];

const HERE: &[Lack] = &[Lack::Runc, Lack::Daemons];

/// Docker's default.
const GIVEN: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
];

struct Daemon {
    args: &'static [&'static str],
    environment: &'static [&'static str],
    user: u32,
    /// Path, owner, mode and text of what is put into its root.
    files: &'static [(&'static str, u32, u32, &'static str)],
    /// Run on the host in its network, until it ends with 0. It must see what this run did, not what was there before.
    check: &'static str,
    /// In the kernel's order.
    needed: &'static [&'static str],
    /// Of these, what the check passes without.
    tolerated: &'static [&'static str],
}

const PLAIN: Daemon =
    Daemon { args: &[], environment: &[], user: 0, files: &[], check: "", needed: &[], tolerated: &[] };

const HAPROXY: Daemon = Daemon {
    args: &["haproxy", "-db", "-f", "/etc/test.cfg"],
    files: &[(
        "etc/test.cfg",
        0,
        0o644,
        "global\n maxconn 64\n user haproxy\n group haproxy\n chroot /var/lib/haproxy\ndefaults\n mode http\n \
             timeout client 5s\n timeout connect 5s\n timeout server 5s\nfrontend web\n bind :80\n \
             http-request return status 200 content-type text/plain string hello\n",
    )],
    check: "curl -fsS http://127.0.0.1/ | grep -q hello && test ! -e /proc/$CTRACE_PID/root/etc",
    needed: &["CAP_SETGID", "CAP_SETUID", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT"],
    ..PLAIN
};

fn haproxy() {
    prove(&HAPROXY);
}

/// What ctrace says is needed, beside what `capable` of the libbpf-tools prints of the same start, both against what the
/// check requires. `capable` knows no container: its lines are taken by the daemon's name, as a person would.
fn beside_capable() {
    let place = Place::new();
    let log = place.dir.join("capable");
    let out = fs::File::create(&log).expect("a file");
    let lines = || fs::read_to_string(&log).unwrap_or_default();
    // By lines: what waits in a buffer is not seen.
    let mut capable = Command::new("stdbuf");
    capable.args(["-oL", "capable"]).stdout(out.try_clone().expect("a file")).stderr(out);
    with_us(&mut capable);
    let mut capable = capable.spawn().expect("it is installed");
    wait_until("capable to be attached", || {
        let _ = output(Command::new("chroot").args(["/", "true"])); // asks for CAP_SYS_CHROOT
        lines().contains("chroot").then_some(())
    });
    let mut sums = [("ctrace caps", 0, 0), ("capable", 0, 0)];
    let mut all = 0;
    for (comm, daemon) in
        [("haproxy", HAPROXY), ("apache2", APACHE2), ("unbound", UNBOUND), ("vsftpd", VSFTPD), ("cron", CRON)]
    {
        let name = format!("ctrace-daemon-{:x}", unique());
        let ctrace = Ctrace::ready(command(&["caps", "--json", "--from-start", "--container", &name]));
        ctrace.wait_for("that it waits", |line| line.json["code"] == "waiting");
        let container = Container::start(&daemon, &name);
        wait_until("the check to pass", || container.passes(daemon.check).then_some(()));
        let seen = report(ctrace);
        let theirs = || -> BTreeSet<String> {
            let printed = lines();
            let own = printed.lines().filter(|line| line.split_whitespace().any(|word| word == comm));
            let words = own.flat_map(str::split_whitespace).filter(|word| word.starts_with("CAP_"));
            words.map(str::to_owned).collect()
        };
        // It writes a moment after it was asked, and what it loses on a busy machine never: until it goes on with what came later.
        let marks = || lines().matches("chroot").count();
        let before = marks();
        wait_until("capable to go on", || {
            let _ = output(Command::new("chroot").args(["/", "true"]));
            (marks() >= before + 3 && (!theirs().is_empty() || marks() >= before + 50)).then_some(())
        });
        container.bundle.remove();
        let theirs = theirs();
        let ours = seen["needed"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let ours: BTreeSet<String> = ours.map(str::to_owned).collect();
        let needed: BTreeSet<String> = daemon.needed.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(ours, needed, "{comm}: {seen:#}");
        let required: BTreeSet<String> =
            daemon.needed.iter().filter(|one| !daemon.tolerated.contains(one)).map(|one| (*one).to_owned()).collect();
        all += required.len();
        for ((tool, said, right), own) in sums.iter_mut().zip([&ours, &theirs]) {
            let hits = own.intersection(&required).count();
            *said += own.len();
            *right += hits;
            measured(format!(
                "{comm}, {tool}: {own:?}: precision {hits} of {}, recall {hits} of {}",
                own.len(),
                required.len()
            ));
        }
    }
    for (tool, said, right) in sums {
        measured(format!("all, {tool}: precision {right} of {said}, recall {right} of {all}"));
    }
    let _ = kill(Pid::from_raw(capable.id() as i32), Signal::SIGINT);
    let _ = wait_until("capable to end", || capable.try_wait().expect("a child"));
}

const APACHE2: Daemon = Daemon {
    args: &["apache2", "-DFOREGROUND"],
    environment: &[
        "APACHE_RUN_DIR=/run",
        "APACHE_LOCK_DIR=/run",
        "APACHE_PID_FILE=/run/apache2.pid",
        "APACHE_LOG_DIR=/var/log/apache2",
        "APACHE_RUN_USER=www-data",
        "APACHE_RUN_GROUP=www-data",
    ],
    // Where setuid is refused it may serve its pages as root: a check that only fetches one does not see that.
    check: "curl -fsS -o /dev/null http://127.0.0.1/ && pgrep -P $CTRACE_PID -u 33 >/dev/null && \
            ! pgrep -P $CTRACE_PID -u 0 >/dev/null",
    needed: &["CAP_SETGID", "CAP_SETUID", "CAP_NET_BIND_SERVICE"],
    ..PLAIN
};

fn apache2() {
    prove(&APACHE2);
}

const UNBOUND: Daemon = Daemon {
    args: &["unbound", "-d", "-c", "/etc/test.conf"],
    files: &[(
        "etc/test.conf",
        0,
        0o644,
        "server:\n interface: 127.0.0.1\n port: 53\n username: unbound\n chroot: \"\"\n directory: \"/etc\"\n \
         do-daemonize: no\n use-syslog: no\n pidfile: \"\"\n module-config: \"iterator\"\n num-threads: 1\n \
         local-data: \"a.test. A 192.0.2.7\"\n",
    )],
    // A query for the address of a.test, and the answer's last four bytes.
    check: r"exec 3<>/dev/udp/127.0.0.1/53 &&
        printf '\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x04test\x00\x00\x01\x00\x01' >&3 &&
        timeout 1 dd bs=512 count=1 <&3 2>/dev/null | od -An -v -tx1 | tr -d ' \n' | grep -q 'c0000207$'",
    needed: &["CAP_SETGID", "CAP_SETUID", "CAP_NET_BIND_SERVICE"],
    ..PLAIN
};

fn unbound() {
    prove(&UNBOUND);
}

const VSFTPD: Daemon = Daemon {
    // As PID 1 it is given orphans to wait for, and dies of that.
    args: &["sh", "-c", "vsftpd /etc/test.conf; exit"],
    files: &[
        (
            "etc/test.conf",
            0,
            0o644,
            "listen=YES\nlisten_ipv6=NO\nbackground=NO\nanonymous_enable=YES\nlocal_enable=NO\nanon_root=/srv/ftp\n\
             secure_chroot_dir=/srv/empty\n",
        ),
        ("srv/ftp/hello", 0, 0o644, "hello\n"),
    ],
    check: "curl -fsS ftp://127.0.0.1/hello | grep -q hello",
    needed: &["CAP_SETGID", "CAP_SETUID", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT"],
    ..PLAIN
};

fn vsftpd() {
    prove(&VSFTPD);
}

fn rsyslog() {
    prove(&Daemon {
        args: &["rsyslogd", "-n", "-iNONE", "-f", "/etc/test.conf"],
        files: &[(
            "etc/test.conf",
            0,
            0o644,
            "module(load=\"imudp\")\ninput(type=\"imudp\" port=\"514\")\n$PrivDropToGroup daemon\n$PrivDropToUser daemon\n\
             *.* /out/log\n",
        )],
        check: "word=$(cat /proc/sys/kernel/random/uuid); logger --udp --server 127.0.0.1 --port 514 $word; sleep 0.2; \
                log=/proc/$CTRACE_PID/root/out/log; grep -q $word $log && test $(stat -c %u $log) = 1",
        needed: &["CAP_SETGID", "CAP_SETUID", "CAP_NET_BIND_SERVICE"],
        ..PLAIN
    });
}

const CRON: Daemon = Daemon {
    args: &["cron", "-f"],
    files: &[("var/spool/cron/crontabs/daemon", 1, 0o600, "@reboot id -u >/out/who\n")],
    check: "test \"$(cat /proc/$CTRACE_PID/root/out/who)\" = 1",
    needed: &["CAP_DAC_OVERRIDE", "CAP_SETGID", "CAP_SETUID", "CAP_AUDIT_WRITE"],
    // PAM goes on.
    tolerated: &["CAP_AUDIT_WRITE"],
    ..PLAIN
};

fn cron() {
    prove(&CRON);
}

/// Of another user: what it gets, its file gives it.
fn ping() {
    prove(&Daemon {
        args: &["ping", "-i", "0.2", "127.0.0.1"],
        user: 65534,
        check: "sleep 0.4; grep -q '^ping$' /proc/$CTRACE_PID/comm",
        needed: &["CAP_NET_RAW"],
        ..PLAIN
    });
}

fn iperf3() {
    prove(&Daemon {
        args: &["iperf3", "-s"],
        check: "chroot /proc/$CTRACE_PID/root iperf3 -c 127.0.0.1 -t 1 >/dev/null",
        ..PLAIN
    });
}

/// A container of the daemon's, over a layer of its own.
struct Container {
    bundle: Bundle,
    pid: u64,
    // Last: it takes the mounts away.
    place: Place,
}

impl Container {
    fn start(daemon: &Daemon, name: &str) -> Self {
        let place = Place::new();
        let root = layer(&place);
        for (path, owner, mode, text) in daemon.files {
            let file = root.join(path);
            fs::write(&file, text).expect("a file");
            std::os::unix::fs::chown(&file, Some(*owner), Some(*owner)).expect("an owner");
            fs::set_permissions(&file, fs::Permissions::from_mode(*mode)).expect("a mode");
        }
        let mut bundle = Bundle::new(&place, "runc", name, daemon.args);
        let path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
        let tmpfs = |at: &str, mode: &str| json!({"destination": at, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", format!("mode={mode}")]});
        bundle.config["root"]["path"] = json!(root);
        bundle.config["process"]["user"] = json!({"uid": daemon.user, "gid": daemon.user});
        bundle.config["process"]["env"] = daemon.environment.iter().copied().chain([path]).collect();
        bundle.config["process"]["capabilities"] =
            json!({"bounding": GIVEN, "effective": GIVEN, "permitted": GIVEN, "inheritable": [], "ambient": []});
        let mounts = bundle.config["mounts"].as_array_mut().expect("mounts");
        mounts.extend([tmpfs("/dev/shm", "1777"), tmpfs("/run", "755"), tmpfs("/tmp", "1777"), tmpfs("/out", "1777")]);
        bundle.config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({"type": "network"}));
        let pid = bundle.detached();
        Self { bundle, pid, place }
    }

    /// The check, as verify runs it.
    fn passes(&self, check: &str) -> bool {
        let network = format!("--net=/proc/{}/ns/net", self.pid);
        let mut shell = Command::new("nsenter");
        shell.args([&network, "bash", "-c", check]).env("CTRACE_PID", self.pid.to_string());
        output(&mut shell).status.success()
    }
}

/// A layer over the daemons' root, in memory: that is what containers' roots are, and what is written goes with the test.
fn layer(place: &Place) -> PathBuf {
    let lower = std::env::var("CTRACE_DAEMONS").expect("the harness looked for it");
    let (memory, root) = (place.dir.join("memory"), place.dir.join("daemon"));
    let none = None::<&str>;
    fs::create_dir_all(&memory).expect("a folder");
    mount(Some("tmpfs"), &memory, Some("tmpfs"), MsFlags::empty(), none).expect("a tmpfs");
    for name in ["upper", "work"] {
        fs::create_dir(memory.join(name)).expect("a folder");
    }
    fs::create_dir_all(&root).expect("a folder");
    let upper = memory.display();
    let options = format!("lowerdir={lower},upperdir={upper}/upper,workdir={upper}/work");
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str())).expect("a layer");
    // Where vsftpd's unprivileged half stays.
    fs::create_dir_all(root.join("srv/empty")).expect("a folder");
    // runc gives a tmpfs the mode of a folder that is there.
    fs::create_dir(root.join("out")).expect("a folder");
    fs::set_permissions(root.join("out"), fs::Permissions::from_mode(0o1777)).expect("a mode");
    root
}

fn prove(daemon: &Daemon) {
    let name = format!("ctrace-daemon-{:x}", unique());
    let ctrace = Ctrace::ready(command(&["caps", "--json", "--from-start", "--container", &name]));
    ctrace.wait_for("that it waits", |line| line.json["code"] == "waiting");
    let container = Container::start(daemon, &name);
    wait_until("the check to pass", || container.passes(daemon.check).then_some(()));
    let seen = report(ctrace);
    assert_eq!((&seen["startup_seen"], &seen["uncounted"]), (&json!(true), &json!(0)), "{seen:#}");
    assert_eq!(seen["granted"].as_array().map(Vec::len), Some(GIVEN.len()), "{seen:#}");
    assert_eq!(seen["needed"], json!(daemon.needed), "{seen:#}");
    let file = container.place.write("seen.json", &seen.to_string()).display().to_string();
    let verify = ["caps", "verify", "--container", &name, "--from", &file, "--timeout", "20s", "--format", "json"];
    let ended = run(command(&[&verify[..], &["--", "bash", "-c", daemon.check]].concat()));
    assert_eq!((ended.code, ended.out.len()), (Some(0), 1), "{ended:?}");
    let proof: Value = serde_json::from_str(&ended.out[0]).expect("an object");
    evidence::check_proof(&proof);
    let required: Vec<&str> = daemon.needed.iter().filter(|one| !daemon.tolerated.contains(one)).copied().collect();
    assert_eq!(
        (&proof["required"], &proof["tolerated"], &proof["unproven"]),
        (&json!(required), &json!(daemon.tolerated), &json!([])),
        "{proof:#}"
    );
    let trials = proof["trials"].as_array().expect("trials");
    assert_eq!((&trials[0]["set"], &trials[0]["passed"]), (&json!(daemon.needed), &json!(true)), "{proof:#}");
    for one in &required {
        let mut without = trials.iter().filter(|trial| trial["without"] == *one).peekable();
        assert!(without.peek().is_some() && without.all(|trial| trial["passed"] == false), "{one}: {proof:#}");
    }
    measured(format!("required {required:?}, tolerated {:?}, {} trials", daemon.tolerated, trials.len()));
    container.bundle.remove();
}
