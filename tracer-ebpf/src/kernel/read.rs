//! Reads of kernel memory at offsets that this kernel's BTF gave.
//!
//! Without branches: a read that fails gives all ones, which is what `UNKNOWN_*` are, and what follows from it fails the
//! same way. A branch per read would double the states that the verifier has to follow, read by read.

use core::mem::MaybeUninit;

use aya_ebpf::{Global, helpers::generated::bpf_probe_read_kernel};
use tracer_common::ABSENT;

/// An address in the kernel: only ever probed. All ones, or anything near null, fails when it is read.
pub type Ptr = u64;

pub const NOWHERE: Ptr = u64::MAX;

macro_rules! reads {
    ($($name:ident: $type:ty;)*) => {
        $(
            /// The number at an address; all ones where the kernel refuses.
            #[inline(always)]
            pub fn $name(address: Ptr) -> $type {
                let mut value = MaybeUninit::<$type>::zeroed();
                // SAFETY: the helper checks the address itself, and writes at most the size it is given.
                let failed = unsafe {
                    bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<$type>() as u32, address as *const _)
                };
                // A failed helper has zeroed the value; its negative result, spread by the shift, sets every bit.
                // SAFETY: zeroed above, and any bits are a number.
                unsafe { value.assume_init() | (failed >> 63) as $type }
            }
        )*
    };
}
reads! {
    u64_at: u64;
    u32_at: u32;
    i64_at: i64;
    i32_at: i32;
    i16_at: i16;
    u16_at: u16;
    u8_at: u8;
}

/// The address of a field; `NOWHERE` where this kernel has no such field.
#[inline(always)]
pub fn place(base: Ptr, offset: &Global<u32>) -> Ptr {
    let offset = offset.load();
    if offset == ABSENT { NOWHERE } else { base.wrapping_add(u64::from(offset)) }
}

/// Follows a pointer field.
#[inline(always)]
pub fn follow(base: Ptr, offset: &Global<u32>) -> Ptr {
    u64_at(place(base, offset))
}
