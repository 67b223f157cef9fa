//! The screen: the real `ctrace` in a real terminal, its keys pressed, on real events.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use crossterm::event::KeyCode;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tracer::tui::keys::{BINDINGS, Key};

use crate::{
    harness::{self, Lack, Test, in_virtual_machine},
    support::{
        cgroups::{Group, Tree},
        ctrace::{binary, command, run},
        patience,
        player::Player,
        pty::{self, Pty},
        tmux::Tmux,
        unique, wait_until,
    },
};

const TMUX: &[Lack] = &[Lack::Tmux];

pub static TESTS: &[Test] = &[
    Test::full("tui::every_key", every_key).needs(TMUX),
    Test::full("tui::w_keeps_what_was_before", w_keeps_what_was_before).needs(TMUX),
    Test::full("tui::sizes", sizes).needs(TMUX),
    Test::full("tui::colours_and_borders", colours_and_borders).needs(TMUX),
    Test::full("tui::stopped_and_back", stopped_and_back).needs(TMUX),
    Test::full("tui::the_terminal_is_given_back", the_terminal_is_given_back).needs(TMUX),
    Test::full("tui::no_frame_without_a_change", no_frame_without_a_change),
    Test::full("tui::a_key_under_exits", a_key_under_exits),
    Test::full("tui::a_key_under_signals", a_key_under_signals),
    Test::full("tui::hot_hooks_on_demand", hot_hooks_on_demand),
    Test::core("tui::caps_of_the_chosen", caps_of_the_chosen).needs(TMUX),
    Test::full("tui::hooks_of_syncs_on_demand", hooks_of_syncs_on_demand),
];

/// A directory that is gone with the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("ctrace-test-{:x}", unique()));
        fs::create_dir(&path).expect("a directory");
        Self(path)
    }

    /// The recording that `w` made in it.
    fn recording(&self) -> Option<PathBuf> {
        let made = fs::read_dir(&self.0).expect("the directory").flatten().map(|entry| entry.path());
        made.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "ctrace"))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// With `--failed` where rows are looked at: to look is to run tmux, whose end is a row as well.
fn ctrace(arguments: &str) -> String {
    format!("{} {arguments}", binary().display())
}

/// Fails in a container of its own; gives that, and how lists call it.
fn failure(tree: &Tree, status: u8) -> (Group, String) {
    let container = tree.container();
    Player::within(&container, &[&format!("exit={status}")]).ended();
    let name = container.name().chars().take(12).collect();
    (container, name)
}

fn last_line(screen: &str) -> &str {
    screen.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default()
}

/// Keys, as tmux calls them; each is ticked off.
struct Keyboard<'a> {
    tmux: &'a Tmux,
    pressed: BTreeSet<String>,
}

impl Keyboard<'_> {
    fn press(&mut self, key: &str) {
        self.pressed.insert(key.to_owned());
        self.tmux.keys(&[key]);
    }

    /// The key changes the screen to one that is as wanted.
    fn shows(&mut self, key: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.press(key);
        self.tmux.until(&format!("what {key} does"), wanted)
    }
}

fn name(key: &Key) -> String {
    match key {
        Key::Ctrl(char) => format!("C-{char}"),
        Key::Code(KeyCode::Char(' ')) => "Space".to_owned(),
        Key::Code(KeyCode::Char(char)) => char.to_string(),
        Key::Code(KeyCode::PageUp) => "PPage".to_owned(),
        Key::Code(KeyCode::PageDown) => "NPage".to_owned(),
        Key::Code(KeyCode::Esc) => "Escape".to_owned(),
        Key::Code(KeyCode::Backspace) => "BSpace".to_owned(),
        Key::Code(KeyCode::BackTab) => "BTab".to_owned(),
        Key::Code(KeyCode::F(number)) => format!("F{number}"),
        Key::Code(code) => format!("{code:?}"),
    }
}

