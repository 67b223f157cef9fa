//! Reads of kernel memory at offsets that this kernel's BTF gave.

use aya_ebpf::{Global, helpers::bpf_probe_read_kernel};
use tracer_common::ABSENT;

/// A kernel pointer: only ever an address to probe, never dereferenced.
pub type Ptr = *const u8;

/// Reads a `T` at an absolute address. `None` where the kernel refuses (a stale or null pointer).
#[inline(always)]
pub fn at<T>(address: Ptr) -> Option<T> {
    if address.is_null() {
        return None;
    }
    // SAFETY: the helper checks the address itself and fails instead of faulting.
    unsafe { bpf_probe_read_kernel(address.cast::<T>()) }.ok()
}

/// Reads the field of `base` that `offset` names; `None` where this kernel has no such field.
#[inline(always)]
pub fn field<T>(base: Ptr, offset: &Global<u32>) -> Option<T> {
    at(place(base, offset)?)
}

/// The address of a field.
#[inline(always)]
pub fn place(base: Ptr, offset: &Global<u32>) -> Option<Ptr> {
    let offset = offset.load();
    if offset == ABSENT || base.is_null() {
        return None;
    }
    Some(base.wrapping_add(offset as usize))
}

/// Follows a pointer field; `None` where it is null.
#[inline(always)]
pub fn follow(base: Ptr, offset: &Global<u32>) -> Option<Ptr> {
    let pointer: u64 = field(base, offset)?;
    if pointer == 0 { None } else { Some(pointer as Ptr) }
}
