//! How what ctrace says looks: lines for people and grep, JSON for programs. Views hold no logic and do no I/O: they
//! make text.

pub mod caps;
pub mod containers;
pub mod cpu;
pub mod escape;
pub mod io;
pub mod json;
pub mod lines;
pub mod mem;
pub mod net;
pub mod pids;
pub mod rows;
pub mod table;
