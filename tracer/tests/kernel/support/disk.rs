//! Files whose pages are page cache: on the disk that this program is on, never in a tmpfs.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, Write},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::unique;

const MIB: usize = 1 << 20;

/// A path for a file of this test's own; gone with it.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        let own = std::env::current_exe().expect("the path of this program");
        let folder = own.parent().unwrap_or(Path::new("/"));
        Self(folder.join(format!("ctrace-test-{:x}", unique())))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file of zeros that takes no room on the disk.
    pub fn sparse(self, mib: u64) -> Self {
        File::create(&self.0).and_then(|file| file.set_len(mib << 20)).expect("a sparse file");
        self
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// `FILE=MIB`: written and synced, so that its pages are clean cache.
pub fn write_file(what: &str) {
    let (path, mib) = what.split_once('=').expect("FILE=MIB");
    let mut file = File::create(path).expect("a new file");
    for _ in 0..mib.parse::<usize>().expect("a number") {
        file.write_all(&vec![7; MIB]).expect("room on the disk");
        file.sync_all().expect("a disk");
    }
}

/// Reads a file for ever.
pub fn churn(path: &str) -> ! {
    let mut file = OpenOptions::new().read(true).open(path).expect("the file");
    let mut buffer = vec![0; MIB];
    // SAFETY: a plain system call with numbers alone. No readahead: each page is asked for.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
    loop {
        while file.read(&mut buffer).expect("a readable file") > 0 {}
        file.rewind().expect("a file");
    }
}

/// `FILE=MIB=PAUSE`: buffered, so many ms between two MiB.
pub fn burst(what: &str) {
    let mut words = what.split('=');
    let path = words.next().expect("FILE");
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).expect("MIB=PAUSE");
    let (mib, pause) = (number(), number());
    let mut file = File::create(path).expect("a new file");
    let block = vec![7; 64 * 1024];
    for _ in 0..mib {
        for _ in 0..16 {
            file.write_all(&block).expect("room on the disk");
        }
        std::thread::sleep(std::time::Duration::from_millis(pause));
    }
}

/// `FILE=COUNT=BYTES=PAUSE`: direct writes of so many bytes at the start of the file, so many ms apart.
pub fn direct(what: &str) {
    let mut words = what.split('=');
    let path = words.next().expect("FILE");
    let mut number = || words.next().and_then(|word| word.parse::<usize>().ok()).expect("COUNT=BYTES=PAUSE");
    let (count, bytes, pause) = (number(), number(), number() as u64);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .expect("O_DIRECT");
    let layout = std::alloc::Layout::from_size_align(bytes, 4096).expect("a size");
    // SAFETY: of that size, zeroed, and never freed.
    let block = unsafe { std::slice::from_raw_parts(std::alloc::alloc_zeroed(layout), bytes) };
    for _ in 0..count {
        file.rewind().expect("a file");
        file.write_all(block).expect("a direct write");
        std::thread::sleep(std::time::Duration::from_millis(pause));
    }
}

/// A page, through the page cache and onto the disk.
pub fn write_and_sync(path: &str) {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path).expect("a file");
    file.write_all(&[7; 4096]).and_then(|()| file.sync_all()).expect("room on the disk");
}

/// `FILE=MIB`: so many MiB through the page cache, then onto the disk. Writes how many ns the second part took.
pub fn timed_sync(what: &str) {
    let (path, mib) = what.split_once('=').expect("FILE=MIB");
    let mut file = File::create(path).expect("a new file");
    file.write_all(&vec![7; mib.parse::<usize>().expect("a number") * MIB]).expect("room on the disk");
    let begun = std::time::Instant::now();
    file.sync_all().expect("a disk");
    println!("waited {} 0", begun.elapsed().as_nanos());
}

/// `FILE=N`: the first page is written and synced again and again. Writes how many ns the longest took.
pub fn syncs(what: &str) {
    let (path, count) = what.split_once('=').expect("FILE=N");
    let took = |_| {
        let begun = std::time::Instant::now();
        write_and_sync(path);
        begun.elapsed().as_nanos()
    };
    let longest = (0..count.parse::<usize>().expect("a number")).map(took).max();
    println!("longest {} 0", longest.unwrap_or(0));
}

