//! A terminal that is looked at and typed into: tmux, with a server of its own.

use std::{fmt::Write, process::Command};

use super::{engines::run, unique, wait_until};

pub struct Tmux {
    socket: String,
}

impl Tmux {
    /// A shell in a terminal of this size, with job control, and a prompt that is its own.
    pub fn shell(width: u16, height: u16, environment: &[(&str, &str)]) -> Self {
        let name = format!("ctrace-test-{:x}", unique());
        let tmux = Self { socket: name };
        let (width, height) = (width.to_string(), height.to_string());
        let mut shell = "exec env -u NO_COLOR LC_ALL=C.UTF-8 PS1='$ '".to_owned();
        for (key, value) in environment {
            let _ = write!(shell, " {key}={value}");
        }
        shell += " sh -i";
        tmux.run(&["-f", "/dev/null", "new-session", "-d", "-x", &width, "-y", &height, &shell]);
        tmux.run(&["set-option", "-s", "set-clipboard", "on"]);
        tmux.sees("$");
        tmux
    }

    /// What is on the screen, line by line.
    pub fn screen(&self) -> String {
        self.run(&["capture-pane", "-p"])
    }

    /// The same with its colours.
    pub fn styled(&self) -> String {
        self.run(&["capture-pane", "-p", "-e"])
    }

    /// Waits until this is on the screen. Gives the screen.
    pub fn sees(&self, text: &str) -> String {
        self.until(text, |screen| screen.contains(text))
    }

    pub fn until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until(&format!("the screen to show {what}"), || {
                last = self.screen();
                wanted(&last).then(|| last.clone())
            })
        }));
        found.unwrap_or_else(|panic| {
            crate::harness::detail(format!("the screen was:\n{last}"));
            std::panic::resume_unwind(panic)
        })
    }

    /// Keys by tmux's names: `q`, `Enter`, `C-z`, `BTab`.
    pub fn keys(&self, keys: &[&str]) {
        self.run(&[&["send-keys"], keys].concat());
    }

    /// A line for the shell.
    pub fn types(&self, line: &str) {
        self.run(&["send-keys", "-l", line]);
        self.keys(&["Enter"]);
    }

    pub fn resize(&self, width: u16, height: u16) {
        self.run(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    /// What a program brought into the clipboard.
    pub fn clipboard(&self) -> Option<String> {
        let output = self.command(&["show-buffer"]).output().expect("tmux");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// As tmux expands it.
    pub fn format(&self, format: &str) -> String {
        self.run(&["display-message", "-p", format]).trim().to_owned()
    }

    /// Is it on the screen that programs take, and that vanishes with them?
    pub fn is_alternate(&self) -> bool {
        self.format("#{alternate_on}") == "1"
    }

    fn run(&self, arguments: &[&str]) -> String {
        run(&mut self.command(arguments))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.socket]).args(arguments).env_remove("TMUX").env("LC_ALL", "C.UTF-8");
        command
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.command(&["kill-server"]).output();
    }
}

/// Takes the terminal as ctrace does, and dies in the middle of it.
pub fn panicking() -> ! {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _within = runtime.enter();
    let _tui = tracer::tui::Tui::open(tracer::tui::Settings {
        color: false,
        title: "panic".to_owned(),
        zone: jiff::tz::TimeZone::UTC,
        tabs: tracer::tui::panel::tabs(&["oom"]),
        replay: None,
    })
    .expect("a terminal");
    std::thread::sleep(std::time::Duration::from_secs(1));
    panic!("as asked for");
}
