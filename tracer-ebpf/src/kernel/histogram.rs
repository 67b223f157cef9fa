//! Which bucket of a histogram a time falls into.

/// Bucket 0 is below `first`, each further one doubles, and the last of `N` has no end. Always less than `N`; the verifier
/// may want to hear it again.
#[inline(always)]
pub fn bucket<const N: usize>(ns: u64, first: u64) -> usize {
    let mut bucket = 0;
    let mut bound = first;
    for _ in 0..N - 1 {
        bucket += usize::from(ns >= bound);
        bound *= 2;
    }
    bucket
}