/// Each call that waits for a disk, as often as its place in the list says, and those that do not wait: they only begin to
/// write, or are refused.
pub fn sync_each_way(path: &str) {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).expect("a file");
    file.write_all(&[7; 4096]).expect("room on the disk");
    let number = file.as_raw_fd();
    // SAFETY: a mapping of its own, of a page that the file has, and calls about it and the file alone.
    unsafe {
        let (read_write, none) = (libc::PROT_READ | libc::PROT_WRITE, std::ptr::null_mut());
        let page = libc::mmap(none, 4096, read_write, libc::MAP_SHARED, number, 0);
        assert!(page != libc::MAP_FAILED, "no mapping");
        let calls: [&dyn Fn() -> i32; 6] = [
            // Of all disks: it may take its time, and the others come within a moment.
            &|| {
                libc::sync();
                0
            },
            &|| libc::fsync(number),
            &|| libc::fdatasync(number),
            &|| libc::syncfs(number),
            &|| libc::sync_file_range(number, 0, 4096, libc::SYNC_FILE_RANGE_WAIT_BEFORE),
            &|| libc::msync(page, 4096, libc::MS_SYNC),
        ];
        for (times, call) in (1..).zip(calls) {
            for _ in 0..times {
                page.cast::<u8>().write_volatile(times);
                assert_eq!(call(), 0, "call {times}");
            }
        }
        assert_eq!(libc::sync_file_range(number, 0, 4096, libc::SYNC_FILE_RANGE_WRITE), 0);
        assert_eq!(libc::msync(page, 4096, libc::MS_ASYNC), 0);
        assert_eq!(libc::fsync(-1), -1);
        let mut pipe = [0; 2];
        assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
        assert_eq!(libc::fsync(pipe[0]), -1, "a pipe is on no disk");
    }
}

/// A program of 32 bits (174 bytes: headers, code, text): nanosleep for 150 ms, `symlink("old", "new")`, then it says "done"
/// and waits. Its numbers of these calls, 162 and 83, are sync and mkdir among those of 64 bits.
const OF_32_BITS: &str = "\
    7f454c4601010100000000000000000002000300010000005480040834000000000000000000000034002000\
    010000000000000001000000000000000080040800800408ae000000ae0000000500000000100000b8a20000\
    00bb95800408b900000000cd80b853000000bb9d800408b9a1800408cd80b804000000bb01000000b9a58004\
    08ba09000000cd80b81d000000cd80ebf70000000080d1f0086f6c64006e657700646f6e65203120310a";

/// Runs it there.
pub fn be_of_32_bits(folder: &str) {
    let digits = |at: usize| u8::from_str_radix(&OF_32_BITS[at..at + 2], 16).expect("two digits");
    let program: Vec<u8> = (0..OF_32_BITS.len()).step_by(2).map(digits).collect();
    let path = Scratch::new();
    fs::write(path.path(), program).expect("a file");
    fs::set_permissions(path.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("a program");
    let error = std::os::unix::process::CommandExt::exec(Command::new(path.path()).current_dir(folder));
    panic!("a program of 32 bits: {error}");
}

/// The first page, through the page cache.
pub fn read_page(mut file: &File) {
    let _ = file.read(&mut [0; 4096]); // whoever serves it may go meanwhile
}

/// Writes a file until the file system says no.
pub fn fill(path: &str) {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path).expect("a file");
    while file.write_all(&[7; 4096]).is_ok() {}
}

/// Makes files in a directory until the file system says no.
pub fn fill_inodes(directory: &str) {
    for number in 0.. {
        if File::create(format!("{directory}/{number}")).is_err() {
            break;
        }
    }
}

/// The calls of one way to be refused, and the path that each names; each in a file system of its own, since one that is full
/// is told of once. No more than ctrace looks up in a second.
pub fn calls_refused(way: &str) -> &'static [&'static str] {
    match way {
        "data" => &["write", "pwrite64", "writev", "pwritev", "pwritev2", "fallocate"],
        "moved" => &["sendfile", "splice", "copy_file_range"],
        "files" => &["openat", "mkdirat", "mknodat", "open", "creat", "mkdir", "mknod"],
        "links" => &["symlink", "symlinkat", "link", "linkat"],
        _ => panic!("no such way: {way}"),
    }
}

