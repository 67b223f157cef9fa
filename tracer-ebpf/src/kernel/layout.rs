//! The kernel's layout and this run's wishes: read-only globals that user space fills before load. One global each: a
//! struct would be copied whole to the stack at every load.

use aya_ebpf::Global;
use tracer_common::{ABSENT, kernel_facts, kernel_fields};

macro_rules! offsets {
    ($($name:ident = $path:literal;)*) => {
        $(#[unsafe(no_mangle)] #[doc = $path] pub static $name: Global<u32> = Global::new(ABSENT);)*
    };
}
kernel_fields!(offsets);

macro_rules! facts {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $($(#[$doc])* #[unsafe(no_mangle)] pub static $name: Global<u32> = Global::new(ABSENT);)*
    };
}
kernel_facts!(facts);
