//! When something is to be read again.

/// Readings come this often, and less often where they take long …
pub const EVERY_NS: u64 = 900_000_000;
/// … so that they cost at most one part in this many of one CPU.
const SHARE: u64 = 50;

#[derive(Debug, Default)]
pub struct Pace {
    due_ns: u64,
}

impl Pace {
    pub fn is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.due_ns
    }

    /// It was asked for now.
    pub fn asked(&mut self, now_ns: u64, every_ns: u64) {
        self.due_ns = now_ns.saturating_add(every_ns);
    }

    /// It came now, and took so long to read.
    pub fn came(&mut self, now_ns: u64, took_ns: u64) {
        self.due_ns = self.due_ns.max(now_ns.saturating_add(took_ns.saturating_mul(SHARE)));
    }
}