/// `WAY=FOLDER`: each call of that way is refused, by a small file system below the folder that is named as the call.
pub fn refused_each_way(what: &str) {
    let (way, folder) = what.split_once('=').expect("WAY=FOLDER");
    let is_full = way == "data" || way == "moved";
    for call in calls_refused(way) {
        let at = format!("{folder}/{call}");
        fs::create_dir(&at).expect("a folder");
        // Its root and two files are all the inodes that the second one has.
        let size = if is_full { "size=64k,nr_inodes=9" } else { "size=64k,nr_inodes=3" };
        mount(Some("tmpfs"), &*at, Some("tmpfs"), MsFlags::empty(), Some(size)).expect("a tmpfs");
        let (file, source) = (format!("{at}/file"), format!("{at}/source"));
        fs::write(&source, [7; 4096]).expect("room");
        fs::write(&file, vec![7; if is_full { 60 << 10 } else { 4096 }]).expect("room");
        // Where programs of tracepoints are preempted (7.3) all refusals of a while may be skipped on that processor.
        for _ in 0..5 {
            let refused = refused_call(call, &at, &file, &source);
            let errno = std::io::Error::last_os_error();
            assert!(refused == -1 && errno.raw_os_error() == Some(libc::ENOSPC), "{call}: {refused}, {errno}");
            std::thread::sleep(std::time::Duration::from_millis(30));
        }
    }
}

/// What is open stays so: it is looked at a moment later.
fn refused_call(call: &str, at: &str, file: &str, source: &str) -> i64 {
    let path = |path: &str| std::ffi::CString::new(path).expect("no NUL").into_raw().cast_const();
    let open = |path: &str| {
        let file = OpenOptions::new().read(true).write(true).open(path).expect("a file");
        std::os::fd::IntoRawFd::into_raw_fd(file)
    };
    let directory = std::os::fd::IntoRawFd::into_raw_fd(File::open(at).expect("a directory"));
    let (new, relative, old) = (path(&format!("{at}/new")), path("new"), path(source));
    let page = [7_u8; 4096];
    let part = [libc::iovec { iov_base: page.as_ptr().cast_mut().cast(), iov_len: page.len() }];
    let (mut from, mut to) = (0_i64, 60_i64 << 10);
    let (to_end, whole, none) = (60_i64 << 10, page.len(), std::ptr::null_mut::<i64>());
    let mode = 0o600;
    // SAFETY: each call has what it wants: paths that end and live for ever, descriptors, a page that outlives it.
    unsafe {
        match call {
            "write" => {
                let file = open(file);
                libc::lseek(file, to_end, libc::SEEK_SET);
                libc::syscall(libc::SYS_write, file, page.as_ptr(), whole)
            }
            "pwrite64" => libc::syscall(libc::SYS_pwrite64, open(file), page.as_ptr(), whole, to_end),
            "writev" => {
                let file = open(file);
                libc::lseek(file, to_end, libc::SEEK_SET);
                libc::syscall(libc::SYS_writev, file, part.as_ptr(), 1)
            }
            "pwritev" => libc::syscall(libc::SYS_pwritev, open(file), part.as_ptr(), 1, to_end, 0),
            "pwritev2" => libc::syscall(libc::SYS_pwritev2, open(file), part.as_ptr(), 1, to_end, 0, 0),
            "fallocate" => libc::syscall(libc::SYS_fallocate, open(file), 0, to_end, 4096_i64),
            "sendfile" => {
                let file = open(file);
                libc::lseek(file, to_end, libc::SEEK_SET);
                libc::syscall(libc::SYS_sendfile, file, open(source), &raw mut from, whole)
            }
            "splice" => {
                let mut pipe = [0; 2];
                assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
                assert_eq!(libc::write(pipe[1], page.as_ptr().cast(), whole), 4096);
                libc::syscall(libc::SYS_splice, pipe[0], none, open(file), &raw mut to, whole, 0)
            }
            "copy_file_range" => {
                let (from, to) = (&raw mut from, &raw mut to);
                libc::syscall(libc::SYS_copy_file_range, open(source), from, open(file), to, whole, 0)
            }
            "openat" => libc::syscall(libc::SYS_openat, directory, relative, libc::O_CREAT | libc::O_WRONLY, mode),
            "mkdirat" => libc::syscall(libc::SYS_mkdirat, directory, relative, mode),
            "mknodat" => libc::syscall(libc::SYS_mknodat, directory, relative, libc::S_IFIFO | mode, 0),
            "open" => libc::syscall(libc::SYS_open, new, libc::O_CREAT | libc::O_WRONLY, mode),
            "creat" => libc::syscall(libc::SYS_creat, new, mode),
            "mkdir" => libc::syscall(libc::SYS_mkdir, new, mode),
            "mknod" => libc::syscall(libc::SYS_mknod, new, libc::S_IFIFO | mode, 0),
            "symlink" => libc::syscall(libc::SYS_symlink, old, new),
            "symlinkat" => libc::syscall(libc::SYS_symlinkat, old, directory, relative),
            "link" => libc::syscall(libc::SYS_link, old, new),
            "linkat" => libc::syscall(libc::SYS_linkat, libc::AT_FDCWD, old, directory, relative, 0),
            _ => panic!("no such call: {call}"),
        }
    }
}

