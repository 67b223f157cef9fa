//! This kernel: its layout, what it offers, and how the kernel side is attached to it. Only this module knows aya.

pub mod btf;
pub mod btf_file;
mod cast;
mod demand;
pub mod diagnostics;
pub mod host;
pub mod layout;
pub mod load;
mod maps;
pub mod plan;
pub mod symbols;
mod targets;
mod tracefs;
