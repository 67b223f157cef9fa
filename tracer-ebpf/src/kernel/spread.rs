//! Places in an array for what has an address: neither a bucket's lock nor an allocation.

use super::read::Ptr;

/// The place of an address, of as many as so many bits tell apart. What is allocated side by side stands at multiples of its
/// size: a multiplication spreads them.
#[inline(always)]
pub fn spread<const BITS: u32>(address: Ptr) -> u32 {
    (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BITS)) as u32
}
