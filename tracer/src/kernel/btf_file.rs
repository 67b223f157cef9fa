//! The running kernel's BTF as bytes: mapped where the kernel lets one (since 6.16), read where it doesn't.
//!
//! It is 5 MB, and sysfs gives it out in pages of 4 KiB: mapping it spares a thousand calls, and the memory.

use std::{fs, fs::File, io, num::NonZeroUsize, ops::Deref, ptr::NonNull, slice};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

pub const PATH: &str = "/sys/kernel/btf/vmlinux";

pub enum BtfFile {
    Mapped { at: NonNull<std::ffi::c_void>, len: usize },
    Read(Vec<u8>),
}

impl BtfFile {
    pub fn of_this_kernel() -> io::Result<Self> {
        let file = File::open(PATH)?;
        let len = file.metadata()?.len() as usize;
        match map(&file, len) {
            Some(at) => Ok(Self::Mapped { at, len }),
            None => fs::read(PATH).map(Self::Read),
        }
    }
}

fn map(file: &File, len: usize) -> Option<NonNull<std::ffi::c_void>> {
    let size = NonZeroUsize::new(len)?;
    // SAFETY: a new mapping, which nothing else knows of.
    unsafe { mmap(None, size, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, file, 0) }.ok()
}

impl Deref for BtfFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            // SAFETY: `len` bytes are mapped there until this is dropped, and the kernel's own BTF never changes.
            Self::Mapped { at, len } => unsafe { slice::from_raw_parts(at.as_ptr().cast(), *len) },
            Self::Read(data) => data,
        }
    }
}

impl Drop for BtfFile {
    fn drop(&mut self) {
        if let Self::Mapped { at, len } = *self {
            // SAFETY: our own mapping, and no slice of it outlives this.
            let _ = unsafe { munmap(at, len) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_or_read_it_is_the_same() {
        let Ok(read) = fs::read(PATH) else { return };
        assert!(*BtfFile::of_this_kernel().unwrap() == *read);
    }
}
