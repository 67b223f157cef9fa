//! Reads of kernel memory at offsets that this kernel's BTF gave.
//!
//! Without branches: a read that fails gives all ones, which is what `UNKNOWN_*` are, and what follows from it fails the
//! same way. A branch per read would double the states that the verifier has to follow, read by read.

use core::mem::MaybeUninit;

use aya_ebpf::{Global, helpers::generated::bpf_probe_read_kernel};
use tracer_common::ABSENT;

/// An address in the kernel: only ever probed. Anything near null fails when it is read, and so does what lies a field's
/// offset beyond all ones.
pub type Ptr = u64;

/// Null, which the kernel refuses to read before it tries: all ones is a kernel's address, and reading there is a page fault
/// that is caught, for some 400 ns.
pub const NOWHERE: Ptr = 0;

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

/// Fields of a structure of which the verifier knows the type: read without a helper, in a twentieth of the time. What such a
/// field points to is of a known type, too.
pub mod known {
    use aya_ebpf::{Global, macros::map, maps::PerCpuArray};
    use tracer_common::{ABSENT, layout::CAST_CALL};

    use super::{super::layout, Ptr};

    macro_rules! fields {
        ($($type:ident)*) => {
            $(
                /// The number in a field of that size; all ones where this kernel has no such field, and 0 where there is
                /// nothing.
                ///
                /// # Safety
                /// The pointer is an argument of a typed tracepoint, came from a helper that gives one of a known type, or
                /// was read by this. The verifier refuses any other.
                #[inline(always)]
                pub unsafe fn $type(base: Ptr, offset: &Global<u32>) -> $type {
                    let offset = offset.load();
                    if offset == ABSENT {
                        return $type::MAX;
                    }
                    let field = core::ptr::with_exposed_provenance::<$type>((base + u64::from(offset)) as usize);
                    // SAFETY: what cannot be read there the kernel reads as 0.
                    unsafe { field.read_volatile() }
                }
            )*
        };
    }
    fields!(u64 u32 u16);

    /// Can any address be read as fields are? Known when the programs are loaded, since 6.2.
    #[inline(always)]
    pub fn can_be_anywhere() -> bool {
        layout::WORDS_TYPE.load() != 0
    }

    /// A pointer to words at that address, and to parts of them. The verifier puts a move in place of the call, and what cannot be
    /// read there is 0. Only where [`can_be_anywhere`].
    #[inline(always)]
    pub fn anywhere(address: Ptr) -> Ptr {
        // SAFETY: the kernel's own function (kernel/bpf/helpers.c), called as helpers are.
        let cast = unsafe { core::mem::transmute::<usize, extern "C" fn(Ptr, u32) -> Ptr>(CAST_CALL as usize) };
        cast(address, layout::WORDS_TYPE.load())
    }

    /// Words that stand together.
    ///
    /// # Safety
    /// As of a field.
    #[inline(always)]
    pub unsafe fn words<const WORDS: usize>(base: Ptr) -> [u64; WORDS] {
        let first = core::ptr::with_exposed_provenance::<u64>(base as usize);
        // SAFETY: as above; volatile, or their parts would be read one by one.
        core::array::from_fn(|at| unsafe { first.add(at).read_volatile() })
    }

    /// Such a pointer as a number, which may be reckoned with: the verifier lets nobody do that with a pointer, and forgets what it
    /// is in memory of a map. Only for what runs with softirqs off: nothing else of the kind comes in between.
    #[inline(always)]
    pub fn number(pointer: Ptr) -> Ptr {
        let Some(word) = WORD.get_ptr_mut(0) else { return super::NOWHERE };
        // SAFETY: this CPU's own value.
        unsafe {
            word.write_volatile(pointer);
            word.read_volatile()
        }
    }

    #[map]
    static WORD: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
}

/// Two numbers that stand together; all ones where the kernel refuses.
#[inline(always)]
pub fn pair_at<T: Number>(address: Ptr) -> [T; 2] {
    let mut pair = MaybeUninit::<[T; 2]>::zeroed();
    // SAFETY: as above.
    let failed =
        unsafe { bpf_probe_read_kernel(pair.as_mut_ptr().cast(), size_of::<[T; 2]>() as u32, address as *const _) };
    // SAFETY: zeroed above, and any bits are a number.
    unsafe { pair.assume_init() }.map(|number| number | T::spread(failed >> 63))
}

/// What [`pair_at`] reads.
pub trait Number: Copy + core::ops::BitOr<Output = Self> {
    fn spread(sign: i64) -> Self;
}

impl Number for u32 {
    #[inline(always)]
    fn spread(sign: i64) -> Self {
        sign as Self
    }
}

impl Number for u64 {
    #[inline(always)]
    fn spread(sign: i64) -> Self {
        sign as Self
    }
}

/// Three words that stand together; all ones where the kernel refuses.
#[inline(always)]
pub fn words_at(address: Ptr) -> [u64; 3] {
    let mut words = [0_u64; 3];
    // SAFETY: as above.
    let failed = unsafe { bpf_probe_read_kernel(words.as_mut_ptr().cast(), 24, address as *const _) };
    words.map(|word| word | (failed >> 63) as u64)
}

/// A part of a structure of which several fields are wanted: one read for all that stand in its words. Others are read by
/// themselves.
pub struct Part<const WORDS: usize> {
    base: Ptr,
    /// Where in the structure it begins.
    start: u32,
    words: [u64; WORDS],
    /// All ones where the kernel refused.
    failed: u64,
}

impl<const WORDS: usize> Part<WORDS> {
    /// From the start.
    #[inline(always)]
    pub fn of(base: Ptr) -> Self {
        Self::read(base, 0)
    }

    /// From that field's word on: each must be as aligned as it is in the kernel.
    #[inline(always)]
    pub fn from(base: Ptr, field: &Global<u32>) -> Self {
        Self::read(base, field.load() & !7)
    }

    #[inline(always)]
    fn read(base: Ptr, start: u32) -> Self {
        let mut words = [0; WORDS];
        let from = base.wrapping_add(u64::from(start));
        // SAFETY: the helper checks the address itself, and writes at most the size it is given.
        let failed = unsafe { bpf_probe_read_kernel(words.as_mut_ptr().cast(), WORDS as u32 * 8, from as *const _) };
        Self { base, start, words, failed: (failed >> 63) as u64 }
    }
}

macro_rules! fields_of_parts {
    ($($type:ident: $otherwise:ident;)*) => {
        impl<const WORDS: usize> Part<WORDS> {
            $(
                #[inline(always)]
                pub fn $type(&self, offset: &Global<u32>) -> $type {
                    let at = offset.load().wrapping_sub(self.start) as usize;
                    if at > WORDS * 8 - 8 {
                        return $otherwise(place(self.base, offset));
                    }
                    // SAFETY: within `words`, and aligned as the kernel aligns it; the verifier checks both.
                    self.failed as $type | unsafe { *self.words.as_ptr().byte_add(at).cast::<$type>() }
                }
            )*
        }
    };
}
fields_of_parts! {
    u64: u64_at;
    u32: u32_at;
    u16: u16_at;
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