/// `FILE=TIMES=PAUSE`: the last page of a full file system is written again and again, so many ms apart.
pub fn refused_often(what: &str) {
    let mut words = what.split('=');
    let path = words.next().expect("FILE");
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).expect("FILE=TIMES=PAUSE");
    let (times, pause) = (number(), number());
    let mut file = OpenOptions::new().append(true).create(true).open(path).expect("a file");
    for _ in 0..times {
        assert!(file.write(&[7; 4096]).is_err(), "there is room");
        std::thread::sleep(std::time::Duration::from_millis(pause));
    }
}

pub fn open_to_write(path: &str) {
    let _ = OpenOptions::new().write(true).open(path);
}

/// A file system of its own, on a loop device in memory or on the machine's slow disk.
pub struct Disk {
    device: String,
    at: PathBuf,
    backing: Option<PathBuf>,
}

impl Disk {
    /// ext4 on a loop device, whose file is in a tmpfs.
    pub fn fast(mib: u64) -> Self {
        Self::on_loop(mib, "^has_journal", "lazy_itable_init=1,nodiscard", "rw")
    }

    /// XFS with project quotas in force. It wants 300 MiB at the least; those that nobody writes take no memory.
    pub fn xfs(mib: u64) -> Self {
        let (device, backing) = loop_device(mib);
        run("mkfs.xfs", &["-q", "-f", "-K", &device]);
        Self::mount(device, Some(backing), "xfs", "prjquota")
    }

    fn on_loop(mib: u64, features: &str, more: &str, options: &str) -> Self {
        let (device, backing) = loop_device(mib);
        // Without a journal nothing else is written than what is asked for.
        Self::mounted(device, Some(backing), features, more, options)
    }

    /// The virtual machine's disk, which lets 4 MB a second through.
    pub fn slow() -> Option<Self> {
        let device = std::env::var("CTRACE_TEST_DISK").ok()?;
        Some(Self::mounted(device, None, "^has_journal", "lazy_itable_init=1,nodiscard", "rw"))
    }

    /// As `fast`, with project quotas in force.
    pub fn with_quotas(mib: u64) -> Self {
        let features = "^has_journal,quota,project";
        Self::on_loop(mib, features, "lazy_itable_init=1,nodiscard,quotatype=prjquota", "prjquota")
    }

    fn mounted(device: String, backing: Option<PathBuf>, features: &str, more: &str, options: &str) -> Self {
        run("mkfs.ext4", &["-q", "-F", "-O", features, "-E", more, &device]);
        Self::mount(device, backing, "ext4", options)
    }

    fn mount(device: String, backing: Option<PathBuf>, kind: &str, options: &str) -> Self {
        let at = PathBuf::from(format!("/tmp/ctrace-test-{:x}", unique()));
        fs::create_dir_all(&at).expect("a mount point");
        run("mount", &["-t", kind, "-o", options, &device, &at.to_string_lossy()]);
        Self { device, at, backing }
    }