/// Each key of the table does what the table says. None is left out.
fn every_key() {
    let tree = Tree::new();
    let directory = Directory::new();
    let tmux = Tmux::shell(80, 24, &[]);
    tmux.types(&format!("cd {} && clear && {}", directory.0.display(), ctrace("exits --failed")));
    tmux.sees("q quit");
    let failed: Vec<String> = (3..9).map(|status| failure(&tree, status).1).collect();
    let (first, last) = (&failed[0], &failed[5]);
    let mut keyboard = Keyboard { tmux: &tmux, pressed: BTreeSet::new() };
    for failed in &failed {
        tmux.sees(failed);
    }
    keyboard.shows("/", |screen| last_line(screen).contains("Enter keeps it"));
    // The players' name: what else fails on this machine is not meant.
    let own: String = fs::read_to_string("/proc/self/comm").expect("a name").chars().take(7).collect();
    for key in own.chars() {
        tmux.keys(&[&key.to_string()]);
    }
    tmux.keys(&["Enter"]);
    tmux.sees(&format!("filter \"{own}\""));
    // The chosen row is told in full below the list.
    let chosen = |screen: &str, name: &str| screen.lines().any(|line| line.contains(name) && line.contains('─'));
    keyboard.shows("g", |screen| chosen(screen, last));
    for (down, up) in [("Down", "Up"), ("j", "k")] {
        keyboard.shows(down, |screen| chosen(screen, &failed[4]));
        keyboard.shows(up, |screen| chosen(screen, last));
    }
    for (down, up) in [("G", "g"), ("End", "Home"), ("NPage", "PPage"), ("C-f", "C-b")] {
        keyboard.shows(down, |screen| chosen(screen, first));
        keyboard.shows(up, |screen| chosen(screen, last));
    }
    for (open, back) in [("Enter", "Escape"), ("l", "h"), ("Right", "Left"), ("Enter", "BSpace")] {
        keyboard.shows(open, |screen| !last_line(screen).contains("/ filter"));
        keyboard.shows(back, |screen| last_line(screen).contains("/ filter") && chosen(screen, last));
    }
    let sorted = |screen: &str| screen.lines().find(|line| line.contains("CONTAINER")).unwrap_or_default().to_owned();
    let before = sorted(&tmux.screen());
    let next = sorted(&keyboard.shows("s", |screen| sorted(screen) != before));
    keyboard.shows("S", |screen| sorted(screen) != next);
    keyboard.shows("c", |screen| last_line(screen).contains("the fix is in the clipboard"));
    let fix = wait_until("the clipboard", || tmux.clipboard());
    assert!(fix.len() > 10 && !fix.contains('\x1b'), "{fix:?}");
    keyboard.shows("e", |screen| screen.contains("exit.error"));
    keyboard.shows("e", |screen| last_line(screen).contains("/ filter"));
    keyboard.shows("n", |screen| screen.contains("probes attached"));
    keyboard.shows("n", |screen| last_line(screen).contains("/ filter"));
    for key in ["?", "F1"] {
        keyboard.shows(key, |screen| screen.contains("all about the finding"));
        keyboard.shows(key, |screen| last_line(screen).contains("/ filter"));
    }
    // What comes while it is frozen is counted, and shown afterwards.
    keyboard.shows("Space", |screen| screen.contains("frozen, "));
    let (_, new) = failure(&tree, 9);
    tmux.until("a count of what is new", |screen| screen.contains("frozen, ") && !screen.contains("frozen, 0 new"));
    assert!(!tmux.screen().contains(&new));
    keyboard.shows("Space", |screen| screen.contains(&new) && !screen.contains("frozen"));
    keyboard.shows("Escape", |screen| !screen.contains("filter \""));
    keyboard.shows("w", |screen| last_line(screen).contains("recording to"));
    keyboard.shows("w", |screen| last_line(screen).contains("recorded "));
    assert!(directory.recording().is_some());
    keyboard.shows("C-z", |screen| screen.contains("Stopped"));
    tmux.types("fg");
    tmux.sees("/ filter");
    keyboard.press("C-c");
    tmux.until("the shell", |screen| last_line(screen) == "$");
    // Tabs are of several lenses.
    tmux.types(&ctrace(""));
    tmux.sees("▏overview");
    keyboard.shows("Tab", |screen| screen.contains("▏all"));
    keyboard.shows("BTab", |screen| screen.contains("▏overview"));
    keyboard.press("q");
    tmux.until("the shell", |screen| last_line(screen) == "$");
    let live = BINDINGS.iter().filter(|binding| binding.on.is(false)).flat_map(|binding| binding.keys).map(name);
    let missed: Vec<String> = live.filter(|key| !keyboard.pressed.contains(key)).collect();
    assert!(missed.is_empty(), "not tried: {missed:?}");
}

