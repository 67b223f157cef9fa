//! The terminal's modes: taken once, given back once, whatever ends us.

use std::{
    io::{self, BufWriter, Stdout, Write},
    panic,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

use crossterm::{
    cursor::{Hide, Show},
    execute,
    terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
};
use nix::{
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction},
    unistd::Pid,
};
use ratatui::backend::CrosstermBackend;

pub(super) type Backend = CrosstermBackend<BufWriter<Stdout>>;

/// A frame of a large terminal in one write: ssh and tmux then show it whole.
const FRAME_BYTES: usize = 64 << 10;

/// Is the terminal ours now? A panic's hook has nothing else to go by.
static TAKEN: AtomicBool = AtomicBool::new(false);
static HOOK: Once = Once::new();

/// The terminal, taken. Dropping it gives it back.
pub(super) struct Taken(());

impl Taken {
    pub(super) fn take() -> io::Result<Self> {
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |panic| {
                // First the terminal, or the message would go to the alternate screen and vanish with it.
                let _ = give_back();
                before(panic);
            }));
        });
        enter()?;
        Ok(Self(()))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let _ = give_back();
    }
}

/// Takes the terminal again, from whatever state a shell, or a job in the meantime, left it in.
pub(super) fn retake() -> io::Result<()> {
    give_back()?;
    enter()
}

/// Stops as Ctrl-Z stops any program: the whole job, by the signal that shells expect. Returns after `fg`.
pub(super) fn suspend() -> io::Result<()> {
    give_back()?;
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default disposition runs no code of ours; the former one is put back as it was.
    let before = unsafe { sigaction(Signal::SIGTSTP, &default) }?;
    let stopped = kill(Pid::from_raw(0), Signal::SIGTSTP);
    // SAFETY: this is the action that was in force above.
    unsafe { sigaction(Signal::SIGTSTP, &before) }?;
    stopped?;
    enter()
}

pub(super) fn backend() -> Backend {
    CrosstermBackend::new(BufWriter::with_capacity(FRAME_BYTES, io::stdout()))
}

fn enter() -> io::Result<()> {
    enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    execute!(io::stdout(), EnterAlternateScreen, Hide)
}

/// Does nothing where the terminal isn't ours: so it may be called twice.
pub(super) fn give_back() -> io::Result<()> {
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return Ok(());
    }
    let screen = execute!(io::stdout(), Show, LeaveAlternateScreen);
    let modes = disable_raw_mode();
    io::stdout().flush()?;
    screen.and(modes)
}