    /// A directory whose content, and that of all below it, may have so many KiB.
    pub fn bounded(&self, name: &str, project: u32, kib: u64) -> String {
        let directory = self.file(name);
        fs::create_dir(&directory).expect("a directory");
        run("chattr", &["+P", "-p", &project.to_string(), &directory]);
        const PRJQUOTA: i32 = 2;
        const QIF_BLIMITS: u32 = 1;
        let device = std::ffi::CString::new(self.device.as_str()).expect("no NUL");
        // SAFETY: plain numbers, for which zeros are a value.
        let mut limits: libc::dqblk = unsafe { std::mem::zeroed() };
        (limits.dqb_bhardlimit, limits.dqb_bsoftlimit, limits.dqb_valid) = (kib, kib, QIF_BLIMITS);
        let command = libc::QCMD(libc::Q_SETQUOTA, PRJQUOTA);
        // SAFETY: the structure that the command wants, and a path that ends.
        let set = unsafe { libc::quotactl(command, device.as_ptr(), project as i32, (&raw mut limits).cast()) };
        assert_eq!(set, 0, "quotactl: {}", std::io::Error::last_os_error());
        directory
    }

    /// As `bounded`, in MiB, where XFS keeps the quota.
    pub fn bounded_xfs(&self, name: &str, project: u32, mib: u64) -> String {
        let (directory, mount) = (self.file(name), self.directory());
        fs::create_dir(&directory).expect("a directory");
        let quota =
            |command: &str| run("xfs_quota", &["-x", "-D", "/dev/null", "-P", "/dev/null", "-c", command, &mount]);
        quota(&format!("project -s -p {directory} {project}"));
        quota(&format!("limit -p bhard={mib}m {project}"));
        directory
    }

    pub fn file(&self, name: &str) -> String {
        self.at.join(name).to_string_lossy().into_owned()
    }

    pub fn directory(&self) -> String {
        self.at.to_string_lossy().into_owned()
    }

    /// `vda`.
    pub fn name(&self) -> &str {
        self.device.rsplit('/').next().unwrap_or_default()
    }

    /// Until it goes.
    pub fn keep_statistics(&self, keep: bool) {
        let knob = format!("/sys/block/{}/queue/iostats", self.name());
        fs::write(knob, if keep { "1" } else { "0" }).expect("a block device");
    }

    /// `8:0`.
    pub fn numbers(&self) -> String {
        let text = fs::read_to_string(format!("/sys/block/{}/dev", self.name())).expect("a block device");
        text.trim().to_owned()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The device may be another test's next.
        let _ = fs::write(format!("/sys/block/{}/queue/iostats", self.name()), "1");
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.at);
        if let Some(backing) = &self.backing {
            let _ = Command::new("losetup").args(["--detach", &self.device]).output();
            let _ = fs::remove_file(backing);
        }
    }
}

/// A loop device on a file, which it reads past the page cache.
pub struct Loop(String);

impl Loop {
    pub fn past_the_cache(file: &str) -> Self {
        let device = run("losetup", &["--find", "--show", "--direct-io=on", file]).trim().to_owned();
        let device = Self(device);
        let knob = format!("/sys/block/{}/loop/dio", device.name());
        assert_eq!(fs::read_to_string(knob).expect("a loop device").trim(), "1", "it goes through the page cache");
        device
    }

    pub fn device(&self) -> &str {
        &self.0
    }

    /// `loop1`.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).output();
    }
}

/// A loop device, and its file in a tmpfs.
fn loop_device(mib: u64) -> (String, PathBuf) {
    let backing = PathBuf::from(format!("/dev/shm/ctrace-test-{:x}", unique()));
    File::create(&backing).and_then(|file| file.set_len(mib << 20)).expect("room in /dev/shm");
    let _ = Command::new("modprobe").arg("loop").output(); // it may be built in
    let device = run("losetup", &["--find", "--show", "--direct-io=off", &backing.to_string_lossy()]);
    (device.trim().to_owned(), backing)
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