/// What was seen before the key is in the file, and what comes after it.
fn w_keeps_what_was_before() {
    let tree = Tree::new();
    let directory = Directory::new();
    let tmux = Tmux::shell(100, 30, &[]);
    tmux.types(&format!("cd {} && clear && {}", directory.0.display(), ctrace("exits --failed")));
    tmux.sees("q quit");
    let (before, shown) = failure(&tree, 3);
    tmux.sees(&shown);
    tmux.keys(&["w"]);
    tmux.sees("recording to");
    let (after, shown) = failure(&tree, 4);
    tmux.sees(&shown);
    tmux.keys(&["q"]);
    tmux.until("the shell", |screen| last_line(screen) == "$");
    let file = directory.recording().expect("a recording");
    let replayed = run(command(&["replay", &file.to_string_lossy(), "--json"]));
    assert_eq!((replayed.code, &replayed.err[..]), (Some(0), &[][..]));
    let lines: Vec<serde_json::Value> =
        replayed.out.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[0]["code"], "ready", "it begins with the run");
    let of = |group: &Group| -> Vec<&str> {
        let about = lines.iter().filter(|line| line["container"]["id"] == group.name());
        about.filter_map(|line| line["code"].as_str()).collect()
    };
    assert_eq!((of(&before), of(&after)), (vec!["exit.error"], vec!["exit.error"]));
}

fn sizes() {
    let tree = Tree::new();
    let tmux = Tmux::shell(80, 24, &[]);
    tmux.types(&ctrace("exits --failed"));
    tmux.sees("q quit");
    let (_, name) = failure(&tree, 3);
    let full = |width: usize, height: usize| {
        let fits = move |screen: &str| {
            let widest = screen.lines().map(|line| line.chars().count()).max();
            screen.lines().count() == height && widest.is_some_and(|widest| widest > width * 9 / 10)
        };
        tmux.until(&format!("all of {width}x{height}"), |screen| {
            fits(screen) && screen.contains(&name) && last_line(screen).contains("q quit")
        })
    };
    full(80, 24);
    tmux.resize(40, 10);
    let small = tmux.sees("ctrace needs");
    assert!(small.contains("this is 40x10"), "{small}");
    tmux.resize(300, 100);
    full(300, 100);
    tmux.resize(80, 24);
    full(80, 24);
    tmux.keys(&["q"]);
    tmux.until("the shell", |screen| last_line(screen) == "$");
}

fn colours_and_borders() {
    // Colours, and nothing else: 30 to 37, 40 to 47, 90 to 97, 38 and 48 with what follows.
    let coloured = |screen: &str| {
        screen.split('\x1b').any(|part| {
            let Some((codes, _)) = part.strip_prefix('[').and_then(|part| part.split_once('m')) else { return false };
            codes
                .split(';')
                .filter_map(|code| code.parse::<u32>().ok())
                .any(|code| matches!(code, 30..=38 | 40..=48 | 90..=97))
        })
    };
    let tree = Tree::new();
    for (environment, option, has_colour, is_ascii) in [
        (&[][..], "", true, false),
        (&[("NO_COLOR", "1")], "", false, false),
        (&[], "--no-color", false, false),
        (&[("LC_ALL", "C")], "", true, true),
    ] {
        let tmux = Tmux::shell(80, 24, environment);
        tmux.types(&format!("clear; {} {option}", ctrace("exits --failed")));
        tmux.sees("q quit");
        let (_, name) = failure(&tree, 3);
        let screen = tmux.sees(&name);
        assert_eq!(screen.is_ascii(), is_ascii, "{environment:?}: {screen}");
        assert_eq!(coloured(&tmux.styled()), has_colour, "{environment:?}: {:?}", tmux.styled());
    }
}

