//! A new linker means new bytecode.
fn main() {
    if let Ok(linker) = which::which("bpf-linker") {
        println!("cargo:rerun-if-changed={}", linker.display());
    }
    // Else every memset, of 8 bytes as well, is a call of a loop that writes byte by byte.
    println!("cargo:rustc-link-arg=--disable-expand-memcpy-in-order");
}
