//! The call by which the kernel side has an address taken for a pointer of a known type.
//!
//! aya calls no function of the kernel's own: what it loads is told here which one is meant.

use tracer_common::layout::CAST_CALL;

/// Of include/uapi/linux/bpf.h: `BPF_JMP | BPF_CALL`, and in place of its source register `BPF_PSEUDO_KFUNC_CALL`.
const CALL: u8 = 0x85;
const OF_THE_KERNELS: u8 = 2 << 4;

fn call(source: u8, what: u32) -> [u8; 8] {
    let [a, b, c, d] = what.to_le_bytes();
    [CALL, source, 0, 0, a, b, c, d]
}

/// The object, which calls the kernel's function of that id.
pub fn calls(object: &[u8], function: u32) -> Vec<u8> {
    let (placeholder, real) = (call(0, CAST_CALL), call(OF_THE_KERNELS, function));
    let mut object = object.to_vec();
    // Instructions are 8 bytes, and sections of them stand at multiples of that.
    for instruction in object.as_chunks_mut::<8>().0.iter_mut().filter(|instruction| **instruction == placeholder) {
        *instruction = real;
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_alone_is_another() {
        let other = call(0, 5);
        let object = [other, call(0, CAST_CALL), other].concat();
        let told = calls(&[&object[..], &[1, 2, 3]].concat(), 4711);
        assert_eq!(told, [&[other, [0x85, 0x20, 0, 0, 0x67, 0x12, 0, 0], other].concat()[..], &[1, 2, 3]].concat());
    }

    #[test]
    fn the_kernel_side_has_such_calls() {
        let object = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ctrace-ebpf"));
        assert_ne!(calls(object, 4711), object);
    }
}