fn stopped_and_back() {
    let tmux = Tmux::shell(80, 24, &[]);
    tmux.types(&ctrace("exits --failed"));
    tmux.sees("q quit");
    assert!(tmux.is_alternate());
    // By the key, which the terminal gives as such, and by the signal.
    let pid = || tmux.format("#{pane_pid}");
    for by_key in [true, false] {
        if by_key {
            tmux.keys(&["C-z"]);
        } else {
            let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", pid())).expect("the shell");
            let ctrace: i32 = children.trim().parse().expect("one child");
            kill(Pid::from_raw(ctrace), Signal::SIGTSTP).expect("it lives");
        }
        tmux.sees("Stopped");
        assert!(!tmux.is_alternate());
        tmux.types("stty -a");
        tmux.until("the terminal's modes", |screen| screen.contains(" icanon") && screen.contains(" echo "));
        tmux.types("clear; fg");
        tmux.sees("q quit");
        assert!(tmux.is_alternate());
    }
    tmux.keys(&["?"]);
    tmux.sees("all about the finding");
}

/// After a signal, and after a panic, it is the shell's again: cursor, screen, modes.
fn the_terminal_is_given_back() {
    let tmux = Tmux::shell(80, 24, &[]);
    let own = std::env::current_exe().expect("the path of this program");
    let good = || {
        tmux.until("the shell", |screen| last_line(screen) == "$");
        assert!(!tmux.is_alternate());
        assert_eq!(tmux.format("#{cursor_flag}"), "1", "the cursor is there");
        tmux.types("clear; stty -a");
        tmux.until("the terminal's modes", |screen| screen.contains(" icanon") && screen.contains(" echo "));
        tmux.types("clear");
    };
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        tmux.types(&format!("{}; echo code $?", ctrace("exits --failed")));
        tmux.sees("q quit");
        let shell = tmux.format("#{pane_pid}");
        let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).expect("the shell");
        kill(Pid::from_raw(children.trim().parse().expect("one child")), signal).expect("it lives");
        tmux.sees("code 0");
        good();
    }
    tmux.types(&format!("{} play panic", own.display()));
    wait_until("it to take the terminal", || tmux.is_alternate().then_some(()));
    tmux.sees("as asked for");
    good();
}

/// A recording that stands still: not a byte goes to the terminal.
fn no_frame_without_a_change() {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/recordings/incident.ctrace");
    let mut pty = Pty::start(command(&["replay", fixture]), 100, 30);
    assert!(pty.answered(b"$", "paused").is_some(), "it is at its end");
    std::thread::sleep(Duration::from_millis(500));
    let before = pty.length();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(pty.length(), before);
    assert!(pty.answered(b"?", "clipboard").is_some(), "it is there");
}

/// As many exits as this machine has time for, while all its CPUs are busy with them.
fn a_key_under_exits() {
    // Each is one event at least.
    let forks = || -> u64 {
        let stat = fs::read_to_string("/proc/stat").expect("/proc/stat");
        let line = stat.lines().find_map(|line| line.strip_prefix("processes ")).expect("a count");
        line.parse().expect("a number")
    };
    let tree = Tree::new();
    let container = tree.container();
    a_key_under_load("exits", || (0..2).map(|_| Player::within(&container, &["forks=1000000"])).collect(), |_| forks());
}

/// More than ten thousand signals a second, none of them like another.
fn a_key_under_signals() {
    let tree = Tree::new();
    let container = tree.container();
    // An emulated machine is ten times slower.
    let asked = if in_virtual_machine() { 1_000 } else { 12_000 };
    let load = || vec![Player::within(&container, &[&format!("volleys={asked}")])];
    let sent = |load: &[Player]| {
        let lines = load[0].lines();
        lines.last().and_then(|line| line.strip_prefix("sent ")?.parse().ok()).unwrap_or(0)
    };
    let rate = a_key_under_load("signals", load, sent);
    assert!(rate >= 10_000 || in_virtual_machine(), "{rate} a second");
}

