//! A terminal without a picture of it: what is written is read as it comes, so that time can be measured.

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::process::CommandExt,
    process::{Child, Command},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use nix::{
    libc,
    pty::{Winsize, openpty},
};

/// ratatui hides the cursor once in each frame.
const FRAME: &[u8] = b"\x1b[?25l";

pub struct Pty {
    child: Child,
    keyboard: File,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Pty {
    pub fn start(mut command: Command, width: u16, height: u16) -> Self {
        let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).expect("a terminal");
        let slave = File::from(pty.slave);
        let other = || slave.try_clone().expect("a descriptor");
        command.stdin(other()).stdout(other()).stderr(other()).env("TERM", "xterm").env("LC_ALL", "C.UTF-8");
        // SAFETY: two system calls, between fork and exec.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                if libc::ioctl(0, libc::TIOCSCTTY, 0) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().expect("ctrace");
        let keyboard = File::from(pty.master);
        let mut screen = keyboard.try_clone().expect("a descriptor");
        let written = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&written);
        thread::spawn(move || {
            let mut bytes = [0; 8 << 10];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                kept.lock().expect("nobody panics with it").extend_from_slice(&bytes[..count]);
            }
        });
        Self { child, keyboard, written }
    }

    /// Does it hold a link to this tracepoint?
    pub fn is_attached(&self, tracepoint: &str) -> bool {
        is_attached(self.child.id(), tracepoint)
    }

    /// How much was written until now.
    pub fn length(&self) -> usize {
        self.written.lock().expect("nobody panics with it").len()
    }

    pub fn frames_since(&self, start: usize) -> usize {
        let written = self.written.lock().expect("nobody panics with it");
        written[start..].windows(FRAME.len()).filter(|part| *part == FRAME).count()
    }

    pub fn press(&mut self, key: &[u8]) {
        self.keyboard.write_all(key).expect("a terminal");
    }

    /// Presses a key; how long it takes until this stands in what is written.
    pub fn answered(&mut self, key: &[u8], text: &str) -> Option<Duration> {
        let from = self.length();
        let start = Instant::now();
        self.press(key);
        while start.elapsed() < Duration::from_secs(2) {
            let written = self.written.lock().expect("nobody panics with it");
            if written[from..].windows(text.len()).any(|part| part == text.as_bytes()) {
                return Some(start.elapsed());
            }
            drop(written);
            thread::sleep(Duration::from_micros(500));
        }
        None
    }
}

/// Does this process hold a link to this tracepoint?
pub fn is_attached(pid: u32, tracepoint: &str) -> bool {
    let files = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("ctrace runs").flatten();
    let mut texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
    texts.any(|text| text.lines().any(|line| line.strip_prefix("tp_name:").map(str::trim) == Some(tracepoint)))
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
