//! A FUSE file system with one file, `file`, whose server can be held: then nothing that is asked of it is answered.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::fd::AsRawFd,
    path::PathBuf,
    process::Command,
    sync::{Arc, Condvar, Mutex},
    thread,
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::unique;

const SIZE: u64 = 1 << 20;
const ROOT: u64 = 1;
const FILE: u64 = 2;
const ENOSYS: i32 = 38;
const ENOENT: i32 = 2;

// include/uapi/linux/fuse.h
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;
const HEADER: usize = 40;
const FUSE_ASYNC_READ: u32 = 1;

type Gate = Arc<(Mutex<bool>, Condvar)>;

/// Mounted until this is dropped.
pub struct Fuse {
    at: PathBuf,
    held: Gate,
}

impl Fuse {
    pub fn mounted() -> Self {
        let _ = Command::new("modprobe").arg("fuse").output(); // it may be built in
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").expect("/dev/fuse");
        let at = PathBuf::from(format!("/tmp/ctrace-test-{:x}", unique()));
        fs::create_dir_all(&at).expect("a mount point");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        mount(Some("ctrace-test"), &at, Some("fuse"), MsFlags::empty(), Some(&*options)).expect("a FUSE mount");
        let held: Gate = Arc::default();
        let gate = Arc::clone(&held);
        thread::spawn(move || serve(device, &gate));
        Self { at, held }
    }

    pub fn file(&self) -> String {
        self.at.join("file").to_string_lossy().into_owned()
    }

    pub fn directory(&self) -> String {
        self.at.to_string_lossy().into_owned()
    }

    /// From now on nothing is answered, until what is given back is dropped.
    #[must_use]
    pub fn hold(&self) -> Held {
        *self.held.0.lock().expect("nobody panics with it") = true;
        Held(Arc::clone(&self.held))
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.at);
    }
}

pub struct Held(Gate);

impl Drop for Held {
    fn drop(&mut self) {
        if let Ok(mut held) = self.0.0.lock() {
            *held = false;
        }
        self.0.1.notify_all();
    }
}

/// Until it is unmounted.
fn serve(mut device: File, gate: &Gate) {
    let mut request = vec![0; 1 << 18];
    while let Ok(bytes) = device.read(&mut request) {
        drop(gate.1.wait_while(gate.0.lock().expect("nobody panics with it"), |held| *held));
        let Some(header) = request.get(..HEADER).filter(|_| bytes >= HEADER) else { continue };
        let opcode = u32::from_ne_bytes(header[4..8].try_into().expect("four bytes"));
        let node = u64::from_ne_bytes(header[16..24].try_into().expect("eight bytes"));
        if matches!(opcode, FORGET | BATCH_FORGET | INTERRUPT) {
            continue;
        }
        let (error, body) = match answer(opcode, node, &request[HEADER..bytes]) {
            Ok(body) => (0, body),
            Err(errno) => (-errno, Vec::new()),
        };
        let mut reply = Vec::with_capacity(16 + body.len());
        reply.extend((16 + body.len() as u32).to_ne_bytes());
        reply.extend(error.to_ne_bytes());
        reply.extend(&header[8..16]);
        reply.extend(body);
        let _ = device.write(&reply); // whoever asked may have been killed
    }
}

fn answer(opcode: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
    let number = |at: usize| body.get(at..at + 8).map(|bytes| u64::from_ne_bytes(bytes.try_into().expect("eight")));
    match opcode {
        INIT => {
            // Version 7.31, 128 KiB of readahead, and reads that nobody waits for in FUSE itself.
            let words = [7, 31, 128 << 10, FUSE_ASYNC_READ, 0xc | 9 << 16, 64 << 10, 1];
            let words = words.into_iter().chain([0; 9]);
            Ok(words.flat_map(u32::to_ne_bytes).collect())
        }
        LOOKUP if node == ROOT && body.starts_with(b"file\0") => {
            let mut entry: Vec<u8> = [FILE, 0, 0, 0, 0].into_iter().flat_map(u64::to_ne_bytes).collect();
            entry.extend(attributes(FILE));
            Ok(entry)
        }
        LOOKUP => Err(ENOENT),
        GETATTR => Ok([0; 16].into_iter().chain(attributes(node)).collect()),
        OPEN => Ok(vec![0; 16]),
        READ => {
            let (offset, size) = (number(8).unwrap_or(0), number(16).unwrap_or(0) & 0xffff_ffff);
            Ok(vec![7; SIZE.saturating_sub(offset).min(size) as usize])
        }
        FLUSH | RELEASE => Ok(Vec::new()),
        _ => Err(ENOSYS),
    }
}

fn attributes(node: u64) -> Vec<u8> {
    let (mode, size) = if node == ROOT { (0o040_755, 0) } else { (0o100_644, SIZE) };
    let mut attributes: Vec<u8> = [node, size, size / 512, 0, 0, 0].into_iter().flat_map(u64::to_ne_bytes).collect();
    attributes.extend([0, 0, 0, mode, 1, 0, 0, 0, 4096, 0_u32].into_iter().flat_map(u32::to_ne_bytes));
    attributes
}