/// A key is answered in time, and ten frames a second are enough. Gives how many events there were a second.
fn a_key_under_load(lens: &str, load: impl FnOnce() -> Vec<Player>, count: impl Fn(&[Player]) -> u64) -> u64 {
    const SECONDS: usize = 4;
    let mut pty = Pty::start(command(&[lens]), 120, 40);
    wait_until("the first frame", || (pty.frames_since(0) > 0).then_some(()));
    let load = load();
    std::thread::sleep(Duration::from_secs(2));
    let (from, before) = (pty.length(), count(&load));
    std::thread::sleep(Duration::from_secs(SECONDS as u64));
    let (frames, rate) = (pty.frames_since(from), (count(&load) - before) / SECONDS as u64);
    let mut took: Vec<Duration> = Vec::new();
    for _ in 0..20 {
        took.extend(pty.answered(b"?", "clipboard"));
        pty.press(b"?");
        std::thread::sleep(Duration::from_millis(200));
    }
    took.sort();
    harness::measured(format!("{rate} events a second: {frames} frames in {SECONDS} s, keys answered in {took:?}"));
    assert!((SECONDS..=SECONDS * 10 + 1).contains(&frames), "{frames} frames in {SECONDS} s");
    // The load and others use this machine as well: the better half is what ctrace does by itself.
    assert!(took.len() >= 10 && took[took.len() / 4] < Duration::from_millis(50), "{took:?}");
    rate
}

/// Does more want to run on this machine than it has CPUs, or does something wait for a disk?
fn is_machine_busy() -> bool {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let loads = fs::read_to_string("/proc/loadavg").expect("/proc/loadavg");
    let runnable = loads.split_whitespace().nth(3).and_then(|tasks| tasks.split_once('/')?.0.parse::<usize>().ok());
    let stat = fs::read_to_string("/proc/stat").expect("/proc/stat");
    let blocked = stat.lines().find_map(|line| line.strip_prefix("procs_blocked ")?.parse::<usize>().ok());
    runnable.is_none_or(|tasks| tasks > cpus + 1) || blocked.is_none_or(|tasks| tasks > 0)
}

/// The hooks of packets are there while the tab net is open; the scheduler's also while there is something to see.
fn hot_hooks_on_demand() {
    const HOOKS: &[&str] = &["sched_switch", "sched_wakeup", "sched_wakeup_new"];
    const PACKETS: &[&str] = &["net_dev_start_xmit", "netif_receive_skb"];
    let (tree, mut pty) = (Tree::new(), Pty::start(command(&[]), 120, 40));
    let count = |pty: &Pty, hooks: &[&str]| hooks.iter().filter(|hook| pty.is_attached(hook)).count();
    let attached = |pty: &Pty| count(pty, HOOKS);
    // What else runs here may well be worth to be watched.
    let without = |pty: &Pty, why: &str| {
        let mut end = Instant::now() + patience();
        while attached(pty) > 0 {
            if is_machine_busy() {
                end = Instant::now() + patience();
            }
            assert!(Instant::now() < end, "the hooks stay attached, {why}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    wait_until("the first frame", || (pty.frames_since(0) > 0).then_some(()));
    wait_until("the other hooks", || pty.is_attached("sched_process_exit").then_some(()));
    without(&pty, "at the start");
    assert_eq!(count(&pty, PACKETS), 0, "nobody looks at packets");
    let mut presses = 0;
    wait_until("the tab net to have its hooks", || {
        pty.press(b"\t");
        presses += 1;
        std::thread::sleep(Duration::from_millis(200));
        (count(&pty, PACKETS) == PACKETS.len()).then_some(())
    });
    wait_until("the tab cpu to have them", || {
        pty.press(b"\t");
        presses += 1;
        std::thread::sleep(Duration::from_millis(200));
        (attached(&pty) == HOOKS.len()).then_some(())
    });
    harness::measured(format!("{presses} tabs on"));
    // To the overview: nothing of cpu is on the screen.
    for _ in 0..presses {
        pty.press(b"\x1b[Z");
    }
    without(&pty, "though nobody looks");
    wait_until("the hooks of packets to go", || (count(&pty, PACKETS) == 0).then_some(()));
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let container = tree.container();
    let busy = Player::within(&container, &[&format!("busy={}", cpus + 3), "pause"]);
    wait_until("more tasks than CPUs to be watched", || (attached(&pty) == HOOKS.len()).then_some(()));
    drop(busy);
    without(&pty, "though all is over");
}

/// The tab caps watches the container that was chosen in the overview, from then on until it ends; what it showed is in a
/// recording.
fn caps_of_the_chosen() {
    let tree = Tree::new();
    let directory = Directory::new();
    let container = tree.container();
    let name: String = container.name().chars().take(12).collect();
    let steps = ["say=ready", "await", "try=CAP_CHOWN", "say=one", "await", "chroot", "say=two", "await"];
    let mut app = Player::within(&container, &steps);
    app.said("ready");
    let tmux = Tmux::shell(120, 40, &[]);
    tmux.types(&format!("cd {} && clear && {}", directory.0.display(), ctrace("")));
    tmux.sees("\u{258f}overview");
    let shell = tmux.format("#{pane_pid}");
    let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).expect("the shell");
    let pid: u32 = children.trim().parse().expect("one child");
    // One that no other lens has.
    let watches = || pty::is_attached(pid, "cgroup_attach_task");
    tmux.keys(&["/", &name, "Enter"]);
    tmux.sees(&format!("filter \"{name}\": 1 shown"));
    assert!(!watches(), "nobody looks");
    tmux.keys(&["BTab"]);
    tmux.sees("its start was not seen");
    assert!(watches());
    let row = |screen: &str, name: &str| {
        screen.lines().any(|line| line.contains(name) && line.contains("needed") && line.contains("kernel"))
    };
    app.go();
    app.said("one");
    tmux.until("what it needs", |screen| row(screen, "CHOWN") && !row(screen, "SYS_CHROOT"));
    // What happens while nobody looks is seen as well.
    tmux.keys(&["Tab"]);
    tmux.sees("\u{258f}overview");
    app.go();
    app.said("two");
    tmux.keys(&["BTab"]);
    tmux.until("what it needs later", |screen| row(screen, "CHOWN") && row(screen, "SYS_CHROOT"));
    assert!(watches());
    app.go();
    app.ended();
    wait_until("the cgroup to go", || fs::remove_dir(container.directory()).ok());
    let last = tmux.sees("and it has ended");
    wait_until("the hooks to go", || (!watches()).then_some(()));
    tmux.keys(&["w"]);
    tmux.sees("recording to");
    tmux.keys(&["q"]);
    tmux.until("the shell", |screen| last_line(screen) == "$");
    let file = directory.recording().expect("a recording");
    tmux.types(&format!("clear; {}", ctrace(&format!("replay {}", file.display()))));
    tmux.sees("\u{258f}overview");
    tmux.keys(&["$"]);
    tmux.sees("paused");
    let rows = |screen: &str| -> Vec<String> {
        screen
            .lines()
            .filter(|line| line.contains("needed") || line.contains("never used"))
            .map(str::to_owned)
            .collect()
    };
    tmux.keys(&["/", &name, "Enter"]);
    tmux.sees(&format!("filter \"{name}\""));
    tmux.keys(&["BTab"]);
    let replayed = tmux.sees("and it has ended");
    assert_eq!(rows(&replayed), rows(&last));
    assert!(rows(&last).len() >= 2, "{last}");
}

/// Where no function can be hooked, each system call passes by who looks for fsync: only while the tab io is open.
fn hooks_of_syncs_on_demand() {
    let mut command = command(&[]);
    command.env("CTRACE_WITHOUT", "sync_begin_call");
    let mut pty = Pty::start(command, 120, 40);
    wait_until("the first frame", || (pty.frames_since(0) > 0).then_some(()));
    wait_until("the other hooks", || pty.is_attached("sched_process_exit").then_some(()));
    assert!(!pty.is_attached("sys_enter"), "nobody looks at io");
    let mut presses = 0;
    wait_until("the tab io to have its hooks", || {
        pty.press(b"\t");
        presses += 1;
        std::thread::sleep(Duration::from_millis(200));
        pty.is_attached("sys_enter").then_some(())
    });
    for _ in 0..presses {
        pty.press(b"\x1b[Z");
    }
    wait_until("them to go", || (!pty.is_attached("sys_enter")).then_some(()));
}
